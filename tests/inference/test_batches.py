"""How many clips go through a model together."""

import pytest
import timm
import torch

from inti_models.inference.batches import MOST, choose_batch_size, largest_batch

NAME = "inti_vit_t8_32_motiondigits"


@pytest.mark.parametrize(("room", "size"), [(1, 1), (2, 2), (3, 2), (15, 8), (16, 16), (10_000, MOST)])
def test_the_largest_power_of_two_that_fits_is_found(room, size):
    tried = []

    def run(clips):
        tried.append(clips)
        if clips > room:
            raise torch.OutOfMemoryError

    assert largest_batch(run) == size
    assert max(tried) <= 2 * size


def test_a_clip_that_does_not_fit_is_an_error():
    def run(clips):
        raise torch.OutOfMemoryError

    with pytest.raises(torch.OutOfMemoryError):
        largest_batch(run)


@pytest.mark.parametrize(
    ("args", "size"),
    [({}, 16), ({"num_frames": 16}, 8), ({"img_size": 224}, 1), ({"img_size": 8, "num_frames": 1}, MOST)],
)
def test_a_cpu_gets_about_two_thousand_tokens(args, size):
    model = timm.create_model(NAME, device="meta", **args)
    assert choose_batch_size(model, torch.device("cpu"), lambda clips: pytest.fail("a pass is made")) == size


def test_a_gpu_gets_what_fits():
    model, device = timm.create_model(NAME), torch.device("cpu")

    class Cuda:
        type = "cuda"

    def run(clips):
        if len(clips) > 5:
            raise torch.OutOfMemoryError
        assert clips.shape[1:] == (8, 3, 32, 32)

    zeros = torch.zeros
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "zeros", lambda *size, device: zeros(*size))
        assert choose_batch_size(model, Cuda(), run) == 4
    assert choose_batch_size(model, device, run) == 16
