"""How plain transformers reads each kind of image file, compared with Olivine.

`python tests/data/image_routes.py` prints the table of docs/images.md.
"""

import base64
import io
import tempfile
from pathlib import Path

import numpy as np
from image_kinds import KINDS, write_kind
from PIL import Image
from transformers.image_utils import load_image

from olivine.data.images import ImageTransform, open_image
from olivine.model.processor import image_processor

HEADER = ["| file | a PIL image given to the processor | a path in a chat message |", "|---|---|---|"]
#: Normalisation under which a difference of 1 is half the range of 8 bits.
TRANSFORM = ImageTransform(32, "pad", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def compared(path):
    """Return (PIL image, path in a chat message): None if that fails, else the largest difference from 0 to 255."""
    ours = TRANSFORM(open_image(path))
    process = image_processor(TRANSFORM)
    content = path.read_bytes()
    found = []
    for open_it in (
        lambda: Image.open(io.BytesIO(content)),
        # apply_chat_template opens paths with this, which leaves some files open; here it gets the content instead.
        lambda: load_image("data:image/any;base64," + base64.b64encode(content).decode()),
    ):
        try:
            theirs = process(open_it(), return_tensors="np")["pixel_values"][0]
            found.append(float(np.abs(theirs - ours).max() * 127.5))
        except ValueError:
            found.append(None)
    return found


def cell(difference):
    if difference is None:
        return "refused"
    return "equal" if difference == 0 else f"up to {difference:.0f} of 255 apart"


def table(folder):
    rows = [f"| {kind} | {' | '.join(map(cell, compared(write_kind(kind, folder))))} |" for kind in KINDS]
    return [*HEADER, *rows]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        print("\n".join(table(Path(name))))  # noqa: T201
