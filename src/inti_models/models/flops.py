"""Cost of a model: parameters, operations and activations, counted by fvcore.

One multiply-add counts as one operation. The headline number is that of matrix products and convolutions;
normalisation and elementwise operations are listed separately. Any other operator that does not just move data raises
an error: nothing is skipped silently.
"""

import math
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from .registry import create_model
from .stages import InTIModel

with warnings.catch_warnings():  # fvcore 0.1.5 decorates with torch.jit.script, which torch calls deprecated
    warnings.simplefilter("ignore", FutureWarning)
    from fvcore.nn import FlopCountAnalysis
    from fvcore.nn.jit_handles import (
        addmm_flop_jit,
        bmm_flop_jit,
        conv_flop_jit,
        einsum_flop_jit,
        get_shape,
        linear_flop_jit,
        matmul_flop_jit,
        norm_flop_counter,
    )

Handle = Callable[[list[Any], list[Any]], Any]


@dataclass(frozen=True)
class Cost:
    """The cost of a forward pass.

    Attributes:
        parameters: number of parameters.
        gflops: matrix products and convolutions, in 1e9 multiply-adds.
        activations_m: elements that matrix products and convolutions output, in 1e6.
        other_gflops: 1e9 operations of normalisation and of elementwise operators, by operator: one per output element
            (of a reduction: input element), fvcore's count for normalisation.
        by_module: ``gflops`` of every submodule by its name (dotted path).
    """

    parameters: int
    gflops: float
    activations_m: float
    other_gflops: dict[str, float]
    by_module: dict[str, float]


def _attention_flops(inputs: list[Any], outputs: list[Any]) -> int:
    """``scaled_dot_product_attention``: q @ k.T and attention @ v, for (..., L, E), (..., S, E), (..., S, V)."""
    query, key, value = (get_shape(x) for x in inputs[:3])
    return math.prod(query[:-1]) * key[-2] * (query[-1] + value[-1])


_MATRIX: dict[str, Handle] = {
    "addmm": addmm_flop_jit,
    "bmm": bmm_flop_jit,
    "_convolution": conv_flop_jit,
    "einsum": einsum_flop_jit,
    "linear": linear_flop_jit,
    "matmul": matmul_flop_jit,
    "mm": matmul_flop_jit,
    "scaled_dot_product_attention": _attention_flops,
}
_ELEMENTWISE = {
    *("add", "add_", "clamp_min", "cos", "div", "exp", "gelu", "log", "mul", "mul_", "neg", "pow", "relu", "relu_"),
    *("rsub", "sigmoid", "silu", "sin", "softmax", "sub", "tanh", "upsample_bicubic2d", "upsample_linear1d"),
}
_REDUCTIONS = {"adaptive_avg_pool3d", "amax", "avg_pool3d", "linalg_vector_norm", "max_pool3d", "mean", "sum"}
# Besides those that fvcore ignores. Sorting is comparing, not arithmetic.
_MOVEMENT = {
    *("argmax", "argsort", "clone", "dropout_", "embedding", "expand_as", "feature_dropout", "fill_", "movedim", "ne"),
    *("meshgrid", "ones_like", "pad", "rand", "repeat", "repeat_interleave", "scatter_add", "sort", "take_along_dim"),
    *("tensor_split", "unflatten"),
}
_ACTIVATIONS = "activations"


def _matrix_handle(name: str, handle: Handle) -> Handle:
    """Count the operations of an operator, and the elements that it outputs."""

    def count(inputs: list[Any], outputs: list[Any]) -> Counter[str]:
        operations = handle(inputs, outputs)
        if isinstance(operations, Counter):  # so fvcore's handle of convolutions
            operations = operations.total()
        return Counter({name: operations, _ACTIVATIONS: math.prod(get_shape(outputs[0]))})

    return count


def _elements(values: list[Any]) -> int:
    shape = get_shape(values[0])
    return math.prod(shape) if shape else 0  # sizes are numbers, which a trace holds as tensors without dimensions


def count_flops(model: nn.Module, input_shape: Sequence[int]) -> Cost:
    """Count a forward pass of ``model`` in evaluation mode. fvcore traces it, so it is computed once.

    Args:
        model: the model.
        input_shape: shape of its input, such as (1, 8, 3, 224, 224).

    Raises:
        NotImplementedError: for an operator unknown to this module.
    """
    parameter = next(model.parameters())
    clip = torch.zeros(tuple(input_shape), device=parameter.device, dtype=parameter.dtype)
    training = model.training
    analysis = FlopCountAnalysis(model.eval(), clip)
    for name, handle in _MATRIX.items():
        analysis.set_op_handle(f"aten::{name}", _matrix_handle(name.removeprefix("_"), handle))
    for name in _ELEMENTWISE:
        analysis.set_op_handle(f"aten::{name}", lambda inputs, outputs: _elements(outputs))
    for name in _REDUCTIONS:
        analysis.set_op_handle(f"aten::{name}", lambda inputs, outputs: _elements(inputs))
    analysis.set_op_handle("aten::rms_norm", norm_flop_counter(2))  # as fvcore counts layer_norm
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    try:
        with warnings.catch_warnings(), torch.inference_mode():
            warnings.simplefilter("ignore")  # of tracing: shapes are constants here, as they should be
            by_operator, by_module = analysis.by_operator(), analysis.by_module_and_operator()
    finally:
        model.train(training)
    unknown = analysis.unsupported_ops().keys() - {f"aten::{name}" for name in _MOVEMENT}
    if unknown:
        raise NotImplementedError(
            f"Operators without a count: {', '.join(sorted(unknown))}; add each to _MATRIX, _ELEMENTWISE, _REDUCTIONS "
            "or _MOVEMENT of inti_models/models/flops.py."
        )
    matrix = {name.removeprefix("_") for name in _MATRIX}
    return Cost(
        parameters=sum(p.numel() for p in model.parameters()),
        gflops=_total(by_operator, matrix),
        activations_m=by_operator[_ACTIVATIONS] / 1e6,
        other_gflops={
            name: count / 1e9 for name, count in by_operator.items() if count and name not in {*matrix, _ACTIVATIONS}
        },
        by_module={name: _total(operators, matrix) for name, operators in by_module.items() if name},
    )


def _total(by_operator: dict[str, float], names: set[str]) -> float:
    return sum(count for name, count in by_operator.items() if name in names) / 1e9


def zoo_cost(name: str, num_frames: int | None = None, **model_args: Any) -> Cost:
    """Count the cost of a model of the zoo on one clip, without weights.

    Args:
        name: timm name of an InTI model.
        num_frames: frames of the clip; None for the model's own number.
        **model_args: arguments of the model, such as ``compress_at=()`` for its naive twin.
    """
    model = create_model(name, **model_args)
    frames = num_frames or model.num_frames
    return count_flops(model, (1, frames, model.in_chans, *model.patch_embed.img_size))


def by_stage(model: InTIModel, cost: Cost) -> dict[str, float]:
    """Return the GFLOPs of a model's parts: embedding, the blocks after k compressions, interpolations and the rest.

    The rest is the head, and what a temporal method runs outside the blocks.
    """
    stages = {"embedding": cost.by_module["patch_embed"]}
    for stage, blocks in enumerate(model.stages):
        stages[f"stage {stage}"] = sum(cost.by_module[f"blocks.{i}"] for i in blocks)
    stages["interpolations"] = sum(cost.by_module[f"interpolations.{at}"] for at in model.interpolations)
    return {**stages, "rest": cost.gflops - sum(stages.values())}
