"""Fills the generated parts of pages: ``{{ table NAME }}`` of benchmarks/compare.py, and ``{{ checkpoints }}``."""

import re
import sys
from pathlib import Path
from typing import Any

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


def checkpoints() -> str:
    """Every set of weights: where it comes from, its licence, its size, what was measured."""
    from inti_models.weights.hub import published

    lines = ["| weights | source | licence | accuracy |", "|---|---|---|---|"]
    lines += [f"| `{w.name}` | {w.source} | {w.license} | {w.accuracy} |" for w in published()]
    return "\n".join(lines)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """MkDocs' hook."""
    if str(BENCHMARKS) not in sys.path:  # MkDocs takes back what a hook adds when it is loaded
        sys.path.insert(0, str(BENCHMARKS))
    import compare

    markdown = re.sub(r"\{\{ table (\w+) \}\}", lambda found: compare.TABLES[found[1]](), markdown)
    return markdown.replace("{{ checkpoints }}", checkpoints()) if "{{ checkpoints }}" in markdown else markdown
