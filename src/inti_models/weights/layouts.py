"""How libraries name the tensors of a checkpoint, and what their configurations and official code say of the model."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from .checkpoint_filter import ADDED, HEAD

Tensors = dict[str, Tensor]


def _rename(key: str, rules: Mapping[str, str]) -> str:
    for pattern, replacement in rules.items():
        key = re.sub(pattern, replacement, key)
    return key


def openai_names(key: str) -> tuple[str, ...]:
    """Return OpenAI's and open_clip's name of the tensor that is ``key`` in the model."""
    rules = {
        r"^cls_token$": "class_embedding",
        r"^pos_embed$": "positional_embedding",
        r"^patch_embed\.proj": "conv1",
        r"^norm_pre": "ln_pre",
        r"^norm\.": "ln_post.",
        r"^blocks": "transformer.resblocks",
        r"\.norm(\d)": r".ln_\1",
        r"\.qkv\.": ".in_proj_",
        r"\.attn\.proj": ".attn.out_proj",
        r"\.fc1": ".c_fc",
        r"\.fc2": ".c_proj",
    }
    return (_rename(key, rules),)


def timm_names(key: str) -> tuple[str, ...]:
    """Return timm's name: the model is a timm `VisionTransformer`."""
    return (key,)


def transformers_names(key: str) -> tuple[str, ...]:
    """Return transformers' names: query, key and value are separate."""
    rules = {
        r"^cls_token$": "embeddings.class_embedding",
        r"^pos_embed$": "embeddings.position_embedding.weight",
        r"^patch_embed\.proj": "embeddings.patch_embedding",
        r"^norm_pre": "pre_layrnorm",  # sic
        r"^norm\.": "post_layernorm.",
        r"^blocks": "encoder.layers",
        r"\.norm(\d)": r".layer_norm\1",
        r"\.attn\.proj": ".self_attn.out_proj",
        r"\.attn\.": ".self_attn.",
    }
    name = _rename(key, rules)
    return tuple(name.replace(".qkv.", f".{part}_proj.") for part in "qkv") if ".qkv." in name else (name,)


def is_trunk(key: str) -> bool:
    """Return whether the model's ``key`` belongs to its image model, without head."""
    return not ADDED.match(key) and not key.startswith(HEAD)


def st_adapter_names(key: str) -> tuple[str, ...]:
    """Return ST-Adapter's name: OpenAI's, without "visual."."""
    if is_trunk(key):
        return openai_names(key)
    rules = {r"^head\.": "fc.", r"^blocks": "transformer.resblocks", r"\.temporal\.": ".adapter_pre_"}
    return (_rename(key, rules),)


def aim_names(key: str) -> tuple[str, ...]:
    """Return AIM's name: OpenAI's in mmaction's recogniser."""
    if is_trunk(key):
        return (f"backbone.{openai_names(key)[0]}",)
    rules = {
        r"^head\.": "cls_head.fc_cls.",
        r"^temporal\.time_embed": "backbone.temporal_embedding",
        r"^blocks": "backbone.transformer.resblocks",
        r"\.temporal\.time_in": ".T_Adapter_in",
        r"\.temporal\.time": ".T_Adapter",
        r"\.temporal\.space": ".S_Adapter",
        r"\.temporal\.joint": ".MLP_Adapter",
        r"\.fc(\d)": r".D_fc\1",
    }
    return (_rename(key, rules),)


def uniformerv2_names(key: str) -> tuple[str, ...]:
    """Return UniFormerV2's name, or that of a part that `uniformerv2_parts` cuts."""
    if is_trunk(key) and not key.startswith(("norm.", "patch_embed.")):
        return (f"backbone.{openai_names(key)[0]}",)
    rules = {
        r"^norm\.": "transformer.proj.0.",  # of its own: CLIP's ln_post is left out
        r"^head\.": "transformer.proj.2.",
        r"^patch_embed\.proj\.weight": "conv1.weight[0]",
        r"^temporal\.patch_embed\.0\.weight": "conv1.weight[-1]",
        r"^temporal\.patch_embed\.1\.weight": "conv1.weight[+1]",
        r"^temporal\.video_token": "transformer.temporal_cls_token",
        r"^temporal\.balance": "transformer.balance",
        r"^temporal\.units\.(\d+)\.position": r"transformer.dpe.\1",
        r"^temporal\.units": "transformer.dec",
        r"\.norm_query": ".ln_1",
        r"\.norm_mlp": ".ln_2",
        r"\.norm_tokens": ".ln_3",
        r"\.query\.(\w+)": r".attn.in_proj_\1[query]",
        r"\.key_value\.(\w+)": r".attn.in_proj_\1[key, value]",
        r"\.proj\.(?=[a-z])": ".attn.out_proj.",
        r"\.fc1": ".c_fc",
        r"\.fc2": ".c_proj",
        r"^blocks": "transformer.resblocks",
        r"\.temporal\.attn": ".lmhra1.pos_embed",
        r"\.temporal\.mlp": ".lmhra2.pos_embed",
        r"\.pos_embed\.norm": ".pos_embed.0",
        r"\.pos_embed\.reduce": ".pos_embed.1",
        r"\.pos_embed\.conv": ".pos_embed.2",
        r"\.pos_embed\.expand": ".pos_embed.3",
    }
    return (f"backbone.{_rename(key, rules)}",)


def uniformerv2_parts(tensors: Tensors) -> Tensors:
    """Split those tensors of UniFormerV2 that are several of the model's.

    The 3D patch embedding has one kernel per frame, [0] that of the frame itself; the attention of a global unit has
    its query's projection before those of key and value.
    """
    parts: Tensors = {}
    for name, tensor in tensors.items():
        if name == "backbone.conv1.weight" and tensor.ndim == 5:
            for i, kernel in enumerate(tensor.unbind(2), start=-(tensor.shape[2] // 2)):
                parts[f"{name}[{i:+d}]" if i else f"{name}[0]"] = kernel
        elif re.fullmatch(r"backbone\.transformer\.dec\.\d+\.attn\.in_proj_\w+", name) and tensor.ndim:
            query, key_value = tensor.tensor_split([tensor.shape[0] // 3])
            parts |= {f"{name}[query]": query, f"{name}[key, value]": key_value}
        else:
            parts[name] = tensor
    return parts


def open_clip_options(config: dict[str, Any]) -> dict[str, Any]:
    """Return the model options that an `open_clip_config.json` states."""
    model, vision = config["model_cfg"], config["model_cfg"]["vision_cfg"]
    if "timm_model_name" in vision:
        return {}
    return {
        "act_layer": "quick_gelu" if model.get("quick_gelu") else "gelu",
        "num_heads": vision["width"] // vision.get("head_width", 64),
    }


def timm_options(config: dict[str, Any]) -> dict[str, Any]:
    """Return the model options that timm's `config.json` states.

    An architecture without "quickgelu" in its name states nothing: OpenAI's weights, which were trained with
    QuickGELU, are published under such a name too.
    """
    named = {"act_layer": "quick_gelu"} if "quickgelu" in config["architecture"] else {}
    stated = config.get("model_args", {})
    return named | {name: stated[name] for name in ("act_layer", "num_heads") if name in stated}


def transformers_options(config: dict[str, Any]) -> dict[str, Any]:
    """Return the model options that transformers' `config.json` states; those left out have their class's default."""
    if not config["model_type"].startswith("clip"):
        raise ValueError(f"{config['model_type']} is not CLIP; choose a CLIP checkpoint.")
    vision = config.get("vision_config", config)
    activation = vision.get("hidden_act", "quick_gelu")
    return {
        "act_layer": {"gelu_pytorch_tanh": "gelu_tanh"}.get(activation, activation),
        "num_heads": vision.get("num_attention_heads", 12),
        "norm_eps": vision.get("layer_norm_eps", 1e-5),
    }


def official_options(config: dict[str, Any]) -> dict[str, Any]:
    """Return the model options of every official video model: they are built on OpenAI's CLIP."""
    return {"act_layer": "quick_gelu", "norm_eps": 1e-5}


@dataclass(frozen=True)
class Layout:
    """How a library names the tensors of a checkpoint.

    Attributes:
        title: its name in messages.
        prefixes: what its names may start with; the first that fits is taken.
        names: the model's key -> the library's names, without prefix, of the tensors whose concatenation it is.
        dropped: pattern of a whole key -> why the model has no use for it.
        config: name of the configuration file that may lie beside a checkpoint; None if there never is one.
        options: what is in it, {} without one -> options of the model.
        method: the temporal method whose modules and head, trained, are in the checkpoint. None: an image model's.
        marks: keys of the model; a checkpoint with one of them is of this layout.
        parts: splits tensors of the checkpoint that are several of the model's.
        pretrained_cfg: what the models were trained with, where it is not what the zoo says.
        sampling: data set -> the official code's sampling rule, and its temporal clips and crops.
        resize_rounding: whose code rounds sizes and crops; frames are then resized without antialiasing.
    """

    title: str
    prefixes: tuple[str, ...]
    names: Callable[[str], tuple[str, ...]]
    dropped: Mapping[str, str]
    config: str | None
    options: Callable[[dict[str, Any]], dict[str, Any]]
    method: str | None = None
    marks: tuple[str, ...] = ("patch_embed.proj.weight",)
    parts: Callable[[Tensors], Tensors] = dict
    pretrained_cfg: Mapping[str, Any] = field(default_factory=dict)
    sampling: Mapping[str, tuple[str, tuple[int, int]]] = field(default_factory=dict)
    resize_rounding: str = "timm"

    def protocol(self, model_name: str) -> dict[str, Any]:
        """Return the model options that say how the official code makes clips of a video.

        The data set is that of the model's name, such as inti_aim_b16_k400; there are none for another name.
        """
        dataset = model_name.split(".")[0].rpartition("_")[2]
        if dataset not in self.sampling:
            return {}
        sampling, views = self.sampling[dataset]
        return {"sampling": sampling, "views": views, "antialias": False, "resize_rounding": self.resize_rounding}


_SCALE = {r"logit_(scale|bias)": "scale of the contrastive loss"}
_OPEN_CLIP_TEXT = {
    r"text\..+|transformer\..+|token_embedding\.weight|positional_embedding|ln_final\..+|text_projection(\..+)?": (
        "text tower"
    )
}
LAYOUTS = (
    Layout(
        "OpenAI's CLIP or open_clip",
        ("visual.",),
        openai_names,
        {
            r"visual\.proj": "projection to the space of texts",
            r"input_resolution|context_length|vocab_size": "a size, not a weight",
            **_OPEN_CLIP_TEXT,
            **_SCALE,
        },
        "open_clip_config.json",
        open_clip_options,
    ),
    Layout(
        "open_clip with a visual tower of timm's",
        ("visual.trunk.",),
        timm_names,
        {r"visual\.(trunk\.)?head\..+": "projection to the space of texts", **_OPEN_CLIP_TEXT, **_SCALE},
        "open_clip_config.json",
        open_clip_options,
    ),
    Layout(
        "timm",
        ("",),
        timm_names,
        {r"head\..+": "projection, or another task's classifier"},
        "config.json",
        timm_options,
    ),
    Layout(
        "transformers",
        ("vision_model.", ""),  # releases from 5 on save a CLIPVisionModel without prefix
        transformers_names,
        {
            r"(vision_model\.)?embeddings\.position_ids": "a count, not a weight",
            r"visual_projection\.weight": "projection to the space of texts",
            r"text_model\..+|text_projection\.weight": "text tower",
            **_SCALE,
        },
        "config.json",
        transformers_options,
    ),
    Layout(
        "ST-Adapter",
        ("",),
        st_adapter_names,
        {},
        None,
        official_options,
        method="st_adapter",
        sampling={"k400": ("dense_rounded", (3, 1)), "ssv2": ("uniform_centers", (1, 3))},
        resize_rounding="st_adapter",
        marks=("blocks.0.temporal.mlp.fc1.weight", "blocks.0.temporal.attn.fc1.weight"),
    ),
    Layout(
        "AIM",
        ("",),
        aim_names,
        {},
        None,
        official_options,
        method="aim",
        marks=("temporal.time_embed",),
        # Of its configs, configs/recognition/vit, in grey levels.
        pretrained_cfg={
            "interpolation": "bilinear",
            "mean": tuple(level / 255 for level in (122.769, 116.74, 104.04)),
            "std": tuple(level / 255 for level in (68.493, 66.63, 70.321)),
        },
        sampling={"k400": ("dense_looped", (3, 1)), "ssv2": ("uniform_centers", (1, 3))},
        resize_rounding="mmaction",
    ),
    Layout(
        "UniFormerV2",
        ("",),
        uniformerv2_names,
        {},
        None,
        official_options,
        method="uniformerv2",
        marks=("temporal.video_token",),
        parts=uniformerv2_parts,
        # Its slowfast/config/defaults.py; and it numbers classes by lists of its own, not alphabetically.
        pretrained_cfg={"mean": (0.45,) * 3, "std": (0.225,) * 3, "label_names": None, "interpolation": "bilinear"},
        sampling={"k400": ("uniform_offsets", (4, 3)), "ssv2": ("uniform_offsets", (1, 3))},
        resize_rounding="slowfast",
    ),
)

# A model of this zoo that has tensors that an image model does not (see `read`).
OURS = Layout("InTI", ("",), timm_names, {}, None, dict)
