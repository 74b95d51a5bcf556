"""Fixtures of the tests of temporal methods."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from inti_models import InTIVisionTransformer


@pytest.fixture(scope="session")
def randomize_all_(randomize_) -> Callable[[nn.Module], nn.Module]:
    """Draw parameters anew, and the statistics of batch norms too."""

    def randomize(model: nn.Module) -> nn.Module:
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_()
            elif name.endswith("running_var"):
                buffer.uniform_(0.5, 2)
        return randomize_(model)

    return randomize


@pytest.fixture(scope="session")
def small(tiny_args, randomize_all_) -> Callable[..., InTIVisionTransformer]:
    """Build a small random model with a temporal method; it compresses after 1 and 3 of its 4 blocks unless told
    otherwise."""

    def build(temporal=None, temporal_args=None, **kwargs) -> InTIVisionTransformer:
        args = {**tiny_args, "compress_at": (1, 3), "reduction": 4, **kwargs}
        return randomize_all_(InTIVisionTransformer(temporal=temporal, temporal_args=temporal_args, **args))

    return build


@pytest.fixture(scope="session")
def fresh(tiny_args) -> Callable[..., InTIVisionTransformer]:
    """Build a small model whose trunk is random and whose temporal modules are as they start."""

    def build(temporal=None, temporal_args=None, **kwargs) -> InTIVisionTransformer:
        args = {**tiny_args, "compress_at": (), "reduction": 4, **kwargs}
        model = InTIVisionTransformer(temporal=temporal, temporal_args=temporal_args, **args).eval()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "temporal." not in name:
                    embedding = parameter.ndim in (1, 3)
                    parameter.normal_(std=0.5 if embedding else 2 * parameter[0].numel() ** -0.5)
        return model

    return build
