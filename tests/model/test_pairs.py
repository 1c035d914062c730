"""Every tower, language model and connector beside every other, in tiny random sizes: `make conformance`.

`make test` skips these combinations: there test_towers, test_connectors and test_languages test each module once.
"""

import json

import pytest
import torch
import torch.nn.functional as F
from conformance import (
    TOKENS,
    answers,
    check_elsewhere,
    check_features,
    check_packed,
    images,
    made,
    made_recipe,
    pixels_of,
    sample,
)
from pairwise import pairwise_design
from rich.console import Console
from transformers import LlavaForConditionalGeneration

from olivine.data.packing import pack
from olivine.errors import RequestError
from olivine.evaluation.engine import AnsweringEngine
from olivine.model import checkpoint
from olivine.model.attention import packed
from olivine.model.generate import answer_one
from olivine.model.loss import labelled_loss
from olivine.model.towers.joined import JOINED
from olivine.recipe import Recipe
from olivine.records import Question
from olivine.testing.languages import WINDOW, language_specimens
from olivine.testing.specimens import connector_specimens, tower_specimens
from olivine.training.stage import Stage

pytestmark = pytest.mark.conformance

TOWERS, LANGUAGES, CONNECTORS = tower_specimens(), language_specimens(), connector_specimens()
FACTORS = {
    # Features of several layers with one tower only; test_towers covers fused ones too.
    "tower": [name for name in TOWERS if name != "fused, two layers"],
    # If a family has variants with and without a window, the one with it.
    "language": [name for name in LANGUAGES if f"{name}-window" not in LANGUAGES],
    "connector": list(CONNECTORS),
}
#: Towers whose image tokens include some outside the grid; these connectors merge tokens by their grid position.
REGISTERS_KEPT, ON_A_GRID = ("dinov2_with_registers", "dinov3_vit"), ("pixel-shuffle", "pool")
PLAIN_CONNECTORS = ("linear", "mlp of two")


def permitted(one, other):
    """Return whether two modules can be combined; a test below checks that the others are refused."""
    parts = dict((one, other))
    return not (parts.get("tower") in REGISTERS_KEPT and parts.get("connector") in ON_A_GRID)


DESIGN = pairwise_design(FACTORS, permitted)
SAMPLES = [
    sample("a", "what color is it?", "red, and not blue, and not quite a circle either", "0.png"),
    sample("b", "hello", "hi, how are you? " * 3, None),
    sample("c", "is there a red circle in the image?", "a polite and helpful answer " * 3, "1.png"),
    sample("d", "and now, what is it? is it a shape?", "no, it is a circle and a shape", "0.png"),
]
#: Seven, of seven lengths.
ASKED = [
    Question(str(n), " ".join(("what color is it?", "a red circle", "shape", "no")[(k + n) % 4] for k in range(1 + n)),
             image, "x")
    for n, image in enumerate(["0.png", "1.png", "0.png", None, "0.png", "1.png", None])
]  # fmt: skip
STAGES = (
    {"name": "align", "train": ["connector"], "template": "plain", "image_fit": "crop"},
    {"name": "instruct", "train": ["connector", "language"]},
    {"name": "whole", "train": ["vision", "connector", "language"]},
)


def name_of(parts):
    return "-".join(value.replace(", ", "_").replace(" ", "_") for value in parts.values())


def sections(parts):
    return TOWERS[parts["tower"]], CONNECTORS[parts["connector"]], LANGUAGES[parts["language"]]


@pytest.fixture(scope="module", params=DESIGN, ids=name_of)
def parts(request):
    return request.param


def answered(vlm, folder):
    """Return the answers of transformers' own `generate`."""
    images(folder)
    return {
        q.id: answer_one(vlm, q.prompt, folder / q.image if q.image else None, max_new_tokens=TOKENS) for q in ASKED
    }


@pytest.fixture(scope="module")
def vlm_and_answers(parts, tmp_path_factory):
    """Return the first seed's model whose answers differ between questions; else equal answers would prove nothing."""
    folder = tmp_path_factory.mktemp("images")
    for seed in range(12):
        vlm = made(*sections(parts), seed=seed)
        expected = answered(vlm, folder)
        if len(set(expected.values())) > 2:
            return vlm, expected
    raise AssertionError("every seed gives a model that answers all questions the same")


@pytest.fixture(scope="module")
def vlm(vlm_and_answers):
    return vlm_and_answers[0]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Saved folders and what each must answer, by name, filled by the test that saves."""
    return {"folder": tmp_path_factory.mktemp("saved"), "said": {}, "plain": set()}


def test_features_are_as_many_as_positions(vlm, tmp_path):
    check_features(vlm, tmp_path)


def test_packed_equals_one_by_one(vlm, tmp_path):
    assert min(vlm.encoder().example(one).length for one in SAMPLES) > 2 * WINDOW
    check_packed(vlm, tmp_path, SAMPLES)


def own_loss(vlm, folder, one):
    """Return the loss of transformers' own model, with the final cap that LLaVA's own head lacks."""
    example = vlm.encoder().example(one)
    ids = torch.tensor([example.parts[0].ids])
    pixels = pixels_of(vlm, folder / one.image)
    out = vlm.model(input_ids=ids, pixel_values=pixels, attention_mask=torch.ones_like(ids)).logits[0]
    cap = getattr(vlm.language.config, "final_logit_softcapping", None)
    if cap is not None:
        out = cap * torch.tanh(out / cap)
    supervised = torch.tensor(example.parts[0].supervised)[1:]
    return F.cross_entropy(out[:-1][supervised], ids[0, 1:][supervised])


def packed_loss(vlm, folder, one):
    sequence = pack([vlm.encoder().example(one)], [0])
    features = vlm.project(vlm.patch_features(pixels_of(vlm, folder / one.image)))
    with packed(vlm.language):
        hidden = vlm.hidden_states(sequence, features)
        total = labelled_loss(hidden, sequence.targets, vlm.model.lm_head, sequence.labelled, vlm.traits.final_cap)
        return total / sequence.labels


def test_loss_and_gradients_equal_the_models_own(vlm, tmp_path):
    images(tmp_path)
    # Its image is close enough to be visible through two layers' windows.
    one = sample("near", "hello", "a polite and helpful answer " * 3, "1.png")
    assert vlm.encoder().example(one).length > 2 * WINDOW
    weights = dict(vlm.model.named_parameters())
    for parameter in weights.values():
        parameter.requires_grad_(True)
    losses, gradients = [], []
    for loss_of in (own_loss, packed_loss):
        loss = loss_of(vlm, tmp_path, one)
        losses.append(loss.detach())
        gradients.append(torch.autograd.grad(loss, list(weights.values()), allow_unused=True))
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-5, atol=1e-6)
    largest = max(float(gradient.abs().max()) for gradient in gradients[0] if gradient is not None)
    for part in ("vision", "connector", "language"):
        own = [g for name, g in zip(weights, gradients[0], strict=True) if name in vlm.part(part)]
        assert any(g is not None and g.abs().max() > 0 for g in own), part
    for name, own, ours in zip(weights, *gradients, strict=True):
        assert (own is None) == (ours is None), name
        if own is not None:
            assert (ours - own).abs().max() <= 2e-5 * largest, name


def test_the_engine_answers_as_generate(vlm_and_answers, tmp_path):
    vlm, expected = vlm_and_answers
    images(tmp_path)
    encoder = vlm.encoder()
    longest = max(sum(map(len, encoder.prompt(q.prompt, q.image is not None))) for q in ASKED)
    for together in (1, 2, 7):
        budget = 1 if together == 1 else together * longest
        engine = AnsweringEngine(vlm, max_new_tokens=TOKENS, token_budget=budget)
        assert {a.question_id: a.text for a in engine.answer(ASKED, tmp_path)} == expected, together


def test_three_steps_of_each_stage(parts, tmp_path):
    """Through the stage itself: the modules it names train and lower the loss, all others keep their bits."""
    images(tmp_path)
    recipe = Recipe.model_validate({
        "name": "tiny",
        "model": made_recipe(*sections(parts)).model_dump(by_alias=True),
        "data": {"all": {"json": tmp_path / "none.json", "images": tmp_path}},
        "stages": [{"data": "all", "batch": 4, "lr": 3e-3, "steps": 3, "held_out": 0, **stage} for stage in STAGES],
        "optimizer": {"precision": "fp32", "warmup": 0, "schedule": "constant"},
    })  # fmt: skip
    vlm = made(*sections(parts))
    for stage in recipe.stages:
        before = {name: weight.detach().clone() for name, weight in vlm.model.named_parameters()}
        folder = tmp_path / stage.name
        folder.mkdir()
        running = Stage(vlm, recipe, stage, list(SAMPLES), folder, Console(quiet=True))
        assert running.run().steps == 3
        losses = [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
        assert len(losses) == 3
        assert losses[2] < losses[0], (stage.name, losses)
        changed = {name for name, weight in vlm.model.named_parameters() if not torch.equal(weight, before[name])}
        allowed = {name for part in stage.train for name in vlm.part(part)}
        assert changed <= allowed
        for part in stage.train:
            assert changed & vlm.part(part).keys(), part


def test_it_is_saved(parts, vlm, saved):
    folder = saved["folder"] / name_of(parts)
    folder.mkdir()
    images(folder)
    checkpoint.save(vlm, folder / "saved")
    saved["said"][name_of(parts)] = answers(vlm, folder)
    plain_tower = vlm.model.config.vision_config.model_type != JOINED
    if plain_tower and parts["connector"] in PLAIN_CONNECTORS:
        assert type(vlm.model) is LlavaForConditionalGeneration
        saved["plain"].add(name_of(parts))


@pytest.mark.parametrize("alone", [True, False], ids=["transformers-alone", "import-olivine"])
def test_saved_folders_answer_the_same_elsewhere(saved, alone):
    """Each question alone and in a padded batch: plain layouts with transformers only, the others with olivine."""
    names = {name for name in saved["said"] if (name in saved["plain"]) is alone}
    assert names
    check_elsewhere(
        {name: saved["said"][name] for name in names}, {name: saved["folder"] / name for name in names}, alone=alone
    )


@pytest.mark.parametrize("tower", REGISTERS_KEPT)
@pytest.mark.parametrize("connector", ON_A_GRID)
def test_incompatible_modules_are_refused(tower, connector):
    with pytest.raises(RequestError, match="register tokens stand before them"):
        made(TOWERS[tower], CONNECTORS[connector])
