"""Scripts of the repository as modules."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[2]


def load_module(path: Path | str) -> ModuleType:
    """Return the script at a path (below the repository, or absolute) as a module; the same one at every call.

    As for a script that is run, its folder is on the path while it is imported. The module's name is of the whole
    path: two scripts of one name stay apart.
    """
    path = ROOT / path
    name = "_".join(path.relative_to(ROOT).with_suffix("").parts if path.is_relative_to(ROOT) else path.parts)
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None and spec.loader is not None
        sys.modules[name] = module = importlib.util.module_from_spec(spec)  # dataclasses look their module up
        sys.path.insert(0, str(path.parent))
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
        finally:
            sys.path.remove(str(path.parent))
    return sys.modules[name]
