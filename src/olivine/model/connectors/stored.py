"""A trained connector from disk (`model.connector.from`): out of a model folder, or a file of its tensors alone.

Nothing is guessed: what such a file says about itself is compared with the recipe, by name.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from olivine.errors import RequestError
from olivine.files import atomic_file
from olivine.model.companion import COMPANION, verify_module_files
from olivine.model.configuration import folder_config, understood
from olivine.model.connectors.llava import connector_recipe, is_single_layer
from olivine.model.hub import CONFIGURATION, WEIGHTS, local_folder
from olivine.model.model_folder import find_checkpoint, is_run
from olivine.model.pickled import pickled_tensors
from olivine.model.weights import tensors_in
from olivine.recipe import ConnectorRecipe
from olivine.registry import locate

KEY = "model.connector.from"
#: LLaVA's names: numbered modules of a sequence, of which activations have no weights; or one layer without a number.
_PUBLISHED = re.compile(r"^(?:\w+\.)*mm_projector\.(?:(?P<number>\d+)\.)?(?P<weight>weight|bias)$")
_OWN = re.compile(r"^(?:model\.)?multi_modal_projector\.(?P<name>.+)$")
#: Under transformers before 5.4 these multiplied image features by sqrt(hidden), and projectors were trained so.
_ONCE_SCALED = ("gemma", "gemma2")
_METADATA = "olivine"


@dataclass(frozen=True, slots=True)
class Surroundings:
    """The modules that a connector was trained between: model types, and the hidden states of the tower it reads."""

    vision: str
    layers: tuple[int, ...]
    language: str


@dataclass(frozen=True, slots=True)
class StoredConnector:
    """A connector read from disk.

    Attributes:
        source: where it is, for messages.
        recipe: what it is; of a file in LLaVA's layout, what LLaVA trains.
        tensors: by their names in the connector; of LLaVA's layout as `layers.N.weight`, `layers.N.bias`.
        between: the modules that it was trained between; None if the file does not say.
    """

    source: str
    recipe: ConnectorRecipe
    tensors: Mapping[str, Tensor]
    between: Surroundings | None


def read_connector(source: str, *, verified: bool = False) -> StoredConnector:
    """Read a trained connector.

    Args:
        source: a model folder, a run's directory, a hub id or a named source; or a file, .bin or .safetensors.
        verified: compare a model folder's files with their checksums.

    Raises:
        RequestError: there is none, it is damaged, or it holds something else.
        DataError: a file of a model folder differs from its checksum.
    """
    located = locate(source)
    path = Path(located).expanduser()
    if path.is_file():
        return _from_file(path)
    if not is_run(path) and path.suffix in (".bin", ".safetensors"):
        raise RequestError(f"{KEY}: file {source!r} not found.")
    folder = find_checkpoint(path) if is_run(path) else local_folder(located, KEY, (*CONFIGURATION, *WEIGHTS))
    return _from_folder(folder, verified=verified)


def check_connector(stored: StoredConnector, recipe: ConnectorRecipe, model: Any) -> None:
    """Refuse a connector that is not the one that a recipe describes, or not for its tower and language model.

    Args:
        stored: what was read.
        recipe: the recipe's section.
        model: the recipe's whole model, which may be on the meta device.

    Raises:
        RequestError: it differs; the message names the key, and both values.
    """
    _check_kind(stored, recipe)
    _check_between(stored, model.config)
    own, names = model.model.multi_modal_projector.state_dict(), _names(stored, model.model.multi_modal_projector)
    trained = {name for name in own if not (is_single_layer(recipe) and name.startswith("linear_2."))}
    for name in sorted(trained ^ set(names)):
        what = "is missing" if name in own else "has no place in it"
        raise RequestError(f"{KEY}: {stored.source}: {name} {what}. Give the connector that the recipe describes.")
    for name, tensor in names.items():
        if tensor.shape != own[name].shape:
            raise RequestError(
                f"{KEY}: {stored.source}: {name} is {list(tensor.shape)}, but between this tower and this language "
                f"model it is {list(own[name].shape)}. Give a connector that was trained between them."
            )


@torch.no_grad()
def copy_connector(stored: StoredConnector, connector: nn.Module) -> None:
    """Copy the weights into a connector that `check_connector` accepted, in the connector's dtype."""
    connector.load_state_dict(_names(stored, connector), strict=False)


def save_connector(file: Path, model: Any) -> None:
    """Write the connector of a LLaVA model as one safetensors file that says what it is and what it was between."""
    connector = model.model.multi_modal_projector
    described = connector_recipe(model.config, connector)
    between = _surroundings(model.config)
    about = {
        "connector": described.model_dump(mode="json", by_alias=True, exclude_none=True),
        "vision": between.vision,
        "layers": list(between.layers),
        "language": between.language,
    }
    own = connector.state_dict().items()
    tensors = {
        f"multi_modal_projector.{name}": tensor.detach().cpu().contiguous()
        for name, tensor in own
        if not (is_single_layer(described) and name.startswith("linear_2."))
    }
    with atomic_file(file) as temporary:
        save_file(tensors, temporary, metadata={_METADATA: json.dumps(about, sort_keys=True)})


def _from_folder(folder: Path, *, verified: bool) -> StoredConnector:
    if not (folder / COMPANION).is_file():
        raise RequestError(
            f"{KEY}: {folder}: no model folder of Olivine's ({COMPANION} is missing). Convert a published model first: "
            f"olivine import {folder} --output DIR, then give {KEY}: DIR. Of LLaVA's stage 1, give mm_projector.bin."
        )
    config = folder_config(folder, KEY)
    if getattr(config, "vision_config", None) is None or getattr(config, "text_config", None) is None:
        raise RequestError(f"{KEY}: {folder}: config.json describes a {config.model_type!r}, which has no connector.")
    if verified:
        verify_module_files(folder, WEIGHTS)
    found: dict[str, Tensor] = {}
    for name, held in tensors_in(folder, KEY).items():
        own = _OWN.match(name)
        if own:
            with safe_open(held.file, framework="pt") as opened:
                found[own["name"]] = opened.get_tensor(name)
    connector = nn.Module()
    second = _layer_of(found, "linear_2")
    if second is not None:
        connector.linear_2 = second
    recipe = connector_recipe(config, connector)
    if is_single_layer(recipe):
        found = {name: tensor for name, tensor in found.items() if not name.startswith("linear_2.")}
    return _checked(StoredConnector(str(folder), recipe, found, _surroundings(config)))


def _from_file(path: Path) -> StoredConnector:
    if path.suffix == ".safetensors":
        tensors, metadata = understood(lambda: _read_safetensors(path), f"{KEY}: {path}")
    else:
        tensors, metadata = pickled_tensors(path), {}
    if metadata.get(_METADATA) is not None:
        return _checked(_described(path, tensors, metadata[_METADATA]))
    return _checked(_published(path, tensors))


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], Mapping[str, str]]:
    with safe_open(path, framework="pt") as opened:
        return {name: opened.get_tensor(name) for name in opened.keys()}, opened.metadata() or {}  # noqa: SIM118


def _described(path: Path, tensors: Mapping[str, Tensor], text: str) -> StoredConnector:
    def read() -> StoredConnector:
        about = json.loads(text)
        between = Surroundings(about["vision"], tuple(about["layers"]), about["language"])
        names = {name: match["name"] for name in tensors if (match := _OWN.match(name))}
        found = {own: tensors[name] for name, own in names.items()}
        return StoredConnector(str(path), ConnectorRecipe.model_validate(about["connector"]), found, between)

    return understood(read, f"{KEY}: {path}: metadata")


def _published(path: Path, tensors: Mapping[str, Tensor]) -> StoredConnector:
    """Return the connector of a file in LLaVA's layout: layers in the order of their numbers, GELU between them."""
    matches = {name: _PUBLISHED.match(name) for name in tensors}
    other = sorted(name for name, match in matches.items() if match is None)
    if other or not tensors:
        raise RequestError(
            f"{KEY}: {path}: {other[0] if other else 'nothing'} is in it; expected LLaVA's projector alone "
            "(mm_projector.0.weight, ...). Of a whole model, give its folder."
        )
    numbers = sorted({int(match["number"] or 0) for match in matches.values() if match})
    found = {
        f"layers.{numbers.index(int(match['number'] or 0))}.{match['weight']}": tensors[name]
        for name, match in matches.items()
        if match
    }
    recipe = ConnectorRecipe(kind="mlp", depth=len(numbers), activation="gelu")
    return StoredConnector(str(path), recipe, found, None)


def _checked(stored: StoredConnector) -> StoredConnector:
    for name, tensor in stored.tensors.items():
        if not tensor.is_floating_point() or not bool(torch.isfinite(tensor).all()):
            raise RequestError(f"{KEY}: {stored.source}: {name} holds values that are no numbers, or no weights.")
    return stored


def _check_kind(stored: StoredConnector, recipe: ConnectorRecipe) -> None:
    if is_single_layer(stored.recipe) and is_single_layer(recipe):
        return
    for key in ("kind", "depth", "activation", "factor", "queries", "options"):
        found, requested = getattr(stored.recipe, key), getattr(recipe, key)
        if found != requested:
            raise RequestError(
                f"model.connector.{key}: {requested!r}, but {stored.source} holds a connector with {found!r}. Set the "
                f"key to that, or remove {KEY}."
            )


def _check_between(stored: StoredConnector, config: Any) -> None:
    now = _surroundings(config)
    if stored.between is None:
        if now.language in _ONCE_SCALED:
            raise RequestError(
                f"{KEY}: {stored.source}: LLaVA's layout does not say under which transformers it was trained; with "
                f"{now.language} before 5.4 its output was multiplied by sqrt(hidden), which is no longer done. Run "
                "olivine import on the folder with its base model, which accounts for it, and give that folder."
            )
        return
    for key, found, requested in (
        ("model.vision.from", stored.between.vision, now.vision),
        ("model.vision.layer", stored.between.layers, now.layers),
        ("model.language.from", stored.between.language, now.language),
    ):
        if found != requested:
            raise RequestError(
                f"{key}: {_shown(requested)}, but the connector in {stored.source} was trained with {_shown(found)}. "
                f"Give the module that belongs to it, or remove {KEY}."
            )


def _surroundings(config: Any) -> Surroundings:
    layers, depth = config.vision_feature_layer, config.vision_config.num_hidden_layers
    layers = (layers,) if isinstance(layers, int) else tuple(layers)
    return Surroundings(
        config.vision_config.model_type,
        tuple(layer if layer < 0 else layer - depth - 1 for layer in layers),
        config.text_config.model_type,
    )


def _shown(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else repr(value)


def _names(stored: StoredConnector, connector: nn.Module) -> dict[str, Tensor]:
    """Return the tensors under the names of a connector's own state; transformers numbers its two layers from 1."""
    if stored.between is not None or not hasattr(connector, "linear_1"):
        return dict(stored.tensors)

    def own(name: str) -> str:
        _, number, weight = name.split(".")
        return f"linear_{int(number) + 1}.{weight}"

    return {own(name): tensor for name, tensor in stored.tensors.items()}


def _layer_of(tensors: Mapping[str, Tensor], name: str) -> nn.Module | None:
    weight, bias = tensors.get(f"{name}.weight"), tensors.get(f"{name}.bias")
    if weight is None:
        return None
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    layer.weight.data = weight
    if bias is not None:
        layer.bias.data = bias
    return layer
