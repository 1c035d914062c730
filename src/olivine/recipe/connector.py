"""The connector's section; a key that its kind lacks is refused."""

from typing import Annotated, Any

from pydantic import Field, model_validator

from olivine.errors import unknown_name
from olivine.field_identity import another_output
from olivine.recipe.section import Section
from olivine.registry import offered

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
_KEYS = ("depth", "activation", "factor", "queries")


class ConnectorRecipe(Section):
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
        for key in (*_KEYS, "options"):
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
        stated = {key: getattr(self, key) for key in _KEYS if getattr(self, key) is not None}
        return stated | (self.options or {})
