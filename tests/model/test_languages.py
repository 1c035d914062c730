"""Conformance of every family of language models, in tiny random sizes with samples beyond every window."""

import copy
import sys

import pytest
import torch
from PIL import Image
from plain_model import assert_equal_logits, pixels_of, plain_logits
from transformers import AutoModelForCausalLM, AutoProcessor, LlavaForConditionalGeneration

from olivine.data.packing import IGNORED, pack
from olivine.errors import RequestError
from olivine.evaluation.engine import AnsweringEngine
from olivine.evaluation.static_decoding import StaticDecoder
from olivine.model import checkpoint
from olivine.model.attention import packed
from olivine.model.generate import answer_one
from olivine.model.loss import labelled_loss
from olivine.records import Question, Role, Sample, Turn
from olivine.registry import offered
from olivine.testing.languages import WINDOW, language_specimens, tiny_language_vlm

SPECIMENS = language_specimens()
NEW_TOKENS = 12


@pytest.fixture(scope="module", params=SPECIMENS)
def model(request):
    return tiny_language_vlm(SPECIMENS[request.param])


def sample(identity, pairs, image):
    turns = tuple(t for q, a in pairs for t in (Turn(Role.USER, q), Turn(Role.ASSISTANT, a)))
    return Sample(identity, turns, image)


SAMPLES = [
    sample("a", [("what color is it?", "red"), ("is it round?", "no"), ("sure?", "yes, quite a circle")], "0.png"),
    sample("b", [("hello", "hi, how are you?")], None),
    sample("c", [("is there a red circle in the image?", "a polite and helpful answer " * 3)], "1.png"),
    sample("d", [("and now?", "nothing"), ("why?", "because")], None),
]


def compute_caps(vlm, plain):
    """Set eager attention: older versions of transformers default to SDPA for Gemma 2, which ignores its soft cap."""
    if vlm.traits.cap is not None:
        plain.set_attn_implementation("eager")


@torch.no_grad()
def packed_logits(vlm, image_folder, examples):
    names = sorted({e.sample.image for e in examples if e.sample.image})
    row = pack(examples, [names.index(e.sample.image) for e in examples if e.sample.image])
    features = vlm.project(vlm.patch_features(torch.cat([pixels_of(vlm, image_folder, name) for name in names])))
    with packed(vlm.language):
        return vlm.logits(vlm.hidden_states(row, features[list(row.images)]))


@torch.no_grad()
@pytest.mark.parametrize("independent", [False, True], ids=["together", "independent"])
def test_packed_equals_one_by_one(model, image_folder, independent):
    examples = [model.encoder().example(s, independent=independent) for s in SAMPLES]
    assert min(len(part.ids) + len(e.parts[0].ids) for e in examples for part in e.parts[1:] or e.parts) > 2 * WINDOW
    logits = packed_logits(model, image_folder, examples)
    start = 0
    for example in examples:
        shared = example.parts[0].ids
        several = len(example.parts) > 1
        place = start + (len(shared) if several else 0)
        for prefix, ids in [(shared, part.ids) for part in example.parts[1:]] if several else [([], shared)]:
            alone = plain_logits(model, image_folder, prefix + ids, example.sample.image)[len(prefix) :]
            assert_equal_logits(logits[place : place + len(ids)], alone)
            place += len(ids)
        start += example.length


@pytest.mark.parametrize("rows", [None, 3], ids=["one-chunk", "chunks"])
def test_loss_and_gradients_equal_the_language_models_own(model, rows, monkeypatch):
    """Against `...ForCausalLM`, whose loss has the final cap that LLaVA's lacks."""
    if rows is not None:
        monkeypatch.setattr("olivine.model.loss.CHUNK_ON_CPU", rows * model.model.lm_head.out_features)
    own = AutoModelForCausalLM.from_config(copy.deepcopy(model.language.config))
    compute_caps(model, own)
    own.model.load_state_dict(model.language.state_dict())
    own.lm_head.load_state_dict(model.model.lm_head.state_dict())
    example = model.encoder().example(sample("d", [("hello", "a polite and helpful answer " * 3)], None))
    ids = torch.tensor([example.parts[0].ids])
    labels = torch.where(torch.tensor([example.parts[0].supervised]), ids, IGNORED)
    theirs = own(input_ids=ids, labels=labels).loss
    expected = dict(zip(dict(own.named_parameters()), torch.autograd.grad(theirs, list(own.parameters())), strict=True))
    row = pack([example], [])
    weights = {name.replace("model.language_model.", "model."): p for name, p in model.part("language").items()}
    with packed(model.language):
        hidden = model.hidden_states(row, None)
        ours = (
            labelled_loss(hidden, row.targets, model.model.lm_head, row.labelled, model.traits.final_cap) / row.labels
        )
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    found = dict(zip(weights, torch.autograd.grad(ours, list(weights.values())), strict=True))
    largest = max(float(g.abs().max()) for g in expected.values())
    assert expected.keys() == found.keys()
    for name, gradient in expected.items():
        assert (found[name] - gradient).abs().max() <= 2e-5 * largest, name


QUESTIONS = [
    Question(
        str(n),
        " ".join(("what color is it?", "a red circle", "shape", "no")[(k + n) % 4] for k in range(1 + n)),
        image,
        "x",
    )
    for n, image in enumerate(["0.png", "1.png", "0.png", None, "0.png", "2.png", None])
]


def test_the_engine_answers_as_generate(model, image_folder):
    encoder = model.encoder()
    expected = {
        q.id: answer_one(model, q.prompt, image_folder / q.image if q.image else None, max_new_tokens=NEW_TOKENS)
        for q in QUESTIONS
    }
    assert len(set(expected.values())) > 2, "equal answers would prove nothing if the model always answered the same"
    longest = max(sum(map(len, encoder.prompt(q.prompt, q.image is not None))) for q in QUESTIONS)
    fixed = StaticDecoder(model, model.stop_ids(encoder), NEW_TOKENS, None)
    for together, decoder in [(1, None), (2, None), (7, None), (7, fixed), (2, fixed)]:
        budget = 1 if together == 1 else together * longest
        engine = AnsweringEngine(model, max_new_tokens=NEW_TOKENS, token_budget=budget, decoder=decoder)
        assert {a.question_id: a.text for a in engine.answer(QUESTIONS, image_folder)} == expected, (together, decoder)


def test_three_steps_lower_the_loss(model, image_folder):
    vlm = copy.deepcopy(model)
    row = pack([vlm.encoder().example(s, independent=True) for s in SAMPLES if s.image is None], [])
    optimizer = torch.optim.AdamW(vlm.part("language").values(), lr=3e-3)
    losses = []
    for _ in range(4):
        with packed(vlm.language):
            hidden = vlm.hidden_states(row, None)
        loss = labelled_loss(hidden, row.targets, vlm.model.lm_head, row.labelled, vlm.traits.final_cap) / row.labels
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[3] < losses[0]


def test_saved_it_answers_the_same_in_plain_transformers_alone_and_in_a_padded_batch(model, image_folder, tmp_path):
    checkpoint.save(model, tmp_path / "saved")
    plain = LlavaForConditionalGeneration.from_pretrained(tmp_path / "saved")
    compute_caps(model, plain.model.language_model)
    processor = AutoProcessor.from_pretrained(tmp_path / "saved")
    asked = [q for q in QUESTIONS if q.image is not None]
    prompts = [
        processor.apply_chat_template(
            [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": q.prompt}]}],
            add_generation_prompt=True,
            tokenize=False,
        )
        for q in asked
    ]
    images = [Image.open(image_folder / q.image).convert("RGB") for q in asked]
    expected = [answer_one(model, q.prompt, image_folder / q.image, max_new_tokens=NEW_TOKENS) for q in asked]

    def answers(texts, images):
        inputs = processor(text=texts, images=images, return_tensors="pt", padding=True)
        out = plain.generate(**inputs, max_new_tokens=NEW_TOKENS, do_sample=False)
        return [
            text.strip()
            for text in processor.batch_decode(out[:, inputs.input_ids.shape[1] :], skip_special_tokens=True)
        ]

    assert [answers([text], [image])[0] for text, image in zip(prompts, images, strict=True)] == expected
    assert answers(prompts, images) == expected
    again = checkpoint.load(tmp_path / "saved")
    assert [answer_one(again, q.prompt, image_folder / q.image, max_new_tokens=NEW_TOKENS) for q in asked] == expected


REFUSED = {
    "gpt_neox": ({"model_type": "gpt_neox"}, "unsupported language model 'gpt_neox'.*Supported: gemma, gemma2"),
    "opt": ({"model_type": "opt"}, "unsupported language model 'opt'.*Supported: gemma, gemma2"),
    "layer type": (
        {**SPECIMENS["qwen3"], "layer_types": ["full_attention", "chunked_attention"]},
        "layer_types: unsupported chunked_attention",
    ),
    "chunks": ({**SPECIMENS["llama"], "attention_chunk_size": 64}, "attention_chunk_size is 64"),
    "both ways": ({**SPECIMENS["gemma3"], "use_bidirectional_attention": True}, "use_bidirectional_attention is True"),
    "ignored cap": ({**SPECIMENS["gemma3"], "attn_logit_softcapping": 5.0}, "attn_logit_softcapping is 5.0"),
    "rope": (
        {**SPECIMENS["llama"], "rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}},
        "rope_type 'dynamic'",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_unsupported_attention_options_are_refused_by_name(kind):
    config, message = REFUSED[kind]
    with pytest.raises(RequestError, match=message):
        tiny_language_vlm(config)


OUTSIDE = """
from olivine.model.languages.family import LanguageFamily, Template

class Arcee(LanguageFamily):
    name = "Arcee"
    model_types = ("arcee",)
    templates = (Template("vicuna"),)
"""


@torch.no_grad()
def test_a_package_outside_adds_a_family_with_one_file(tmp_path, monkeypatch, image_folder):
    (tmp_path / "arcee_elsewhere.py").write_text(OUTSIDE)
    info = tmp_path / "arcee_elsewhere-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: arcee_elsewhere\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[olivine.languages]\narcee = arcee_elsewhere:Arcee\n")
    config = {**SPECIMENS["llama"], "model_type": "arcee"}
    with pytest.raises(RequestError, match="unsupported language model 'arcee'"):
        tiny_language_vlm(config)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    offered.cache_clear()
    try:
        vlm = tiny_language_vlm(config)
        examples = [vlm.encoder().example(s) for s in SAMPLES[1:2]]
        row = pack(examples, [])
        with packed(vlm.language):
            logits = vlm.logits(vlm.hidden_states(row, None))
        assert_equal_logits(logits, plain_logits(vlm, image_folder, examples[0].parts[0].ids, None))
    finally:
        offered.cache_clear()
