"""Turn the visual tower of a foreign CLIP into a model of this zoo: `config.json` and `model.safetensors`.

    python hub/convert.py open_clip_model.safetensors --model inti_vit_b16_k400 --output converted

The trunk is the file's; the interpolations start neutral and the head untrained. Every tensor of the file is either
used or dropped for a reason that is printed, and every tensor of the trunk has to be in the file.

A file does not say everything: the activation and the number of heads are read from the configuration beside it,
where there is one, else they are those of ``--model`` (``inti_vit_b16_k400.laion2b`` has GELU, the default tag
QuickGELU); ``--set`` goes before both.

Files of PyTorch (.pt, .pth, .pyth, .bin) are read with ``weights_only=True``: code in them is never run.
"""

import argparse
import json
import pickle
import re
import sys
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import inti_models
from inti_models.checkpoints import HEAD, INTERPOLATIONS, is_finite, read_checkpoint
from inti_models.zoo import create_model

Tensors = dict[str, Tensor]
PICKLES = (".pt", ".pth", ".pyth", ".bin")


def _rename(key: str, rules: Mapping[str, str]) -> str:
    for pattern, replacement in rules.items():
        key = re.sub(pattern, replacement, key)
    return key


def openai_names(key: str) -> tuple[str, ...]:
    """OpenAI's and open_clip's name of the tensor that is ``key`` in the model."""
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
    """timm's name: the model is a timm `VisionTransformer`."""
    return (key,)


def transformers_names(key: str) -> tuple[str, ...]:
    """transformers' names: query, key and value are apart."""
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


def open_clip_options(config: dict[str, Any]) -> dict[str, Any]:
    """Model options that an `open_clip_config.json` states."""
    model, vision = config["model_cfg"], config["model_cfg"]["vision_cfg"]
    if "timm_model_name" in vision:
        return {}
    return {
        "act_layer": "quick_gelu" if model.get("quick_gelu") else "gelu",
        "num_heads": vision["width"] // vision.get("head_width", 64),
    }


def timm_options(config: dict[str, Any]) -> dict[str, Any]:
    """Model options that timm's `config.json` states.

    An architecture without "quickgelu" in its name states nothing: OpenAI's weights, which were trained with
    QuickGELU, are published under such a name too.
    """
    named = {"act_layer": "quick_gelu"} if "quickgelu" in config["architecture"] else {}
    stated = config.get("model_args", {})
    return named | {name: stated[name] for name in ("act_layer", "num_heads") if name in stated}


def transformers_options(config: dict[str, Any]) -> dict[str, Any]:
    """Model options that transformers' `config.json` states; what it leaves out has the default of its class."""
    if not config["model_type"].startswith("clip"):
        raise ValueError(f"{config['model_type']} is not CLIP.")
    vision = config.get("vision_config", config)
    activation = vision.get("hidden_act", "quick_gelu")
    return {
        "act_layer": {"gelu_pytorch_tanh": "gelu_tanh"}.get(activation, activation),
        "num_heads": vision.get("num_attention_heads", 12),
        "norm_eps": vision.get("layer_norm_eps", 1e-5),
    }


@dataclass(frozen=True)
class Layout:
    """How a library names the tensors of a checkpoint.

    Attributes:
        title: what to call it.
        prefixes: what its names may start with; the first that fits is taken.
        names: the model's key -> the library's names, without prefix, of the tensors whose concatenation it is.
        dropped: pattern of a whole key -> why the model has no use for it.
        config: name of the configuration file that may lie beside a checkpoint.
        options: what is in it -> options of the model.
    """

    title: str
    prefixes: tuple[str, ...]
    names: Callable[[str], tuple[str, ...]]
    dropped: Mapping[str, str]
    config: str
    options: Callable[[dict[str, Any]], dict[str, Any]]


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
)


@dataclass(frozen=True)
class Source:
    """A foreign checkpoint, read but not interpreted.

    Attributes:
        path: its file.
        tensors: by the file's names.
        layout, prefix: how it names them.
        dropped: the file's name -> why it is not used.
    """

    path: Path
    tensors: Tensors
    layout: Layout
    prefix: str
    dropped: dict[str, str] = field(default_factory=dict)


def read(path: Path) -> Source:
    """Read a checkpoint and recognise its layout.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not a checkpoint that can be read without running code, or of no known layout.
    """
    if not path.is_file():
        what = "is a folder; name the weights file in it" if path.is_dir() else "does not exist; check the path"
        raise FileNotFoundError(f"{path} {what}.")
    loaded: Any = read_checkpoint(path) if path.suffix == ".safetensors" else _load_pickle(path)
    dropped: dict[str, str] = {}
    for wrapper in ("state_dict", "model"):  # a training run's checkpoint
        if isinstance(loaded, Mapping) and isinstance(loaded.get(wrapper), Mapping):
            dropped = {str(name): "state of a training run" for name in loaded if name != wrapper}
            loaded = loaded[wrapper]
            break
    if not isinstance(loaded, Mapping) or not loaded or not all(isinstance(v, Tensor) for v in loaded.values()):
        raise ValueError(f"{path} is not a state dict, tensors by name; save the model's state_dict() alone.")
    tensors = {str(name): tensor for name, tensor in loaded.items()}
    if all(name.startswith("module.") for name in tensors):  # saved from DistributedDataParallel
        tensors = {name.removeprefix("module."): tensor for name, tensor in tensors.items()}

    for layout in LAYOUTS:
        for prefix in layout.prefixes:
            if prefix + layout.names("patch_embed.proj.weight")[0] in tensors:
                return Source(path, tensors, layout, prefix, dropped)
    titles = ", ".join(layout.title for layout in LAYOUTS)
    raise ValueError(f"{path} is of no layout known here ({titles}): no vision transformer's patch embedding is in it.")


def _load_pickle(path: Path) -> Any:
    if path.suffix not in PICKLES:
        raise ValueError(f"{path} is neither .safetensors nor one of {', '.join(PICKLES)}; rename or convert it.")
    if _is_torchscript(path):
        raise ValueError(
            f"{path} is a TorchScript archive, as OpenAI publishes its models, and reading it would run the code in "
            "it; take the same weights as open_clip_model.safetensors from open_clip's repository on the Hub."
        )
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise ValueError(
            f"{path} is damaged, or holds more than tensors, which could run code when read; save the model's "
            "state_dict() alone, best as safetensors."
        ) from None
    except Exception:  # a damaged file may fail anywhere in torch's reader
        raise ValueError(f"{path} is not a whole checkpoint of PyTorch's; download it again.") from None


def _is_torchscript(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/constants.pkl") for name in archive.namelist())
    except zipfile.BadZipFile:
        return False


def stated_options(source: Source) -> dict[str, Any]:
    """Options of the model that the configuration beside the file states; {} where there is none.

    Raises:
        ValueError: it is not a configuration of the library that the tensors are named by.
    """
    path = source.path.parent / source.layout.config
    if not path.is_file():
        return {}
    try:
        return source.layout.options(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ValueError(
            f"{path} is not a configuration of {source.layout.title}, whose names the tensors of {source.path.name} "
            "have; move the weights to a folder of their own, or the right configuration beside them."
        ) from None


def map_tensors(source: Source, own: Mapping[str, Tensor]) -> tuple[Tensors, dict[str, str]]:
    """The file's tensors by the model's names.

    Args:
        source: the checkpoint.
        own: the model's state dict; its interpolations and head are not looked for.

    Returns:
        The tensors of the trunk, in the model's shapes and types; the file's names of those that are not used, each
        with the reason.

    Raises:
        ValueError: a tensor is missing, unknown, of another shape or type, or not finite.
    """
    trunk = {key: tensor for key, tensor in own.items() if not key.startswith((INTERPOLATIONS, HEAD))}
    names = {key: tuple(source.prefix + name for name in source.layout.names(key)) for key in trunk}
    used = {name for parts in names.values() for name in parts}
    dropped = dict(source.dropped)
    unknown = []
    for name in source.tensors.keys() - used:
        reasons = [why for pattern, why in source.layout.dropped.items() if re.fullmatch(pattern, name)]
        if reasons:
            dropped[name] = reasons[0]
        else:
            unknown.append(name)
    _refuse(source, used - source.tensors.keys(), "lacks", "that the model needs")
    _refuse(source, unknown, "has", "that the model has no place for")

    mapped = {}
    for key, parts in names.items():
        target = trunk[key]
        shape = (target.shape[0] // len(parts), *target.shape[1:])
        for name in parts:
            tensor = source.tensors[name]
            leading = (1,) * (len(shape) - tensor.ndim)  # class token: (C,) -> (1, 1, C)
            if (*leading, *tensor.shape) != shape:
                raise ValueError(
                    f"{source.path} has {name} in shape {tuple(tensor.shape)} where the model has {shape}; name the "
                    "model of that size, or give its size with --set."
                )
            if not tensor.is_floating_point() or not is_finite(tensor):
                raise ValueError(f"{source.path} has {name} with values that are not finite numbers; it is damaged.")
        joined = torch.cat([source.tensors[name] for name in parts]) if len(parts) > 1 else source.tensors[parts[0]]
        mapped[key] = joined.reshape(target.shape).to(target.dtype)
    return mapped, dict(sorted(dropped.items()))


def _refuse(source: Source, names: Sequence[str] | set[str], verb: str, why: str) -> None:
    if names:
        first, *others = sorted(names)
        rest = f" and {len(others)} more" if others else ""
        raise ValueError(
            f"{source.path} (named as in {source.layout.title}) {verb} {first}{rest} {why}; name the model of the same "
            "architecture and options."
        )


def convert(
    path: Path, model_name: str, options: Mapping[str, Any] | None = None, license: str | None = None
) -> tuple[inti_models.InTIVisionTransformer, Source, dict[str, str]]:
    """Build a model of the zoo with the trunk of a foreign checkpoint.

    Args:
        path: the checkpoint.
        model_name: a model of the zoo, with a tag (whose activation, mean and std it gets) or without.
        options: of the model; they go before what the configuration beside the file states.
        license: the checkpoint's, by its identifier on the Hub. None: not known, so none is claimed.

    Returns:
        The model, what was read, and the names of the tensors that were not used, with the reasons.
    """
    source = read(path)
    stated = stated_options(source)
    eps = stated.pop("norm_eps", None)
    arguments = {**stated, **(options or {})}
    try:
        model = create_model(model_name, **arguments)
    except (TypeError, AssertionError, KeyError, RuntimeError) as error:  # timm's, of arguments it does not check
        raise ValueError(f"{model_name} cannot be built with {arguments} ({error}); change --set.") from error
    if eps is not None and eps != model.norm.eps:
        raise ValueError(f"{path} was made with layer norms of eps {eps}, {model_name} has {model.norm.eps}.")
    own = model.state_dict()
    mapped, dropped = map_tensors(source, own)
    model.load_state_dict({**own, **mapped})
    model.pretrained_cfg.update(
        tag=None,
        license=license,
        origin_url=None,
        description=(
            f"Trunk converted from {path.name}, a checkpoint of {source.layout.title}; "
            "interpolations and head start untrained."
        ),
    )
    return model.eval(), source, dropped


def option(text: str) -> tuple[str, Any]:
    """NAME=VALUE, the value as JSON if it is JSON, else as text."""
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE, such as embed_dim=64 or compress_at=[4,10]")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command. Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, metavar="SOURCE", help=f".safetensors or {', '.join(PICKLES)}")
    parser.add_argument("--model", required=True, help="name of a model of the zoo, with a tag or without")
    parser.add_argument("--output", type=Path, required=True, help="folder to make")
    parser.add_argument("--set", type=option, action="append", default=[], metavar="NAME=VALUE", dest="options")
    parser.add_argument("--license", help="the source's license, by its identifier on the Hub")
    args = parser.parse_args(argv)
    torch.manual_seed(0)  # of the head
    try:
        if args.output.exists():
            raise FileExistsError(f"{args.output} exists; choose another folder, or remove it first.")
        model, source, dropped = convert(args.source, args.model, dict(args.options), args.license)
        inti_models.save_pretrained(model, args.output, description=model.pretrained_cfg["description"])
    except (OSError, ValueError) as error:
        print(f"convert: {error}", file=sys.stderr)
        return 1
    for why in dict.fromkeys(dropped.values()):
        names = [name for name in dropped if dropped[name] == why]
        print(f"dropped  {', '.join(names[:3])}{f' and {len(names) - 3} more' if len(names) > 3 else ''}: {why}")
    block: Any = model.blocks[0]
    print(f"layout   {source.layout.title}; {type(block.mlp.act).__name__}, {block.attn.num_heads} heads")
    print(f"new      {model.num_classes} classes, compress_at={model.compress_at}")
    print(f"wrote    {args.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
