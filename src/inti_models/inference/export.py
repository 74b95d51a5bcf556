"""Models as files for other runtimes: torch.export, ONNX, and AOTInductor.

An exported model takes a normalised clip (B, T, C, H, W) and returns logits (B, num_classes). B is free, and so is T
where the model halves it without remainder: multiples of ``2**len(compress_at)``, at least two of these.
"""

import json
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from timm.data import resolve_input_data_config
from torch import Tensor
from torch.export import Dim, ExportedProgram

from ..files import locked, replacing
from ..models.stages import InTIModel

FORMATS = {"torch-export": ".pt2", "onnx": ".onnx", "aoti": ".pt2"}
TOLERANCE = 1e-4
METADATA = "inti_models"
_MAX_BATCH, _MAX_GROUPS = 1024, 256
_ONNX_LIMIT = 2**31  # bytes of a protobuf


def export_model(model: InTIModel, path: str | os.PathLike[str], format: str) -> float:
    """Write a model for another runtime, run the result, and compare it with the model.

    The file appears under its name only when it gives the same logits. It contains what its input is and what
    its classes are called: `read_metadata`.

    Args:
        model: the model, on the CPU; put into evaluation mode.
        path: file to write; ends in ``.pt2``, or ``.onnx``.
        format: ``"torch-export"`` (run by `torch.export.load`), ``"onnx"`` (onnxruntime and others), or ``"aoti"``
            (compiled for this machine's CPU; `torch._inductor.aoti_load_package`, also from C++).

    Returns:
        The largest difference of a logit from the model's, on random clips.

    Raises:
        ValueError: for another format or suffix, a model that is not on the CPU, or one too large for ONNX.
        ModuleNotFoundError: if onnx, onnxruntime or onnxscript is missing, for ONNX.
        BlockingIOError: if another process writes the file.
        RuntimeError: if there is no C++ compiler for AOTInductor, or the logits differ by more than `TOLERANCE`.
    """
    path = Path(path)
    if format not in FORMATS:
        raise ValueError(f"format={format!r} is unknown; choose one of {', '.join(FORMATS)}.")
    if path.suffix != FORMATS[format]:
        raise ValueError(f"{path} does not end in {FORMATS[format]}, as files of format {format!r} do; rename it.")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"There is no folder {path.parent}; make it first.")
    if next(model.parameters()).device.type != "cpu":
        raise ValueError("The model is not on the CPU; call model.cpu() first.")
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    if format == "onnx" and size >= _ONNX_LIMIT:
        raise ValueError(f"The weights take {size} bytes, more than one ONNX file can hold; export as torch-export.")
    if format == "onnx":
        import onnxruntime  # noqa: F401  # before any work
        import onnxscript  # noqa: F401
    if format == "aoti" and not any(shutil.which(name) for name in (os.environ.get("CXX", ""), "g++", "clang++")):
        raise RuntimeError("AOTInductor compiles C++, but found no compiler; install g++.")

    frames = frame_multiple(model)
    description = json.dumps(describe(model))
    with locked(path.parent, path.name), replacing(path) as unfinished:
        program = _trace(model.eval(), frames)
        _WRITERS[format](program, unfinished, description)
        difference = _compare(model, _RUNNERS[format](unfinished), frames)
        if not difference <= TOLERANCE:
            raise RuntimeError(
                f"The {format} model differs from the original by {difference:.2g}, more than {TOLERANCE}; nothing was "
                "written, try another format."
            )
    return difference


def frame_multiple(model: InTIModel) -> int | None:
    """Return what the number of frames of an exported model has to be a multiple of; None where it is fixed."""
    multiple = model.temporal.stride * 2 ** len(model.compress_at)
    return multiple if model.num_frames % multiple == 0 and model.num_frames >= 2 * multiple else None


def describe(model: InTIModel) -> dict[str, Any]:
    """Return what `read_metadata` reads."""
    config, cfg = resolve_input_data_config(model), getattr(model, "pretrained_cfg", {})
    return {
        "architecture": cfg.get("architecture"),
        "input": "normalised clip (batch, frames, channels, height, width), float32; pixels / 255 - mean, / std",
        "num_frames": model.num_frames,
        "frames_multiple_of": frame_multiple(model),
        "sampling": model.sampling,
        "frame_stride": model.frame_stride,
        "antialias": model.antialias,
        "resize_rounding": model.resize_rounding,
        "views": list(model.views),
        "input_size": [model.in_chans, *model.patch_embed.img_size],
        **{key: config[key] for key in ("mean", "std", "interpolation", "crop_pct", "crop_mode")},
        "label_names": list(cfg.get("label_names") or ()),
        **describe_probabilities(model),
    }


def describe_probabilities(model: InTIModel) -> dict[str, Any]:
    """Return how logits become probabilities, and each class's threshold; see `models.probabilities.Probabilities`."""
    said = model.probabilities
    return {
        "multi_label": said.multi_label,
        "temperature": said.temperature,
        "thresholds": [said.threshold(index) for index in range(model.num_classes)],
        "background": said.background,
    }


def read_metadata(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read the metadata of an exported model: input size, frames, sampling, mean, std, class names, thresholds.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not a file that `export_model` wrote.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}; check the path.")
    try:
        if path.suffix == ".onnx":
            import onnx

            found = {p.key: p.value for p in onnx.load(path, load_external_data=False).metadata_props}
            return json.loads(found[METADATA])
        with zipfile.ZipFile(path) as archive:
            (name,) = (name for name in archive.namelist() if name.endswith(f"extra/{METADATA}.json"))
            return json.loads(archive.read(name))
    except ModuleNotFoundError:
        raise
    except Exception as error:  # the parsers raise nearly anything on other files
        raise ValueError(f"{path} was not written by inti_models.inference.export; export the model again.") from error


def _trace(model: InTIModel, frames: int | None) -> ExportedProgram:
    dynamic: dict[int, Any] = {0: Dim("batch", max=_MAX_BATCH)}
    if frames is not None:
        dynamic[1] = frames * Dim("groups", min=2, max=_MAX_GROUPS)
    return torch.export.export(model, (_clip(model, 2, model.num_frames),), dynamic_shapes=(dynamic,))


def _clip(model: InTIModel, batch: int, frames: int) -> Tensor:
    size = (model.in_chans, *model.patch_embed.img_size)
    return torch.randn(batch, frames, *size, dtype=next(model.parameters()).dtype)


@torch.inference_mode()
def _compare(model: InTIModel, run: Callable[[Tensor], Tensor], frames: int | None) -> float:
    sizes = [(1, model.num_frames), (3, model.num_frames)] + ([] if frames is None else [(1, 3 * frames)])
    clips = [_clip(model, *size) for size in sizes]
    return max(float((run(clip) - model(clip)).abs().max()) for clip in clips)


def _write_torch(program: ExportedProgram, path: Path, description: str) -> None:
    torch.export.save(program, path, extra_files={f"{METADATA}.json": description})


def _run_torch(path: Path) -> Callable[[Tensor], Tensor]:
    return torch.export.load(path).module()


def _write_onnx(program: ExportedProgram, path: Path, description: str) -> None:
    onnx_program = torch.onnx.export(program, dynamo=True, input_names=["clip"], output_names=["logits"], verbose=False)
    assert onnx_program is not None
    onnx_program.model.metadata_props[METADATA] = description
    onnx_program.save(path, external_data=False)


def _run_onnx(path: Path) -> Callable[[Tensor], Tensor]:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda clip: torch.from_numpy(session.run(["logits"], {"clip": clip.numpy()})[0])


def _write_aoti(program: ExportedProgram, path: Path, description: str) -> None:
    torch._inductor.aoti_compile_and_package(program, package_path=str(path))
    with zipfile.ZipFile(path, "a") as archive:
        root = archive.namelist()[0].split("/")[0]
        archive.writestr(f"{root}/extra/{METADATA}.json", description)


def _run_aoti(path: Path) -> Callable[[Tensor], Tensor]:
    return torch._inductor.aoti_load_package(str(path))


_WRITERS = {"torch-export": _write_torch, "onnx": _write_onnx, "aoti": _write_aoti}
_RUNNERS = {"torch-export": _run_torch, "onnx": _run_onnx, "aoti": _run_aoti}
