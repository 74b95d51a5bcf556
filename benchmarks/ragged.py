"""Accuracy at numbers of frames that do not halve without remainder, by what is done with the remainder.

    python benchmarks/ragged.py [--quick] [--output FILE]

The shipped model on MotionDigits, each clip sampled at T frames. "repeated evenly" is what the model does itself
(`frame_order` of the interpolation). The other rules are clips with other frames repeated: "last repeated" pads
with the last frame; "last pair again" pairs an odd last frame, at each halving, with the one before it once more. All
are equal where T is a multiple of the frames that become one. Writes results/ragged.json.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from report import machine, report
from tqdm import tqdm

from inti_models import InTIModel, load
from inti_models.data.motion_digits import MotionDigits
from inti_models.models.interpolation import frame_order

NAME = "inti_vit_t8_32_motiondigits"
RESULTS = Path(__file__).parent / "results" / "ragged.json"


def last_repeated(num_frames: int, group_size: int) -> list[int]:
    """Return indices of frames, the last one repeated as needed."""
    return [min(i, num_frames - 1) for i in range(-(-num_frames // group_size) * group_size)]


def last_pair_again(num_frames: int, group_size: int) -> list[int]:
    """Return indices of frames where, at each halving, an odd last one is paired with the one before it."""
    groups = [[i] for i in range(num_frames)]
    while len(groups[0]) < group_size and len(groups) > 1:
        if len(groups) % 2:
            groups = groups[:-1] + groups[-2:]
        groups = [a + b for a, b in zip(groups[::2], groups[1::2], strict=True)]
    return sum(groups, [])


RULES: dict[str, Callable[[int, int], Sequence[int]]] = {
    "repeated evenly": frame_order,
    "last repeated": last_repeated,
    "last pair again": last_pair_again,
}


@torch.inference_mode()
def accuracy(model: InTIModel, frames: int, clips: int) -> dict[str, Any]:
    """Return the percent of clips classified right, by rule; and the model's own, by both of its ways to the logits."""
    batch = MotionDigits("validation", size=32, num_frames=frames, length=clips).render(range(clips))
    x = batch.clips.float() / 127.5 - 1

    def percent(logits: Callable[[torch.Tensor], torch.Tensor], order: Sequence[int] | slice = slice(None)) -> float:
        named = torch.cat([logits(part[:, order]).argmax(dim=1) for part in x.split(200)])
        return round(100 * float((named == batch.labels).float().mean()), 2)

    return {
        "frames": frames,
        "model": percent(model),
        "head of features": percent(lambda part: model.forward_head(model.forward_features(part))),
        **{name: percent(model, rule(frames, model.group_size)) for name, rule in RULES.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few clips; prints only")
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    model, clips = load(NAME).eval(), 240 if args.quick else 6000
    rows = [accuracy(model, frames, clips) for frames in tqdm((3, 5, 6, 7, 8))]
    measured = {"machine": machine(torch.device("cpu")), "model": NAME, "clips": clips, "rows": rows}
    report(measured, args.output or (None if args.quick else RESULTS))


if __name__ == "__main__":
    main()
