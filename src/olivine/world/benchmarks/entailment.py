"""The questions that an answer entails.

Only what follows from question and answer, without the image.
"""

import re
from collections.abc import Iterator

from olivine.world.language import article
from olivine.world.question import YES_NO, Question, yes_no
from olivine.world.scene import CLASSES, OPPOSITE, RELATIONS

_PROPERTIES = ("colour", "size", "pattern")
_WHERE = re.compile(r"^(Is there|Do you see) (an? (?:\w+ )?\w+)((?: in \w+ \w+)?)\?$")
_EITHER = re.compile(r"^Is there either an? (\w+) or an? (\w+) in the picture\?$")
_BOTH = re.compile(r"^Are there both an? (\w+) and an? (\w+) in the picture\?$")


def entailed(question: Question) -> Iterator[Question]:
    """Yield the questions that the answer to `question` also answers, with their answers."""
    if question.topic in _PROPERTIES and question.answer != "no":
        yield from _of_property(question)
    elif question.topic == "relation" and question.structural in ("verify", "choose"):
        yield from _of_relation(question)
    elif question.topic == "exist" and question.answer == "yes":
        yield from _of_existence(question)
    elif question.topic == "logical":
        yield from _of_logic(question)


def _statement(question: Question) -> str:
    """Return what the full answer states, in lower case and without its yes or no."""
    text = question.sentence.removeprefix("Yes, ").removeprefix("No, ").removesuffix(".")
    return text[0].lower() + text[1:]


def _of_property(question: Question) -> Iterator[Question]:
    the, value = _statement(question).rsplit(" is ", 1)
    statement = f"{the} is {value}"
    others = [option for option in question.valid if option not in (value, *YES_NO)]
    for claimed in (value, *others[:2]):
        truth = claimed == value
        yield yes_no(
            f"Is {the} {claimed}?", truth, statement, statement, question.topic, "verify", "attr", *question.objects
        )


def _of_relation(question: Question) -> Iterator[Question]:
    statement = _statement(question)
    relation = next(name for name in RELATIONS if f" is {name} " in statement)
    one, other = statement.split(f" is {relation} ")
    inverse = OPPOSITE[relation]
    turned = question.objects[::-1]
    mirrored = f"{other} is {inverse} {one}"
    for first, second, holds, said, objects in (
        (one, other, statement, relation, question.objects),
        (other, one, mirrored, inverse, turned),
    ):
        for name in (said, OPPOSITE[said]):
            text = f"Is {first} {name} {second}?"
            yield yes_no(text, name == said, holds, holds, "relation", "verify", "rel", *objects)


def _of_existence(question: Question) -> Iterator[Question]:
    found = _WHERE.match(question.text)
    assert found, question.text
    class_name = found[2].split()[-1]
    what = article(class_name)
    truth = f"there is {what}"
    yield yes_no(f"{found[1]} {what}{found[3]}?", True, truth, truth, "exist", "verify", "obj", *question.objects)
    category = CLASSES[class_name].category
    text = f"Is there {article(category)} in the picture?"
    yield yes_no(text, True, truth, truth, "category", "verify", "cat", *question.objects)


def _of_logic(question: Question) -> Iterator[Question]:
    """Yield both as present if "both" is true, both as absent if "either" is false."""
    pattern, truth = (_BOTH, True) if question.answer == "yes" else (_EITHER, False)
    found = pattern.match(question.text)
    for class_name in found.groups() if found else ():
        what = article(class_name)
        statement, denial = f"there is {what}", f"there is no {class_name}"
        yield yes_no(f"Is there {what} in the picture?", truth, statement, denial, "exist", "verify", "obj")
