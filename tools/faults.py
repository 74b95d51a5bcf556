"""Processes killed at random moments, full disks, folders that cannot be written: nothing reported saved is lost.

    python tools/faults.py [--times 100] [--seed 0] [--output FILE] [JOB ...]

A job works in a separate process and reports what it has saved. It is killed (SIGKILL) at a random moment of its
usual time, and another time meets a limit on file sizes, so that no disk has to be filled. What it left is then
examined: it has to be whole, and no older than its last report. The next process resumes from there.
The Hub is a local one on loopback.
"""

import argparse
import json
import multiprocessing
import os
import random
import resource
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from runner import client_environment, hub, tell
from tqdm import tqdm

NAME = "inti_vit_t8_32_motiondigits"
LIMIT = 300.0  # seconds, then it hangs
NOBODY = 65534
Say = Callable[[int], None]


def network(version: int, **model_args: Any) -> Any:
    """Make a model that shows its version: in the bias of its first class, and in its class names."""
    from inti_models.models.registry import create_model

    torch.manual_seed(0)
    model: Any = create_model(NAME, **model_args)
    with torch.no_grad():
        model.head.bias[0] = version
    return model


def version_of(folder: Path) -> int:
    """Return the version of a saved model, which weights and config have to agree on."""
    from inti_models import load

    model: Any = load(folder)
    version = int(model.head.bias[0].item())
    names = model.pretrained_cfg["label_names"]
    assert names[0] == str(version), f"weights of version {version}, class names of version {names[0]}"
    expected = network(version).state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in model.state_dict().items()), "other weights"
    return version


def names(version: int) -> list[str]:
    return [str(version), *(f"class {i}" for i in range(1, 120))]


# Jobs: what works, in a process of its own; and what examines the folder that it left.


def train(folder: Path, say: Say) -> None:
    from inti_models.training import trainer
    from inti_models.training.recipe import Data, Optimization, Recipe
    from inti_models.training.run import train as run

    save = trainer.Trainer._save

    def saving(self: Any) -> None:
        save(self)
        say(self.progress.updates)

    trainer.Trainer._save = saving  # type: ignore[method-assign]
    small = {"depth": 2, "embed_dim": 32, "num_heads": 1, "compress_at": [1], "num_frames": 2}
    data = Data(
        train="motiondigits",
        validation="motiondigits",
        train_args={"length": 64},
        validation_args={"length": 24},
        num_workers=0,
    )
    optimization = Optimization(epochs=2, batch_size=16, lr=1e-3, warmup_epochs=0.25, ema=0.8)
    run(Recipe(NAME, pretrained=False, model_args=small, data=data, optimization=optimization, save_every=1), folder)


def trained(folder: Path) -> int:
    from inti_models import load

    for model in ("last", "best"):
        if (folder / model / "config.json").exists():
            load(folder / model)
    for file in [*folder.glob("*.json"), *folder.glob("*/*.json")]:
        json.loads(file.read_text())
    if not (folder / "state.pt").exists():
        return 0
    state = torch.load(folder / "state.pt", weights_only=True)
    rows = state["progress"]["history"]
    if rows:
        lines = (folder / "metrics.csv").read_text().splitlines()
        assert len(lines) in (len(rows) + 1, len(rows) + 2), "metrics.csv does not have the rows of the state"
    return state["progress"]["updates"]


def trained_weights(folder: Path) -> Any:
    """Return what a finished run has to have, whatever happened to it."""
    from safetensors.torch import load_file

    return {name: load_file(folder / name / "model.safetensors") for name in ("last", "best")}


def save(folder: Path, say: Say) -> None:
    from inti_models import save_pretrained

    first = saved(folder) + 1
    for version in range(first, first + 20):
        save_pretrained(network(version), folder / "model", label_names=names(version))
        say(version)


def saved(folder: Path) -> int:
    return version_of(folder / "model") if (folder / "model" / "config.json").exists() else 0


def export(folder: Path, say: Say) -> None:
    from inti_models.inference.export import export_model as run

    version = exported(folder) + 1
    for file, kind in (("model.pt2", "torch-export"), ("model.onnx", "onnx")):
        run(network(version), folder / file, kind)
    say(version)


def exported(folder: Path) -> int:
    """Return the older version of the two files; each has to run."""
    from inti_models.inference.export import _RUNNERS

    clip, versions = torch.zeros(1, 8, 3, 32, 32), []
    for file, kind in (("model.pt2", "torch-export"), ("model.onnx", "onnx")):
        if not (folder / file).exists():
            versions.append(0)
            continue
        with torch.no_grad():
            logits, expected = _RUNNERS[kind](folder / file)(clip), network(0).eval()(clip)
        versions.append(round((logits - expected)[0, 0].item()))
        expected[0, 0] += versions[-1]
        torch.testing.assert_close(logits, expected, rtol=1e-3, atol=1e-3)
    return min(versions)


def push(folder: Path, say: Say) -> None:
    from inti_models import push_to_hub

    first = int((folder / "version").read_text()) + 1
    for version in range(first, first + 5):
        push_to_hub(network(version), "org/pushed", label_names=names(version))
        say(version)


def pushed(folder: Path) -> int:
    """Return the version on the Hub, which holds whole commits."""
    repo, version = HUB.repos.get("org/pushed"), 0
    if repo is not None and "model.safetensors" in HUB.files("org/pushed"):
        with tempfile.TemporaryDirectory() as copy:
            for name, data in HUB.files("org/pushed").items():
                Path(copy, name).write_bytes(data)
            version = version_of(Path(copy))
    (folder / "version").write_text(str(version))
    return version


def download(folder: Path, say: Say) -> None:
    from inti_models import load

    model: Any = load("hf-hub:org/large")
    assert model.head.bias[0].item() == 1
    say(1)


def downloaded(folder: Path) -> int:
    """Check that files in the cache's snapshots have the bytes of the Hub's."""
    files, found = HUB.files("org/large"), 0
    for path in CACHE.glob("models--*/snapshots/*/*"):
        assert path.read_bytes() == files[path.name], f"{path.name} of the cache is not the Hub's"
        found += 1
    return int(found == 2)


@dataclass(frozen=True)
class Job:
    """A job: what works, what examines (and returns the version found), and what a finished run has to be equal in."""

    work: Callable[[Path, Say], None]
    examine: Callable[[Path], int]
    result: Callable[[Path], Any] | None = None
    clear: Callable[[], None] | None = None


def empty_cache() -> None:
    shutil.rmtree(CACHE, ignore_errors=True)


JOBS = {
    "train": Job(train, trained, trained_weights),
    "save": Job(save, saved),
    "export": Job(export, exported),
    "push": Job(push, pushed),
    "download": Job(download, downloaded, clear=empty_cache),
}
HUB: Any = None
CACHE = Path()


# A process with a fault


def _process(name: str, folder: Path, fault: tuple[str, int], pipe: Connection) -> None:
    from inti_models.data.motion_digits import MotionDigits

    torch.set_num_threads(1)
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    kind, size = fault
    if kind == "full":
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    if kind == "read-only" and os.geteuid() == 0:
        MotionDigits("train", length=1)[0]  # reads its digits from packages, which may be another's to read
        os.setgid(NOBODY)
        os.setuid(NOBODY)
    pipe.send(("start", 0, ""))
    try:
        JOBS[name].work(folder, lambda version: pipe.send(("saved", version, "")))
    except Exception as error:  # noqa: BLE001  # to be judged by the one who waits
        pipe.send(("error", 0, f"{type(error).__name__}: {error}"))
    else:
        pipe.send(("done", 0, ""))


@dataclass
class Attempt:
    """A process's report: the last version saved, its error, and when it started, first reported, and ended."""

    saved: int = 0
    error: str | None = None
    done: bool = False
    hung: bool = False
    killed: bool = False
    seconds: float = 0.0


def attempt(name: str, folder: Path, fault: tuple[str, int] = ("none", 0), after: float | None = None) -> Attempt:
    """Run a job; kill it ``after`` seconds if that is not None."""
    pipe, other = CONTEXT.Pipe()
    process = CONTEXT.Process(target=_process, args=(name, folder, fault, other))
    process.start()
    other.close()
    outcome, started = Attempt(), None
    end = time.monotonic() + LIMIT
    while True:
        if not pipe.poll(max(0.0, end - time.monotonic())):
            outcome.killed, outcome.hung = True, after is None
            process.kill()
            end = time.monotonic() + LIMIT  # what it said before comes first
        try:
            kind, version, text = pipe.recv()
        except EOFError:
            break
        if kind == "start":
            started = time.monotonic()
            end = started + (LIMIT if after is None else after)
        elif kind == "saved":
            outcome.saved = version
        elif kind == "error":
            outcome.error = text
        else:
            outcome.done = True
    process.join()
    outcome.killed = outcome.killed and not (outcome.done or outcome.error)
    outcome.seconds = time.monotonic() - (started or time.monotonic())
    return outcome


SENTENCES = ("OSError", "ValueError", "RuntimeError", "PermissionError", "ConnectionError", "FileNotFoundError")


def faults(name: str, times: int, rng: random.Random, folder: Path) -> Iterator[tuple[str, str]]:
    """Yield kinds of outcome, with what is wrong ("" for nothing)."""
    job = JOBS[name]
    number = 0

    def fresh() -> Path:
        nonlocal number
        number += 1
        if job.clear is not None:
            job.clear()
        path = folder / str(number)
        path.mkdir()
        job.examine(path)
        return path

    # Undisturbed: how long it takes, and what comes of it.
    here = fresh()
    usual = attempt(name, here)
    assert usual.done, f"{name} fails undisturbed: {usual}"
    expected = None if job.result is None else job.result(here)
    largest = max(p.stat().st_size for root in (here, CACHE) for p in root.rglob("*") if p.is_file())
    here, before = fresh(), 0

    def examined(outcome: Attempt) -> str:
        """Return what is wrong with what was left."""
        nonlocal here, before
        if outcome.hung:
            return "hang"
        try:
            version = job.examine(here)
        except Exception as error:  # noqa: BLE001  # whatever is raised on what was left is the fault looked for
            return f"damaged: {type(error).__name__}: {error}"
        least = max(outcome.saved, before)
        if version < least:
            return f"lost: version {version} after {least} was reported saved"
        before = version
        if outcome.done:
            if expected is not None and not same(job.result(here), expected):  # type: ignore[misc]
                return "another result than undisturbed"
            here = fresh()
            before = job.examine(here)  # what is on the Hub stays
        return ""

    kills = 0
    while kills < times:
        outcome = attempt(name, here, after=rng.uniform(0, 1.1 * usual.seconds))
        kills += outcome.killed
        yield ("killed" if outcome.killed else "finished before"), examined(outcome) or unexpected(outcome)
    for _ in range(max(1, times // 4)):
        size = int(largest * 10 ** rng.uniform(-3, 0.1))
        outcome = attempt(name, here, ("full", size))
        yield ("finished before" if outcome.done else "disk full"), examined(outcome) or not_a_sentence(outcome)
    outcome = attempt(name, here)  # resumes when there is space again
    yield "finished after all", examined(outcome) or ("" if outcome.done else f"does not resume: {outcome.error}")


def unexpected(outcome: Attempt) -> str:
    return f"error: {outcome.error}" if outcome.error else ""


def not_a_sentence(outcome: Attempt) -> str:
    if outcome.done:
        return ""
    if not outcome.error:
        return "died of a full disk"
    kind, _, text = outcome.error.partition(": ")
    return "" if kind in SENTENCES and text and "\n" not in text else f"not a sentence: {outcome.error[:300]}"


def same(a: Any, b: Any) -> bool:
    return all(torch.equal(a[name][key], b[name][key]) for name in b for key in b[name])


def read_only(name: str, folder: Path) -> Iterator[tuple[str, str]]:
    """Run in a read-only folder: expect a sentence, and nothing written."""
    folder.mkdir()
    JOBS[name].examine(folder)
    for path in (folder, CACHE.parent):
        path.mkdir(parents=True, exist_ok=True)
        path.chmod(0o555)
    empty_cache()
    outcome = attempt(name, folder / "within" if name == "train" else folder, ("read-only", 0))
    CACHE.parent.chmod(0o755)
    yield "read-only", not_a_sentence(outcome) if not outcome.done else "it was written all the same"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("jobs", nargs="*", metavar="JOB", help=f"of {', '.join(JOBS)} (default: all)")
    parser.add_argument("--times", type=int, default=100, help="kills of each job")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    if unknown := set(args.jobs) - set(JOBS):
        parser.error(f"there is no job {', '.join(sorted(unknown))}; choose from {', '.join(JOBS)}")
    global HUB, CACHE
    results: dict[str, Any] = {"failures": []}
    with tempfile.TemporaryDirectory() as temporary, hub() as HUB:
        root = Path(temporary)
        root.chmod(0o755)
        CACHE = root / "home" / "hub"
        os.environ |= client_environment(HUB, CACHE.parent)
        from inti_models import save_pretrained

        save_pretrained(network(1, embed_dim=384, depth=12, num_heads=6), root / "large", label_names=names(1))
        HUB.add_repo("org/large", {p.name: p.read_bytes() for p in (root / "large").iterdir()})
        for name in args.jobs or JOBS:
            (root / name).mkdir()
            counts: Counter[str] = Counter()
            start = time.monotonic()
            happened = faults(name, args.times, random.Random(f"{args.seed} {name}"), root / name)
            for kind, wrong in tqdm(happened, desc=name, unit="process"):
                counts[kind] += 1
                if wrong:
                    results["failures"].append({"job": name, "fault": kind, "wrong": wrong})
            for kind, wrong in read_only(name, root / f"{name}-read-only"):
                counts[kind] += 1
                if wrong:
                    results["failures"].append({"job": name, "fault": kind, "wrong": wrong})
            results[name] = {**counts, "seconds": round(time.monotonic() - start, 1)}
    return tell(results, args.output)


# Processes are forked from one that has imported everything, before there are threads.
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    ["__main__", "inti_models.training.run", "inti_models.inference.export", "onnxscript", "onnxruntime"]
)

if __name__ == "__main__":
    sys.exit(main())
