"""A stage's section: which modules train, whole or by low-rank updates, on what, for how long."""

from typing import Annotated, Any, Literal, get_args

from pydantic import Field, field_validator, model_validator

from olivine.errors import unknown_name
from olivine.field_identity import another_output, same_bits, same_mathematics
from olivine.recipe.choices import ImageFit, LossWeights, ModuleName, StageTemplateName
from olivine.recipe.section import Section


class LoraRecipe(Section):
    """Low-rank updates of the language model (arXiv:2106.09685), merged into its weights when the stage ends."""

    rank: Annotated[int, Field(ge=1), another_output("the size of the updates")] = 16
    #: The update is scaled by alpha / rank.
    alpha: Annotated[float, Field(gt=0), another_output("the size of the updates")] = 32.0
    #: Keep the linear layers' own weights in four bits meanwhile (QLoRA's NF4, arXiv:2305.14314); None does not.
    quantize: Annotated[Literal["nf4"] | None, another_output("the weights that updates are added to")] = None
    #: Linear layers of each block, by name.
    targets: Annotated[tuple[str, ...], Field(min_length=1), another_output("which layers are updated")] = (
        "q_proj",
        "k_proj",
        "v_proj",
        "o_proj",
        "gate_proj",
        "up_proj",
        "down_proj",
    )


class VisionLoraRecipe(Section):
    """Low-rank updates of the vision tower, merged into its weights when the stage ends."""

    rank: Annotated[int, Field(ge=1), another_output("the size of the updates")] = 16
    #: The update is scaled by alpha / rank.
    alpha: Annotated[float, Field(gt=0), another_output("the size of the updates")] = 32.0
    #: Linear layers of each block, by the names that language models give theirs, whatever the tower calls them:
    #: q_proj, k_proj, v_proj, o_proj, up_proj, down_proj (and gate_proj). None: all that the tower has.
    targets: Annotated[
        Annotated[tuple[str, ...], Field(min_length=1)] | None, another_output("which layers are updated")
    ] = None


class StageRecipe(Section):
    """One training stage: which modules train, on what, for how long."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$"), another_output("the order of samples")]
    train: Annotated[tuple[ModuleName, ...], Field(min_length=1), another_output("which modules train")]
    data: Annotated[str, another_output("which samples are trained on")]
    #: "language": next token at labelled positions. "contrastive": image against caption (CLIP), for a tower's
    #: own first stage.
    objective: Annotated[Literal["language", "contrastive"], another_output("the loss")] = "language"
    #: None keeps the language model's template; LLaVA-1.5 aligns with "plain".
    template: Annotated[StageTemplateName | None, another_output("the text around every turn")] = None
    image_fit: Annotated[ImageFit | None, another_output("what the tower sees of an image")] = None
    #: Samples (items of the data source) per optimiser step, over all devices.
    batch: Annotated[int, Field(gt=0), another_output("which samples make a step")]
    #: Peak learning rate: one number, or one for each module that trains (`{vision: 2e-6, connector: 1e-3}`).
    lr: Annotated[
        Annotated[float, Field(gt=0)] | dict[ModuleName, Annotated[float, Field(gt=0)]],
        another_output("the size of every step"),
    ]
    epochs: Annotated[float, Field(gt=0), another_output("the number of steps")] = 1.0
    #: Optimiser steps; None derives them from epochs. A number shortens or lengthens the stage.
    steps: Annotated[Annotated[int, Field(gt=0)] | None, another_output("the number of steps")] = None
    #: Skip the stage (the paper's "connector not pretrained").
    skip: Annotated[bool, another_output("whether the stage trains")] = False
    #: How much a sample of n labelled tokens weighs in a step's loss, in all: n ("token", where nothing is said), 1
    #: ("sample") or sqrt(n) ("sqrt"; Molmo, arXiv:2409.17146). The held-out loss stays the mean over tokens.
    loss_weights: Annotated[LossWeights | None, another_output("the loss")] = None
    #: Train low-rank updates of the language model, which must be among `train`, instead of its own weights.
    lora: Annotated[LoraRecipe | None, another_output("which weights train")] = None
    #: As `lora`, for the vision tower, which must be among `train`.
    vision_lora: Annotated[VisionLoraRecipe | None, another_output("which weights train")] = None
    #: Tokens per packed sequence, which is one forward pass.
    sequence_tokens: Annotated[int, Field(gt=0), same_mathematics("in which order the same terms are summed")] = 4096
    #: Held-out samples (kept out of training) and how often, in steps, they are evaluated; 0 turns it off.
    held_out: Annotated[int, Field(ge=0), another_output("which samples are trained on")] = 64
    validate_every: Annotated[int, Field(ge=0), same_bits("how often the model is validated")] = 200
    #: Steps between training checkpoints; 0 saves only at the end of the stage.
    save_every: Annotated[int, Field(ge=0), same_bits("what is kept")] = 500
    #: Training checkpoints kept; an older one is used if the newest is damaged.
    keep: Annotated[int, Field(ge=1), same_bits("what is kept")] = 2

    @field_validator("data", mode="before")
    @classmethod
    def _one_source(cls, name: Any) -> Any:
        if isinstance(name, list | tuple | dict):
            raise ValueError(
                "a stage is trained on one data source; to mix several, write their items into one JSON file, with "
                "image paths relative to one root"
            )
        return name

    @field_validator("lr", mode="before")
    @classmethod
    def _rates_given(cls, lr: Any) -> Any:
        if not isinstance(lr, dict):
            return lr
        for module, rate in lr.items():
            if module not in get_args(ModuleName):
                raise ValueError(unknown_name(str(module), get_args(ModuleName)))
            if isinstance(rate, bool):
                raise ValueError(f"{module}: expected a number")
        # In one order, so that the order in a file makes no other step; null removes what a base recipe gives.
        return {module: lr[module] for module in get_args(ModuleName) if lr.get(module) is not None}

    @field_validator("loss_weights", mode="after")
    @classmethod
    def _token_is_the_default(cls, weights: LossWeights | None) -> LossWeights | None:
        return None if weights == "token" else weights  # one spelling, so that there is one step for it

    @field_validator("train")
    @classmethod
    def _each_module_once(cls, modules: tuple[ModuleName, ...]) -> tuple[ModuleName, ...]:
        if len(set(modules)) != len(modules):
            raise ValueError("each module may be named once")
        return modules

    @model_validator(mode="after")
    def _modules_and_objective_agree(self) -> "StageRecipe":
        if self.lora and "language" not in self.train:
            raise ValueError("lora is for the language model; expected language in train")
        if self.vision_lora and "vision" not in self.train:
            raise ValueError("vision_lora is for the tower; expected vision in train")
        if self.objective == "contrastive" and self.train != ("vision",):
            raise ValueError("objective 'contrastive' trains the tower alone; expected train: [vision]")
        if self.objective == "contrastive" and self.loss_weights is not None:
            raise ValueError("loss_weights: objective 'contrastive' has no tokens; expected null")
        if isinstance(self.lr, dict):
            for module in get_args(ModuleName):
                if module in self.lr and module not in self.train:
                    raise ValueError(f"lr.{module}: the stage does not train it; expected rates of {self._listed}")
                if module in self.train and module not in self.lr:
                    raise ValueError(f"lr: {module} trains and has no rate; expected rates of {self._listed}")
        return self

    @property
    def adapted(self) -> tuple[ModuleName, ...]:
        """Return the modules that train through low-rank updates and keep their own weights until the end."""
        asked: dict[ModuleName, object] = {"vision": self.vision_lora, "language": self.lora}
        return tuple(module for module, recipe in asked.items() if recipe is not None)

    @property
    def _listed(self) -> str:
        return ", ".join(self.train)

    def peak_lr(self, module: ModuleName) -> float:
        """Return the peak learning rate of a module that trains."""
        return self.lr[module] if isinstance(self.lr, dict) else self.lr
