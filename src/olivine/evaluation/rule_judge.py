"""A judge that is a rule: how many of the reference's elements an answer says. For use without any endpoint.

It is not MM-Vet's judge, and its figures do not compare with those of one: it neither understands nor doubts.
"""

import re

from olivine.evaluation.judge import JudgeReply

#: What scores call it.
RULE = "rule: elements found"


class RuleJudge:
    """Grades an answer by the share of the reference's elements that stand in it as whole words, case ignored.

    Elements are parted by <AND>; one that lists alternatives by <OR> is found if any of them is. An answer that says
    more than the elements loses nothing by it, so it flatters answers that say everything at once.
    """

    model = RULE

    def grade(self, reference: str, answer: str) -> tuple[JudgeReply, float]:
        """The elements found, as `found of all`, and their share, in [0, 1]."""
        elements = [element.split("<OR>") for element in reference.split("<AND>")]
        found = sum(any(_says(answer, alternative) for alternative in alternatives) for alternatives in elements)
        return JudgeReply(f"{found} of {len(elements)}", self.model), found / len(elements)

    def about(self) -> dict[str, str]:
        """What scores must say about who graded."""
        return {"judge": self.model}


def _says(answer: str, element: str) -> bool:
    words = r"\s+".join(re.escape(word) for word in element.split())
    return bool(words) and re.search(rf"(?<!\w){words}(?!\w)", answer, re.IGNORECASE) is not None
