"""How every benchmark tells its result."""

import json
from pathlib import Path
from typing import Any


def report(result: dict[str, Any], output: Path | None) -> None:
    """Print a result as JSON, and write it to a file if one is named."""
    text = json.dumps(result, indent=2)
    print(text)
    if output:
        output.write_text(text + "\n")
