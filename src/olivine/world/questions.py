"""Questions about a scene, each with its one right answer: colours, states, counts, places, relations, writing.

Questions that need more than looking are in `reasoning`; benchmark files are written in `benchmarks`.
"""

from collections.abc import Callable, Iterator, Sequence
from random import Random

from olivine.world.language import article, at, listed, number, reference
from olivine.world.question import Question, another, some_object, tempting_absence, upper, yes_no
from olivine.world.reasoning import REASONING
from olivine.world.sampling import DIGITS, LETTERS
from olivine.world.scene import (
    BACKDROPS,
    CATEGORIES,
    CLASSES,
    COLOURS,
    OPPOSITE,
    PATTERNS,
    PLACES,
    RELATIONS,
    SIZES,
    TIMES,
    Relation,
    Scene,
    holds,
    named_apart,
)


def ask(scene: Scene, rng: Random, count: int, topics: Sequence[str] | None = None) -> list[Question]:
    """Draw `count` different questions about a scene, fewer if there are no more; topics drawn by `WEIGHT`.

    Args:
        topics: names in `TOPICS`; all by default.
    """
    names = list(topics or TOPICS)
    weights = [WEIGHT.get(name, 1.0) for name in names]
    found: dict[str, Question] = {}
    for _ in range(4 * count):
        question = TOPICS[rng.choices(names, weights)[0]](scene, rng)
        if question is not None:
            found.setdefault(question.text, question)
        if len(found) == count:
            break
    return list(found.values())


# --- attributes ------------------------------------------------------------------------------------------------------


def _property(name: str, options: tuple[str, ...], what: tuple[str, ...]) -> Callable[[Scene, Random], Question | None]:
    """Return the topic of a property: what it is, whether it has a value, which of two."""

    def asking(scene: Scene, rng: Random) -> Question | None:
        index = some_object(scene, rng, lambda obj: name != "pattern" or CLASSES[obj.class_name].patterned)
        if index is None:
            return None
        obj = scene.objects[index]
        the = reference(scene, obj, rng, without=(name,))
        if the is None:
            return None
        value = str(getattr(obj, name))
        statement = f"{the} is {value}"
        form = rng.random()
        if form < 0.55:
            text = rng.choice(what).format(the)
            return Question(text, value, f"{upper(statement)}.", name, "query", "attr", options, (index,))
        other = another(options, value, rng)
        if form < 0.75:
            pair = rng.sample([value, other], 2)
            text = f"Is {the} {pair[0]} or {pair[1]}?"
            return Question(text, value, f"{upper(statement)}.", name, "choose", "attr", tuple(pair), (index,))
        truth = rng.random() < 0.5
        text = f"Is {the} {value if truth else other}?"
        return yes_no(text, truth, statement, statement, name, "verify", "attr", index)

    return asking


def _state(scene: Scene, rng: Random) -> Question | None:
    index = some_object(scene, rng, lambda obj: bool(obj.state))
    if index is None:
        return None
    obj = scene.objects[index]
    the = reference(scene, obj, rng)
    if the is None:
        return None
    states = CLASSES[obj.class_name].states
    other = another(states, obj.state, rng)
    if CLASSES[obj.class_name].property == "facing":
        statement, text = f"{the} is facing {obj.state}", f"Which way is {the} facing?"
        choose, verify = f"Is {the} facing {{}} or {{}}?", f"Is {the} facing {{}}?"
    elif obj.class_name == "house":
        statement, text = f"the door of {the} is {obj.state}", ""
        choose, verify = f"Is the door of {the} {{}} or {{}}?", f"Is the door of {the} {{}}?"
    else:
        statement, text = f"{the} is {obj.state}", ""
        choose, verify = f"Is {the} {{}} or {{}}?", f"Is {the} {{}}?"
    form = rng.random()
    if form < 0.3 and text:
        return Question(text, obj.state, f"{upper(statement)}.", "state", "query", "attr", states, (index,))
    if form < 0.6:
        question = choose.format(*rng.sample(states, 2))
        return Question(question, obj.state, f"{upper(statement)}.", "state", "choose", "attr", states, (index,))
    truth = rng.random() < 0.5
    question = verify.format(obj.state if truth else other)
    return yes_no(question, truth, statement, statement, "state", "verify", "attr", index)


# --- objects ---------------------------------------------------------------------------------------------------------


def _exist(scene: Scene, rng: Random) -> Question | None:
    truth = rng.random() < 0.5
    if rng.random() < 0.4:
        return _exist_coloured(scene, rng, truth)
    if truth:
        index = rng.randrange(len(scene.objects))
        class_name, objects = scene.objects[index].class_name, [index]
    else:
        class_name, objects = tempting_absence(scene, rng), []
    what = article(class_name)
    text = rng.choice(_EXIST_WORDINGS).format(what)
    return yes_no(text, truth, f"there is {what}", f"there is no {class_name}", "exist", "verify", "obj", *objects)


def _exist_coloured(scene: Scene, rng: Random, truth: bool) -> Question | None:
    index = rng.randrange(len(scene.objects))
    obj = scene.objects[index]
    colour: str = obj.colour
    if not truth:
        # A colour that another object of the scene has is the harder negative.
        others = [str(other.colour) for other in scene.objects] + [rng.choice(COLOURS)]
        colour = rng.choice(others)
        if any(other.colour == colour for other in scene.of_class(obj.class_name)):
            return None
    what = f"{article(colour)} {obj.class_name}"
    text = rng.choice(_EXIST_WORDINGS).format(what)
    denial = f"there is no {colour} {obj.class_name}"
    objects = (index,) if truth else ()
    return yes_no(text, truth, f"there is {what}", denial, "exist", "verify", "obj", *objects)


def _logical(scene: Scene, rng: Random) -> Question | None:
    here = rng.choice(scene.classes)
    truth = rng.random() < 0.5
    if rng.random() < 0.5:
        others = [class_name for class_name in scene.classes if class_name != here]
        if truth and not others:
            return None
        second = rng.choice(others) if truth else tempting_absence(scene, rng)
        pair = rng.sample([here, second], 2)
        both = f"{article(pair[0])} and {article(pair[1])}"
        text = f"Are there both {both} in the picture?"
        return yes_no(text, truth, f"there are both {both}", f"there are not both {both}", "logical", "logical", "obj")
    first = here if truth else tempting_absence(scene, rng)
    second = tempting_absence(scene, rng)
    if first == second:
        return None
    pair = rng.sample([first, second], 2)
    either = f"{article(pair[0])} or {article(pair[1])}"
    text = f"Is there either {either} in the picture?"
    denial = f"there is neither {article(pair[0])} nor {article(pair[1])}"
    return yes_no(text, truth, f"there is {article(first)}", denial, "logical", "logical", "obj")


def _class(scene: Scene, rng: Random) -> Question | None:
    """Ask which class has this colour, is at this place, is of this category."""
    index = rng.randrange(len(scene.objects))
    obj = scene.objects[index]
    form = rng.random()
    if form < 0.4:
        if sum(other.colour == obj.colour for other in scene.objects) > 1:
            return None
        text = rng.choice((f"What is the {obj.colour} thing?", f"What thing is {obj.colour}?"))
        sentence = f"The {obj.colour} thing is {article(obj.class_name)}."
        return Question(text, obj.class_name, sentence, "kind", "query", "obj", tuple(CLASSES), (index,))
    if form < 0.75:
        where = at(obj.place, rng)
        if not all(named_apart(obj.place, other.place) for other in scene.objects if other is not obj):
            return None
        sentence = f"{upper(where)} is {article(obj.class_name)}."
        return Question(f"What is {where}?", obj.class_name, sentence, "kind", "query", "obj", tuple(CLASSES), (index,))
    category = CLASSES[obj.class_name].category
    members = tuple(class_name for class_name in CLASSES if CLASSES[class_name].category == category)
    if len(members) == 1 or sum(class_name in members for class_name in scene.classes) > 1:
        return None
    text = f"Which {category} is in the picture?"
    sentence = f"The {category} is {article(obj.class_name)}."
    return Question(text, obj.class_name, sentence, "kind", "query", "cat", members, (index,))


def _category(scene: Scene, rng: Random) -> Question | None:
    """Ask whether anything of a category is present: needs knowing what belongs to it."""
    there = {CLASSES[class_name].category for class_name in scene.classes}
    truth = rng.random() < 0.5
    category = rng.choice([name for name in CATEGORIES if (name in there) == truth])
    members = [i for i, obj in enumerate(scene.objects) if CLASSES[obj.class_name].category == category]
    what = article(category)
    text = rng.choice(_EXIST_WORDINGS).format(what)
    names = listed(list(dict.fromkeys(article(scene.objects[i].class_name) for i in members))) if members else ""
    return yes_no(
        text, bool(members), f"there is {names}", f"there is no {category}", "category", "verify", "cat", *members
    )


def _count(scene: Scene, rng: Random) -> Question | None:
    if rng.random() < 0.2:
        total = len(scene.objects)
        text = rng.choice(("How many things are there?", "How many things are in the picture?"))
        sentence = f"There are {number(total)} things."
        return Question(text, str(total), sentence, "count", "query", "obj", _COUNT_ANSWERS, tuple(range(total)))
    class_name = tempting_absence(scene, rng) if rng.random() < 0.15 else rng.choice(scene.classes)
    objects = tuple(i for i, obj in enumerate(scene.objects) if obj.class_name == class_name)
    plural = CLASSES[class_name].plural
    # One is the majority answer: ask about it less often.
    if len(objects) == 1 and rng.random() < 0.6:
        return None
    if objects and rng.random() < 0.3:
        return _count_verified(class_name, objects, rng)
    text = rng.choice((f"How many {plural} are there?", f"How many {plural} are in the picture?"))
    noun = class_name if len(objects) == 1 else plural
    sentence = f"There {'is' if len(objects) == 1 else 'are'} {number(len(objects))} {noun}."
    return Question(text, str(len(objects)), sentence, "count", "query", "obj", _COUNT_ANSWERS, objects)


def _count_verified(class_name: str, objects: tuple[int, ...], rng: Random) -> Question | None:
    """Ask whether there are this many; never fewer than there are, since among three there are also two."""
    claimed = len(objects) + rng.randrange(2)
    if claimed == 1:
        return None
    plural = CLASSES[class_name].plural
    statement = f"there are {number(claimed)} {plural}"
    denial = (
        f"there is only one {class_name}" if len(objects) == 1 else f"there are only {number(len(objects))} {plural}"
    )
    text = f"Are there {number(claimed)} {plural} {rng.choice(('in the picture', 'in this image'))}?"
    return yes_no(text, claimed == len(objects), statement, denial, "count", "verify", "obj", *objects)


_COUNT_ANSWERS = tuple(str(count) for count in range(6))


# --- places and relations --------------------------------------------------------------------------------------------


def _place(scene: Scene, rng: Random) -> Question | None:
    index = rng.randrange(len(scene.objects))
    obj = scene.objects[index]
    the = reference(scene, obj, rng, without=("place",))
    if the is None:
        return None
    text = rng.choice((f"Where in the picture is {the}?", f"In which part of the picture is {the}?"))
    sentence = f"{upper(the)} is {at(obj.place, rng)}."
    return Question(text, obj.place, sentence, "place", "query", "rel", PLACES, (index,))


def _relation(scene: Scene, rng: Random) -> Question | None:
    if len(scene.objects) < 2:
        return None
    first, second = rng.sample(range(len(scene.objects)), 2)
    relation: Relation = rng.choice(RELATIONS)
    one, other = scene.objects[first], scene.objects[second]
    the, that = reference(scene, one, rng, without=("place",)), reference(scene, other, rng, without=("place",))
    if the is None or that is None:
        return None
    if not holds(one, relation, other) and not holds(one, OPPOSITE[relation], other):
        return None
    truth = holds(one, relation, other)
    right = relation if truth else OPPOSITE[relation]
    sentence = f"{the} is {right} {that}"
    form = rng.random()
    if form < 0.4:
        return yes_no(
            f"Is {the} {relation} {that}?", truth, sentence, sentence, "relation", "verify", "rel", first, second
        )
    if form < 0.7:
        short = {"to the left of": "left", "to the right of": "right"}
        pair = rng.sample([relation, OPPOSITE[relation]], 2)
        text = f"Is {the} {pair[0]} or {pair[1]} {that}?"
        valid = tuple(short.get(option, option) for option in pair)
        return Question(
            text, short.get(right, right), f"{upper(sentence)}.", "relation", "choose", "rel", valid, (first, second)
        )
    related = [i for i, obj in enumerate(scene.objects) if i != second and holds(obj, right, other)]
    if related != [first]:
        return None
    sentence = f"{upper(article(one.class_name))} is {right} {that}."
    return Question(
        f"What is {right} {that}?",
        one.class_name,
        sentence,
        "relation",
        "query",
        "rel",
        tuple(CLASSES),
        (first, second),
    )


# --- comparison, reading, the whole image ---------------------------------------------------------------------------


def _compare(scene: Scene, rng: Random) -> Question | None:
    if len(scene.classes) < 2:
        return None
    first, second = rng.sample(range(len(scene.objects)), 2)
    one, other = scene.objects[first], scene.objects[second]
    if one.class_name == other.class_name:
        return None
    the, that = (reference(scene, obj, rng, without=("colour", "size")) for obj in (one, other))
    if the is None or that is None:
        return None
    if rng.random() < 0.4 and one.size != other.size:
        larger, obj = (the, one) if one.size == "large" else (that, other)
        adjective = rng.choice(("larger", "smaller"))
        if adjective == "smaller":
            larger, obj = (that, other) if one.size == "large" else (the, one)
        text = f"Which is {adjective}, {the} or {that}?"
        valid = (one.class_name, other.class_name)
        sentence = f"{upper(larger)} is {adjective}."
        return Question(text, obj.class_name, sentence, "compare", "compare", "attr", valid, (first, second))
    name = rng.choice(("colour", "size"))
    same = getattr(one, name) == getattr(other, name)
    # Colours mostly differ, and different sizes are mostly asked about above: this balances both answers.
    if rng.random() < {("colour", False): 0.8, ("size", True): 0.4}.get((name, same), 0.0):
        return None
    text = f"Do {the} and {that} have the same {name}?"
    value, its = getattr(one, name), getattr(other, name)
    statement, denial = f"both are {value}", f"{the} is {value} and {that} is {its}"
    return yes_no(text, same, statement, denial, "compare", "compare", "attr", first, second)


def _writing(scene: Scene, rng: Random) -> Question | None:
    index = some_object(scene, rng, lambda obj: bool(obj.writing))
    if index is None:
        return None
    text = scene.objects[index].writing
    sentence = f"the sign says {text}"
    if rng.random() < 0.7:
        question = rng.choice(
            ("What does the sign say?", "What is written on the sign?", "What can be read on the sign?")
        )
        return Question(question, text, f"{upper(sentence)}.", "writing", "query", "attr", (), (index,))
    truth = rng.random() < 0.5
    claimed = text if truth else misread(text, rng)
    return yes_no(f"Does the sign say {claimed}?", truth, sentence, sentence, "writing", "verify", "attr", index)


def misread(text: str, rng: Random) -> str:
    """Return what a sign might say instead: one digit or letter replaced by another."""
    position = rng.randrange(len(text))
    characters = DIGITS if text[position] in DIGITS else LETTERS
    return text[:position] + another(characters, text[position], rng) + text[position + 1 :]


def _backdrop(scene: Scene, rng: Random) -> Question | None:
    if rng.random() < 0.6:
        text = rng.choice(("Where is this?", "What place is shown?", "What kind of place is this?"))
        sentence = f"This is {article(scene.backdrop)}."
        return Question(text, scene.backdrop, sentence, "setting", "query", "global", BACKDROPS)
    truth = rng.random() < 0.5
    claimed = scene.backdrop if truth else another(BACKDROPS, scene.backdrop, rng)
    statement = f"this is {article(scene.backdrop)}"
    return yes_no(f"Is this {article(claimed)}?", truth, statement, statement, "setting", "verify", "global")


def _time(scene: Scene, rng: Random) -> Question | None:
    # Day is more common: asked about less often, so that the time cannot be guessed.
    if scene.time == "day" and rng.random() < 0.46:
        return None
    pair = rng.sample(TIMES, 2)
    sentence = f"It is {scene.time}."
    return Question(f"Is it {pair[0]} or {pair[1]}?", scene.time, sentence, "time", "choose", "global", tuple(TIMES))


_EXIST_WORDINGS = (
    "Is there {} in the picture?",
    "Is there {} in the image?",
    "Is there {} in this image?",
    "Do you see {}?",
)
_COLOUR_WORDINGS = ("What colour is {}?", "Which colour does {} have?", "What is the colour of {}?")
_SIZE_WORDINGS = ("What size is {}?", "How large is {}?")
_PATTERN_WORDINGS = ("What pattern does {} have?", "Is {} plain, striped or spotted?")
#: Every topic, with a function that draws one question about a scene, or None if the topic has none for it.
TOPICS: dict[str, Callable[[Scene, Random], Question | None]] = {
    "colour": _property("colour", COLOURS, _COLOUR_WORDINGS),
    "size": _property("size", SIZES, _SIZE_WORDINGS),
    "pattern": _property("pattern", PATTERNS, _PATTERN_WORDINGS),
    "state": _state,
    "exist": _exist,
    "logical": _logical,
    "kind": _class,
    "category": _category,
    "count": _count,
    "place": _place,
    "relation": _relation,
    "compare": _compare,
    "writing": _writing,
    "setting": _backdrop,
    "time": _time,
    **REASONING,
}
#: Weights of topics; 1 if not given.
WEIGHT = {
    "colour": 2.5,
    "kind": 2.5,
    "exist": 1.5,
    "relation": 2.5,
    "place": 1.2,
    "time": 0.4,
    "setting": 0.5,
    "use": 0.7,
}


def every_question(
    scene: Scene, rng: Random, tries: int = 200, topics: Sequence[str] | None = None
) -> Iterator[Question]:
    """Yield every question about a scene that this many tries find, each once.

    Args:
        topics: names in `TOPICS`, tried equally often; all by default.
    """
    names = list(topics or TOPICS)
    seen = set()
    for _ in range(tries):
        question = TOPICS[rng.choice(names)](scene, rng)
        if question is not None and question.text not in seen:
            seen.add(question.text)
            yield question
