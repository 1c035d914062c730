"""A rule in place of a judge: the share of the reference's elements that an answer contains. It needs no endpoint.

It is not MM-Vet's judge, and its scores are not comparable with a judge's: it matches words, not meaning.
"""

import re

from olivine.evaluation.judge import JudgeReply

#: Its name in scores.
RULE = "rule: elements found"


class RuleJudge:
    """Grades an answer by the share of the reference's elements that occur in it as whole words, ignoring case.

    Elements are separated by <AND>; one with alternatives separated by <OR> is found if any of them is. Extra text
    costs nothing, so the rule favours answers that list everything.
    """

    model = RULE

    def grade(self, reference: str, answer: str) -> tuple[JudgeReply, float]:
        """Return the number of elements found, as `found of all`, and their share, in [0, 1]."""
        elements = [element.split("<OR>") for element in reference.split("<AND>")]
        found = sum(any(_says(answer, alternative) for alternative in alternatives) for alternatives in elements)
        return JudgeReply(f"{found} of {len(elements)}", self.model), found / len(elements)

    def about(self) -> dict[str, str]:
        """Return what scores must state about the grader."""
        return {"judge": self.model}


def _says(answer: str, element: str) -> bool:
    words = r"\s+".join(re.escape(word) for word in element.split())
    return bool(words) and re.search(rf"(?<!\w){words}(?!\w)", answer, re.IGNORECASE) is not None
