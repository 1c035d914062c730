"""Against plain transformers on random weights: same logits, same loss, packed equals separate, saved equals loaded."""

import subprocess
import sys

import pytest
import torch
from PIL import Image
from plain_model import assert_equal_logits, pixels_of, plain_logits
from transformers import AutoProcessor, LlavaForConditionalGeneration

from olivine.data.packing import IGNORED, pack
from olivine.model import checkpoint
from olivine.model.attention import PACKED, packed
from olivine.model.generate import answer_one
from olivine.model.loss import CHUNK_ON_CPU, contrastive_loss, labelled_loss, logit_rows_at_once
from olivine.records import Role, Sample, Turn
from olivine.testing import tiny_vlm

KINDS = [
    ("clip", "gemma", 2),
    ("dinov2", "gemma", 2),
    ("clip", "llama", 2),
    ("clip", "gemma", 1),
    ("dinov2", "llama", 4),
]


@pytest.fixture(scope="module", params=KINDS, ids=lambda k: "-".join(map(str, k)))
def any_vlm(request, tmp_path_factory):
    tower, language, depth = request.param
    return tiny_vlm(tower=tower, language=language, depth=depth, folder=tmp_path_factory.mktemp("tokenizer"))


def sample(identity, pairs, image):
    turns = tuple(t for q, a in pairs for t in (Turn(Role.USER, q), Turn(Role.ASSISTANT, a)))
    return Sample(identity, turns, image)


SAMPLES = [
    sample("a", [("what color is it?", "red"), ("is it round?", "no"), ("sure?", "yes, quite")], "0.png"),
    sample("b", [("hello", "hi, how are you?")], None),
    sample("c", [("is there a circle?", "yes")], "1.png"),
    sample("d", [("what is it?", "a shape " * 12)], "0.png"),
    sample("e", [("and now?", "nothing"), ("why?", "because")], None),
]


@torch.no_grad()
def packed_logits(vlm, image_folder, examples):
    names = sorted({e.sample.image for e in examples if e.sample.image})
    row = pack(examples, [names.index(e.sample.image) for e in examples if e.sample.image])
    pixels = torch.cat([pixels_of(vlm, image_folder, name) for name in names])
    features = vlm.project(vlm.patch_features(pixels))[list(row.images)]
    with packed(vlm.language):
        return row, vlm.logits(vlm.hidden_states(row, features))


@torch.no_grad()
def test_packed_equals_one_by_one(any_vlm, image_folder):
    encoder = any_vlm.encoder()
    examples = [encoder.example(s) for s in SAMPLES]
    _, logits = packed_logits(any_vlm, image_folder, examples)
    start = 0
    for example in examples:
        alone = plain_logits(any_vlm, image_folder, example.parts[0].ids, example.sample.image)
        assert_equal_logits(logits[start : start + example.length], alone)
        start += example.length


@torch.no_grad()
def test_independent_questions_equal_separate_conversations(any_vlm, image_folder):
    encoder = any_vlm.encoder()
    examples = [encoder.example(s, independent=True) for s in SAMPLES]
    _, logits = packed_logits(any_vlm, image_folder, examples)
    start = 0
    for example in examples:
        shared = example.parts[0].ids
        ends = [(shared, part.ids) for part in example.parts[1:]] or [([], shared)]
        position = start + (len(shared) if len(example.parts) > 1 else 0)
        for prefix, ids in ends:
            alone = plain_logits(any_vlm, image_folder, prefix + ids, example.sample.image)[len(prefix) :]
            assert_equal_logits(logits[position : position + len(ids)], alone)
            position += len(ids)
        start += example.length


@torch.no_grad()
def test_no_question_sees_anothers_answer(vlm, image_folder):
    encoder = vlm.encoder()
    first = encoder.example(sample("x", [("one?", "red"), ("two?", "yes")], "0.png"), independent=True)
    other = encoder.example(sample("x", [("one?", "teal"), ("two?", "yes")], "0.png"), independent=True)
    second = len(first.parts[2])
    a, b = (packed_logits(vlm, image_folder, [e])[1][-second:] for e in (first, other))
    assert_equal_logits(a, b)
    together = [packed_logits(vlm, image_folder, [encoder.example(e.sample)])[1][-second:] for e in (first, other)]
    assert (together[0] - together[1]).abs().max() > 1e-2, "turns of one conversation do see each other"


@pytest.mark.parametrize("rows", [None, 3])
def test_loss_and_gradients_equal_the_models_own(vlm, image_folder, rows, monkeypatch):
    if rows is not None:
        monkeypatch.setattr("olivine.model.loss.CHUNK_ON_CPU", rows * vlm.model.lm_head.out_features)
    example = vlm.encoder().example(SAMPLES[0])
    ids = torch.tensor([example.parts[0].ids])
    labels = torch.where(torch.tensor([example.parts[0].supervised]), ids, IGNORED)
    pixels = pixels_of(vlm, image_folder, "0.png")
    weights = {name: p for name, p in vlm.model.named_parameters() if "vision_tower" not in name}

    theirs = vlm.model(input_ids=ids, pixel_values=pixels, attention_mask=torch.ones_like(ids), labels=labels).loss
    expected = torch.autograd.grad(theirs, list(weights.values()))
    row = pack([example], [0])
    with packed(vlm.language):
        hidden = vlm.hidden_states(row, vlm.project(vlm.patch_features(pixels)))
        ours = labelled_loss(hidden, row.targets, vlm.model.lm_head) / row.labels
        got = torch.autograd.grad(ours, list(weights.values()))
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-6)
    for name, a, b in zip(weights, got, expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4, msg=lambda text, name=name: f"{name}: {text}")


class Counted(torch.nn.Linear):
    """A head that records how many rows each call had."""

    def __init__(self, *sizes):
        super().__init__(*sizes, bias=False)
        self.rows = []

    def forward(self, states):
        self.rows.append(len(states))
        return super().forward(states)


@pytest.mark.parametrize("head_trains", [True, False])
@pytest.mark.parametrize("states_train", [True, False])
def test_a_loss_in_chunks_is_the_loss_in_one(head_trains, states_train, monkeypatch):
    torch.manual_seed(0)
    hidden = torch.randn(40, 8, requires_grad=states_train)
    targets = torch.randint(0, 50, (40,)).masked_fill(torch.rand(40) < 0.3, IGNORED)
    labels = int((targets != IGNORED).sum())
    head = Counted(8, 50).requires_grad_(head_trains)
    requested = [*([hidden] if states_train else []), *([head.weight] if head_trains else [])]

    def measured():
        head.rows.clear()
        loss = labelled_loss(hidden, targets, head)
        assert loss.requires_grad == bool(requested)
        return loss, torch.autograd.grad(0.25 * loss, requested) if requested else ()

    whole, of_whole = measured()
    assert head.rows == [labels]
    monkeypatch.setattr("olivine.model.loss.CHUNK_ON_CPU", 10 * 50)
    chunked, of_chunks = measured()
    assert head.rows == [10, 10, labels - 20], "no logits are computed twice"
    torch.testing.assert_close(chunked, whole)
    torch.testing.assert_close(of_chunks, of_whole)
    with torch.no_grad():
        torch.testing.assert_close(labelled_loss(hidden, targets, head), whole.detach())


def test_a_chunk_has_as_many_rows_as_its_logits_allow():
    assert logit_rows_at_once(256_000, on_gpu=False) == CHUNK_ON_CPU // 256_000 == 262
    assert logit_rows_at_once(256_000, on_gpu=True) == 1048
    assert logit_rows_at_once(10**9, on_gpu=False) == 1


@pytest.mark.parametrize("fit", ["pad", "crop", "squash"])
def test_the_saved_folder_answers_the_same_in_plain_transformers(any_vlm, image_folder, tmp_path, fit):
    transform = any_vlm.transform.with_fit(fit)
    checkpoint.save(any_vlm, tmp_path / "saved", transform=transform)
    again = checkpoint.load(tmp_path / "saved")
    processor = AutoProcessor.from_pretrained(tmp_path / "saved")
    for name, question in [("0.png", "what color is it?"), ("5.png", "is there a circle? é😀"), (None, "hello")]:
        ours = answer_one(again, question, image_folder / name if name else None, max_new_tokens=12)
        content = [{"type": "image"}] if name else []
        messages = [{"role": "user", "content": [*content, {"type": "text", "text": question}]}]
        prompt = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        images = Image.open(image_folder / name) if name else None
        inputs = processor(text=prompt, images=images, return_tensors="pt")
        assert (inputs.input_ids == processor.tokenizer.bos_token_id).sum() == 1
        out = again.model.generate(**inputs, max_new_tokens=12)
        theirs = processor.decode(out[0, inputs.input_ids.shape[1] :], skip_special_tokens=True).strip()
        assert ours == theirs


def test_the_saved_configuration_is_complete(vlm, tmp_path):
    checkpoint.save(vlm, tmp_path / "saved")
    model = LlavaForConditionalGeneration.from_pretrained(tmp_path / "saved")
    for name, weight in vlm.model.state_dict().items():
        assert torch.equal(weight, model.state_dict()[name]), name
    assert model.generation_config.eos_token_id == [1, 107]
    assert model.lm_head.weight is model.model.language_model.embed_tokens.weight
    processor = AutoProcessor.from_pretrained(tmp_path / "saved")
    assert (processor.patch_size, processor.num_additional_image_tokens) == (8, 1)
    assert processor.vision_feature_select_strategy == "default"
    assert not list((tmp_path).glob(".*")), "no partial files are left"


def test_a_new_process_with_transformers_alone_loads_it(vlm, image_folder, tmp_path):
    """Nothing of Olivine is imported: no registration, no remote code."""
    checkpoint.save(vlm, tmp_path / "saved")
    code = (
        "import sys\n"
        "from PIL import Image\n"
        "from transformers import AutoModelForImageTextToText, AutoProcessor\n"
        "model = AutoModelForImageTextToText.from_pretrained(sys.argv[1])\n"
        "processor = AutoProcessor.from_pretrained(sys.argv[1])\n"
        "messages = [{'role': 'user', 'content': [{'type': 'image', 'image': Image.open(sys.argv[2])},"
        " {'type': 'text', 'text': 'what color is it?'}]}]\n"
        "inputs = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=True,"
        " return_dict=True, return_tensors='pt')\n"
        "out = model.generate(**inputs, max_new_tokens=12)\n"
        "print(processor.decode(out[0, inputs['input_ids'].shape[1]:], skip_special_tokens=True).strip())\n"
        "assert not any(name.startswith('olivine') for name in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "saved"), str(image_folder / "0.png")],
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip() == answer_one(vlm, "what color is it?", image_folder / "0.png", max_new_tokens=12)


@torch.no_grad()
def test_gemma_scales_tokens_and_not_images(vlm, image_folder):
    """transformers >= 5.4: the connector's output enters the first layer unscaled."""
    ids = torch.tensor([[vlm.model.config.image_token_id] * vlm.image_tokens + [5]])
    features = vlm.project(vlm.patch_features(pixels_of(vlm, image_folder, "0.png")))
    embedded = vlm.embed(ids, features)
    assert torch.equal(embedded[:, :-1], features)
    raw = vlm.model.get_input_embeddings().weight[5]
    torch.testing.assert_close(embedded[0, -1], raw * 32**0.5)
    captured = []
    handle = vlm.language.layers[0].register_forward_pre_hook(lambda module, args: captured.append(args[0]))
    vlm.model(input_ids=ids, pixel_values=pixels_of(vlm, image_folder, "0.png"))
    handle.remove()
    torch.testing.assert_close(captured[0], embedded)


@torch.no_grad()
def test_features_are_the_selected_hidden_state_without_the_class_token(any_vlm, image_folder):
    pixels = pixels_of(any_vlm, image_folder, "0.png")
    expected = any_vlm.model.get_image_features(
        pixel_values=pixels, vision_feature_layer=-2, vision_feature_select_strategy="default"
    ).pooler_output
    torch.testing.assert_close(any_vlm.project(any_vlm.patch_features(pixels)), torch.stack(list(expected)))


def test_depth_one_is_a_single_linear_layer(image_folder):
    vlm = tiny_vlm(depth=1)
    patches = vlm.patch_features(pixels_of(vlm, image_folder, "0.png"))
    single = vlm.connector.linear_1
    torch.testing.assert_close(vlm.project(patches), patches @ single.weight.T + single.bias)


def test_contrast_by_hand():
    """Two captions, three images, the first and last captioned alike: their targets are shared."""
    eye = torch.eye(3)
    loss = contrastive_loss(eye, eye, torch.tensor(2.0), ["a", "b", "a"])
    log_z = torch.log(torch.tensor(2.0).exp() + 2)
    expected = ((log_z - 1) + (log_z - 2) + (log_z - 1)) / 3
    torch.testing.assert_close(loss, expected)


def test_packed_attention_is_undone_afterwards(vlm):
    before = vlm.language.config._attn_implementation
    inside = []

    def fail_inside():
        with packed(vlm.language):
            inside.append(vlm.language.config._attn_implementation)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_inside()
    assert inside == [PACKED]
    assert vlm.language.config._attn_implementation == before
