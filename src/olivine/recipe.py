"""The typed recipe: what to build, what to read, what to train in which order, what to measure.

Reading, overriding and checking only; nothing here opens a model or an image.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeGuard, get_args

import yaml
from pydantic import ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator

from olivine.errors import RequestError, unknown_name
from olivine.field_identity import IdentifiedSection, another_output, same_bits, same_mathematics
from olivine.records import MarkRule
from olivine.registry import offered
from olivine.schema_mistakes import explain, types_of
from olivine.strict_yaml import parse_yaml, read_yaml

#: In a run directory: the recipe with all defaults, and what it was run with. In a study's step: what it is.
RECIPE, PROVENANCE, STEP = "recipe.yaml", "provenance.json", "step.json"
#: In a stage's directory: the model folder that it left, and the record that marks the stage as finished.
CHECKPOINT, RESULT = "checkpoint", "result.json"

ModuleName = Literal["vision", "connector", "language"]
ImageFit = Literal["pad", "crop", "squash", "letterbox"]
Resample = Literal["bicubic", "bilinear"]
Registers = Literal["keep", "drop"]
#: Templates that a stage may name; the tokenizer's own ("chat") can only be set for the model.
StageTemplateName = Literal["gemma", "vicuna", "llava-v1", "plain", "chatml", "llama3", "phi3", "prismatic-base"]
TemplateName = Literal[StageTemplateName, "chat"]
OnError = Literal["stop", "skip"]
LossWeights = Literal["token", "sample", "sqrt"]
#: A local folder, a hub id, or a `transformers` configuration (with `model_type`) for a random start.
Source = str | dict[str, Any]


class _Section(IdentifiedSection):
    """A section in which every field declares what a change of it does: see `field_identity`."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, populate_by_name=True, protected_namespaces=(), allow_inf_nan=False
    )

    @field_validator("*", mode="before")
    @classmethod
    def _true_is_not_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        assert info.field_name is not None, "fields have names"
        kinds = set(types_of(cls.model_fields[info.field_name].annotation))
        if value is True and bool not in kinds and kinds & {int, float}:
            raise ValueError("expected a number")  # pydantic would take it for 1
        return value


class VisionRecipe(_Section):
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


class TokenizerRecipe(_Section):
    """A byte-pair tokenizer in Gemma's id layout, trained on the recipe's own texts (for random starts)."""

    vocab_size: Annotated[int, Field(ge=512), another_output("the tokens of every text")] = 1024


class LanguageRecipe(_Section):
    """The language model, its tokenizer and its chat template."""

    from_: Annotated[Source, Field(alias="from"), another_output("the language model's first weights")]
    #: None takes the tokenizer that lies beside the model; a mapping trains one.
    tokenizer: Annotated[str | TokenizerRecipe | None, another_output("the tokens of every text")] = None
    #: None follows the model type: gemma -> gemma, llama -> vicuna. "chat" is the tokenizer's own.
    template: Annotated[TemplateName | None, another_output("the text around every turn")] = None


#: Entry points of this group are named by the kind of connector that they provide.
CONNECTOR_GROUP = "olivine.connectors"
#: The package's own kinds of connectors, with the keys that each has and their defaults.
CONNECTORS: dict[str, dict[str, Any]] = {
    "mlp": {"depth": 2, "activation": "gelu"},
    "linear": {},
    "pixel-shuffle": {"factor": 2, "depth": 1, "activation": "gelu"},
    "pool": {"factor": 2},
    "resampler": {"queries": 64},
}
_MODEL_SECTIONS = ("vision", "language", "connector")
_CONNECTOR_KEYS = ("depth", "activation", "factor", "queries")


class ConnectorRecipe(_Section):
    """The connector (LLaVA: projector) from tower width to language-model width. A key that its kind lacks is refused.

    "mlp": `depth` linear layers with activations between. "linear": one. "pixel-shuffle": `factor` x `factor` patches
    joined into one token, then an MLP (Idefics3). "pool": as many averaged, a norm, one linear layer (Gemma 3).
    "resampler": `queries` learnt vectors that read the image by cross-attention. Other kinds come from packages that
    provide them under the entry-point group `olivine.connectors`.
    """

    kind: Annotated[str, another_output("the connector")] = "mlp"
    #: A trained connector to start from: a model folder, whose connector is taken, or a file of one connector's tensors
    #: (LLaVA's mm_projector.bin, safetensors). The other keys must describe it. None starts at random.
    from_: Annotated[str | None, Field(alias="from"), another_output("the connector's first weights")] = None
    #: Linear layers (default: 2 for mlp, 1 for pixel-shuffle).
    depth: Annotated[Annotated[int, Field(ge=1, le=8)] | None, another_output("the connector")] = None
    #: A name from transformers' activations; "gelu" is the exact one that LLaVA trains with.
    activation: Annotated[str | None, another_output("the connector")] = None
    #: How many patches along each side become one token (default: 2).
    factor: Annotated[Annotated[int, Field(ge=1, le=64)] | None, another_output("the connector")] = None
    #: Image tokens of a resampler (default: 64).
    queries: Annotated[Annotated[int, Field(ge=1, le=4096)] | None, another_output("the connector")] = None
    #: Further options of a kind from another package.
    options: Annotated[dict[str, Any] | None, another_output("the connector")] = None

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_the_kind(cls, values: Any) -> Any:
        if not isinstance(values, dict) or not isinstance(values.get("kind", "mlp"), str):
            return values
        defaults = CONNECTORS.get(values.get("kind", "mlp"), {})
        return values | {key: value for key, value in defaults.items() if values.get(key) is None}

    @model_validator(mode="after")
    def _keys_of_the_kind(self) -> "ConnectorRecipe":
        if self.kind not in CONNECTORS:
            if self.kind not in offered(CONNECTOR_GROUP):
                raise ValueError(f"kind: {unknown_name(self.kind, (*CONNECTORS, *offered(CONNECTOR_GROUP)))}")
            return self
        own = CONNECTORS[self.kind]
        for key in (*_CONNECTOR_KEYS, "options"):
            if key not in own and getattr(self, key) is not None:
                has = ", ".join(own) or "none"
                raise ValueError(
                    f"{key}: a connector of kind {self.kind!r} has no such key (its keys: {has}). To change the kind "
                    f"of a base recipe's connector, set the whole section: model.connector={{kind: {self.kind}}}"
                )
        return self

    @property
    def given(self) -> dict[str, Any]:
        """All options of the kind, defaults included."""
        stated = {key: getattr(self, key) for key in _CONNECTOR_KEYS if getattr(self, key) is not None}
        return stated | (self.options or {})


class ModelRecipe(_Section):
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
            return values | {name: {} for name in _MODEL_SECTIONS if values.get(name) is None}
        given = [
            f"{name}.{key}"
            for name in _MODEL_SECTIONS
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


class AugmentRecipe(_Section):
    """Random changes to training images, drawn from the seed, the epoch and the sample's index."""

    #: Mirror left to right with probability one half (only where no text speaks of left and right).
    flip: Annotated[bool, another_output("how training images are changed")] = False
    #: Shift by up to this many pixels in each direction; edges are repeated.
    shift: Annotated[int, Field(ge=0), another_output("how training images are changed")] = 0


class DataRecipe(_Section):
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


class LoraRecipe(_Section):
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


class VisionLoraRecipe(_Section):
    """Low-rank updates of the vision tower, merged into its weights when the stage ends."""

    rank: Annotated[int, Field(ge=1), another_output("the size of the updates")] = 16
    #: The update is scaled by alpha / rank.
    alpha: Annotated[float, Field(gt=0), another_output("the size of the updates")] = 32.0
    #: Linear layers of each block, by the names that language models give theirs, whatever the tower calls them:
    #: q_proj, k_proj, v_proj, o_proj, up_proj, down_proj (and gate_proj). None: all that the tower has.
    targets: Annotated[
        Annotated[tuple[str, ...], Field(min_length=1)] | None, another_output("which layers are updated")
    ] = None


class StageRecipe(_Section):
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


class OptimizerRecipe(_Section):
    """AdamW and its schedule, for every stage (LLaVA's values by default)."""

    schedule: Annotated[Literal["cosine", "constant"], another_output("the size of every step")] = "cosine"
    #: Share of the steps over which the learning rate rises from zero.
    warmup: Annotated[float, Field(ge=0, lt=1), another_output("the size of every step")] = 0.03
    #: Not applied to biases, norms and other one-dimensional weights.
    weight_decay: Annotated[float, Field(ge=0), another_output("every step")] = 0.0
    #: Largest gradient norm; 0 turns clipping off.
    clip: Annotated[float, Field(ge=0), another_output("the size of large steps")] = 1.0
    betas: Annotated[tuple[float, float], another_output("every step")] = (0.9, 0.999)
    epsilon: Annotated[float, Field(gt=0), another_output("every step")] = 1e-8
    #: bf16: autocast over fp32 weights, frozen modules kept in bf16.
    precision: Annotated[Literal["bf16", "fp32"], another_output("how everything is rounded")] = "bf16"
    #: A loss above this many times the running median of 64 stops the run before it changes a weight; None disables it.
    spike: Annotated[Annotated[float, Field(gt=1)] | None, same_bits("what stops a run")] = None
    #: Keep only each layer's input and run the layer again in the backward pass: less memory, a third more work.
    checkpoint_activations: Annotated[bool, same_bits("what is computed again instead of kept")] = False
    #: Compile each layer (torch.compile); the first steps of a run then take minutes.
    compile: Annotated[bool, same_mathematics("in which order the same terms are summed")] = False


class ShardingRecipe(_Section):
    """How a run under torchrun is sharded over its processes; decides time, memory and at most the last bits."""

    #: Whole copies of the model (HSDP): the number of nodes keeps gathering inside each; 1 shards over all processes.
    replicas: Annotated[int, Field(ge=1), same_mathematics("in which order processes are summed")] = 1
    #: Gather each layer's weights again for the backward pass (least memory) or keep them from the forward pass.
    gather_twice: Annotated[bool, same_bits("what is gathered again instead of kept")] = True
    #: Sum gradients after every packed sequence (less memory) instead of once a step (less communication).
    sum_each_sequence: Annotated[bool, same_mathematics("in which order processes are summed")] = False


class Recipe(_Section):
    """A whole experiment."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$"), same_bits("what the run is called")]
    model: ModelRecipe
    data: Annotated[dict[str, DataRecipe], another_output("which samples can be read")]
    stages: Annotated[tuple[StageRecipe, ...], Field(min_length=1), another_output("what trains, in which order")]
    optimizer: OptimizerRecipe = OptimizerRecipe()
    sharding: ShardingRecipe = ShardingRecipe()
    #: Benchmarks that `olivine evaluate` runs when none is named.
    evaluate: Annotated[tuple[str, ...], same_bits("what a finished run is asked")] = ()
    seed: Annotated[int, Field(ge=0, lt=2**32), another_output("every random choice")] = 0
    #: The run directory; None is runs/NAME.
    output: Annotated[Path | None, same_bits("where everything is written")] = None

    @property
    def run_directory(self) -> Path:
        """Where everything that this recipe produces is written."""
        return self.output or Path("runs") / self.name

    @model_validator(mode="after")
    def _stages_fit(self) -> "Recipe":
        names = [stage.name for stage in self.stages]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"stages: two are named {name!r}; each needs its own name")
        for stage in self.stages:
            if stage.data not in self.data:
                raise ValueError(f"stages.{stage.name}.data: {unknown_name(stage.data, list(self.data))}")
        return self

    def to_yaml(self) -> str:
        """Return the recipe with all defaults, as YAML that `load` reads back to the same recipe."""
        values = self.model_dump(mode="json", by_alias=True)
        return yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=100)


def load(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe, applied over what it is based on, with dotted overrides on top.

    `base: other.yaml` (relative to the file) names a recipe to start from; mappings merge key by key and stages by
    their names. An override is `dotted.key=value`, the value in YAML; stages are addressed by name
    (`stages.align.lr=2e-3`).

    `path` may also be a run directory, or the recipe in it: the output is then that directory, even if it was moved.

    Raises:
        RequestError: no such file, not YAML, an unknown key (with the nearest valid one) or a wrong value.
    """
    file, folder = _of_run(path)
    values = read_values(file)
    if folder is not None:
        values["output"] = str(folder)
    given: dict[str, str] = {}
    for override in overrides:
        key = override.partition("=")[0]
        if given.setdefault(key, override) != override:
            raise RequestError(f"override {key} is given twice ({given[key]!r}, {override!r}); give it once.")
        _override(values, override)
    return from_values(values, where=str(file))


def read_values(path: Path) -> dict[str, Any]:
    """Return a recipe's plain values, with what it is based on merged in, not yet checked.

    Raises:
        RequestError: no such file, not YAML, or based on itself.
    """
    return _read(path, seen=())


def from_values(values: Mapping[str, Any], where: str = "recipe") -> Recipe:
    """Check plain values against the schema.

    Raises:
        RequestError: every unknown key and wrong value, one per line.
    """
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        raise RequestError(f"{where}: not a valid recipe.\n" + explain(error, values, Recipe)) from None


def without_overruled(stage: Mapping[str, Any]) -> dict[str, Any]:
    """Return a stage's plain values without `epochs` where a number of steps takes its place."""
    return {key: value for key, value in stage.items() if key != "epochs" or stage.get("steps") is None}


def _of_run(path: Path) -> tuple[Path, Path | None]:
    """Return the recipe's file, and its run directory if it is the record of a run."""
    file = path / RECIPE if path.is_dir() else path
    if file.name != RECIPE or not (file.parent / PROVENANCE).is_file():
        return path, None
    if (file.parent / STEP).is_file():
        raise RequestError(f"{path}: a step of a study. Run the study itself: olivine ablate {file.parents[2]}")
    return file, file.parent


def _read(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    resolved = path.resolve()
    if resolved in seen:
        raise RequestError(f"{path}: the recipe is based on itself ({' -> '.join(str(p) for p in seen)}).")
    values = read_yaml(path, "recipe")
    if not isinstance(values, dict):
        found = "the file is empty" if values is None else f"this is a {type(values).__name__}"
        raise RequestError(f"{path}: {found}; expected a mapping with keys such as name, model, data and stages.")
    base = values.pop("base", None)
    if base is None:
        return values
    if not isinstance(base, str):
        raise RequestError(f"{path}: base: expected the path of another recipe.")
    return _merge(_read(path.parent / base, (*seen, resolved)), values)


def _merge(base: dict[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Merge `over` into `base`: mappings key by key, lists of named entries by name, everything else replaced."""
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        if isinstance(old, dict) and isinstance(value, dict):
            # A model source is one unit: half of one configuration merged into another would be neither.
            merged[key] = value if key == "from" else _merge(old, value)
        elif _is_named(old) and _is_named(value):
            merged[key] = _merge_named(old, value)
        else:
            merged[key] = value
    return merged


def _merge_named(base: list[dict[str, Any]], over: list[dict[str, Any]]) -> list[dict[str, Any]]:
    by_name = {entry["name"]: entry for entry in base}
    for entry in over:
        by_name[entry["name"]] = _merge(by_name.get(entry["name"], {}), entry)
    return list(by_name.values())


def _is_named(value: Any) -> TypeGuard[list[dict[str, Any]]]:
    return isinstance(value, list) and bool(value) and all(isinstance(v, dict) and "name" in v for v in value)


def _override(values: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise RequestError(f"override {override!r}: expected KEY=VALUE, for example stages.align.lr=2e-3.")
    change(values, key, parse_yaml(text, f"override {override!r}"), f"override {override!r}")


def change(values: dict[str, Any], key: str, value: Any, where: str) -> None:
    """Set `dotted.key` to `value` in a recipe's plain values; stages are addressed by name.

    Raises:
        RequestError: no such stage, or the key leads into a plain value; the message starts with `where`.
    """
    section: Any = values
    steps = key.split(".")
    for depth, step in enumerate(steps):
        last = depth == len(steps) - 1
        if _is_named(section):
            names = [entry["name"] for entry in section]
            if step not in names:
                raise RequestError(f"{where}: {unknown_name(step, names)}")
            index = names.index(step)
            if last:
                section[index] = value
            section = section[index]
        elif isinstance(section, dict):
            if last:
                section[step] = value
            elif step not in section and section and steps[:depth] == ["data"]:
                # It would be a new source that nothing reads; a whole one may be set: data.NAME={json: ...}.
                raise RequestError(f"{where}: data: {unknown_name(step, section)}")
            else:
                if section.get(step) is None:  # a section that is turned off, as in a run's own record
                    section[step] = {}
                section = section[step]
        else:
            parent = ".".join(steps[:depth])
            raise RequestError(f"{where}: {parent} has no keys, so {step!r} cannot be set in it.")
