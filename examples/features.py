"""Features at every depth: what remains of a clip, and where.

    python examples/features.py [VIDEO] [--model inti_vit_t8_32_motiondigits]

Prints the shape of the features after chosen blocks, for a detector, a decoder or a probe: (B, T', C, H, W), with fewer
frames at greater depth. Without a video, it uses a clip of MotionDigits.
"""

import argparse

import timm
import torch
from timm.data import resolve_input_data_config

from inti_models import load
from inti_models.data import FrameSampling, create_clip_transform
from inti_models.data.motion_digits import MotionDigits


def features(name: str, video: str | None) -> dict[int, torch.Tensor]:
    """Return the features after every second block, by block."""
    model = load(name)
    if video is None:
        frames = MotionDigits("validation", size=model.patch_embed.img_size[0])[0][0]
    else:
        frames = FrameSampling.of(model).read(video).frames[0]
    clip = create_clip_transform(**resolve_input_data_config(model))(frames).unsqueeze(0)
    blocks = list(range(0, len(model.blocks), 2))
    with torch.inference_mode():
        taken = model.forward_intermediates(clip, indices=blocks, intermediates_only=True)
        # timm's wrapper returns the same shapes from a whole backbone; pretrained=True loads weights:
        backbone = timm.create_model(name, features_only=True, out_indices=blocks)
        assert [tuple(f.shape) for f in backbone(clip)] == [tuple(f.shape) for f in taken]  # type: ignore[union-attr]
    return dict(zip(blocks, taken, strict=True))  # type: ignore[arg-type]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("video", nargs="?")
    parser.add_argument("--model", default="inti_vit_t8_32_motiondigits")
    args = parser.parse_args()
    for block, feature in features(args.model, args.video).items():
        print(f"block {block}: {tuple(feature.shape)}")


if __name__ == "__main__":
    main()
