"""Clips per second and core from video files, by this package's reader and by others; and whether the frames agree.

    python benchmarks/decoding.py [--quick] [--seconds 2] [--codecs h264 vp9 av1] [--output FILE]

Clips of 10 seconds at 30 frames per second, 340x256 and 1920x1080 (a moving picture with noise), H.264, VP9 and AV1
by FFmpeg's encoders with their default keyframe interval. Of each, 8 frames spread over the clip (uniform) and 16
frames with a stride of 4 (dense) become uint8 tensors (T, 3, H, W). Every reader opens the file anew, gets the
indices that ours takes, and one thread; its time is CPU time of the process, in turns. Readers: torchcodec, OpenCV and
decord, if installed (torchvision has none since 0.26: it points to torchcodec). The difference is the
largest over frames of the mean absolute difference to our frame, in levels of 255: conversions to RGB differ by 1 or 2,
other frames by more. Writes results/decoding_cpu.json; ``--quick`` (one short file) writes nothing without --output.
"""

import argparse
import importlib
import importlib.metadata
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import av
import torch
from report import machine, report
from torch import Tensor
from tqdm import tqdm

from inti_models.data import FrameSampling

RESULTS = Path(__file__).parent / "results" / "decoding_cpu.json"
SIZES = ((340, 256), (1920, 1080))
SAMPLINGS = {"uniform 8": FrameSampling(8), "dense 16x4": FrameSampling(16, "dense", 4)}
FPS = 30
ENCODERS: dict[str, tuple[str, dict[str, str]]] = {
    "h264": ("libx264", {"crf": "23", "preset": "fast"}),
    "vp9": ("libvpx-vp9", {"crf": "33", "b": "0", "deadline": "realtime", "cpu-used": "8"}),
    "av1": ("libsvtav1", {"crf": "35", "preset": "12"}),
}
Reader = Callable[[Path, list[int]], Tensor]


def make_video(path: Path, codec: str, size: tuple[int, int], seconds: float) -> None:
    """Write a moving picture with noise."""
    name, options = ENCODERS[codec]
    width, height = size
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, 3, height // 32 + 2, width // 32 + 8, generator=generator)
    wide = torch.nn.functional.interpolate(coarse, (height, width + 320), mode="bicubic")[0].mul(220).clamp(0, 220)
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(name, rate=FPS, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.time_base = Fraction(1, FPS)
        for i in range(round(seconds * FPS)):
            noise = torch.randint(0, 12, (3, height, width), generator=generator)
            image = (wide[:, :, i : i + width] + noise).byte().permute(1, 2, 0).contiguous()
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image.numpy(), "rgb24")))
        container.mux(stream.encode())


def torchcodec_reader(mode: str) -> Reader:
    """Return torchcodec's reader, which scans the file first ("exact"), or trusts its header ("approximate")."""
    decoders = importlib.import_module("torchcodec.decoders")
    return lambda path, indices: (
        decoders.VideoDecoder(str(path), num_ffmpeg_threads=1, seek_mode=mode).get_frames_at(indices).data
    )


def opencv_reader() -> Reader:
    """Return OpenCV's reader: every frame up to the last wanted one is decoded, only those wanted are converted."""
    cv2: Any = importlib.import_module("cv2")
    cv2.setNumThreads(1)

    def read(path: Path, indices: list[int]) -> Tensor:
        video = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
        frames, wanted = [], set(indices)
        for index in range(max(indices) + 1):
            if not video.grab():
                raise ValueError(f"{path} ends before frame {index}.")
            if index in wanted:
                frames.append(torch.from_numpy(cv2.cvtColor(video.retrieve()[1], cv2.COLOR_BGR2RGB)))
        return torch.stack(frames).permute(0, 3, 1, 2).contiguous()

    return read


def decord_reader() -> Reader:
    """decord."""
    decord: Any = importlib.import_module("decord")
    return lambda path, indices: (
        torch.from_numpy(decord.VideoReader(str(path), num_threads=1).get_batch(indices).asnumpy())
        .permute(0, 3, 1, 2)
        .contiguous()
    )


OTHERS: dict[str, tuple[str, Callable[[], Reader]]] = {  # name -> distribution, reader
    "torchcodec, exact": ("torchcodec", lambda: torchcodec_reader("exact")),
    "torchcodec, approximate": ("torchcodec", lambda: torchcodec_reader("approximate")),
    "OpenCV": ("opencv-python-headless", opencv_reader),
    "decord": ("decord", decord_reader),
}


def row(path: Path, sampling: FrameSampling, readers: dict[str, Reader], seconds: float) -> dict[str, Any]:
    """Measure clips per CPU second of each reader, in turns, and the difference of its frames from ours."""
    clips = sampling.read(path)
    indices = (clips.times[0] * FPS).round().long().tolist()
    ours = clips.frames[0].float()
    functions: dict[str, Callable[[], Tensor]] = {"inti_models": lambda: sampling.read(path).frames[0]}
    functions |= {name: partial(read, path, indices) for name, read in readers.items()}
    result: dict[str, Any] = {}
    for name, function in list(functions.items()):
        try:
            frames = function().float()
        except Exception as error:  # other libraries' own; what they say goes into the table
            result[name] = {"error": " ".join(str(error).split())[:120]}
            del functions[name]
            continue
        result[name] = {"difference": round((frames - ours).abs().flatten(1).mean(1).max().item(), 2)}
    spent: dict[str, list[float]] = {name: [] for name in functions}
    end = time.process_time() + seconds * len(functions)
    while len(spent["inti_models"]) < 3 or time.process_time() < end:
        for name, function in functions.items():
            start = time.process_time()
            function()
            spent[name].append(time.process_time() - start)
    for name, times in spent.items():
        result[name]["clips_per_second"] = float(f"{1 / statistics.median(times):.4g}")
    return result


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one file of 2 seconds")
    parser.add_argument("--codecs", nargs="+", choices=ENCODERS, default=list(ENCODERS))
    parser.add_argument("--seconds", type=float, default=2.0, help="CPU time for each reader and row")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    seconds, length = (0.2, 2.0) if args.quick else (args.seconds, 10.0)
    cells = [(codec, size) for codec in args.codecs for size in SIZES][: 1 if args.quick else None]
    readers, versions = {}, {"av": av.__version__}
    for name, (distribution, make) in OTHERS.items():
        try:
            readers[name] = make()
            versions[distribution] = importlib.metadata.version(distribution)
        except (
            ImportError,
            RuntimeError,
            OSError,
        ) as error:  # torchcodec's, without FFmpeg
            print(f"{name} is left out: {str(error).splitlines()[0]}")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for codec, size in tqdm(cells):
            path = Path(folder) / f"{codec}-{size[0]}.{'mp4' if codec == 'h264' else 'webm'}"
            make_video(path, codec, size, length)
            for name, sampling in SAMPLINGS.items():
                measured = row(path, sampling, readers, seconds)
                rows.append({"codec": codec, "size": list(size), "sampling": name, "readers": measured})
            path.unlink()
    result = {
        "machine": machine(torch.device("cpu")),
        "versions": versions,
        "seconds": length,
        "fps": FPS,
        "rows": rows,
    }
    report(result, args.output or (None if args.quick else RESULTS))


if __name__ == "__main__":
    main()
