"""What a device computes is what the CPU computes in float32; the rows of CUDA are marked ``gpu``."""

import copy

import pytest
import torch

import inti_models
from inti_models.data import write_video
from inti_models.data.motion_digits import CLASS_NAMES, MotionDigits
from inti_models.evaluation.fidelity import Readout
from inti_models.inference.predict import VideoClassifier
from inti_models.models.registry import create_model
from inti_models.training.distill import Distillation
from inti_models.training.recipe import Distill

NAME = "inti_vit_t8_32_motiondigits"
CUDA = pytest.param(
    "cuda",
    marks=[
        pytest.mark.gpu,
        pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
    ],
)
pytestmark = pytest.mark.parametrize("device", ["cpu", CUDA])


@pytest.fixture(autouse=True)
def _exact_products(monkeypatch):
    """Convolutions in float32 proper: CUDA's default is TF32."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


@pytest.fixture(scope="module")
def model():
    return create_model(NAME, pretrained=True).eval()


@pytest.fixture(scope="module")
def clips():
    return torch.randn(2, 8, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def expected(model, clips):
    with torch.no_grad():
        return model(clips)


@torch.no_grad()
def test_logits_and_weights(device, model, clips, expected):
    there = copy.deepcopy(model).to(device)
    torch.testing.assert_close(there(clips.to(device)).cpu(), expected, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(there.frame_weights(clips.to(device)).cpu(), model.frame_weights(clips))


@torch.no_grad()
def test_streams_of_several_frames_at_once(device, model, clips, expected):
    stream = inti_models.StreamingClassifier(copy.deepcopy(model).to(device), stride=8)
    streamed = [stream.push(frames.to(device)) for frames in clips.split(4, dim=1)][-1]
    torch.testing.assert_close(streamed[:, 0].cpu(), expected, rtol=1e-3, atol=1e-3)


@torch.no_grad()
def test_autocast_keeps_the_weights_in_float32(device, model, clips, expected):
    there = copy.deepcopy(model).to(device)
    with torch.autocast(device, torch.bfloat16):
        logits, weights = there(clips.to(device)), there.interpolation_weights(clips.to(device))
    assert {stage.dtype for stage in weights} == {torch.float32}
    assert (logits.float().cpu() - expected).abs().max() < 0.1 * expected.abs().max()


def test_distillation_learns_on_after_it_was_measured(device, model, clips):
    class Videos:
        class_names = CLASS_NAMES

        def __len__(self):
            return len(clips)

        def __getitem__(self, index):
            return clips[index, None], 0, ""

    teacher, student = (copy.deepcopy(model).to(device) for _ in range(2))
    readout = Readout.take(teacher)
    Readout.take(student)
    objective = Distillation(teacher, readout, Distill("both"))
    for _ in range(2):
        assert objective.loss(student, clips.to(device), None) < 1e-3
        measured = objective.measure(student, Videos(), batch_size=2, device=device, progress=False)
        assert measured.agreement == 100 and measured.accuracy is not None


def test_gradients_of_a_recomputed_pass_and_a_fused_step(device, model, clips):
    def gradients(where, recompute):
        network = copy.deepcopy(model).to(where).train()
        network.set_grad_checkpointing(recompute)
        network(clips.to(where)).square().mean().backward()
        return network, {name: p.grad.cpu() for name, p in network.named_parameters()}

    network, found = gradients(device, recompute=True)
    for name, gradient in gradients("cpu", recompute=False)[1].items():
        scale = gradient.abs().max().item()
        torch.testing.assert_close(found[name], gradient, rtol=1e-2, atol=1e-3 * scale + 1e-6)
    before = network.head.weight.detach().clone()
    torch.optim.AdamW(network.parameters(), lr=1e-3, fused=True).step()
    assert network.head.weight.isfinite().all() and not torch.equal(network.head.weight, before)


def test_a_saved_model_is_loaded_onto_the_device(device, model, clips, expected, tmp_path):
    inti_models.save_pretrained(model, tmp_path)
    loaded = inti_models.load(tmp_path, device=device).eval()
    assert {p.device.type for p in loaded.parameters()} == {device}
    with torch.no_grad():
        torch.testing.assert_close(loaded(clips.to(device)).cpu(), expected, rtol=1e-3, atol=1e-3)


def test_from_file_to_label(device, model, tmp_path):
    data = MotionDigits("validation", size=32, length=8)
    for i in (1, 2):
        write_video(tmp_path / f"{i}.mp4", data[i][0], fps=8)
    classify = VideoClassifier(copy.deepcopy(model), device=device)
    labelled = list(classify.label_files([tmp_path / "1.mp4", tmp_path / "2.mp4"], topk=1))
    assert [labels[0].name for _, labels in labelled] == [CLASS_NAMES[data[i][1]] for i in (1, 2)]
