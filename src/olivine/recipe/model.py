"""The model's sections: a tower, a language model and a connector, or a whole model to start from."""

from typing import Annotated, Any

from pydantic import Field, model_validator

from olivine.field_identity import another_output
from olivine.recipe.choices import ImageFit, Registers, Resample, Source, TemplateName
from olivine.recipe.connector import ConnectorRecipe
from olivine.recipe.section import Section

_SECTIONS = ("vision", "language", "connector")


class VisionRecipe(Section):
    """The vision tower, or several whose features are concatenated by channel (`fused`)."""

    from_: Annotated[Source | None, Field(alias="from"), another_output("the tower's weights")] = None
    #: Towers in place of `from`, with patches on the same grid (Prismatic, arXiv:2402.07865). The first one's mean and
    #: standard deviation normalise images; what the others expect is computed from that.
    fused: Annotated[
        Annotated[tuple[Source, ...], Field(min_length=2, max_length=4)] | None, another_output("the towers' weights")
    ] = None
    #: Indexes `hidden_states`; -2 is LLaVA's choice (before the last block). Of several, features are concatenated.
    layer: Annotated[
        int | Annotated[tuple[int, ...], Field(min_length=1)], another_output("which features the tower gives")
    ] = -2
    #: Whether register tokens are image tokens; None keeps those of one tower and drops those of fused ones.
    registers: Annotated[Registers | None, another_output("which features the tower gives")] = None
    image_fit: Annotated[ImageFit, another_output("what the tower sees of an image")] = "pad"
    #: Side of the square fed to the tower, in pixels; None takes the tower's own (DINOv2: 224 as its processor has).
    #: Learnt position embeddings of another size are resampled (bicubic), and saved so.
    image_size: Annotated[Annotated[int, Field(gt=0)] | None, another_output("what the tower sees of an image")] = None
    #: Filter that resizes images; None takes it from the tower's preprocessor file.
    resample: Annotated[Resample | None, another_output("the pixels' values")] = None
    #: Channel means and standard deviations in [0, 1]; None takes them from the tower's preprocessor file.
    mean: Annotated[tuple[float, float, float] | None, another_output("the pixels' values")] = None
    std: Annotated[tuple[float, float, float] | None, another_output("the pixels' values")] = None

    @property
    def sources(self) -> tuple[Source, ...]:
        """Where the towers come from: one, or those that are fused."""
        if self.fused is not None:
            return self.fused
        assert self.from_ is not None, "checked on reading"
        return (self.from_,)

    @model_validator(mode="after")
    def _one_or_fused(self) -> "VisionRecipe":
        if (self.from_ is None) == (self.fused is None):
            raise ValueError("expected from (one tower) or fused (several), and not both")
        if self.fused is not None and self.registers == "keep":
            raise ValueError("registers: the patches of fused towers form one grid, which has no place for registers")
        if self.fused is not None and (self.mean is not None or self.std is not None):
            raise ValueError("mean and std: each of the fused towers has its own; they cannot be set for all")
        return self


class TokenizerRecipe(Section):
    """A byte-pair tokenizer in Gemma's id layout, trained on the recipe's own texts (for random starts)."""

    vocab_size: Annotated[int, Field(ge=512), another_output("the tokens of every text")] = 1024


class LanguageRecipe(Section):
    """The language model, its tokenizer and its chat template."""

    from_: Annotated[Source, Field(alias="from"), another_output("the language model's first weights")]
    #: None takes the tokenizer that lies beside the model; a mapping trains one.
    tokenizer: Annotated[str | TokenizerRecipe | None, another_output("the tokens of every text")] = None
    #: None follows the model type: gemma -> gemma, llama -> vicuna. "chat" is the tokenizer's own.
    template: Annotated[TemplateName | None, another_output("the text around every turn")] = None


class ModelRecipe(Section):
    """Tower, language model and connector; or `from`, a whole model of which training continues.

    With `from`, everything is the folder's (modules, template, image transform), and no section may be given: there is
    nothing that they could decide. The properties of the same names are those of a recipe without `from`.
    """

    #: A folder that Olivine wrote or imported, the directory of a run or of a stage, or a hub id of such a folder.
    from_: Annotated[str | None, Field(alias="from"), another_output("the model that training starts from")] = None
    vision_: Annotated[VisionRecipe | None, Field(alias="vision"), another_output("the tower")] = None
    language_: Annotated[LanguageRecipe | None, Field(alias="language"), another_output("the language model")] = None
    connector_: Annotated[ConnectorRecipe | None, Field(alias="connector"), another_output("the connector")] = None

    @model_validator(mode="before")
    @classmethod
    def _whole_or_sections(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        if values.get("from") is None:
            # A section that is missing is read as an empty one, which says what it needs.
            return values | {name: {} for name in _SECTIONS if values.get(name) is None}
        given = [
            f"{name}.{key}"
            for name in _SECTIONS
            if values.get(name) is not None
            for key in (values[name] if isinstance(values[name], dict) else ("from",))
        ]
        if given:
            raise ValueError(
                f"{', '.join(given)}: comes from the folder of model.from, as do all settings of the model. Remove "
                "what is listed, or model.from. Over a base recipe, set the whole section: 'model={from: FOLDER}'. A "
                "stage may have its own template and image_fit."
            )
        return values

    @property
    def vision(self) -> VisionRecipe:
        """The vision tower's section, in a recipe without `from`."""
        assert self.vision_ is not None, "a whole model has no sections"
        return self.vision_

    @property
    def language(self) -> LanguageRecipe:
        """The language model's section, in a recipe without `from`."""
        assert self.language_ is not None, "a whole model has no sections"
        return self.language_

    @property
    def connector(self) -> ConnectorRecipe:
        """The connector's section, in a recipe without `from`."""
        assert self.connector_ is not None, "a whole model has no sections"
        return self.connector_

    @property
    def trains_tokenizer(self) -> bool:
        """Whether a tokenizer is trained, on the texts of every data source."""
        return self.from_ is None and isinstance(self.language.tokenizer, TokenizerRecipe)
