"""One small image file of every kind that tools read differently, generated on demand."""

import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, PngImagePlugin

WIDTH, HEIGHT = 37, 23


def colours(mode="RGB", size=(WIDTH, HEIGHT)):
    """Smooth colours with a hard edge, which lossy formats change little."""
    across, down = np.meshgrid(np.linspace(0, 1, size[0]), np.linspace(0, 1, size[1]))
    edge = np.where(across > 0.6, 0.9, 0.2 + 0.5 * down)
    values = np.stack([across, down, edge], axis=-1)
    return Image.fromarray((values * 255).astype(np.uint8)).convert(mode)


def alpha():
    """From opaque on the left to transparent on the right."""
    return Image.fromarray(np.tile(np.linspace(255, 0, WIDTH).astype(np.uint8), (HEIGHT, 1)))


def see_through(mode="RGBA"):
    image = colours()
    image.putalpha(alpha())
    return image.convert(mode)


def grey(low, high, dtype):
    return Image.fromarray(np.linspace(low, high, WIDTH * HEIGHT).reshape(HEIGHT, WIDTH).astype(dtype))


def turned(orientation):
    image = colours()
    exif = image.getexif()
    exif[0x0112] = orientation
    return {"exif": exif}


def text(size, *, packed):
    info = PngImagePlugin.PngInfo()
    info.add_text("comment", "x" * size, zip=packed)
    return {"pnginfo": info}


def raw_png(path, bits, colour, rows, extra=b""):
    """A PNG that Pillow does not write."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, bits, colour, 0, 0, 0)
    packed = zlib.compress(b"".join(b"\0" + row for row in rows))
    ends = chunk(b"IDAT", packed) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + ends)


def deep_colour_png(path):
    values = (np.asarray(colours()).astype(np.uint16) * 257).astype(">u2")
    raw_png(path, 16, 2, [row.tobytes() for row in values])


def key_colour_png(path):
    image = np.asarray(colours()).copy()
    image[:8, :8] = (10, 20, 30)
    Image.fromarray(image).save(path, transparency=(10, 20, 30))


def palette_key_png(path):
    image = colours().quantize(16)
    image.save(path, transparency=image.getpixel((0, 0)))


def transparent_gif(path):
    image = colours().quantize(16)
    image.save(path, transparency=image.getpixel((0, 0)))


def saved(make: Callable[[], Image.Image], **options):
    return lambda path: make().save(path, **options)


def frames(**options):
    return lambda path: colours().save(path, save_all=True, append_images=[colours().rotate(180)], **options)


PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
#: Kind of file: its name on disk, and how it is written.
KINDS: dict[str, tuple[str, Callable[[Path], None]]] = {
    "PNG, RGB": ("rgb.png", saved(colours)),
    "JPEG, RGB": ("rgb.jpg", saved(colours, quality=95)),
    "JPEG, progressive": ("progressive.jpg", saved(colours, quality=95, progressive=True)),
    "JPEG, greyscale": ("grey.jpg", saved(lambda: colours("L"), quality=95)),
    "JPEG with a colour profile": ("profile.jpg", saved(colours, quality=95, icc_profile=PROFILE)),
    "JPEG, CMYK": ("cmyk.jpg", saved(lambda: colours("CMYK"), quality=95)),
    "JPEG, EXIF orientation 6 (a phone held upright)": ("phone.jpg", saved(colours, quality=95, **turned(6))),
    "JPEG, EXIF orientation 3": ("upside-down.jpg", saved(colours, quality=95, **turned(3))),
    "PNG, EXIF orientation 8": ("turned.png", saved(colours, **turned(8))),
    "WebP, EXIF orientation 6": ("turned.webp", saved(colours, lossless=True, **turned(6))),
    "TIFF, EXIF orientation 6": ("turned.tif", saved(colours, **turned(6))),
    "PNG, alpha channel": ("rgba.png", saved(see_through)),
    "PNG, greyscale with alpha": ("la.png", saved(lambda: see_through("LA"))),
    "WebP, alpha channel": ("rgba.webp", saved(see_through, lossless=True)),
    "PNG, palette": ("palette.png", saved(lambda: colours().quantize(16))),
    "PNG, palette with alpha": ("palette-alpha.png", saved(lambda: see_through().quantize(256))),
    "PNG, palette with one transparent entry": ("palette-key.png", palette_key_png),
    "PNG, RGB with one transparent colour": ("key.png", key_colour_png),
    "PNG, 1 bit": ("bits.png", saved(lambda: colours("1"))),
    "PNG, 16-bit greyscale": ("deep.png", saved(lambda: grey(0, 65535, np.uint16))),
    "PNG, 12-bit greyscale in 16 bits": ("x-ray.png", saved(lambda: grey(300, 4095, np.uint16))),
    "PNG, 16-bit RGB": ("deep-rgb.png", deep_colour_png),
    "TIFF, 16-bit greyscale": ("deep.tif", saved(lambda: grey(0, 65535, np.uint16))),
    "TIFF, 32-bit integers up to 65,535": ("integers.tif", saved(lambda: grey(0, 65535, np.int32))),
    "TIFF, floating-point from 0 to 1": ("float.tif", saved(lambda: grey(0, 1, np.float32))),
    "TIFF, CMYK": ("cmyk.tif", saved(lambda: colours("CMYK"))),
    "TIFF, several pages": ("pages.tif", frames()),
    "GIF": ("still.gif", saved(lambda: colours().quantize(16))),
    "GIF, transparent": ("transparent.gif", transparent_gif),
    "GIF, animated": ("moving.gif", frames()),
    "PNG, animated": ("moving.png", frames()),
    "WebP, animated": ("moving.webp", frames(lossless=True)),
    "PNG with 2 MB of packed text": ("text.png", saved(colours, **text(2_000_000, packed=True))),
    "BMP": ("rgb.bmp", saved(colours)),
}


def write_kind(kind, folder):
    """Write the file of a kind; return its path."""
    name, write = KINDS[kind]
    write(folder / name)
    return folder / name
