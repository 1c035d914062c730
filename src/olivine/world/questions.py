"""What can be asked of a scene, with the one right answer: colours, states, counts, places, relations, writing.

What takes more than looking lies in `reasoning`; benchmark files are written in `benchmarks`.
"""

from collections.abc import Callable, Iterator, Sequence
from random import Random

from olivine.world.asked import Asked, another, some_thing, tempting_absence, upper, yes_no
from olivine.world.language import article, at, listed, number, reference
from olivine.world.reasoning import REASONING
from olivine.world.sampling import DIGITS, LETTERS
from olivine.world.scene import (
    CATEGORIES,
    COLOURS,
    KINDS,
    OPPOSITE,
    PATTERNS,
    PLACES,
    RELATIONS,
    SETTINGS,
    SIZES,
    TIMES,
    Relation,
    Scene,
    holds,
    named_apart,
)


def ask(scene: Scene, draw: Random, count: int, topics: Sequence[str] | None = None) -> list[Asked]:
    """`count` different questions on a scene, fewer if it has no more to ask; topics in turn, in a drawn order.

    Args:
        topics: names in `TOPICS`; all by default.
    """
    names = list(topics or TOPICS)
    weights = [WEIGHT.get(name, 1.0) for name in names]
    found: dict[str, Asked] = {}
    for _ in range(4 * count):
        asked = TOPICS[draw.choices(names, weights)[0]](scene, draw)
        if asked is not None:
            found.setdefault(asked.text, asked)
        if len(found) == count:
            break
    return list(found.values())


# --- attributes ------------------------------------------------------------------------------------------------------


def _property(name: str, options: tuple[str, ...], what: tuple[str, ...]) -> Callable[[Scene, Random], Asked | None]:
    """Questions on a property that every thing of some kinds has: what is it, is it so, which of two."""

    def asking(scene: Scene, draw: Random) -> Asked | None:
        index = some_thing(scene, draw, lambda thing: name != "pattern" or KINDS[thing.kind].patterned)
        if index is None:
            return None
        thing = scene.things[index]
        the = reference(scene, thing, draw, without=(name,))
        if the is None:
            return None
        value = str(getattr(thing, name))
        statement = f"{the} is {value}"
        form = draw.random()
        if form < 0.55:
            text = draw.choice(what).format(the)
            return Asked(text, value, f"{upper(statement)}.", name, "query", "attr", options, (index,))
        other = another(options, value, draw)
        if form < 0.75:
            pair = draw.sample([value, other], 2)
            text = f"Is {the} {pair[0]} or {pair[1]}?"
            return Asked(text, value, f"{upper(statement)}.", name, "choose", "attr", tuple(pair), (index,))
        truth = draw.random() < 0.5
        text = f"Is {the} {value if truth else other}?"
        return yes_no(text, truth, statement, statement, name, "verify", "attr", index)

    return asking


def _state(scene: Scene, draw: Random) -> Asked | None:
    index = some_thing(scene, draw, lambda thing: bool(thing.state))
    if index is None:
        return None
    thing = scene.things[index]
    the = reference(scene, thing, draw)
    if the is None:
        return None
    states = KINDS[thing.kind].states
    other = another(states, thing.state, draw)
    if KINDS[thing.kind].property == "facing":
        statement, text = f"{the} is facing {thing.state}", f"Which way is {the} facing?"
        choose, verify = f"Is {the} facing {{}} or {{}}?", f"Is {the} facing {{}}?"
    elif thing.kind == "house":
        statement, text = f"the door of {the} is {thing.state}", ""
        choose, verify = f"Is the door of {the} {{}} or {{}}?", f"Is the door of {the} {{}}?"
    else:
        statement, text = f"{the} is {thing.state}", ""
        choose, verify = f"Is {the} {{}} or {{}}?", f"Is {the} {{}}?"
    form = draw.random()
    if form < 0.3 and text:
        return Asked(text, thing.state, f"{upper(statement)}.", "state", "query", "attr", states, (index,))
    if form < 0.6:
        asked = choose.format(*draw.sample(states, 2))
        return Asked(asked, thing.state, f"{upper(statement)}.", "state", "choose", "attr", states, (index,))
    truth = draw.random() < 0.5
    asked = verify.format(thing.state if truth else other)
    return yes_no(asked, truth, statement, statement, "state", "verify", "attr", index)


# --- objects ---------------------------------------------------------------------------------------------------------


def _exist(scene: Scene, draw: Random) -> Asked | None:
    truth = draw.random() < 0.5
    if draw.random() < 0.4:
        return _exist_coloured(scene, draw, truth)
    if truth:
        index = draw.randrange(len(scene.things))
        kind, things = scene.things[index].kind, [index]
    else:
        kind, things = tempting_absence(scene, draw), []
    what = article(kind)
    text = draw.choice(_EXIST_ASKED).format(what)
    return yes_no(text, truth, f"there is {what}", f"there is no {kind}", "exist", "verify", "obj", *things)


def _exist_coloured(scene: Scene, draw: Random, truth: bool) -> Asked | None:
    index = draw.randrange(len(scene.things))
    thing = scene.things[index]
    colour: str = thing.colour
    if not truth:
        # A colour that something else there has is the harder denial.
        others = [str(other.colour) for other in scene.things] + [draw.choice(COLOURS)]
        colour = draw.choice(others)
        if any(other.colour == colour for other in scene.of_kind(thing.kind)):
            return None
    what = f"{article(colour)} {thing.kind}"
    text = draw.choice(_EXIST_ASKED).format(what)
    denial = f"there is no {colour} {thing.kind}"
    things = (index,) if truth else ()
    return yes_no(text, truth, f"there is {what}", denial, "exist", "verify", "obj", *things)


def _logical(scene: Scene, draw: Random) -> Asked | None:
    here = draw.choice(scene.kinds)
    truth = draw.random() < 0.5
    if draw.random() < 0.5:
        others = [kind for kind in scene.kinds if kind != here]
        if truth and not others:
            return None
        second = draw.choice(others) if truth else tempting_absence(scene, draw)
        pair = draw.sample([here, second], 2)
        both = f"{article(pair[0])} and {article(pair[1])}"
        text = f"Are there both {both} in the picture?"
        return yes_no(text, truth, f"there are both {both}", f"there are not both {both}", "logical", "logical", "obj")
    first = here if truth else tempting_absence(scene, draw)
    second = tempting_absence(scene, draw)
    if first == second:
        return None
    pair = draw.sample([first, second], 2)
    either = f"{article(pair[0])} or {article(pair[1])}"
    text = f"Is there either {either} in the picture?"
    denial = f"there is neither {article(pair[0])} nor {article(pair[1])}"
    return yes_no(text, truth, f"there is {article(first)}", denial, "logical", "logical", "obj")


def _kind(scene: Scene, draw: Random) -> Asked | None:
    """Which kind of thing has this colour, stands in this place, is of this category."""
    index = draw.randrange(len(scene.things))
    thing = scene.things[index]
    form = draw.random()
    if form < 0.4:
        if sum(other.colour == thing.colour for other in scene.things) > 1:
            return None
        text = draw.choice((f"What is the {thing.colour} thing?", f"What thing is {thing.colour}?"))
        sentence = f"The {thing.colour} thing is {article(thing.kind)}."
        return Asked(text, thing.kind, sentence, "kind", "query", "obj", tuple(KINDS), (index,))
    if form < 0.75:
        where = at(thing.place, draw)
        if not all(named_apart(thing.place, other.place) for other in scene.things if other is not thing):
            return None
        sentence = f"{upper(where)} is {article(thing.kind)}."
        return Asked(f"What is {where}?", thing.kind, sentence, "kind", "query", "obj", tuple(KINDS), (index,))
    category = KINDS[thing.kind].category
    members = tuple(kind for kind in KINDS if KINDS[kind].category == category)
    if len(members) == 1 or sum(kind in members for kind in scene.kinds) > 1:
        return None
    text = f"Which {category} is in the picture?"
    sentence = f"The {category} is {article(thing.kind)}."
    return Asked(text, thing.kind, sentence, "kind", "query", "cat", members, (index,))


def _category(scene: Scene, draw: Random) -> Asked | None:
    """Whether anything of a category is there: needs knowing what belongs to it."""
    there = {KINDS[kind].category for kind in scene.kinds}
    truth = draw.random() < 0.5
    category = draw.choice([name for name in CATEGORIES if (name in there) == truth])
    members = [i for i, thing in enumerate(scene.things) if KINDS[thing.kind].category == category]
    what = article(category)
    text = draw.choice(_EXIST_ASKED).format(what)
    names = listed(list(dict.fromkeys(article(scene.things[i].kind) for i in members))) if members else ""
    return yes_no(
        text, bool(members), f"there is {names}", f"there is no {category}", "category", "verify", "cat", *members
    )


def _count(scene: Scene, draw: Random) -> Asked | None:
    if draw.random() < 0.2:
        total = len(scene.things)
        text = draw.choice(("How many things are there?", "How many things are in the picture?"))
        sentence = f"There are {number(total)} things."
        return Asked(text, str(total), sentence, "count", "query", "obj", _COUNT_ANSWERS, tuple(range(total)))
    kind = tempting_absence(scene, draw) if draw.random() < 0.15 else draw.choice(scene.kinds)
    things = tuple(i for i, thing in enumerate(scene.things) if thing.kind == kind)
    plural = KINDS[kind].plural
    # One is what a blind guess would say: ask of it less often.
    if len(things) == 1 and draw.random() < 0.6:
        return None
    if things and draw.random() < 0.3:
        return _count_verified(kind, things, draw)
    text = draw.choice((f"How many {plural} are there?", f"How many {plural} are in the picture?"))
    noun = kind if len(things) == 1 else plural
    sentence = f"There {'is' if len(things) == 1 else 'are'} {number(len(things))} {noun}."
    return Asked(text, str(len(things)), sentence, "count", "query", "obj", _COUNT_ANSWERS, things)


def _count_verified(kind: str, things: tuple[int, ...], draw: Random) -> Asked | None:
    """Whether there are this many; never fewer than there are, for of three it is true that there are two."""
    asked = len(things) + draw.randrange(2)
    if asked == 1:
        return None
    plural = KINDS[kind].plural
    statement = f"there are {number(asked)} {plural}"
    denial = f"there is only one {kind}" if len(things) == 1 else f"there are only {number(len(things))} {plural}"
    text = f"Are there {number(asked)} {plural} {draw.choice(('in the picture', 'in this image'))}?"
    return yes_no(text, asked == len(things), statement, denial, "count", "verify", "obj", *things)


_COUNT_ANSWERS = tuple(str(count) for count in range(6))


# --- places and relations --------------------------------------------------------------------------------------------


def _place(scene: Scene, draw: Random) -> Asked | None:
    index = draw.randrange(len(scene.things))
    thing = scene.things[index]
    the = reference(scene, thing, draw, without=("place",))
    if the is None:
        return None
    text = draw.choice((f"Where in the picture is {the}?", f"In which part of the picture is {the}?"))
    sentence = f"{upper(the)} is {at(thing.place, draw)}."
    return Asked(text, thing.place, sentence, "place", "query", "rel", PLACES, (index,))


def _relation(scene: Scene, draw: Random) -> Asked | None:
    if len(scene.things) < 2:
        return None
    first, second = draw.sample(range(len(scene.things)), 2)
    relation: Relation = draw.choice(RELATIONS)
    one, other = scene.things[first], scene.things[second]
    the, that = reference(scene, one, draw, without=("place",)), reference(scene, other, draw, without=("place",))
    if the is None or that is None:
        return None
    if not holds(one, relation, other) and not holds(one, OPPOSITE[relation], other):
        return None
    truth = holds(one, relation, other)
    right = relation if truth else OPPOSITE[relation]
    sentence = f"{the} is {right} {that}"
    form = draw.random()
    if form < 0.4:
        return yes_no(
            f"Is {the} {relation} {that}?", truth, sentence, sentence, "relation", "verify", "rel", first, second
        )
    if form < 0.7:
        short = {"to the left of": "left", "to the right of": "right"}
        pair = draw.sample([relation, OPPOSITE[relation]], 2)
        text = f"Is {the} {pair[0]} or {pair[1]} {that}?"
        valid = tuple(short.get(option, option) for option in pair)
        return Asked(
            text, short.get(right, right), f"{upper(sentence)}.", "relation", "choose", "rel", valid, (first, second)
        )
    related = [i for i, thing in enumerate(scene.things) if i != second and holds(thing, right, other)]
    if related != [first]:
        return None
    sentence = f"{upper(article(one.kind))} is {right} {that}."
    return Asked(
        f"What is {right} {that}?", one.kind, sentence, "relation", "query", "rel", tuple(KINDS), (first, second)
    )


# --- comparing, reading, the whole image ---------------------------------------------------------------------------


def _compare(scene: Scene, draw: Random) -> Asked | None:
    if len(scene.kinds) < 2:
        return None
    first, second = draw.sample(range(len(scene.things)), 2)
    one, other = scene.things[first], scene.things[second]
    if one.kind == other.kind:
        return None
    the, that = (reference(scene, thing, draw, without=("colour", "size")) for thing in (one, other))
    if the is None or that is None:
        return None
    if draw.random() < 0.4 and one.size != other.size:
        larger, thing = (the, one) if one.size == "large" else (that, other)
        adjective = draw.choice(("larger", "smaller"))
        if adjective == "smaller":
            larger, thing = (that, other) if one.size == "large" else (the, one)
        text = f"Which is {adjective}, {the} or {that}?"
        valid = (one.kind, other.kind)
        sentence = f"{upper(larger)} is {adjective}."
        return Asked(text, thing.kind, sentence, "compare", "compare", "attr", valid, (first, second))
    name = draw.choice(("colour", "size"))
    same = getattr(one, name) == getattr(other, name)
    # Colours mostly differ, and sizes that differ have mostly been asked of above: both answers are made as frequent.
    if draw.random() < {("colour", False): 0.8, ("size", True): 0.4}.get((name, same), 0.0):
        return None
    text = f"Do {the} and {that} have the same {name}?"
    value, its = getattr(one, name), getattr(other, name)
    statement, denial = f"both are {value}", f"{the} is {value} and {that} is {its}"
    return yes_no(text, same, statement, denial, "compare", "compare", "attr", first, second)


def _writing(scene: Scene, draw: Random) -> Asked | None:
    index = some_thing(scene, draw, lambda thing: bool(thing.writing))
    if index is None:
        return None
    text = scene.things[index].writing
    sentence = f"the sign says {text}"
    if draw.random() < 0.7:
        asked = draw.choice(
            ("What does the sign say?", "What is written on the sign?", "What can be read on the sign?")
        )
        return Asked(asked, text, f"{upper(sentence)}.", "writing", "query", "attr", (), (index,))
    truth = draw.random() < 0.5
    shown = text if truth else misread(text, draw)
    return yes_no(f"Does the sign say {shown}?", truth, sentence, sentence, "writing", "verify", "attr", index)


def misread(text: str, draw: Random) -> str:
    """What a sign might say instead: one character is another of its kind."""
    place = draw.randrange(len(text))
    characters = DIGITS if text[place] in DIGITS else LETTERS
    return text[:place] + another(characters, text[place], draw) + text[place + 1 :]


def _setting(scene: Scene, draw: Random) -> Asked | None:
    if draw.random() < 0.6:
        text = draw.choice(("Where is this?", "What place is shown?", "What kind of place is this?"))
        sentence = f"This is {article(scene.setting)}."
        return Asked(text, scene.setting, sentence, "setting", "query", "global", SETTINGS)
    truth = draw.random() < 0.5
    shown = scene.setting if truth else another(SETTINGS, scene.setting, draw)
    statement = f"this is {article(scene.setting)}"
    return yes_no(f"Is this {article(shown)}?", truth, statement, statement, "setting", "verify", "global")


def _time(scene: Scene, draw: Random) -> Asked | None:
    # Day is commoner: asked of less often, so that the time cannot be guessed.
    if scene.time == "day" and draw.random() < 0.46:
        return None
    pair = draw.sample(TIMES, 2)
    sentence = f"It is {scene.time}."
    return Asked(f"Is it {pair[0]} or {pair[1]}?", scene.time, sentence, "time", "choose", "global", tuple(TIMES))


_EXIST_ASKED = (
    "Is there {} in the picture?",
    "Is there {} in the image?",
    "Is there {} in this image?",
    "Do you see {}?",
)
_COLOUR_ASKED = ("What colour is {}?", "Which colour does {} have?", "What is the colour of {}?")
_SIZE_ASKED = ("What size is {}?", "How large is {}?")
_PATTERN_ASKED = ("What pattern does {} have?", "Is {} plain, striped or spotted?")
#: What can be asked about, each with a function that draws one question on a scene, or None where it has none to ask.
TOPICS: dict[str, Callable[[Scene, Random], Asked | None]] = {
    "colour": _property("colour", COLOURS, _COLOUR_ASKED),
    "size": _property("size", SIZES, _SIZE_ASKED),
    "pattern": _property("pattern", PATTERNS, _PATTERN_ASKED),
    "state": _state,
    "exist": _exist,
    "logical": _logical,
    "kind": _kind,
    "category": _category,
    "count": _count,
    "place": _place,
    "relation": _relation,
    "compare": _compare,
    "writing": _writing,
    "setting": _setting,
    "time": _time,
    **REASONING,
}
#: How often a topic is asked, where not once.
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
    scene: Scene, draw: Random, tries: int = 200, topics: Sequence[str] | None = None
) -> Iterator[Asked]:
    """All that can be found to ask of a scene in this many tries, each once.

    Args:
        topics: names in `TOPICS`, all tried equally often; all by default.
    """
    names = list(topics or TOPICS)
    seen = set()
    for _ in range(tries):
        asked = TOPICS[draw.choice(names)](scene, draw)
        if asked is not None and asked.text not in seen:
            seen.add(asked.text)
            yield asked
