"""Models for other runtimes: their logits are the model's, and they say what they are."""

import shutil

import pytest
import torch
from torch.testing import assert_close

from inti_models import from_image_model, save_pretrained
from inti_models.cli import main
from inti_models.data.motion_digits import CLASS_NAMES
from inti_models.files import locked
from inti_models.inference import export as export_module
from inti_models.inference.export import export_model, read_metadata
from inti_models.models.registry import create_model
from support.models import FAMILIES, miniature, randomize_model_

NAME = "inti_vit_t8_32_motiondigits"


SMALL = {"depth": 2, "compress_at": (1, 2), "embed_dim": 16, "num_heads": 1}
ONE_BLOCK = {**SMALL, "depth": 1, "compress_at": (1,)}
# One method is enough for each change; the others are made of the same operators.
slow = pytest.mark.slow
TEMPORAL = [
    pytest.param(None, marks=slow),
    pytest.param("st_adapter", marks=slow),
    pytest.param("aim", marks=slow),
    "uniformerv2",
    pytest.param("divided_attention", marks=slow),
]


def small(tiny, temporal):
    return tiny(temporal=temporal, temporal_args={"num_global": 2} if temporal == "uniformerv2" else {}, **SMALL)


@torch.no_grad()
@pytest.mark.parametrize("temporal", TEMPORAL)
def test_exported_program_gives_the_logits_of_the_model(tiny, tmp_path, temporal):
    model = small(tiny, temporal)
    assert export_model(model, tmp_path / "m.pt2", "torch-export") <= 1e-4
    program = torch.export.load(tmp_path / "m.pt2").module()
    for batch, frames in ((1, 8), (5, 8), (2, 16)):
        clip = torch.randn(batch, frames, 3, 32, 48)
        assert_close(program(clip), model(clip), atol=1e-4, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("temporal", [None, pytest.param("uniformerv2", marks=slow)])
def test_onnxruntime_gives_the_logits_of_the_model(tiny, tmp_path, temporal):
    onnxruntime = pytest.importorskip("onnxruntime")
    model = small(tiny, temporal)
    assert export_model(model, tmp_path / "m.onnx", "onnx") <= 1e-4
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]
    assert read_metadata(tmp_path / "m.onnx")["num_frames"] == model.num_frames
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx")
    for batch, frames in ((1, 8), (5, 8), (2, 16)):
        clip = torch.randn(batch, frames, 3, 32, 48)
        (logits,) = session.run(None, {"clip": clip.numpy()})
        assert_close(torch.from_numpy(logits), model(clip), atol=1e-4, rtol=0)


@torch.no_grad()
@slow  # 5 s each
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_gives_its_logits_in_onnxruntime(tmp_path, family):
    pytest.importorskip("onnxruntime")
    model = randomize_model_(from_image_model(miniature(family, depth=1), (1,), reduction=4, num_frames=4))
    assert export_model(model, tmp_path / "m.onnx", "onnx") <= 1e-4  # for several clips and numbers of frames


@torch.no_grad()
@slow  # compiles C++
@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="AOTInductor needs a C++ compiler")
def test_compiled_package_gives_the_logits_of_the_model_and_describes_itself(tiny, tmp_path):
    model = tiny(depth=1, compress_at=(0,), context=("point",))
    assert export_model(model, tmp_path / "m.pt2", "aoti") <= 1e-4
    package = torch._inductor.aoti_load_package(str(tmp_path / "m.pt2"))
    for batch, frames in ((1, 8), (3, 4)):
        clip = torch.randn(batch, frames, 3, 32, 48)
        assert_close(package(clip), model(clip), atol=1e-4, rtol=0)
    assert read_metadata(tmp_path / "m.pt2")["frames_multiple_of"] == 2


@torch.no_grad()
def test_frames_that_do_not_halve_without_a_rest_are_fixed(tiny, tmp_path):
    model = tiny(num_frames=5, **ONE_BLOCK)
    export_model(model, tmp_path / "m.pt2", "torch-export")
    program = torch.export.load(tmp_path / "m.pt2").module()
    clip = torch.randn(3, 5, 3, 32, 48)
    assert_close(program(clip), model(clip), atol=1e-4, rtol=0)
    assert read_metadata(tmp_path / "m.pt2")["frames_multiple_of"] is None


@pytest.mark.parametrize(("format", "file"), [("torch-export", "m.pt2"), pytest.param("onnx", "m.onnx", marks=slow)])
def test_command_writes_a_file_that_says_what_its_classes_are(tmp_path, capsys, format, file):
    if format == "onnx":
        pytest.importorskip("onnxruntime")
    small = create_model(NAME, depth=1, embed_dim=16, num_heads=1, compress_at=(0, 1))
    save_pretrained(small, tmp_path / "model", label_names=CLASS_NAMES)
    assert main(["export", "--model", str(tmp_path / "model"), "--format", format, "-o", str(tmp_path / file)]) == 0
    assert "differs from the model by at most" in capsys.readouterr().out
    found = read_metadata(tmp_path / file)
    assert tuple(found["label_names"]) == CLASS_NAMES
    assert (found["num_frames"], found["input_size"], found["frames_multiple_of"]) == (8, [3, 32, 32], 4)
    assert found["sampling"] == "uniform" and len(found["mean"]) == 3


def test_file_with_other_logits_is_not_left(tiny, tmp_path, monkeypatch):
    model = tiny(**ONE_BLOCK)
    wrong = lambda path: lambda clip: model(clip) + 1e-3  # noqa: E731
    monkeypatch.setitem(export_module._RUNNERS, "torch-export", wrong)
    with pytest.raises(RuntimeError, match="differs from the original by 0.001"):
        export_model(model, tmp_path / "m.pt2", "torch-export")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("format", "file", "error", "message"),
    [
        ("tflite", "m.pt2", ValueError, "format='tflite' is unknown"),
        ("onnx", "m.pt2", ValueError, "does not end in .onnx"),
        ("torch-export", "none/m.pt2", FileNotFoundError, "There is no folder"),
    ],
)
def test_bad_request_is_refused(tiny, tmp_path, format, file, error, message):
    with pytest.raises(error, match=message):
        export_model(tiny(), tmp_path / file, format)


def test_a_file_that_another_process_writes_is_refused(tiny, tmp_path):
    with locked(tmp_path, "m.pt2"), pytest.raises(BlockingIOError, match=r"writing to .*m\.pt2; wait"):
        export_model(tiny(), tmp_path / "m.pt2", "torch-export")


def test_other_files_have_no_metadata(tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no file"):
        read_metadata(tmp_path / "none.pt2")
    (tmp_path / "m.pt2").write_bytes(b"PK nothing")
    with pytest.raises(ValueError, match="was not written by inti_models.inference.export"):
        read_metadata(tmp_path / "m.pt2")
