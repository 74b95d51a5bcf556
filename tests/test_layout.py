"""The layout: arrows between folders point one way, no module imports another's private names, none has a cycle."""

import ast
from pathlib import Path

import pytest

import inti_models

SOURCE = Path(inti_models.__file__).parent
# A folder imports only from itself and from those of the same or a lower number; data and models know nothing of each
# other, and below all of them are a few modules for everybody.
LEVELS = {
    "assets": -1,
    "extras": -1,
    "files": -1,
    "registration": -1,
    "text": -1,
    "models": 0,
    "data": 0,
    "weights": 1,
    "zoo": 2,
    "evaluation": 3,
    "inference": 3,
    "training": 3,
    "visualize": 3,
    "cli": 4,
    "__main__": 5,
}


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(SOURCE.parent).with_suffix("").parts).removesuffix(".__init__")


FILES = {module_name(path): path for path in sorted(SOURCE.rglob("*.py"))}


def imports(name: str, at_start_only: bool) -> list[tuple[str, str]]:
    """Module and name of everything that a module imports from this package; a module's own name is "" then."""
    path = FILES[name]
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = [node for node in (tree.body if at_start_only else ast.walk(tree)) if isinstance(node, ast.ImportFrom)]
    found = []
    for node in nodes:
        base = package[: len(package) + 1 - node.level] if node.level else []
        source = ".".join([*base, *([node.module] if node.module else [])])
        for alias in node.names:
            if f"{source}.{alias.name}" in FILES:
                found.append((f"{source}.{alias.name}", ""))
            elif source in FILES:
                found.append((source, alias.name))
    return found


def folder(name: str) -> str:
    """The part of the package that a module belongs to; "" for the package itself."""
    return name.split(".")[1] if "." in name else ""


@pytest.mark.parametrize("name", FILES)
def test_no_private_name_is_imported_from_another_module(name):
    private = [(source, what) for source, what in imports(name, at_start_only=False) if what.startswith("_")]
    assert not private


@pytest.mark.parametrize("name", [name for name in FILES if folder(name)])
def test_arrows_between_folders_point_one_way(name):
    assert folder(name) in LEVELS, "say in LEVELS where this folder stands"
    for source, _ in imports(name, at_start_only=False):
        if folder(source) != folder(name):
            assert folder(source) and LEVELS[folder(source)] <= LEVELS[folder(name)], source
            assert {folder(source), folder(name)} != {"models", "data"}


def test_imports_have_no_cycle():
    # A package is its `__init__`, which importing any of its modules runs.
    edges = {name: {source for source, _ in imports(name, at_start_only=True)} for name in FILES}
    done: set[str] = set()

    def visit(name: str, way: tuple[str, ...]) -> None:
        assert name not in way, " -> ".join((*way[way.index(name) :], name))
        if name not in done:
            for source in edges[name]:
                visit(source, (*way, name))
            done.add(name)

    for name in FILES:
        visit(name, ())


@pytest.mark.parametrize("name", FILES)
def test_a_module_above_600_lines_says_why(name):
    text = FILES[name].read_text(encoding="utf-8")
    assert text.count("\n") <= 600 or "600 lines" in (ast.get_docstring(ast.parse(text)) or "")
