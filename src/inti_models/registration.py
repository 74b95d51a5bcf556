"""Registration of the zoo's models as soon as timm is imported, without this package importing it."""

import importlib
import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from typing import Any

PACKAGE = __name__.rpartition(".")[0]


class Registration(MetaPathFinder):
    """An import hook that imports the zoo, which registers its models, after timm or our module that imports timm.

    Importing it in the middle of such a module would be a cycle.
    """

    def __init__(self) -> None:
        self.depth = 0  # imports of ours and timm's in progress

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> ModuleSpec | None:
        if fullname != "timm" and not fullname.startswith(f"{PACKAGE}."):
            return None
        others = [finder for finder in sys.meta_path if finder is not self]
        spec = next(filter(None, (finder.find_spec(fullname, path, target) for finder in others)), None)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def execute_and_register(module: Any) -> None:
            self.depth += 1
            try:
                execute(module)
            finally:
                self.depth -= 1
            if self.depth == 0 and "timm" in sys.modules:
                importlib.import_module(f"{PACKAGE}.zoo")

        spec.loader.exec_module = execute_and_register  # type: ignore[method-assign]
        return spec


def register() -> None:
    """Import the zoo now if timm is imported, or once it is."""
    if "timm" in sys.modules:
        importlib.import_module(f"{PACKAGE}.zoo")
    elif not any(isinstance(finder, Registration) for finder in sys.meta_path):
        sys.meta_path.insert(0, Registration())
