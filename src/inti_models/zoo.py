"""The model zoo: architectures, data sets and published weights as tables, and timm entry points."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import timm
from timm.layers import LayerNorm
from timm.models import (
    PretrainedCfg,
    build_model_with_cfg,
    generate_default_cfgs,
    register_model,
    resolve_pretrained_cfg,
)
from torch import Tensor

from .assets import ASSETS
from .models.config import InTIConfig
from .models.stages import InTIModel
from .models.trunks import from_image_model
from .models.vision_transformer import InTIVisionTransformer
from .weights import zero_shot
from .weights.checkpoint_filter import checkpoint_filter_fn
from .weights.text_tower import REPOSITORIES, WEIGHTS_FILE, head_part

PAPER = {
    "paper_name": "Dynamic and Compressive Adaptation of Transformers From Images to Videos",
    "paper_ids": "arXiv:2408.06840",
}


@dataclass(frozen=True)
class Architecture:
    """An image ViT of timm's, by its registry name without tag, and a title for it.

    Attributes:
        model_args: arguments that make it, for a CLIP; None where timm makes it by its name.
        prefix: between "inti_" and the architecture's key, in the names of models without a temporal method.
    """

    image_model: str
    model_args: dict[str, Any] | None
    title: str
    prefix: str = ""


_CLIP = {"pre_norm": True, "norm_layer": partial(LayerNorm, eps=1e-5)}
ARCHITECTURES = {
    "b16": Architecture(
        "vit_base_patch16_clip_224",
        dict(patch_size=16, embed_dim=768, depth=12, num_heads=12, **_CLIP),
        "ViT-B/16 CLIP of 224x224 pixels",
        "vit_",
    ),
    "l14": Architecture(
        "vit_large_patch14_clip_224",
        dict(patch_size=14, embed_dim=1024, depth=24, num_heads=16, **_CLIP),
        "ViT-L/14 CLIP of 224x224 pixels",
        "vit_",
    ),
    "l14_336": Architecture(
        "vit_large_patch14_clip_336",
        dict(patch_size=14, embed_dim=1024, depth=24, num_heads=16, **_CLIP),
        "ViT-L/14 CLIP of 336x336 pixels",
        "vit_",
    ),
    "h14": Architecture(
        "vit_huge_patch14_clip_224",
        dict(patch_size=14, embed_dim=1280, depth=32, num_heads=16, **_CLIP),
        "ViT-H/14 CLIP of 224x224 pixels",
        "vit_",
    ),
    "pe_core_t16_384": Architecture("vit_pe_core_tiny_patch16_384", None, "PE-Core T/16 of 384x384 pixels"),
    "pe_core_s16_384": Architecture("vit_pe_core_small_patch16_384", None, "PE-Core S/16 of 384x384 pixels"),
    "pe_core_b16": Architecture("vit_pe_core_base_patch16_224", None, "PE-Core B/16 of 224x224 pixels"),
    "pe_core_l14_336": Architecture("vit_pe_core_large_patch14_336", None, "PE-Core L/14 of 336x336 pixels"),
    "eva02_b16": Architecture("eva02_base_patch16_clip_224", None, "EVA02-CLIP B/16 of 224x224 pixels"),
    "eva02_l14": Architecture("eva02_large_patch14_clip_224", None, "EVA02-CLIP L/14 of 224x224 pixels"),
    "eva02_l14_336": Architecture("eva02_large_patch14_clip_336", None, "EVA02-CLIP L/14 of 336x336 pixels"),
    "siglip2_b16_256": Architecture("vit_base_patch16_siglip_256", None, "SigLIP2 B/16 of 256x256 pixels"),
    "siglip2_l16_256": Architecture("vit_large_patch16_siglip_256", None, "SigLIP2 L/16 of 256x256 pixels"),
    "siglip2_so400m14_224": Architecture("vit_so400m_patch14_siglip_224", None, "SigLIP2 SO400M/14 of 224x224 pixels"),
}

# Tags of timm's image checkpoints that each architecture starts from. True: trained with QuickGELU
# (open_clip's `quick_gelu` flag); False: with GELU; None: with the activation of timm's image model. The default is
# the first with a zero-shot head, of the same name and `zero_shot.SUFFIX`.
IMAGE_TAGS: dict[str, dict[str, bool | None]] = {
    "b16": {
        "openai": True,
        "laion400m_e32": False,
        "laion2b": False,
        "datacompxl": False,
        "dfn2b": True,
        "metaclip_400m": True,
        "metaclip_2pt5b": True,
    },
    "l14": {
        "openai": True,
        "laion400m_e32": False,
        "laion2b": False,
        "datacompxl": False,
        "dfn2b": True,
        "dfn2b_s39b": False,
        "metaclip_400m": True,
        "metaclip_2pt5b": True,
    },
    "l14_336": {"openai": True},
    "h14": {
        "laion2b": False,
        "dfn5b": True,
        "metaclip_2pt5b": True,
        "metaclip_altogether": False,
        "metaclip2_worldwide": True,
    },
    **dict.fromkeys(("pe_core_t16_384", "pe_core_s16_384", "pe_core_b16", "pe_core_l14_336"), {"fb": None}),
    **dict.fromkeys(("eva02_b16", "eva02_l14", "eva02_l14_336"), {"merged2b": None}),
    **dict.fromkeys(("siglip2_b16_256", "siglip2_l16_256", "siglip2_so400m14_224"), {"v2_webli": None}),
}

# Temporal method -> architecture and data set -> arguments of the model, from the official code.
_DENSE = {"sampling": "dense", "frame_stride": 16}
_LOCAL = {"local_reduction": 1.5, "stride": 2}
_TEMPORAL: dict[str, dict[str, dict[str, Any]]] = {
    "st_adapter": {
        "b16_k400": {"temporal_args": {"before": ("mlp",)}, **_DENSE},
        "l14_k400": {"temporal_args": {"before": ("mlp",)}, **_DENSE},
        "b16_ssv2": {"temporal_args": {"before": ("attn", "mlp")}},
        "l14_ssv2": {"temporal_args": {"before": ("attn", "mlp")}},
    },
    "aim": {
        "b16_k400": {"temporal_args": {"scale": 0.5}, **_DENSE},
        "l14_k400": {"temporal_args": {"scale": 0.5}, **_DENSE},
        "b16_ssv2": {"temporal_args": {"scale": 1.0, "adapt_input": True}},
        "l14_ssv2": {"temporal_args": {"scale": 1.0}},
    },
    "uniformerv2": {
        "b16_k400": {"temporal_args": {"num_global": 4}},
        "l14_k400": {"temporal_args": {"num_global": 4}},
        "l14_336_k400": {"temporal_args": {"num_global": 4}},
        "b16_ssv2": {"temporal_args": {"num_global": 8, **_LOCAL}, "num_frames": 16},
        "l14_ssv2": {"temporal_args": {"num_global": 16, **_LOCAL}, "num_frames": 16},
    },
}
_TITLES = {
    "vit": "InTI",
    "st_adapter": "ST-Adapter with InTI",
    "aim": "AIM with InTI",
    "uniformerv2": "UniFormerV2 with InTI",
}
# Models with a temporal method -> their arguments. `compress_at=()` gives the original method.
TEMPORAL_MODELS: dict[str, dict[str, Any]] = {
    f"inti_{method}_{suffix}": {"temporal": method, **args}
    for method, models in _TEMPORAL.items()
    for suffix, args in models.items()
}

# Name of a model on an image-text model -> temporal method ("vit" for none), architecture and data set.
CLIP_MODELS: dict[str, tuple[str, str, str]] = {
    f"inti_{ARCHITECTURES[architecture].prefix}{architecture}_{dataset}": ("vit", architecture, dataset)
    for dataset, architectures in {
        "k400": ARCHITECTURES,
        **dict.fromkeys(("ssv2", "ucf101", "hmdb51"), ("b16", "l14", "l14_336")),
    }.items()
    for architecture in architectures
} | {
    f"inti_{method}_{suffix}": (method, suffix.rpartition("_")[0], suffix.rpartition("_")[2])
    for method, models in _TEMPORAL.items()
    for suffix in models
}

# Tag of weights of a model without compression, for comparison.
NAIVE_TAG = "naive"


@dataclass(frozen=True)
class Dataset:
    """A data set: its title, the file of its class names in the order of class indices, and how many these are."""

    title: str
    labels: str
    num_classes: int


# Suffix of the model name -> data set.
DATASETS = {
    "k400": Dataset("Kinetics-400", "kinetics400.txt", 400),
    "ssv2": Dataset("Something-Something V2", "somethingv2.txt", 174),
    "ucf101": Dataset("UCF101", "ucf101.txt", 101),
    "hmdb51": Dataset("HMDB51", "hmdb51.txt", 51),
    "motiondigits": Dataset("MotionDigits", "motiondigits.txt", 120),
}


@lru_cache
def label_names(dataset: str) -> tuple[str, ...]:
    """Return the class names of a data set in `DATASETS`, in the order of class indices."""
    return tuple((ASSETS / "labels" / DATASETS[dataset].labels).read_text(encoding="utf-8").splitlines())


@dataclass(frozen=True)
class LabelNames:
    """Class names in a registered config, which are read when it is copied; timm hands out nothing but copies."""

    dataset: str

    def __deepcopy__(self, memo: dict[int, Any]) -> tuple[str, ...]:
        return label_names(self.dataset)


def _cfg(dataset: str, **kwargs: Any) -> dict[str, Any]:
    return {
        "num_classes": DATASETS[dataset].num_classes,
        "label_names": LabelNames(dataset),
        "fixed_input_size": True,
        "interpolation": "bicubic",
        "crop_pct": 1.0,
        "first_conv": "patch_embed.proj",
        "classifier": "head",
        "license": "apache-2.0",
        **PAPER,
        **kwargs,
    }


def _image_tag(tag: str) -> str:
    """Return timm's tag of the image checkpoint that one of ours starts from: ``openai_zeroshot`` -> ``openai``."""
    return tag.removesuffix(zero_shot.SUFFIX)


def _default_tag(architecture: str) -> str:
    """Return the tag with a zero-shot head of the first image checkpoint."""
    return next(iter(IMAGE_TAGS[architecture])) + zero_shot.SUFFIX


def _image_cfg(method: str, architecture: str, dataset: str, tag: str) -> dict[str, Any]:
    """Return the config of a model that starts from timm's image checkpoint: its source, mean, std and licence."""
    image_tag = _image_tag(tag)
    image = timm.get_pretrained_cfg(f"{ARCHITECTURES[architecture].image_model}.{image_tag}", allow_unregistered=False)
    assert image is not None
    # Named, so that nothing else is opened: timm's file of the image tower, or the file with both towers.
    repository, file, head = image.hf_hub_id, "model.safetensors", "head starts untrained"
    if tag != image_tag:
        head = "head made of the class names by the text tower"
        repository, file = REPOSITORIES.get(str(repository), repository), WEIGHTS_FILE
    new = "interpolations start" if method == "vit" else "interpolations and temporal modules start"
    return _cfg(
        dataset,
        hf_hub_id=repository,
        hf_hub_filename=file,
        input_size=image.input_size,
        mean=image.mean,
        std=image.std,
        license=image.license or "mit",  # OpenAI's and open_clip's releases without a licence of their own
        origin_url=image.origin_url,
        description=f"Image weights of {ARCHITECTURES[architecture].title.partition(' of ')[0]} ({image_tag}); {new} "
        f"untrained, {head}.",
    )


_CFGS: dict[str, Any] = {
    f"{name}.{tag}": _image_cfg(method, architecture, dataset, tag)
    for name, (method, architecture, dataset) in CLIP_MODELS.items()
    for tag in ((_default_tag(architecture), *IMAGE_TAGS[architecture]) if method == "vit" else ("openai",))
} | {
    f"inti_vit_t8_32_motiondigits.{tag}": _cfg(
        "motiondigits",
        file=str(ASSETS / "weights" / f"{name}.safetensors"),
        input_size=(3, 32, 32),
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        description=f"{what} Trained on MotionDigits: image pre-training on still digits, then video.",
    )
    for tag, name, what in (
        ("motiondigits", "inti_vit_t8_32_motiondigits", "InTI."),
        (NAIVE_TAG, "inti_vit_t8_32_motiondigits.naive", "Every frame through every block, for comparison."),
    )
}
default_cfgs = generate_default_cfgs(_CFGS)


def _create(
    name: str,
    pretrained: bool = False,
    build: Callable[..., InTIModel] = InTIVisionTransformer,
    **kwargs: Any,
) -> InTIModel:
    """Create a model for an entry point: config, model, weights, features_only, and the zero-shot head."""
    if kwargs.get("features_only"):
        kwargs["num_classes"] = 0  # timm drops the head: let no text tower run for it
    towers: dict[str, Tensor] = {}

    def filter_fn(state_dict: dict[str, Tensor], model: InTIModel) -> dict[str, Tensor]:
        if zero_shot.wanted(state_dict, model):
            towers.update(head_part(state_dict))
        return checkpoint_filter_fn(state_dict, model)

    model = build_model_with_cfg(
        build,
        name,
        pretrained,
        pretrained_filter_fn=filter_fn,
        feature_cfg={"out_indices": kwargs.pop("out_indices", 3), "feature_cls": "getter"},
        **kwargs,
    )
    if towers:
        zero_shot.fill_head(model, towers)
    return model


def _create_clip(name: str, pretrained: bool, **kwargs: Any) -> InTIModel:
    """Create a model of `CLIP_MODELS`, with the activation that the weights of its tag were trained with.

    ``temporal_args`` override those of the table, one by one, unless they are for another method.
    """
    method, architecture, _ = CLIP_MODELS[name]
    tag = resolve_pretrained_cfg(name, kwargs.get("pretrained_cfg")).tag
    of_clip = ARCHITECTURES[architecture].model_args
    if of_clip is None:
        image_model = ARCHITECTURES[architecture].image_model
        if (base := kwargs.pop("base", image_model)) != image_model:
            raise ValueError(f"{name} is on {image_model}, not on {base!r}; create inti_vit with this base.")
        return _create(name, pretrained, _build_on, base=image_model, **kwargs)
    quick_gelu = IMAGE_TAGS[architecture].get(_image_tag(tag or ""), False)
    model_args = {**of_clip, "act_layer": "quick_gelu" if quick_gelu else "gelu"}
    model_args |= TEMPORAL_MODELS.get(name, {})
    own = model_args.get("temporal_args", {}) if kwargs.get("temporal", method) == method else {}
    kwargs["temporal_args"] = {**own, **(kwargs.get("temporal_args") or {})}
    return _create(name, pretrained, **{**model_args, **kwargs})


def _register_clip(name: str) -> None:
    """Register the entry point of a model of `CLIP_MODELS`, as a function of this module."""

    def entry_point(pretrained: bool = False, **kwargs: Any) -> InTIModel:
        return _create_clip(name, pretrained, **kwargs)

    method, architecture, dataset = CLIP_MODELS[name]
    frames = TEMPORAL_MODELS.get(name, {}).get("num_frames", 8)
    entry_point.__doc__ = (
        f"{_TITLES[method]}, {ARCHITECTURES[architecture].title}, for {DATASETS[dataset].title}, {frames} frames."
    )
    entry_point.__name__ = entry_point.__qualname__ = name  # by which timm registers it
    globals()[name] = register_model(entry_point)


for _name in CLIP_MODELS:
    _register_clip(_name)


@register_model
def inti_vit_t8_32_motiondigits(pretrained: bool = False, **kwargs: Any) -> InTIModel:
    """Create a tiny InTI ViT for MotionDigits: 32x32 pixels, patch 8, width 96, 6 blocks, 8 frames.

    Its tag "naive" is without compression.
    """
    model_args: dict[str, Any] = {
        "img_size": 32,
        "patch_size": 8,
        "embed_dim": 96,
        "depth": 6,
        "num_heads": 3,
        "reduction": 4,
    }
    name = "inti_vit_t8_32_motiondigits"
    if resolve_pretrained_cfg(name, kwargs.get("pretrained_cfg")).tag == NAIVE_TAG:
        model_args["compress_at"] = ()
    return _create(name, pretrained, **{**model_args, **kwargs})


@register_model
def inti_vit(pretrained: bool = False, base: str | None = None, **kwargs: Any) -> InTIModel:
    """Create an InTI model on any of timm's `VisionTransformer` or `Eva` models: `from_image_model` by name.

    Args:
        pretrained: load weights: those of the saved model this is created from, or the image model's.
        base: name of the image model, with a tag or without, such as "vit_base_patch14_reg4_dinov2".
        **kwargs: arguments of the image model, and fields of `InTIConfig`. With ``text_dim`` there are no classes
            unless ``num_classes`` says how many.

    Raises:
        ValueError: if ``base`` is not the name of a timm model, or that of a video model.
        TypeError: if it is a model of another class, see `from_image_model`.
    """
    if not isinstance(base, str) or not timm.is_model(base):
        raise ValueError(f"base={base!r} is not a timm model; name one of timm.list_models('vit_*').")
    if base.startswith("inti_"):
        raise ValueError(f"base={base!r} is already a video model; create it by its name, or name an image model.")
    if not kwargs.get("pretrained_cfg"):
        kwargs["pretrained_cfg"] = dataclasses.replace(
            timm.get_pretrained_cfg(base) or PretrainedCfg(), architecture="inti_vit"
        ).to_dict()
    if kwargs.get("text_dim") is not None:
        kwargs.setdefault("num_classes", 0)
    return _create("inti_vit", pretrained, _build_on, base=base, **kwargs)


def _build_on(base: str, **kwargs: Any) -> InTIModel:
    config, image_args = InTIConfig.split(kwargs)
    if config.text_dim is None:
        return from_image_model(timm.create_model(base, **image_args), **vars(config))
    num_classes = image_args.pop("num_classes", 0)  # the image model's head is its projection
    image_model = timm.create_model(base, num_classes=config.text_dim, **image_args)
    return from_image_model(image_model, num_classes=num_classes, **vars(config))
