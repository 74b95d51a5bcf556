"""Private and undocumented names of other libraries that we rely upon: a release that drops one fails here, by name."""

import argparse
import re
from pathlib import Path
from unittest import mock

import av
import open_clip.transformer
import pytest
import timm
import torch
import transformers
from accelerate.state import AcceleratorState
from accelerate.utils import FullyShardedDataParallelPlugin
from huggingface_hub import constants, hf_hub_download
from omegaconf.errors import OmegaConfBaseException
from open_clip.tokenizer import HFTokenizer
from timm.models.eva import Eva, EvaBlock
from timm.models.vision_transformer import Attention, Block, VisionTransformer
from tqdm import tqdm

import inti_models

ROOT = Path(inti_models.__file__).parent
VIT = timm.create_model("vit_tiny_patch16_224", depth=1, embed_dim=32, num_heads=2, device="meta")
EVA = timm.create_model("vit_small_patch16_dinov3", depth=1, embed_dim=32, num_heads=2, device="meta")
TOWER = open_clip.transformer.TextTransformer(context_length=4, vocab_size=8, width=8, heads=1, layers=1)

TWO_TOWERS = open_clip.CustomTextCLIP(
    8,
    {"layers": 1, "width": 64, "image_size": 32, "patch_size": 32},
    {"width": 8, "heads": 1, "layers": 1, "vocab_size": 8},
)
with mock.patch.object(transformers.AutoTokenizer, "from_pretrained"):
    HF_TOKENIZER = HFTokenizer("none")

# Object -> names that our code reads, calls, sets or overrides.
RELIED_UPON = {
    "VisionTransformer": (
        VIT,
        "_model_args _pos_embed attn_pool blocks cls_token default_cfg embed_dim fc_norm grad_checkpointing head "
        "head_drop in_chans norm norm_pre num_classes num_prefix_tokens patch_drop patch_embed pool pos_embed "
        "pretrained_cfg",
    ),
    "Eva": (
        EVA,
        "_model_args _pos_embed attn_pool blocks cls_token default_cfg embed_dim fc_norm grad_checkpointing head "
        "head_drop in_chans norm norm_pre num_classes num_prefix_tokens patch_drop patch_embed pool pretrained_cfg "
        "rope_mixed",
    ),
    "EvaBlock": (EVA.blocks[0], "attn drop_path1 drop_path2 gamma_1 gamma_2 mlp norm1 norm2"),
    "PatchEmbed": (VIT.patch_embed, "dynamic_feat_size dynamic_img_pad img_size patch_size proj strict_img_size"),
    "Block": (VIT.blocks[0], "attn drop_path1 drop_path2 ls1 ls2 mlp norm1 norm2"),
    "Attention": (VIT.blocks[0].attn, "num_heads proj qkv"),
    "TextTransformer": (
        TOWER,
        "attn_mask build_causal_mask cls_emb eos_id ln_final pool_type positional_embedding text_projection "
        "token_embedding transformer",
    ),
    "SimpleTokenizer": (open_clip.SimpleTokenizer(), "encode vocab_size"),
    "HFTokenizer": (HF_TOKENIZER, "clean_fn tokenizer tokenizer_mode"),
    "CustomTextCLIP": (TWO_TOWERS, "text"),
    "torch._inductor": (torch._inductor, "aoti_compile_and_package aoti_load_package"),
    "UntypedStorage": (torch.UntypedStorage(1), "_cdata"),
    "huggingface_hub.constants": (constants, "HF_HOME"),
    "argparse": (argparse, "_SubParsersAction"),
    "ArgumentParser": (argparse.ArgumentParser(), "_actions"),
    "AcceleratorState": (AcceleratorState, "_reset_state"),
    "FullyShardedDataParallelPlugin": (FullyShardedDataParallelPlugin, "transformer_cls_names_to_wrap"),
    "OmegaConfBaseException": (OmegaConfBaseException(), "full_key"),
    "tqdm": (tqdm(disable=True), "format_dict"),
    "av": (av, "codecs_available container stream video"),
    "av.container.Flags": (av.container.Flags, "gen_pts"),
    "av.logging": (av.logging, "get_level"),
    "av.stream.Disposition": (av.stream.Disposition, "attached_pic"),
    "av.stream.Discard": (av.stream.Discard, "all"),
    "av.video.reformatter": (av.video.reformatter, "ColorRange Colorspace VideoReformatter"),
    "VideoStream": (av.VideoStream, "guessed_rate index_entries"),
    "Packet": (av.Packet, "is_corrupt is_discard pos"),
}
CASES = [(owner, name) for owner, (_, names) in RELIED_UPON.items() for name in names.split()]


@pytest.mark.parametrize(("owner", "name"), CASES)
def test_name_is_there(owner, name):
    assert hasattr(RELIED_UPON[owner][0], name), f"{owner} has no {name} any more, which our code uses"


def test_blocks_are_of_the_classes_that_are_extended():
    assert type(VIT) is VisionTransformer and type(VIT.blocks[0]) is Block and type(VIT.blocks[0].attn) is Attention
    assert type(EVA) is Eva and type(EVA.blocks[0]) is EvaBlock


def test_private_modules_of_other_libraries_are_imported_in_one_module_a_folder():
    found = {
        str(path.relative_to(ROOT)): line
        for path in ROOT.rglob("*.py")
        for line in path.read_text(encoding="utf-8").splitlines()
        if re.match(r"\s*(from|import) [a-z]\w*(\.\w+)*\._\w+", line)
    }
    assert {Path(name).name for name in found} <= {"_private.py"}, found


def test_cache_of_the_hub_names_commits_and_hashes(tmp_path):
    """snapshots/<commit>/<file> -> blobs/<hash>: `download.commit_of` and `download.download` read both."""
    commit, etag = "a" * 40, "b" * 64
    folder = tmp_path / "models--org--name"
    (folder / "snapshots" / commit).mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "blobs").mkdir()
    (folder / "refs" / "main").write_text(commit)
    (folder / "blobs" / etag).write_text("{}")
    (folder / "snapshots" / commit / "config.json").symlink_to(f"../../blobs/{etag}")
    found = hf_hub_download("org/name", "config.json", cache_dir=tmp_path, local_files_only=True)
    assert Path(found) == folder / "snapshots" / commit / "config.json"
