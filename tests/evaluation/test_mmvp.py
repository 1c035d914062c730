"""MMVP: the graders, pairs, and the rows whose labels are known to be swapped."""

from pathlib import Path

import pytest
from benchmark_files import corrects, llava_lines, scored

from olivine.errors import DataError, RequestError
from olivine.evaluation.benchmarks.mmvp import MMVP
from olivine.files import write_json_lines
from olivine.records import Answer, Question

HEADER = "Index,Question,Options,Correct Answer"


def questions_csv(folder: Path, *rows: str, header: str = HEADER) -> Path:
    path = folder / "Questions.csv"
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def wings(folder: Path, first: int = 1) -> list[Question]:
    rows = (f'{first + n},"Are the wings open, or closed?",(a) Open (b) Closed,({gold})' for n, gold in enumerate("ab"))
    return MMVP().read(questions_csv(folder, *rows))


def test_a_row_is_read_with_its_pair_and_image(tmp_path: Path) -> None:
    first, second = wings(tmp_path)
    assert first.prompt == "Are the wings open, or closed? (a) Open (b) Closed"
    assert (first.id, first.image, first.references) == ("1", "MMVP Images/1.jpg", ("A",))
    assert first.cluster == second.cluster
    assert second.references == ("B",)
    assert (second.details["question"], second.details["answer"]) == (second.prompt, "(b)")
    lettered = MMVP().read(tmp_path, "letters")[0].prompt
    assert lettered.startswith("Are the wings open, or closed?\nA. Open\nB. Closed\nAnswer with the option's letter")


def test_the_older_spelling_of_the_header_is_read(tmp_path: Path) -> None:
    row = "1,Q?,(a) Left (b) Right,(b)"
    (question, _) = MMVP().read(questions_csv(tmp_path, row, row, header="lndex,Question,Options,Correct Answer"))
    assert question.id == "1"


RULES = {
    # answer: (letter, cambrian, s-vco, lmms-eval, vlmevalkit)
    "(a)": "AAAA-",  # VLMEvalKit knows capital letters only
    "A": "AAAAA",
    "b": "BBBB-",
    "B.": "BB-BB",
    "(a) Open": "A-AAA",
    "A. Open": "A--AA",
    "Open": "AA--A",
    "Open.": "AA--A",
    "The answer is (b).": "BB-B-",
    "the answer is: b": "B--B-",  # Cambrian cuts at "answer is" first and keeps the colon
    "They are closed": "----B",
    "The wings are closed.": "-----",  # longer than twice both options together
    "Neither": "-----",
    "": "-----",
    "A butterfly": "---AA",
    "A butterfly sits on a leaf": "---A-",  # VLMEvalKit looks for the letter among the last four words
    "Both open and closed": "---B-",  # lmms-eval falls back on the first character
}


@pytest.mark.parametrize("text", RULES)
@pytest.mark.parametrize(
    ("position", "variant"), list(enumerate(("letter", "cambrian", "s-vco", "lmms-eval", "vlmevalkit")))
)
def test_each_grader_names_the_option_it_should(tmp_path: Path, text: str, position: int, variant: str) -> None:
    named = RULES[text][position]
    assert corrects(scored(MMVP(), wings(tmp_path), [text, text], variant)) == [named == "A", named == "B"]


def test_a_pair_is_right_if_both_answers_are(tmp_path: Path) -> None:
    rows = [f"{n},Q?,(a) Left (b) Right,({'ab'[n % 2]})" for n in range(6)]
    questions = MMVP().read(questions_csv(tmp_path, *rows))
    metrics = scored(MMVP(), questions, ["a", "b", "a", "a", "b", "a"]).metrics
    assert metrics == {"pair": pytest.approx(1 / 3), "single": 0.5}


@pytest.mark.parametrize("first", [99, 279])
@pytest.mark.parametrize("variant", ["letter", "cambrian", "s-vco", "vlmevalkit"])
def test_swapped_labels_are_corrected_by_name(tmp_path: Path, first: int, variant: str) -> None:
    questions = wings(tmp_path, first)
    assert corrects(scored(MMVP(), questions, ["(A)", "(B)"], variant)) == [1, 1]
    assert corrects(scored(MMVP(), questions, ["(A)", "(B)"], f"{variant}-corrected")) == [0, 0]
    assert corrects(scored(MMVP(), questions, ["(A)", "(B)"], "lmms-eval")) == [0, 0]


def test_other_labels_stay(tmp_path: Path) -> None:
    assert corrects(scored(MMVP(), wings(tmp_path, 101), ["(A)", "(B)"], "letter-corrected")) == [1, 1]


def test_verdicts_are_read_as_the_official_grader_reads_its_judge(tmp_path: Path) -> None:
    questions = wings(tmp_path)
    score = scored(MMVP(verdicts={"1": "YES", "2": "yes."}), questions, ["anything", "else"], "judge")
    assert corrects(score) == [1, 0]  # only the bare word will do
    with pytest.raises(RequestError, match="no judge's verdict on question '1'"):
        scored(MMVP(), questions, ["a", "b"], "judge")


def test_mmvps_own_answer_lines_and_llavas_are_read(tmp_path: Path) -> None:
    questions = wings(tmp_path)
    path = tmp_path / "answers.jsonl"
    write_json_lines(path, [{"question_id": n, "prompt": "Q?", "answer": "(a)", "response": "(a)"} for n in (1, 2)])
    expected = [Answer("1", "(a)"), Answer("2", "(a)")]
    assert MMVP().read_answers(path, questions) == expected
    assert MMVP().read_answers(llava_lines(path, {"1": "(a)", "2": "(a)"}), questions) == expected


def test_a_missing_answer_is_wrong_and_named(tmp_path: Path) -> None:
    score = MMVP().score(wings(tmp_path), [Answer("1", "a")])
    assert score.metrics == {"pair": 0, "single": 0.5}
    assert score.missing == ("2",)


def test_broken_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="1 rows; expected pairs"):
        MMVP().read(questions_csv(tmp_path, "1,Q?,(a) Left (b) Right,(a)"))
    with pytest.raises(DataError, match=r"row 2: options 'Left or right'"):
        MMVP().read(questions_csv(tmp_path, "1,Q?,(a) Left (b) Right,(a)", "2,Q?,Left or right,(a)"))
    with pytest.raises(DataError, match="row 1 lacks Options"):
        MMVP().read(questions_csv(tmp_path, "1,Q?,x", "2,Q?,x", header="Index,Question,Correct Answer"))
    with pytest.raises(DataError, match=r"Expected Questions\.csv"):
        MMVP().read(tmp_path / "..")
