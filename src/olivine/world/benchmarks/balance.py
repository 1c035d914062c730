"""Choosing questions so that no answer can be guessed from the question: what every benchmark here leans on.

Each form of question gets its answers as evenly as the images allow.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from random import Random

from olivine.world.asked import YES_NO, Asked
from olivine.world.questions import WEIGHT, every_question
from olivine.world.scene import Scene

#: How often topics are tried on a scene before choosing among what they gave.
_TRIES = 150


class Balance:
    """Counts what has been asked and answered, and picks what evens it out.

    A question's form is its topic and structural type; yes/no questions are evened out for each wording as well, so
    that knowing what is common in the world does not help.
    """

    def __init__(self) -> None:
        self._of_form: dict[object, Counter[str]] = defaultdict(Counter)
        self._of_topic: Counter[str] = Counter()

    def pick(self, candidates: Sequence[Asked], count: int) -> list[Asked]:
        """`count` of the candidates, all of one scene; fewer if there are no more."""
        left = list(candidates)
        picked: list[Asked] = []
        while left and len(picked) < count:
            best = min(left, key=self._cost)
            self._count(best)
            picked.append(best)
            left = [asked for asked in left if asked.text != best.text]
        return picked

    def _cost(self, asked: Asked) -> float:
        excess = max(self._excess(key, asked) for key in _forms(asked))
        # A topic whose turn it is goes before others, unless its answers would become lopsided.
        return excess + self._of_topic[asked.topic] / WEIGHT.get(asked.topic, 1.0) / 4

    def _excess(self, key: object, asked: Asked) -> float:
        """How much more often than the form's other answers this one has been given already."""
        counts = self._of_form[key]
        others = [counts[answer] for answer in (asked.valid or counts) if answer != asked.answer]
        mean = sum(others) / len(others) if others else 0.0
        return 4 * (counts[asked.answer] - mean) / (1 + mean) ** 0.5

    def _count(self, asked: Asked) -> None:
        self._of_topic[asked.topic] += 1
        for key in _forms(asked):
            self._of_form[key][asked.answer] += 1


def _forms(asked: Asked) -> list[object]:
    form: list[object] = [(asked.topic, asked.structural)]
    return [*form, asked.text] if asked.valid == YES_NO else form


def candidates(scene: Scene, draw: Random, topics: Sequence[str]) -> list[Asked]:
    """All that is found to ask of a scene on these topics, in a drawn order."""
    found = list(every_question(scene, draw, _TRIES, topics))
    draw.shuffle(found)
    return found
