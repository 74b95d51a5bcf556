"""MkDocs hooks: fill in generated tables, and add the files of the repository that pages link to.

``{{ table NAME }}`` becomes a table of benchmarks/compare.py, ``{{ checkpoints }}`` the table of all weights. A file
outside docs/ that a page links to becomes part of the site, under ``repository/``: Markdown as a page, other files
unchanged.
"""

import os
import posixpath
import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files, InclusionLevel

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
BENCHMARKS = ROOT / "benchmarks"
_LINK = re.compile(r"\[([^\[\]]*)\]\((?!\w+:)([^()#\s]+)(#[^()\s]*)?\)")  # [text](target#anchor), no address


def checkpoints() -> str:
    """Return a table of all weights: source, licence and measured accuracy."""
    from inti_models.weights.hub import published

    lines = ["| weights | source | licence | accuracy |", "|---|---|---|---|"]
    lines += [f"| `{w.name}` | {w.source} | {w.license} | {w.accuracy} |" for w in published()]
    return "\n".join(lines)


def on_files(files: Files, config: Any) -> Files:
    """Add the files of the repository that pages link to, and the files that those link to."""
    pages = [Path(str(page.abs_src_path)) for page in files.documentation_pages()]
    found: set[Path] = set()
    while pages:
        page = pages.pop()
        for _, target, _ in _LINK.findall(page.read_text(encoding="utf-8")):
            path = _file(page, target)
            if path is None or path in found or path.is_relative_to(DOCS):
                continue
            found.add(path)
            file = File.generated(config, _place(path), abs_src_path=str(path), inclusion=InclusionLevel.NOT_IN_NAV)
            files.append(file)
            pages += [path] if path.suffix == ".md" else []
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Fill in the generated tables, and point links to where the site has their files."""
    if str(BENCHMARKS) not in sys.path:  # MkDocs undoes what a hook adds at import
        sys.path.insert(0, str(BENCHMARKS))
    import compare

    source = Path(page.file.abs_src_path)

    def in_site(found: re.Match[str]) -> str:
        path = _file(source, found[2])
        if path is None:  # a folder without a page has no place in the site; MkDocs reports a dead link
            return found[1] if (source.parent / found[2]).is_dir() else found[0]
        here = posixpath.dirname(page.file.src_uri)
        return f"[{found[1]}]({posixpath.relpath(_place(path), here or '.')}{found[3] or ''})"

    markdown = _LINK.sub(in_site, markdown)
    markdown = re.sub(r"\{\{ table (\w+) \}\}", lambda found: compare.TABLES[found[1]](), markdown)
    return markdown.replace("{{ checkpoints }}", checkpoints()) if "{{ checkpoints }}" in markdown else markdown


def _file(page: Path, target: str) -> Path | None:
    """Return the file that a link points to (for a folder its README.md or __init__.py), or None if there is none."""
    path = Path(os.path.normpath(page.parent / target))
    candidates = (path, path / "README.md", path / "__init__.py")
    return next((file for file in candidates if file.is_file() and file.is_relative_to(ROOT)), None)


def _place(path: Path) -> str:
    """Return the path in the site of a file of the repository."""
    if path.is_relative_to(DOCS):
        return path.relative_to(DOCS).as_posix()
    return f"repository/{path.relative_to(ROOT).as_posix()}"
