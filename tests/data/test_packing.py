"""Packing and batches: nothing lost, nothing padded, the same order for the same seed."""

import json
import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from olivine.data.batches import BatchMaker, SampleOrder, ahead
from olivine.data.encoding import Example, Tokens
from olivine.data.packing import IGNORED, balance, pack
from olivine.data.sources import Skipped, encode_samples, read_samples
from olivine.errors import DataError
from olivine.recipe import DataRecipe
from olivine.records import Sample
from olivine.testing import write_dataset


@given(lengths=st.lists(st.integers(1, 50), max_size=60), capacity=st.integers(1, 60))
@settings(max_examples=200)
def test_distributing_loses_nothing_and_respects_the_capacity(lengths, capacity):
    sequences = balance(lengths, capacity)
    assert sorted(i for sequence in sequences for i in sequence) == list(range(len(lengths)))
    for sequence in sequences:
        assert sum(lengths[i] for i in sequence) <= capacity or len(sequence) == 1
    assert sequences == balance(lengths, capacity)


def test_first_fit_decreasing_by_hand():
    assert balance([3, 7, 5, 2], 10) == [[1, 0], [2, 3]]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("dataset"))


def source(dataset, **more):
    return DataRecipe.model_validate({"json": dataset, "images": dataset.parent / "images", **more})


def maker(vlm, dataset, *, sequence_tokens=200, **more):
    recipe = source(dataset, **more)
    samples = read_samples(recipe, Skipped())
    return BatchMaker(samples, recipe, vlm.encoder(), vlm.transform, sequence_tokens=sequence_tokens), len(samples)


@pytest.mark.parametrize("turns", ["together", "independent"])
def test_a_packed_sequence_is_its_samples_end_to_end(vlm, dataset, turns):
    recipe = source(dataset, turns=turns)
    examples = encode_samples(read_samples(recipe, Skipped())[:6], vlm.encoder(), recipe, Skipped())
    sequence = pack(examples, [])
    assert sequence.ids.tolist() == [i for e in examples for part in e.parts for i in part.ids]
    assert sequence.labels == sum(example.labels for example in examples)
    start = 0
    for example in examples:
        shared = len(example.parts[0])
        for number, part in enumerate(example.parts):
            offset = shared if number else 0
            assert sequence.positions[start : start + len(part)].tolist() == list(range(offset, offset + len(part)))
            targets = sequence.targets[start : start + len(part)]
            assert targets[-1] == IGNORED
            for position, target in enumerate(targets[:-1].tolist()):
                assert target == (part.ids[position + 1] if part.supervised[position + 1] else IGNORED)
            start += len(part)


def test_groups_cover_every_position_once(vlm, dataset):
    recipe = source(dataset, turns="independent")
    examples = encode_samples(read_samples(recipe, Skipped()), vlm.encoder(), recipe, Skipped())
    sequence = pack(examples, [])
    token_positions = torch.cat([group.token_positions for group in sequence.groups])
    assert sorted(token_positions.tolist()) == list(range(len(sequence.ids)))
    for group in sequence.groups:
        assert torch.equal(group.queries.flatten()[group.kept], group.token_positions)


def seen(sequence):
    """Return `[tokens, tokens]` bool: which positions of a sequence each position sees, according to its groups."""
    sees = torch.zeros(len(sequence.ids), len(sequence.ids), dtype=torch.bool)
    for group in sequence.groups:
        most_queries, most_keys = group.queries.shape[1], group.keys.shape[1]
        is_real = torch.zeros(group.queries.numel(), dtype=torch.bool).index_fill(0, group.kept, True)
        for number, real in enumerate(is_real.view_as(group.queries)):
            if group.mask is None:
                assert torch.equal(group.queries, group.keys)
                mask = torch.ones(most_queries, most_keys, dtype=torch.bool).tril()
            else:
                mask = group.mask[number, 0]
            for position, keys in zip(group.queries[number][real].tolist(), mask[real], strict=True):
                assert not sees[position].any(), "a position is a query once"
                sees[position, group.keys[number][keys]] = True
                assert len(set(group.keys[number][keys].tolist())) == keys.sum(), "no key counts twice"
    return sees


def supposed(examples):
    """Return the same from the rule: a position sees its own part up to itself, and its example's whole shared part."""
    part = torch.tensor(
        [(e, p) for e, ex in enumerate(examples) for p, tokens in enumerate(ex.parts) for _ in range(len(tokens))]
    )
    position = torch.arange(len(part))
    same_example = part[:, None, 0] == part[None, :, 0]
    visible = (part[:, None, 1] == part[None, :, 1]) | (part[None, :, 1] == 0)
    return same_example & visible & (position[:, None] >= position[None, :])


def example(*lengths):
    parts = tuple(Tokens([1] * length, [False] * length) for length in lengths)
    return Example(Sample("one", ()), parts)


@given(st.lists(st.lists(st.integers(1, 70), min_size=1, max_size=12), min_size=1, max_size=5))
@settings(deadline=None)
def test_every_position_sees_the_shared_part_and_its_own_past_and_nothing_else(lengths):
    examples = [example(*parts) for parts in lengths]
    assert torch.equal(seen(pack(examples, [])), supposed(examples))


def test_the_cost_of_attention_grows_with_the_number_of_questions_not_with_its_square():
    def pairs(questions):
        groups = pack([example(60, *[15] * questions)], []).groups
        return sum(group.queries.numel() * group.keys.shape[1] for group in groups)

    few, many = (pairs(questions) - pairs(0) for questions in (20, 80))
    assert many == 4 * few


def test_a_batch_encodes_each_image_once_and_loses_no_sample(vlm, dataset):
    batches, count = maker(vlm, dataset)
    batch = batches.make([(0, index) for index in range(count)])
    assert sorted(i for sequence in batch.sequences for i in sequence.sample_ids) == sorted(
        f"s{n}" for n in range(count)
    )
    image_folder = {s["image"] for s in json.loads(dataset.read_text()) if "image" in s}
    assert len(batch.pixels) == len(image_folder)
    assert all(len(sequence.ids) <= 200 for sequence in batch.sequences)
    placeholders = sum(int((sequence.ids == vlm.model.config.image_token_id).sum()) for sequence in batch.sequences)
    assert placeholders == vlm.image_tokens * sum(len(sequence.images) for sequence in batch.sequences)


def test_each_epoch_has_a_new_permutation():
    order = SampleOrder(10, batch=4, epochs=2, steps=None, seed=1, key="align")
    assert order.steps == 5
    seen = [pair for step in range(order.steps) for pair in order.at(step)]
    assert [epoch for epoch, _ in seen] == [0] * 10 + [1] * 10
    assert sorted(i for _, i in seen[:10]) == sorted(i for _, i in seen[10:]) == list(range(10))
    assert [i for _, i in seen[:10]] != [i for _, i in seen[10:]]


def test_order_depends_on_seed_and_stage_and_on_nothing_else():
    def order(**changes):
        values = {"batch": 4, "epochs": 1, "steps": None, "seed": 1, "key": "align"} | changes
        made = SampleOrder(40, **values)
        return [pair for step in range(made.steps) for pair in made.at(step)]

    assert order() == order()
    assert order() != order(seed=2)
    assert order() != order(key="instruct")
    assert order() == order(batch=10), "the same samples in the same order, however they are distributed over steps"


def test_order_of_a_late_step_needs_no_earlier_one():
    first = SampleOrder(100, batch=7, epochs=3, steps=None, seed=3, key="k")
    second = SampleOrder(100, batch=7, epochs=3, steps=None, seed=3, key="k")
    early = [first.at(step) for step in range(30)]
    assert second.at(29) == early[29]


def test_steps_override_epochs_and_partial_epochs_end_early():
    assert SampleOrder(10, batch=4, epochs=1, steps=7, seed=0, key="").steps == 7
    assert SampleOrder(10, batch=4, epochs=0.5, steps=None, seed=0, key="").samples == 5


def test_batches_prepared_ahead_equal_those_made_one_by_one(vlm, dataset):
    batches, count = maker(vlm, dataset, augment={"flip": True, "shift": 2})
    order = SampleOrder(count, batch=5, epochs=2, steps=None, seed=0, key="x")
    for step, batch in ahead(batches, order, 3):
        alone = batches.make(order.at(step), order)
        assert torch.equal(batch.pixels, alone.pixels)
        assert [sequence.sample_ids for sequence in batch.sequences] == [
            sequence.sample_ids for sequence in alone.sequences
        ]
    assert step == order.steps - 1


def test_a_damaged_image_stops_or_is_skipped(vlm, tmp_path):
    path = write_dataset(tmp_path)
    (tmp_path / "images" / "0.png").write_bytes(b"\x89PNG cut")
    batches, count = maker(vlm, path)
    with pytest.raises(DataError, match=r"train\.json: id 's0'.*0\.png.*on_error: skip"):
        batches.make([(0, i) for i in range(count)])
    lenient, _ = maker(vlm, path, on_error="skip")
    batch = lenient.make([(0, i) for i in range(count)])
    assert set(batch.skipped.values()) == {"unreadable image"}
    assert len(batch.skipped) == batch_loss(path, "0.png")
    assert batch.samples == count - len(batch.skipped)


def batch_loss(path, image):
    return sum(sequence.get("image") == image for sequence in json.loads(path.read_text()))


def test_a_sample_too_long_is_never_cut(vlm, dataset):
    batches, count = maker(vlm, dataset, max_length=20)
    with pytest.raises(DataError, match="max_length is 20"):
        batches.make([(0, i) for i in range(count)])


def test_the_order_of_millions_takes_eight_bytes_a_sample_whatever_the_epoch():
    count = 2_000_000
    order = SampleOrder(count, batch=256, epochs=3, steps=None, seed=0, key="x")
    tracemalloc.start()
    for step in range(0, order.steps, 2000):
        order.at(step)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8.5 * count


def test_random_draws_belong_to_samples():
    order = SampleOrder(10, batch=2, epochs=1, steps=None, seed=0, key="")
    assert order.draw(0, 3).random() == order.draw(0, 3).random()
    assert len({order.draw(e, i).random() for e in range(3) for i in range(3)}) == 9
    assert isinstance(order.draw(0, 0), np.random.Generator)
