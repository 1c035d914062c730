"""What else must be so if a question's answer is right: the questions that an answer entails.

Only what follows from question and answer alone, without another look at the image.
"""

import re
from collections.abc import Iterator

from olivine.world.asked import YES_NO, Asked, yes_no
from olivine.world.language import article
from olivine.world.scene import KINDS, OPPOSITE, RELATIONS

_PROPERTIES = ("colour", "size", "pattern")
_WHERE = re.compile(r"^(Is there|Do you see) (an? (?:\w+ )?\w+)((?: in \w+ \w+)?)\?$")
_EITHER = re.compile(r"^Is there either an? (\w+) or an? (\w+) in the picture\?$")
_BOTH = re.compile(r"^Are there both an? (\w+) and an? (\w+) in the picture\?$")


def entailed(asked: Asked) -> Iterator[Asked]:
    """The questions that the answer to `asked` answers too, with their answers."""
    if asked.topic in _PROPERTIES and asked.answer != "no":
        yield from _of_property(asked)
    elif asked.topic == "relation" and asked.structural in ("verify", "choose"):
        yield from _of_relation(asked)
    elif asked.topic == "exist" and asked.answer == "yes":
        yield from _of_existence(asked)
    elif asked.topic == "logical":
        yield from _of_logic(asked)


def _statement(asked: Asked) -> str:
    """What the full answer states, with a small letter and without its yes or no."""
    text = asked.sentence.removeprefix("Yes, ").removeprefix("No, ").removesuffix(".")
    return text[0].lower() + text[1:]


def _of_property(asked: Asked) -> Iterator[Asked]:
    the, value = _statement(asked).rsplit(" is ", 1)
    statement = f"{the} is {value}"
    others = [option for option in asked.valid if option not in (value, *YES_NO)]
    for shown in (value, *others[:2]):
        truth = shown == value
        yield yes_no(f"Is {the} {shown}?", truth, statement, statement, asked.topic, "verify", "attr", *asked.things)


def _of_relation(asked: Asked) -> Iterator[Asked]:
    statement = _statement(asked)
    relation = next(name for name in RELATIONS if f" is {name} " in statement)
    one, other = statement.split(f" is {relation} ")
    inverse = OPPOSITE[relation]
    turned = asked.things[::-1]
    mirrored = f"{other} is {inverse} {one}"
    for first, second, holds, said, things in (
        (one, other, statement, relation, asked.things),
        (other, one, mirrored, inverse, turned),
    ):
        for name in (said, OPPOSITE[said]):
            text = f"Is {first} {name} {second}?"
            yield yes_no(text, name == said, holds, holds, "relation", "verify", "rel", *things)


def _of_existence(asked: Asked) -> Iterator[Asked]:
    found = _WHERE.match(asked.text)
    assert found, asked.text
    kind = found[2].split()[-1]
    what = article(kind)
    truth = f"there is {what}"
    yield yes_no(f"{found[1]} {what}{found[3]}?", True, truth, truth, "exist", "verify", "obj", *asked.things)
    category = KINDS[kind].category
    text = f"Is there {article(category)} in the picture?"
    yield yes_no(text, True, truth, truth, "category", "verify", "cat", *asked.things)


def _of_logic(asked: Asked) -> Iterator[Asked]:
    """Both are there if "both" is true; neither is if "either" is false."""
    pattern, truth = (_BOTH, True) if asked.answer == "yes" else (_EITHER, False)
    found = pattern.match(asked.text)
    for kind in found.groups() if found else ():
        what = article(kind)
        statement, denial = f"there is {what}", f"there is no {kind}"
        yield yes_no(f"Is there {what} in the picture?", truth, statement, denial, "exist", "verify", "obj")
