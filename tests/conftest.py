"""Fixtures shared by all tests."""

import os
from collections.abc import Callable, Iterator

import pytest
import torch
from hypothesis import settings
from torch import nn

from inti_models import InTIVisionTransformer
from support.models import TINY, randomize_model_

settings.register_profile("default", deadline=None, max_examples=40, derandomize=True)
settings.register_profile("fuzz", deadline=None, max_examples=2000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


def pytest_configure() -> None:
    """One thread a process: there are as many processes as cores, and sums are the same in all that a test starts."""
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"
    # The first backward pass decides for good whether a process may fork: once there is another device than the CPU, as
    # exporting makes one, PyTorch starts threads for it and refuses autograd in forks.
    torch.zeros((), requires_grad=True).backward()
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112  # Ray's own 15 starves its workers beside the other tests


@pytest.fixture(autouse=True)
def _reproducible() -> Iterator[None]:
    torch.manual_seed(0)
    yield
    torch.set_num_threads(1)  # whatever the test asked for


@pytest.fixture(scope="session")
def randomize_() -> Callable[[nn.Module], nn.Module]:
    return randomize_model_


@pytest.fixture(scope="session")
def tiny_args() -> dict:
    """Arguments of a small image ViT with a grid that is not square."""
    return dict(TINY)


@pytest.fixture(scope="session")
def tiny() -> Callable[..., InTIVisionTransformer]:
    """Build a small model with random weights; it compresses after 1 and 3 of its 4 blocks unless told otherwise."""

    def build(**kwargs) -> InTIVisionTransformer:
        args = {**TINY, "compress_at": (1, 3), "reduction": 4, **kwargs}
        return randomize_model_(InTIVisionTransformer(**args))

    return build


@pytest.fixture
def clip() -> torch.Tensor:
    """Two clips of five frames, for ``tiny``: an odd number at two of three levels."""
    return torch.randn(2, 5, 3, 32, 48, generator=torch.Generator().manual_seed(1))
