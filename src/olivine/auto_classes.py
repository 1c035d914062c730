"""Registration of Olivine's classes with transformers' Auto classes on `import olivine`, without importing it.

They are registered at once if transformers is already imported, else as soon as it is, so that the order of imports
does not matter. What is registered is in `model.registered`.
"""

import importlib
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:  # importing it takes as long as all else here, and protocols need no base class
    from importlib.abc import Loader

_LIBRARY, _CLASSES = "transformers", "olivine.model.registered"


class _AfterImport:
    """A first import finder, until transformers is imported, that finds it through the others."""

    def __init__(self) -> None:
        self._asking_others = False

    def find_spec(
        self, fullname: str, _path: Sequence[str] | None = None, _target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != _LIBRARY or self._asking_others:
            return None
        self._asking_others = True
        try:
            spec = find_spec(fullname)
        finally:
            self._asking_others = False
        if spec is not None and spec.loader is not None:
            spec.loader = cast("Loader", _Registering(spec.loader))
        return spec


class _Registering:
    """A loader that wraps another and registers afterwards."""

    def __init__(self, loader: "Loader") -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        assert module.__spec__ is not None, "a module being imported has a spec"
        withdraw()  # not earlier: a caller may only check whether the library is installed
        module.__spec__.loader = self._loader  # the module keeps no trace of the wrapper
        self._loader.exec_module(module)
        importlib.import_module(_CLASSES)


def register() -> None:
    """Register now, or as soon as transformers is imported."""
    if _LIBRARY in sys.modules:
        importlib.import_module(_CLASSES)
    elif not any(isinstance(finder, _AfterImport) for finder in sys.meta_path):
        sys.meta_path.insert(0, _AfterImport())


def withdraw() -> None:
    """Stop waiting for transformers: Olivine's own code imports the classes it needs itself."""
    sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, _AfterImport)]
