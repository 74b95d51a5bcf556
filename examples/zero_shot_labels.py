"""Zero-shot: label a video with your own words.

    python examples/zero_shot_labels.py clip.mp4 "riding a bike" "feeding goats" [--model inti_vit_b16_k400]

The text tower of the model's CLIP (from the Hub) makes the head from the words. Accuracy on videos is not measured.
"""

import argparse
from collections.abc import Sequence

from inti_models import InTIModel, load, set_zero_shot_head
from inti_models.inference.predict import Label, VideoClassifier


def label(model: InTIModel, video: str, words: Sequence[str]) -> list[Label]:
    """Return the words, most probable first. The model gets a new head."""
    set_zero_shot_head(model, words)
    return VideoClassifier(model)(video, topk=len(words))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("video")
    parser.add_argument("words", nargs="+")
    parser.add_argument("--model", default="inti_vit_b16_k400")
    args = parser.parse_args()
    for found in label(load(args.model), args.video, args.words):
        print(f"{found.probability:6.1%}  {found.name}")


if __name__ == "__main__":
    main()
