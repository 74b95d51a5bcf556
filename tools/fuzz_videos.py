"""Damaged videos through decoding and labelling: each ends in frames or in one sentence.

    python tools/fuzz_videos.py [--mutants 2000] [--seed 0] [--keep DIR] [--output FILE]

Seeds are small valid videos in every container and codec that PyAV writes here; mutants are made from them by a seeded
generator. Every mutant is read and labelled in a worker process: a crash, a hang (20 s), memory above 3 GiB or any
other exception is a failure.
"""

import functools
import os
import random
import sys
import zipfile
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from runner import fuzz

CONTAINERS = ("mp4", "mov", "mkv", "webm", "avi", "ts", "flv", "ogg", "gif", "3gp", "mpg", "nut", "wtv", "asf", "m4v")
# fmt: off
CODECS: tuple[str, ...] = (
    "libx264", "mpeg4", "mpeg2video", "mjpeg", "libvpx-vp9", "libvpx", "libtheora", "ffv1", "gif", "flv", "h263p",
    "libx265", "libsvtav1", "libaom-av1", "huffyuv", "png", "prores_ks", "wmv2", "msmpeg4v3", "rawvideo",
)
# fmt: on
LIMIT, MEMORY = 20.0, 3 * 1024.0


def write(path: Path, codec: str, side: int = 64, rate: Fraction | None = None) -> bool:
    """Write a video of 12 frames; return False if the container does not take the codec or the rate."""
    try:
        with av.open(str(path), "w") as container:
            options = {"x265-params": "log-level=none"} if codec == "libx265" else {}
            stream = container.add_stream(codec, rate=12, options=options)
            assert isinstance(stream, av.VideoStream)
            stream.width, stream.height = side, side  # libx265 corrupts its memory below 64
            if stream.codec_context.codec.video_formats:
                names = [f.name for f in stream.codec_context.codec.video_formats]
                stream.pix_fmt = next((n for n in ("yuvj420p", "yuv420p") if n in names), names[0])
            for i in range(12):
                picture = np.full((side, side, 3), 20 * i, np.uint8)
                picture[8:24, 4 * i : 4 * i + 8] = 255
                _mux(container, stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")), rate)
            _mux(container, stream.encode(), rate)
    except Exception:  # noqa: BLE001  # containers and codecs that do not go together say so in many ways
        path.unlink(missing_ok=True)
        return False
    return path.stat().st_size > 0


def _mux(container: Any, packets: list[Any], rate: Fraction | None) -> None:
    for packet in packets:
        if rate is not None:
            packet.time_base = 1 / rate
        container.mux(packet)


def seeds(folder: Path) -> list[Path]:
    """Write valid videos, one for each container and codec that go together."""
    os.environ["SVT_LOG"] = "0"  # errors only
    codecs = [codec for codec in CODECS if codec in av.codecs_available]
    paths = [folder / f"{codec}.{container}" for container in CONTAINERS for codec in codecs]
    return [path for path in paths if write(path, path.stem)]


def mutate(data: bytes, other: bytes, rng: random.Random) -> bytes:
    """Return one damaged copy of a file; ``other`` is a second file to splice with."""
    at = rng.randrange(len(data))
    match rng.randrange(9):
        case 0:  # bits
            damaged = bytearray(data)
            for _ in range(rng.choice((1, 4, 64))):
                damaged[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
            return bytes(damaged)
        case 1:  # bits near the start, where the headers are
            damaged = bytearray(data)
            for _ in range(rng.choice((1, 4, 16))):
                damaged[rng.randrange(min(256, len(data)))] ^= 1 << rng.randrange(8)
            return bytes(damaged)
        case 2:
            return data[:at]
        case 3:
            return data[at:]
        case 4:
            return data[:at] + other[rng.randrange(len(other)) :]
        case 5:  # huge or odd numbers where sizes, counts, rates may be
            number = rng.choice((0, 1, 2**31 - 1, 2**32 - 1, 2**24, rng.randrange(2**32)))
            return data[:at] + number.to_bytes(4, rng.choice(("big", "little"))) + data[at + 4 :]
        case 6:
            return data[:at] + rng.randbytes(rng.choice((1, 100, 5000))) + data[at:]
        case 7:
            return data[:at] + data[at : at + 500] * rng.choice((2, 50)) + data[at:]
        case _:
            return data[:at] + bytes(min(2000, len(data) - at)) + data[at + 2000 :]


def absurd(folder: Path) -> Iterator[Path]:
    """Yield small files with one frame a day or a million a second, or with frames above the limit."""
    for container in ("mp4", "mkv", "avi", "gif", "nut"):
        for rate in (Fraction(1, 86400), Fraction(10**6), Fraction(2**31 - 1), Fraction(1, 2**31 - 1)):
            path = folder / f"rate-{rate.numerator}-{rate.denominator}.{container}"
            if write(path, "gif" if container == "gif" else "mpeg4", rate=rate):
                yield path
    path = folder / "bomb.mp4"
    if write(path, "mpeg4", side=5824):
        yield path


def odd(folder: Path) -> Iterator[Path]:
    """Yield files that are not videos, under names of videos."""
    contents = {"empty": b"", "text": b"hello\n" * 99, "zeros": bytes(9999), "ftyp": b"\0\0\0\x18ftypmp42"}
    for name, data in contents.items():
        for ending in (".mp4", ".webm", ".avi", ".gif", ".png"):
            path = folder / f"{name}{ending}"
            path.write_bytes(data)
            yield path
    path = folder / "archive.mp4"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("clip.mp4", "text")
    yield path
    path = folder / "playlist.mp4"
    path.write_text("#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n")
    yield path


def mutants(folder: Path, count: int, seed: int) -> Iterator[Path]:
    """Yield files to read, one after another."""
    rng, valid = random.Random(seed), folder / "seeds"
    valid.mkdir()
    paths = seeds(valid)
    contents = [path.read_bytes() for path in paths]
    yield from odd(folder)
    yield from absurd(folder)
    for i in range(count):
        k = rng.randrange(len(paths))
        ending = paths[k].suffix if rng.random() < 0.9 else rng.choice(paths).suffix
        path = folder / f"{i:05d}-{paths[k].stem}{ending}"
        path.write_bytes(mutate(contents[k], rng.choice(contents), rng))
        yield path


def prepare() -> None:
    """Load the model."""
    _classifier()


@functools.cache
def _classifier():
    from inti_models import load
    from inti_models.inference.predict import VideoClassifier

    return VideoClassifier(load("inti_vit_t8_32_motiondigits"))


def examine(path: Path) -> str:
    """Read and label a file, and read it as a stream."""
    from inti_models.data import iterate_frames

    labels = _classifier()(path, topk=1)
    for i, _ in enumerate(iterate_frames(path)):
        if i > 500:
            break
    return f"labelled: {len(labels)}"


if __name__ == "__main__":
    sys.exit(fuzz(Path(__file__), __doc__, mutants, 2000, LIMIT, MEMORY))
