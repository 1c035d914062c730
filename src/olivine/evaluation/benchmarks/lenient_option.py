"""Which option a reply chooses, in whatever words, for the variants named `lenient`.

Our own rule, which no tool uses. `unwrapped` takes off what surrounds an answer; yes and no are read in `lenient`.
"""

import re
from collections.abc import Mapping

from olivine.evaluation.benchmarks.unwrapped import unwrapped

#: "The answer", in the languages of common models.
_LEAD = (
    r"(?:\b(?:answer|choice|option|selection|antwort|réponse|reponse|respuesta|resposta|risposta|antwoord|svar)\b"
    r"|ответ|答案|答え|選択肢|选项|选择|정답|답)"
)
#: "is" and the like, behind it.
_JOIN = (
    r"(?:\s*(?:\b(?:is|would be|should be|must be|ist|est|es|é|è|was|number|letter)\b"
    r"|是|为|為|は|은|는|应该|[:=]|->|→))"
)
#: How a reply states its answer, before what it states.
_STATEMENT = rf"{_LEAD}{_JOIN}*\s*"
_CHOICE_WORD = r"(?:(?:the\s+)?(?:option|choice|letter|answer|alternative)\s*:?\s*)?"
_LETTER = r"[(\[\"']?\s*([A-Za-z])\s*[)\]\"']?(?![A-Za-z0-9_'])"
_STATED = re.compile(rf"{_STATEMENT}{_CHOICE_WORD}{_LETTER}", re.IGNORECASE)
_CHOSEN = re.compile(
    r"\b(?:i(?:'d| would| will|'ll)?\s+(?:choose|pick|select|go with|say)|it(?:'s| is| must be)|so|therefore|thus"
    rf"|hence),?\s*:?\s*{_CHOICE_WORD}{_LETTER}\s*(?:[.,;!:)]|$)",
    re.IGNORECASE | re.MULTILINE,
)
_IS_RIGHT = re.compile(
    r"(?:\b(?:option|choice|answer)\s+)?[(\[]?\b([A-Z])\b[)\]]?\s+(?:is|seems|looks|would be|must be)\s+(?:the\s+)?"
    r"(?:only\s+)?(?:correct|right|best|true|most likely)\b"
)
_SAYS = re.compile(rf"{_LEAD}{_JOIN}+\s*(?=\S)", re.IGNORECASE)
_WHOLE = re.compile(rf"\W*{_CHOICE_WORD}{_LETTER}\W*", re.IGNORECASE)
#: A letter at the start, with a mark after it or nothing else on its line.
_LEADING = re.compile(r"\W*([A-Za-z])\s*(?:[)\]}.:,;]|\s-|$)", re.MULTILINE)
_AND = r"(?:or|and|and/or|oder|und|ou|et|o|y|e|/|&|,|或|和)"
_ANOTHER_AFTER = re.compile(rf"[\s)\].,;]*{_AND}\s*[(\[]?([A-Z])(?![\w'])", re.IGNORECASE)
_ANOTHER_BEFORE = re.compile(rf"\b[A-Z][)\]]?\s*{_AND}\s*[(\[]?$")
#: A capital letter alone, or one in brackets; an A or I before a small letter is a word, unless it is "A and B".
_MENTION = re.compile(r"[(\[]([A-Za-z])[)\]]|(?<![\w'])([A-Z])(?![\w'])")
_WORD = re.compile(r"\s+(?!(?:and|or)\b)[a-z]")
_NEGATED = re.compile(r"\b(?:not|isn't|never|neither|nor|wrong|incorrect|cannot|can't|except)\b|n't\b", re.IGNORECASE)
_DENIED_AFTER = re.compile(
    r"[)\]\"']?\s*(?:\?|(?:is|was|seems|looks|are|,)?\s*(?:also\s+|clearly\s+)?(?:not(?!\s+[(\[]?[A-Za-z]\b)|wrong|incorrect|false)\b|isn't)"
)


def option(reply: str, choices: Mapping[str, str]) -> str | None:
    """Return the letter of the option that a reply chooses, None where it chooses none, or several.

    In this order: the whole answer is a letter or an option's text; the last place where it states its answer ("The
    answer is (B)", "Antwort: B", "B is correct"); a letter at the start, with a mark after it or alone on its line; the
    only letter, or else the only option's text, that occurs, unless it is denied.

    Args:
        reply: the model's reply, as it is.
        choices: the options' texts by letter; a text may be empty where it is not known.
    """
    text = unwrapped(reply)
    whole = _WHOLE.fullmatch(text)
    if whole:
        return _known(whole[1], choices)
    named = _named(text, choices)
    if named is not None:
        return named
    stated = _stated(text, choices)
    if stated is not None:
        return stated or None
    leading = _LEADING.match(text)
    if leading and _known(leading[1], choices):
        return None if _ANOTHER_AFTER.match(text[leading.end(1) :]) else leading[1].upper()
    return _only_mention(text, choices)


def last_statement(text: str) -> str | None:
    """Return what an unwrapped reply states as its answer, the last time that it does; None if it does not."""
    found = list(_SAYS.finditer(text))
    return text[found[-1].end() :].partition("\n")[0] if found else None


def _stated(text: str, choices: Mapping[str, str]) -> str | None:
    """Return the option of the last statement; empty if that names two; None if there is no statement."""
    found = [match for pattern in (_STATED, _CHOSEN, _IS_RIGHT) for match in pattern.finditer(text)]
    found = [m for m in found if _known(m[1], choices) and not _is_word(m, text) and not _is_denied(m, text)]
    if found:
        last = max(found, key=lambda match: match.start(1))
        joined = _ANOTHER_AFTER.match(text[last.end(1) :]) or _ANOTHER_BEFORE.search(text[: last.start(1)])
        return "" if joined else last[1].upper()
    says = last_statement(text)
    return None if says is None or _NEGATED.search(says) else _named(says, choices)


def _is_word(match: re.Match[str], text: str) -> bool:
    """Return whether the letter begins a phrase: "the answer is a red ball"."""
    return match[1] in ("a", "A", "I", "i") and _WORD.match(text[match.end(1) :]) is not None


def _is_denied(match: re.Match[str], text: str) -> bool:
    before = re.split(r"[.!?\n;:]", text[: match.start(1)])[-1]
    return _NEGATED.search(before) is not None or _DENIED_AFTER.match(text[match.end(1) :]) is not None


def _only_mention(text: str, choices: Mapping[str, str]) -> str | None:
    letters = set()
    for mention in _MENTION.finditer(text):
        bare = mention[2]
        if bare is None or not (bare == "I" or (bare == "A" and _WORD.match(text[mention.end() :]))):
            letters.add((mention[1] or bare).upper())
    if _NEGATED.search(text):
        return None
    if letters & choices.keys():
        return letters.pop() if len(letters) == 1 else None
    held = {letter: choice for letter, choice in choices.items() if choice and _holds(text, choice)}
    # "red ball" holds "ball": the longer one is meant.
    longest = [letter for letter, own in held.items() if not any(own != c and _holds(c, own) for c in held.values())]
    return longest[0] if len(longest) == 1 else None


def _known(letter: str, choices: Mapping[str, str]) -> str | None:
    return letter.upper() if letter.upper() in choices else None


def _named(text: str, choices: Mapping[str, str]) -> str | None:
    """Return the letter of the only option whose text this is."""
    same = [letter for letter, choice in choices.items() if choice and _plain(choice) == _plain(text)]
    return same[0] if len(same) == 1 else None


def _holds(text: str, part: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(_plain(part))}(?!\w)", _plain(text)) is not None


def _plain(text: str) -> str:
    words = re.sub(r"[\"'.,;:!?()\[\]]+(?=\s|$)|(?<!\S)[\"'(\[]+", " ", text.casefold()).split()
    return " ".join(words[1:] if len(words) > 1 and words[0] in ("a", "an", "the") else words)
