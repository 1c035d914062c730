"""One answer to explain: its prompt, the image's tokens, and the tokens of the answer whose probability is asked about.

Methods (in `methods`) turn a case into scores of its image tokens; `explainer` makes cases.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from olivine.explanation.token_grid import TokenGrid
from olivine.model.recorded_attention import AttentionRecord, run_sequences
from olivine.model.vlm import VisionLanguageModel

#: What of the explained tokens is differentiated or compared.
Scored = Literal["log-probability", "logit"]
#: Tokens of sequences that run forward at once; bounds memory, changes no map beyond rounding.
BUDGET = 6_000


@dataclass(frozen=True, slots=True)
class Case:
    """An answer's tokens to explain.

    Attributes:
        vlm: the model, in evaluation mode, with no weight that takes gradients.
        ids: `[tokens]` int64, the prompt and the answer up to the last explained token, which itself is not in it.
        image_positions: `[image tokens]` int64, where in `ids` the image's tokens are.
        predicting: positions in `ids` that predict the explained tokens.
        explained: those tokens' ids.
        features: `[image tokens, hidden]`, the connector's output.
        baseline: `[image tokens, hidden]`, what stands for a removed token.
        grid: where in the image each token is.
        key: decides what is random; the same for the same question.
        backward_budget: tokens of sequences that run forward and backward at once.
    """

    vlm: VisionLanguageModel
    ids: Tensor
    image_positions: Tensor
    predicting: tuple[int, ...]
    explained: tuple[int, ...]
    features: Tensor
    baseline: Tensor
    grid: TokenGrid
    key: str
    backward_budget: int = BUDGET

    @property
    def micro_batch(self) -> int:
        """How many sequences run forward at once."""
        return max(1, BUDGET // len(self.ids))

    @property
    def backward_batch(self) -> int:
        """How many sequences run forward and backward at once."""
        return max(1, self.backward_budget // len(self.ids))

    def embed(self, features: Tensor) -> Tensor:
        """Return embeddings `[sequences, tokens, hidden]` with features `[sequences, image tokens, hidden]`."""
        ids = self.ids[None].expand(len(features), -1)
        text: Tensor = self.vlm.model.get_input_embeddings()(ids)
        return text.index_copy(1, self.image_positions, features.to(text.dtype))

    def scores(
        self, features: Tensor, scored: Scored = "log-probability", record: AttentionRecord | None = None
    ) -> Tensor:
        """Return the explained tokens' log-probability (or logit), summed over them; gradients flow.

        Args:
            features: `[sequences, image tokens, hidden]`.
            scored: what of the tokens.
            record: keeps attention weights, if any are needed.

        Returns:
            `[sequences]` fp32.
        """
        return explained_scores(self.vlm, self.embed(features), self.predicting, self.explained, scored, record)

    @torch.no_grad()
    def kept_only(self, kept: Tensor) -> Tensor:
        """Return the log-probability with some image tokens replaced by the baseline.

        Args:
            kept: `[sequences, image tokens]` bool, True where a token stays.

        Returns:
            `[sequences]` fp32, on the CPU.
        """
        chunks = kept.to(self.features.device).split(self.micro_batch)
        found = [self.scores(torch.where(chunk[..., None], self.features, self.baseline)) for chunk in chunks]
        return torch.cat(found).cpu()


def explained_scores(
    vlm: VisionLanguageModel,
    embedded: Tensor,
    predicting: tuple[int, ...],
    explained: tuple[int, ...],
    scored: Scored = "log-probability",
    record: AttentionRecord | None = None,
) -> Tensor:
    """Return the log-probability (or logit) of tokens at some positions of sequences, summed over them, `[sequences]`.

    Args:
        vlm: the model.
        embedded: `[sequences, tokens, hidden]`.
        predicting: the positions that predict the tokens.
        explained: the tokens' ids.
        scored: what of the tokens.
        record: keeps attention weights, if any are needed.
    """
    hidden = run_sequences(vlm.language, embedded, record=record)
    logits = vlm.logits(hidden[:, list(predicting)]).float()
    values = logits.log_softmax(dim=-1) if scored == "log-probability" else logits
    tokens = torch.tensor(explained, device=logits.device)
    return values.gather(-1, tokens[None, :, None].expand(len(logits), -1, 1)).sum(dim=(1, 2))
