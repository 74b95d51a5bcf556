"""Zero-shot heads: class names, encoded by an image-text model's text tower, as a classifier of its image features.

CLIP (arXiv 2103.00020) and SigLIP (arXiv 2303.15343) classify an image by the cosine between its projected feature and
the text feature of each class, times a scale, plus SigLIP's bias. The head here, a `CosineHead`, does so with the mean
of the features of a clip's frames, so that on a still image the logits are those of the image-text model itself.

**Probabilities** come in two forms. ``logits.softmax(-1)`` is the probability of each class among those that were
named: it sums to one, whether any of them fits or not, unless background prompts compete with them
(`BACKGROUND`). ``logits.sigmoid()`` is the probability of each class by itself, and is meaningful only for models
trained with a sigmoid (SigLIP and SigLIP2, whose head has a bias): none or several may be near one. Their heads are
those of several labels a video (`Probabilities.multi_label`).
"""

import hashlib
import html
import json
import logging
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import constants
from torch import Tensor

from ..models.heads import CosineHead, set_text_head
from ..models.stages import InTIModel
from .tensor_files import DIGEST, read_checkpoint, save_checkpoint
from .text_tower import SAVED, Towers, has_towers, read_towers, towers_of

_logger = logging.getLogger(__name__)

SUFFIX = "_zeroshot"  # of the tags whose head is built here, after the tag of their image-text model
_VERSION = 3  # of what is in the cache

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

# Prompts of what no class is: they compete with the classes, and mean "none of these".
BACKGROUND: tuple[str, ...] = (
    "a video.",
    "a photo.",
    "a video of something else.",
    "a video of nothing in particular.",
    "a photo of an empty scene.",
    "a person doing something else.",
    "a blurry photo.",
)


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
    """Return a data set's class name in words: ``ApplyEyeMakeup`` (ucf101) -> ``apply eye makeup``."""
    return CLASS_WORDS.get(dataset, str)(name)


def wanted(state_dict: Mapping[str, Tensor], model: InTIModel) -> bool:
    """Return whether ``model`` is to get a zero-shot head from this file.

    It is if the pretrained config asks for it, the file has both towers, and the model has the config's classes:
    with others timm drops the head.
    """
    cfg = _cfg(model)
    return (
        str(cfg.get("tag")).endswith(SUFFIX)
        and model.num_classes == cfg.get("num_classes") == len(cfg.get("label_names") or ())
        and has_towers(state_dict)
    )


def fill_head(model: InTIModel, state_dict: Mapping[str, Tensor], path: Path | None = None) -> None:
    """Give ``model`` the head for the label names of its data set, if it is `wanted` from this file.

    Args:
        model: a model of the zoo.
        state_dict: tensors of a file, or their `head_part`.
        path: the file; None for the one that the model's pretrained config names.

    Raises:
        ValueError: see `set_zero_shot_head`.
    """
    if wanted(state_dict, model):
        cfg = _cfg(model)
        if path is None and cfg.get("file") and cfg.get("source") not in SAVED:
            path = Path(cfg["file"])
        dataset = str(cfg.get("architecture")).rpartition("_")[2]
        words = [class_words(name, dataset) for name in cfg["label_names"]]
        templates = dataset if dataset in TEMPLATES else None
        _set_head(model, towers_of(model, state_dict, path), words, cfg["label_names"], templates)


def set_zero_shot_head(
    model: InTIModel,
    classes: Sequence[str],
    templates: Sequence[str] | str | None = None,
    background: Sequence[str] = (),
) -> None:
    """Give a model a classifier for your own words: head, number of classes and label names, without training.

        model = inti_models.load("inti_vit_b16_k400", num_classes=0)
        inti_models.set_zero_shot_head(model, ["riding a bike", "feeding goats"])

    The text tower is that of the image-text model that the model's trunk was loaded from: in the file or repository
    that its pretrained config names, or, for a model that was saved, in the one that its config.json states. It works
    on a model that was trained since, too; how well words still fit is not measured.

    Args:
        model: a model that starts from an image-text model; its new head, a `CosineHead`, has its precision and is on
            its device.
        classes: a few words each; underscores, as in folder names, are read as blanks. A warning names those
            that occur twice, or are spelled with HTML entities, and those that were cut at a word to fit into the
            text tower's context.
        templates: prompts with ``{}`` for the class, or a key of `TEMPLATES`; None for ``TEMPLATES["any"]``.
        background: prompts, as they stand, that compete with the classes and mean "none of these", such as
            `BACKGROUND`. They become the last classes of the model (`Probabilities.background`).

    Raises:
        ValueError: for no or empty classes; a template without one ``{}``; one that leaves no room for a class; a file
            without both towers, of another width or with weights that are not finite; or a model that does not start
            from an image-text model.
        ModuleNotFoundError: if the tokenizer needs transformers, which is not installed.
        OSError: if the file with the towers is missing, forbidden, or cannot be fetched; see `load`.
    """
    words = classes if isinstance(classes, str) else [class_words(name, "any") for name in classes]
    words, templates = _check_classes(words), _check_templates(templates)  # before a download
    background = _check_classes(background) if background else []
    _warn_of_spellings("class", words)
    _warn_of_spellings("template", templates)
    _set_head(model, read_towers(model), words, classes, templates, background)


def _set_head(
    model: InTIModel,
    towers: Towers,
    words: Sequence[str],
    names: Sequence[str],
    templates: Sequence[str] | str | None,
    background: Sequence[str] = (),
) -> None:
    head = build_head(towers, model.num_features, words, templates, background=background)
    set_text_head(model, head, [*names, *background], len(background))
    model.text_source = {**towers.source, DIGEST: towers.digest}


def build_head(
    towers: Towers,
    num_features: int,
    class_names: Sequence[str],
    templates: Sequence[str] | str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    background: Sequence[str] = (),
) -> CosineHead:
    """Build the zero-shot head for a file with both towers, or take it from the cache.

    Args:
        towers: the file.
        num_features: ``C``, of the model that the head is for; its weights do not matter.
        class_names: class names in words.
        templates: prompts with ``{}`` for the class, or a key of `TEMPLATES`; None for ``TEMPLATES["any"]``.
        cache_dir: folder of heads built before; None for ``inti_models/zero_shot`` in ``HF_HOME``. The files are
            named by a digest of everything that the head depends on.
        background: further prompts, as they stand, each with its own row after those of the classes.

    Returns:
        The head, in float32.

    Raises:
        ValueError, ModuleNotFoundError, OSError: see `set_zero_shot_head`.
    """
    names, templates = _check_classes(class_names), _check_templates(templates)
    weight, bias = towers.projection(num_features)
    names = [_fitting(name, templates, towers) for name in names]
    background = [_fitting(prompt, ["{}"], towers) for prompt in background]

    settings = [
        _VERSION,
        names,
        templates,
        num_features,
        towers.text_cfg,
        towers.config.get("quick_gelu"),
        towers.quick_gelu,
        towers.tokenizer_digest,
        *([background] if background else []),
    ]
    key = hashlib.sha256(f"{json.dumps(settings, sort_keys=True)}\n{towers.digest}".encode()).hexdigest()
    folder = Path(constants.HF_HOME, "inti_models", "zero_shot") if cache_dir is None else Path(cache_dir)
    path = folder / f"{key}.safetensors"
    head = CosineHead(num_features, len(weight), len(names) + len(background), device="meta")
    try:
        head.load_state_dict(read_checkpoint(path), assign=True)
    except (OSError, ValueError, RuntimeError):  # not there, or damaged
        text = towers.features([[template.replace("{}", name) for template in templates] for name in names])  # K D
        if background:
            text = torch.cat([text, towers.features([[prompt] for prompt in background])])
        state = {
            "projection.weight": weight,
            "projection.bias": bias,
            "classes.weight": (towers.scale * text.double()).float(),
            "classes.bias": torch.full((len(text),), towers.bias),
        }
        if not all(tensor.isfinite().all() for tensor in state.values()):
            raise ValueError(f"{towers.name} has weights that are not finite; download or convert it again.") from None
        head.load_state_dict(state, assign=True)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            save_checkpoint(head, path)
        except OSError as error:  # costs time, nothing else
            _logger.warning(f"The zero-shot head cannot be cached in {folder} ({error}); it will be built again.")
    return head


def _fitting(name: str, templates: Sequence[str], towers: Towers) -> str:
    """Return a class name, cut at a word if its prompts are longer than the context, with a warning that says so."""
    words = name.split()
    for count in range(min(len(words), towers.context_length), 0, -1):
        cut = " ".join(words[:count])
        if all(towers.fits(template.replace("{}", cut)) for template in templates):
            if cut != name:
                _logger.warning(
                    f"The class {name!r} is longer than the {towers.context_length} tokens of the text tower's "
                    f"context: it is read as {cut!r}."
                )
            return cut
    raise ValueError(
        f"The class {name!r} does not fit into the {towers.context_length} tokens of the text tower's context, not "
        f"even its first word; shorten it or the template {max(templates, key=len)!r}."
    )


def read_templates(path: str | os.PathLike[str]) -> list[str]:
    """Read templates from a text file, one per line with ``{}`` for the class; empty lines are skipped.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not UTF-8 text, has a line without one ``{}``, or no line.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"There is no template file {path}; check the path.")
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not UTF-8 text; save it as that, with one template per line.") from None
    templates = [line.strip() for line in lines if line.strip()]
    if not templates:
        raise ValueError(f"{path} has no templates; write one per line, such as 'a video of {{}}.'.")
    return _check_templates(templates)


def _check_classes(names: Sequence[str]) -> list[str]:
    """Return class names with single blanks; raise a ValueError unless there are some, none empty."""
    if isinstance(names, str):
        raise ValueError(f"classes={names!r} is one string; pass a list with a string for each class.")
    names = [" ".join(name.split()) for name in names]
    if not names:
        raise ValueError("There are no classes; name at least one.")
    if "" in names:
        raise ValueError(f"Class {names.index('')} has an empty name; give it one, or leave it out.")
    return names


def _warn_of_spellings(what: str, texts: Sequence[str]) -> None:
    """Warn of texts that occur twice for a tokenizer, and of HTML entities, which it reads as characters."""
    seen: dict[str, str] = {}
    for text in texts:
        read = html.unescape(html.unescape(text))
        if read != text:
            _logger.warning(f"The {what} {text!r} is spelled with an HTML entity, and read as {read!r}.")
        key = " ".join(read.lower().split())
        if key in seen:
            as_well = "" if seen[key] == text else f", as {seen[key]!r} too"
            _logger.warning(f"The {what} {text!r} occurs twice{as_well}; both count.")
        seen.setdefault(key, text)


def _check_templates(templates: Sequence[str] | str | None) -> list[str]:
    """Return the templates, by name or as they are; raise a ValueError for an unknown name, none, or a bad one."""
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
