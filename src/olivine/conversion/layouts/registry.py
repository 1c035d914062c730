"""Which layouts of published models are known; a folder is recognised by its content alone."""

from pathlib import Path

from olivine.conversion.layouts.base import Layout, SourceFolder
from olivine.conversion.layouts.llava_gemma import LlavaGemma
from olivine.conversion.layouts.llava_hf import LlavaHf
from olivine.conversion.layouts.llava_original import LlavaOriginal
from olivine.conversion.layouts.lora import Lora
from olivine.conversion.layouts.projector import Projector
from olivine.errors import RequestError
from olivine.model.companion import COMPANION

LAYOUTS: tuple[Layout, ...] = (Lora(), Projector(), LlavaGemma(), LlavaOriginal(), LlavaHf())


def recognise(folder: Path) -> tuple[Layout, SourceFolder]:
    """Return the layout of a folder, and the folder opened.

    Raises:
        RequestError: there is no such folder; it is Olivine's already; it holds nothing that is known.
    """
    if not folder.is_dir():
        raise RequestError(f"FOLDER: {folder}: no such folder.")
    if (folder / COMPANION).is_file():
        raise RequestError(f"FOLDER: {folder}: is a checkpoint of Olivine's already. Use it as it is.")
    source = SourceFolder(folder)
    for layout in LAYOUTS:
        if layout.matches(source):
            return layout, source
    known = ", ".join(layout.name for layout in LAYOUTS)
    found = source.values.get("model_type")
    said = f"its config.json has model_type {found!r}" if found else "it has no config.json with a model_type"
    raise RequestError(f"FOLDER: {folder}: holds none of the known layouts ({known}); {said}.")
