"""Questions that need more than looking: what objects are for, and arithmetic on what is seen.

Questions that looking alone answers are in `questions`.
"""

from collections.abc import Callable
from random import Random

from olivine.world.language import article, number
from olivine.world.question import Question, another, some_object, tempting_absence, upper, yes_no
from olivine.world.sampling import DIGITS
from olivine.world.scene import CLASSES, Scene

#: Facts about objects, and the classes for which they are true.
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


def use(scene: Scene, rng: Random) -> Question | None:
    """Ask whether something present serves a purpose, or which object does."""
    if rng.random() < 0.4:
        return _which_serves(scene, rng)
    truth = rng.random() < 0.5
    fitting = [
        purpose
        for purpose, classes in USES.items()
        if any(class_name in scene.classes for class_name in classes) == truth
    ]
    purpose = rng.choice(fitting)
    objects = tuple(i for i, obj in enumerate(scene.objects) if obj.class_name in USES[purpose])
    where = rng.choice(("in the picture", "in the image", "in this image"))
    what = f"something that {purpose}"
    statement = f"there is {article(scene.objects[objects[0]].class_name)}" if truth else ""
    denial = f"there is nothing that {purpose}"
    return yes_no(f"Is there {what} {where}?", truth, statement, denial, "use", "verify", "obj", *objects)


def _which_serves(scene: Scene, rng: Random) -> Question | None:
    # With a single class that serves it, the answer would be known without looking.
    purpose = rng.choice([purpose for purpose, classes in USES.items() if len(classes) > 1])
    objects = tuple(i for i, obj in enumerate(scene.objects) if obj.class_name in USES[purpose])
    classes = {scene.objects[i].class_name for i in objects}
    if len(classes) != 1:
        return None
    class_name = classes.pop()
    sentence = f"{upper(article(class_name))} is something that {purpose}."
    text = f"Which thing that {purpose} is in the picture?"
    return Question(text, class_name, sentence, "use", "query", "obj", USES[purpose], objects)


def total(scene: Scene, rng: Random) -> Question | None:
    """Ask for the total of two classes, which of them is more frequent, or a sum with the number on a sign."""
    form = rng.random()
    if form < 0.4:
        return _number_on_sign(scene, rng)
    first = rng.choice(scene.classes)
    second = tempting_absence(scene, rng) if rng.random() < 0.3 else rng.choice(scene.classes)
    if first == second:
        return None
    pair = rng.sample([first, second], 2)
    counts = [len(scene.of_class(class_name)) for class_name in pair]
    plurals = [CLASSES[class_name].plural for class_name in pair]
    if form < 0.7:
        objects = tuple(i for i, obj in enumerate(scene.objects) if obj.class_name in pair)
        text = f"How many {plurals[0]} and {plurals[1]} are there in all?"
        sentence = f"There {'is' if sum(counts) == 1 else 'are'} {number(sum(counts))} in all."
        return Question(text, str(sum(counts)), sentence, "total", "query", "obj", SUMS, objects)
    truth = counts[0] > counts[1]
    # Usually there are not more, since there may be as many.
    if not truth and rng.random() < 0.4:
        return None
    statement = f"there are more {plurals[0]} than {plurals[1]}"
    denial = f"there are not more {plurals[0]} than {plurals[1]}"
    text = f"Are there more {plurals[0]} than {plurals[1]}?"
    return yes_no(text, truth, statement, denial, "total", "verify", "obj")


def _number_on_sign(scene: Scene, rng: Random) -> Question | None:
    index = some_object(scene, rng, lambda obj: any(character in DIGITS for character in obj.writing))
    if index is None:
        return None
    digit = int("".join(character for character in scene.objects[index].writing if character in DIGITS))
    added = rng.randint(1, _MOST_ADDED)
    right = str(digit + added)
    what = f"the number on the sign plus {added}"
    if rng.random() < 0.7:
        sentence = f"{upper(what)} is {right}."
        return Question(f"What is {what}?", right, sentence, "total", "query", "attr", SUMS, (index,))
    truth = rng.random() < 0.5
    claimed = right if truth else another(SUMS, right, rng)
    statement = f"{what} is {right}"
    return yes_no(f"Is {what} equal to {claimed}?", truth, statement, statement, "total", "verify", "attr", index)


#: Every possible sum.
SUMS = tuple(str(value) for value in range(9 + _MOST_ADDED + 1))
#: Topics for `questions.TOPICS`.
REASONING: dict[str, Callable[[Scene, Random], Question | None]] = {"use": use, "total": total}
