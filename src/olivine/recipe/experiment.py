"""The whole recipe, and what holds for all its stages: the optimizer and how a run is sharded."""

from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import Field, model_validator

from olivine.errors import unknown_name
from olivine.field_identity import another_output, same_bits, same_mathematics
from olivine.recipe.data import DataRecipe
from olivine.recipe.model import ModelRecipe
from olivine.recipe.section import Section
from olivine.recipe.stage import StageRecipe


class OptimizerRecipe(Section):
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


class ShardingRecipe(Section):
    """How a run under torchrun is sharded over its processes; decides time, memory and at most the last bits."""

    #: Whole copies of the model (HSDP): the number of nodes keeps gathering inside each; 1 shards over all processes.
    replicas: Annotated[int, Field(ge=1), same_mathematics("in which order processes are summed")] = 1
    #: Gather each layer's weights again for the backward pass (least memory) or keep them from the forward pass.
    gather_twice: Annotated[bool, same_bits("what is gathered again instead of kept")] = True
    #: Sum gradients after every packed sequence (less memory) instead of once a step (less communication).
    sum_each_sequence: Annotated[bool, same_mathematics("in which order processes are summed")] = False


class Recipe(Section):
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
