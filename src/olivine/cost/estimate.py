"""What a recipe will cost before any of it is run: parameters, tokens, operations, memory by module, hours.

Shapes come from the model's configuration on the meta device, lengths from a sample of the data if it is available.
Only configurations are downloaded, and nothing is written.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace

import numpy as np

from olivine.data.llava_json import ItemError
from olivine.data.sources import Skipped, read_samples
from olivine.errors import DataError, RequestError, unknown_name
from olivine.model.activation_memory import saved_bytes_per_token
from olivine.model.languages.registry import family_of
from olivine.model.languages.traits import language_traits
from olivine.model.loss import logit_rows_at_once
from olivine.model.size import ModelSize, model_size
from olivine.recipe import DataRecipe, Recipe, StageRecipe
from olivine.records import Role, Sample


@dataclass(frozen=True, slots=True)
class Device:
    """A processor: dense bf16 matrix operations per second, and bytes of memory, as its vendor states them."""

    name: str
    peak: float
    memory: float


#: Data sheets: dense bf16 without sparsity. `cpu` is a 2048-square bf16 product on two AVX-512 cores, measured.
DEVICES = {
    device.name: device
    for device in (
        Device("h100", 989e12, 80e9),
        Device("h200", 989e12, 141e9),
        Device("a100", 312e12, 80e9),
        Device("a100-40", 312e12, 40e9),
        Device("l40s", 362e12, 48e9),
        Device("l4", 121e12, 24e9),
        Device("rtx4090", 165e12, 24e9),
        Device("mi300x", 1307e12, 192e9),
        Device("gaudi2", 432e12, 96e9),
        Device("cpu", 0.4e12, 16e9),
    )
}
#: Samples whose lengths are measured.
_MEASURED_SAMPLES = 512
#: Characters of English text per token; no tokenizer is read.
CHARACTERS_PER_TOKEN = 4.0
#: Tokens of template around a conversation.
_TEMPLATE_TOKENS = 12
#: Bytes that the driver, the libraries and the allocator use.
_RESERVED = 1.5e9
_TOWER_CHUNK = 64
#: Bytes of a weight in NF4: four bits, an 8-bit scale per 64 weights, a 32-bit one per 256 scales (arXiv:2305.14314).
_NF4_BYTES = (4 + 8 / 64 + 32 / (64 * 256)) / 8


@dataclass(frozen=True, slots=True)
class Lengths:
    """Sample lengths of a source: means, the longest, and where the figures come from."""

    samples: int
    tokens: float
    labels: float
    longest: int
    images: float
    source: str


@dataclass(frozen=True, slots=True)
class StageEstimate:
    """One stage.

    Attributes:
        trained, frozen: parameters by module.
        samples, steps, tokens: totals; tokens include image tokens.
        operations: total floating-point operations, backward passes and recomputation included.
        memory: peak bytes on each device by use.
        hours: at the stated utilisation.
        fits: whether the device has enough memory.
        rates: peak learning rates by module, where each has its own.
        suggestions: recipe keys that would make it fit, or use the remaining memory.
    """

    name: str
    trained: Mapping[str, int]
    frozen: Mapping[str, int]
    samples: int
    steps: int
    tokens: float
    operations: float
    memory: Mapping[str, float]
    hours: float
    fits: bool
    lengths: Lengths
    suggestions: tuple[str, ...] = ()
    rates: Mapping[str, float] = field(default_factory=dict)

    @property
    def peak(self) -> float:
        """Peak bytes on each device."""
        return sum(self.memory.values())


@dataclass(frozen=True, slots=True)
class Estimate:
    """A whole recipe on `count` devices at `utilisation` of their stated peak; what an image takes of a sequence."""

    device: Device
    count: int
    utilisation: float
    stages: tuple[StageEstimate, ...]
    image_tokens: int

    @property
    def hours(self) -> float:
        """The hours of all stages together."""
        return sum(stage.hours for stage in self.stages)


def named_device(name: str) -> Device:
    """Return a device by its name.

    Raises:
        RequestError: there is no device of that name.
    """
    if name not in DEVICES:
        raise RequestError(f"--device: {unknown_name(name, DEVICES)}")
    return DEVICES[name]


def estimate(
    recipe: Recipe,
    device: str,
    count: int = 1,
    *,
    utilisation: float = 0.4,
    lengths: Mapping[str, Lengths] | None = None,
) -> Estimate:
    """Return what every stage of a recipe takes on `count` devices of one kind.

    Args:
        recipe: as `olivine train` takes it.
        device: a name from `DEVICES`.
        count: the number of devices; the language model is sharded over them, as under torchrun.
        utilisation: fraction of the device's peak that is reached; 0.4 is a common figure, not a measurement.
        lengths: sample lengths by data source, if the caller knows them; else a sample of the data is read.

    Raises:
        RequestError: an unknown device, or a model configuration that cannot be found.
    """
    target = named_device(device)
    if count < 1:
        raise RequestError(f"--count {count}: expected one or more.")
    shape = model_size(recipe.model)
    stages = tuple(
        _stage(recipe, stage, shape, target, count, utilisation, (lengths or {}).get(stage.data))
        for stage in recipe.stages
        if not stage.skip
    )
    return Estimate(target, count, utilisation, stages, shape.patches)


def _trained(shape: ModelSize, stage: StageRecipe) -> dict[str, int]:
    """Return the parameters that a stage trains, by module; under LoRA a module counts as its adapters."""
    sizes = {"vision": shape.tower, "connector": shape.connector, "language": shape.language}
    if stage.lora:
        sizes["language"] = stage.lora.rank * sum(
            shape.linear.get(name, 0)
            for name in family_of(shape.config).linear_layers(stage.lora.targets, shape.linear)
        )
    if stage.vision_lora:
        targets = stage.vision_lora.targets or shape.tower_linear
        sizes["vision"] = stage.vision_lora.rank * sum(shape.tower_linear.get(name, 0) for name in targets)
    return {name: size for name, size in sizes.items() if name in stage.train}


def _stage(
    recipe: Recipe,
    stage: StageRecipe,
    shape: ModelSize,
    device: Device,
    count: int,
    utilisation: float,
    known: Lengths | None,
) -> StageEstimate:
    lengths = known or _lengths(recipe, stage, shape.patches)
    samples = stage.steps * stage.batch if stage.steps else max(1, round(lengths.samples * stage.epochs))
    parts = {"vision": shape.tower, "connector": shape.connector, "language": shape.language}
    operations = samples * _operations(recipe, stage, shape, lengths)
    memory = _memory(recipe, stage, shape, lengths, device, count)
    total = sum(memory.values())
    made = StageEstimate(
        name=stage.name,
        trained=_trained(shape, stage),
        frozen={name: size for name, size in parts.items() if name not in stage.train or name in _kept(stage)},
        samples=samples,
        steps=math.ceil(samples / stage.batch),
        tokens=samples * lengths.tokens,
        operations=operations,
        memory=memory,
        hours=operations / (device.peak * count * utilisation) / 3600,
        fits=total <= device.memory,
        lengths=lengths,
        rates={str(name): rate for name, rate in stage.lr.items()} if isinstance(stage.lr, dict) else {},
    )
    return replace(made, suggestions=tuple(_suggestions(recipe, stage, shape, lengths, device, count)))


def _kept(stage: StageRecipe) -> tuple[str, ...]:
    """Return the modules that keep their weights although they are named under `train`: adapters train instead."""
    return stage.adapted


def _operations(recipe: Recipe, stage: StageRecipe, shape: ModelSize, lengths: Lengths) -> float:
    """Return the operations of one sample: two per weight and token forward, and as many for each gradient."""
    vision_trains, language_trains = "vision" in stage.train, "language" in stage.train
    patches = shape.patches * lengths.images
    tower = tower_operations(shape, lengths) * (1 + 2 * vision_trains - (stage.vision_lora is not None))
    if stage.objective == "contrastive":
        return tower
    connector = 2 * shape.connector * patches * (3 if {"vision", "connector"} & set(stage.train) else 1)
    attention = 2 * 2 * shape.heads * shape.head_dim * _seen(lengths.tokens, language_traits(shape.config).windows)
    passes = 1 + 1 + (language_trains and not stage.lora) + recipe.optimizer.checkpoint_activations
    blocks = 2 * shape.blocks * lengths.tokens * passes
    head = 2 * shape.table * lengths.labels * (2 + (language_trains and not stage.lora))
    return tower + connector + blocks + attention * (3.5 + recipe.optimizer.checkpoint_activations) + head


def _seen(tokens: float, windows: Sequence[int | None]) -> float:
    """Return the number of (query, visible key) pairs in a sample of this many tokens, over all layers."""
    full = tokens**2 / 2
    return sum(full if window is None or window >= tokens else full - (tokens - window) ** 2 / 2 for window in windows)


def tower_operations(shape: ModelSize, lengths: Lengths) -> float:
    """Return the operations of one sample's images through the tower, forward pass only."""
    return 2 * shape.tower * shape.tower_tokens * lengths.images


def _memory(
    recipe: Recipe, stage: StageRecipe, shape: ModelSize, lengths: Lengths, device: Device, count: int
) -> dict[str, float]:
    """Return the peak bytes on one device: between a packed sequence's forward and backward pass."""
    bf16 = recipe.optimizer.precision == "bf16"
    frozen_bytes = 2 if bf16 else 4
    shards = count // recipe.sharding.replicas if count > 1 else 1
    sizes = {"vision": shape.tower, "connector": shape.connector, "language": shape.language}
    local = {name: size / (shards if name == "language" else 1) for name, size in sizes.items()}
    trained_modules = {name: size for name, size in local.items() if name in stage.train and name not in _kept(stage)}
    adapters = sum(size for name, size in _trained(shape, stage).items() if name in _kept(stage))
    trained = sum(trained_modules.values()) + adapters
    # Four bits in place of a weight's usual size; norms and the token table keep their dtype.
    quantized = shape.blocks * (frozen_bytes - _NF4_BYTES) if stage.lora and stage.lora.quantize else 0.0
    sequence = max(stage.sequence_tokens, min(lengths.longest, recipe.data[stage.data].max_length))
    language_trains = "language" in stage.train
    # A bf16 copy of the trained matrices: ours on a GPU, autocast's elsewhere; embeddings are looked up without one.
    uncopied = shape.table if "language" in trained_modules and not shape.tied else 0
    working = 2 * (trained - uncopied) if bf16 and count == 1 else 0.0
    parts: dict[str, float] = {
        "weights": 4 * adapters
        + sum(size * (4 if name in trained_modules else frozen_bytes) for name, size in local.items())
        - quantized
        + working,
        "gradients": 4 * trained,
        "optimizer": 8 * trained,
    }
    if count > 1 and language_trains and not recipe.sharding.sum_each_sequence:
        # Not yet summed over processes: each keeps the whole model's gradients until the last packed sequence.
        parts["gradients"] += 4 * shape.language
    if stage.objective == "contrastive":
        tower_tokens = stage.batch * shape.tower_tokens
        parts["activations"] = tower_tokens * shape.tower_width * shape.tower_layers * (34 if bf16 else 60)
        parts["logits"], parts["buffers"] = 4.0 * stage.batch**2, _RESERVED
        return parts
    stream = shape.hidden * (4 if language_trains or not bf16 else 2)
    block = saved_bytes_per_token(shape.config, trains=language_trains, bf16=bf16)
    if recipe.optimizer.checkpoint_activations:
        parts["activations"] = sequence * (shape.layers * stream + block)
    else:
        parts["activations"] = sequence * shape.layers * block
    images = max(1.0, stage.batch * lengths.images / count)
    tower_bytes = 2 if bf16 else 4
    kept_bytes = shape.features * shape.feature_width * tower_bytes
    inside_bytes = shape.features * shape.tower_width * tower_bytes * (shape.tower_layers + 1)
    parts["images"] = images * kept_bytes + min(images, _TOWER_CHUNK) * inside_bytes
    labels = sequence * lengths.labels / max(lengths.tokens, 1)
    at_once = logit_rows_at_once(shape.vocabulary, on_gpu=device.name != "cpu")
    # Logits in the weights' type and in fp32, their log-softmax, and the gradients of both.
    parts["logits"] = min(at_once, labels) * shape.vocabulary * (16 if bf16 else 20)
    if labels > at_once and "language" in trained_modules:
        parts["logits"] += 4 * shape.table  # a chunk's gradient of the head, before it is added to the others'
    width = 2 if bf16 else 4
    gathered = (shape.table * (1 if shape.tied else 2) + 2 * shape.blocks / shape.layers) * width if count > 1 else 0
    parts["buffers"] = _RESERVED + gathered
    return parts


def _suggestions(
    recipe: Recipe, stage: StageRecipe, shape: ModelSize, lengths: Lengths, device: Device, count: int
) -> Iterator[str]:
    """Yield the first change that makes it fit, cheapest first; or, if it fits, what may be dropped or enlarged."""

    def peak(**changes: object) -> float:
        optimizer = recipe.optimizer.model_copy(
            update={k: v for k, v in changes.items() if k == "checkpoint_activations"}
        )
        sharding = recipe.sharding.model_copy(update={k: v for k, v in changes.items() if k == "sum_each_sequence"})
        changed = recipe.model_copy(update={"optimizer": optimizer, "sharding": sharding})
        sequences = stage.model_copy(update={k: v for k, v in changes.items() if k == "sequence_tokens"})
        return sum(_memory(changed, sequences, shape, lengths, device, count).values())

    if stage.objective == "contrastive":
        return
    if peak() <= device.memory:
        if recipe.optimizer.checkpoint_activations and peak(checkpoint_activations=False) <= device.memory:
            yield "optimizer.checkpoint_activations=false: it fits without, which saves a forward pass"
        larger = 2 * stage.sequence_tokens
        mean = stage.batch * lengths.tokens / count
        if larger <= mean and peak(sequence_tokens=larger) <= device.memory:
            yield f"stages.{stage.name}.sequence_tokens={larger}: longer sequences fit, for fewer, larger passes"
        return
    ladder: list[dict[str, object]] = [{"checkpoint_activations": True}]
    if count > 1:
        ladder.append({"checkpoint_activations": True, "sum_each_sequence": True})
    shortest = min(lengths.longest, recipe.data[stage.data].max_length)
    ladder.append({**ladder[-1], "sequence_tokens": shortest})
    for rung in ladder:
        if peak(**rung) <= device.memory:
            yield ", ".join(_key(stage, name, value) for name, value in rung.items())
            return
    more = next(
        (n for n in (2, 4, 8, 16, 32, 64) if n > count and _fits_on(recipe, stage, shape, lengths, device, n)), 0
    )
    yield f"{more} devices, with sharding.sum_each_sequence=true" if more else "a device with more memory, or LoRA"


def _fits_on(
    recipe: Recipe, stage: StageRecipe, shape: ModelSize, lengths: Lengths, device: Device, count: int
) -> bool:
    optimizer = recipe.optimizer.model_copy(update={"checkpoint_activations": True})
    sharding = recipe.sharding.model_copy(update={"sum_each_sequence": True})
    changed = recipe.model_copy(update={"optimizer": optimizer, "sharding": sharding})
    return sum(_memory(changed, stage, shape, lengths, device, count).values()) <= device.memory


def _key(stage: StageRecipe, name: str, value: object) -> str:
    section = {"checkpoint_activations": "optimizer", "sum_each_sequence": "sharding"}.get(name, f"stages.{stage.name}")
    return f"{section}.{name}={str(value).lower()}"


def _lengths(recipe: Recipe, stage: StageRecipe, patches: int) -> Lengths:
    source = recipe.data[stage.data]
    if source.json_.exists():
        return measured_lengths(source, patches)
    text, labels = (64, 32) if "language" not in stage.train else (256, 128)
    if not stage.steps:
        raise RequestError(
            f"data.{stage.data}.json: {source.json_} is missing, so its samples cannot be counted. "
            f"Give stages.{stage.name}.steps=N, or put the file there."
        )
    assumption = f"assumed: {text} text tokens per sample, {labels} of them labelled, one image each"
    return Lengths(stage.steps * stage.batch, patches + text, labels, source.max_length, 1.0, assumption)


def measured_lengths(source: DataRecipe, patches: int) -> Lengths:
    """Return the sample lengths of a source, measured on a few hundred; an image is `patches` tokens.

    Raises:
        DataError: the source cannot be read.
    """
    samples = read_samples(source.model_copy(update={"on_error": "skip"}), Skipped())
    selected = np.random.default_rng(0).choice(len(samples), size=min(_MEASURED_SAMPLES, len(samples)), replace=False)
    lengths = []
    for index in selected:
        with suppress(ItemError):  # training finds it too, and applies the source's policy
            lengths.append(_length(samples[int(index)], patches))
    if not lengths:
        raise DataError(f"{source.json_}: none of {len(selected)} samples can be read. Run: olivine data check.")
    measured = np.array(lengths)
    return Lengths(
        samples=len(samples),
        tokens=float(measured[:, 0].mean()),
        labels=float(measured[:, 1].mean()),
        longest=int(measured[:, 0].max()),
        images=float(measured[:, 2].mean()),
        source=f"{len(lengths)} of {len(samples):,} of {source.json_.name}, "
        f"{CHARACTERS_PER_TOKEN:g} characters per token",
    )


def _length(sample: Sample, patches: int) -> tuple[float, float, float]:
    """Return (tokens, labelled tokens, images) of a sample, estimated from its characters."""
    images = len(sample.all_images)
    characters = sum(len(turn.text) for turn in sample.conversation)
    labelled = sum(len(turn.text) for turn in sample.conversation if turn.role is Role.ASSISTANT)
    tokens = characters / CHARACTERS_PER_TOKEN + _TEMPLATE_TOKENS + patches * images
    return tokens, labelled / CHARACTERS_PER_TOKEN + 1, float(images)
