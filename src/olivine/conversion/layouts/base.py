"""What a layout of published models must say of itself."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from olivine.conversion.published import ImportOptions, Published
from olivine.conversion.raw_tensors import RawTensor, has_weights, model_tensors
from olivine.errors import RequestError
from olivine.files import read_json


@dataclass(frozen=True)
class SourceFolder:
    """A folder that is to be recognised; files are opened when they are asked for."""

    path: Path
    key: str = "FOLDER"

    @cached_property
    def values(self) -> dict[str, Any]:
        """The content of config.json; empty without one."""
        return self.json("config.json")

    @cached_property
    def tensors(self) -> dict[str, RawTensor]:
        """Every weight of the whole model that the folder holds; none if it holds no whole model."""
        return model_tensors(self.path, self.key) if has_weights(self.path) else {}

    def json(self, name: str) -> dict[str, Any]:
        """Return the object in a JSON file; empty without such a file.

        Raises:
            RequestError: it holds something else.
        """
        path = self.path / name
        if not path.is_file():
            return {}
        values = read_json(path)
        if not isinstance(values, dict):
            raise RequestError(f"{self.key}: {path}: expected an object, found a {type(values).__name__}.")
        return values

    def has(self, *names: str) -> bool:
        """Whether any of these files is there."""
        return any((self.path / name).is_file() for name in names)

    def any_tensor(self, *beginnings: str) -> bool:
        """Whether a weight's name begins so."""
        return any(name.startswith(beginnings) for name in self.tensors)


class Layout:
    """A layout; `name` is what people call it."""

    name: ClassVar[str]

    def matches(self, folder: SourceFolder) -> bool:
        """Whether a folder's content has this layout; its name does not matter."""
        raise NotImplementedError

    def read(self, folder: SourceFolder, options: ImportOptions) -> Published:
        """Return what the folder holds.

        Raises:
            RequestError: files are missing or do not fit together; something must be said by an option.
        """
        raise NotImplementedError
