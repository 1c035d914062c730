"""The randomised-weights check (Adebayo et al. 2018, arXiv:1810.03292): a map must depend on what the model learnt."""

import numpy as np
import torch
from scipy.stats import rankdata
from torch import Tensor

from olivine.explanation.token_grid import TokenGrid
from olivine.model.vlm import VisionLanguageModel
from olivine.statistics import generator


@torch.no_grad()
def randomise(vlm: VisionLanguageModel) -> None:
    """Replace the weights of the language model's blocks, in place, by normal ones of the same standard deviation.

    Norms, embeddings, head, connector and tower stay: the image's tokens are the same, and so are the words.
    """
    for number, block in enumerate(vlm.layers):
        for name, weight in block.named_parameters():
            if weight.ndim < 2:
                continue
            drawn = generator("randomised weights", f"{number} {name}").standard_normal(
                tuple(weight.shape), dtype=np.float32
            )
            weight.copy_(torch.from_numpy(drawn).to(weight.device) * weight.float().std())


def rank_correlation(grid: TokenGrid, one: Tensor, other: Tensor) -> float:
    """Return Spearman's rank correlation of two maps over the tokens that have a place; 0 if one is constant."""
    ranks = [rankdata(grid.of_tokens(scores).double().numpy()) for scores in (one, other)]
    if any(each.std() == 0 for each in ranks):
        return 0.0
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])
