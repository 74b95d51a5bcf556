"""Label a stream as it arrives: a file, a camera or a pipe.

    python examples/stream.py clip.mp4 [--stride 4] [--fps 8]
    python examples/stream.py /dev/video0 --fps 8      # a camera on Linux
    cat clip.mkv | python examples/stream.py -

Each line is a window of the last frames. What windows share is computed once. This is ``inti-models predict --stream``
in twenty lines, to start from.
"""

import argparse
import sys
from collections.abc import Iterator

from inti_models import load
from inti_models.data import iterate_frames
from inti_models.inference.predict import Window, classify_stream


def windows(source: str, name: str, stride: int, fps: float | None) -> Iterator[Window]:
    """Yield the labels of each window."""
    frames = iterate_frames(sys.stdin.buffer if source == "-" else source, fps=fps)
    return classify_stream(load(name), frames, stride=stride, topk=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source")
    parser.add_argument("--model", default="inti_vit_t8_32_motiondigits")
    parser.add_argument("--stride", type=int, default=4)
    parser.add_argument("--fps", type=float)
    args = parser.parse_args()
    for window in windows(args.source, args.model, args.stride, args.fps):
        (best,) = window.labels
        print(f"{window.start:6.2f}-{window.end:.2f} s  {best.name} {best.probability:.1%}", flush=True)


if __name__ == "__main__":
    main()
