"""Registers Olivine's classes with transformers' Auto classes on `import olivine`, without importing transformers.

Where transformers is imported already, at once; else as soon as it is, whichever import stands first in a script. What
is registered is in `model.registered`.
"""

import importlib
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType

_LIBRARY, _CLASSES = "transformers", "olivine.model.registered"


class _AfterImport(MetaPathFinder):
    """Stands first among the finders until transformers is imported, and finds it with the others."""

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
            spec.loader = _Registering(spec.loader)
        return spec


class _Registering(Loader):
    """Loads as the loader does that it holds, then registers."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        assert module.__spec__ is not None, "modules that are being imported have one"
        withdraw()  # not before: others may only ask whether the library is there
        module.__spec__.loader = self._loader  # nothing of this stays on the module
        self._loader.exec_module(module)
        importlib.import_module(_CLASSES)


def register() -> None:
    """Register now, or as soon as transformers is imported."""
    if _LIBRARY in sys.modules:
        importlib.import_module(_CLASSES)
    elif not any(isinstance(finder, _AfterImport) for finder in sys.meta_path):
        sys.meta_path.insert(0, _AfterImport())


def withdraw() -> None:
    """Wait for transformers no longer: Olivine's own code imports what it needs of its classes itself."""
    sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, _AfterImport)]
