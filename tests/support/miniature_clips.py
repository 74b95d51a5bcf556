"""Miniature CLIPs in the layout of the CLIP repos on the Hub, built and saved with open_clip's and timm's own code.

Where the layout comes from:

* `open_clip_model.safetensors`, `open_clip_config.json` and `open_clip_pytorch_model.bin` are open_clip's names
  (`constants.py`). As in its `push_to_hf_hub.save_for_hf`, the weights are the `state_dict()` of
  `open_clip.model.CLIP` as it stands (`visual.*` is the image tower; the text tower has no prefix: `transformer.*`,
  `token_embedding.weight`, `positional_embedding`, `ln_final.*`, `text_projection`; then `logit_scale`), and the
  config is written by `save_config_for_hf`: `model_cfg` as in `model_configs/ViT-B-16-quickgelu.json`, and
  `preprocess_cfg`.
* `model.safetensors`, `config.json` and `pytorch_model.bin` are timm's (`models/_hub.py`), written by `save_for_hf`:
  the image tower under timm's names, with `head` the projection (`head.bias` is zero), as timm's
  `_convert_openai_clip` makes it from open_clip's tensors.
* Repo ids, mean and std are those of timm's registry, `timm/<architecture>.<tag>`; open_clip's `pretrained.py` names
  the OpenAI repos the same. That these repos hold the files of both libraries is what the two registries imply.

What differs from the real repos: widths and depths; `config.json` has them as `model_args`, and names the QuickGELU
variant for OpenAI's weights, so that `hf-hub:` gives the tower as trained; the `.bin` files hold no pickle, and must
not be read; the tokenizer's files are left out (open_clip has its own tokenizer). The card has timm's licence.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import open_clip
import safetensors.torch
import timm
import torch
from open_clip.constants import HF_CONFIG_NAME, HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME
from open_clip.model import CLIP, set_model_preprocess_cfg
from open_clip.push_to_hf_hub import generate_readme, save_config_for_hf
from open_clip.transform import PreprocessCfg
from timm.models import save_for_hf
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn

# Repo id -> image size, patch size, and whether the weights were trained with QuickGELU.
REPOS = {
    "timm/vit_base_patch16_clip_224.openai": (64, 16, True),
    "timm/vit_base_patch16_clip_224.laion2b": (64, 16, False),
    "timm/vit_large_patch14_clip_224.openai": (56, 14, True),
    "timm/vit_large_patch14_clip_336.openai": (70, 14, True),
}
EMBED_DIM, WIDTH, DEPTH, HEADS = 32, 64, 4, 4
TEXT_WIDTH, TEXT_DEPTH, TEXT_HEADS = 32, 2, 2


@dataclass(frozen=True)
class MiniatureClip:
    """A miniature CLIP: the folder of its repo, the model itself, and timm's arguments for its image tower."""

    repo_id: str
    folder: Path
    model: CLIP
    preprocess: PreprocessCfg
    quick_gelu: bool

    @property
    def image_model(self) -> str:
        """timm's name of the image tower, QuickGELU or not, without the tag."""
        name = self.repo_id.split("/")[1].split(".")[0]
        return name.replace("_clip_", "_clip_quickgelu_") if self.quick_gelu else name

    @property
    def overrides(self) -> dict[str, Any]:
        """Arguments by which timm's full-size model (or one of ours) becomes this size; JSON."""
        return {"img_size": self.preprocess.size, "embed_dim": WIDTH, "depth": DEPTH, "num_heads": HEADS}

    @property
    def tokenizer(self) -> open_clip.SimpleTokenizer:
        return open_clip.SimpleTokenizer(context_length=self.model.context_length)


def build(repo_id: str, folder: Path, seed: int = 0) -> MiniatureClip:
    """Builds the miniature of one of `REPOS` with random weights and saves it to `folder`."""
    image_size, patch_size, quick_gelu = REPOS[repo_id]
    model_cfg: dict[str, Any] = {
        "embed_dim": EMBED_DIM,
        "vision_cfg": {
            "image_size": image_size,
            "layers": DEPTH,
            "width": WIDTH,
            "head_width": WIDTH // HEADS,
            "patch_size": patch_size,
        },
        "text_cfg": {
            "context_length": 77,
            "vocab_size": 49408,
            "width": TEXT_WIDTH,
            "heads": TEXT_HEADS,
            "layers": TEXT_DEPTH,
        },
    }
    if quick_gelu:
        model_cfg["quick_gelu"] = True
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = CLIP(**model_cfg).eval()
        _look_trained(model)
    image_cfg = timm.get_pretrained_cfg(repo_id.split("/")[1])
    assert image_cfg is not None
    preprocess = PreprocessCfg(size=image_size, mean=image_cfg.mean, std=image_cfg.std)
    set_model_preprocess_cfg(model, asdict(preprocess))
    miniature = MiniatureClip(repo_id, folder, model, preprocess, quick_gelu)

    folder.mkdir(parents=True, exist_ok=True)
    save_config_for_hf(model, folder / HF_CONFIG_NAME, model_cfg)
    safetensors.torch.save_file(model.state_dict(), folder / HF_SAFE_WEIGHTS_NAME)
    (folder / "README.md").write_text(generate_readme({"license": image_cfg.license}, repo_id))
    _save_image_tower(miniature)
    for name in (HF_WEIGHTS_NAME, "pytorch_model.bin"):
        (folder / name).write_bytes(b"Not a pickle: nothing should have read this file.\0")
    return miniature


def build_all(folder: Path) -> dict[str, MiniatureClip]:
    """Builds all of `REPOS`, each with another seed, in folders below `folder`."""
    return {repo_id: build(repo_id, folder / repo_id, seed) for seed, repo_id in enumerate(REPOS)}


@torch.no_grad()
def _look_trained(model: CLIP) -> None:
    """Moves what starts at zero or one, so that a bias or a scale lost on the way shows in the outputs.

    The temperature is that of OpenAI's models, 100.
    """
    for parameter in model.parameters():
        if parameter.ndim == 1:
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.token_embedding.weight.mul_(50)
    model.positional_embedding.mul_(10)
    model.logit_scale.fill_(torch.tensor(100.0).log())


def _save_image_tower(miniature: MiniatureClip) -> None:
    """The visual tower as timm publishes it."""
    tag = miniature.repo_id.split(".")[1]
    tower = timm.create_model(f"{miniature.image_model}.{tag}", num_classes=EMBED_DIM, **miniature.overrides)
    assert isinstance(tower, VisionTransformer)
    tower.load_state_dict(checkpoint_filter_fn(miniature.model.state_dict(), tower), strict=True)
    save_for_hf(tower, str(miniature.folder), safe_serialization=True)
