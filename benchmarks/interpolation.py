"""What the interpolations cost: their fraction of a model's forward time, and where it goes.

    python benchmarks/interpolation.py [MODEL ...] [--device cuda --dtype bfloat16] [--seconds 5]

An interpolation reads the tokens of T frames and writes those of T / 2: adding neighbouring frames without weights
moves as much and is its lower bound. The fraction is that of all interpolations in the model's forward pass, on one
clip of its own number of frames, eager and compiled; parts are timed separately, eager. Random weights (time does not
depend on them). Writes results/interpolation_<device>.json.
"""

import argparse
from pathlib import Path
from typing import Any, cast

import torch
from report import machine, report
from torch import Tensor, nn
from torch.utils.benchmark import Timer
from tqdm import tqdm

from inti_models.models.interpolation import InterFrameInterpolation, interpolate
from inti_models.models.registry import create_model
from inti_models.models.stages import InTIModel


def milliseconds(function: Any, *args: Any, seconds: float) -> float:
    """Return the median time of a call; warmed up, and synchronised on CUDA."""
    timer = Timer("function(*args)", globals={"function": function, "args": args}, num_threads=torch.get_num_threads())
    timer.timeit(2)
    return timer.adaptive_autorange(min_run_time=seconds / 5, max_run_time=seconds).median * 1e3


def parts(layer: InterFrameInterpolation, x: Tensor, grid_size: tuple[int, int]) -> dict[str, Any]:
    """Return the steps of a softmax interpolation as functions of tokens (B, T, N, C)."""
    predict = layer.predict
    assert predict is not None
    pairs = x.unflatten(1, (x.shape[1] // 2, 2))  # B P 2 N C
    z = predict.reduce(predict.norm(pairs))
    weights = layer.weights(pairs, grid_size)
    return {
        "norm": lambda: predict.norm(pairs),
        "reduce": lambda: predict.reduce(pairs),
        **{
            f"{name} context": lambda name=name: predict.context_features(name, z, grid_size)
            for name in predict.context
        },
        "weighted sum": lambda: interpolate(pairs, weights),
    }


@torch.inference_mode()
def row(name: str, device: torch.device, dtype: torch.dtype, seconds: float, compiled: bool = True) -> dict[str, Any]:
    """Time a model and its interpolations, eager and, if wanted, compiled."""
    model = cast(InTIModel, create_model(name)).eval().to(device, dtype)
    size = model.pretrained_cfg["input_size"]
    clip = torch.randn(1, model.num_frames, *size, device=device, dtype=dtype)
    grid_size = model.patch_embed.grid_size
    num_tokens = model.num_prefix_tokens + grid_size[0] * grid_size[1]
    result: dict[str, Any] = {
        "model": name,
        "clip": list(clip.shape),
        "forward_ms": milliseconds(model, clip, seconds=seconds),
        "interpolations": [],
    }
    if compiled:
        result["compiled_forward_ms"] = milliseconds(torch.compile(model), clip, seconds=seconds)
    for compressions, at in enumerate(model.compress_at):
        layer = cast(InterFrameInterpolation, cast(nn.ModuleList, model.interpolations[str(at)])[0])
        x = torch.randn(1, model.num_frames // 2**compressions, num_tokens, model.embed_dim, device=device, dtype=dtype)
        result["interpolations"].append(
            {
                "after_block": at,
                "frames": x.shape[1],
                "floor_ms": milliseconds(lambda x=x: x[:, ::2] + x[:, 1::2], seconds=seconds),
                "ms": milliseconds(layer, x, grid_size, seconds=seconds),
                **(
                    {"compiled_ms": milliseconds(torch.compile(layer), x, grid_size, seconds=seconds)}
                    if compiled
                    else {}
                ),
                "parts_ms": {
                    part: milliseconds(function, seconds=seconds)
                    for part, function in parts(layer, x, grid_size).items()
                },
            }
        )
        if compiled:
            result["interpolations"][-1]["compiled_ms"] = milliseconds(
                torch.compile(layer), x, grid_size, seconds=seconds
            )
    for prefix in ("", "compiled_") if compiled else ("",):
        spent = sum(i[f"{prefix}ms"] for i in result["interpolations"])
        result[f"{prefix}fraction_percent"] = 100 * spent / result[f"{prefix}forward_ms"]
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=["inti_vit_b16_k400", "inti_vit_l14_k400"])
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32")
    parser.add_argument("--seconds", type=float, default=5.0, help="time limit of each measurement")
    parser.add_argument("--output", type=Path, help="default: results/interpolation_<device>.json")
    args = parser.parse_args()
    rows = [row(name, args.device, getattr(torch, args.dtype), args.seconds) for name in tqdm(args.models)]
    default = Path(__file__).parent / "results" / f"interpolation_{args.device.type}.json"
    report({"machine": machine(args.device), "dtype": args.dtype, "rows": rows}, args.output or default)


if __name__ == "__main__":
    main()
