"""Every kind of image file: opened by one function, the same pixels in training and through the saved processor."""

import re
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import transformers
from image_kinds import HEIGHT, KINDS, WIDTH, colours, grey, see_through, write_kind
from image_routes import HEADER, compared
from PIL import Image
from transformers import AutoProcessor

from olivine.data import image_traits as traits
from olivine.data.image_traits import image_traits
from olivine.data.images import open_image
from olivine.model import checkpoint
from olivine.testing import tiny_vlm

PAGE = Path(__file__).parents[2] / "docs" / "images.md"
LETTERBOX = "transformers.models.deepseek_vl.image_processing_pil_deepseek_vl"
FITS = ["pad", "crop", "squash", "letterbox"]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kinds")
    return {kind: write_kind(kind, folder) for kind in KINDS}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """For a tower and a fit: the transform used in training, and the saved processor."""
    models = {tower: tiny_vlm(tower=tower) for tower in ("clip", "dinov2")}

    @cache
    def of(tower, fit):
        if fit == "letterbox":  # old versions of transformers import it with torchvision alone
            pytest.importorskip(LETTERBOX, exc_type=ImportError)
        folder = tmp_path_factory.mktemp(tower) / fit
        transform = models[tower].transform.with_fit(fit)
        checkpoint.save(models[tower], folder, transform=transform)
        return transform, AutoProcessor.from_pretrained(folder)

    return of


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("tower", ["clip", "dinov2"])
@pytest.mark.parametrize("kind", KINDS)
def test_training_and_the_saved_processor_see_the_same_pixels(kind, tower, fit, files, saved):
    transform, processor = saved(tower, fit)
    opened = open_image(files[kind])
    trained = transform(opened)
    handed = processor(images=opened, text="<image>", return_tensors="np")["pixel_values"][0]
    np.testing.assert_allclose(handed, trained, rtol=0, atol=1e-6)
    messages = [{"role": "user", "content": [{"type": "image", "image": opened}, {"type": "text", "text": "?"}]}]
    chat = processor.apply_chat_template(messages, tokenize=True, return_dict=True, return_tensors="np")
    np.testing.assert_allclose(chat["pixel_values"][0], trained, rtol=0, atol=1e-6)


SAME = np.asarray(colours())
ON_WHITE = np.asarray(Image.alpha_composite(Image.new("RGBA", (WIDTH, HEIGHT), "white"), see_through()).convert("RGB"))
RAMP = np.asarray(grey(0, 255, np.float32).convert("F"))


@pytest.mark.parametrize(
    ("kind", "expected", "tolerance"),  # of 255, on average
    [
        ("PNG, RGB", SAME, 0),
        ("JPEG, RGB", SAME, 4),
        ("BMP", SAME, 0),
        ("JPEG, EXIF orientation 6 (a phone held upright)", np.rot90(SAME, -1), 4),
        ("JPEG, EXIF orientation 3", np.rot90(SAME, 2), 4),
        ("PNG, EXIF orientation 8", np.rot90(SAME, 1), 0),
        ("WebP, EXIF orientation 6", np.rot90(SAME, -1), 0),
        ("TIFF, EXIF orientation 6", np.rot90(SAME, -1), 0),
        ("PNG, alpha channel", ON_WHITE, 0),
        ("WebP, alpha channel", ON_WHITE, 0),
        ("PNG, palette with alpha", ON_WHITE, 20),
        ("PNG, 16-bit RGB", SAME, 0),
        ("PNG, 16-bit greyscale", RAMP[..., None].repeat(3, -1), 1),
        ("TIFF, 16-bit greyscale", RAMP[..., None].repeat(3, -1), 1),
        ("TIFF, 32-bit integers up to 65,535", RAMP[..., None].repeat(3, -1), 1),
        ("TIFF, floating-point from 0 to 1", RAMP[..., None].repeat(3, -1), 1),
        ("TIFF, several pages", SAME, 0),
        ("PNG, animated", SAME, 0),
        ("WebP, animated", SAME, 0),
        ("GIF, animated", SAME, 8),
        ("PNG with 2 MB of packed text", SAME, 0),
        ("JPEG, CMYK", SAME, 4),
        ("TIFF, CMYK", SAME, 1),
    ],
)
def test_an_image_is_opened_as_a_viewer_shows_it(kind, expected, tolerance, files):
    opened = np.asarray(open_image(files[kind])).astype(int)
    assert opened.shape == expected.shape
    assert np.abs(opened - expected).mean() <= tolerance


@pytest.mark.parametrize("kind", [kind for kind in KINDS if "transparent" in kind])
def test_a_transparent_colour_is_white(kind, files):
    assert open_image(files[kind]).getpixel((0, 0)) == (255, 255, 255)
    assert open_image(files[kind]).getpixel((WIDTH - 1, HEIGHT - 1)) != (255, 255, 255)


def test_twelve_bits_in_sixteen_are_not_nearly_black(files):
    values = np.asarray(open_image(files["PNG, 12-bit greyscale in 16 bits"]))
    assert (values.min(), values.max()) == (19, 255)
    assert len(np.unique(values)) > 200


def test_an_opened_image_is_turned_once(files):
    """With its metadata, the next reader of the image would turn it again."""
    for kind in KINDS:
        assert not open_image(files[kind]).info, kind


TRAITS = {
    "EXIF": traits.TURNED,
    "alpha": traits.TRANSPARENT,
    "transparent": traits.TRANSPARENT,
    "-bit greyscale": traits.DEEP_GREY,
    "32-bit integers": traits.DEEP_GREY,
    "floating-point": traits.DEEP_GREY,
    "CMYK": traits.CMYK,
    "animated": traits.ANIMATED,
    "several pages": traits.ANIMATED,
    "packed text": traits.LONG_TEXT,
    "WebP, animated": traits.TRANSPARENT,  # Pillow writes them with an alpha channel
}


@pytest.mark.parametrize("kind", KINDS)
def test_traits_are_read_from_the_header(kind, files):
    assert image_traits(files[kind]) == {trait for words, trait in TRAITS.items() if words in kind}


def documented():
    text = PAGE.read_text(encoding="utf-8")
    lines = text[text.index(HEADER[0]) :].split("\n\n")[0].split("\n")[2:]
    return {kind: cells for kind, *cells in (re.findall(r"\| ([^|]+) (?=\|)", line) for line in lines)}


def test_every_kind_is_in_the_documented_table():
    assert list(documented()) == list(KINDS)


@pytest.mark.filterwarnings("ignore:Palette images with Transparency")
@pytest.mark.parametrize("kind", KINDS)
def test_the_documented_routes_of_plain_transformers(kind, files):
    """Up to 8 levels: the libraries that decode JPEG and WebP differ between systems."""
    version = re.search(r"transformers (\d+)\.(\d+)", PAGE.read_text(encoding="utf-8"))
    if tuple(map(int, transformers.__version__.split(".")[:2])) < tuple(map(int, version.groups())):
        pytest.skip("the table is of a later transformers")
    for found, written in zip(compared(files[kind]), documented()[kind], strict=True):
        if found is None:
            assert written == "refused"
        elif written == "equal":
            assert found == 0
        else:
            assert found == pytest.approx(int(re.search(r"up to (\d+) of 255 apart", written)[1]), abs=8)
