"""What replies say in many wordings: the variants named `lenient`, and what official rules cannot read."""

import pytest
from benchmark_files import scored

from olivine.evaluation import benchmarks
from olivine.evaluation.benchmarks.lenient import LENIENT, short_text, yes_no
from olivine.evaluation.benchmarks.lenient_option import option
from olivine.evaluation.benchmarks.unwrapped import unwrapped
from olivine.files import write_json, write_json_lines
from olivine.records import ItemState

CHOICES = {"A": "a blue cube", "B": "a red ball", "C": "a green cone", "D": "a white pyramid"}
#: A plain letter, a statement, markup, thinking, closing tokens, other languages: all of them choose B.
OPTION_B = (
    *("B", "(B)", "B.", "b", "B)", "[B]", "'B'", "B!", "Ｂ", "（B）", "B。", "Option B", "Choice: B", "b."),
    *("Answer: B", "answer: b", "The answer is B", "The answer is (B)", "The answer is option (B).", "My answer is B"),
    *("The correct option is B.", "The answer is B because it is red.", "The best option is B", "B is right."),
    *("I would choose (B).", "I think it's B.", "The ball is red, hence B", "Based on the image. Therefore, B."),
    *("B: a red ball", "B) a red ball", "B. a red ball", "B - a red ball", "It's (B) a red ball", "assistant: B"),
    *("a red ball", "A red ball.", "It is a red ball.", "The answer is a red ball.", "Answer: a red ball"),
    *("**B**", "**Answer:** B", "Answer: **B**", "The correct answer is: **B. a red ball**", "### Answer\nB", "`B`"),
    *(r"\boxed{B}", r"$\boxed{B}$", r"So \(\boxed{\text{B}}\)", "<answer>B</answer>", "<answer> (B) </answer>"),
    *("<think>It may be A.</think>B", "Option A is wrong.\n</think>\n\nB", "<think>\nA?\n</think>\n\nThe answer is B."),
    *("B<end_of_turn>", "B</s>", "B<eos>", "B<|im_end|>\n<|im_start|>user\nA", "B\n\nThe ball is red."),
    *(
        "正确答案是B",
        "答案：B",
        "答案是 B。",
        "Antwort: B",
        "Réponse : B",
        "La respuesta es B.",
        "答え：B",
        "정답은 B입니다",
    ),
    *("The answer is not A. The answer is B.", "Answer: A? No, on reflection, Answer: B", "Answer: A ... ANSWER: B"),
    *("The answer is B, not A.", "Looking at it, B is correct because A is blue.", "B.\nExplanation: A is blue."),
)
#: Nothing that decides: two options, a denial, an article, thinking without an end.
NO_OPTION = (
    *("", "I cannot answer that.", "Both A and B", "B or C", "The answer is A or B.", "It could be A or B.", "Not B"),
    *("A man is holding it", "I", "E", "None of the above", "Not A, but B", "The object is not a red ball."),
    *("<think>It must be B", "a red ball and a blue cube", "Option B is wrong."),
)


@pytest.mark.parametrize("reply", OPTION_B)
def test_the_option_is_read_in_many_wordings(reply):
    assert option(reply, CHOICES) == "B"
    assert option(reply, dict(list(CHOICES.items())[:2])) == "B"


@pytest.mark.parametrize("reply", NO_OPTION)
def test_a_reply_that_chooses_no_option_or_several_is_unread(reply):
    assert option(reply, CHOICES) is None


@pytest.mark.parametrize(
    ("reply", "letter"), [("A", "A"), ("a", "A"), ("C: A book", "C"), ("Answer: B? No. Answer: A", "A"), ("D.", "D")]
)
def test_another_option_is_not_taken_for_b(reply, letter):
    assert option(reply, CHOICES) == letter


def test_the_longer_of_two_nested_options_is_meant():
    assert option("I see a red ball.", {"A": "ball", "B": "red ball"}) == "B"


YES = (
    *(
        "Yes",
        "yes.",
        "YES",
        "Yes, there is a ball.",
        "The answer is yes.",
        "Answer: Yes",
        "**Yes**",
        "**Yes**, there is.",
    ),
    *("yes</s>", "Yes<end_of_turn>", "<think>I see no cat.</think>Yes.", "Yeah, there is.", "Correct.", "True", "Sure"),
    *("Oui", "Ja", "是", "はい", "Sí", "有", "答案是：是", "1", "Y", "It is.", "I can see a ball.", "There is a ball."),
    *("The statement is true.", "That's correct.", "No doubt about it, yes", "Of course", r"\boxed{Yes}", "I think so"),
)
NO = (
    *(
        "No",
        "no.",
        "NO",
        "No, there isn't.",
        "The answer is no.",
        "Answer: **No**",
        "no</s>",
        "Nope.",
        "False",
        "0",
        "N",
    ),
    *("There isn't a ball.", "There is no ball.", "I don't see one.", "No\n\nYes, I am sure.", "Actually, no", "None"),
    *("Non", "Nein", "否", "いいえ", "不是", "没有", "<answer>no</answer>", "<think>Yes, round.</think>\n\nNo"),
    *("Definitely not", "Of course not", "Not at all", "That is not true.", "The image does not contain a ball."),
)
NEITHER = (
    *(
        "",
        "maybe",
        "Not sure.",
        "I cannot tell.",
        "Unknown",
        "Sorry, I can't help with that.",
        "Yes and no",
        "yes or no",
    ),
    *(
        "It is not possible to tell.",
        "It is blue.",
        "There is a cat.",
        "N/A",
        "The ball is on the right.",
        "<think>Yes",
    ),
)


@pytest.mark.parametrize(
    ("reply", "said"), [*((t, "yes") for t in YES), *((t, "no") for t in NO), *((t, None) for t in NEITHER)]
)
def test_yes_and_no_are_read_in_sentences(reply, said):
    assert yes_no(reply, "Is there a ball in the image?") == said


@pytest.mark.parametrize(
    ("reply", "final"),
    [
        ("<thinking>a</thinking> b", "b"),
        ("<think>a</think> b <think>c</think> d", "d"),
        ("a <think>b", "a"),
        (r"x \boxed{\frac{1}{2}} y", r"\frac{1}{2}"),
        ("<answer>a</answer> so <answer>**b**</answer>", "b"),
        ("<|im_start|>assistant\nred<|im_end|>", "red"),
        ("a snake_case and 2 * 3 stay", "a snake_case and 2 * 3 stay"),
        ("- red", "red"),
        ("-5", "-5"),
    ],
)
def test_what_surrounds_an_answer_is_taken_off(reply, final):
    assert unwrapped(reply) == final


@pytest.mark.parametrize(
    ("reply", "text"), [("The answer is two.", "2"), ("**Red**", "red"), ("<think>x</think>A red bus", "red bus")]
)
def test_a_short_text_is_what_the_reply_states(reply, text):
    assert short_text(reply) == text


def questions_of(name, folder, references):
    """Return a yes/no benchmark and its questions, one for each reference."""
    if name == "pope":
        rows = [
            {"question_id": n, "image": f"{n}.jpg", "text": "Is there a ball in the image?", "label": gold}
            for n, gold in enumerate(references, start=1)
        ]
        data = folder / "coco_pope_random.json"
        write_json_lines(data, rows)
    else:
        rows = [
            {"question_id": n, "image": f"{n}.jpg", "text": "Is there a ball in the image?", "answer": gold}
            for n, gold in enumerate(references, start=1)
        ]
        data = folder / "questions.jsonl"
        write_json_lines(data, rows)
    benchmark = benchmarks.get(name)
    return benchmark, benchmark.read(data)


def test_exact_match_and_pope_read_the_same_yes_and_no(tmp_path):
    replies, references = [*YES, *NO, *NEITHER], ["yes"] * len(YES) + ["no"] * len(NO) + ["yes"] * len(NEITHER)
    states = []
    for name in ("pope", "exact-match"):
        benchmark, questions = questions_of(name, tmp_path, references)
        score = scored(benchmark, questions, replies, LENIENT)
        assert sum(item.correct for item in score.items) == len(YES) + len(NO)
        states.append([item.state for item in score.items])
    assert states[0] == states[1]
    assert states[0].count(ItemState.UNREAD) == len(NEITHER)


def test_official_rules_count_what_they_cannot_read(tmp_path):
    replies = ["Yes", "no", "maybe", "Yes, there is.", "Not sure."]
    benchmark, questions = questions_of("pope", tmp_path, ["yes", "no", "yes", "yes", "no"])
    score = scored(benchmark, questions, replies)
    assert [item.correct for item in score.items] == [1, 1, 1, 1, 0], "the official rule: a yes is what is no no"
    assert score.unread == (questions[2].id, questions[4].id)
    assert scored(benchmark, questions, replies, "lmms-eval").unread == tuple(q.id for q in questions[2:])
    assert score.summary()["unread"] == list(score.unread)
    benchmark, questions = questions_of("exact-match", tmp_path, ["yes", "no", "yes", "yes", "no"])
    assert scored(benchmark, questions, replies).unread == ("3", "4", "5")


def test_a_guess_of_mmmu_counts_as_unread(tmp_path):
    row = {"question": "?", "options": "['red', 'blue']", "answer": "A", "question_type": "multiple-choice"}
    write_json(tmp_path / "q.json", [{**row, "id": f"validation_Art_{n}"} for n in range(1, 4)])
    benchmark = benchmarks.get("mmmu")
    questions = benchmark.read(tmp_path / "q.json")
    score = scored(benchmark, questions, ["(A)", "who knows", "\\boxed{A}"])
    assert score.unread == (questions[1].id, questions[2].id)
    lenient = scored(benchmark, questions, ["(A)", "who knows", "\\boxed{A}"], LENIENT)
    assert lenient.unread == (questions[1].id,)
    assert [item.correct for item in lenient.items] == [1, 0, 1]


def test_mmstar_reads_the_options_that_its_question_lists(tmp_path):
    text = "What is shown?\nOptions: A: a blue cube, B: a red ball, C: a green cone, D: a white pyramid"
    rows = [{"index": n, "question": text, "answer": "B", "category": "c", "l2_category": "l"} for n in range(3)]
    write_json_lines(tmp_path / "q.jsonl", rows)
    benchmark = benchmarks.get("mmstar")
    questions = benchmark.read(tmp_path / "q.jsonl")
    replies = ["It is a red ball.", "<think>A?</think>**B**", "Both"]
    assert scored(benchmark, questions, replies, LENIENT).metrics["accuracy"] == pytest.approx(2 / 3)
    official = scored(benchmark, questions, replies)
    assert (official.metrics["accuracy"], len(official.unread)) == (pytest.approx(1 / 3), 2)


@pytest.mark.parametrize("name", [name for name in benchmarks.names() if LENIENT in benchmarks.find(name).variants])
def test_lenient_is_never_the_default_and_says_whose_it_is(name):
    benchmark = benchmarks.find(name)
    assert benchmark.variants[0] != LENIENT
    about = " ".join((benchmark.__doc__ or "").split())
    assert "`lenient`, ours" in about or name == "exact-match"
