"""The training losses: next token at labelled positions only, and images against captions.

Logits are computed at labelled positions only.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from olivine.data.packing import IGNORED

#: Logits held at once, on a CPU and on a GPU: 256 MB and 1 GB in fp32 for each of the few copies that a loss makes.
#: Every chunk adds to the head's gradient once, which costs a GPU relatively more, since its products are faster.
CHUNK_ON_CPU, CHUNK_ON_GPU = 2**26, 2**28


def logit_rows_at_once(vocabulary: int, *, on_gpu: bool) -> int:
    """Return the number of labelled positions whose logits are held at once."""
    return max(1, (CHUNK_ON_GPU if on_gpu else CHUNK_ON_CPU) // vocabulary)


def labelled_loss(
    hidden: Tensor,
    targets: Tensor,
    head: nn.Linear,
    labelled: Tensor | None = None,
    cap: float | None = None,
    weights: Tensor | None = None,
) -> Tensor:
    """Return the summed cross-entropy over labelled positions.

    Equal to the sum that the model's own `labels` loss averages, in fp32 whatever the dtype of `hidden`. Beyond one
    chunk the gradients are computed chunk by chunk along with the loss, so that logits are neither kept nor computed
    twice.

    Args:
        hidden: `[tokens, hidden]`.
        targets: `[tokens]` int64, the token to predict from each position, `IGNORED` for none.
        head: hidden states to `[*, vocabulary]`.
        labelled: `[labels]` int64, the positions with a label, if known; finding them waits for the GPU.
        cap: soft cap of the logits, cap * tanh(logit / cap), as Gemma 2 has it; None for none.
        weights: `[labels]` fp32, the factor of each label's loss; None for one.

    Returns:
        A scalar, fp32; divide by the labelled tokens of the whole batch.
    """
    if labelled is None:
        labelled = (targets != IGNORED).nonzero()[:, 0]
    states, requested = hidden.index_select(0, labelled), targets.index_select(0, labelled)
    rows = logit_rows_at_once(head.out_features, on_gpu=hidden.is_cuda)
    if len(requested) <= rows:
        return _chunk_loss(states, requested, head, cap, weights)
    trained = [parameter for parameter in head.parameters() if parameter.requires_grad]
    loss: Tensor = _LossInChunks.apply(states, requested, head, rows, cap, weights, *trained)
    return loss


class _LossInChunks(torch.autograd.Function):
    """The loss with its gradients, for states and for the head's own parameters, computed in the forward pass."""

    @staticmethod
    def forward(
        ctx: Any,
        states: Tensor,
        requested: Tensor,
        head: nn.Linear,
        rows: int,
        cap: float | None,
        weights: Tensor | None,
        *trained: Tensor,
    ) -> Tensor:
        asked = any(ctx.needs_input_grad)
        total = torch.zeros((), dtype=torch.float32, device=states.device)
        of_states = torch.empty_like(states) if ctx.needs_input_grad[0] else None
        of_head: list[Tensor] = []
        for begin in range(0, len(requested), rows):
            end = begin + rows
            with torch.set_grad_enabled(asked):
                some = states[begin:end].detach().requires_grad_(of_states is not None)
                loss = _chunk_loss(
                    some, requested[begin:end], head, cap, None if weights is None else weights[begin:end]
                )
                given = [some, *trained] if of_states is not None else list(trained)
                found = list(torch.autograd.grad(loss, given)) if asked else []
            total += loss.detach()
            if of_states is not None:
                of_states[begin:end] = found.pop(0)
            if of_head:
                for held, more in zip(of_head, found, strict=True):
                    held += more
            else:
                # Accumulating several chunks' gradients of a head in half precision would lose small terms.
                of_head = [gradient.float() for gradient in found]
        ctx.of_states, ctx.of_head = of_states, of_head
        ctx.dtypes = [parameter.dtype for parameter in trained]
        return total

    @staticmethod
    def backward(ctx: Any, *of_loss: Tensor) -> Any:
        (scale,) = of_loss
        of_states, of_head = ctx.of_states, ctx.of_head
        ctx.of_states = ctx.of_head = None  # a second backward pass would scale them twice: it fails instead
        return (
            None if of_states is None else of_states.mul_(scale.to(of_states.dtype)),
            None,
            None,
            None,
            None,
            None,
            *(held.mul_(scale).to(dtype) for held, dtype in zip(of_head, ctx.dtypes, strict=True)),
        )


def contrastive_loss(images: Tensor, texts: Tensor, scale: Tensor, captions: list[str]) -> Tensor:
    """CLIP's symmetric cross-entropy (arXiv:2103.00020, figure 3), images with equal captions sharing the target.

    With few distinct captions most batches hold the same one twice; counting it as a negative would be wrong.

    Args:
        images, texts: `[batch, width]`, each row of unit length.
        scale: scalar, the logits' multiplier.
        captions: the texts, for finding equal ones.

    Returns:
        A scalar, fp32, averaged over the batch.
    """
    logits = (scale * images @ texts.T).float()
    names = {caption: number for number, caption in enumerate(dict.fromkeys(captions))}
    key = torch.tensor([names[caption] for caption in captions], device=logits.device)
    same = (key[:, None] == key[None]).float()
    target = same / same.sum(dim=1, keepdim=True)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def _chunk_loss(
    states: Tensor, requested: Tensor, head: nn.Module, cap: float | None, weights: Tensor | None
) -> Tensor:
    logits = head(states)
    if cap is not None:  # in the logits' own dtype, as the model itself caps them
        logits = cap * torch.tanh(logits / cap)
    if weights is not None:
        return F.cross_entropy(logits.float(), requested, reduction="none") @ weights
    return F.cross_entropy(logits.float(), requested, reduction="sum")
