"""Every field says what a change of it does; a field that does not say so cannot be defined."""

from typing import Annotated

import pytest
from pydantic import BaseModel, Field

from olivine.ablation.study import BenchmarkRecipe
from olivine.field_identity import (
    IdentifiedSection,
    Identity,
    another_output,
    changes,
    decides,
    decisive,
    fields,
    same_bits,
    same_mathematics,
    strongest,
)
from olivine.recipe import Recipe
from olivine.schema_mistakes import types_of


class Inner(IdentifiedSection):
    kept: Annotated[int, same_bits("what is kept")] = 1
    rate: Annotated[float, another_output("every step")] = 0.5


class Outer(IdentifiedSection):
    plain: Inner = Inner()
    several: Annotated[dict[str, Inner], another_output("which there are")] = {}  # noqa: RUF012
    listed: Annotated[tuple[Inner, ...], another_output("their order")] = ()
    maybe: Annotated[Inner | None, another_output("whether there is one")] = None
    long: Annotated[int, Field(alias="other name"), same_mathematics("the order of sums")] = 4


def all_leaves(schema):
    """Every field below a section by pydantic's own account, apart from the code under test."""
    for field in schema.model_fields.values():
        below = [
            inner
            for kind in types_of(field.annotation)
            for inner in (kind, *getattr(kind, "__args__", ()))
            if isinstance(inner, type) and issubclass(inner, BaseModel)
        ]
        if not below:
            yield field
        for section in below:
            yield from all_leaves(section)


@pytest.mark.parametrize("schema", [Recipe, BenchmarkRecipe])
def test_every_field_of_the_schema_has_a_class_and_says_what_it_affects(schema):
    found = dict(fields(schema))
    assert all(declared.what for declared in found.values())
    leaves = list(all_leaves(schema))
    declared = [entry for field in leaves for entry in field.metadata if isinstance(entry, type(same_bits("")))]
    assert len(declared) == len(leaves)
    assert len(found) >= len(leaves)


def test_the_classes_of_the_design():
    def of(identity):
        return {key for key, declared in fields(Recipe) if declared.identity is identity}

    assert of(Identity.SAME_BITS) == {
        "name", "output", "evaluate", "data.*.json", "data.*.images", "stages.*.validate_every", "stages.*.save_every",
        "stages.*.keep", "optimizer.spike", "optimizer.checkpoint_activations", "sharding.gather_twice",
    }  # fmt: skip
    assert of(Identity.SAME_MATHEMATICS) == {
        "stages.*.sequence_tokens", "optimizer.compile", "data.*.on_error", "sharding.replicas",
        "sharding.sum_each_sequence",
    }  # fmt: skip


def test_a_field_without_a_class_cannot_be_defined():
    with pytest.raises(TypeError, match=r"New\.field: expected one of same_bits"):

        class New(IdentifiedSection):
            field: int = 0


def test_a_class_beside_one_that_is_inherited_from_inside_is_refused():
    with pytest.raises(TypeError, match=r"Twice\.inner: .*none for a plain section"):

        class Twice(IdentifiedSection):
            inner: Annotated[Inner, same_bits("nothing")] = Inner()


def test_a_field_of_a_recipe_section_without_a_class_cannot_be_defined():
    base = Recipe.__mro__[1]
    with pytest.raises(TypeError, match=r"More\.dropout"):

        class More(base):
            dropout: float = 0.0


@pytest.mark.parametrize(
    ("key", "what"),
    [
        ("plain.kept", "what is kept"),
        ("several.any.rate", "every step"),
        ("several.any", "which there are"),
        ("listed.a.kept", "what is kept"),
        ("maybe", "whether there is one"),
        ("maybe.kept", "what is kept"),
        ("other name", "the order of sums"),
        ("long", "the order of sums"),
    ],
)
def test_a_class_is_found_by_its_key(key, what):
    assert decides(Outer, key).what == what


@pytest.mark.parametrize("key", ["unknown", "plain", "plain.unknown"])
def test_unknown_keys_count_as_deciding_the_output(key):
    assert decides(Outer, key).identity is Identity.ANOTHER_OUTPUT


def test_keys_inside_a_value_have_its_class():
    assert decides(Recipe, "model.language.from.num_hidden_layers") == decides(Recipe, "model.language.from")


def test_several_changes_have_the_strongest_class():
    assert strongest(Recipe, ["output", "stages.a.sequence_tokens"]) is Identity.SAME_MATHEMATICS
    assert strongest(Recipe, ["optimizer.checkpoint_activations"]) is Identity.SAME_BITS
    assert strongest(Recipe, ["seed", "output"]) is Identity.ANOTHER_OUTPUT


def test_changes_are_listed_by_key_with_their_class():
    before = {"plain": {"kept": 1, "rate": 0.5}, "listed": [{"name": "a", "kept": 1}]}
    now = {"plain": {"kept": 2, "rate": 0.7}, "listed": [{"name": "a", "kept": 3}], "maybe": {"kept": 1}}
    found = [(c.key, c.before, c.now, c.decides.identity) for c in changes(Outer, before, now)]
    assert found == [
        ("listed.a.kept", 1, 3, Identity.SAME_BITS),
        ("maybe", None, {"kept": 1}, Identity.ANOTHER_OUTPUT),
        ("plain.kept", 1, 2, Identity.SAME_BITS),
        ("plain.rate", 0.5, 0.7, Identity.ANOTHER_OUTPUT),
    ]


def test_decisive_values_exclude_fields_that_keep_every_bit():
    outer = Outer.model_validate({"several": {"x": {}}, "listed": [{"kept": 5}], "maybe": {"rate": 1}})
    assert decisive(outer) == {
        "plain": {"rate": 0.5},
        "several": {"x": {"rate": 0.5}},
        "listed": [{"rate": 0.5}],
        "maybe": {"rate": 1.0},
        "other name": 4,
    }
    assert decisive(Outer())["maybe"] is None
