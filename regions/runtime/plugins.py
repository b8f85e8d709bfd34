"""Plug-ins by file: the file's name is its `kind` in the config, its `Config` validates the section,
its `build()` makes the thing.
"""

import importlib
import pkgutil
from types import ModuleType


class UnknownKind(LookupError):
    """No file of that name in the plug-in folder; `known` lists those there are."""

    def __init__(self, package: str, kind: str, known: list[str]) -> None:
        super().__init__(f"{package} has no kind {kind!r}; known kinds: {', '.join(known)}")
        self.kind, self.known = kind, known


def kinds(package: ModuleType) -> list[str]:
    """The plug-ins of a package, in alphabetical order; `base` is their contract, not one of them."""
    return sorted(m.name for m in pkgutil.iter_modules(package.__path__) if m.name != "base")


def find(package: ModuleType, kind: str) -> ModuleType:
    """The module of that kind, imported only now, so that unused kinds cost no start-up time.

    Raises: UnknownKind: the package has no such file.
    """
    known = kinds(package)
    if kind not in known:
        raise UnknownKind(package.__name__, kind, known)
    return importlib.import_module(f"{package.__name__}.{kind}")
