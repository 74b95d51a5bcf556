"""Zero-shot heads: class names, said by CLIP's text tower, as one linear layer after CLIP's image tower.

CLIP (arXiv 2103.00020) classifies an image by the cosine between its projected feature ``v`` and the text feature
``t_k`` of each class: ``logit_k = exp(logit_scale) * <v, t_k> / |v|``, where ``v = x @ P`` with the pooled feature
``x`` and the visual projection ``P``. The head here is ``W = scale * t @ P.T``: ``logit_k = scale * <v, t_k>``. On a
still image it differs from CLIP in the positive factor ``scale * |v| / exp(logit_scale)`` alone: the ranking is the
same, and with ``scale = exp(logit_scale) / typical_norm`` the probabilities are as close as ``|v|`` is to the typical.

Shapes: ``K`` classes, ``P`` templates, ``L`` tokens, ``D`` the width shared by image and text, ``C`` channels.
"""

import hashlib
import json
import logging
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import RemoteEntryNotFoundError
from huggingface_hub.utils import tqdm
from timm import layers
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from ..models.stages import InTIModel
from .download import download
from .tensor_files import digest, read_checkpoint, save_checkpoint

_logger = logging.getLogger(__name__)

TAG = "openai_zeroshot"  # of the pretrained configs whose head is built here
WEIGHTS_FILE, CONFIG_FILE = "open_clip_model.safetensors", "open_clip_config.json"  # open_clip's names on the Hub

_OF_IMAGE_TOWER = ("visual.ln_post.weight", "visual.ln_post.bias", "visual.proj")  # what a head is made of
_VERSION = 2  # of what is in the cache

# Data set (suffix of the model's name) -> prompts with {} for the class. "any" is for a user's own words.
TEMPLATES: dict[str, tuple[str, ...]] = {
    "k400": (  # mostly "-ing": playing cello, pull ups
        "a video of a person {}.",
        "a video of people {}.",
        "a photo of a person {}.",
        "a photo of {}.",
        "a video clip that shows {}.",
        "a still from a video of {}.",
        "an example of {}.",
    ),
    "ucf101": (  # nouns and "-ing": basketball dunk, playing cello
        "a video of a person doing {}.",
        "a video of {}.",
        "a photo of a person doing {}.",
        "a photo of {}.",
        "a still from a video of {}.",
        "a person practicing {}.",
        "an example of {}.",
    ),
    "hmdb51": (  # bare verbs and nouns: shake hands, cartwheel
        "a video of a person: {}.",
        "a video of the action {}.",
        "a photo of the action {}.",
        "a movie scene in which people {}.",
        "a still from a video, action: {}.",
        "a person about to {}.",
    ),
    "ssv2": (  # whole sentences: Pushing something from left to right
        "{}.",
        "a video of someone {}.",
        "a photo of someone {}.",
        "a close-up of hands: {}.",
        "a still from a video: {}.",
    ),
    "any": (
        "{}.",
        "a video of {}.",
        "a photo of {}.",
        "a video of a person {}.",
        "a photo of a person {}.",
        "a still from a video of {}.",
    ),
}


def _split_camel_case(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower()


def _split_underscores(name: str) -> str:
    return name.replace("_", " ")


# Data sets whose class names are not words yet.
CLASS_WORDS: dict[str, Callable[[str], str]] = {
    "ucf101": _split_camel_case,
    "hmdb51": _split_underscores,
    "any": _split_underscores,
}


def class_words(name: str, dataset: str) -> str:
    """A data set's class name in words: ``ApplyEyeMakeup`` (ucf101) -> ``apply eye makeup``."""
    return CLASS_WORDS.get(dataset, str)(name)


def wanted(state_dict: Mapping[str, Tensor], model: InTIModel) -> bool:
    """Whether ``model`` is to get a zero-shot head from this file.

    It is where the pretrained config asks for it, the file has CLIP's two towers, and the model has the config's
    classes: with other ones timm drops the head.
    """
    cfg = _cfg(model)
    return (
        cfg.get("tag") == TAG
        and model.num_classes == cfg.get("num_classes") == len(cfg.get("label_names") or ())
        and has_towers(state_dict)
    )


def fill_head(model: InTIModel, state_dict: Mapping[str, Tensor]) -> None:
    """Fill the head of ``model`` for the label names of its data set, if it is `wanted` from this file.

    Raises:
        ValueError: see `set_zero_shot_head`.
    """
    if wanted(state_dict, model):
        dataset = str(_cfg(model).get("architecture")).rpartition("_")[2]
        names = [class_words(name, dataset) for name in _cfg(model)["label_names"]]
        head = build_head(state_dict, model, names, dataset if dataset in TEMPLATES else None)
        cast(nn.Linear, model.head).load_state_dict(head)


def has_towers(state_dict: Mapping[str, Tensor]) -> bool:
    """Whether a file has an image tower and a text tower, both with a projection, in open_clip's layout."""
    return {*_OF_IMAGE_TOWER, "token_embedding.weight", "text_projection", "logit_scale"} <= state_dict.keys()


def towers_part(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Those tensors of a file with two towers that a zero-shot head is made of."""
    return {k: v for k, v in state_dict.items() if k in _OF_IMAGE_TOWER or not k.startswith("visual.")}


def build_head(
    state_dict: Mapping[str, Tensor],
    model: InTIModel,
    class_names: Sequence[str],
    templates: Sequence[str] | str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
) -> dict[str, Tensor]:
    """The zero-shot head of ``model`` for a file with CLIP's two towers, from the cache if it was built before.

    Args:
        state_dict: tensors of open_clip's ``open_clip_model.safetensors``.
        model: the model that the head is for; its weights do not matter.
        class_names: in words.
        templates: prompts with ``{}`` for the class, or a key of `TEMPLATES`; None for ``TEMPLATES["any"]``.
        cache_dir: folder of heads built before; None for ``inti_models/zero_shot`` in ``HF_HOME``. The files are
            named by a digest of everything that the head depends on.

    Returns:
        ``weight`` (K, C) and ``bias`` (K,), zero, in float32.

    Raises:
        ValueError: no, empty or equal class names; a template without one ``{}``; a prompt too long; a file
            without CLIP's towers, of another width or with weights that are not finite.
    """
    names, templates = _check_classes(class_names), _check_templates(templates)
    _check_towers(state_dict, model)
    heads, quick_gelu = _text_conventions(state_dict, model)

    settings = json.dumps([_VERSION, names, templates, heads, quick_gelu])
    key = hashlib.sha256(f"{settings}\n{digest(towers_part(state_dict))}".encode()).hexdigest()
    folder = Path(constants.HF_HOME, "inti_models", "zero_shot") if cache_dir is None else Path(cache_dir)
    path = folder / f"{key}.safetensors"
    head = nn.Linear(model.num_features, len(names), device="meta")
    try:
        head.load_state_dict(read_checkpoint(path), assign=True)
    except (OSError, ValueError, RuntimeError):  # not there, or damaged
        prompts = [[template.replace("{}", name) for template in templates] for name in names]
        text = text_features(state_dict, prompts, heads, quick_gelu).double()  # K D
        scale = state_dict["logit_scale"].double().squeeze().exp() / typical_norm(state_dict)
        weight = (scale * text @ state_dict["visual.proj"].double().T).float()  # K C
        if not weight.isfinite().all():
            raise ValueError(
                f"{_source_name(model)} has weights that are not finite; download or convert it again."
            ) from None
        head.load_state_dict({"weight": weight, "bias": torch.zeros(len(names))}, assign=True)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            save_checkpoint(head, path)
        except OSError as error:  # costs time, nothing else
            _logger.warning(f"The zero-shot head is not kept in {folder} ({error}); it will be built again.")
    return head.state_dict()


def set_zero_shot_head(model: InTIModel, classes: Sequence[str], templates: Sequence[str] | str | None = None) -> None:
    """Give a model a classifier for your own words, head, number of classes and label names: no training needed.

        model = inti_models.load("inti_vit_b16_k400", num_classes=0)
        inti_models.set_zero_shot_head(model, ["riding a bike", "feeding goats"])

    The text tower is read from the repository that the model's pretrained config names (any CLIP tag), or from the
    file where it names one; it has to be the checkpoint that the model's trunk was loaded from.

    Args:
        model: a model of the zoo; its new head has its precision and is on its device.
        classes: a few words each, which differ; underscores, as folders have them, are asked for as blanks.
        templates: prompts with ``{}`` for the class, or a key of `TEMPLATES`; None for ``TEMPLATES["any"]``.

    Raises:
        ValueError: no, empty or equal classes; a template without one ``{}``; a prompt too long; a file without
            CLIP's towers, of another width or with weights that are not finite; or a model that does not start from
            a CLIP.
        OSError: the file with the towers is missing, forbidden, or cannot be fetched; see `load`.
    """
    words = classes if isinstance(classes, str) else [class_words(name, "any") for name in classes]
    names, templates = _check_classes(words), _check_templates(templates)  # before a download
    head = build_head(_read_towers(model), model, names, templates)
    model.reset_classifier(len(names))
    cast(nn.Linear, model.head).load_state_dict(head)
    model.pretrained_cfg = {**model.pretrained_cfg, "num_classes": len(names), "label_names": tuple(classes)}
    model.default_cfg = model.pretrained_cfg  # timm's old name for it


@dataclass(frozen=True)
class SharedSpace:
    """The space into which a CLIP projects images and texts.

    Attributes:
        projection: of pooled features, (C, D).
        towers: tensors of CLIP's file, those of the text tower among them.
        heads: attention heads of the text tower.
        quick_gelu: whether it was trained with QuickGELU rather than GELU.
    """

    projection: Tensor
    towers: Mapping[str, Tensor]
    heads: int
    quick_gelu: bool

    @property
    def context_length(self) -> int:
        """Tokens of a text; longer ones are cut."""
        return self.towers["positional_embedding"].shape[0]

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Return unit vectors of texts, (texts, D), in float32."""
        return text_features(self.towers, [[text] for text in texts], self.heads, self.quick_gelu, truncate=True)


def shared_space(model: InTIModel) -> SharedSpace:
    """Return the space that the CLIP which a model starts from shares with texts; see `set_zero_shot_head`.

    Raises:
        ValueError: the model does not start from a CLIP, or its file has no towers of CLIP's.
        OSError: the file with the towers is missing, forbidden, or cannot be fetched.
    """
    towers = _read_towers(model)
    _check_towers(towers, model)
    heads, quick_gelu = _text_conventions(towers, model)
    return SharedSpace(towers["visual.proj"].float(), towers_part(towers), heads, quick_gelu)


def _check_classes(names: Sequence[str]) -> list[str]:
    """Class names with single blanks; a ValueError unless there are some, not empty and different for CLIP."""
    if isinstance(names, str):
        raise ValueError(f"classes={names!r} is one string; pass a list with a string for each class.")
    names = [" ".join(name.split()) for name in names]
    if not names:
        raise ValueError("There are no classes; name at least one.")
    if "" in names:
        raise ValueError(f"Class {names.index('')} has an empty name; give it one, or leave it out.")
    seen: set[str] = set()
    for name in names:
        if name.lower() in seen:
            raise ValueError(f"The class {name!r} is there twice (case does not count); leave one out.")
        seen.add(name.lower())
    return names


def _check_templates(templates: Sequence[str] | str | None) -> list[str]:
    """The templates, by name or as they are; a ValueError for an unknown name, none, or one without one ``{}``."""
    if templates is None:
        templates = "any"
    if isinstance(templates, str):
        if templates not in TEMPLATES:
            raise ValueError(f"There are no templates {templates!r}; choose one of {', '.join(TEMPLATES)}, or a list.")
        templates = TEMPLATES[templates]
    if not templates:
        raise ValueError("There are no templates; pass at least one, such as 'a video of {}.'.")
    for template in templates:
        if template.count("{}") != 1:
            raise ValueError(f"Template {template!r} has no place for the class; write {{}} in it, once.")
    return list(templates)


def _cfg(model: InTIModel) -> dict[str, Any]:
    """The model's pretrained config; empty for a model that was not made by an entry point."""
    return getattr(model, "pretrained_cfg", None) or {}


def _source_name(model: InTIModel) -> str:
    """File or repository of the model's pretrained config, for messages."""
    cfg = _cfg(model)
    return str(cfg.get("file") or cfg.get("hf_hub_id") or "The checkpoint")


def _check_towers(state_dict: Mapping[str, Tensor], model: InTIModel) -> None:
    if not has_towers(state_dict) or "logit_bias" in state_dict:
        raise ValueError(
            f"{_source_name(model)} has no text tower of CLIP's kind; a zero-shot head needs a CLIP in open_clip's "
            f"layout, such as the {WEIGHTS_FILE} of the tags openai, laion2b and datacompxl."
        )
    widths = {state_dict[key].shape[0] for key in _OF_IMAGE_TOWER}
    if widths != {model.num_features}:
        raise ValueError(
            f"{_source_name(model)} is a CLIP of width {' and '.join(map(str, sorted(widths)))}, the model has "
            f"{model.num_features}; create the model of the same architecture."
        )


def _repository(model: InTIModel) -> tuple[str, str | None]:
    """Repository and revision of ``hf_hub_id``."""
    repo_id, _, revision = _cfg(model)["hf_hub_id"].partition("@")
    return repo_id, revision or None


def _read_towers(model: InTIModel) -> dict[str, Tensor]:
    """All tensors of the file that the model's pretrained config names, or of its repository's `WEIGHTS_FILE`."""
    cfg = _cfg(model)
    if cfg.get("source") in ("hf-hub", "local-dir") or not (cfg.get("file") or cfg.get("hf_hub_id")):
        raise ValueError(
            f"{cfg.get('architecture') or 'The model'} does not start from a CLIP on the Hub; create one that does, "
            "such as inti_vit_b16_k400.openai."
        )
    if cfg.get("file"):
        path = Path(cfg["file"])
    else:
        repo_id, revision = _repository(model)
        try:
            path = download(repo_id, WEIGHTS_FILE, revision)
        except FileNotFoundError as error:
            if isinstance(error.__cause__, RemoteEntryNotFoundError):
                raise ValueError(
                    f"{repo_id} has no {WEIGHTS_FILE}, so there is no text tower; choose a tag that starts from a CLIP."
                ) from None
            raise
    return read_checkpoint(path)


def _text_conventions(state_dict: Mapping[str, Tensor], model: InTIModel) -> tuple[int, bool]:
    """What the tensors of a text tower do not say: its number of heads, and QuickGELU (True) or GELU.

    From the config beside the weights; without one heads are 64 wide and the activation is the model's, as in
    all of OpenAI's CLIPs and those of the zoo's tags.

    Raises:
        ValueError: the config has a text tower of another kind, or there is none and the width is no multiple of 64.
    """
    width = state_dict["text_projection"].shape[0]
    config = _read_config(model, needed=width % 64 != 0)
    text_cfg = dict(config.get("text_cfg") or {})
    if text_cfg.get("width") not in (None, width):  # of another file: the weights were named by hand
        config, text_cfg = {}, {}
    heads = text_cfg.pop("heads", None) or width // 64
    if heads < 1 or width % heads:
        raise ValueError(
            f"{_source_name(model)} has a text tower of width {width}, which leaves the number of its heads open; "
            f"put its {CONFIG_FILE} beside it."
        )
    plain = {"context_length", "vocab_size", "width", "layers", "mlp_ratio"}  # of these the tensors tell
    other = sorted(key for key in text_cfg.keys() - plain if text_cfg[key] and text_cfg[key] != "argmax")
    if other:
        raise ValueError(
            f"{_source_name(model)} has a text tower that is not CLIP's ({other[0]} in its {CONFIG_FILE}); a zero-shot "
            "head needs a plain CLIP, such as the tags openai, laion2b and datacompxl."
        )
    own_act = isinstance(cast(Block, model.blocks[0]).mlp.act, layers.QuickGELU)
    return heads, bool(config.get("quick_gelu", own_act))


def _read_config(model: InTIModel, needed: bool) -> dict[str, Any]:
    """``model_cfg`` of the `CONFIG_FILE` beside the weights or in the Hub's cache; empty where it cannot be had.

    The Hub itself is asked only if the weights are from there, or the file is ``needed``: without a network the
    client takes half a minute to say so.
    """
    cfg = _cfg(model)
    try:
        path = Path(cfg["file"]).with_name(CONFIG_FILE) if cfg.get("file") else None
        if (path is None or not path.is_file()) and cfg.get("hf_hub_id"):
            repo_id, revision = _repository(model)
            found = try_to_load_from_cache(repo_id, CONFIG_FILE, revision=revision)
            if not isinstance(found, str) and (path is None or needed):
                found = hf_hub_download(repo_id, CONFIG_FILE, revision=revision)
            path = Path(found) if isinstance(found, str) else None
        return {} if path is None else dict(json.loads(path.read_text(encoding="utf-8"))["model_cfg"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        _logger.info(f"No {CONFIG_FILE} of {_source_name(model)} ({error}): taking CLIP's conventions.")
        return {}


def text_features(
    state_dict: Mapping[str, Tensor],
    prompts: Sequence[Sequence[str]],
    heads: int,
    quick_gelu: bool,
    batch_size: int = 256,
    truncate: bool = False,
) -> Tensor:
    """One unit vector for each class: the mean of the unit vectors of its prompts, made a unit vector again.

    open_clip's text tower and tokenizer make them, on the CPU in float32; a progress bar shows meanwhile.

    Args:
        state_dict: tensors with those of the text tower among them.
        prompts: P for each of K classes.
        heads: attention heads of the text tower.
        quick_gelu: whether it was trained with QuickGELU rather than GELU.
        batch_size: prompts at once.
        truncate: cut prompts that are too long, as CLIP does, instead of refusing them.

    Returns:
        (K, D) in float32.

    Raises:
        ValueError: a prompt is longer than the tower's context, or the tower's vocabulary is not that of CLIP.
    """
    import open_clip  # slow to import, and needed for the text tower only

    context_length = state_dict["positional_embedding"].shape[0]
    flat = [prompt for of_class in prompts for prompt in of_class]
    tokens = open_clip.tokenize(flat, context_length=context_length + 1)  # KP L+1
    too_long = tokens[:, context_length].nonzero()
    if truncate:
        tokens = open_clip.tokenize(flat, context_length=context_length)
    elif len(too_long):
        raise ValueError(f"The prompt {flat[too_long[0]]!r} has over {context_length} tokens; shorten the class name.")
    vocab_size = len(state_dict["token_embedding.weight"])
    if int(tokens.max()) + 1 != vocab_size:  # the end of text, which each prompt has, is the last of CLIP's tokens
        raise ValueError(
            f"The text tower has {vocab_size} tokens, which are not those of CLIP's tokenizer; choose another CLIP."
        )
    # The tower is causal: what follows the last end of text has no say in any feature.
    tokens = tokens[:, : int(tokens.argmax(dim=-1).max()) + 1]

    tower = _text_tower(state_dict, tokens.shape[1], heads, quick_gelu)
    features: list[Tensor] = []
    with torch.no_grad(), tqdm(total=len(flat), desc="Text tower", unit="prompt") as progress:
        for batch in tokens.split(batch_size):
            features.append(F.normalize(tower(batch), dim=-1))
            progress.update(len(batch))
    return F.normalize(torch.cat(features).unflatten(0, (len(prompts), -1)).mean(dim=1), dim=-1)


def _text_tower(state_dict: Mapping[str, Tensor], context_length: int, heads: int, quick_gelu: bool) -> nn.Module:
    """open_clip's text tower with the tensors of a checkpoint, cut to a context of so many tokens."""
    from open_clip.transformer import QuickGELU, TextTransformer

    state = {k: v.float() for k, v in state_dict.items() if k.startswith(("transformer.", "ln_final."))}
    for key in ("token_embedding.weight", "text_projection"):
        state[key] = state_dict[key].float()
    state["positional_embedding"] = state_dict["positional_embedding"][:context_length].float()
    vocab_size, width = state["token_embedding.weight"].shape
    with torch.device("meta"):  # no second copy of the weights, and no draw from the global generator
        tower = TextTransformer(
            context_length=context_length,
            vocab_size=vocab_size,
            width=width,
            heads=heads,
            layers=len({key.split(".")[2] for key in state if key.startswith("transformer.resblocks.")}),
            mlp_ratio=len(state["transformer.resblocks.0.mlp.c_fc.weight"]) / width,
            output_dim=state["text_projection"].shape[1],
            act_layer=QuickGELU if quick_gelu else nn.GELU,
        )
    try:
        tower.load_state_dict(state, assign=True)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"The text tower is not CLIP's ({reason}); choose another CLIP.") from None
    tower.attn_mask = tower.build_causal_mask()  # a buffer that is not saved
    return tower.eval()


def typical_norm(state_dict: Mapping[str, Tensor]) -> float:
    """Norm that a projected feature ``v`` has for a normalised token ``z`` without preferred direction.

    The last layer norm gives ``x = gain * z + bias`` where each of the ``C`` values of ``z`` has mean 0 and mean square
    1, so that with uncorrelated values ``E|v|^2 = |diag(gain) @ P|^2 + |bias @ P|^2``. Features of a trained tower are
    correlated, so that theirs differs by a factor, which acts as a temperature: on six random miniatures it was 0.73 to
    1.13, with a deviation of 5% between images; on published checkpoints it is not measured.

    Args:
        state_dict: tensors with those of the image tower among them.
    """
    gain, bias, projection = (state_dict[key].double() for key in _OF_IMAGE_TOWER)  # C, C, C D
    return ((gain.unsqueeze(1) * projection).square().sum() + (bias @ projection).square().sum()).sqrt().item()
