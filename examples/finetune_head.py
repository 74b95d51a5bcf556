"""Fine-tune a head: new classes on frozen features, in a minute on a CPU.

    python examples/finetune_head.py [--clips 480] [--epochs 60]

The features of clips are computed once; a new linear classifier is trained on them. Here the new classes are "the digit
goes left, right, or neither" on MotionDigits. To fine-tune the whole network, see docs/finetune.md.
"""

import argparse

import torch
from timm.data import resolve_input_data_config
from timm.optim import create_optimizer_v2
from torch import Tensor
from torch.nn.functional import cross_entropy
from tqdm import tqdm

from inti_models import InTIModel, load
from inti_models.data import create_clip_transform
from inti_models.data.motion_digits import MOTIONS, MotionDigits

CLASSES = ("left", "right", "neither")


@torch.no_grad()
def pooled(model: InTIModel, split: str, clips: int) -> tuple[Tensor, Tensor]:
    """Return features (clips, C) before the classifier, and new labels (clips,)."""
    batch = MotionDigits(split, size=model.patch_embed.img_size[0]).render(range(clips))
    transform = create_clip_transform(**resolve_input_data_config(model))
    features = [
        model.forward_head(model.forward_features(transform(clip).unsqueeze(0)), pre_logits=True)
        for clip in tqdm(batch.clips, desc=split)
    ]
    left, right = (batch.motions == MOTIONS.index(name) for name in CLASSES[:2])
    return torch.cat(features), torch.where(left, 0, torch.where(right, 1, 2))


def train(model: InTIModel, clips: int, epochs: int) -> float:
    """Give the model a new head for `CLASSES`; return its accuracy on held-out scans, averaged over classes."""
    train_features, train_labels = pooled(model, "train", clips)
    test_features, test_labels = pooled(model, "validation", clips)
    model.reset_classifier(len(CLASSES))
    optimizer = create_optimizer_v2(model.head, "adamw", lr=3e-2, weight_decay=1e-4)
    weight = 1 / train_labels.bincount(minlength=len(CLASSES)).clamp(min=1).float()
    for _ in range(epochs):
        loss = cross_entropy(model.head(train_features), train_labels, weight)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    right = model.head(test_features).argmax(dim=1) == test_labels
    return sum(right[test_labels == c].float().mean().item() for c in range(len(CLASSES))) / len(CLASSES)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=480)
    parser.add_argument("--epochs", type=int, default=60)
    args = parser.parse_args()
    torch.manual_seed(0)
    accuracy = train(load("inti_vit_t8_32_motiondigits"), args.clips, args.epochs)
    print(f"mean accuracy of {', '.join(CLASSES)}: {accuracy:.1%}")


if __name__ == "__main__":
    main()
