"""The VQA normaliser, step by step on hand-worked cases, and the soft score against its definition."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from olivine.evaluation.benchmarks.vqa_normaliser import (
    CONTRACTIONS,
    MARKS,
    VIZWIZ_CONTRACTIONS,
    flatten,
    normalise,
    normalise_m4c,
    normalise_vizwiz,
    rounded_percent,
    soft_score,
    strip_punctuation,
)


def test_flatten_turns_line_ends_and_tabs_into_spaces_before_it_strips() -> None:
    assert flatten("\n red\tbus \n") == "red bus"


def test_there_are_21_marks_without_apostrophe_colon_and_signs() -> None:
    assert len(set(MARKS)) == 21
    kept = "'s:*%&$#"
    assert strip_punctuation(kept) == kept


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("black/white", "black white"),  # no space at the mark: the mark becomes one
        ("black/ white", "black white"),  # mark, space: deleted
        ("black /white", "black white"),  # space, mark: deleted
        ("a-b - c", "ab  c"),  # one adjacent space deletes the mark everywhere
        ("a-b, c", "a b c"),  # but only that mark
        ("1,000", "1000"),  # a comma between digits
        ("1,000-2", "10002"),  # deletes every mark
        ("1,,000", "1  000"),  # one comma only, here
        ("x,000", "x 000"),
        ("what?", "what "),
        ('"yes"', " yes "),
    ],
)
def test_a_mark_is_deleted_or_becomes_a_space(text: str, plain: str) -> None:
    assert strip_punctuation(text) == plain


def test_marks_are_searched_in_the_original_text() -> None:
    # The slash becomes a space, which the hyphen then touches; but in the original it touched none.
    assert strip_punctuation("a-/b") == "a  b"


@pytest.mark.parametrize(
    ("text", "plain"),
    [("5.", "5"), ("3.5", "3.5"), (".5", ".5"), ("u.s.a.", "usa"), ("5.a", "5a"), ("1.2.x", "1.2x")],
)
def test_a_period_is_removed_unless_a_digit_follows(text: str, plain: str) -> None:
    assert strip_punctuation(text) == plain


def test_at_most_32_periods_are_removed() -> None:
    assert strip_punctuation("a" + "." * 32) == "a"
    assert strip_punctuation("a" + "." * 33) == "a."
    assert strip_punctuation("a." * 40) == "a" * 32 + "a." * 8


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("The Red Bus", "red bus"),
        ("a", ""),
        ("none", "0"),
        ("Zero", "0"),
        ("ten", "10"),
        ("eleven", "eleven"),
        ("one and two", "1 and 2"),
        ("  an   apple ", "apple"),
        ("Dont", "don't"),
        ("ISNT", "isn't"),
        ("somebody'd", "somebodyd"),
        ("let's", "let's"),
        ("it's", "it's"),
        ("yes.", "yes"),
        ("two-thirds", "2 thirds"),
    ],
)
def test_words(text: str, plain: str) -> None:
    assert normalise(text) == plain


def test_the_contraction_table_has_the_120_published_entries() -> None:
    assert len(CONTRACTIONS) == 120
    assert sum("'" not in key for key in CONTRACTIONS) == 75
    assert CONTRACTIONS["twas"] == "'twas"
    assert CONTRACTIONS["oclock"] == "o'clock"
    assert CONTRACTIONS["shant"] == "shan't"
    assert CONTRACTIONS["therere"] == "there're"
    assert CONTRACTIONS["somebodyd've"] == CONTRACTIONS["somebody'dve"] == "somebody'd've"
    assert CONTRACTIONS["couldnt've"] == CONTRACTIONS["couldn'tve"] == "couldn't've"
    assert CONTRACTIONS["'ow'sat"] == "'ow's'at"
    assert CONTRACTIONS["y'alld've"] == "y'all'd've"
    assert "somebodyd" not in CONTRACTIONS
    assert "shed" not in CONTRACTIONS


def test_keys_with_a_capital_never_match() -> None:
    assert {key for key in CONTRACTIONS if key != key.lower()} == {"Im", "Ive", "Id've", "I'dve"}
    assert normalise("Im") == "im"


def test_vizwiz_has_typographic_apostrophes_in_112_entries() -> None:
    assert len(VIZWIZ_CONTRACTIONS) == 120
    assert sum("’" in key + word for key, word in VIZWIZ_CONTRACTIONS.items()) == 112
    assert VIZWIZ_CONTRACTIONS["somebody’d"] == "somebodyd"


def test_vizwiz_turns_didnt_into_a_typographic_form() -> None:
    assert normalise_vizwiz("didnt") == "didn’t"
    assert normalise_vizwiz("didn't") == "didn't"
    assert normalise_vizwiz("let's") == "let's"
    assert normalise_vizwiz("couldnt") == "couldn't"  # one of the eight with a straight apostrophe
    assert normalise_vizwiz("couldn'tve") == "couldn’t’ve"  # a straight key with a typographic word


def test_m4c_tokenises_first() -> None:
    assert normalise_m4c("It's") == "it 's"
    assert normalise("It's") == "it's"
    assert normalise_m4c("what?now") == "whatnow"
    assert normalise("what?now") == "what now"
    assert normalise_m4c("1,000-2") == "1000 2"  # the comma is gone before it could join the digits' marks
    assert normalise_m4c("Dont.") == "don't"


@pytest.mark.parametrize(("agreeing", "score"), [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)])
def test_soft_score_of_n_agreeing_humans(agreeing: int, score: float) -> None:
    humans = ["red"] * agreeing + ["blue"] * (10 - agreeing)
    assert soft_score("red", humans) == pytest.approx(score, abs=1e-15)


def test_equal_rows_are_excluded_together() -> None:
    # Nine others agree, but all ten rows are equal: none remains.
    assert soft_score("red", ["red"] * 10, [("red", "yes")] * 10) == 0.0
    assert soft_score("red", ["red"] * 10, [("red", number) for number in range(10)]) == 1.0


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=10), st.sampled_from("abcd"))
def test_soft_score_is_the_mean_over_leaving_one_out(humans: list[str], said: str) -> None:
    shares = []
    for left_out in range(len(humans)):
        others = [human for number, human in enumerate(humans) if number != left_out]
        shares.append(min(1, others.count(said) / 3))
    assert soft_score(said, humans) == sum(shares) / len(shares)


def test_rounded_percent() -> None:
    assert rounded_percent([1.0, 0.0, 0.0]) == 33.33
    assert rounded_percent([]) == 0.0
