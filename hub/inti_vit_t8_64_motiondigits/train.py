"""Train the checkpoint that ships with the package: still digits first, then motion.

    python hub/inti_vit_t8_64_motiondigits/train.py --work-dir runs/t8

1. Image pre-training: the model reads the digit of single images.
2. Adaptation to video: the same weights, a head for 10 digits and 12 motions, and the interpolations
   learn together. The two heads then become one for the 120 classes ("7, swing").

Then it measures accuracy on scans that were not trained on. A run that was stopped goes on from its last
saved state. Results: ``model.safetensors`` and ``results.json`` in the work directory.
"""

import argparse
import json
import os
import platform
import time
from pathlib import Path

import timm
import torch
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from tqdm import tqdm

import inti_models
from inti_models.checkpoints import save_checkpoint
from inti_models.data.motion_digits import MOTIONS, MotionDigits, split_logits
from inti_models.vision_transformer import InTIVisionTransformer
from inti_models.zoo import create_model

NAME = "inti_vit_t8_64_motiondigits"
SAVE_EVERY = 100  # steps
EVALUATION_BATCH = 100
NUM_DIGITS = 10
LEAN = 0.5  # logits at the start of stage 2: weights 0.27 and 0.73


def normalize(clips: Tensor) -> Tensor:
    """uint8 (B, T, C, H, W) -> float in -1 to 1, the mean and std of the model's config."""
    return clips.float() / 127.5 - 1


def save(state: dict, path: Path) -> None:
    """Write a file whole or not at all."""
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    os.replace(partial, path)


def train(
    model: nn.Module, data: MotionDigits, digits_only: bool, batch_size: int, lr: float, args, state_file: Path
) -> float:
    """Train on the clips of ``data`` in order, once. Returns the seconds it took."""
    optimizer = create_optimizer_v2(model, "adamw", lr=lr, weight_decay=args.weight_decay)
    steps = len(data) // batch_size
    scheduler = CosineLRScheduler(optimizer, t_initial=steps, warmup_t=steps // 20, warmup_lr_init=0, t_in_epochs=False)
    first, seconds = 0, 0.0
    if state_file.exists():
        state = torch.load(state_file, map_location=args.device, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        first, seconds = state["step"], state["seconds"]
    model.train()
    started = time.monotonic() - seconds
    progress = tqdm(range(first, steps), initial=first, total=steps, desc="stills" if digits_only else "clips")
    for step in progress:
        scheduler.step_update(step)
        indices = range(step * batch_size, (step + 1) * batch_size)
        batch = data.render(indices, device=args.device)
        digit_logits, motion_logits = model(normalize(batch.clips)).tensor_split([NUM_DIGITS], dim=1)
        loss = cross_entropy(digit_logits, batch.digits)
        if not digits_only:
            loss = loss + cross_entropy(motion_logits, batch.motions)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        progress.set_postfix(loss=f"{loss.item():.3f}")
        if (step + 1) % SAVE_EVERY == 0 or step + 1 == steps:
            seconds = time.monotonic() - started
            save(
                {
                    "model": model.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "step": step + 1,
                    "seconds": seconds,
                },
                state_file,
            )
    return seconds


@torch.no_grad()
def join_heads(model: InTIVisionTransformer) -> None:
    """From a head for digits and motions to one for their combinations, "digit, motion": their logits add up.

    A softmax of sums over all combinations is the product of the two softmaxes, so the loss stays what it was.
    """
    heads = model.head.state_dict()
    model.reset_classifier(NUM_DIGITS * len(MOTIONS))
    for name, parameter in model.head.named_parameters():
        digits, motions = heads[name].tensor_split([NUM_DIGITS])
        parameter.copy_((digits.unsqueeze(1) + motions).flatten(0, 1))


@torch.inference_mode()
def evaluate(model: nn.Module, data: MotionDigits, args) -> dict:
    """Motion and digit accuracy, in percent, over ``data``."""
    model.eval()
    correct: dict[str, list[Tensor]] = {"motion": [], "digit": [], "top1": []}
    motions, occluded = [], []
    for start in tqdm(range(0, len(data), EVALUATION_BATCH), desc="evaluate"):
        batch = data.render(range(start, min(start + EVALUATION_BATCH, len(data))), device=args.device)
        motion, digit = split_logits(model(normalize(batch.clips)))
        correct["motion"].append(motion == batch.motions)
        correct["digit"].append(digit == batch.digits)
        correct["top1"].append(correct["motion"][-1] & correct["digit"][-1])
        motions.append(batch.motions)
        occluded.append(~batch.clear.all(dim=1))
    hits = {name: torch.cat(parts).float() * 100 for name, parts in correct.items()}
    motion_of, hidden = torch.cat(motions), torch.cat(occluded)
    return {
        "clips": len(data),
        **{name: round(hit.mean().item(), 2) for name, hit in hits.items()},
        "digit_occluded": round(hits["digit"][hidden].mean().item(), 2),
        "digit_clear": round(hits["digit"][~hidden].mean().item(), 2),
        "motion_by_class": {
            name: round(hits["motion"][motion_of == i].mean().item(), 2) for i, name in enumerate(MOTIONS)
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work-dir", type=Path, required=True)
    parser.add_argument("--stills", type=int, default=64_000, help="images of the first stage")
    parser.add_argument("--clips", type=int, default=128_000, help="clips of the second stage")
    parser.add_argument("--validation-clips", type=int, default=6_000)
    parser.add_argument("--stills-batch-size", type=int, default=64)
    parser.add_argument("--clips-batch-size", type=int, default=32)
    parser.add_argument("--stills-lr", type=float, default=1e-3)
    parser.add_argument("--clips-lr", type=float, default=1e-3)
    parser.add_argument("--weight-decay", type=float, default=0.05)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    args.work_dir.mkdir(parents=True, exist_ok=True)

    torch.manual_seed(args.seed)
    model = create_model(NAME, num_classes=NUM_DIGITS).to(args.device)
    size, frames = model.patch_embed.img_size[0], model.num_frames
    stills = MotionDigits("train", size=size, num_frames=1, length=args.stills, seed=args.seed)
    seconds_stills = train(
        model, stills, True, args.stills_batch_size, args.stills_lr, args, args.work_dir / "stills.state"
    )

    digit_head = model.head.state_dict()
    model.reset_classifier(NUM_DIGITS + len(MOTIONS))
    with torch.no_grad():
        for name, parameter in model.head.named_parameters():
            parameter[:NUM_DIGITS] = digit_head[name]
        # At the exact mean nothing shows the order of frames, so neither the blocks nor the interpolations
        # get a gradient towards it: a plateau. Leaning to the later frame leaves a trail that has a direction.
        for name, parameter in model.interpolations.named_parameters():
            if name.endswith("logit.bias"):
                parameter.copy_(torch.tensor([-LEAN, LEAN]))
    clips = MotionDigits("train", size=size, num_frames=frames, length=args.clips, seed=args.seed + 1)
    seconds_clips = train(
        model, clips, False, args.clips_batch_size, args.clips_lr, args, args.work_dir / "clips.state"
    )

    join_heads(model)
    validation = MotionDigits("validation", size=size, num_frames=frames, length=args.validation_clips)
    results = {
        "model": NAME,
        "accuracy": evaluate(model, validation, args),
        "training": {
            **{key: value for key, value in vars(args).items() if key != "work_dir"},
            "minutes": round((seconds_stills + seconds_clips) / 60, 1),
        },
        "machine": f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads",
        "versions": {"torch": torch.__version__, "timm": timm.__version__, "inti_models": inti_models.__version__},
    }
    save_checkpoint(model, args.work_dir / "model.safetensors")
    (args.work_dir / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
