"""Choosing questions so that no answer can be guessed from the question: what every benchmark here leans on.

Each form of question gets its answers as evenly as the images allow.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from random import Random

from olivine.world.question import YES_NO, Question
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

    def pick(self, candidates: Sequence[Question], count: int) -> list[Question]:
        """`count` of the candidates, all of one scene; fewer if there are no more."""
        left = list(candidates)
        picked: list[Question] = []
        while left and len(picked) < count:
            best = min(left, key=self._cost)
            self._count(best)
            picked.append(best)
            left = [question for question in left if question.text != best.text]
        return picked

    def _cost(self, question: Question) -> float:
        excess = max(self._excess(key, question) for key in _forms(question))
        # A topic whose turn it is goes before others, unless its answers would become lopsided.
        return excess + self._of_topic[question.topic] / WEIGHT.get(question.topic, 1.0) / 4

    def _excess(self, key: object, question: Question) -> float:
        """How much more often than the form's other answers this one has been given already."""
        counts = self._of_form[key]
        others = [counts[answer] for answer in (question.valid or counts) if answer != question.answer]
        mean = sum(others) / len(others) if others else 0.0
        return 4 * (counts[question.answer] - mean) / (1 + mean) ** 0.5

    def _count(self, question: Question) -> None:
        self._of_topic[question.topic] += 1
        for key in _forms(question):
            self._of_form[key][question.answer] += 1


def _forms(question: Question) -> list[object]:
    form: list[object] = [(question.topic, question.structural)]
    return [*form, question.text] if question.valid == YES_NO else form


def candidates(scene: Scene, rng: Random, topics: Sequence[str]) -> list[Question]:
    """All that is found to ask of a scene on these topics, in a drawn order."""
    found = list(every_question(scene, rng, _TRIES, topics))
    rng.shuffle(found)
    return found
