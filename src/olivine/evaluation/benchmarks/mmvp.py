"""MMVP: pairs of images that CLIP takes for the same, one question, opposite answers; both must be right.

How a judge is asked is in `verdicts`. MMVP-VLM, a task for CLIP models, is not here.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import cast

from olivine.errors import DataError
from olivine.evaluation.benchmarks.counted import CountedBenchmark, Counts, Graded
from olivine.evaluation.benchmarks.declaration import CORRECT, Declaration, Metric
from olivine.evaluation.benchmarks.lenient import LENIENT
from olivine.evaluation.benchmarks.lenient_option import option
from olivine.evaluation.benchmarks.parsing import (
    agrees,
    answers_from,
    find_file,
    graded,
    named_option,
    read_rows,
    read_table,
    require_keys,
    rows_have,
    vlmevalkit_option,
)
from olivine.evaluation.benchmarks.verdicts import JUDGED, JudgedBenchmark
from olivine.records import Answer, Question, Score
from olivine.wording import with_options

#: The official grader's request in our own words.
JUDGE_PROMPT = """\
You check answers to multiple-choice questions about an image that you cannot see. You are given a question with its \
options, the correct option, and a response. Say whether the response chooses the correct option, by its letter or by \
its meaning. Reply with one word, yes or no, and nothing else."""

#: Rows whose published labels are swapped (tsb0601/MMVP#14, tsb0601/MMVP#30, EvolvingLMMs-Lab/lmms-eval#1018).
_SWAPPED = frozenset({"99", "100", "279", "280"})


class MMVP(JudgedBenchmark, CountedBenchmark):
    """MMVP (`tsb0601/MMVP:scripts/gpt_grader.py` for the pairs; the graders that need no judge are named below).

    Metrics, as fractions: `pair` (pairs with both right; the figure that papers mean) and `single`. A pair is two
    rows that follow each other; one cluster is a pair. A missing answer is wrong.

    Variants, the ways to tell whether an answer is right:

    - `letter`: our rule, the default because it needs no judge: the answer names the right letter or is its text.
    - `cambrian` (`cambrian-mllm/cambrian:eval/eval/mmvp/mmvp_test.py`): the text after the last "answer is" or
      "answer:", without trailing `.:,` and brackets, equals the letter or its text; case ignored.
    - `s-vco`: the first four characters without brackets and spaces equal the letter; case ignored.
    - `lmms-eval` (`lmms_eval/tasks/mmvp/utils.py`): the first A or B found at the start, after "answer is" or
      "option", or at the end of any word (so `Banana` names A), or else the first character; always
      with corrected labels.
    - `vlmevalkit`: exactly one letter, or else one option's text, occurs in the answer.
    - `lenient`, ours: the option that the answer chooses in whatever words, as `lenient_option` says.
    - `judge`: the official grader, and the default where a judge is named. A verdict of exactly yes (case ignored) is
      right, all else is wrong. The judge is asked at temperature 0.2 as there, in our own wording.

    `NAME-corrected` uses the labels with rows 99/100 and 279/280 swapped back.
    """

    name = "mmvp"
    declares = Declaration(
        title="MMVP",
        metrics=(
            Metric("pair", "pairs right", scale=100.0, reported=True),
            CORRECT,
            Metric("single", "questions right", scale=100.0, mean_of_items=True),
        ),
        cluster="pair of images",
        reply="choice",
        files=("Questions.csv, or its folder",),
        answers=("MMVP's own answer lines: `question_id`, `prompt`, `answer`, `response`",),
    )
    variants = (
        "letter",
        "letter-corrected",
        "cambrian",
        "cambrian-corrected",
        "s-vco",
        "s-vco-corrected",
        "lmms-eval",
        "vlmevalkit",
        "vlmevalkit-corrected",
        LENIENT,
        f"{LENIENT}-corrected",
        "judge",
    )
    prompts = ("llava-1.5", "letters")
    max_new_tokens = 1024
    judge_wording = JUDGE_PROMPT
    judge_temperature = 0.2

    def read(self, path: Path, prompt: str | None = None) -> list[Question]:
        """Read Questions.csv, or the folder that holds it (images are `MMVP Images/ROW.jpg`).

        `llava-1.5` is what MMVP's authors asked LLaVA-1.5: question, space, options. `letters` sets the options
        below each other as A. and B. and asks for the letter.
        """
        lettering = self.choose_prompt(prompt) == "letters"
        file = find_file(path, ("Questions.csv",), "MMVP questions")
        rows = read_table(file, ",")
        if len(rows) % 2:
            raise DataError(f"{file}: {len(rows)} rows; expected pairs. Is the file cut short?")
        return [_question(file, number, row, lettering) for number, row in enumerate(rows)]

    def read_answers(self, path: Path, questions: Sequence[Question]) -> list[Answer]:
        """Read MMVP's own answer lines (`question_id`, `prompt`, `answer` = gold, `response`), or LLaVA's."""
        rows = read_rows(path)
        if rows_have(rows, "response"):
            return answers_from(rows, "question_id", "response", str(path))
        return super().read_answers(path, questions)

    def score(self, questions: Sequence[Question], answers: Sequence[Answer], variant: str | None = None) -> Score:
        """Pair and single accuracy."""
        selected = self.choose_variant(variant)
        texts, missing = self.matched(questions, answers, selected)
        return self.graded_score(questions, texts, selected, missing)

    def grade(self, questions: Sequence[Question], texts: Mapping[str, str], variant: str) -> Graded:
        """Return whether each answer is right, by its option or by the judge; count each pair's right answers."""
        if variant == JUDGED:
            verdicts = self.verdicts(questions, texts)
            items = graded(questions, texts, lambda _, question: verdicts[question.id].lower() == "yes")
        else:
            grader = variant.removesuffix("-corrected")
            corrected = variant.endswith("-corrected") or grader == "lmms-eval"
            items = graded(questions, texts, lambda text, question: _right(question, text, grader, corrected))
        pairs: dict[str, list[float]] = {}
        for item in items:
            pairs.setdefault(item.cluster, []).append(item.correct)
        return Graded(items, [(cluster, (int(sum(pair)), len(pair))) for cluster, pair in pairs.items()])

    def metrics(self, counts: Counts, variant: str) -> dict[str, float]:  # noqa: ARG002
        """Return the accuracy over pairs and over single questions."""
        tallies = [(*cast("tuple[int, int]", key), pairs) for key, pairs in counts.items()]
        pairs, questions = sum(n for *_, n in tallies), sum(asked * n for _, asked, n in tallies)
        return {
            "pair": sum(n for right, asked, n in tallies if right == asked) / pairs if pairs else 0.0,
            "single": sum(right * n for right, _, n in tallies) / questions if questions else 0.0,
        }

    def judge_input(self, question: Question, text: str) -> str:
        """Return the official question and answer, regardless of the prompt, and the response."""
        asked, answer = question.details["question"], question.details["answer"]
        return f"Question: {asked}\nCorrect option: {answer}\nResponse: {text}\nIs the response right?"


def _right(question: Question, text: str, grader: str, corrected: bool) -> bool | None:
    options: Mapping[str, str] = question.details["options"]
    gold = question.references[0]
    if corrected and question.id in _SWAPPED:
        gold = next(letter for letter in options if letter != gold)
    return agrees(_GRADERS[grader](text, options), gold, options)


def _question(file: Path, number: int, row: Mapping[str, str], lettering: bool) -> Question:
    where = f"{file}: row {number + 1}"
    # One published copy of the file spells the first column so.
    row = {("Index" if name == "lndex" else name): cell for name, cell in row.items()}
    require_keys(row, ("Index", "Question", "Options", "Correct Answer"), where)
    options = _options(row["Options"])
    gold = row["Correct Answer"].strip().strip("()").upper()
    if len(options) < 2 or gold not in options:
        raise DataError(
            f"{where}: options {row['Options']!r}, answer {row['Correct Answer']!r}; expected (a) ... (b) ...."
        )
    text = row["Question"]
    return Question(
        id=row["Index"],
        prompt=with_options(text, list(options.values())) if lettering else f"{text} {row['Options']}",
        image=f"MMVP Images/{row['Index']}.jpg",
        cluster=f"pair-{number // 2 + 1}",
        references=(gold,),
        # What the judge sees: the official question and answer, regardless of the prompt.
        details={"options": options, "question": f"{text} {row['Options']}", "answer": row["Correct Answer"]},
    )


def _options(text: str) -> dict[str, str]:
    """Parse `(a) Open (b) Closed` as `{"A": "Open", "B": "Closed"}`."""
    parts = re.split(r"\(([a-z])\)", text)
    return {letter.upper(): option.strip() for letter, option in zip(parts[1::2], parts[2::2], strict=True)}


def _letter(text: str, options: Mapping[str, str]) -> str | None:
    return named_option(text, list(options.values()))


def _cambrian(text: str, options: Mapping[str, str]) -> str | None:
    text = text.lower().strip()
    for lead in ("answer is", "answer is:", "answer:"):
        text = text.split(lead)[-1]
    text = text.strip().rstrip(".:,").lstrip("(").rstrip(")")
    return next((letter for letter, option in options.items() if text in (letter.lower(), option.lower())), None)


def _s_vco(text: str, options: Mapping[str, str]) -> str | None:
    start = re.sub(r"[()\[\] ]", "", text[:4]).upper()
    return start if start in options else None


def _lmms_eval(text: str, options: Mapping[str, str]) -> str | None:
    names = "".join(options)
    text = text.strip()
    for before, after in (
        ("^", r"\.?$"),
        ("^", r"[.\s]"),
        (r"answer\s+is\s+", ""),
        (r"option\s+", ""),
        ("", r"(\s|$)"),
    ):
        found = re.search(rf"{before}\(?([{names}])\)?{after}", text, re.IGNORECASE)
        if found:
            return found[1].upper()
    return text[0].upper() if text and text[0].upper() in names else None


_GRADERS: dict[str, Callable[[str, Mapping[str, str]], str | None]] = {
    "letter": _letter,
    "cambrian": _cambrian,
    "s-vco": _s_vco,
    "lmms-eval": _lmms_eval,
    "vlmevalkit": vlmevalkit_option,
    LENIENT: option,
}
