"""What all sections of a recipe have in common: strict, immutable, and no truth value taken for a number."""

from typing import Any

from pydantic import ConfigDict, ValidationInfo, field_validator

from olivine.field_identity import IdentifiedSection
from olivine.schema_mistakes import types_of


class Section(IdentifiedSection):
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
