"""How every benchmark tells its result, and on what machine."""

import json
import os
import platform
from pathlib import Path
from typing import Any

import timm
import torch
from torch.utils import collect_env


def machine(device: torch.device) -> dict[str, Any]:
    """What a measurement depends on beside the model: device, driver, threads and versions.

    Args:
        device: where it ran. ``driver`` is None on the CPU.
    """
    driver = None
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        driver = f"{collect_env.get_nvidia_driver_version(collect_env.run)} (CUDA {torch.version.cuda})"
    else:
        cpu = _cpu_name() or platform.machine()
        name = f"CPU ({cpu}, {torch.backends.cpu.get_cpu_capability()}, {os.cpu_count()} cores)"
    return {
        "device": name,
        "driver": driver,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "timm": timm.__version__,
    }


def _cpu_name() -> str:
    """The processor's name where Linux tells it, else an empty string."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


def write_whole(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    partial = path.with_name(f"{path.name}.partial")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial.write_text(text)
    os.replace(partial, path)


def report(result: dict[str, Any], output: Path | None) -> None:
    """Print a result as JSON, and write it to a file if one is named."""
    text = json.dumps(result, indent=2)
    print(text)
    if output:
        write_whole(output, text + "\n")
