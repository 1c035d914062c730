"""The proof of an export: both sides answer the same questions, and how far they agree is measured and judged.

Which questions is in `export_samples`; how a target's own runtime is asked is in `plain_transformers` and `llama_cpp`.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from olivine.conversion.export_samples import ProofSample
from olivine.model.generate import answer_one
from olivine.model.vlm import VisionLanguageModel

#: Answers are cut after this many tokens, on both sides.
MAX_NEW_TOKENS = 32
#: Largest difference of fp32 logits, as a share of the largest logit.
LOGITS_AGREE = 1e-4
#: Share of answers that must be equal, by precision of what was written.
ANSWERS_AGREE = {"float32": 0.95, "float16": 0.95, "bfloat16": 0.95, "q8_0": 0.9}


@dataclass(slots=True)
class Side:
    """What one side said.

    Attributes:
        runtime: its name and version.
        answers: one a sample.
        lengths: tokens of each prompt.
        logits: of the first answer token, `[samples, vocabulary]`; None where only `top` is known.
        top: log-probabilities of the most probable first tokens, by id.
    """

    runtime: str
    answers: list[str]
    lengths: list[int]
    logits: NDArray[np.float32] | None = None
    top: list[dict[int, float]] | None = None


@dataclass(frozen=True, slots=True)
class Proof:
    """How far the two sides agree.

    Attributes:
        runtime: the other side.
        precision: of what was written.
        samples: how many questions were asked.
        equal_answers: how many were answered with the same text.
        required_answers: how many must be.
        largest_difference: of logits, or of log-probabilities of the other side's 20 most probable first tokens.
        largest_logit: in magnitude; None where log-probabilities were compared.
        equal_prompts: how many prompts have as many tokens on both sides.
        required_difference: the largest difference that passes, as a share of the largest logit; None for any.
        notes: what a reader must know of the comparison.
        differing: sample, Olivine's answer and the other's, where they differ.
    """

    runtime: str
    precision: str
    samples: int
    equal_answers: int
    required_answers: int
    largest_difference: float
    largest_logit: float | None
    equal_prompts: int
    required_difference: float | None
    notes: tuple[str, ...]
    differing: tuple[dict[str, Any], ...]

    @property
    def passed(self) -> bool:
        """Whether both sides agree as far as the precision demands."""
        close = True
        if self.required_difference is not None and self.largest_logit is not None:
            close = self.largest_difference <= self.required_difference * self.largest_logit
        return close and self.equal_answers >= self.required_answers and self.equal_prompts == self.samples

    def summary(self) -> str:
        """Return the agreement in one line."""
        what = "log-probabilities" if self.largest_logit is None else f"logits (largest {self.largest_logit:.4g})"
        return (
            f"{self.runtime}: {self.equal_answers} of {self.samples} answers equal ({self.required_answers} required), "
            f"{self.equal_prompts} of {self.samples} prompts; largest difference of {what} "
            f"{self.largest_difference:.2g}"
        )

    def as_json(self) -> dict[str, Any]:
        """Return the record that is written beside the export."""
        return {"passed": self.passed, **asdict(self)}


@torch.no_grad()
def own_side(vlm: VisionLanguageModel, samples: Sequence[ProofSample]) -> Side:
    """Answer with the model as Olivine has it, in the dtype that it has."""
    encoder, logits, answers, lengths = vlm.encoder(), [], [], []
    dtype = next(vlm.tower.parameters()).dtype
    for sample in samples:
        prefix, continuation = encoder.prompt(sample.question, True, None)
        ids = torch.tensor([prefix + continuation], device=vlm.device)
        pixels = torch.from_numpy(vlm.transform(sample.image)[None]).to(vlm.device, dtype)
        out = vlm.model(input_ids=ids, attention_mask=torch.ones_like(ids), pixel_values=pixels)
        logits.append(out.logits[0, -1].float().cpu().numpy())
        answers.append(answer_one(vlm, sample.question, sample.image, max_new_tokens=MAX_NEW_TOKENS))
        lengths.append(ids.shape[1])
    return Side("Olivine", answers, lengths, np.stack(logits))


def compare(own: Side, other: Side, precision: str, *, exact: bool, notes: Sequence[str] = ()) -> Proof:
    """Judge the agreement of two sides.

    Args:
        own: with logits.
        other: with logits, or with the most probable tokens.
        precision: a key of `ANSWERS_AGREE`.
        exact: the weights were written as they are, so that logits must agree too.
        notes: go into the record.
    """
    count = len(own.answers)
    assert own.logits is not None, "Olivine's side has logits"
    pairs = list(zip(own.answers, other.answers, strict=True))
    if other.logits is not None:
        rows = min(own.logits.shape[1], other.logits.shape[1])
        difference = float(np.abs(own.logits[:, :rows] - other.logits[:, :rows]).max())
        difference = float("inf") if np.isnan(difference) else difference
    else:
        difference = _top_difference(own.logits, other.top or [])
    return Proof(
        runtime=other.runtime,
        precision=precision,
        samples=count,
        equal_answers=sum(a == b for a, b in pairs),
        required_answers=int(np.ceil(ANSWERS_AGREE[precision] * count)),
        largest_difference=difference,
        largest_logit=None if other.logits is None else float(np.abs(own.logits).max()),
        equal_prompts=sum(a == b for a, b in zip(own.lengths, other.lengths, strict=True)),
        required_difference=LOGITS_AGREE if exact and other.logits is not None else None,
        notes=tuple(notes),
        differing=tuple({"sample": number, "olivine": a, "other": b} for number, (a, b) in enumerate(pairs) if a != b),
    )


def _top_difference(logits: NDArray[np.float32], top: Sequence[dict[int, float]]) -> float:
    own = torch.from_numpy(logits).log_softmax(-1)
    differences = [abs(float(own[row, token]) - value) for row, of in enumerate(top) for token, value in of.items()]
    return max(differences, default=0.0)
