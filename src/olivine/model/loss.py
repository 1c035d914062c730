"""The training losses: next token at labelled positions only, and pictures against captions.

No logits are ever computed where there is no label.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from olivine.data.packing import IGNORED

#: Labelled positions per chunk: bounds the logits held at once to chunk x vocabulary.
CHUNK = 1024


def labelled_loss(hidden: Tensor, targets: Tensor, head: Callable[[Tensor], Tensor]) -> Tensor:
    """Summed cross-entropy over labelled positions.

    Equal to the sum that the model's own `labels` loss averages, in fp32 whatever the dtype of `hidden`. Beyond one
    chunk the logits are computed again in the backward pass instead of being kept.

    Args:
        hidden: `[tokens, hidden]`.
        targets: `[tokens]` int64, the token to predict from each place, `IGNORED` for none.
        head: `[*, hidden]` to `[*, vocabulary]`.

    Returns:
        A scalar, fp32; divide by the labelled tokens of the whole batch.
    """
    labelled = targets != IGNORED
    states, wanted = hidden[labelled], targets[labelled]
    if len(wanted) <= CHUNK:
        return _chunk_loss(states, wanted, head)
    total = torch.zeros((), dtype=torch.float32, device=hidden.device)
    for some_states, some_wanted in zip(states.split(CHUNK), wanted.split(CHUNK), strict=True):
        total = total + checkpoint(_chunk_loss, some_states, some_wanted, head, use_reentrant=False)
    return total


def contrastive_loss(pictures: Tensor, texts: Tensor, scale: Tensor, captions: list[str]) -> Tensor:
    """CLIP's symmetric cross-entropy (arXiv:2103.00020, figure 3), pictures with equal captions sharing the target.

    With few distinct captions most batches hold the same one twice; counting it as a negative would teach nonsense.

    Args:
        pictures, texts: `[batch, width]`, of length one each row.
        scale: scalar, the logits' multiplier.
        captions: the texts, for finding equal ones.

    Returns:
        A scalar, fp32, averaged over the batch.
    """
    logits = (scale * pictures @ texts.T).float()
    names = {caption: number for number, caption in enumerate(dict.fromkeys(captions))}
    key = torch.tensor([names[caption] for caption in captions], device=logits.device)
    same = (key[:, None] == key[None]).float()
    target = same / same.sum(dim=1, keepdim=True)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def _chunk_loss(states: Tensor, wanted: Tensor, head: Callable[[Tensor], Tensor]) -> Tensor:
    return F.cross_entropy(head(states).float(), wanted, reduction="sum")
