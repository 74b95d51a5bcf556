"""Join cost with accuracy, draw the frontier, and rewrite the tables of benchmarks/README.md.

    python benchmarks/compare.py

Reads results/*.json and papers.yaml, measures nothing. Writes results/compare.csv, results/frontier.png and .svg, and
the tables between the markers ``<!-- table: NAME -->`` and ``<!-- end -->`` of README.md.
"""

import csv
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any

import flops
import yaml

from inti_models.evaluation.benchmark import describe
from inti_models.evaluation.benchmark import table as throughput_table

HERE = Path(__file__).parent
RESULTS = HERE / "results"
PAPERS = HERE / "papers.yaml"
README = HERE / "README.md"
MARKED = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
NOT_MEASURED = "*Not measured.*"
# Rows of accuracy.json that differ in the method only: (table, name).
ADAPTATIONS = (
    ("adaptation", "naive, every frame"),
    ("adaptation", "InTI"),
    ("adaptation", "fixed mean"),
    ("adaptation", "drop every other frame"),
    ("adaptation", "ToMe, same GFLOPs"),
    ("adaptation", "naive + temporal attention"),
    ("adaptation", "temporal attention in the blocks"),
    ("adaptation", "InTI + temporal attention in the blocks"),
    ("adaptation", "ST-Adapter"),
    ("adaptation", "InTI + ST-Adapter"),
    ("adaptation", "AIM"),
    ("adaptation", "InTI + AIM"),
    ("adaptation", "UniFormerV2"),
    ("adaptation", "InTI + UniFormerV2"),
    ("schedule", "three times, as cheap (2, 5, 6)"),
)


def read(name: str) -> Any:
    """A result, or None if it was never written."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else None


def motion_digits() -> list[dict[str, Any]]:
    """Accuracy measured here, mean over seeds, beside cost: 12,000 clips of training each."""
    rows = []
    for table, name in ADAPTATIONS:
        seeds = [r for r in read("accuracy") if (r["table"], r["name"]) == (table, name)]
        rows.append(
            {
                "model": name,
                "gflops": seeds[0]["gflops"],
                "clips_per_second": next((r["clips_per_second"] for r in seeds if r["clips_per_second"]), None),
                "motion": fmean(r["accuracy"]["motion"] for r in seeds),
                "digit": fmean(r["accuracy"]["digit"] for r in seeds),
                "seeds": len(seeds),
            }
        )
    return rows


def kinetics() -> list[dict[str, Any]]:
    """Papers' Kinetics-400 accuracy beside the cost counted and measured here, of one view."""
    papers = yaml.safe_load(PAPERS.read_text())
    measured = read("throughput_cpu")
    rows = []
    for row in measured["rows"] if measured else []:
        paper = papers.get(row["key"])
        if paper:
            rows.append(
                {
                    "model": row["key"],
                    "frames": row["input"][0],
                    "gflops": row["gflops"],
                    "clips_per_second": row["clips_per_second"],
                    "paper_top1": paper["top1"],
                    "paper_views": paper["views"],
                    "source": paper["source"],
                }
            )
    return rows


def peers_table(measured: dict[str, Any]) -> str:
    """What each peer is, what its authors state, and what measures its row again."""
    from peers import PEERS

    lines = [
        "| peer | built by | setting | GFLOPs counted | published, one view |",
        "|---|---|---|---:|---|",
    ]
    rows = {row["key"]: row for row in measured["rows"] if row["family"] == "peer"}
    for name, row in rows.items():
        peer = PEERS[name]
        stated = f"{peer.published_gflops:.4g} ({peer.published_in})" if peer.published_gflops else "–"
        lines.append(f"| {name} | {peer.source} | {peer.note} | {row['gflops']:.4g} | {stated} |")
    commands = "\n".join(row["command"] for row in measured["rows"])
    return "\n".join([*lines, "", "One command for each row:", "", "```sh", commands, "```"])


def throughput(name: str) -> str:
    """Times of one run."""
    measured = read(name)
    return f"{describe(measured)}\n\n{throughput_table(measured['rows'])}" if measured else NOT_MEASURED


def scaling() -> str:
    """Cost over frames and over resolution, and the exponents."""
    measured = read("scaling_cpu")
    if measured is None:
        return NOT_MEASURED
    where = measured["machine"]
    lines = [
        f"`{measured['model']}`, batch size 1, float32 on {where['device']}, {where['threads']} threads, torch "
        f"{where['torch']}.",
        "",
        "| frames × size | schedule | GFLOPs | ms | peak MiB without weights |",
        "|---|---|---:|---:|---:|",
    ]
    lines += [
        f"| {r['frames']} × {r['size']}×{r['size']} | {r['variant']}{': ' if r['compress_at'] else ''}"
        f"{tuple(r['compress_at']) or ''} | {r['gflops']:.4g} | {r['ms']:.4g} | {r['peak_memory_mib']:.4g} |"
        for r in measured["rows"]
    ]
    lines += [
        "",
        "Cost grows as a power of frames or of pixels; the exponents, and what a further frame takes:",
        "",
        "| over | schedule | GFLOPs | time | memory | MiB a frame |",
        "|---|---|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {f['axis']} | {f['variant']} | {f['gflops_exponent']:.2f} | {f['ms_exponent']:.2f} | "
        f"{f['peak_memory_mib_exponent']:.2f} | {f.get('mib_per_frame', '–')} |"
        for f in measured["fits"]
    ]
    return "\n".join(lines)


def where(measured: dict[str, Any]) -> str:
    """One sentence: what a result was measured on."""
    on = measured["machine"]
    return f"{on['device']}, {on['threads']} threads, float32, torch {on['torch']}."


def columns(rows: list[dict[str, Any]], of: dict[str, str]) -> str:
    """Rows as a Markdown table: heading -> format of a row."""
    numbers = ["---:" if "." in form else "---" for form in of.values()]
    lines = [f"| {' | '.join(of)} |", f"|{'|'.join(numbers)}|"]
    return "\n".join([*lines, *(f"| {' | '.join(form.format(**row) for form in of.values())} |" for row in rows)])


def streaming() -> str:
    """Cost of each label of a stream."""
    measured = read("streaming_cpu")
    if measured is None:
        return NOT_MEASURED
    table = columns(
        measured["rows"],
        {
            "stride": "{stride}",
            "way": "{way}",
            "GFLOPs a label": "{gflops:.4g}",
            "ms a label": "{ms:.4g}",
            "fewer GFLOPs than InTI recomputed": "{fewer_gflops:.2f}x",
            "faster": "{faster:.2f}x",
        },
    )
    return f"`{measured['model']}`, {measured['frames']} frames; {where(measured)}\n\n{table}"


def long_video() -> str:
    """Cost of long clips at a constant budget."""
    measured = read("long_video_cpu")
    if measured is None:
        return NOT_MEASURED
    rows = [row | {"schedule": tuple(row["compress_at"])} for row in measured["rows"]]
    table = columns(
        rows,
        {
            "frames": "{frames}",
            "schedule": "{schedule}",
            "frames a block": "{mean_frames:.2f}",
            "GFLOPs": "{gflops:.4g}",
            "ms": "{whole_ms:.5g}",
            "ms in chunks": "{chunked_ms:.5g}",
            "MiB": "{whole_mib:.4g}",
            "MiB in chunks": "{chunked_mib:.4g}",
            "largest difference": "{largest_difference:.1e}",
        },
    )
    return (
        f"`{measured['model']}`, at most {measured['budget']:g} frames a block, chunks of {measured['chunk']} frames; "
        f"{where(measured)}\n\n{table}"
    )


def ragged() -> str:
    """Accuracy at numbers of frames that do not halve without a rest."""
    measured = read("ragged")
    if measured is None:
        return NOT_MEASURED
    names = ("repeated evenly", "last repeated", "last pair again")
    table = columns(measured["rows"], {"frames": "{frames}"} | {name: f"{{{name}:.2f}}" for name in names})
    return (
        f"`{measured['model']}`, {measured['clips']} clips of MotionDigits' validation set; top-1, percent.\n\n{table}"
    )


def latency() -> str:
    """From file to label."""
    measured = read("latency_cpu")
    if measured is None:
        return NOT_MEASURED
    rows = [
        {"model": row["model"], "variant": variant} | {key: value["median"] for key, value in parts.items()}
        for row in measured["rows"]
        for variant, parts in row["variants"].items()
    ]
    table = columns(
        rows,
        {
            "model": "`{model}`",
            "normalization": "{variant}",
            "file to label, ms": "{latency_ms:.4g}",
            "read": "{read_ms:.4g}",
            "transform": "{transform_ms:.4g}",
            "forward": "{forward_ms:.4g}",
        },
    )
    lists = "; ".join(
        f"`{row['model']}`: {row['files_per_second']['one by one']:g} one by one, "
        f"{row['files_per_second']['read ahead']:g} reading ahead"
        for row in measured["rows"]
    )
    return f"{where(measured)} Medians.\n\n{table}\n\nLists of files, files a second: {lists}."


def interpolation() -> str:
    """Fraction of the interpolations in a forward pass."""
    measured = read("interpolation_cpu")
    if measured is None:
        return NOT_MEASURED
    rows = [
        row
        | {
            "ms": sum(i["ms"] for i in row["interpolations"]),
            "floor_ms": sum(i["floor_ms"] for i in row["interpolations"]),
        }
        for row in measured["rows"]
    ]
    table = columns(
        rows,
        {
            "model": "`{model}`",
            "forward, ms": "{forward_ms:.4g}",
            "interpolations, ms": "{ms:.3g}",
            "floor, ms": "{floor_ms:.3g}",
            "fraction": "{fraction_percent:.2f}%",
            "fraction, compiled": "{compiled_fraction_percent:.2f}%",
        },
    )
    return f"{where(measured)} The floor adds neighbouring frames without weights.\n\n{table}"


def quantization() -> str:
    """int8 beside float32."""
    results = [r for r in (read("quantization_cpu"), read("quantization_cpu_compiled")) if r]
    if not results:
        return NOT_MEASURED
    rows = [row | {"how": "compiled" if r["compile"] else "eager"} for r in results for row in r["rows"]]
    table = columns(
        rows,
        {
            "": "{how}",
            "blocks in": "{variant}",
            "ms": "{ms:.4g}",
            "time / float32": "{time_ratio:.3f}",
            "small model: top-1 %": "{top1_percent:.1f}",
            "same label %": "{same_label_percent:.1f}",
        },
    )
    return f"`{results[0]['model']}`; {where(results[0])}\n\n{table}"


def motion_digits_table() -> str:
    """Accuracy measured here."""
    lines = ["| model | GFLOPs | clips/s | motion % | digit % | seeds |", "|---|---:|---:|---:|---:|---:|"]
    lines += [
        f"| {r['model']} | {r['gflops']:.4f} | {r['clips_per_second'] or '–'} | {r['motion']:.1f} | {r['digit']:.1f} | "
        f"{r['seeds']} |"
        for r in motion_digits()
    ]
    return "\n".join(lines)


def kinetics_table() -> str:
    """Papers' accuracy."""
    rows = kinetics()
    if not rows:
        return NOT_MEASURED
    lines = [
        "| model | frames | GFLOPs a view | clips/s | **papers'** top-1 | views of the paper | source |",
        "|---|---:|---:|---:|---:|---|---|",
    ]
    lines += [
        f"| {r['model']} | {r['frames']} | {r['gflops']:.4g} | {r['clips_per_second']:.3g} | {r['paper_top1']:.1f} | "
        f"{r['paper_views']} | {r['source']} |"
        for r in rows
    ]
    return "\n".join(lines)


def peers() -> str:
    """Peers of the CPU's run."""
    measured = read("throughput_cpu")
    return peers_table(measured) if measured else NOT_MEASURED


TABLES: dict[str, Callable[[], str]] = {
    "gflops": lambda: flops.table(read("flops")),
    "stages": lambda: flops.stage_table(read("flops")),
    "frames": lambda: flops.frames_table(read("flops")),
    "throughput_cpu": lambda: throughput("throughput_cpu"),
    "throughput_cpu_train": lambda: throughput("throughput_cpu_train"),
    "throughput_cuda": lambda: throughput("throughput_cuda"),
    "train_stage0": lambda: throughput("throughput_cpu_train_stage0"),
    "train_compiled": lambda: throughput("throughput_cpu_train_compiled"),
    "compiled": lambda: throughput("throughput_cpu_compiled"),
    "batch32": lambda: throughput("throughput_cpu_batch32"),
    "streaming": streaming,
    "long_video": long_video,
    "ragged": ragged,
    "latency": latency,
    "interpolation": interpolation,
    "quantization": quantization,
    "peers": peers,
    "scaling": scaling,
    "motion_digits": motion_digits_table,
    "kinetics": kinetics_table,
}


def with_tables(text: str) -> str:
    """README with its tables written anew."""
    return MARKED.sub(lambda found: f"{found[1]}{TABLES[found[2]]()}\n{found[3]}", text)


def as_csv() -> str:
    """Both joined tables as CSV; accuracy of papers has a column of its own."""
    columns = ["task", "model", "frames", "gflops", "clips_per_second"]
    columns += ["motion", "digit", "seeds", "paper_top1", "paper_views", "source"]
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows({"task": "MotionDigits, measured here", **row} for row in motion_digits())
    writer.writerows({"task": "Kinetics-400, accuracy of papers", **row} for row in kinetics())
    return text.getvalue()


def frontier(points: list[tuple[float, float]], cheaper: int) -> list[tuple[float, float]]:
    """The points that no other beats: none is as cheap and more accurate. ``cheaper``: 1 for costs, -1 for speeds."""
    best: list[tuple[float, float]] = []
    for cost, accuracy in sorted(points, key=lambda p: (cheaper * p[0], -p[1])):
        if not best or accuracy > best[-1][1]:
            best.append((cost, accuracy))
    return best


def draw() -> None:
    """Accuracy against GFLOPs and against speed, with the frontier: results/frontier.png and .svg."""
    import matplotlib
    from matplotlib.figure import Figure

    matplotlib.rcParams["svg.hashsalt"] = "inti_models"  # the same file from the same numbers
    figure = Figure(figsize=(11, 9), layout="constrained")
    panels = (
        (motion_digits(), "motion", "MotionDigits: motion, % (measured here)"),
        (kinetics(), "paper_top1", "Kinetics-400 top-1, % (papers' figures)"),
    )
    axes = figure.subplots(2, 2)
    for (rows, accuracy, title), row_of_axes in zip(panels, axes, strict=True):
        for axis, (cost, label, cheaper) in zip(
            row_of_axes,
            (("gflops", "GFLOPs of a clip (counted)", 1), ("clips_per_second", "clips a second (measured, CPU)", -1)),
            strict=True,
        ):
            shown = [r for r in rows if r[cost]]
            for r in shown:
                inti = "InTI" in r["model"] or r["model"].startswith("inti")
                axis.scatter(r[cost], r[accuracy], color="tab:red" if inti else "tab:gray", zorder=3)
                axis.annotate(r["model"], (r[cost], r[accuracy]), xytext=(4, 3), textcoords="offset points", fontsize=7)
            line = frontier([(r[cost], r[accuracy]) for r in shown], cheaper)
            axis.plot(*zip(*line, strict=True), color="tab:blue", linewidth=1) if line else None
            axis.set(xlabel=label, ylabel=title, xscale="log")
            axis.margins(x=0.25)
            axis.grid(alpha=0.3)
    figure.suptitle("Red: InTI. Gray: others. Blue: the frontier, no other is cheaper and more accurate.", fontsize=10)
    figure.savefig(RESULTS / "frontier.png", dpi=110, metadata={"Software": None})
    figure.savefig(RESULTS / "frontier.svg", metadata={"Date": None})


def main() -> None:
    README.write_text(with_tables(README.read_text()))
    (RESULTS / "compare.csv").write_text(as_csv())
    draw()
    print(f"wrote {README.name}, compare.csv, frontier.png and frontier.svg")


if __name__ == "__main__":
    main()
