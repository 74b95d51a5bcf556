"""Cost of a model: parameters and floating-point operations, counted by fvcore.

One multiply-add counts as one operation. The headline number is that of matrix products and
convolutions; normalisation and elementwise operations are listed apart.
"""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from .zoo import create_model

with warnings.catch_warnings():  # fvcore 0.1.5 decorates with torch.jit.script, which torch calls deprecated
    warnings.simplefilter("ignore", FutureWarning)
    from fvcore.nn import FlopCountAnalysis

# fvcore's names of matrix products and convolutions.
MATRIX_OPERATORS = frozenset({"addmm", "bmm", "conv", "einsum", "linear", "matmul", "scaled_dot_product_attention"})


@dataclass(frozen=True)
class Cost:
    """What a forward pass costs.

    Attributes:
        parameters: number of parameters.
        gflops: matrix products and convolutions, in 1e9 multiply-adds.
        other_gflops: fvcore's counts for every other operator that it counts, in 1e9.
        by_module: ``gflops`` of every submodule by its name (dotted path).
    """

    parameters: int
    gflops: float
    other_gflops: dict[str, float]
    by_module: dict[str, float]


def _attention_flops(inputs: list[Any], outputs: list[Any]) -> int:
    """``scaled_dot_product_attention``: q @ k.T and attention @ v, for (..., L, E), (..., S, E), (..., S, V)."""
    query, key, value = (tuple(x.type().sizes()) for x in inputs[:3])
    return math.prod(query[:-1]) * key[-2] * (query[-1] + value[-1])


def count_flops(model: nn.Module, input_shape: Sequence[int]) -> Cost:
    """Count a forward pass of ``model`` in evaluation mode. fvcore traces it, so it is computed once.

    Args:
        model: the model.
        input_shape: shape of its input, such as (1, 8, 3, 224, 224).
    """
    parameter = next(model.parameters())
    clip = torch.zeros(tuple(input_shape), device=parameter.device, dtype=parameter.dtype)
    training = model.training
    analysis = FlopCountAnalysis(model.eval(), clip)
    analysis.set_op_handle("aten::scaled_dot_product_attention", _attention_flops)
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")  # of tracing: shapes are constants here, as they should be
        by_operator, by_module = analysis.by_operator(), analysis.by_module_and_operator()
    model.train(training)
    return Cost(
        parameters=sum(p.numel() for p in model.parameters()),
        gflops=_matrix_gflops(by_operator),
        other_gflops={name: count / 1e9 for name, count in by_operator.items() if name not in MATRIX_OPERATORS},
        by_module={name: _matrix_gflops(operators) for name, operators in by_module.items() if name},
    )


def _matrix_gflops(by_operator: dict[str, float]) -> float:
    return sum(count for name, count in by_operator.items() if name in MATRIX_OPERATORS) / 1e9


def zoo_cost(name: str, num_frames: int | None = None, **model_args: Any) -> Cost:
    """Cost of a model of the zoo on one clip, counted without weights.

    Args:
        name: timm name of an InTI model.
        num_frames: frames of the clip; None for the model's own number.
        **model_args: arguments of the model, such as ``compress_at=()`` for its naive twin.
    """
    model = create_model(name, **model_args)
    frames = num_frames or model.num_frames
    return count_flops(model, (1, frames, model.in_chans, *model.patch_embed.img_size))
