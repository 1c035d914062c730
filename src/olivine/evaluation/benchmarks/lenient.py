"""What a reply says, yes or no or a short text, in whatever words, for the variants named `lenient`.

Our own rules, which no tool uses: they are not official figures. Options are read in `lenient_option`.
"""

import re

from olivine.evaluation.benchmarks.lenient_option import last_statement
from olivine.evaluation.benchmarks.unwrapped import unwrapped
from olivine.evaluation.benchmarks.vqa_normaliser import normalise

#: The name of the variants.
LENIENT = "lenient"

_YES = re.compile(
    r"yes|yeah|yep|yup|yea|affirmative|true|correct|right|sure|certainly|definitely|absolutely|indeed"
    r"|oui|ja|jawohl|sí|si|sim|da|да|tak|ano|igen|evet|kyllä"
)
_NO = re.compile(r"no|nope|nah|false|incorrect|non|nein|nee|nej|não|nao|нет|nie|ne|hayır|ei")
#: Scripts that do not part words: how an answer begins.
_YES_START = ("是", "对", "對", "有", "正确", "はい", "예", "네", "हाँ", "نعم")
_NO_START = ("否", "不", "没", "沒", "错", "いいえ", "아니", "नहीं", "لا")
_UNDECIDED = re.compile(
    r"\b(?:not (?:possible to|sure|certain|clear|enough|visible enough)|no idea|unsure|uncertain|unclear|unknown|maybe"
    r"|perhaps|possibly|sorry|don't know|do not know|doesn't say|depends|hard to|difficult to|impossible to|unable to"
    r"|not able to|(?:can't|cannot|can not|couldn't|could not) (?:\w+ )?(?:tell|say|determine|answer|help|know|decide"
    r"|confirm|be determined|be sure|assist|see (?:the|any|an) (?:image|picture|photo)))\b"
)
_BOTH = re.compile(r"\byes\s*(?:and|or|/|,)\s*no\b|\bno\s*(?:and|or|/)\s*yes\b")
_DENIES = re.compile(r"\b(?:not|no|none|never|nothing|nobody|without|neither|nor)\b|n't\b")
#: Sentences that affirm without a yes: "There is a ball", "I can see one", "It does".
_AFFIRMS = re.compile(r"(?:there(?:'s| is| are| was| were)\b|i (?:can |do )?see\b)\s*(.*)")
_SHORT = re.compile(
    r"(?:it|there|he|she|they|this|that|i) (?:is|does|are|do|has|have|was|were|can|think so)\W*|of course\W*"
)
#: Words of "There is ..." that name nothing.
_SMALL = re.compile(r"a|an|the|one|some|any|there|is|are|was|were|in|on|at|of|it|this|that|here|image|picture|photo")
_WORDS = re.compile(r"[^\W\d_]+")


def yes_no(reply: str, question: str = "") -> str | None:
    """Return `yes` or `no` as a reply says, None where it does not decide.

    In this order: the last place where it states its answer ("The answer is yes"); the first word, in a dozen
    languages, unless yes and no are offered together; None where it says that it cannot tell; the only one of the two
    that occurs; a denial ("There isn't one"); a sentence that affirms ("It is.", "There is a ball." about a ball).

    Args:
        reply: the model's reply, as it is.
        question: what was asked; a "There is ..." must take up one of its words.
    """
    text = unwrapped(reply).casefold()
    text = text.replace("no doubt", "surely")
    if text.rstrip(".") in ("1", "0", "y", "n"):
        return "yes" if text[0] in "1y" else "no"
    if _BOTH.search(text):
        return None
    said = _at_start(last_statement(text) or "") or _at_start(text)
    if said:
        return said
    return None if _UNDECIDED.search(text) else _of_sentence(text, question.casefold())


def _at_start(text: str) -> str | None:
    """Return the yes or no that a text begins with, None if it begins otherwise, or cannot tell."""
    first, undecided = _WORDS.search(text), _UNDECIDED.search(text)
    if first is None or (undecided and undecided.start() <= first.start()):
        return None
    if _NO.fullmatch(first[0]) or first[0].startswith(_NO_START):
        return "no"
    if _YES.fullmatch(first[0]) or first[0].startswith(_YES_START):
        return "no" if re.match(r"\s+not\b", text[first.end() :]) else "yes"
    return None


def _of_sentence(text: str, question: str) -> str | None:
    words = set(_WORDS.findall(text))
    yes, no = bool(words & {"yes", "true", "correct"}), bool(words & {"no", "false", "incorrect"})
    if yes and no:
        return None
    if no or _DENIES.search(text):
        return "no"
    if yes or _SHORT.fullmatch(text):
        return "yes"
    affirms = _AFFIRMS.match(text)
    if affirms is None:
        return None
    named = {word for word in _WORDS.findall(affirms[1]) if not _SMALL.fullmatch(word)}
    return "yes" if not question or not named or named & set(_WORDS.findall(question)) else None


def short_text(reply: str, *, yes_or_no: bool = False, question: str = "") -> str:
    """Return the short answer in a reply, normalised as VQAv2's tool does; empty where there is none.

    Args:
        reply: the model's reply, as it is.
        yes_or_no: whether the question is to be answered by yes or no; then `yes_no` reads the reply.
        question: what was asked.
    """
    if yes_or_no:
        return yes_no(reply, question) or ""
    text = unwrapped(reply)
    stated = last_statement(text)
    return normalise(text if stated is None else stated).strip(" .:")
