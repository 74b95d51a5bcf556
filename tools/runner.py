"""Run a function on many inputs in a process that may crash, hang or exhaust memory, and count the outcomes."""

import argparse
import json
import multiprocessing
import os
import re
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from tqdm import tqdm

sys.path.append(str(Path(__file__).parents[1] / "tests"))  # the Hub of the tests, their loader
from support.modules import load_module  # noqa: E402

SENTENCES = (OSError, ValueError, TypeError)  # what bad input may raise; the command prints their sentence


def hub() -> Any:
    """Return the Hub of the tests on loopback, with a user who may write to org/."""
    from support.hub_server import Hub

    server = Hub()
    server.add_user("hf_tester", "tester", orgs=["org"])
    return server


def client_environment(server: Any, home: Path) -> dict[str, str]:
    """Return the environment of processes that use this Hub, with their cache in ``home`` and one thread each."""
    return {
        "HF_ENDPOINT": server.endpoint,
        "HF_HOME": str(home),
        "HF_TOKEN": "hf_tester",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "NO_PROXY": "127.0.0.1",
        "OMP_NUM_THREADS": "1",
    }


def kind(error: Exception) -> str:
    """Return an error's message without what is particular to the input."""
    text = re.sub(r"\S*/\S+", "PATH", str(error))
    return f"{type(error).__name__}: {re.sub(r'[-+]?[0-9][0-9.e+x]*', '#', text)[:100]}"


def outcome_of(examine: Callable[[Path], str], path: Path) -> str:
    """Return the outcome of examining an input: what ``examine`` returns, "error: KIND", or "FAILURE: WHAT"."""
    try:
        return examine(path)
    except SENTENCES as error:
        text = str(error)
        return f"error: {kind(error)}" if text and "\n" not in text else f"FAILURE: not a sentence: {text!r}"
    except MemoryError:
        return "FAILURE: out of memory"
    except Exception as error:  # noqa: BLE001  # anything else would have been a traceback
        return f"FAILURE: {type(error).__name__}: {error}"


def _work(file: str, pipe: Connection) -> None:
    # What decoders write goes nowhere. PyAV's logging, which can deadlock with its threads, stays off.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    module = load_module(Path(file))
    examine = module.examine
    if hasattr(module, "prepare"):
        module.prepare()
    pipe.send("ready")
    while True:
        path = pipe.recv()
        pipe.send((outcome_of(examine, Path(path)), _peak_mib()))


def _peak_mib() -> float:
    """Return the peak memory of this process alone: `getrusage` would count the one that started it, too."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 2**10


class Worker:
    """A process that examines one input after another."""

    def __init__(self, file: Path) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, other = context.Pipe()
        self.process = context.Process(target=_work, args=(str(file), other), daemon=True)
        self.process.start()
        other.close()
        self.pipe.recv()

    def examine(self, path: Path, limit: float) -> tuple[str, float | None]:
        """Return the outcome, and the peak memory of the process so far in MiB; None if it is gone."""
        self.pipe.send(str(path))
        try:
            if self.pipe.poll(limit):
                return self.pipe.recv()
            self.stop()
            return f"FAILURE: hang: over {limit:g} s", None
        except (EOFError, ConnectionResetError):
            self.process.join()
            return f"FAILURE: crash: exit code {self.process.exitcode}", None

    def stop(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.join()


def run(file: Path, inputs: Iterable[Path], total: int, limit: float, memory: float, keep: Path | None) -> dict:
    """Examine inputs one by one; each is removed, or moved to ``keep`` if it caused a failure.

    Args:
        file: a module with a function ``examine(path) -> str``, and perhaps ``prepare()``, whose time does not count.
        inputs: files or folders.
        total: minimum number of inputs.
        limit: seconds for each.
        memory: peak MiB that a process may take; above it the input counts as a failure.
        keep: folder for inputs that failed.

    Returns:
        Counts of outcomes, highest memory, seconds.
    """
    outcomes: Counter[str] = Counter()
    failures: list[dict[str, str]] = []
    highest, start, worker = 0.0, time.monotonic(), Worker(file)
    for path in tqdm(inputs, total=total, unit="input"):
        outcome, peak = worker.examine(path, limit)
        if peak is not None and peak > memory:
            outcome = f"FAILURE: memory: {peak:.0f} MiB"
            worker.stop()
            peak = None
        if peak is None:
            worker = Worker(file)
        highest = max(highest, peak or 0.0)
        outcomes[re.sub(r"\d+ MiB", "# MiB", outcome)] += 1
        if outcome.startswith("FAILURE"):
            failures.append({"input": path.name, "outcome": outcome})
            if keep is not None:
                keep.mkdir(parents=True, exist_ok=True)
                shutil.move(path, keep / path.name)
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    worker.stop()
    return {
        "inputs": sum(outcomes.values()),
        "failures": failures,
        "outcomes": dict(outcomes.most_common()),
        "highest_memory_mib": round(highest),
        "seconds": round(time.monotonic() - start, 1),
    }


def tell(result: dict, output: Path | None) -> int:
    """Print a result, write it if a file is named, and return the exit status."""
    text = json.dumps(result, indent=2)
    print(text)
    if output is not None:
        output.write_text(text + "\n")
    return 1 if result["failures"] else 0


def fuzz(
    file: Path,
    description: str | None,
    mutants: Callable[[Path, int, int], Iterable[Path]],
    count: int,
    limit: float,
    memory: float,
) -> int:
    """Run the command of a fuzzing program: examine inputs, print the outcomes, and return the exit status.

    Args:
        file: the program, a module as `run` takes it.
        description: text of its help.
        mutants: folder, number and seed -> inputs made in the folder.
        count: number of inputs, unless the command line says otherwise.
        limit: seconds for each; memory: MiB.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mutants", type=int, default=count)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="folder for inputs that caused a failure")
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        inputs = mutants(Path(folder), args.mutants, args.seed)
        return tell(run(file, inputs, args.mutants, limit, memory, args.keep), args.output)
