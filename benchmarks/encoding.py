"""The two embeddings of `encode`: the mean of features, and the mean of features scaled to unit length.

    python benchmarks/encoding.py [--clips 2000] [--output FILE]

Clips of MotionDigits' validation set through the shipped weights, with InTI and naive: how far apart the two embeddings
of a clip are, how much the lengths of a clip's frames differ, how often another clip is the nearest, and how often the
nearest has the label. Features are pooled; the model has no projection, which would be one linear map more. Writes
results/encoding.json.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from report import machine, report
from timm.data import resolve_input_data_config
from torch import Tensor

from inti_models import InTIModel, load
from inti_models.data import create_clip_transform
from inti_models.data.motion_digits import MotionDigits

RESULTS = Path(__file__).parent / "results" / "encoding.json"
NAMES = ("inti_vit_t8_32_motiondigits", "inti_vit_t8_32_motiondigits.naive")


@torch.inference_mode()
def pooled_frames(model: InTIModel, clips: Tensor) -> Tensor:
    """Return the features of the remaining frames, (B, T, C)."""
    return torch.cat(
        [model.pool_frames(model.norm_tokens(model.forward_stages(model.to_clip(x)))) for x in clips.split(100)]
    )


def nearest(embeddings: Tensor) -> Tensor:
    """Return the other clip that is most similar to each, (B,)."""
    similarity = embeddings @ embeddings.T
    return similarity.fill_diagonal_(-2).argmax(dim=1)


def row(name: str, count: int) -> dict[str, Any]:
    """Measure how the two embeddings of a model differ."""
    model = load(name).eval()
    batch = MotionDigits("validation").render(range(count))
    transform = create_clip_transform(**resolve_input_data_config(model))
    frames = pooled_frames(model, torch.stack([transform(clip) for clip in batch.clips]))
    labels = torch.as_tensor(batch.labels)
    lengths = frames.norm(dim=-1)
    plain, normed = (model.encode_frames(frames, of_frames, normalize=True) for of_frames in (False, True))
    cosine = F.cosine_similarity(plain, normed, dim=-1).double().clamp(max=1)
    found = nearest(plain), nearest(normed)
    return {
        "model": name,
        "compress_at": list(model.compress_at),
        "remaining_frames": frames.shape[1],
        "length_of_frames_deviation": float((lengths.std(dim=1) / lengths.mean(dim=1)).mean()),
        "mean_cosine": float(cosine.mean()),
        "lowest_cosine": float(cosine.min()),
        "same_nearest_percent": float((found[0] == found[1]).double().mean() * 100),
        "nearest_has_label_percent": float((labels[found[0]] == labels).double().mean() * 100),
        "nearest_has_label_normalised_percent": float((labels[found[1]] == labels).double().mean() * 100),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=2000, help="clips of the validation set")
    parser.add_argument("--output", type=Path, default=RESULTS, help="file of the result")
    args = parser.parse_args()
    rows = [row(name, args.clips) for name in NAMES]
    report({"machine": machine(torch.device("cpu")), "clips": args.clips, "rows": rows}, args.output)


if __name__ == "__main__":
    main()
