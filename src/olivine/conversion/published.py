"""A published model as its folder has it: parts by name, what its own time did with them, what is repaired and unknown.

Layouts fill it in; `assemble` makes today's model of it, and `reference` runs it as it was.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from olivine.conversion.raw_tensors import RawTensor
from olivine.recipe import ImageFit

#: What Gemma's language model was given before and since transformers 5.4: image features times sqrt(hidden), or not.
ImageScale = Literal["sqrt-hidden", "one"]


@dataclass(frozen=True, slots=True)
class ImportOptions:
    """What a user says of a folder; None leaves it to what the folder says.

    Attributes:
        base: the language model (or whole model) that an adapter or a projector belongs to: a folder or hub id.
        tower: the vision tower, where the folder does not hold it.
        tokenizer: the tokenizer, where the folder does not hold it or holds another than it should.
        fit: how images were made square in training.
        template: the chat template of training.
        image_scale: what image features were multiplied by in training.
        activation: the language model's activation in training, as transformers names it.
    """

    base: str | None = None
    tower: str | None = None
    tokenizer: str | None = None
    fit: ImageFit | None = None
    template: str | None = None
    image_scale: ImageScale | None = None
    activation: str | None = None


@dataclass(frozen=True, slots=True)
class Repair:
    """Something that today's transformers would do otherwise than training did, and what was done about it."""

    what: str
    reason: str


@dataclass(frozen=True, slots=True)
class Adapter:
    """A low-rank update of a linear layer: weight + scale * up @ down; `down` `[rank, in]`, `up` `[out, rank]`."""

    down: RawTensor
    up: RawTensor
    scale: float

    def delta(self, start: int, stop: int) -> Tensor:
        """Return rows `start` to `stop` of the update in fp32."""
        return self.scale * (self.up.rows(start, stop).float() @ self.down.whole().float())


@dataclass(slots=True)
class Published:
    """A model in a published layout.

    Attributes:
        layout: its name in messages.
        folder: where it is.
        text, vision: configuration values of language model and tower, complete, `model_type` included.
        text_as_written, vision_as_written: the same as the files have them, for the reference.
        language: tensors as `embed_tokens.weight`, `layers.0...`, `norm.weight`, and `lm_head.weight` if stored.
        tower: tensors as the tower's module has them without `vision_model.`.
        projector: tensors of `linear_1` and, unless it is one layer, `linear_2`.
        connector: configuration values of a connector that plain transformers lacks.
        adapters: updates of the language model's linear layers, by the name of their weight.
        layer, strategy: which hidden states of the tower are features, and whether the first token is dropped.
        projector_activation: between the two layers.
        preprocessor: values of the image processor, if there are any.
        tokenizer: folder or hub id.
        image_token_id: of the placeholder, where the configuration says.
        stop_ids: that end a reply by the folder's own generation settings.
        image_scale, activation: what its own time did; see `ImportOptions`.
        fit: how images were made square in training, as far as the folder says.
        template: the chat template of training, or None if the folder does not say.
        today: every tensor by its own name, where transformers of today computes the folder as training did.
        taken: options for other folders ("base", "tower") that the layout uses.
        template_advice: what to say besides where the template is unknown.
        repairs: what today's transformers would do otherwise.
        unknown: what the folder does not say, and what was taken instead.
    """

    layout: str
    folder: Path
    text: dict[str, Any]
    vision: dict[str, Any]
    text_as_written: Mapping[str, Any]
    vision_as_written: Mapping[str, Any]
    language: Mapping[str, RawTensor]
    tower: Mapping[str, RawTensor]
    projector: Mapping[str, RawTensor]
    tokenizer: str
    image_scale: ImageScale
    activation: str
    fit: ImageFit
    template: str | None = None
    adapters: Mapping[str, Adapter] = field(default_factory=dict)
    connector: dict[str, Any] | None = None
    layer: int | list[int] = -2
    strategy: str = "default"
    projector_activation: str = "gelu"
    preprocessor: dict[str, Any] = field(default_factory=dict)
    image_token_id: int | None = None
    stop_ids: tuple[int, ...] = ()
    today: Mapping[str, RawTensor] | None = None
    taken: tuple[str, ...] = ()
    template_advice: str = ""
    repairs: list[Repair] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
