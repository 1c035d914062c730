"""The VQA answer normaliser in its three published forms, and the leave-one-out soft score.

Which side of a comparison is normalised, and when, is each benchmark's own rule and is not here.
"""

import re
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from functools import lru_cache
from types import MappingProxyType

#: The 21 marks of the punctuation step. Apostrophe, colon, period and `*%&$#` are not among them.
MARKS = ';/[]"{}()=+\\_-><@`,?!'

_NUMBER_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_NUMBERS = {"none": "0"} | {word: str(number) for number, word in enumerate(_NUMBER_WORDS)}
_ARTICLES = frozenset({"a", "an", "the"})
_DIGIT_COMMA = re.compile(r"\d,\d")
_PERIOD = re.compile(r"\.(?!\d)")
#: Every official copy passes a flag worth 32 where the number of replacements goes.
_MOST_PERIODS = 32

#: Endings, and the words that take them when a key was typed without any apostrophe.
_ENDINGS = {
    "n't": "ai are ca could did does do had has have is might must need ought sha should was were wo would",
    "'ve": "could I might must not should they we what where who would you",
    "'d": "he how it someone something there they where who you",
    "'s": "he how somebody someone that there what when where who why",
    "'ll": "how it somebody someone something they what who why you",
    "'re": "there they what why you",
    "'m": "I",
}
_OTHERS = ("ma'am", "o'clock", "'twas", "y'all")
_WOULD_HAVE = "he I it she someone something somebody there they we who you"
_NOT_HAVE = "could had might should would"
_BY_HAND = {
    "let's": "let's",
    "she's": "she's",
    "somebody'd": "somebodyd",  # so in every official copy
    "ow's'at": "'ow's'at",
    "'ows'at": "'ow's'at",
    "'ow'sat": "'ow's'at",
    "yall'll": "y'all'll",
    "y'allll": "y'all'll",
    "yall'd've": "y'all'd've",
    "y'alld've": "y'all'd've",
    "y'all'dve": "y'all'd've",
}
#: Entries that VizWiz's copy of the table leaves with straight apostrophes, and those where only the key is straight.
_VIZWIZ_STRAIGHT = frozenset({"aint", "arent", "cant", "couldve", "couldnt", "weve", "wheres", "whove"})
_VIZWIZ_STRAIGHT_KEY = frozenset({"couldn'tve", "hadn'tve"})


def _contractions() -> dict[str, str]:
    whole = [stem + ending for ending, stems in _ENDINGS.items() for stem in stems.split()]
    table = {word.replace("'", ""): word for word in [*whole, *_OTHERS]}
    for word in _WOULD_HAVE.split():
        table |= dict.fromkeys((f"{word}d've", f"{word}'dve"), f"{word}'d've")
    for word in _NOT_HAVE.split():
        table |= dict.fromkeys((f"{word}nt've", f"{word}n'tve"), f"{word}n't've")
    return table | _BY_HAND


def _typographic(table: Mapping[str, str]) -> dict[str, str]:
    curled = {}
    for key, word in table.items():
        if key in _VIZWIZ_STRAIGHT:
            curled[key] = word
        else:
            curled[key if key in _VIZWIZ_STRAIGHT_KEY else key.replace("'", "’")] = word.replace("'", "’")
    return curled


#: The 120 entries of `GT-Vision-Lab/VQA`, mmf and LLaVA. Four keys hold a capital and so never match.
CONTRACTIONS: Mapping[str, str] = MappingProxyType(_contractions())
#: VizWiz's copy: 112 of the entries have typographic apostrophes in the key, the word, or both.
VIZWIZ_CONTRACTIONS: Mapping[str, str] = MappingProxyType(_typographic(CONTRACTIONS))


def flatten(text: str) -> str:
    """Line ends and tabs as spaces, outer white space off: what the official scorers do before anything else."""
    return text.replace("\n", " ").replace("\t", " ").strip()


@lru_cache(maxsize=1 << 16)
def strip_punctuation(text: str) -> str:
    """Apply the punctuation and period steps (`GT-Vision-Lab/VQA:PythonEvaluationTools/vqaEvaluation/vqaEval.py`).

    A mark that touches a space anywhere in `text` is deleted everywhere, and so is every mark if `text` holds a comma
    between digits; otherwise a mark becomes a space. Then the first 32 periods that no digit follows are deleted (the
    official pattern means to spare those after a digit too, but does not).
    """
    grouped = _DIGIT_COMMA.search(text) is not None
    plain = text
    for mark in MARKS:
        if mark in plain:
            joins = grouped or f"{mark} " in text or f" {mark}" in text
            plain = plain.replace(mark, "" if joins else " ")
    return _PERIOD.sub("", plain, count=_MOST_PERIODS)


@lru_cache(maxsize=1 << 16)
def normalise(text: str) -> str:
    """Apply the whole normaliser of VQAv2: `flatten`, `strip_punctuation`, then words.

    Words are lower-cased and split at white space; none, zero to ten become digits; articles are dropped; and words
    in `CONTRACTIONS` are replaced.
    """
    return _words(strip_punctuation(flatten(text)), CONTRACTIONS)


@lru_cache(maxsize=1 << 16)
def normalise_vizwiz(text: str) -> str:
    """VizWiz's copy of the normaliser: as `normalise`, but through `VIZWIZ_CONTRACTIONS`.

    The straight apostrophe that people type equals no typographic one, so `didnt` becomes a word nobody answered.
    """
    return _words(strip_punctuation(flatten(text)), VIZWIZ_CONTRACTIONS)


@lru_cache(maxsize=1 << 16)
def normalise_m4c(text: str) -> str:
    """mmf's and LLaVA's `EvalAIAnswerProcessor` (`facebookresearch/mmf:mmf/utils/m4c_evaluators.py`).

    Before `normalise`, the text is lower-cased, commas and question marks are deleted, and `'s` is set off by a space:
    "it's" becomes "it 's".
    """
    tokens = text.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    return normalise(tokens)


def soft_score(said: str, humans: Sequence[str], rows: Sequence[Hashable] | None = None) -> float:
    """How far the human answers agree with `said`, in [0, 1], averaged over leaving each of them out.

    For each human answer: a third for each of the *others* that equals `said`, at most 1. With ten answers of which
    none, one, two, three, more than three agree that is 0, .3, .6, .9, 1.

    Args:
        said: the prediction, normalised as the benchmark wants it.
        humans: the human answers, normalised as well; at least one.
        rows: what distinguishes the human answers, where omitting one omits its equals too (the VQA scorer
            compares answer, confidence and id); by default each is distinct.
    """
    matching = sum(human == said for human in humans)
    if not matching:
        return 0.0
    rows = range(len(humans)) if rows is None else rows
    alike = Counter(rows)
    # Which one is omitted only matters if it agrees.
    left_out = (alike[row] if human == said else 0 for row, human in zip(rows, humans, strict=True))
    shares = [min(1, (matching - out) / 3) for out in left_out]
    return sum(shares) / len(shares)


def rounded_percent(values: Sequence[float]) -> float:
    """Return a hundred times the mean to two decimals, as the VQA and VizWiz scorers print it; 0 for none."""
    return round(100 * sum(values) / len(values), 2) if values else 0.0


def _words(text: str, contractions: Mapping[str, str]) -> str:
    numbered = (_NUMBERS.get(word, word) for word in text.lower().split())
    return " ".join(contractions.get(word, word) for word in numbered if word not in _ARTICLES)
