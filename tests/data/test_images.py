"""ImageSource: fitted as transformers does, opened safely, found by stem."""

import numpy as np
import pytest
from PIL import Image

from olivine.data import image_files
from olivine.data.images import ImageTransform, augmented, find_image, open_image
from olivine.errors import DataError
from olivine.model.processor import image_processor
from olivine.recipe import AugmentRecipe

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def make_image(width, height, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize("size", [(40, 40), (61, 33), (33, 61), (32, 32), (7, 90)])
@pytest.mark.parametrize("fit", ["pad", "crop", "squash"])
def test_equal_to_the_saved_processor(fit, size):
    transform = ImageTransform(32, fit, MEAN, STD)
    image = make_image(*size)
    theirs = image_processor(transform)(image, return_tensors="np")["pixel_values"][0]
    np.testing.assert_allclose(transform(image), theirs, atol=2e-6)


def test_letterbox_differs_from_padding_at_the_edges_alone():
    image = make_image(64, 32)
    letterbox = ImageTransform(32, "letterbox", MEAN, STD)
    padded = ImageTransform(32, "pad", MEAN, STD)
    difference = np.abs(letterbox(image) - padded(image)).max(axis=(0, 2))
    assert difference[12:20].max() < 0.02
    assert np.asarray(letterbox.fitted(image))[:8].reshape(-1, 3).tolist() == [[122, 116, 104]] * (8 * 32)


@pytest.mark.parametrize("fit", ["pad", "crop", "squash", "letterbox"])
@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1)])
def test_extreme_shapes_give_a_square(fit, size):
    assert ImageTransform(16, fit, MEAN, STD)(make_image(*size)).shape == (3, 16, 16)


def test_padding_uses_the_mean_colour():
    top = np.asarray(ImageTransform(32, "pad", MEAN, STD).fitted(make_image(64, 8)))[0]
    assert top.tolist() == [[122, 116, 104]] * 32


def test_augmentation_follows_its_random_draw():
    transform = ImageTransform(32, "pad", MEAN, STD)
    augment = AugmentRecipe(flip=True, shift=4)
    image = make_image(32, 32)
    pixels = np.asarray(transform.fitted(image))
    first = augmented(pixels, augment, np.random.default_rng(5))
    assert np.array_equal(first, augmented(pixels, augment, np.random.default_rng(5)))
    assert any(not np.array_equal(first, augmented(pixels, augment, np.random.default_rng(s))) for s in range(4))
    assert np.array_equal(pixels, augmented(pixels, AugmentRecipe(), np.random.default_rng(5)))


def test_shift_moves_and_repeats_the_edge():
    column = np.zeros((8, 8, 3), np.uint8)
    column[:, 0] = 255
    seen = set()
    for seed in range(40):
        shifted = augmented(column, AugmentRecipe(shift=1), np.random.default_rng(seed))
        assert shifted.shape == column.shape
        seen.add(int(shifted[4, :, 0].sum()))
    assert seen == {0, 255, 510}


def test_truncated_damaged_and_missing_images_are_named(tmp_path):
    good = tmp_path / "good.png"
    make_image(40, 40).save(good)
    cut = tmp_path / "cut.png"
    cut.write_bytes(good.read_bytes()[:-600])
    text = tmp_path / "text.png"
    text.write_text("no image")
    for path in (cut, text, tmp_path / "none.png"):
        with pytest.raises(DataError, match=path.name):
            open_image(path)


def test_a_decompression_bomb_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    path = tmp_path / "large.png"
    make_image(40, 40).save(path)
    monkeypatch.setattr(image_files, "MAX_PIXELS", 1000)
    with pytest.raises(DataError, match="40x40 pixels"):
        open_image(path)


@pytest.mark.parametrize("name", ["../secret.png", "/etc/passwd", "a/../../b.png", "C:/x.png", "..\\x.png"])
def test_paths_cannot_leave_the_root(tmp_path, name):
    with pytest.raises(DataError, match="leaves the root"):
        find_image(tmp_path / "images", name)


def test_found_by_stem_under_another_suffix(tmp_path):
    make_image(4, 4).save(tmp_path / "a.png")
    assert find_image(tmp_path, "a.jpg").name == "a.png"
    with pytest.raises(DataError, match=r"b\.jpg"):
        find_image(tmp_path, "b.jpg")


def test_grey_and_transparent_images_become_rgb(tmp_path):
    for mode in ("L", "RGBA", "P", "1", "CMYK"):
        path = tmp_path / f"{mode}.tiff"
        Image.new(mode, (5, 5)).save(path)
        assert open_image(path).mode == "RGB"
