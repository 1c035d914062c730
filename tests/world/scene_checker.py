"""An independent solver: parses a question's words and answers it from the scene's plain values.

Shares no code with the package. Facts of the language (plurals, categories, what objects are for) are written out
again. A question that has no single right answer is an error, not a guess.
"""

import re

COLOURS = {"red", "yellow", "green", "blue", "purple", "pink", "white", "black"}
SIZES = {"small", "large"}
PATTERNS = {"plain", "striped", "spotted"}
STATES = {"open", "closed", "full", "empty", "on", "off", "left", "right"}
SETTINGS = {"park", "street", "kitchen", "beach"}
PLURALS = {
    "balls": "ball",
    "kites": "kite",
    "boxes": "box",
    "cups": "cup",
    "fish": "fish",
    "birds": "bird",
    "trees": "tree",
    "flowers": "flower",
    "houses": "house",
    "cars": "car",
    "lamps": "lamp",
    "signs": "sign",
}
KINDS = set(PLURALS.values())
MEMBERS = {
    "toy": {"ball", "kite"},
    "container": {"box", "cup"},
    "animal": {"fish", "bird"},
    "plant": {"tree", "flower"},
    "building": {"house"},
    "vehicle": {"car"},
    "light": {"lamp"},
    "board": {"sign"},
}
SERVES = {
    "can fly": {"bird", "kite"},
    "lives in water": {"fish"},
    "lays eggs": {"bird", "fish"},
    "grows in the ground": {"tree", "flower"},
    "one can play with": {"ball", "kite"},
    "one can put things into": {"box", "cup"},
    "one can drink from": {"cup"},
    "one can drive": {"car"},
    "one can live in": {"house"},
    "one can read": {"sign"},
    "gives light": {"lamp"},
}
NUMBERS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
PLACES = "top left|top right|bottom left|bottom right|top|bottom|left|right|middle"
AT = rf"(?:at|in|on) the ({PLACES})(?: corner| side| of the picture)?"
RELATION = r"(?:to the left of|to the right of|above|below)"
HERE = r"in (?:the picture|the image|this image)"
THIRD = 32.0
CLEAR = 14.0


class DoubtfulError(AssertionError):
    """The question has more than one right answer, or none."""


def answer(text, scene):
    """Return the answer to a question about a scene (as `Scene.to_dict` gives it)."""
    for pattern, rule in RULES:
        found = re.fullmatch(pattern, text)
        if found:
            return rule(scene, *found.groups())
    raise DoubtfulError(f"no rule for {text!r}")


def place_of(thing):
    row = ("top", "", "bottom")[int(thing["y"] // THIRD)]
    column = ("left", "", "right")[int(thing["x"] // THIRD)]
    return f"{row} {column}".strip() or "middle"


def only(things, what):
    if len(things) != 1:
        raise DoubtfulError(f"{len(things)} things for {what!r}")
    return things[0]


def resolve(scene, phrase):
    """Return the one object that `the ...` can mean, in the widest reading of its words."""
    found = re.fullmatch(rf"the (?:(\w+) )?(\w+)(?: {AT})?", phrase)
    if not found:
        raise DoubtfulError(f"not a reference: {phrase!r}")
    adjective, kind, place = found.groups()
    assert kind in KINDS, phrase
    things = [t for t in scene["things"] if t["kind"] == kind]
    if adjective:
        name = "colour" if adjective in COLOURS else "size" if adjective in SIZES else "pattern"
        assert adjective in COLOURS | SIZES | PATTERNS, phrase
        things = [t for t in things if t[name] == adjective]
    if place:
        things = standing(things, place)
    return only(things, phrase)


def standing(things, place):
    """Return the objects that could be said to be there: top left is also on the left."""
    return [t for t in things if place == place_of(t) or place in place_of(t).split()]


def yes(truth):
    return "yes" if truth else "no"


def related(first, relation, second):
    """Return whether the relation holds; None if neither it nor its opposite clearly does."""
    axis, sign = {"to the left of": ("x", 1), "to the right of": ("x", -1), "above": ("y", 1), "below": ("y", -1)}[
        relation
    ]
    apart = sign * (second[axis] - first[axis])
    return None if abs(apart) < CLEAR else apart > 0


def surely_related(first, relation, second):
    truth = related(first, relation, second)
    if truth is None:
        raise DoubtfulError("too near to tell")
    return truth


def property_named(value):
    for name, values in (("colour", COLOURS), ("size", SIZES), ("pattern", PATTERNS), ("state", STATES)):
        if value in values:
            return name
    raise DoubtfulError(f"no property has the value {value!r}")


def has(scene, the, value):
    return yes(resolve(scene, the)[property_named(value)] == value)


def which_of(scene, the, first, second):
    value = resolve(scene, the)[property_named(first)]
    if value not in (first, second):
        raise DoubtfulError(f"neither {first} nor {second}")
    return value


def get(name):
    return lambda scene, the: resolve(scene, the)[name]


def exists(scene, what):
    words = what.split()
    names = MEMBERS.get(words[-1], {words[-1]})
    assert names <= KINDS, what
    return yes(any(t["kind"] in names and (len(words) == 1 or t["colour"] == words[0]) for t in scene["things"]))


def kinds(scene):
    return {t["kind"] for t in scene["things"]}


def count(scene, *plurals):
    return sum(t["kind"] in {PLURALS[p] for p in plurals} for t in scene["things"])


def the_only_kind(scene, names):
    found = kinds(scene) & names
    if len(found) != 1:
        raise DoubtfulError(f"{found} fit")
    return found.pop()


def what_is(scene, relation, the):
    other = resolve(scene, the)
    return only([t for t in scene["things"] if t is not other and related(t, relation, other)], relation)["kind"]


def choose_relation(scene, the, first, second, that):
    one, other = resolve(scene, the), resolve(scene, that)
    right = [name for name in (first, second) if surely_related(one, name, other)]
    if len(right) != 1:
        raise DoubtfulError("both or neither")
    return right[0].removeprefix("to the ").removesuffix(" of")


def extreme(scene, adjective, the, that):
    things = [resolve(scene, the), resolve(scene, that)]
    return only([t for t in things if t["size"] == {"larger": "large", "smaller": "small"}[adjective]], adjective)[
        "kind"
    ]


def sign(scene):
    return only([t for t in scene["things"] if t["kind"] == "sign"], "the sign")["writing"]


def digit(scene):
    return int(only(re.findall(r"\d", sign(scene)), "the number on the sign"))


THE = r"(the [\w ]+?)"
RULES = [
    (rf"(?:What|Which) colour (?:is|does) {THE}(?: have)?\?", get("colour")),
    (rf"What is the colour of {THE}\?", get("colour")),
    (rf"(?:What size|How large) is {THE}\?", get("size")),
    (rf"What pattern does {THE} have\?", get("pattern")),
    (rf"Is {THE} plain, striped or spotted\?", get("pattern")),
    (rf"Which way is {THE} facing\?", get("state")),
    (rf"Is the door of {THE} (open|closed) or (open|closed)\?", which_of),
    (rf"Is the door of {THE} (open|closed)\?", has),
    (rf"Is {THE} facing (left|right)\?", has),
    (rf"Is {THE} facing (left|right) or (left|right)\?", which_of),
    (rf"Is {THE} ({RELATION}) or ({RELATION}) (the [\w ]+)\?", choose_relation),
    (rf"Is {THE} ({RELATION}) (the [\w ]+)\?", lambda s, a, r, b: yes(surely_related(resolve(s, a), r, resolve(s, b)))),
    (rf"What is ({RELATION}) (the [\w ]+)\?", what_is),
    (r"Is the number on the sign plus (\d) equal to (\d+)\?", lambda s, n, m: yes(digit(s) + int(n) == int(m))),
    (r"What is the number on the sign plus (\d)\?", lambda s, n: str(digit(s) + int(n))),
    (r"Is this an? (\w+)\?", lambda s, setting: yes(s["setting"] == setting)),
    (r"Is this picture captured in a place of (\w+)\?", lambda s, setting: yes(s["setting"] == setting)),
    (r"Is it (?:day or night|night or day)\?", lambda s: s["time"]),
    (r"Where is this\?|What place is shown\?|What kind of place is this\?", lambda s: s["setting"]),
    (rf"Is there something that (.+?) {HERE}\?", lambda s, use: yes(kinds(s) & SERVES[use])),
    (r"Which thing that (.+?) is in the picture\?", lambda s, use: the_only_kind(s, SERVES[use])),
    (rf"Is there an? ([\w ]+?) {HERE}\?", exists),
    (r"Do you see an? ([\w ]+)\?", exists),
    (r"Are there both an? (\w+) and an? (\w+) in the picture\?", lambda s, a, b: yes({a, b} <= kinds(s))),
    (r"Is there either an? (\w+) or an? (\w+) in the picture\?", lambda s, a, b: yes({a, b} & kinds(s))),
    (r"What is the (\w+) thing\?", lambda s, c: only([t for t in s["things"] if t["colour"] == c], c)["kind"]),
    (r"What thing is (\w+)\?", lambda s, c: only([t for t in s["things"] if t["colour"] == c], c)["kind"]),
    (rf"What is {AT}\?", lambda s, place: only(standing(s["things"], place), place)["kind"]),
    (r"Which (\w+) is in the picture\?", lambda s, category: the_only_kind(s, MEMBERS[category])),
    (r"How many things are (?:there|in the picture)\?", lambda s: str(len(s["things"]))),
    (r"How many (\w+) are (?:there|in the picture)\?", lambda s, p: str(count(s, p))),
    (r"How many (\w+) and (\w+) are there in all\?", lambda s, p, q: str(count(s, p, q))),
    (r"Are there more (\w+) than (\w+)\?", lambda s, p, q: yes(count(s, p) > count(s, q))),
    (rf"Are there (\w+) (\w+) {HERE}\?", lambda s, n, p: how_many(s, NUMBERS.index(n), p)),
    (rf"(?:Where in the picture|In which part of the picture) is {THE}\?", lambda s, the: place_of(resolve(s, the))),
    (rf"Which is (larger|smaller), {THE} or (the [\w ]+)\?", extreme),
    (
        rf"Do {THE} and (the [\w ]+?) have the same (\w+)\?",
        lambda s, a, b, name: yes(resolve(s, a)[name] == resolve(s, b)[name]),
    ),
    (r"What (?:does the sign say|is written on the sign|can be read on the sign)\?", sign),
    (r"Does the sign say (\w+)\?", lambda s, shown: yes(sign(s) == shown)),
    (rf"Is {THE} (\w+) or (\w+)\?", which_of),
    (rf"Is {THE} (\w+)\?", has),
]


def how_many(scene, number, plural):
    there = count(scene, plural)
    if there > number:
        raise DoubtfulError("of more than so many it is also true that there are so many")
    return yes(there == number)


ARTICLE = r"(?:[Aa]n?)"
THING = re.compile(
    r"(small|large)(?: (plain|striped|spotted))? (\w+) (\w+)"
    r"(?: that says (\w+)| facing (left|right)| with an? (open|closed) door| that is (\w+))?"
)


def scene_in(description):
    """Return the scene that a full description describes; a place means the middle of its ninth of the image."""
    things = []
    setting = next(name for name in sorted(SETTINGS | {"road", "sea"}) if re.search(rf"\b{name}\b", description))
    time = "night" if re.search(r"\bat night|by night|in the dark", description) else "day"
    for sentence in description.split(". "):
        found = THING.search(sentence)
        if not found:
            continue
        rest = sentence[: found.start()] + sentence[found.end() :]
        place = re.search(AT, rest.replace("At", "at").replace("In", "in").replace("On", "on"))[1]
        size, pattern, colour, kind, writing, facing, door, state = found.groups()
        assert colour in COLOURS, sentence
        assert kind in KINDS, sentence
        words = place.split()
        things.append(
            {
                "kind": kind,
                "colour": colour,
                "size": size,
                "pattern": pattern or "plain",
                "state": facing or door or state or "",
                "writing": writing or "",
                "x": 16.0 if "left" in words else 80.0 if "right" in words else 48.0,
                "y": 16.0 if "top" in words else 80.0 if "bottom" in words else 48.0,
            }
        )
    return {"setting": {"road": "street", "sea": "beach"}.get(setting, setting), "time": time, "things": things}
