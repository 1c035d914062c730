"""Each image token is drawn where in the image it comes from, for every tower and connector that keeps a grid."""

import numpy as np
import pytest
import torch
from PIL import Image
from planted import random_case

from olivine.data.images import ImageTransform
from olivine.errors import RequestError
from olivine.evaluation.engine import AnsweringEngine
from olivine.explanation.explainer import Asked, Explainer
from olivine.explanation.methods.registry import method
from olivine.explanation.pointing import covered, hit_cells, mass_inside
from olivine.explanation.token_grid import TokenGrid, fitted_box, token_grid
from olivine.model.build import build
from olivine.model.recorded_attention import AttentionRecord, run_sequences
from olivine.recipe import ModelRecipe
from olivine.records import Question
from olivine.testing import CORPUS, tiny_vlm, write_images
from olivine.testing.languages import language_specimens
from olivine.testing.specimens import connector_specimens, specimen_recipe, tower_specimens

TOWERS, CONNECTORS, LANGUAGES = tower_specimens(), connector_specimens(), language_specimens()
WITHOUT_PLACES = {"resampler"}


def made(vision=None, connector=None):
    """A model of 4 x 4 patches whose image features are those before the tower's first layer."""
    section = {**(vision or TOWERS["clip_vision_model"]), "image_size": 32}
    section["layer"] = [0, 0] if isinstance(section.get("layer"), list) else 0
    return build(specimen_recipe(section, connector), seed=0, texts=lambda: CORPUS)


@pytest.mark.parametrize(
    ("vision", "connector"),
    [*((name, None) for name in TOWERS), *((None, name) for name in CONNECTORS if name not in WITHOUT_PLACES)],
)
def test_a_changed_patch_changes_the_token_that_the_map_has_there(vision, connector):
    vlm = made(TOWERS.get(vision), CONNECTORS.get(connector))
    explainer = Explainer(vlm)
    grid = explainer.grid
    grey = np.full((32, 32, 3), 120, np.uint8)
    before = explainer.features(Image.fromarray(grey))
    for row, column in ((0, 3), (2, 1), (3, 3)):
        changed = grey.copy()
        changed[row * 8 : row * 8 + 8, column * 8 : column * 8 + 8] = 250
        moved = (explainer.features(Image.fromarray(changed)) - before).abs().amax(dim=1)
        map_ = grid.map(moved)
        assert map_.shape == (4, 4)
        assert map_[row, column] == map_.max() > 0
        corner = row - row % grid.factor, column - column % grid.factor
        map_[corner[0] : corner[0] + grid.factor, corner[1] : corner[1] + grid.factor] = 0
        assert map_.max() == 0, "and no other token"


@pytest.mark.parametrize("name", sorted(WITHOUT_PLACES))
def test_tokens_without_a_place_are_refused_by_name(name):
    with pytest.raises(RequestError, match=f"'{name}'.*stand for no part of the image"):
        token_grid(made(connector=CONNECTORS[name]))


def test_registers_have_no_place():
    vlm = made(TOWERS["dinov2_with_registers"])
    grid = token_grid(vlm)
    assert grid.extra == vlm.image_tokens - 16 > 0
    scores = torch.arange(grid.tokens).float()
    assert grid.map(scores)[0, 0] == grid.extra


@pytest.mark.parametrize("side", [6, 24, 27])
def test_real_grids(side):
    vlm = build(specimen_recipe({**TOWERS["clip_vision_model"], "image_size": 8 * side}), seed=0, texts=lambda: CORPUS)
    case = random_case(vlm)
    for name in ("integrated-gradients", "relevancy"):
        scores = method(name).token_scores(case)
        assert case.grid.map(scores).shape == (side, side)
        assert scores.std() > 0


def test_a_token_of_several_patches_gives_each_an_equal_part():
    grid = TokenGrid(side=4, factor=2)
    map_ = grid.map(torch.tensor([4.0, 0.0, 0.0, 8.0]))
    assert map_.tolist() == [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 2, 2], [0, 0, 2, 2]]


@pytest.mark.parametrize("fit", ["pad", "crop", "squash", "letterbox"])
@pytest.mark.parametrize("size", [(90, 60), (50, 80), (64, 64)])
def test_boxes_are_where_the_fitted_image_has_them(fit, size):
    transform = ImageTransform(size=96, fit=fit, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    box = (20, 25, 40, 45)
    drawn = np.zeros((size[1], size[0], 3), np.uint8)
    drawn[box[1] : box[3], box[0] : box[2]] = 255
    rows, columns = np.nonzero(np.asarray(transform.fitted(Image.fromarray(drawn)))[..., 0] > 127)
    seen = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    assert fitted_box(box, size, transform) == pytest.approx(seen, abs=1.5)


def test_a_box_outside_the_crop_is_not_there():
    transform = ImageTransform(size=32, fit="crop", mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    assert fitted_box((0, 0, 10, 10), (100, 32), transform) is None


def test_hits_and_mass_by_hand():
    grid = TokenGrid(side=2)
    assert hit_cells(grid, [(0, 0, 6, 6)], 10).tolist() == [
        True,
        False,
        False,
        False,
    ]  # the first cell's centre is in it
    assert hit_cells(grid, [(6, 1, 7, 2)], 10).tolist() == [False, True, False, False]  # a small box in the second
    cover = covered(grid, [(0, 0, 5, 2.5), (5, 5, 10, 10)], 10)
    assert cover.tolist() == [0.5, 0, 0, 1]
    assert mass_inside(grid, torch.tensor([2.0, 1.0, -5.0, 1.0]), cover) == pytest.approx((2 * 0.5 + 1) / 4)
    assert mass_inside(grid, torch.full((4,), -1.0), cover) == pytest.approx(0.375)


@pytest.mark.parametrize("name", LANGUAGES)
def test_recorded_attention_computes_what_the_model_does(name):
    vlm = build(_with_language(LANGUAGES[name]), seed=0, texts=lambda: CORPUS)
    embedded = torch.randn(2, 20, vlm.language.config.hidden_size, generator=torch.Generator().manual_seed(0))
    record = AttentionRecord()
    with torch.no_grad():
        usual, recorded = run_sequences(vlm.language, embedded), run_sequences(vlm.language, embedded, record=record)
    torch.testing.assert_close(recorded, usual, atol=1e-4, rtol=1e-4)
    assert len(record.weights) == vlm.language.config.num_hidden_layers
    for weights, window in zip(record.weights, vlm.traits.windows, strict=True):
        torch.testing.assert_close(weights.sum(dim=-1), torch.ones(weights.shape[:-1]))
        seen = (weights > 0).sum(dim=-1)[0, 0]
        assert seen.tolist() == [min(n + 1, window or n + 1) for n in range(20)]


def _with_language(language):
    values = specimen_recipe().model_dump(by_alias=True)
    return ModelRecipe.model_validate(
        {**values, "language": {"from": language, "tokenizer": {"vocab_size": 640}, "template": "gemma"}}
    )


def test_the_explainer_answers_as_the_engine_does(tmp_path):
    vlm = tiny_vlm(tower="dinov2")
    names = write_images(tmp_path, 2)
    explainer = Explainer(vlm, max_new_tokens=6)
    for name in names:
        question = Question("1", "what color is it?", name, name)
        (answer,) = AnsweringEngine(vlm, max_new_tokens=6).answer([question], tmp_path)
        with Image.open(tmp_path / name) as image:
            asked = explainer.ask(question.prompt, explainer.features(image.convert("RGB")), "1")
        assert explainer.text(asked) == answer.text


def test_words_are_an_answer_s_own():
    explainer = Explainer(tiny_vlm(tower="clip"))
    ids = explainer.vlm.tokenizer("the circle's color is Blau-Grün ☂ 12.5", add_special_tokens=False).input_ids
    words = explainer.words(Asked((1,), (1,), tuple(ids), torch.zeros(4, 32), ""))
    assert [word.text for word in words] == ["the", "circle's", "color", "is", "Blau-Grün", "☂", "12.5"]
    assert [token for word in words for token in word.tokens] == list(range(len(ids)))
