"""Models in folders and on the Hugging Face Hub: save, publish, and load with everything verified.

`load` opens only safetensors files, and raises one clear sentence about what is wrong with a file or a repository.
`timm.create_model` by itself is less strict. For ``hf-hub:`` it takes only ``model.safetensors``, to which
`save_pretrained` pins its configs. Where a config pins nothing, and for ``local-dir:``, it takes another file if that
one is missing, pickles among them, with PyTorch's ``weights_only=True``. It checks no digests or hashes, and raises
the errors of safetensors and huggingface_hub as they are. Only then does it reach our `checkpoint_filter_fn`, as
strict there as here.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import timm
import torch
from huggingface_hub import (
    EvalResult,
    HfApi,
    ModelCard,
    ModelCardData,
    try_to_load_from_cache,
)
from timm.models import PretrainedCfg, get_model_input_config

from ..assets import ASSETS
from ..files import write_text
from ..models.config import OUTPUT
from ..models.heads import CosineHead
from ..models.probabilities import Probabilities
from ..models.registry import check_name, create_model
from ..models.stages import InTIModel
from ._private import save_config_for_hf
from .checkpoint_filter import assign_tensors, load_tensors
from .config import CONFIG_DIGEST, TEXT_SOURCE, check_model, digest_of, read_config, read_json
from .download import CONFIG, commit_of, download, hub_errors
from .tensor_files import (
    DIGEST,
    PICKLES,
    OtherDigestError,
    how_to_open,
    is_finite,
    read_checkpoint,
    read_shapes,
    save_checkpoint,
    stated_digest,
)
from .text_tower import text_source

WEIGHTS, CARD, PREVIOUS = "model.safetensors", "README.md", ".previous"
_TRIES = 20  # to load a folder that others save to
_NOT_TOGETHER = (
    "{config} was not written with the weights beside it ({weights}); save the model again, or, if you "
    f"exchanged them, remove {DIGEST} from the config."
)
# Arguments by which timm would take weights from elsewhere than from the file that was verified, or cut the model.
_RESERVED = {"pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir", "features_only"}
_SAFE_NAMES = {
    None: WEIGHTS,
    "pytorch_model.bin": WEIGHTS,
    "open_clip_pytorch_model.bin": "open_clip_model.safetensors",
}


def load(name: str | os.PathLike[str], **model_args: Any) -> InTIModel:
    """Load a model with its weights, all verified; nothing but safetensors is ever opened, and each file is read once.

    Args:
        name: a model of the zoo, with a tag or without ("inti_vit_b16_k400"); a repository on the Hub, with a
            revision or without ("hf-hub:org/name@revision"); or a folder that `save_pretrained` wrote
            ("local-dir:runs/mine", or just its path).
        **model_args: arguments of the model to change, such as ``num_classes``, ``compress_at``, ``img_size``.

    Raises:
        ValueError: if the name is none of these, or a file is damaged or another model's.
        OSError: if a file or repository is missing, forbidden, or cannot be fetched or stored. The subclass says which:
            `FileNotFoundError`, `PermissionError`, `ConnectionError`.
    """
    folder = Path(os.fspath(name).removeprefix("local-dir:"))
    for _ in range(_TRIES):
        before = _version(folder)
        try:
            return _load(name, model_args)
        except (OSError, ValueError, RuntimeError):  # the last is PyTorch's, of a file that is gone
            if _version(folder) == before:
                raise
    return _load(name, model_args)


def _version(folder: Path) -> list[tuple[int, ...] | None]:
    """Return what changes when the files of a saved model are replaced."""
    version: list[tuple[int, ...] | None] = []
    for file in (CONFIG, WEIGHTS):
        try:
            stat = (folder / file).stat()
            version.append((stat.st_ino, stat.st_mtime_ns, stat.st_size))
        except OSError:
            version.append(None)
    return version


def _load(name: str | os.PathLike[str], model_args: dict[str, Any]) -> InTIModel:
    source = _find(name, model_args)
    weights = source.weights()
    try:
        source.check(weights)
        tensors = read_checkpoint(weights, source.digest)
    except OtherDigestError:
        if (weights.parent / PREVIOUS).is_dir():  # the next one is being saved, or that was interrupted
            return _load(weights.parent / PREVIOUS, model_args)
        raise ValueError(_NOT_TOGETHER.format(config=source.config, weights=weights)) from None
    device = torch.device(model_args.get("device") or torch.get_default_device())
    model = source.create({**model_args, "device": "meta"})  # without memory: its tensors are there already
    if not assign_tensors(model, tensors, device):
        model = source.create(model_args)
        load_tensors(model, tensors)
    if isinstance(model.head, CosineHead) and model.head.has_sigmoid and "multi_label" not in model_args:
        model.set_probabilities(replace(model.probabilities, multi_label=True))  # as older configs do not say
    return model


def create(name: str | os.PathLike[str], **model_args: Any) -> InTIModel:
    """Create the model that `load` makes, without loading weights; no file of weights is opened or fetched.

    Args, Raises: see `load`.
    """
    source = _find(name, model_args)
    source.check()
    return source.create(model_args)


@dataclass(frozen=True)
class _Source:
    """The model that a name stands for.

    Attributes:
        architecture: name for `create_model`, with a tag or without.
        weights: fetches the file of weights if necessary, and returns its path.
        config: the config.json that the model was saved with; None for the zoo's own.
        cfg: the pretrained config in it.
        args: the model's arguments in it.
        digest: digest of its weights, as it states; None where it does not.
        text_source: where its text tower is, likewise.
    """

    architecture: str
    weights: Callable[[], Path]
    config: Path | None = None
    cfg: dict[str, Any] | None = None
    args: dict[str, Any] = field(default_factory=dict)
    digest: str | None = None
    text_source: dict[str, Any] | None = None

    def check(self, weights: Path | None = None) -> None:
        """Raise a ValueError if the config.json makes no model, or one other than its weights' header."""
        if self.config is not None and self.cfg is not None:
            shapes = None if weights is None else read_shapes(weights, self.digest)
            check_model(self.config, self.cfg, self.architecture, self.args, weights, shapes)

    def create(self, model_args: dict[str, Any]) -> InTIModel:
        """Create the model, with some arguments changed."""
        if self.cfg is None:
            return create_model(self.architecture, **model_args)
        args = {**self.args, **model_args}
        other_classes = model_args.get("num_classes", self.cfg.get("num_classes")) != self.cfg.get("num_classes")
        if other_classes:  # a text head goes with its words, thresholds with their classes
            for name in {"text_dim", *OUTPUT} - model_args.keys():
                args.pop(name, None)
        if bool(args.get("multi_label")) != bool(self.args.get("multi_label")):  # they were fitted to the others
            for name in {"temperature", "thresholds"} - model_args.keys():
                args.pop(name, None)
        model = create_model(self.architecture, pretrained_cfg=self.cfg, pretrained_model_args=self.args, **args)
        model.text_source = self.text_source
        return model


def _find(name: str | os.PathLike[str], model_args: dict[str, Any]) -> _Source:
    """Find what a name stands for; a config.json is read, and fetched first if it is on the Hub."""
    source = _find_source(name, model_args)
    for argument in sorted(_RESERVED & {**source.args, **model_args}.keys()):
        raise ValueError(
            f"{name} cannot be loaded with the argument {argument}; leave it out, or use timm.create_model."
        )
    return source


def _find_source(name: str | os.PathLike[str], model_args: dict[str, Any]) -> _Source:
    text = os.fspath(name)
    prefix, _, rest = text.partition(":")
    if prefix in ("hf-hub", "hf_hub"):
        return _find_repo(rest)
    if prefix == "local-dir":
        return _find_folder(Path(rest))
    if isinstance(name, str) and name.split(".")[0] in timm.list_models("inti*"):
        return _find_in_zoo(name, model_args)
    if Path(text).is_dir():
        return _find_folder(Path(text))
    if Path(text).is_file():
        raise ValueError(
            f"{text} is a file; name the folder with it and its config.json, or {how_to_open(Path(text))}."
        )
    if isinstance(name, str) and os.sep not in text:
        check_name(text)  # which says that there is none
    raise FileNotFoundError(f"There is no folder {text}; check the path, or write hf-hub:{text} for the Hub.")


def _find_in_zoo(name: str, model_args: dict[str, Any]) -> _Source:
    check_name(name)
    cfg = timm.get_pretrained_cfg(str(model_args.get("base")) if name == "inti_vit" else name)

    def weights() -> Path:
        if cfg is None or not (cfg.file or cfg.hf_hub_id):
            raise ValueError(
                f"{name} with {model_args} has no weights; 'inti-models list --pretrained' shows those that do."
            )
        if cfg.file:
            return Path(cfg.file)
        repo_id, _, revision = str(cfg.hf_hub_id).partition("@")
        return download(repo_id, weights_name(cfg), revision or None)

    return _Source(name, weights)


def weights_name(cfg: PretrainedCfg) -> str:
    """Return the safetensors file of a config's repository on the Hub."""
    return _SAFE_NAMES.get(cfg.hf_hub_filename, str(cfg.hf_hub_filename))


def _find_repo(hub_id: str) -> _Source:
    repo_id, _, revision = hub_id.partition("@")
    config = download(repo_id, CONFIG, revision or None)
    source = {"source": "hf-hub", "hf_hub_id": hub_id, "hf_hub_filename": WEIGHTS}
    return _saved(config, lambda: download(repo_id, WEIGHTS, commit_of(config, CONFIG)), source)


def _find_folder(folder: Path) -> _Source:
    for file in (CONFIG, WEIGHTS):
        if not (folder / file).is_file():
            others = [path for path in sorted(folder.glob("*")) if path.suffix in (".safetensors", *PICKLES)]
            advice = "name a folder that inti_models.save_pretrained wrote"
            if others:
                advice = f"its {others[0].name} is not opened: {how_to_open(others[0])}"
            raise FileNotFoundError(f"There is no {file} in {folder}; {advice}.")
    return _saved(folder / CONFIG, lambda: folder / WEIGHTS, {"source": "local-dir", "file": str(folder)})


def _saved(config: Path, weights: Callable[[], Path], source: dict[str, Any]) -> _Source:
    """Return a saved model, by its config.json; ``source`` says where it is from."""
    saved = read_config(config)
    cfg = saved.cfg | source
    return _Source(saved.architecture, weights, config, cfg, saved.args, saved.digest, saved.text_source)


def _belong_together(config: Path, weights: Path) -> bool:
    """Return whether a config.json was written with these weights, as far as both say so."""
    ours, theirs = read_json(config).get(DIGEST), stated_digest(weights)
    return ours is None or theirs is None or ours == theirs


def save_pretrained(
    model: InTIModel,
    directory: str | os.PathLike[str],
    *,
    name: str | None = None,
    label_names: Sequence[str] | None = None,
    license: str | None = None,
    datasets: Sequence[str] = (),
    base_model: str | None = None,
    results: Sequence[EvalResult] = (),
    description: str | None = None,
) -> None:
    """Write a model to a folder: config.json, model.safetensors and a model card, from which `load` restores it.

    The files are made in a hidden folder inside it and then moved into place, each whole, config.json last; other files
    stay. Loading the model meanwhile gives either the old one or the new one, and a process killed between two
    moves leaves the old one in ``.previous``. Two processes must not save to one folder at once.

    Args:
        model: made by an entry point of the zoo, or by `from_image_model` of a model of timm's registry.
        directory: the folder; created if missing.
        name: the model's, for the card; the folder's if None.
        label_names: class names in order; None for those that the model has.
        license: identifier on the Hub, such as "mit"; None for the pretrained config's.
        datasets: Hub ids of what it was trained on.
        base_model: Hub id of what it was trained from.
        results: what was measured; the card says "Not measured." if there are none.
        description: a sentence or more about the model.

    Raises:
        TypeError: if it is not an InTI model itself but, say, a wrapper.
        ValueError: if it could not be created again from name and arguments, has values that are not finite, or has
            not as many classes as names.
        OSError: if the files cannot be written.
    """
    directory = Path(directory)
    _check_can_be_saved(model, label_names)
    if directory.exists() and not directory.is_dir():
        raise NotADirectoryError(f"{directory} is a file; name a folder.")
    card = model_card(model, name or directory.absolute().name, license, datasets, base_model, results, description)
    is_new = not directory.exists()
    try:
        directory.mkdir(parents=True, exist_ok=True)
        # In the folder itself, since what is beside it may be another file system, or not writable.
        with tempfile.TemporaryDirectory(dir=directory, prefix=".saving.") as temporary:
            folder = Path(temporary)
            save_checkpoint(model, folder / WEIGHTS)
            _write_config(model, folder, label_names, description)
            (folder / CARD).write_text(str(card), encoding="utf-8")
            _keep_previous(directory, folder / PREVIOUS)
            for file in (WEIGHTS, CARD, CONFIG):
                os.replace(folder / file, directory / file)
            _remove(directory / PREVIOUS)
    except OSError as error:
        reason = error.strerror or error
        raise OSError(f"{directory} cannot be written ({reason}); free some space or choose another folder.") from error
    finally:
        if is_new:
            with suppress(OSError):  # it holds a model
                directory.rmdir()


def _remove(path: Path) -> None:
    """Remove a folder with its contents, or a symbolic link without its target."""
    if path.is_symlink():
        path.unlink()
    shutil.rmtree(path, ignore_errors=True)


def _keep_previous(directory: Path, temporary: Path) -> None:
    """Keep the files of the model in ``directory``, if there is one, in its folder ``.previous``."""
    config, weights = directory / CONFIG, directory / WEIGHTS
    try:
        whole = weights.is_file() and _belong_together(config, weights)
    except (OSError, ValueError, AttributeError):  # there is no config, or none that can be read
        whole = False
    if not whole:  # what an interrupted call left: the model before it stays the previous one
        return
    _remove(directory / PREVIOUS)
    temporary.mkdir()
    for file in (config, weights):
        try:
            os.link(file, temporary / file.name)
        except OSError:  # a file system without links
            shutil.copyfile(file, temporary / file.name)
    os.replace(temporary, directory / PREVIOUS)


def _check_can_be_saved(model: InTIModel, label_names: Sequence[str] | None) -> None:
    if not isinstance(model, InTIModel):
        raise TypeError(f"A {type(model).__name__} cannot be saved; pass the InTIModel itself.")
    if model.precision != "float32":
        raise ValueError(f"The model was set to compute in {model.precision}; save it before that.")
    if model.normalization_fused:
        raise ValueError("The model's normalization is fused into its patch embedding; save it before that.")
    if getattr(model, "pretrained_cfg", {}).get("architecture") not in timm.list_models("inti*"):
        raise ValueError(
            "This model cannot be created again by name, so it is not saved; make it with timm.create_model, or with "
            "from_image_model from such a model."
        )
    if label_names is not None and len(label_names) != model.num_classes:
        raise ValueError(
            f"{len(label_names)} label_names do not fit {model.num_classes} classes; pass one for each class."
        )
    for key, tensor in model.state_dict().items():
        if not is_finite(tensor):
            raise ValueError(f"The model has values in {key} that are not finite; save an earlier one.")


def _write_config(model: InTIModel, folder: Path, label_names: Sequence[str] | None, description: str | None) -> None:
    """Write config.json, and create the model from it without memory to see that it is the same."""
    inti_args = {name: getattr(model, name) for name in ("compress_at", "num_frames", "sampling", "frame_stride")}
    config: dict[str, Any] = {"pretrained_cfg": {"hf_hub_filename": WEIGHTS, "description": description}}
    config[DIGEST] = stated_digest(folder / WEIGHTS)
    if (source := text_source(model)) is not None:
        config[TEXT_SOURCE] = source
    if label_names is not None:
        config["label_names"] = list(label_names)
    try:
        save_config_for_hf(model, str(folder / CONFIG), config, inti_args)
        saved = json.loads((folder / CONFIG).read_text())
        (folder / CONFIG).write_text(json.dumps(saved | {CONFIG_DIGEST: digest_of(saved)}, indent=2))
        written = read_config(folder / CONFIG)
        args = {**written.args, "device": "meta"}
        again = create_model(written.architecture, pretrained_cfg=written.cfg, **args)
        same = _shapes(again) == _shapes(model)
    except (ValueError, TypeError, RuntimeError, AttributeError) as error:
        raise ValueError(
            f"This model's config does not create it again ({error}), so it is not saved; use timm.create_model."
        ) from error
    if not same:
        raise ValueError(
            "This model was changed after it was created, so its config would create another, and it is not saved; "
            "create it with these changes as arguments."
        )


def write_probabilities(directory: str | os.PathLike[str], probabilities: Probabilities) -> None:
    """Write into the config.json of a saved model how its logits become probabilities; all else stays as it is.

    Raises:
        FileNotFoundError: if there is no saved model in the folder.
        ValueError: if its config cannot be read, or they do not fit its classes.
    """
    path = Path(directory, CONFIG)
    if not path.is_file():
        raise FileNotFoundError(f"There is no {CONFIG} in {directory}; name a folder that save_pretrained wrote.")
    probabilities.check(int(read_config(path).cfg["num_classes"]))
    config = read_json(path)
    args = {name: value for name, value in (config.get("model_args") or {}).items() if name not in OUTPUT}
    config["model_args"] = {**args, **probabilities.model_args()}
    write_text(path, json.dumps(config | {CONFIG_DIGEST: digest_of(config)}, indent=2))


def _shapes(model: InTIModel) -> dict[str, torch.Size]:
    return {key: tensor.shape for key, tensor in model.state_dict().items()}


def push_to_hub(
    model: InTIModel,
    repo_id: str,
    *,
    private: bool = False,
    revision: str | None = None,
    token: str | None = None,
    commit_message: str = "Add model",
    **card: Any,
) -> str:
    """Publish a model on the Hub, as `save_pretrained` writes it. An existing card is replaced.

    Args:
        model: see `save_pretrained`.
        repo_id: "org/name"; created if missing.
        private: make a new repository private.
        revision: branch to commit to, created if missing; None for the main one.
        token: Hub token; None for the one that you are logged in with, or HF_TOKEN.
        commit_message: first line of the commit.
        **card: label names and whatever else `save_pretrained` takes.

    Returns:
        URL of the commit.

    Raises:
        TypeError, ValueError: see `save_pretrained`; or if the Hub does not accept the card.
        OSError: if the Hub cannot be reached or refuses. Nothing was changed there; only the repository may be new.
    """
    with tempfile.TemporaryDirectory() as folder:
        save_pretrained(model, folder, **{"name": repo_id, **card})
        api = HfApi(token=token, library_name="inti_models")
        with hub_errors(repo_id, "upload"):
            repo = api.create_repo(repo_id, private=private, exist_ok=True)
            if revision is not None:
                api.create_branch(repo.repo_id, branch=revision, exist_ok=True)
            commit = api.upload_folder(
                repo_id=repo.repo_id, folder_path=folder, revision=revision, commit_message=commit_message
            )
    return commit.commit_url


def model_card(
    model: InTIModel,
    name: str,
    license: str | None = None,
    datasets: Sequence[str] = (),
    base_model: str | None = None,
    results: Sequence[EvalResult] = (),
    description: str | None = None,
) -> ModelCard:
    """Write the card of a model, with metadata in the Hub's format; for the arguments see `save_pretrained`."""
    data = ModelCardData(
        license=license or model.pretrained_cfg.get("license"),
        library_name="timm",
        pipeline_tag="video-classification",
        tags=["video-classification", "timm", "inti_models"],
        datasets=list(datasets) or None,
        base_model=base_model,
        model_name=name.rpartition("/")[2],
        eval_results=list(results) or None,
    )
    address = f"hf-hub:{name}" if "/" in name else f"local-dir:{name}"
    measured = [f"- {r.dataset_name}, {r.metric_name or r.metric_type}: {r.metric_value}" for r in results]
    channels, height, width = get_model_input_config(model)["input_size"]
    return ModelCard(
        f"---\n{data.to_yaml()}\n---\n\n"
        f"# {data.model_name}\n\n{description or ''}\n\n"
        f"An InTI video transformer, `{model.pretrained_cfg['architecture']}`: {model.num_frames} frames of "
        f"{channels}x{height}x{width} ({model.sampling} sampling), halved after blocks {model.compress_at} of "
        f"{len(model.blocks)}; {model.num_classes} classes.\n\n"
        "## Measured\n\n" + ("\n".join(measured) or "Not measured.") + "\n\n"
        f'## Use\n\n```python\nimport inti_models\n\nmodel = inti_models.load("{address}")\n```\n\n'
        f"```sh\ninti-models predict clip.mp4 --model {address}\n```\n"
    )


@dataclass(frozen=True)
class Published:
    """Weights of the zoo.

    Attributes:
        name: model and tag.
        source: repository on the Hub, or file in the package.
        license: identifier.
        size: size of the file in bytes; None for one that is not on this machine.
        accuracy: what was measured, in words.
    """

    name: str
    source: str
    license: str
    size: int | None
    accuracy: str


def published(pattern: str = "*") -> list[Published]:
    """Return all weights of the zoo whose model and tag match a pattern, such as "*l14*"."""
    file = ASSETS / "weights" / "results.json"
    measured = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    table = []
    for name in timm.list_pretrained(pattern):
        cfg = timm.get_pretrained_cfg(name)
        if not name.startswith("inti") or cfg is None:
            continue
        cached = cfg.file or try_to_load_from_cache(str(cfg.hf_hub_id), weights_name(cfg))
        size = os.path.getsize(cached) if isinstance(cached, str) and os.path.isfile(cached) else None
        accuracy = measured.get(name, {}).get("accuracy", {})
        table.append(
            Published(
                name,
                source=str(cfg.hf_hub_id or Path(str(cfg.file)).name),
                license=cfg.license or "unknown",
                size=size,
                accuracy=", ".join(f"{what} {value:g}%" for what, value in accuracy.items()) or "not measured",
            )
        )
    return table
