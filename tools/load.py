"""Long work in one process: many files, a long stream. Memory and open files must not grow.

    python tools/load.py [--files 10000] [--frames 100000] [--output FILE]

Files are links to 20 short clips. Memory is the resident set, sampled after each tenth; it may grow by 5% or 32 MiB
from the second tenth to the last. Also, eight processes load the same checkpoint at once, from the package and through
the same empty cache from a Hub on loopback. `make load` adds twenty users of the demo page.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from runner import client_environment, hub, tell
from tqdm import tqdm

from inti_models import StreamingClassifier, load, save_pretrained
from inti_models.data import write_video
from inti_models.data.motion_digits import MotionDigits
from inti_models.inference.predict import VideoClassifier

NAME = "inti_vit_t8_32_motiondigits"


def resident_mib() -> float:
    """Return the memory of this process (Linux)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def watched(work: Iterable[Any], total: int) -> dict[str, Any]:
    """Consume work; return memory after each tenth, open files before and after, and how long each half took."""
    memory, files, start, half = [], len(os.listdir("/proc/self/fd")), time.perf_counter(), 0.0
    step, count = max(1, total // 10), 0
    for count, _ in enumerate(tqdm(work, total=total), start=1):
        if count % step == 0:
            memory.append(round(resident_mib(), 1))
        if count == total // 2:
            half = time.perf_counter() - start
    seconds = time.perf_counter() - start
    early = memory[min(1, len(memory) - 1)]
    return {
        "done": count,
        "seconds": round(seconds, 1),
        "per_second": round(count / seconds, 1),
        "second_half_over_first": round((seconds - half) / half, 3) if half else None,
        "memory_mib": memory,
        "open_files": [files, len(os.listdir("/proc/self/fd"))],
        "flat": count == total and memory[-1] <= early + max(0.05 * early, 32),
    }


def files(folder: Path, count: int) -> Iterator[Path]:
    """Yield links to a few clips."""
    digits = MotionDigits("validation")
    for i in range(20):
        write_video(folder / f"clip-{i}.mp4", digits[i][0], fps=8)
    for i in range(count):
        link = folder / f"{i}.mp4"
        os.link(folder / f"clip-{i % 20}.mp4", link)
        yield link
        if i >= 50:  # long since read
            link.with_name(f"{i - 50}.mp4").unlink()


def label(count: int) -> dict[str, Any]:
    """Label many files in one call."""
    with tempfile.TemporaryDirectory() as folder:
        labelled = VideoClassifier(load(NAME)).label_files(files(Path(folder), count), topk=1)
        return watched((_checked(labels) for _, labels in labelled), count)


def _checked(labels: Any) -> Any:
    if isinstance(labels, Exception):
        raise labels
    return labels


def stream(count: int) -> dict[str, Any]:
    """Run a long stream, frame by frame."""
    stream, frame = StreamingClassifier(load(NAME)), torch.randn(1, 3, 32, 32)
    return watched((stream.push(frame) for _ in range(count)), count)


def loading(processes: int, name: str = NAME, environment: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """Load the same checkpoint in several processes at once, and compare their outputs for a clip."""
    code = f"import torch, inti_models as i; print(i.load('{name}').eval()(torch.ones(1, 8, 3, 32, 32)).sum().item())"
    started = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment)
        for _ in range(processes)
    ]
    said = [process.communicate()[0].strip() for process in started]
    return {"processes": processes, "answers": sorted(set(said)), "flat": len(set(said)) == 1 and bool(said[0])}


def downloading(processes: int) -> dict[str, Any]:
    """Load the same model from a Hub in several processes at once, through the same empty cache."""
    with tempfile.TemporaryDirectory() as folder, hub() as server:
        save_pretrained(load(NAME), Path(folder, "model"))
        server.add_repo("org/model", {path.name: path for path in Path(folder, "model").iterdir()})
        home = Path(folder, "home")
        result = loading(processes, "hf-hub:org/model", {**os.environ, **client_environment(server, home)})
        files = [path for path in home.rglob("*") if path.is_file()]
        left = [path.name for path in files if path.suffix == ".incomplete"]
        whole = sum(path.parent.parent.name == "snapshots" for path in home.rglob("*"))
        return {**result, "files": whole, "incomplete": left, "flat": result["flat"] and whole == 2 and not left}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--frames", type=int, default=100_000)
    parser.add_argument("--processes", type=int, default=8)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)  # those of a small model only wait for each other, above all on a busy machine
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "files": lambda: label(args.files),
        "frames": lambda: stream(args.frames),
        "loading": lambda: loading(args.processes),
        "downloading": lambda: downloading(args.processes),
    }
    result: dict[str, Any] = {name: part() for name, part in parts.items()}
    result["failures"] = [name for name, part in result.items() if not part["flat"]]
    return tell(result, args.output)


if __name__ == "__main__":
    sys.exit(main())
