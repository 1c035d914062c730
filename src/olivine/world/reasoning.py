"""Questions that take more than looking: what things are for, and counting on from what is seen.

Questions that looking alone answers are in `questions`.
"""

from collections.abc import Callable
from random import Random

from olivine.world.asked import Asked, another, some_thing, tempting_absence, upper, yes_no
from olivine.world.language import article, number
from olivine.world.sampling import DIGITS
from olivine.world.scene import KINDS, Scene

#: What is known of things, and of which kinds it is true.
USES: dict[str, tuple[str, ...]] = {
    "can fly": ("bird", "kite"),
    "lives in water": ("fish",),
    "lays eggs": ("bird", "fish"),
    "grows in the ground": ("tree", "flower"),
    "one can play with": ("ball", "kite"),
    "one can put things into": ("box", "cup"),
    "one can drink from": ("cup",),
    "one can drive": ("car",),
    "one can live in": ("house",),
    "one can read": ("sign",),
    "gives light": ("lamp",),
}
_MOST_ADDED = 5


def use(scene: Scene, draw: Random) -> Asked | None:
    """Whether something there serves a purpose, or which of the things there does."""
    if draw.random() < 0.4:
        return _which_serves(scene, draw)
    truth = draw.random() < 0.5
    fitting = [purpose for purpose, kinds in USES.items() if any(kind in scene.kinds for kind in kinds) == truth]
    purpose = draw.choice(fitting)
    things = tuple(i for i, thing in enumerate(scene.things) if thing.kind in USES[purpose])
    where = draw.choice(("in the picture", "in the image", "in this image"))
    what = f"something that {purpose}"
    statement = f"there is {article(scene.things[things[0]].kind)}" if truth else ""
    denial = f"there is nothing that {purpose}"
    return yes_no(f"Is there {what} {where}?", truth, statement, denial, "use", "verify", "obj", *things)


def _which_serves(scene: Scene, draw: Random) -> Asked | None:
    # With a single kind that serves, the answer would be known without looking.
    purpose = draw.choice([purpose for purpose, kinds in USES.items() if len(kinds) > 1])
    things = tuple(i for i, thing in enumerate(scene.things) if thing.kind in USES[purpose])
    kinds = {scene.things[i].kind for i in things}
    if len(kinds) != 1:
        return None
    kind = kinds.pop()
    sentence = f"{upper(article(kind))} is something that {purpose}."
    text = f"Which thing that {purpose} is in the picture?"
    return Asked(text, kind, sentence, "use", "query", "obj", USES[purpose], things)


def total(scene: Scene, draw: Random) -> Asked | None:
    """How many things of two kinds there are in all, which are more, or a sum with the number on a sign."""
    form = draw.random()
    if form < 0.4:
        return _number_on_sign(scene, draw)
    first = draw.choice(scene.kinds)
    second = tempting_absence(scene, draw) if draw.random() < 0.3 else draw.choice(scene.kinds)
    if first == second:
        return None
    pair = draw.sample([first, second], 2)
    counts = [len(scene.of_kind(kind)) for kind in pair]
    plurals = [KINDS[kind].plural for kind in pair]
    if form < 0.7:
        things = tuple(i for i, thing in enumerate(scene.things) if thing.kind in pair)
        text = f"How many {plurals[0]} and {plurals[1]} are there in all?"
        sentence = f"There {'is' if sum(counts) == 1 else 'are'} {number(sum(counts))} in all."
        return Asked(text, str(sum(counts)), sentence, "total", "query", "obj", SUMS, things)
    truth = counts[0] > counts[1]
    # Mostly there are not more, for there may be as many.
    if not truth and draw.random() < 0.4:
        return None
    statement = f"there are more {plurals[0]} than {plurals[1]}"
    denial = f"there are not more {plurals[0]} than {plurals[1]}"
    text = f"Are there more {plurals[0]} than {plurals[1]}?"
    return yes_no(text, truth, statement, denial, "total", "verify", "obj")


def _number_on_sign(scene: Scene, draw: Random) -> Asked | None:
    index = some_thing(scene, draw, lambda thing: any(character in DIGITS for character in thing.writing))
    if index is None:
        return None
    digit = int("".join(character for character in scene.things[index].writing if character in DIGITS))
    added = draw.randint(1, _MOST_ADDED)
    right = str(digit + added)
    what = f"the number on the sign plus {added}"
    if draw.random() < 0.7:
        sentence = f"{upper(what)} is {right}."
        return Asked(f"What is {what}?", right, sentence, "total", "query", "attr", SUMS, (index,))
    truth = draw.random() < 0.5
    shown = right if truth else another(SUMS, right, draw)
    statement = f"{what} is {right}"
    return yes_no(f"Is {what} equal to {shown}?", truth, statement, statement, "total", "verify", "attr", index)


#: Every number that a sum can come to.
SUMS = tuple(str(value) for value in range(9 + _MOST_ADDED + 1))
#: Topics for `questions.TOPICS`.
REASONING: dict[str, Callable[[Scene, Random], Asked | None]] = {"use": use, "total": total}
