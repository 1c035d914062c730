"""A stage-1 `mm_projector.bin` of LLaVA beside its config.json: a projector for a language model elsewhere."""

from olivine.conversion.layouts.base import Layout, SourceFolder
from olivine.conversion.layouts.llava_gemma import as_gemma
from olivine.conversion.layouts.llava_original import language_tensors, read_original
from olivine.conversion.published import ImportOptions, Published
from olivine.conversion.raw_tensors import tensors_in_file
from olivine.errors import RequestError
from olivine.model.hub import TOKENIZER, WEIGHTS, local_folder
from olivine.registry import locate

FILE = "mm_projector.bin"


class Projector(Layout):
    """What LLaVA's first stage leaves."""

    name = "LLaVA stage-1 projector"

    def matches(self, folder: SourceFolder) -> bool:
        """By the file, where no whole model or adapter lies beside it."""
        return folder.has(FILE) and not folder.has("adapter_config.json") and not folder.tensors

    def read(self, folder: SourceFolder, options: ImportOptions) -> Published:
        """Return the projector with its base."""
        values = folder.values
        if not values:
            raise RequestError(
                f"{folder.key}: {folder.path}: holds {FILE}, but not the config.json that LLaVA writes beside it "
                "(mm_projector_type, mm_vision_tower, mm_vision_select_layer)."
            )
        base = base_folder(options.base or values.get("_name_or_path"), folder)
        published = read_original(
            folder,
            values,
            tensors_in_file(folder.path / FILE, folder.key),
            options,
            self.name,
            language=language_tensors(base.tensors),
            text=base.values,
        )
        published.taken = ("base", "tower")
        published.template_advice = "LLaVA-1.5 aligned with --template plain, LLaVA-Gemma with its own"
        published.tokenizer = options.tokenizer or str(base.path)
        if published.text["model_type"] == "gemma":
            as_gemma(published, folder, options)
        return published


def base_folder(source: str | None, folder: SourceFolder) -> SourceFolder:
    """Return the folder of the model that an adapter or projector belongs to.

    Raises:
        RequestError: it is not named, or cannot be found or fetched.
    """
    if not source:
        raise RequestError(f"{folder.key}: {folder.path}: does not say which language model it needs. Give --base.")
    files = (*WEIGHTS, *TOKENIZER, "pytorch_model.bin", "pytorch_model.bin.index.json", "pytorch_model-*.bin")
    return SourceFolder(local_folder(locate(source), "--base", files), "--base")
