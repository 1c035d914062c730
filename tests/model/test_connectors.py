"""Every registered connector: packing, engine and plan handle its tokens; it trains; saved, it answers the same."""

import subprocess
import sys

import pytest
import torch
from conformance import check_elsewhere, check_engine, check_features, check_packed, check_saved, check_steps, made
from model_folders import edit_json
from transformers import LlavaForConditionalGeneration

from olivine.errors import DataError, RequestError
from olivine.model import checkpoint
from olivine.model.connectors.base import Shape
from olivine.model.connectors.llava import ConnectorLlava
from olivine.model.connectors.pixel_shuffle import shuffled
from olivine.model.connectors.pool import Pool
from olivine.model.size import model_size
from olivine.recipe import CONNECTOR_GROUP, ConnectorRecipe
from olivine.registry import offered
from olivine.testing.specimens import connector_specimens, specimen_recipe, tower_specimens

SPECIMENS = connector_specimens()
TOKENS = {"pixel-shuffle": 1, "pool": 1, "resampler": 3}
PLAIN = {"linear", "mlp of two"}


@pytest.fixture(scope="module")
def connectors():
    return {name: made(connector=connector) for name, connector in SPECIMENS.items()}


@pytest.mark.parametrize("name", SPECIMENS)
def test_features_are_as_many_as_positions(connectors, name, tmp_path):
    check_features(connectors[name], tmp_path)
    assert connectors[name].image_tokens == TOKENS.get(name, 4)


@pytest.mark.parametrize("name", SPECIMENS)
def test_packed_equals_one_by_one(connectors, name, tmp_path):
    check_packed(connectors[name], tmp_path)


@pytest.mark.parametrize("name", SPECIMENS)
def test_the_engine_answers_as_generate_does(connectors, name, tmp_path):
    check_engine(connectors[name], tmp_path)


@pytest.mark.parametrize("name", SPECIMENS)
def test_it_trains(name, tmp_path):
    check_steps(made(connector=SPECIMENS[name]), tmp_path)


@pytest.mark.parametrize("name", SPECIMENS)
def test_a_plan_knows_its_size_and_tokens(connectors, name):
    size = model_size(specimen_recipe(connector=SPECIMENS[name]))
    assert size.connector == sum(p.numel() for p in connectors[name].connector.parameters())
    assert (size.patches, size.features, size.tower_tokens) == (connectors[name].image_tokens, 4, 5)


def test_saved_folders_answer_the_same_elsewhere(connectors, tmp_path):
    """With plain transformers if LLaVA's projector represents it, else with `import olivine`."""
    said, folders = {}, {}
    for name, vlm in connectors.items():
        folders[name] = tmp_path / name
        folders[name].mkdir()
        said[name] = check_saved(vlm, folders[name])
        assert type(vlm.model) is (LlavaForConditionalGeneration if name in PLAIN else ConnectorLlava)
    for alone, names in ((True, PLAIN), (False, SPECIMENS.keys() - PLAIN)):
        check_elsewhere({n: said[n] for n in names}, {n: folders[n] for n in names}, alone=alone)


@pytest.mark.parametrize("factor", [1, 2, 3])
def test_pixels_are_shuffled_as_in_idefics3(factor):
    from transformers.models.idefics3.modeling_idefics3 import Idefics3Connector

    features = torch.randn(2, 36, 5)
    theirs = Idefics3Connector.pixel_shuffle(None, features, factor)
    assert torch.equal(shuffled(features, 6, factor), theirs)


@torch.no_grad()
def test_pool_is_gemma_3s_projector():
    from transformers import Gemma3Config
    from transformers.models.gemma3.modeling_gemma3 import Gemma3MultiModalProjector

    vision = {"hidden_size": 6, "image_size": 16, "patch_size": 4, "num_attention_heads": 2}
    theirs = Gemma3MultiModalProjector(
        Gemma3Config(text_config={"hidden_size": 8}, vision_config=vision, mm_tokens_per_image=4)
    )
    theirs.mm_input_projection_weight.normal_()
    theirs.mm_soft_emb_norm.weight.normal_()
    ours = Pool(Shape(side=4, extra=0, width=6, hidden=8), {"factor": 2})
    ours.norm.weight.copy_(1 + theirs.mm_soft_emb_norm.weight)
    ours.linear.weight.copy_(theirs.mm_input_projection_weight.T)
    features = torch.randn(2, 16, 6)
    torch.testing.assert_close(ours(features), theirs(features))


@torch.no_grad()
def test_a_resampler_distinguishes_positions(connectors):
    """Without position embeddings, cross-attention would not see where a feature comes from."""
    features = torch.randn(1, 4, 32)
    connector = connectors["resampler"].connector
    assert (connector(features) - connector(features.flip(1))).abs().max() > 1e-4


def test_registers_and_several_layers_reach_every_connector(tmp_path):
    towers = tower_specimens()
    kept = made(towers["dinov2_with_registers"], SPECIMENS["resampler"])
    check_features(kept, tmp_path)
    assert kept.image_tokens == 3
    for vision in ("two layers", "fused, two layers"):
        check_features(made(towers[vision], SPECIMENS["pixel-shuffle"]), tmp_path)
        check_features(made(towers[vision], SPECIMENS["mlp"]), tmp_path)
    with pytest.raises(RequestError, match=r"4 register tokens stand before them\. Set model.vision.registers: drop"):
        made(towers["dinov2_with_registers"], SPECIMENS["pool"])


@pytest.mark.parametrize("kind", ["pixel-shuffle", "pool"])
def test_a_factor_that_does_not_divide_the_grid_is_refused(kind):
    with pytest.raises(RequestError, match="factor: 3 does not divide the tower's grid of 2x2 patches"):
        made(connector={"kind": kind, "factor": 3})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kind": "pol"}, "Did you mean 'pool'"),
        ({"kind": "pool", "depth": 2}, r"depth: a connector of kind 'pool' has no such key \(its keys: factor\)"),
        ({"kind": "linear", "factor": 2}, r"factor: .* \(its keys: none\)"),
        ({"kind": "mlp", "options": {"a": 1}}, "options: "),
    ],
)
def test_a_key_that_a_kind_lacks_is_refused(values, message):
    with pytest.raises(ValueError, match=message):
        ConnectorRecipe.model_validate(values)


def test_options_of_a_kind_have_defaults():
    assert ConnectorRecipe().given == {"depth": 2, "activation": "gelu"}
    assert ConnectorRecipe.model_validate({"kind": "pixel-shuffle"}).given == {
        "depth": 1, "activation": "gelu", "factor": 2
    }  # fmt: skip
    dumped = ConnectorRecipe.model_validate({"kind": "pool"}).model_dump()
    assert ConnectorRecipe.model_validate(dumped).given == {"factor": 2}


def test_a_folder_whose_connector_was_made_for_another_grid_is_refused(connectors, tmp_path):
    checkpoint.save(connectors["pool"], tmp_path / "saved")
    described = {**connectors["pool"].model.config.connector, "side": 4}
    edit_json(tmp_path / "saved" / "config.json", connector=described)
    edit_json(tmp_path / "saved" / "olivine.json", files=None)
    with pytest.raises(DataError, match="made for 4x4 patches and 0 other tokens, but the tower gives 2x2 and 0"):
        checkpoint.load(tmp_path / "saved")


def test_a_deep_mlp_that_an_earlier_version_saved_is_read(connectors, tmp_path):
    vlm = connectors["mlp"]
    checkpoint.save(vlm, tmp_path / "saved")
    edit_json(tmp_path / "saved" / "config.json", connector=None, architectures=["DeepConnectorLlava"])
    edit_json(tmp_path / "saved" / "olivine.json", files=None)
    again = checkpoint.load(tmp_path / "saved")
    assert all(torch.equal(w, again.model.state_dict()[name]) for name, w in vlm.model.state_dict().items())


OUTSIDE = '''
import torch
from torch import nn

from olivine.errors import RequestError
from olivine.model.connectors.base import Connector


class Mean(Connector):
    """One token: the mean of all."""

    kind = "mean"
    tiny = {"scale": 2.0}

    def __init__(self, shape, options):
        super().__init__(shape, options)
        self.linear = nn.Linear(shape.width, shape.hidden)

    @classmethod
    def image_tokens(cls, shape, options):
        if options.keys() != {"scale"}:
            raise RequestError(f"model.connector.options: {sorted(options)}; expected scale.")
        return 1

    def forward(self, features):
        return self.linear(features.mean(dim=1, keepdim=True)) * self.options["scale"]
'''


@pytest.fixture
def mean_package(monkeypatch, tmp_path):
    (tmp_path / "mean_connector.py").write_text(OUTSIDE)
    info = tmp_path / "mean_connector-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mean-connector\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{CONNECTOR_GROUP}]\nmean = mean_connector:Mean\n")
    monkeypatch.syspath_prepend(tmp_path)
    offered.cache_clear()
    yield
    sys.modules.pop("mean_connector", None)
    offered.cache_clear()


def test_a_package_outside_adds_a_connector_with_one_file(mean_package, tmp_path):
    vlm = made(connector=connector_specimens()["mean"])
    assert vlm.image_tokens == 1
    check_features(vlm, tmp_path)
    check_packed(vlm, tmp_path)
    check_engine(vlm, tmp_path)
    check_saved(vlm, tmp_path)
    with pytest.raises(RequestError, match=r"\[\]; expected scale"):
        made(connector={"kind": "mean"})


IMPORTS = {
    "olivine last": "import transformers, olivine",
    "a question, then a submodule": "import olivine, importlib.util\nimportlib.util.find_spec('transformers')\n"
    "from transformers.models.llava.modeling_llava import LlavaModel",
}


@pytest.mark.parametrize("order", IMPORTS)
def test_import_olivine_registers_in_any_order(order):
    code = IMPORTS[order] + (
        "\nimport sys, transformers\n"
        "assert {'olivine_llava', 'olivine_tower'} <= set(transformers.CONFIG_MAPPING)\n"
        "assert not any('olivine' in type(finder).__module__ for finder in sys.meta_path)\n"
        "assert 'olivine' not in type(transformers.__spec__.loader).__module__\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
