"""GFLOPs of the zoo beside its naive twins: writes results/flops.json and prints a Markdown table.

    python benchmarks/flops.py [MODEL ...]

Counted by fvcore on one clip of the model's own number of frames; a multiply-add is one operation. The
headline is matrix products and convolutions, attention's included; normalisation is listed apart.
"""

import argparse
import json
from pathlib import Path

from tqdm import tqdm

from inti_models.flops import zoo_cost
from inti_models.zoo import TEMPORAL_MODELS, create_model

MODELS = [
    "inti_vit_b16_k400",
    "inti_vit_l14_k400",
    "inti_vit_l14_336_k400",
    "inti_vit_t8_32_motiondigits",
    *TEMPORAL_MODELS,
]
RESULTS = Path(__file__).parent / "results" / "flops.json"


def row(name: str) -> dict:
    """What a model and its naive twin cost."""
    model = create_model(name, device="meta")
    cost, naive = zoo_cost(name), zoo_cost(name, compress_at=())
    interpolation = sum(cost.by_module[f"interpolations.{at}"] for at in model.interpolations)
    return {
        "model": name,
        "input": [model.num_frames, *model.pretrained_cfg["input_size"]],
        "compress_at": list(model.compress_at),
        "parameters_m": round(cost.parameters / 1e6, 2),
        "naive_gflops": round(naive.gflops, 5),
        "gflops": round(cost.gflops, 5),
        "saved_percent": round(100 * (1 - cost.gflops / naive.gflops), 2),
        "interpolation_percent": round(100 * interpolation / cost.gflops, 3),
        "other_gflops": {operator: round(count, 3) for operator, count in cost.other_gflops.items()},
    }


def table(rows: list[dict]) -> str:
    """The rows in Markdown."""
    lines = [
        "| model | frames × size | `compress_at` | parameters | naive GFLOPs | InTI GFLOPs | saved |",
        "|---|---|---|---:|---:|---:|---:|",
    ]
    for r in rows:
        frames, _, height, width = r["input"]
        lines.append(
            f"| `{r['model']}` | {frames} × {height}×{width} | {tuple(r['compress_at'])} | {r['parameters_m']:.1f} M | "
            f"{r['naive_gflops']:.4g} | {r['gflops']:.4g} | {r['saved_percent']:.1f}% |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=MODELS)
    rows = [row(name) for name in tqdm(parser.parse_args().models)]
    RESULTS.write_text(json.dumps(rows, indent=2) + "\n")
    print(table(rows))


if __name__ == "__main__":
    main()
