"""A sample's weight in the loss: the same as for the sample alone, however samples are packed and distributed."""

import pytest
import torch
from test_sharding import losses, recipe_file, two_processes
from tiny_runs import QUIET, make_recipe, same, weights

from olivine.data.batches import BatchMaker
from olivine.data.llava_json import parse_item
from olivine.data.packing import SequenceLayout, weights_of
from olivine.errors import RequestError
from olivine.files import read_json, read_json_lines
from olivine.model import loss as loss_module
from olivine.model.build import build
from olivine.recipe import DataRecipe, from_values
from olivine.testing import tiny_model_recipe
from olivine.training.objectives import LanguageObjective
from olivine.training.run import train

POWERS = {"token": 0.0, "sample": -1.0, "sqrt": -0.5}


def model():
    return build(tiny_model_recipe(), seed=0, texts=lambda: ())


def maker(vlm, dataset, turns, loss_weights, sequence_tokens):
    samples = [parse_item(item, number) for number, item in enumerate(read_json(dataset))]
    source = DataRecipe.model_validate({"json": dataset, "images": dataset.parent / "images", "turns": turns})
    layout = SequenceLayout(image_token=vlm.model.config.image_token_id, loss_weights=loss_weights)
    return BatchMaker(samples, source, vlm.encoder(), vlm.transform, sequence_tokens=sequence_tokens, layout=layout)


def by_hand(vlm, dataset, turns, power, count):
    """Return the connector's mean loss and gradients from samples that are each run alone, without weights."""
    means, labels = [], []
    for index in range(count):
        batch = maker(vlm, dataset, turns, None, 10_000).make([(0, index)])
        vlm.model.zero_grad()
        measured = LanguageObjective(vlm).measure(batch, backward=True)
        gradients = [p.grad.clone() if p.grad is not None else torch.zeros_like(p) for p in trained(vlm)]
        means.append((measured.mean, gradients))
        labels.append(batch.labels)
    share = [n * n**power for n in labels]
    assert len(set(labels)) > 2, "samples of several lengths"
    whole = sum(share)
    loss = sum(w * mean for w, (mean, _) in zip(share, means, strict=True)) / whole
    gradients = [
        sum(w * of_sample[1][i] for w, of_sample in zip(share, means, strict=True)) / whole
        for i in range(len(means[0][1]))
    ]
    return loss, gradients


def trained(vlm):
    return [*vlm.part("connector").values(), *vlm.part("language").values()]


@pytest.mark.parametrize("loss_weights", POWERS)
@pytest.mark.parametrize("turns", ["together", "independent"])
def test_packed_and_in_micro_batches_a_sample_has_the_weight_it_has_alone(dataset, monkeypatch, loss_weights, turns):
    vlm = model()
    for parameter in vlm.model.parameters():
        parameter.requires_grad_(False)
    for parameter in trained(vlm):
        parameter.requires_grad_(True)
    loss, gradients = by_hand(vlm, dataset, turns, POWERS[loss_weights], 12)
    for sequence_tokens in (60, 160, 4096):
        batch = maker(vlm, dataset, turns, loss_weights, sequence_tokens).make([(0, index) for index in range(12)])
        assert (len(batch.sequences) == 1) == (sequence_tokens == 4096)
        for chunk in (loss_module.CHUNK_ON_CPU, 640 * 3):  # logits at once, and three labels at a time
            monkeypatch.setattr(loss_module, "CHUNK_ON_CPU", chunk)
            vlm.model.zero_grad()
            measured = LanguageObjective(vlm).measure(batch, backward=True)
            assert measured.mean == pytest.approx(loss, rel=1e-5)
            for parameter, expected in zip(trained(vlm), gradients, strict=True):
                found = parameter.grad if parameter.grad is not None else torch.zeros_like(parameter)
                torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)


def test_weights_by_hand():
    assert weights_of([4, 1, 0], "sample").tolist() == [0.25] * 4 + [1.0]
    assert weights_of([4, 1], "sqrt").tolist() == [0.5] * 4 + [1.0]
    assert weights_of([2, 1], "token").tolist() == [1.0] * 3


def recipe_values(dataset, output, loss_weights, **more):
    stage = {"name": "a", "steps": 3, "held_out": 3, "loss_weights": loss_weights, **more}
    return make_recipe(dataset, output, stages=[stage]).model_dump(mode="json", by_alias=True)


def test_each_weighting_trains_other_weights_and_token_is_the_default(dataset, tmp_path):
    found = {}
    for name in (None, "token", "sample", "sqrt"):
        recipe = from_values(recipe_values(dataset, tmp_path / str(name), name))
        found[name] = weights(train(recipe, QUIET))
    assert same(found[None], found["token"])
    assert not same(found["token"], found["sample"])
    assert not same(found["token"], found["sqrt"])
    assert not same(found["sample"], found["sqrt"])


def test_the_held_out_loss_is_the_mean_over_tokens_whatever_trained(dataset, tmp_path):
    """With a learning rate of almost zero it is the same number: configurations are compared by it."""
    found = set()
    for name in (None, "sample"):
        recipe = from_values(recipe_values(dataset, tmp_path / str(name), name, lr=1e-30))
        rows = read_json_lines(train(recipe, QUIET).parent / "metrics.jsonl")
        found.add(rows[-1]["held_out_loss"])
    assert len(found) == 1


def test_a_contrastive_stage_has_no_tokens_to_weigh(dataset, tmp_path):
    values = recipe_values(dataset, tmp_path, "sample", train=["vision"])
    values["stages"][0]["objective"] = "contrastive"
    with pytest.raises(RequestError, match=r"stages\.a: loss_weights: objective 'contrastive' has no tokens"):
        from_values(values)


def test_two_processes_learn_what_one_does(dataset, tmp_path):
    """Their samples differ, so that a mean of per-process means would be wrong; also with other options of a stage."""
    pytest.importorskip("peft", reason="peft is not installed")
    rates = {"vision": 1e-2, "connector": 5e-3, "language": 2e-3}
    more = {"sample": {}, "sqrt": {"lr": rates, "vision_lora": {"rank": 4}}}
    for name, options in more.items():
        stage = {"name": "a", "train": ["vision", "connector", "language"], "steps": 8, "loss_weights": name, **options}
        train(recipe_file(tmp_path, dataset, f"{name}-one", stages=[stage])[1], QUIET)
        recipe_file(tmp_path, dataset, name, stages=[stage])
    two_processes(tmp_path, tmp_path / "sample.yaml", tmp_path / "sqrt.yaml")
    for name in more:
        one, two = losses(tmp_path / f"{name}-one" / "a"), losses(tmp_path / name / "a")
        assert two == pytest.approx(one, rel=1e-4)
    one, two = (weights(tmp_path / name / "a" / "checkpoint") for name in ("sqrt-one", "sqrt"))
    assert one.keys() == two.keys()
    for name, weight in one.items():
        torch.testing.assert_close(two[name], weight, rtol=1e-2, atol=2e-3)
