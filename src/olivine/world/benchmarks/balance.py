"""Selection of questions so that no answer can be guessed from the question; used by the world's benchmarks.

Each form of question gets its answers as evenly as the images allow.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from random import Random

from olivine.world.question import YES_NO, Question
from olivine.world.questions import WEIGHT, every_question
from olivine.world.scene import Scene

#: How many times topics are tried on a scene before selecting among the results.
_TRIES = 150


class Balance:
    """Counts of questions and answers so far, and selection of what balances them.

    A question's form is its topic and structural type; yes/no questions are balanced for each wording as well, so
    that knowing what is common in the world does not help.
    """

    def __init__(self) -> None:
        self._of_form: dict[object, Counter[str]] = defaultdict(Counter)
        self._of_topic: Counter[str] = Counter()

    def pick(self, candidates: Sequence[Question], count: int) -> list[Question]:
        """Select `count` of the candidates, all of one scene; fewer if there are no more."""
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
        # A topic whose turn it is comes first, unless its answers would become imbalanced.
        return excess + self._of_topic[question.topic] / WEIGHT.get(question.topic, 1.0) / 4

    def _excess(self, key: object, question: Question) -> float:
        """Return how much more frequent this answer is already than the form's other answers."""
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
    """Return every question found for a scene on these topics, shuffled."""
    found = list(every_question(scene, rng, _TRIES, topics))
    rng.shuffle(found)
    return found
