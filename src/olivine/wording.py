"""LLaVA's fixed wordings: what is appended to a question to say how to answer it.

They are used by training data (`world`) and benchmarks (`evaluation`).
"""

from collections.abc import Sequence

#: LLaVA-1.5's instruction for short answers (haotian-liu/LLaVA, docs/Evaluation.md).
SHORT_ANSWER = "\nAnswer the question using a single word or phrase."
#: LLaVA-1.5's instruction for multiple choice.
OPTION_LETTER = "\nAnswer with the option's letter from the given choices directly."


def with_options(question: str, options: Sequence[str]) -> str:
    """Return the question with one option per line, `A. red`, and the instruction to answer by letter."""
    lines = [f"{chr(ord('A') + position)}. {option}" for position, option in enumerate(options)]
    return "\n".join([question, *lines]) + OPTION_LETTER
