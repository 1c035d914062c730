"""The recipes and studies that come with the package, by name: `easy-vqa`, `world/clip-s-aligned`, `studies/world`.

What a recipe means is in `recipe` and `ablation.study`; here they are only found, listed and copied.
"""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from olivine.errors import RequestError, unknown_name
from olivine.strict_yaml import read_yaml

STUDIES = "studies"


@dataclass(frozen=True, slots=True)
class ShippedRecipe:
    """One recipe or study of the package; `about` is the first line of its leading comment."""

    name: str
    path: Path
    about: str

    @property
    def is_study(self) -> bool:
        """Whether it is a study rather than a single recipe."""
        return self.name.startswith(f"{STUDIES}/")


def folder() -> Path:
    """Return the folder inside the package that holds the recipes."""
    return Path(str(files("olivine") / "recipes"))


def shipped() -> list[ShippedRecipe]:
    """Return every recipe and study, recipes first, each group sorted by name."""
    found = [_described(path) for path in sorted(folder().rglob("*.yaml"))]
    return sorted(found, key=lambda recipe: (recipe.is_study, recipe.name))


def resolve(given: Path, *, study: bool = False) -> Path:
    """Return the file that a command's argument means: the path itself, or the shipped recipe of that name.

    A file or folder of that path wins. `study` looks among the studies first, so that `world` is `studies/world`.

    Raises:
        RequestError: it is neither a path that exists nor a shipped name; the message has the nearest one.
    """
    if given.exists():
        return given
    name = given.as_posix().removesuffix(".yaml").removeprefix("recipes/")
    by_name = {recipe.name: recipe.path for recipe in shipped()}
    for candidate in (f"{STUDIES}/{name}", name) if study else (name,):
        if candidate in by_name:
            return by_name[candidate]
    known = [n.removeprefix(f"{STUDIES}/") for n in by_name if n.startswith(f"{STUDIES}/") is study]
    kind = "study" if study else "recipe"
    raise RequestError(f"{given}: file not found, and no shipped {kind}: {unknown_name(name, known)}")


def copy(name: str, target: Path) -> list[Path]:
    """Copy a recipe, with the recipes that it is based on, into a folder; return the copies, the recipe's own first.

    The tree below the package's recipe folder is kept, so that relative `base:` paths still work.

    Raises:
        RequestError: no such recipe, or a file of that name already exists (nothing is then copied).
    """
    chain = list(_with_bases(resolve(Path(name))))
    targets = [target / path.relative_to(folder().resolve()) for path in chain]
    taken = [path for path in targets if path.exists()]
    if taken:
        raise RequestError(f"{taken[0]} already exists; give another folder, or remove it first.")
    for source, copied in zip(chain, targets, strict=True):
        copied.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, copied)
    return targets


def _with_bases(path: Path) -> Iterator[Path]:
    path = path.resolve()
    if not path.is_relative_to(folder().resolve()):
        raise RequestError(f"{path}: not a shipped recipe; olivine recipes lists those.")
    yield path
    base = read_yaml(path, "recipe").get("base")
    if base is not None:
        yield from _with_bases(path.parent / base)


def _described(path: Path) -> ShippedRecipe:
    text = path.read_text(encoding="utf-8")
    first = text.partition("\n")[0]
    about = first.removeprefix("#").strip() if first.startswith("#") else ""
    return ShippedRecipe(path.relative_to(folder()).with_suffix("").as_posix(), path, about)
