"""How fast clips come from MP4 files, and how long a training step waits for them.

    python benchmarks/data_loading.py [--model inti_vit_t8_32_motiondigits] [--output benchmarks/results/FILE.json]

The files are written first (`write_video`: H.264, a keyframe at most every 250 frames, the encoder's default).

Clips per second are those of one DataLoader worker, which is one core: by wall-clock time, and by the worker's CPU
time, which other work on the machine affects less. They are read and collated, and with a transform made into
224x224 pixels. "Crop and flip" and "all" (with RandAugment and random erasing) are transforms of training.

The fraction of waiting is the time that a training loop waits for a batch, as a fraction of the time of all its steps;
the first steps, in which workers start, are left out. Prints JSON, and writes a table beside it.
"""

import argparse
import os
import platform
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import av
import timm
import torch
import torch.nn.functional as F
from report import report
from torch import Tensor
from torch.utils.data import DataLoader, default_collate
from tqdm import tqdm

from inti_models.data import (
    FrameSampling,
    Sample,
    VideoDataset,
    VideoList,
    create_train_transform,
    write_video,
)
from inti_models.models.registry import create_model

SAMPLINGS = {"uniform 8": FrameSampling(8), "dense 8x8": FrameSampling(8, "dense", 8)}
TRANSFORMS: dict[str, dict[str, Any] | None] = {
    "none": None,
    "crop and flip": {},
    "all": {"auto_augment": "rand-m9-mstd0.5-inc1", "reprob": 0.25},
}
WARM_UP = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="inti_vit_t8_32_motiondigits", help="to train")
    parser.add_argument("--input-size", type=int, default=224, help="size of clips that are only read")
    parser.add_argument("--frame-size", type=int, nargs=2, default=(340, 256), metavar=("WIDTH", "HEIGHT"))
    parser.add_argument("--seconds", type=float, default=10.0, help="length of each video")
    parser.add_argument("--fps", type=int, default=30)
    parser.add_argument("--videos", type=int, default=16)
    parser.add_argument("--clips", type=int, default=128, help="clips to read for each row")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--workers", type=int, nargs="+", default=(0, 1, 2), help="workers to train with, in turn")
    parser.add_argument("--steps", type=int, default=20, help="training steps to time")
    parser.add_argument("--output", type=Path, help="also write the JSON here, and a table beside it")
    args = parser.parse_args()

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = create_model(args.model).to(device).train()
    config = timm.data.resolve_input_data_config(model)
    size = (3, args.input_size, args.input_size)
    with tempfile.TemporaryDirectory() as folder:
        videos, file_info = make_videos(Path(folder), args)
        reading = []
        for name, sampling in SAMPLINGS.items():
            for augmentation in TRANSFORMS:
                rates = clips_per_second(training_set(videos, {"input_size": size}, sampling, augmentation), args.clips)
                reading.append({"sampling": name, "transform": augmentation, **rates})
        waiting = []
        for name, sampling in SAMPLINGS.items():
            dataset = training_set(videos, config, sampling, "all")
            for workers in args.workers:
                times = step_times(model, dataset, args.batch_size, workers, args.steps, device)
                waiting.append({"sampling": name, "transform": "all", "workers": workers, **times})
    kind = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU ({platform.machine()})"
    result = {
        "videos": file_info,
        "clips": args.clips,
        "reading_input": [8, 3, args.input_size, args.input_size],
        "reading": reading,
        "training": {
            "model": args.model,
            "input": [8, *config["input_size"]],
            "batch_size": args.batch_size,
            "steps": args.steps,
            "waiting": waiting,
        },
        "machine": f"{kind}, {os.cpu_count()} cores, {torch.get_num_threads()} threads",
        "versions": {"torch": torch.__version__, "av": av.__version__, "timm": timm.__version__},
    }
    report(result, args.output)
    if args.output:
        args.output.with_suffix(".md").write_text(to_markdown(result))


def make_videos(folder: Path, args: argparse.Namespace) -> tuple[VideoList, dict[str, Any]]:
    """Make drifting textures with camera noise: neither as easy to compress as drawings nor as hard as noise."""
    width, height = args.frame_size
    num_frames = round(args.seconds * args.fps)
    paths = []
    for index in tqdm(range(args.videos), desc="write videos"):
        generator = torch.Generator().manual_seed(index)
        coarse = torch.rand(1, 3, height // 8, width // 8, generator=generator)
        texture = F.interpolate(coarse, (height + 64, width + 64), mode="bicubic")[0].clamp(0, 1) * 235
        frames = torch.empty(num_frames, 3, height, width, dtype=torch.uint8)
        for t in range(num_frames):
            x, y = (abs((speed * t // 2) % 128 - 64) for speed in (1, 2))
            noise = torch.randn(3, height, width, generator=generator) * 3 + 10
            frames[t] = (texture[:, y : y + height, x : x + width] + noise).clamp_(0, 255)
        path = folder / f"{index}.mp4"
        write_video(path, frames, args.fps)
        paths.append(str(path))
    size = statistics.mean(Path(path).stat().st_size for path in paths)
    info = {
        "number": args.videos,
        "frame_size": [width, height],
        "frames": num_frames,
        "fps": args.fps,
        "mean_kib": round(size / 1024),
    }
    return VideoList(tuple(paths), tuple(range(len(paths))), tuple(map(str, range(len(paths))))), info


def unchanged(clip: Tensor) -> Tensor:
    return clip


def training_set(videos: VideoList, config: dict[str, Any], sampling: FrameSampling, augmentation: str) -> VideoDataset:
    """Return clips for a data config, sampled and augmented in a named way."""
    settings = TRANSFORMS[augmentation]
    transform = unchanged if settings is None else create_train_transform(**config, **settings)
    return VideoDataset(videos, transform, sampling, train=True)


def clips_per_second(dataset: VideoDataset, clips: int) -> dict[str, float]:
    """Return the clips that one worker reads per second, by wall-clock and by CPU time."""
    keys = [[(i % len(dataset), i // len(dataset))] for i in range(clips + WARM_UP)]
    loader = DataLoader(dataset, batch_sampler=keys, num_workers=1, collate_fn=times_after_collating)
    times = torch.tensor(list(tqdm(loader, desc="read", leave=False)), dtype=torch.float64)[WARM_UP - 1 :]
    clock, cpu = (times[-1] - times[0]).tolist()
    return {"clips_per_second": round(clips / clock, 2), "clips_per_cpu_second": round(clips / cpu, 2)}


def times_after_collating(samples: list[Sample]) -> tuple[float, float]:
    """Return the worker's wall-clock and CPU time at which a batch is ready."""
    _, _, faults = default_collate(samples)
    if any(faults):
        raise RuntimeError(next(filter(None, faults)))
    return time.perf_counter(), time.process_time()


def step_times(
    model: torch.nn.Module,
    dataset: VideoDataset,
    batch_size: int,
    workers: int,
    steps: int,
    device: torch.device,
) -> dict[str, float]:
    """Return the milliseconds of a training step, and the fraction of them spent waiting for its batch."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
    finish = partial(torch.cuda.synchronize, device) if device.type == "cuda" else lambda: None
    repeats = -(-(steps + WARM_UP) * batch_size // len(dataset))
    keys = [(index, draw) for draw in range(repeats) for index in range(len(dataset))]
    batches = [keys[i * batch_size : (i + 1) * batch_size] for i in range(steps + WARM_UP)]
    loader = iter(DataLoader(dataset, batch_sampler=batches, num_workers=workers, pin_memory=device.type == "cuda"))
    waits, totals = [], []
    for _ in tqdm(range(steps + WARM_UP), desc=f"train, {workers} workers", leave=False):
        start = time.perf_counter()
        clips, labels, _ = next(loader)
        arrived = time.perf_counter()
        loss = F.cross_entropy(model(clips.to(device, non_blocking=True)), labels.to(device) % model.num_classes)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        finish()
        waits.append(arrived - start)
        totals.append(time.perf_counter() - start)
    waited, total = sum(waits[WARM_UP:]), sum(totals[WARM_UP:])
    return {
        "step_ms": round(1e3 * total / steps, 1),
        "clips_per_second": round(steps * batch_size / total, 1),
        "fraction_waiting": round(waited / total, 4),
    }


def to_markdown(result: dict[str, Any]) -> str:
    """Return the result as two tables."""
    videos, training = result["videos"], result["training"]
    width, height = videos["frame_size"]
    lines = [
        f"# Data loading ({result['machine']})",
        "",
        f"Written by `benchmarks/data_loading.py`. {videos['number']} MP4 files of {videos['frames']} frames at "
        f"{videos['fps']} frames a second, {width}x{height} pixels, {videos['mean_kib']} KiB on average.",
        "",
        f"One worker of a DataLoader, clips of {' x '.join(map(str, result['reading_input']))}.",
        "",
        "| sampling | transform | clips/s per core | clips per CPU second |",
        "|---|---|---:|---:|",
    ]
    for row in result["reading"]:
        lines.append(
            f"| {row['sampling']} | {row['transform']} | {row['clips_per_second']} | {row['clips_per_cpu_second']} |"
        )
    lines += [
        "",
        f"Training `{training['model']}` with batches of {training['batch_size']} clips of "
        f"{' x '.join(map(str, training['input']))}, transform: all.",
        "",
        "| sampling | workers | ms a step | clips/s | fraction of waiting for data |",
        "|---|---:|---:|---:|---:|",
    ]
    for row in training["waiting"]:
        waiting = f"{100 * row['fraction_waiting']:.1f}%"
        lines.append(
            f"| {row['sampling']} | {row['workers']} | {row['step_ms']} | {row['clips_per_second']} | {waiting} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
