"""Compare the frames that `read_clips` and `iterate_frames` choose with those of a plain decode from start to end.

    python tools/compare_readers.py FOLDER [--frames 8] [--source OLDER_CHECKOUT/src]

The reference decodes each file once with PyAV's own loop, takes the times that FFmpeg makes up where the file has
none, and sorts nothing: where these times do not increase, or jump by more than a minute, it takes one frame per
period. Prints one line per file, then counts. Exits with 1 if a file differs or raises anything but a VideoError.
"""

import argparse
import sys
import warnings
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import torch


def fingerprint(image: torch.Tensor) -> torch.Tensor:
    """Reduce (3, H, W) to (3, h, w): about 32 pixels of 32 rows, enough to tell frames apart."""
    _, height, width = image.shape
    return image[:, :: max(height // 32, 1), :: max(width // 32, 1)].clone()


def decode(path: Path) -> tuple[list[torch.Tensor], list[float], float]:
    """Return fingerprints, starts in seconds and the end, by a plain decode."""
    from inti_models.data.decoding import Converter
    from inti_models.data.limits import Guard, Limits

    convert = Converter(path, Guard(Limits()))  # colours and rotation are not what is compared
    images, stated, duration = [], [], 0.0
    with av.open(str(path), metadata_errors="replace") as container:
        cover = av.stream.Disposition.attached_pic
        stream = next(s for s in container.streams.video if not s.disposition & cover)
        stream.thread_type = "AUTO"
        tick = float(stream.time_base or 0)
        period = float(1 / (stream.average_rate or stream.guessed_rate or 25))
        last_is_whole = True
        try:
            for packet in container.demux(stream):
                if packet.size:
                    duration = (packet.duration or 0) * tick
                    last_is_whole = not packet.is_corrupt
                try:
                    frames = packet.decode()
                except av.FFmpegError:
                    continue
                for frame in frames:
                    stated.append(None if frame.pts is None else frame.pts * tick)
                    images.append(fingerprint(convert(frame)))
        except av.FFmpegError:
            pass
    if not last_is_whole:
        del images[-1:], stated[-1:]
    times = [time for time in stated if time is not None]
    if len(times) < len(stated) or any(not 0 <= b - a <= 60 for a, b in pairwise(times)):
        times = [period * k for k in range(len(images))]
    steps = sorted(b - a for a, b in pairwise(times))
    typical = steps[len(steps) // 2] if steps else period
    end = times[-1] + (typical if duration <= 0 or duration < typical else duration) if times else 0.0
    return images, [t - times[0] for t in times], end - times[0]


def shown(starts: list[float], time: float) -> set[int]:
    """Return the frames on show at a time, give or take 2 ms."""
    near = [max((k for k, start in enumerate(starts) if start <= t), default=0) for t in (time - 2e-3, time + 2e-3)]
    return set(near)


def compare(path: Path, num_frames: int) -> str:
    """Return "equal", "refused: why" or "differs: where"."""
    from inti_models.data import VideoError, iterate_frames, read_clips

    try:
        played = [(time, fingerprint(image)) for time, image in iterate_frames(path)]
    except VideoError as error:
        try:
            read_clips(path, num_frames)
        except VideoError:
            return f"refused: {error}"
        return f"differs: read_clips gives frames, iterate_frames raises {error}"
    images, starts, end = decode(path)
    if len(played) != len(images):
        return f"differs: iterate_frames gives {len(played)} frames, {len(images)} decode"
    for k, ((time, image), start) in enumerate(zip(played, starts, strict=True)):
        if not torch.equal(image, images[k]):
            return f"differs: frame {k} of iterate_frames"
        if abs(time - start) > max(2e-3, 0.02 * end / len(starts)):
            return f"differs: frame {k} of iterate_frames is at {time:.3f} s, expected {start:.3f} s"
    period = end / len(starts)
    uniform = [(2 * i + 1) * end / (2 * num_frames) for i in range(num_frames)]
    begin = max(end - (num_frames - 1) * 2 * period - period, 0) / 2
    dense = [begin + 2 * i * period for i in range(num_frames)]
    requests: tuple[tuple[dict[str, Any], list[float]], ...] = (
        ({}, uniform),
        ({"sampling": "dense", "stride": 2}, dense),
    )
    for options, wanted in requests:
        clip = read_clips(path, num_frames, **options).frames[0]
        for i, time in enumerate(wanted):
            image = fingerprint(clip[i])
            if not any(torch.equal(image, images[k]) for k in shown(starts, time)):
                found = [k for k in range(len(images)) if torch.equal(image, images[k])]
                expected = sorted(shown(starts, time))
                return f"differs: read_clips{options} takes frame {found} at {time:.3f} s, expected {expected}"
    return "equal"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--source", type=Path, help="folder of another version of inti_models, to compare with")
    args = parser.parse_args()
    if args.source is not None:
        sys.path.insert(0, str(args.source))
    counts: Counter[str] = Counter()
    for path in sorted(p for p in args.folder.rglob("*") if p.is_file() and p.suffix not in {".md", ".txt"}):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                result = compare(path, args.frames)
            except Exception as error:  # noqa: BLE001  # whatever a reader raises is a finding
                result = f"raises: {type(error).__name__}: {error}"
        counts[result.split(":")[0]] += 1
        print(f"{path.relative_to(args.folder)}: {result}{' (with a warning)' if caught else ''}", flush=True)
    print(", ".join(f"{count} {kind}" for kind, count in sorted(counts.items())))
    return 1 if counts["differs"] or counts["raises"] else 0


if __name__ == "__main__":
    sys.exit(main())
