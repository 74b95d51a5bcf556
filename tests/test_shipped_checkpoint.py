"""What is promised of the weights that ship with the package."""

import copy
import json
from pathlib import Path

import pytest
import timm
import torch

from inti_models.assets import ASSETS
from inti_models.data.motion_digits import MOTIONS, ORDER_FREE_MOTIONS, REVERSED_MOTION, MotionDigits, split_labels

NAME = "inti_vit_t8_32_motiondigits"


@pytest.fixture(scope="module")
def model():
    return timm.create_model(NAME, pretrained=True).eval()


@pytest.fixture(scope="module")
def batch():
    return MotionDigits("validation", size=32, length=960).render(range(960))


def normalize(clips):
    return clips.float() / 127.5 - 1


@torch.inference_mode()
def motions(model, clips):
    return torch.cat([split_labels(model(normalize(part)).argmax(-1))[0] for part in clips.split(120)])


@torch.inference_mode()
def digits(model, clips):
    return torch.cat([split_labels(model(normalize(part)).argmax(-1))[1] for part in clips.split(120)])


@pytest.mark.parametrize("name", [NAME, f"{NAME}.naive"])
def test_published_accuracy_is_what_the_checkpoint_reaches(name, batch):
    accuracy = json.loads((Path(__file__).parent.parent / "hub" / name / "results.json").read_text())["accuracy"]
    model = timm.create_model(name, pretrained=True).eval()
    motion = (motions(model, batch.clips) == batch.motions).float().mean() * 100
    digit = (digits(model, batch.clips) == batch.digits).float().mean() * 100
    assert motion == pytest.approx(accuracy["motion"], abs=4)  # 960 clips of the published 6,000
    assert digit == pytest.approx(accuracy["digit"], abs=2)


def test_the_reference_runs_every_frame_and_cannot_tell_a_clip_from_its_reverse(batch):
    naive = timm.create_model(f"{NAME}.naive", pretrained=True).eval()
    assert naive.compress_at == ()
    clips = normalize(batch.clips[:24])
    with torch.inference_mode():
        torch.testing.assert_close(naive(clips), naive(clips.flip(1)), atol=1e-4, rtol=1e-4)


def test_a_clip_and_its_reverse_are_told_apart(model, batch):
    order_dependent = ~torch.isin(batch.motions, torch.tensor([MOTIONS.index(m) for m in ORDER_FREE_MOTIONS]))
    reversed_motions = torch.tensor(REVERSED_MOTION)[batch.motions]
    guess = motions(model, batch.clips[order_dependent].flip(1))
    assert (guess == reversed_motions[order_dependent]).float().mean() >= 0.95


@torch.inference_mode()
def test_a_symmetric_prediction_network_could_not(model, batch):
    symmetric = copy.deepcopy(model)
    for interpolation in symmetric.interpolations.values():
        for parameter in interpolation[0].predict.logit.parameters():
            parameter[1] = parameter[0]  # the same for the earlier and for the later frame
    clips = normalize(batch.clips[:24])
    torch.testing.assert_close(symmetric(clips), symmetric(clips.flip(1)), atol=1e-4, rtol=1e-4)
    assert (model(clips) - model(clips.flip(1))).abs().max() > 1


def test_it_is_small_enough_to_ship():
    assert (ASSETS / "weights" / f"{NAME}.safetensors").stat().st_size < 12e6
