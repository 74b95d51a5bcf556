"""How close a zero-shot head is to open_clip's own pipeline: on stills, and on clips, where tokens merge.

    python benchmarks/zero_shot.py --model inti_vit_b16_k400        # the published CLIP, from the Hub
    python benchmarks/zero_shot.py --miniature                      # a small random CLIP, without a network

Stills and frames are MotionDigits'. On stills the probabilities have to be the same, to rounding. On clips the
reference is the mean of open_clip's logits over the frames. Prints JSON.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import open_clip
import torch
import torch.nn.functional as F
from report import report
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm import tqdm

import inti_models
from inti_models.data import create_clip_transform
from inti_models.data.motion_digits import MotionDigits
from inti_models.models.registry import create_model
from inti_models.models.stages import InTIModel
from inti_models.weights.text_tower import CONFIG_FILE, WEIGHTS_FILE
from inti_models.weights.zero_shot import TEMPLATES, class_words

MINIATURE: dict[str, Any] = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 64, "layers": 4, "width": 64, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 2},
    "quick_gelu": True,
}


def miniature(name: str, seed: int) -> tuple[InTIModel, Any]:
    """Return a model of the zoo at a small size on a random CLIP, and that CLIP."""
    torch.manual_seed(seed)
    clip = open_clip.CLIP(**MINIATURE).eval()
    with torch.no_grad():
        clip.logit_scale.fill_(torch.tensor(100.0).log())
        for parameter in clip.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
    with tempfile.TemporaryDirectory() as folder:
        save_file(clip.state_dict(), Path(folder, WEIGHTS_FILE))
        Path(folder, CONFIG_FILE).write_text(json.dumps({"model_cfg": MINIATURE}))
        model = create_model(
            name,
            pretrained=True,
            pretrained_cfg_overlay={"file": str(Path(folder, WEIGHTS_FILE))},
            img_size=64,
            embed_dim=64,
            depth=4,
            num_heads=4,
            compress_at=(1, 3),
        )
    return model.eval(), clip


def open_clip_logits(clip: Any, images: Tensor, classifier: Tensor) -> Tensor:
    """Return CLIP's own logits: (B, 3, H, W) -> (B, K)."""
    return clip.logit_scale.exp() * F.normalize(clip.encode_image(images), dim=-1) @ classifier


@torch.no_grad()
def compare(model: InTIModel, clip: nn.Module, tokenizer: Any, count: int) -> dict[str, float]:
    """Measure the agreement on ``count`` stills and as many clips."""
    cfg = model.pretrained_cfg
    dataset = cfg["architecture"].rpartition("_")[2]
    words = [class_words(name, dataset) for name in cfg["label_names"]]
    templates = [template.format for template in TEMPLATES[dataset]]
    classifier = open_clip.build_zero_shot_classifier(clip, tokenizer, words, templates)
    size = model.patch_embed.img_size
    transform = create_clip_transform((3, *size), cfg["interpolation"], cfg["mean"], cfg["std"], crop_pct=1.0)
    clips = MotionDigits("validation", size=size[0], num_frames=model.num_frames, length=count)
    same_top1, differences = [], []
    for index in tqdm(range(count)):
        frames = transform(clips[index][0])  # T 3 H W
        theirs = open_clip_logits(clip, frames, classifier)
        still = model(frames[:1])
        differences.append((still.softmax(-1) - theirs[:1].softmax(-1)).abs().max().item())
        same_top1.append(bool(model(frames.unsqueeze(0)).argmax() == theirs.mean(dim=0).argmax()))
    return {
        "stills_largest_probability_difference": round(max(differences), 6),
        "clips_same_top1_percent": 100 * sum(same_top1) / count,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="inti_vit_b16_hmdb51")
    parser.add_argument("--miniature", action="store_true", help="a small random CLIP instead of the published one")
    parser.add_argument("--count", type=int, default=100, help="stills, and clips")
    parser.add_argument("--seed", type=int, default=0, help="seed of the miniature")
    parser.add_argument("--output", type=Path, help="also write the JSON here")
    args = parser.parse_args()
    if args.miniature:
        model, clip = miniature(args.model, args.seed)
        tokenizer = open_clip.get_tokenizer("ViT-B-16")
    else:
        model = inti_models.load(args.model).eval()
        clip = open_clip.create_model(f"hf-hub:{model.pretrained_cfg['hf_hub_id']}").eval()
        tokenizer = open_clip.get_tokenizer(f"hf-hub:{model.pretrained_cfg['hf_hub_id']}")
    result = {
        "model": args.model,
        "clip": "random miniature" if args.miniature else model.pretrained_cfg["hf_hub_id"],
        "count": args.count,
        **compare(model, clip, tokenizer, args.count),
    }
    report(result, args.output)


if __name__ == "__main__":
    main()
