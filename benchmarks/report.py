"""How every benchmark reports its result."""

import argparse
import json
import platform
from pathlib import Path
from typing import Any

import timm
import torch


def machine(device: torch.device) -> dict[str, Any]:
    """Return the device, threads and versions that a figure was measured with."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        name = f"CPU ({platform.machine()}, {torch.backends.cpu.get_cpu_capability()})"
    return {
        "device": name,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "timm": timm.__version__,
    }


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add the option that prints the result as JSON instead of tables."""
    parser.add_argument("--json", action="store_true", help="print the result as JSON, not as tables")


def report(result: dict[str, Any], output: Path | None, table: str | None = None) -> None:
    """Print a result, as its table if there is one, otherwise as JSON, and write it to a file if one is named."""
    text = json.dumps(result, indent=2)
    print(table or text)
    if output:
        output.write_text(text + "\n")
