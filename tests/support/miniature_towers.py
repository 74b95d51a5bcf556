"""Miniatures of image-text models of every family, in the layout of their repositories on the Hub.

open_clip builds each from its own config of the real model, with small widths and depths and few tokens, and saves it
as its `push_to_hf_hub` does; timm saves the image tower. The repositories are those of both registries: timm's of the
image tower, and open_clip's with both towers. Tokenizers of transformers are byte-level BPE of a few hundred tokens,
with the special tokens and their places as in the real ones.
"""

from __future__ import annotations

import copy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import open_clip
import safetensors.torch
import timm
import torch
from open_clip.constants import HF_CONFIG_NAME, HF_SAFE_WEIGHTS_NAME
from open_clip.model import set_model_preprocess_cfg
from open_clip.push_to_hf_hub import save_config_for_hf
from open_clip.transform import PreprocessCfg
from timm.models import save_for_hf
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn
from torch import nn

# Architecture of the zoo, with a tag -> open_clip's name of the config, and of the tag of its weights.
MODELS = {
    "h14.laion2b": ("ViT-H-14", "laion2b_s32b_b79k"),
    "h14.dfn5b": ("ViT-H-14-quickgelu", "dfn5b"),
    "h14.metaclip_2pt5b": ("ViT-H-14-quickgelu", "metaclip_fullcc"),
    "h14.metaclip_altogether": ("ViT-H-14", "metaclip_altogether"),
    "h14.metaclip2_worldwide": ("ViT-H-14-worldwide-quickgelu", "metaclip2_worldwide"),
    "pe_core_t16_384.fb": ("PE-Core-T-16-384", "meta"),
    "pe_core_s16_384.fb": ("PE-Core-S-16-384", "meta"),
    "pe_core_b16.fb": ("PE-Core-B-16", "meta"),
    "pe_core_l14_336.fb": ("PE-Core-L-14-336", "meta"),
    "eva02_b16.merged2b": ("EVA02-B-16", "merged2b_s8b_b131k"),
    "eva02_l14.merged2b": ("EVA02-L-14", "merged2b_s4b_b131k"),
    "eva02_l14_336.merged2b": ("EVA02-L-14-336", "merged2b_s6b_b61k"),
    "siglip2_b16_256.v2_webli": ("ViT-B-16-SigLIP2-256", "webli"),
    "siglip2_l16_256.v2_webli": ("ViT-L-16-SigLIP2-256", "webli"),
    "siglip2_so400m14_224.v2_webli": ("ViT-SO400M-14-SigLIP2", "webli"),
}
FAMILIES = (
    "h14.laion2b",
    "h14.metaclip2_worldwide",
    "pe_core_b16.fb",
    "eva02_b16.merged2b",
    "siglip2_b16_256.v2_webli",
)
GRID, WIDTH, DEPTH, HEADS, TEXT_WIDTH, EMBED_DIM = 4, 64, 4, 4, 32, 32


@dataclass(frozen=True)
class MiniatureTowers:
    """A miniature.

    Attributes:
        image_model: timm's name of the image tower, with its tag.
        repository: open_clip's, of both towers.
        folder: what is in it.
        image_folder: what is in timm's repository of the image tower.
        model: open_clip's.
        overrides: arguments by which the full-size image tower becomes this size.
        tokenizer_repository: of the tokenizer; None for CLIP's own.
    """

    image_model: str
    repository: str
    folder: Path
    image_folder: Path
    model: Any
    overrides: dict[str, Any]
    tokenizer_repository: str | None

    def add_to(self, hub: Any) -> None:
        """Publish it on a loopback Hub."""
        images = f"timm/{self.image_model}"
        both = {self.repository, self.tokenizer_repository or self.repository}
        for repository, folder in ((images, self.image_folder), *((each, self.folder) for each in both)):
            if repository not in hub.repos:
                hub.add_repo(repository)
            hub.commit(repository, folder)

    @property
    def tokenizer(self) -> Any:
        """open_clip's tokenizer, by its own path."""
        return open_clip.get_tokenizer(f"local-dir:{self.folder}")


def build(name: str, folder: Path, seed: int = 0) -> MiniatureTowers:
    """Build one of `MODELS` with random weights and save it to ``folder``."""
    architecture, _, tag = name.partition(".")
    config_name, open_clip_tag = MODELS[name]
    weights = open_clip.get_pretrained_cfg(config_name, open_clip_tag)
    config = open_clip.get_model_config(config_name)
    vision, text = config["vision_cfg"], config["text_cfg"]
    tokenizer_repository = text.get("hf_tokenizer_name")
    if tokenizer_repository is not None:
        text["vocab_size"] = save_tokenizer(folder, siglip="SigLIP" in config_name)
    text |= {"width": TEXT_WIDTH, "heads": 2, "layers": 2}
    timm_name = vision.get("timm_model_name")
    image_model = f"{timm_name or 'vit_huge_patch14_clip_224'}.{tag}"
    image_cfg = timm.get_pretrained_cfg(image_model)
    patch_size = 16 if "16" in architecture else 14
    size = GRID * patch_size
    overrides = {"img_size": size, "embed_dim": WIDTH, "depth": DEPTH, "num_heads": HEADS}
    if "pe_core" in architecture:
        overrides |= {"ref_feat_shape": (GRID, GRID), "attn_pool_num_heads": HEADS}
    config["embed_dim"] = WIDTH if "siglip" in architecture else EMBED_DIM
    vision["image_size"] = size
    if timm_name is None:
        vision |= {"layers": DEPTH, "width": WIDTH, "head_width": WIDTH // HEADS, "patch_size": patch_size}

    saved_config = copy.deepcopy(config)
    custom_text = config.pop("custom_text", False)
    create = timm.create_model

    def create_small(model_name: str, **kwargs: Any) -> nn.Module:
        return create(model_name, **kwargs, **overrides)

    with torch.random.fork_rng(devices=[]), mock.patch.object(timm, "create_model", create_small):
        torch.manual_seed(seed)
        model = (open_clip.CustomTextCLIP if custom_text else open_clip.CLIP)(**config).eval()
        _look_trained(model)
    preprocess = asdict(PreprocessCfg(size=size, mean=image_cfg.mean, std=image_cfg.std))
    set_model_preprocess_cfg(model, preprocess)

    folder.mkdir(parents=True, exist_ok=True)
    save_config_for_hf(model, folder / HF_CONFIG_NAME, saved_config)
    state = {key: value.contiguous() for key, value in model.state_dict().items()}
    safetensors.torch.save_file(state, folder / HF_SAFE_WEIGHTS_NAME)
    image_folder = folder.with_name(f"{folder.name}_image")
    image_folder.mkdir(parents=True)
    tower = getattr(model.visual, "trunk", None)
    if tower is None:
        quick_gelu = image_model.replace("_clip_", "_clip_quickgelu_") if config.get("quick_gelu") else image_model
        tower = create(quick_gelu, num_classes=EMBED_DIM, **overrides)
        assert isinstance(tower, VisionTransformer)
        tower.load_state_dict(checkpoint_filter_fn(state, tower), strict=True)
    save_for_hf(tower, str(image_folder), safe_serialization=True)
    repository = str(weights["hf_hub"]).rstrip("/")
    return MiniatureTowers(image_model, repository, folder, image_folder, model, overrides, tokenizer_repository)


@torch.no_grad()
def _look_trained(model: nn.Module) -> None:
    """Move what starts at zero or one, and let texts differ, so that nothing lost on the way goes unseen."""
    for parameter in model.parameters():
        if parameter.ndim == 1:
            parameter.add_(0.1 * torch.randn_like(parameter))
    text = getattr(model, "text", model)
    text.token_embedding.weight.mul_(50)
    text.positional_embedding.mul_(10)
    model.logit_scale.fill_(torch.tensor(100.0).log())


def save_tokenizer(folder: Path, siglip: bool) -> int:
    """Save a byte-level BPE with the special tokens of SigLIP2's or XLM-V's tokenizer. Return its number of tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    special = ["<pad>", "<eos>", "<bos>"] if siglip else ["<s>", "<pad>", "</s>"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    texts = ["a video of a person riding a bike", "a photo of feeding goats", "a still from a video of tying a knot"]
    tokenizer.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=300, special_tokens=special, initial_alphabet=alphabet)
    )
    template = "$A <eos>" if siglip else "<s> $A </s>"
    ends = [(token, tokenizer.token_to_id(token)) for token in special if token in template]
    tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=ends)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="<eos>" if siglip else "</s>",
        bos_token="<bos>" if siglip else "<s>",
        padding_side="right",
    )
    folder.mkdir(parents=True, exist_ok=True)
    fast.save_pretrained(folder)
    return tokenizer.get_vocab_size()
