"""A connector starts from a trained one (`model.connector.from`), or is refused by the key that contradicts it."""

import shutil

import pytest
import torch
from safetensors.torch import save_file

from olivine.errors import DataError, RequestError
from olivine.model import checkpoint
from olivine.model.build import build, check_buildable
from olivine.model.connectors.stored import save_connector
from olivine.recipe import ModelRecipe
from olivine.testing import llama_tokenizer, tiny_model_recipe, tiny_vlm

WIDTH = 32


def recipe(source, *, language="gemma", connector=None, folder=None, **more):
    tokenizer = None
    if language == "llama":
        llama_tokenizer().save_pretrained(folder / "llama")
        tokenizer = str(folder / "llama")
    values = tiny_model_recipe(language=language, tokenizer=tokenizer, **more).model_dump(by_alias=True)
    return ModelRecipe.model_validate({**values, "connector": {**(connector or {}), "from": str(source)}})


def built(model):
    return build(model, seed=3, texts=lambda: ("what is it?",))


def connector_of(vlm):
    return {name: tensor.clone() for name, tensor in vlm.connector.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture
def trained(tmp_path):
    """A model folder, and its connector's weights."""
    vlm = tiny_vlm(seed=1)
    checkpoint.save(vlm, tmp_path / "model")
    return tmp_path / "model", connector_of(vlm)


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_a_model_folder_gives_its_connector_and_nothing_else(tmp_path, depth):
    vlm = tiny_vlm(seed=1, depth=depth)
    checkpoint.save(vlm, tmp_path / "model")
    model = recipe(tmp_path / "model", connector={"depth": depth})
    check_buildable(model, {})
    started, fresh = built(model), built(tiny_model_recipe(depth=depth))
    assert same(connector_of(started), connector_of(vlm))
    assert not same(connector_of(fresh), connector_of(vlm))
    others = [name for name, _ in fresh.model.named_parameters() if "projector" not in name]
    state, expected = started.model.state_dict(), fresh.model.state_dict()
    assert all(torch.equal(state[name], expected[name]) for name in others)


@pytest.mark.parametrize(
    "connector", [{"kind": "pool"}, {"kind": "resampler", "queries": 3}, {"kind": "pixel-shuffle"}]
)
def test_other_kinds_of_a_model_folder_are_taken(tmp_path, connector):
    values = tiny_model_recipe().model_dump(by_alias=True)
    vlm = built(ModelRecipe.model_validate({**values, "connector": connector}))
    checkpoint.save(vlm, tmp_path / "model")
    assert same(connector_of(built(recipe(tmp_path / "model", connector=connector))), connector_of(vlm))


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_a_file_of_ones_own_gives_it_too(tmp_path, depth):
    vlm = tiny_vlm(seed=1, depth=depth)
    save_connector(tmp_path / "connector.safetensors", vlm.model)
    model = recipe(tmp_path / "connector.safetensors", connector={"depth": depth})
    check_buildable(model, {})
    assert same(connector_of(built(model)), connector_of(vlm))


def published(depth, *, prefix="model.", width=WIDTH, hidden=WIDTH, seed=0):
    """LLaVA's mm_projector.bin: `linear`, or `mlpNx_gelu` with activations at the odd numbers."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for layer in range(depth):
        name = f"{prefix}mm_projector" + ("" if depth == 1 else f".{2 * layer}")
        tensors[f"{name}.weight"] = torch.randn(hidden, hidden if layer else width, generator=generator) / 6
        tensors[f"{name}.bias"] = torch.randn(hidden, generator=generator)
    return tensors


def projected(tensors, features):
    """LLaVA's forward over such a file, written out."""
    pairs = list(tensors.values())
    for weight, bias in zip(pairs[:-2:2], pairs[1:-2:2], strict=True):
        features = torch.nn.functional.gelu(features @ weight.T + bias)
    return features @ pairs[-2].T + pairs[-1]


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("file", ["mm_projector.bin", "mm_projector.safetensors"])
def test_llavas_projector_computes_what_it_did_there(tmp_path, depth, file):
    tensors = published(depth)
    if file.endswith(".bin"):
        torch.save({name: tensor.half() for name, tensor in tensors.items()}, tmp_path / file)
        tensors = {name: tensor.half().float() for name, tensor in tensors.items()}
    else:
        save_file(tensors, tmp_path / file)
    model = recipe(tmp_path / file, language="llama", folder=tmp_path, connector={"depth": depth})
    check_buildable(model, {})
    features = torch.randn(2, 4, WIDTH, generator=torch.Generator().manual_seed(5))
    found = built(model).connector(features)
    assert torch.allclose(found, projected(tensors, features), atol=1e-5)


def test_a_pickle_that_would_run_code_is_refused(tmp_path):
    class Code:
        def __reduce__(self):
            return (shutil.rmtree, (str(tmp_path / "precious"),))

    (tmp_path / "precious").mkdir()
    torch.save({"model.mm_projector.0.weight": Code()}, tmp_path / "mm_projector.bin")
    with pytest.raises(RequestError, match=r"mm_projector\.bin: not opened, since it contains more than tensors"):
        check_buildable(recipe(tmp_path / "mm_projector.bin", language="llama", folder=tmp_path), {})
    assert (tmp_path / "precious").is_dir()


def test_llavas_projector_behind_gemma_is_referred_to_import(tmp_path):
    torch.save(published(2), tmp_path / "mm_projector.bin")
    with pytest.raises(RequestError, match=r"gemma before 5\.4 its output was multiplied by sqrt.*olivine import"):
        check_buildable(recipe(tmp_path / "mm_projector.bin"), {})


CONTRADICTED = {
    "depth": ({"connector": {"depth": 3}}, r"model\.connector\.depth: 3, but .* holds a connector with 2"),
    "kind": ({"connector": {"kind": "pool"}}, r"model\.connector\.kind: 'pool', but .* holds a connector with 'mlp'"),
    "activation": ({"connector": {"activation": "relu"}}, r"model\.connector\.activation: 'relu', but .* 'gelu'"),
    "the layer": ({"layer": -1}, r"model\.vision\.layer: -1, but the connector in .* was trained with -2"),
    "the tower": ({"tower": "dinov2"}, r"model\.vision\.from: 'dinov2', but the connector .* 'clip_vision_model'"),
    "the language model": ({"language": "llama"}, r"model\.language\.from: 'llama', but the connector .* 'gemma'"),
}


@pytest.mark.parametrize("name", CONTRADICTED)
@pytest.mark.parametrize("file", [False, True])
def test_a_contradiction_is_refused_by_its_key(tmp_path, trained, name, file):
    given, said = CONTRADICTED[name]
    source, _ = trained
    if file:
        source = tmp_path / "connector.safetensors"
        save_connector(source, tiny_vlm(seed=1).model)
    with pytest.raises(RequestError, match=said):
        check_buildable(recipe(source, folder=tmp_path, **given), {})


@pytest.mark.parametrize(("depth", "wrong", "said"), [
    (2, {"width": 48}, r"layers\.0\.weight|linear_1\.weight is \[32, 48\], but .* it is \[32, 32\]"),
    (3, {}, r"model\.connector\.depth: 2, but .* holds a connector with 3"),
])  # fmt: skip
def test_a_projector_of_another_shape_is_refused(tmp_path, depth, wrong, said):
    torch.save(published(depth, **wrong), tmp_path / "mm_projector.bin")
    with pytest.raises(RequestError, match=said):
        check_buildable(recipe(tmp_path / "mm_projector.bin", language="llama", folder=tmp_path), {})


def test_a_file_of_something_else_is_refused(tmp_path):
    torch.save({**published(2), "model.layers.0.weight": torch.ones(2)}, tmp_path / "mm_projector.bin")
    with pytest.raises(RequestError, match=r"model\.layers\.0\.weight is in it; expected LLaVA's projector alone"):
        check_buildable(recipe(tmp_path / "mm_projector.bin", language="llama", folder=tmp_path), {})


def test_half_a_download_is_refused(tmp_path):
    save_file(published(2), tmp_path / "mm.safetensors")
    content = (tmp_path / "mm.safetensors").read_bytes()
    (tmp_path / "mm.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(RequestError, match=r"model\.connector\.from: .*mm\.safetensors"):
        check_buildable(recipe(tmp_path / "mm.safetensors", language="llama", folder=tmp_path), {})


def test_a_projector_without_a_bias_is_refused(tmp_path):
    tensors = published(2)
    del tensors["model.mm_projector.2.bias"]
    torch.save(tensors, tmp_path / "mm_projector.bin")
    with pytest.raises(RequestError, match=r"linear_2\.bias is missing"):
        check_buildable(recipe(tmp_path / "mm_projector.bin", language="llama", folder=tmp_path), {})


def test_values_that_are_no_numbers_are_refused(tmp_path):
    tensors = published(2)
    tensors["model.mm_projector.0.bias"][3] = float("nan")
    torch.save(tensors, tmp_path / "mm_projector.bin")
    with pytest.raises(RequestError, match="values that are no numbers"):
        check_buildable(recipe(tmp_path / "mm_projector.bin", language="llama", folder=tmp_path), {})


def test_a_damaged_model_folder_is_refused(trained):
    folder, _ = trained
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(DataError, match="content differs from the checksum"):
        built(recipe(folder))


@pytest.mark.parametrize("source", ["nowhere.bin", "./nowhere", "model-without-companion"])
def test_what_is_not_there_is_named(tmp_path, trained, source):
    if source == "model-without-companion":
        (trained[0] / "olivine.json").unlink()
        source = trained[0]
    with pytest.raises(RequestError, match=r"model\.connector\.from: "):
        check_buildable(recipe(source), {})
