"""LLaVA-Gemma as Intel trained it (`llava_gemma`, IntelLabs/multimodal_cognitive_ai): LLaVA's own layout with Gemma."""

from olivine.conversion.gemma_time import activation, image_scale, version_of
from olivine.conversion.layouts.base import Layout, SourceFolder
from olivine.conversion.layouts.llava_original import PROJECTOR, language_type, read_original
from olivine.conversion.published import ImportOptions, Published


class LlavaGemma(Layout):
    """A whole LLaVA-Gemma that was never converted, such as Intel's 7B."""

    name = "LLaVA-Gemma original"

    def matches(self, folder: SourceFolder) -> bool:
        """By the projector among the tensors, and Gemma as the language model."""
        return folder.any_tensor(PROJECTOR) and language_type(folder.values) == "gemma"

    def read(self, folder: SourceFolder, options: ImportOptions) -> Published:
        """Return what the folder holds."""
        published = read_original(folder, folder.values, folder.tensors, options, self.name)
        as_gemma(published, folder, options)
        return published


def as_gemma(published: Published, folder: SourceFolder, options: ImportOptions) -> None:
    """Say what Gemma's own time did with image features and activation."""
    where = f"{folder.key}: {folder.path / 'config.json'}"
    version = version_of(folder.values, where)
    published.image_scale = image_scale(version, options.image_scale, where)
    found, sure = activation(folder.values, version)
    published.activation = options.activation or found
    if not sure and options.activation is None:
        published.unknown.append(f"the language model's activation in training: {found} is taken (--activation)")
