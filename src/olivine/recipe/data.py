"""A data source's section."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from olivine.field_identity import another_output, same_bits, same_mathematics
from olivine.recipe.choices import OnError
from olivine.recipe.section import Section
from olivine.records import MarkRule


class AugmentRecipe(Section):
    """Random changes to training images, drawn from the seed, the epoch and the sample's index."""

    #: Mirror left to right with probability one half (only where no text speaks of left and right).
    flip: Annotated[bool, another_output("how training images are changed")] = False
    #: Shift by up to this many pixels in each direction; edges are repeated.
    shift: Annotated[int, Field(ge=0), another_output("how training images are changed")] = 0


class DataRecipe(Section):
    """One data source."""

    #: "llava": one JSON file and a folder of images. "webdataset": a folder of .tar shards, or one of them.
    #: "huggingface": a folder of the datasets library, Arrow or Parquet.
    format: Annotated[
        Literal["llava", "webdataset", "huggingface"], another_output("which samples are read, in which order")
    ] = "llava"
    #: The JSON file, the shards or the dataset's folder (which may also be written `path:`).
    json_: Annotated[
        Path, Field(alias="json"), same_bits("where the samples are; they are identified by their content")
    ]
    #: Root of the image paths in the JSON.
    images: Annotated[Path | None, same_bits("where images are; they are identified by their content")] = None
    #: Several questions about one image: as turns of one conversation, or as independent continuations of one
    #: shared image prefix (no question sees another's answer).
    turns: Annotated[Literal["together", "independent"], another_output("what each question sees")] = "together"
    #: Where the mark of a single image stands: in front of the conversation, as LLaVA has it, or where the file has it.
    #: The marks of several images always stay where they are.
    marks: Annotated[MarkRule, another_output("where images stand in a conversation")] = "front"
    #: What happens to a broken item: it stops the run with its name, or is skipped and counted.
    on_error: Annotated[
        OnError, same_mathematics("whether a broken item stops the run; intact items are trained on the same")
    ] = "stop"
    #: Longest sample in tokens, image tokens included; a longer one counts as broken (nothing is cut silently).
    max_length: Annotated[int, Field(gt=0), another_output("which samples are trained on")] = 2048
    augment: AugmentRecipe = AugmentRecipe()

    @model_validator(mode="before")
    @classmethod
    def _path_is_json(cls, values: Any) -> Any:
        if isinstance(values, dict) and "path" in values and "json" not in values:
            return {("json" if key == "path" else key): value for key, value in values.items()}
        return values
