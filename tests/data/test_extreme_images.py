"""Files that are no images, or images too large, too long or damaged: refused by name, at a bounded cost."""

import io
import os
import socket
import struct
import subprocess
import sys
import threading
import warnings
import zlib

import numpy as np
import pytest
from image_kinds import KINDS, colours, text, write_kind
from PIL import Image

from olivine.data import image_files, image_fit
from olivine.data.image_traits import image_traits
from olivine.data.images import ImageTransform, decode_image, find_image, open_image
from olivine.errors import DataError

MEAN, STD = (0.48, 0.46, 0.41), (0.27, 0.26, 0.28)


def encoded(image, kind, **options):
    raw = io.BytesIO()
    image.save(raw, kind, **options)
    return raw.getvalue()


def bits_png(width, height):
    """A PNG of 1 bit a pixel: a few kilobytes, whatever its size."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packer = zlib.compressobj(9)
    row = b"\0" * (1 + (width + 7) // 8)
    packed = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "empty, 0 bytes"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "PostScript"),
        (b"\xc5\xd0\xd3\xc6" + bytes(60), "PostScript"),
        (b"%PDF-1.7", "PDF"),
        (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "SVG"),
        (b'<?xml version="1.0"?><svg/>', "SVG"),
        (b"<!DOCTYPE html><title>404</title>", "web page"),
        (b"\0\0\0\x1cftypavif" + bytes(40), "AVIF"),
        (b"\0\0\0\x18ftypheic" + bytes(40), "HEIC"),
        (b"\0\0\0\x18ftypisom" + bytes(40), "a video"),
        (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"),
        (b"8BPS" + bytes(40), "Photoshop"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        (b"PK\3\4" + bytes(40), "ZIP"),
        (bytes(4096), "nothing but zeros"),
        (b"no image at all", "not an image in any format known here"),
        (b"P6 9 9 255 " + bytes(243), "not an image in any format known here"),
    ],
)
def test_a_file_that_is_no_image_is_refused_by_name(tmp_path, content, said):
    path = tmp_path / "image.png"
    path.write_bytes(content)
    for opening in (open_image, image_traits):
        with pytest.raises(DataError, match=said) as refused:
            opening(path)
        assert "image.png" in str(refused.value)
    with pytest.raises(DataError, match=said):
        decode_image(content, "in memory")


def test_no_external_program_is_started_for_an_eps(tmp_path):
    """A stand-in for Ghostscript on PATH leaves a file when it is called."""
    mark, fake = tmp_path / "mark", tmp_path / "bin" / "gs"
    fake.parent.mkdir()
    fake.write_text(f"#!/bin/sh\ntouch {mark}\n")
    fake.chmod(0o755)
    eps = tmp_path / "image.png"
    eps.write_bytes(encoded(colours(), "EPS"))
    environment = os.environ | {"PATH": f"{fake.parent}:{os.environ['PATH']}"}
    by_us = "from pathlib import Path; from olivine.data.images import open_image; open_image(Path(sys.argv[1]))"
    by_pillow = "from PIL import Image; Image.open(sys.argv[1]).load()"
    for code, started in ((by_us, False), (by_pillow, True)):
        command = [sys.executable, "-c", f"import sys; {code}", str(eps)]
        subprocess.run(command, env=environment, capture_output=True, check=False, timeout=60)
        assert mark.exists() is started


def test_only_the_listed_formats_are_read(tmp_path):
    """Every other format that Pillow can write is refused."""
    refused = []
    for kind in ("PPM", "TGA", "ICO", "PCX", "JPEG2000", "SGI", "DDS", "AVIF", "PDF"):
        raw = io.BytesIO()
        try:
            colours(size=(32, 32)).save(raw, kind)
        except (KeyError, OSError, ValueError):
            continue  # not built into this Pillow
        with pytest.raises(DataError, match="expected JPEG, PNG, WebP, GIF, BMP or TIFF"):
            decode_image(raw.getvalue(), kind)
        refused.append(kind)
    assert len(refused) >= 5


def pipe(path):
    os.mkfifo(path)


def folder(path):
    path.mkdir()


def link_to_zeros(path):
    path.symlink_to("/dev/zero")


def local_socket(path):
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(path))


@pytest.mark.parametrize(
    ("make", "said"),
    [(pipe, "a named pipe"), (link_to_zeros, "a device"), (folder, "a folder"), (local_socket, "a socket")],
)
def test_pipes_and_devices_are_refused_at_once(tmp_path, monkeypatch, make, said):
    monkeypatch.chdir(tmp_path)  # a socket's path must be short
    make(tmp_path / "image.png" if make is not local_socket else (tmp_path / "image.png").relative_to(tmp_path))
    with pytest.raises(DataError, match=said):
        find_image(tmp_path, "image.png")
    if make is not local_socket:  # the system itself refuses to open one
        with pytest.raises(DataError, match=said):
            open_image(tmp_path / "image.png")


def test_a_pipe_with_a_writer_is_not_read(tmp_path):
    path = tmp_path / "image.png"
    os.mkfifo(path)
    writer = threading.Thread(target=lambda: os.close(os.open(path, os.O_RDWR)))
    writer.start()
    writer.join()
    with pytest.raises(DataError, match="a named pipe"):
        open_image(path)


@pytest.mark.parametrize("name", ["a" * 5000 + ".png", "b/" * 3000 + "c.png", "a\0b.png"])
def test_impossible_paths_are_shortened_in_messages(tmp_path, name):
    with pytest.raises(DataError) as refused:
        find_image(tmp_path, name)
    assert len(str(refused.value)) < 600


@pytest.mark.parametrize("on_disk", ["a.JPG", "a.Jpeg", "a.PNG", "a.tif", "a.TIFF", "a.WebP"])
def test_suffixes_in_capitals_and_others_are_found(tmp_path, on_disk):
    if on_disk == "a.WebP":
        on_disk = "a.Webp"
    (tmp_path / on_disk).write_bytes(b"x")
    assert find_image(tmp_path, "a.jpg").name == on_disk


def test_too_large_a_file_is_refused_unread(tmp_path):
    path = tmp_path / "image.png"
    with path.open("wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n")
        file.truncate(image_files.MAX_FILE_BYTES + 1)  # sparse: no disk is taken
    with pytest.raises(DataError, match=r"400,000,001 bytes; at most 400,000,000"):
        open_image(path)


@pytest.mark.parametrize(
    ("width", "height", "said"),
    [
        (20_000, 5_001, "20000x5001 pixels"),
        (65_536, 1, "65536x1 pixels"),
        (1, 65_536, "1x65536 pixels"),
        (50_000, 50_000, "far too many pixels"),
        (50_000_000, 1, "50000000x1 pixels"),
    ],
)
def test_decompression_bombs_are_refused_by_their_header(width, height, said):
    content = bits_png(width, 1).replace(struct.pack(">II", width, 1), struct.pack(">II", width, height))
    crc = struct.pack(">I", zlib.crc32(content[12:29]))
    with pytest.raises(DataError, match=said) as refused:
        decode_image(content[:29] + crc + content[33:], "bomb")
    assert "65,535 per side" in str(refused.value)


def test_a_gif_of_an_absurd_screen_is_refused():
    content = bytearray(encoded(colours("P"), "GIF"))
    content[6:10] = struct.pack("<HH", 65535, 65535)
    with pytest.raises(DataError, match="pixels"):
        decode_image(bytes(content), "screen.gif")


COST = """
import resource, sys, time
from pathlib import Path
from olivine.data.images import ImageTransform, open_image
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
before, start = peak(), time.process_time()
image = open_image(Path(sys.argv[1]))
for fit in ("pad", "crop", "squash", "letterbox"):
    pixels = ImageTransform(336, fit, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))(image)
    assert pixels.shape == (3, 336, 336)
print(peak() - before, time.process_time() - start)
"""


@pytest.mark.parametrize(("width", "height"), [(65_535, 1), (1, 65_535), (30_000, 40), (40, 30_000)])
def test_every_fit_of_a_long_thin_image_is_cheap(tmp_path, width, height):
    """A square of its longer side would be 3.6 to 17 GB; what crop resizes to, 3.6 to 29 GB."""
    path = tmp_path / "strip.png"
    path.write_bytes(bits_png(width, height))
    done = subprocess.run(
        [sys.executable, "-c", COST, str(path)], capture_output=True, text=True, check=True, timeout=120
    )
    megabytes, seconds = map(float, done.stdout.split())
    assert megabytes < 400
    assert seconds < 10


@pytest.mark.parametrize(
    "size", [(61, 33), (200, 9), (9, 200), (400, 3), (3, 400), (97, 31), (1, 90), (90, 1), (300, 299)]
)
@pytest.mark.parametrize("fit", ["pad", "crop"])
def test_the_bounded_method_gives_the_same_pixels(fit, size, monkeypatch):
    """Wide images that are padded: bit for bit. Others: within two levels of 255, from rounding in another order."""
    values = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    image, transform = Image.fromarray(values), ImageTransform(32, fit, MEAN, STD)
    usual = np.asarray(transform.fitted(image)).astype(int)
    monkeypatch.setattr(image_fit, "_CANVAS_PIXELS", 0)
    monkeypatch.setattr(image_fit, "_CANVAS_PER_PIXEL", 0)
    bounded = np.asarray(transform.fitted(image)).astype(int)
    assert np.abs(bounded - usual).max() <= (0 if fit == "pad" and size[0] > size[1] else 2)


def test_ordinary_images_take_the_usual_method():
    """A photo, a panorama and a long screenshot keep transformers' bits."""
    for size in ((4000, 3000), (8000, 2000), (1080, 8000)):
        assert image_fit._in_proportion(max(size) ** 2, Image.new("1", size))
    assert not image_fit._in_proportion(30_000**2, Image.new("1", (30_000, 1)))


@pytest.mark.parametrize(
    "options", [text(2_000_000, packed=True), text(2_000_000, packed=False), text(70_000_000, packed=True)]
)
def test_long_text_in_a_png_is_accepted(options):
    content = encoded(colours(), "PNG", **options)
    assert np.array_equal(np.asarray(decode_image(content, "text.png")), np.asarray(colours()))


def test_a_damaged_text_chunk_in_a_png_is_ignored():
    content = encoded(colours(), "PNG", **text(1000, packed=True))
    at = content.index(b"zTXt") + 20
    broken = content[:at] + b"\xff\xff" + content[at + 2 :]
    assert np.array_equal(np.asarray(decode_image(broken, "text.png")), np.asarray(colours()))


def test_damaged_exif_is_ignored():
    image = colours()
    for exif in (b"Exif\0\0garbage", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff"):
        assert decode_image(encoded(image, "JPEG", exif=exif), "exif.jpg").size == image.size


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (np.full((4, 4), -1, np.int32), "from -1 to -1"),
        (np.full((4, 4), 70_000, np.int32), "from 70000 to 70000"),
        (np.full((4, 4), np.nan, np.float32), "nan"),
        (np.array([[0, np.inf]], np.float32), "inf"),
        (np.array([[0, 1e6]], np.float32), "1e\\+06"),
    ],
)
def test_values_without_a_defined_brightness_are_refused(values, said):
    with pytest.raises(DataError, match=said):
        decode_image(encoded(Image.fromarray(values), "TIFF"), "values.tif")


@pytest.mark.parametrize(
    ("top", "brightest"), [(255, 255), (256, 64), (1023, 255), (4095, 255), (30_000, 117), (65_535, 255)]
)
def test_deep_greyscale_is_scaled_from_the_bits_it_needs(top, brightest):
    image = Image.fromarray(np.array([[0, top]], np.uint16))
    opened = np.asarray(decode_image(encoded(image, "PNG"), "deep.png"))
    assert opened[0, :, 0].tolist() == [0, brightest]


def test_a_large_transparent_image_is_laid_on_white_in_bands(monkeypatch):
    from olivine.data import image_modes

    rgba = Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 40, 4), dtype=np.uint8))
    whole = np.asarray(image_modes.upright_rgb(rgba))
    monkeypatch.setattr(image_modes, "_BAND_PIXELS", 120)
    assert np.array_equal(np.asarray(image_modes.upright_rgb(rgba)), whole)


def outcome(content):
    try:
        return decode_image(content, "broken").mode
    except DataError as error:
        return "refused" if "broken" in str(error) and "\n" not in str(error) else f"said badly: {error}"


@pytest.mark.parametrize("kind", [kind for kind in KINDS if "text" not in kind])
def test_damage_anywhere_gives_an_image_or_a_named_error(kind, tmp_path):
    """Cuts and flipped bytes: never another exception, whatever Pillow's readers raise."""
    content = write_kind(kind, tmp_path).read_bytes()
    draw = np.random.default_rng(0)
    outcomes = set()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(60):
            broken = bytearray(content)
            for position in draw.integers(0, min(len(broken), 400), size=draw.integers(1, 5)):
                broken[position] = draw.integers(0, 256)
            broken = broken[: draw.integers(1, len(broken) + 1)] if draw.random() < 0.5 else broken
            outcomes.add(outcome(bytes(broken)))
    assert outcomes <= {"RGB", "refused"}
    assert "refused" in outcomes


def test_files_cut_short_are_refused(tmp_path):
    for name in ("PNG, RGB", "JPEG, RGB", "WebP, alpha channel", "BMP", "TIFF, CMYK"):
        content = write_kind(name, tmp_path).read_bytes()
        with pytest.raises(DataError, match="truncated or damaged"):
            decode_image(content[: len(content) * 2 // 3], name)
