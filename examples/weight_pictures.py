"""Draw what was kept of a batch of clips.

    python examples/weight_pictures.py [--output pictures] [--clips 2]

In these MotionDigits clips the digit is visible in only a quarter of the frames: the weights should find them. For one
video file, use ``inti-models visualize VIDEO --model NAME -o out.html``.
"""

import argparse
from pathlib import Path

import torch

from inti_models import load
from inti_models.data.motion_digits import MotionDigits
from inti_models.visualize.figures import draw_stages, draw_weights, explain_clips


def draw(output: Path, clips: int) -> list[float]:
    """Write two pictures of each clip; return the fraction of its weight on the frames that show the digit."""
    output.mkdir(parents=True, exist_ok=True)
    batch = MotionDigits("validation", size=64, occlusion=1.0).render(range(1, 1 + clips))
    fractions = []
    times = torch.arange(batch.clips.shape[1]).div(8).expand(clips, -1)  # as at 8 frames a second
    explanations = explain_clips(load("inti_vit_t8_32_motiondigits"), batch.clips, times)
    for i, (explanation, clear) in enumerate(zip(explanations, batch.clear, strict=True)):
        draw_weights(explanation).savefig(output / f"weights-{i}.png", dpi=100)
        draw_stages(explanation).savefig(output / f"stages-{i}.png", dpi=100)
        fractions.append(float(explanation.fractions[clear].sum()))
    return fractions


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("pictures"))
    parser.add_argument("--clips", type=int, default=2)
    args = parser.parse_args()
    for i, fraction in enumerate(draw(args.output, args.clips)):
        print(f"clip {i}: {fraction:.0%} of the weights on the frames that show the digit")


if __name__ == "__main__":
    main()
