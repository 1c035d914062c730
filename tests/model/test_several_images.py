"""Two images in a sample: packed equals separate, loss and gradients equal plain transformers', so do processor ids."""

from dataclasses import replace

import pytest
import torch
from transformers import AutoProcessor

from olivine.data.batches import BatchMaker
from olivine.data.images import open_image
from olivine.data.llava_json import parse_item
from olivine.data.packing import IGNORED
from olivine.data.template import TEMPLATES
from olivine.model import checkpoint
from olivine.model.attention import packed
from olivine.model.loss import labelled_loss
from olivine.recipe import DataRecipe
from olivine.testing import tiny_vlm


def item(identity, images, *texts):
    turns = [{"from": ("human", "gpt")[number % 2], "value": text} for number, text in enumerate(texts)]
    return {"id": identity, "images": images, "conversations": turns}


ITEMS = [
    item("two", ["0.png", "1.png"], "<image>\n<image>\nwhich is red?", "the first"),
    item("swapped", ["1.png", "0.png"], "left <image> right <image> same?", "no", "sure?", "yes"),
    item("one", ["0.png"], "what color <image>?", "red"),
    item("none", [], "hello", "hi"),
    item("later", ["2.png", "0.png", "2.png"], "<image> what?", "a circle", "and <image> or <image>?", "both"),
]


def batch_of(vlm, image_folder, items, **source):
    recipe = DataRecipe.model_validate({"json": image_folder / "none.json", "images": image_folder, **source})
    samples = [parse_item(one, number) for number, one in enumerate(items)]
    maker = BatchMaker(samples, recipe, vlm.encoder(), vlm.transform, sequence_tokens=4096)
    return samples, maker.make([(0, index) for index in range(len(items))])


def features_of(vlm, batch, sequence):
    patches = vlm.patch_features(batch.pixels)
    return vlm.project(patches[sequence.unique_images])[sequence.image_order]


def pixels_of(vlm, image_folder, names):
    opened = [torch.from_numpy(vlm.transform(open_image(image_folder / name))) for name in names]
    return torch.stack(opened) if opened else None


@pytest.mark.parametrize("tower", ["clip", "dinov2"])
@pytest.mark.parametrize("turns", ["together", "independent"])
@torch.no_grad()
def test_packed_equals_one_by_one(tower, turns, image_folder):
    vlm = tiny_vlm(tower=tower)
    items = ITEMS if turns == "together" else ITEMS[:4]
    samples, batch = batch_of(vlm, image_folder, items, turns=turns)
    (sequence,) = batch.sequences
    assert len(batch.pixels) == len({name for sample in samples for name in sample.all_images})
    with packed(vlm.language):
        logits = vlm.logits(vlm.hidden_states(sequence, features_of(vlm, batch, sequence)))
    by_id = {sample.id: sample for sample in samples}
    start = 0
    for name in sequence.sample_ids:
        example = vlm.encoder().example(by_id[name], independent=turns == "independent")
        shared, *continuations = (part.ids for part in example.parts)
        position = start + (len(shared) if continuations else 0)
        for prefix, text in [(shared, text) for text in continuations] or [([], shared)]:
            ids = torch.tensor([prefix + text])
            pixels = pixels_of(vlm, image_folder, by_id[name].all_images)
            alone = vlm.model(input_ids=ids, pixel_values=pixels, attention_mask=torch.ones_like(ids)).logits[0]
            alone = alone[len(prefix) :]
            found = logits[position : position + len(text)]
            assert (found - alone).abs().max() <= 1e-5 * alone.abs().max()
            position += len(text)
        start += example.length
    assert start == len(sequence.ids)


def test_loss_and_gradients_equal_the_models_own(vlm, image_folder):
    samples, batch = batch_of(vlm, image_folder, ITEMS[1:2])
    (sequence,) = batch.sequences
    (part,) = vlm.encoder().example(samples[0]).parts
    ids = torch.tensor([part.ids])
    labels = torch.where(torch.tensor([part.supervised]), ids, IGNORED)
    pixels = pixels_of(vlm, image_folder, samples[0].images)
    weights = {name: p for name, p in vlm.model.named_parameters() if "vision_tower" not in name}
    theirs = vlm.model(input_ids=ids, pixel_values=pixels, attention_mask=torch.ones_like(ids), labels=labels).loss
    expected = torch.autograd.grad(theirs, list(weights.values()))
    with packed(vlm.language):
        hidden = vlm.hidden_states(sequence, features_of(vlm, batch, sequence))
        ours = labelled_loss(hidden, sequence.targets, vlm.model.lm_head) / sequence.labels
        got = torch.autograd.grad(ours, list(weights.values()))
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-6)
    for name, a, b in zip(weights, got, expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4, msg=lambda text, name=name: f"{name}: {text}")


def test_the_order_of_images_counts(vlm, image_folder):
    with torch.no_grad(), packed(vlm.language):
        found = []
        for images in (["0.png", "1.png"], ["1.png", "0.png"]):
            _, batch = batch_of(vlm, image_folder, [item("a", images, "<image>\n<image>\nwhich?", "the first")])
            (sequence,) = batch.sequences
            found.append(vlm.logits(vlm.hidden_states(sequence, features_of(vlm, batch, sequence)))[-1])
    assert (found[0] - found[1]).abs().max() > 1e-3


def test_a_sample_with_a_broken_image_is_skipped_as_a_whole(vlm, image_folder):
    items = [item("bad", ["0.png", "missing.png"], "<image><image>which?", "the first"), ITEMS[2]]
    _, batch = batch_of(vlm, image_folder, items, on_error="skip")
    assert batch.sample_ids == ("one",)
    assert batch.skipped == {"bad": "missing image"}
    assert [sequence.sample_ids for sequence in batch.sequences] == [("one",)]


IMAGE = {"type": "image"}


def text(said):
    return {"type": "text", "text": said}


#: Parts of the user's turns, and the same with marks, as a file has it.
CHATS = {
    "in front": ([[IMAGE, IMAGE, text("which?")]], ["<image>\n<image>\nwhich?"]),
    "between": ([[text("one"), IMAGE, text("two"), IMAGE]], ["one\n<image>\ntwo\n<image>"]),
    "in two turns": ([[IMAGE, text("this?")], [text("or"), IMAGE]], ["<image>\nthis?", "or\n<image>"]),
    "in the second": ([[text("hello")], [IMAGE, IMAGE, text("same?")]], ["hello", "<image>\n<image>\nsame?"]),
}


@pytest.fixture(scope="module", params=["gemma", "vicuna", "llava-v1", "prismatic-base", "chat"])
def saved(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    language = "llama" if request.param in ("vicuna", "llava-v1") else "gemma"
    vlm = replace(tiny_vlm(language=language, folder=folder / "tokenizer"), template=request.param)
    if language == "llama":
        vlm.tokenizer.pad_token = None  # as Llama's own has none
    if request.param == "chat":
        vlm.tokenizer.chat_template = (
            "{% for m in messages %}{{ '<start_of_turn>' + m['role'] + '\n' }}"
            "{{ m['content'] | trim + '<end_of_turn>\n' }}"
            "{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>assistant\n' }}{% endif %}"
        )
    assert request.param in (*TEMPLATES, "chat")
    checkpoint.save(vlm, folder / "saved")
    return AutoProcessor.from_pretrained(folder / "saved"), checkpoint.load(folder / "saved")


@pytest.mark.parametrize("chat", CHATS)
def test_the_saved_processor_gives_the_encoders_ids(saved, image_folder, chat):
    processor, vlm = saved
    parts, marked = CHATS[chat]
    messages, texts = [], []
    for number, (content, said) in enumerate(zip(parts, marked, strict=True)):
        messages += [{"role": "user", "content": content}, {"role": "assistant", "content": f"reply {number}"}]
        texts += [said, f"reply {number}"]
    prompt = processor.apply_chat_template(messages[:-1], add_generation_prompt=True, tokenize=False)
    opened = [open_image(image_folder / name) for name in ("0.png", "1.png")]
    inputs = processor(text=prompt, images=opened, return_tensors="pt")
    assert inputs.pixel_values.shape[0] == 2
    sample = parse_item(item("a", ["0.png", "1.png"], *texts), 0)
    ours = vlm.encoder().conversation(sample.conversation[:-1], False)
    assert inputs.input_ids[0].tolist() == ours.ids
