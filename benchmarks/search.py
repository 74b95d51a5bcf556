"""Search measured: planted events, cost of an index, retrieval of real clips by example, time and memory.

    python benchmarks/search.py planted cost speed [--work-dir runs/search]
    python benchmarks/search.py retrieval --data jhmdb --rows runs/real_videos  # after benchmarks/real_videos.py

Each part rewrites its results in results/search.json, and the tables in results/search.md cover all parts there.

**planted**: ten-minute videos of still digits in scenes of 2 to 8 s, in which five events are hidden, each a motion of
MotionDigits that lasts 2 to 8 s; no class occurs twice. The videos have 4 frames per second of 32 pixels, so that
rendering and storing them is cheap and the model sees every frame. The query is the class; it is right if the first
moment overlaps enough with the event. Fixed windows are side by side, and are not merged.

**cost**: GFLOPs (multiply-adds, by fvcore) that a new window at stride 1 costs an index, and of the window alone.

**retrieval**: each clip of a held-out fold is a query for those of its class among the others of the fold, by the
cosine of embeddings of a model that was trained on the other folds.

**speed**: random embeddings of 512 values; a search for ten moments, and the memory by which the process grew.
"""

import argparse
import json
import random
import shutil
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize
from tqdm import tqdm

from inti_models import load
from inti_models.data import create_clip_transform, write_video
from inti_models.data.motion_digits import CLASS_NAMES, MOTIONS, MotionDigits
from inti_models.evaluation.benchmark import machine
from inti_models.files import write_text
from inti_models.inference.embedding import VideoWindows, Windows
from inti_models.inference.index import Index
from inti_models.inference.indexing import PART_ROWS, build_index
from inti_models.inference.search import by_class, by_vector, score_windows, search
from inti_models.models.flops import count_flops
from inti_models.models.registry import create_model
from inti_models.models.streaming import StreamingWindows

RESULTS = Path(__file__).parent / "results"
SHIPPED, COSTED = "inti_vit_t8_32_motiondigits", "inti_vit_b16_k400"
VIDEOS, EVENTS, FPS, SECONDS, SIZE = 20, 5, 4, 600, 32
SHORTEST, LONGEST = 8, 32  # frames of scenes and events
STRIDES, SCALES, OVERLAPS = (4, 1), (8, 16, 32), (0.5, 0.7)
SEED = 1  # the rule of moments was chosen on the videos of seed 0
DIM = 512


# Planted events


def render(folder: Path, seed: int = SEED, videos: int = VIDEOS, seconds: int = SECONDS) -> list[dict[str, Any]]:
    """Write the videos, and return each event: file, class, start and end."""
    rng, events = random.Random(seed), []
    classes = [c for c, name in enumerate(CLASS_NAMES) if name.split(", ")[1] != "still"]
    rng.shuffle(classes)
    still = MotionDigits("validation", SIZE, LONGEST, seed=seed, motions=("still",))
    scene = iter(range(len(still)))
    folder.mkdir(parents=True, exist_ok=True)
    for video in range(videos):
        clips: list[Tensor] = []
        at = 0
        slot = seconds * FPS // EVENTS
        for event in range(EVENTS):
            start = event * slot + rng.randint(LONGEST, slot - 2 * LONGEST)
            while at < start:
                clips.append(still[next(scene)][0][: min(rng.randint(SHORTEST, LONGEST), start - at)])
                at += len(clips[-1])
            label, length = classes.pop(), rng.randint(SHORTEST, LONGEST)
            clips.append(clip_of(label, length, seed * 1000 + video))
            name = f"{video:02d}.mp4"
            events.append({"file": name, "label": label, "start": at / FPS, "end": (at + length) / FPS})
            at += length
        while at < seconds * FPS:
            clips.append(still[next(scene)][0][: min(rng.randint(SHORTEST, LONGEST), seconds * FPS - at)])
            at += len(clips[-1])
        write_video(folder / f"{video:02d}.mp4", torch.cat(clips), FPS)
    return events


def clip_of(label: int, length: int, seed: int) -> Tensor:
    """Return a clip of a class, uint8 (T, 3, H, W)."""
    motion = MOTIONS[label % len(MOTIONS)]
    digits = MotionDigits("validation", SIZE, length, length=10, seed=seed, motions=(motion,))
    return next(clip for clip, found in (digits[i] for i in range(10)) if found == label)


def overlap(start: float, end: float, event: dict[str, Any]) -> float:
    """Return the intersection over union with an event."""
    shared = max(0.0, min(end, event["end"]) - max(start, event["start"]))
    return shared / (end - start + event["end"] - event["start"] - shared)


def planted(work_dir: Path) -> dict[str, Any]:
    """Measure recall at 1 of merged moments and of windows, for each event's class, in its video and in all."""
    folder = work_dir / "planted"
    if folder.exists():
        shutil.rmtree(folder)
    start = time.perf_counter()
    events = render(folder / "videos")
    print(f"rendered in {time.perf_counter() - start:.0f} s", flush=True)
    model = load(SHIPPED).eval()
    rows = []
    for stride in STRIDES:
        windows = Windows((float(FPS),), SCALES, stride)
        build_index([folder / "videos"], folder / f"index{stride}", SHIPPED, windows, precision="float32")
        index = Index.open(folder / f"index{stride}")
        rows += [{"stride": stride, **row} for row in recalls(index, model, events)]
    return {"events": len(events), "videos": VIDEOS, "seconds": SECONDS, "fps": FPS, "seed": SEED, "rows": rows}


def recalls(index: Index, model: Any, events: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield one row for each way to answer."""
    parts = [index.rows(part) for part in index.parts]
    files = np.concatenate([np.repeat([Path(f).name for f in rows.files], np.diff(rows.first)) for rows in parts])
    start, end, scale = (np.concatenate([getattr(rows, name) for rows in parts]) for name in ("start", "end", "scale"))
    found: dict[str, list[tuple[float, float]]] = {}

    def note(way: str, of_video: float, of_all: float) -> None:
        found.setdefault(way, []).append((of_video, of_all))

    def best(mask: np.ndarray, scores: np.ndarray, event: dict[str, Any]) -> float:
        at = int(np.where(mask, scores, -1).argmax())
        return overlap(start[at], end[at], event) if files[at] == event["file"] else 0.0

    side_by_side = np.isclose((start * FPS) % scale, 0)
    for event in tqdm(events, desc="queries"):
        score = by_class(model, event["label"])
        scores, own = score_windows(index, score), files == event["file"]
        moments = search(index, score, 100)
        of_video = next((m for m in moments if Path(m.file).name == event["file"]), None)
        note(
            "merged into moments",
            0.0 if of_video is None else overlap(of_video.start, of_video.end, event),
            overlap(moments[0].start, moments[0].end, event) if Path(moments[0].file).name == event["file"] else 0.0,
        )
        for frames in SCALES:
            fixed = side_by_side & (scale == frames)
            note(f"fixed windows of {frames} frames", best(fixed & own, scores, event), best(fixed, scores, event))
        every = np.ones(len(scores), bool)
        note("the best window of all scales", best(own, scores, event), best(every, scores, event))
    for way, overlaps in found.items():
        table = np.array(overlaps)
        recall = {
            f"{scope} {least}": round(100 * float((table[:, column] >= least).mean()), 1)
            for column, scope in enumerate(("video", "all"))
            for least in OVERLAPS
        }
        yield {"way": way, **recall}


# Cost


class Step(nn.Module):
    """The step of a running stream for one frame."""

    def __init__(self, model: Any, scales: tuple[int, ...]) -> None:
        super().__init__()
        self.model, self.stream = model, StreamingWindows(model, scales, 1)
        self.stream.pool(torch.zeros(1, max(scales), 3, *model.patch_embed.img_size))

    def forward(self, frame: Tensor) -> list[Tensor]:
        return [self.model.encode_frames(pooled) for pooled in self.stream.pool(frame)]


class Alone(nn.Module):
    """A window by itself."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, clip: Tensor) -> Tensor:
        return self.model.encode(clip)


def cost() -> dict[str, Any]:
    """Count the GFLOPs of a frame of an index at stride 1, and of the windows that end with it, one by one."""
    model: Any = create_model(COSTED, num_classes=0).eval()
    shape = (3, *model.patch_embed.img_size)
    rows = []
    for scales in ((8,), SCALES):
        with torch.no_grad():
            shared = count_flops(Step(model, scales), (1, *shape)).gflops
            alone = sum(count_flops(Alone(model), (1, scale, *shape)).gflops for scale in scales)
        rows.append({"scales": scales, "index": round(shared, 2), "alone": round(alone, 2), "times": alone / shared})
    return {"model": COSTED, "rows": rows}


# Real clips


def retrieval(data: Path, work_dir: Path, size: int = 48) -> dict[str, Any]:
    """Measure mean average precision of InTI and of the naive model over the held-out folds of a data set."""
    from real_videos import MAIN, Row, Setup, StoredFrames, build, read_folds

    from inti_models.data.datasets import VideoDataset
    from inti_models.weights.checkpoint_filter import load_checkpoint

    folds = read_folds(data)
    setup = Setup(work_dir, {data.name: data}, None, None, size=size)
    rows = []
    for name in ("InTI (2, 5)", "InTI (2, 5, 6)", "naive, every frame"):
        method, args = MAIN[name]
        precisions: list[float] = []
        done = []
        for fold in range(len(folds.test)):
            row = Row(data.name, name, fold, 0, method, args)
            weights = work_dir / row.id / "model.safetensors"
            if not weights.exists():
                continue
            model: Any = build(row, setup, len(folds.videos.class_names), with_weights=False)
            model.reset_classifier(len(folds.videos.class_names))
            load_checkpoint(model, weights)
            frames = StoredFrames(model.num_frames, folder=work_dir / "frames" / data.name)
            videos = folds.part(folds.test[fold])
            clips = VideoDataset(videos, create_clip_transform(**_config(model)), frames)
            with torch.no_grad():
                vectors = torch.cat([model.eval().encode(clips[i][0], normalize=True) for i in range(len(clips))])
            precisions += average_precisions(vectors, torch.tensor(videos.labels))
            done.append(fold)
        rows.append({"name": name, "folds": done, "queries": len(precisions), "map": 100 * statistics.mean(precisions)})
    return {"data": data.name, "of_folds": len(folds.test), "rows": rows}


def _config(model: Any) -> dict[str, Any]:
    from timm.data import resolve_input_data_config

    return resolve_input_data_config(model)


def average_precisions(vectors: Tensor, labels: Tensor) -> list[float]:
    """Return the average precision of each clip as a query among the others, for those with another of their class.

    Args:
        vectors: unit vectors, (N, D).
        labels: class of each, (N,).
    """
    precisions = []
    similarity = vectors @ vectors.T
    for query in range(len(vectors)):
        order = similarity[query].argsort(descending=True, stable=True)
        right = (labels[order[order != query]] == labels[query]).double()
        if right.any():
            precision = right.cumsum(0) / torch.arange(1, len(right) + 1)
            precisions.append(float((precision * right).sum() / right.sum()))
    return precisions


# Time and memory


def synthetic(folder: Path, windows: int) -> Index:
    """Make an index of random embeddings, of videos of ten minutes and one more short video."""
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    index, rng, rows, number = Index(folder, SHIPPED, "", DIM, "float32", Windows(scales=(8,))), _rng(), 0, 0
    while rows < windows:
        videos = []
        part = 0
        while part < PART_ROWS and rows < windows:
            count = min(600, windows - rows)
            start = np.arange(count, dtype=np.float64)
            vectors = normalize(torch.from_numpy(rng.standard_normal((count, DIM), np.float32)), dim=-1).numpy()
            video = VideoWindows(
                start, start + 2, np.full(count, 8, np.int32), np.full(count, 4, np.float32), vectors.astype(np.float16)
            )
            videos.append((f"{number:06d}.mp4", (0, 0), video))
            rows, part, number = rows + count, part + count, number + 1
        index = index.with_part(videos)
    index.save()
    return index


def _rng() -> np.random.Generator:
    return np.random.default_rng(0)


def memory_grown(function: Callable[[], Any]) -> float:
    """Return the MiB by which the memory of this process, mapped files included, grew at most. Linux only."""

    def resident(field: str) -> float:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024

    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    function()
    return resident("VmHWM") - before


def speed(work_dir: Path) -> dict[str, Any]:
    """Measure milliseconds of a search after loading, and the memory of the first one, which loads too."""
    rows = []
    for windows in (10_000, 100_000, 1_000_000):
        folder = work_dir / f"synthetic{windows}"
        synthetic(folder, windows)
        queries = [by_vector(torch.from_numpy(_rng().standard_normal(DIM, np.float32))) for _ in range(7)]
        index = Index.open(folder)
        start = time.perf_counter()
        grown = memory_grown(lambda index=index, query=queries[0]: search(index, query, 10))  # type: ignore[misc]
        first, times, of_cpu = time.perf_counter() - start, [], []
        for query in queries:
            start, cpu = time.perf_counter(), time.process_time()
            search(index, query, 10)
            times.append(1e3 * (time.perf_counter() - start))
            of_cpu.append(1e3 * (time.process_time() - cpu))
        size = sum(file.stat().st_size for file in folder.glob("*.npy")) / 2**20
        shutil.rmtree(folder)
        rows.append(
            {
                "windows": windows,
                "mib": round(size),
                "first_ms": round(1e3 * first),
                "ms": round(statistics.median(times), 1),
                "cpu_ms": round(statistics.median(of_cpu), 1),
                "grown_mib": round(grown),
            }
        )
        print(rows[-1], flush=True)
    return {"dim": DIM, "machine": machine("cpu"), "rows": rows}


# Tables


def to_markdown(results: dict[str, Any]) -> str:
    """Return the tables of the parts that are there."""
    lines = ["# Search", "", "Written by `python benchmarks/search.py`, which says what each part is.", ""]
    if "planted" in results:
        p = results["planted"]
        lines += [
            f"## Planted events: {p['events']} in {p['videos']} videos of {p['seconds'] // 60} minutes",
            "",
            f"Recall at 1 in percent, by temporal IoU: of the event's video, and of all videos together. Videos of "
            f"{p['fps']} frames a second, index of {', '.join(map(str, SCALES))} frames.",
            "",
            "| stride | answer | video, 0.5 | video, 0.7 | all, 0.5 | all, 0.7 |",
            "|---:|---|---:|---:|---:|---:|",
        ]
        keys = [f"{scope} {least}" for scope in ("video", "all") for least in OVERLAPS]
        lines += [f"| {r['stride']} | {r['way']} | {' | '.join(str(r[key]) for key in keys)} |" for r in p["rows"]]
        lines.append("")
    if "cost" in results:
        lines += [
            f"## GFLOPs of a new frame at stride 1 (`{results['cost']['model']}`, fvcore)",
            "",
            "| windows of | index | windows one by one | times fewer |",
            "|---|---:|---:|---:|",
        ]
        for r in results["cost"]["rows"]:
            scales = ", ".join(map(str, r["scales"]))
            lines.append(f"| {scales} frames | {r['index']} | {r['alone']} | {r['times']:.2f} |")
        lines.append("")
    if "retrieval" in results:
        r = results["retrieval"]
        lines += [
            f"## Retrieval by example: {r['data']}",
            "",
            f"Mean average precision in percent; models of benchmarks/real_videos.py, seed 0, {r['of_folds']} folds.",
            "",
            "| model | folds | queries | mAP |",
            "|---|---:|---:|---:|",
        ]
        lines += [f"| {m['name']} | {len(m['folds'])} | {m['queries']} | {m['map']:.1f} |" for m in r["rows"]]
        lines.append("")
    if "speed" in results:
        s = results["speed"]
        lines += [
            f"## Time and memory of a search for ten moments, {s['dim']} values a window",
            "",
            f"Medians after the first search, on {s['machine']['device']}, {s['machine']['threads']} threads.",
            "Other work ran on the machine. The first search reads the rows too. Memory is what the process grew by at",
            "most, mapped pages included.",
            "",
            "| windows | embeddings, MiB | first, ms | after it, ms | of these on the CPU, ms | memory, MiB |",
            "|---:|---:|---:|---:|---:|---:|",
        ]
        names = ("windows", "mib", "first_ms", "ms", "cpu_ms", "grown_mib")
        lines += ["| " + " | ".join(str(row[name]) for name in names) + " |" for row in s["rows"]]
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="+", choices=("planted", "cost", "retrieval", "speed", "report"))
    parser.add_argument("--work-dir", type=Path, default=Path("runs/search"))
    parser.add_argument("--data", type=Path, help="folder of the data set (retrieval)")
    parser.add_argument("--rows", type=Path, help="work folder of benchmarks/real_videos.py (retrieval)")
    args = parser.parse_args()
    if "retrieval" in args.parts and not (args.data and args.rows):
        parser.error("retrieval needs --data and --rows")
    file = RESULTS / "search.json"
    for part in args.parts:
        if part == "planted":
            result = planted(args.work_dir)
        elif part == "cost":
            result = cost()
        elif part == "retrieval":
            result = retrieval(args.data.absolute(), args.rows.absolute())
        elif part == "speed":
            result = speed(args.work_dir)
        results = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
        if part != "report":
            results[part] = result
            write_text(file, json.dumps(results, indent=1) + "\n")
        write_text(RESULTS / "search.md", to_markdown(results))
    print(to_markdown(results))


if __name__ == "__main__":
    main()
