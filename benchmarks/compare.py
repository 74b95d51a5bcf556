"""Join cost with accuracy, draw both, and rewrite the tables of benchmarks/README.md.

    python benchmarks/compare.py

Reads results/*.json, measures nothing. Writes results/compare.csv, the figures results/kinetics.png and
motion_digits.png (and .svg), and the tables between the markers ``<!-- table: NAME -->`` and ``<!-- end -->`` of
README.md. The same results give the same bytes.
"""

import argparse
import csv
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any

import audit
import flops

from inti_models.evaluation.benchmark import describe
from inti_models.evaluation.benchmark import table as throughput_table

HERE = Path(__file__).parent
RESULTS = HERE / "results"
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
                "inti": table == "schedule" or "InTI" in name,
                "gflops": seeds[0]["gflops"],
                "clips_per_second": next((r["clips_per_second"] for r in seeds if r["clips_per_second"]), None),
                "motion": fmean(r["accuracy"]["motion"] for r in seeds),
                "digit": fmean(r["accuracy"]["digit"] for r in seeds),
                "seeds": len(seeds),
            }
        )
    return rows


def kinetics() -> list[dict[str, Any]]:
    """Papers' Kinetics-400 accuracy beside audited cost, and the speed of those that were timed here."""
    measured = read("throughput_cpu")
    clips = {row["key"]: row["clips_per_second"] for row in measured["rows"]} if measured else {}
    return [row | {"clips_per_second": clips.get(row["peer"])} for row in read("audit")]


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


def throughput(name: str, measured: dict[str, Any] | None = None) -> str:
    """Times of one run."""
    measured = measured or read(name)
    return f"{describe(measured)}\n\n{throughput_table(measured['rows'])}" if measured else NOT_MEASURED


def cuda(folder: Path | None = None) -> str:
    """All tables of a GPU, of the files that gpu.py writes."""
    tables = []
    for path in sorted((folder or RESULTS).glob("*_cuda*.json")):
        measured = json.loads(path.read_text())
        kind = path.stem.partition("_")[0]
        render = {"interpolation": interpolation, "streaming": streaming, "latency": latency}.get(kind)
        tables.append(render(measured) if render else throughput(path.stem, measured))
    return "\n\n".join(tables) or NOT_MEASURED


def small_model() -> str:
    """The small model's times beside those of its uncompressed self, by batch size."""
    measured = read("small_model_cpu")
    if measured is None:
        return NOT_MEASURED
    table = columns(
        measured["rows"],
        {
            "step": "{step}",
            "batch": "{batch_size:.0f}",
            "ms a clip": "{ms_per_clip[median]:.4g}",
            "naive, ms a clip": "{naive[ms_per_clip][median]:.4g}",
            "time / naive": "{time_ratio:.3f}",
            "GFLOPs / naive": "{gflops_ratio:.3f}",
        },
    )
    return f"`{measured['model']}`, eager; {where(measured)} Medians, in turns.\n\n{table}"


def scaling(measured: dict[str, Any] | None = None) -> str:
    """Cost over frames and over resolution, and the exponents."""
    measured = measured or read("scaling_cpu")
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
    driver = f", driver {on['driver']}" if on.get("driver") else ""
    return f"{on['device']}{driver}, {on['threads']} threads, {measured.get('dtype', 'float32')}, torch {on['torch']}."


def columns(rows: list[dict[str, Any]], of: dict[str, str]) -> str:
    """Rows as a Markdown table: heading -> format of a row."""
    numbers = ["---:" if "." in form else "---" for form in of.values()]
    lines = [f"| {' | '.join(of)} |", f"|{'|'.join(numbers)}|"]
    return "\n".join([*lines, *(f"| {' | '.join(form.format(**row) for form in of.values())} |" for row in rows)])


def streaming(measured: dict[str, Any] | None = None) -> str:
    """Cost of each label of a stream."""
    measured = measured or read("streaming_cpu")
    if measured is None:
        return NOT_MEASURED
    table = columns(
        measured["rows"],
        {
            "stride": "{stride}",
            "way": "{way}",
            "GFLOPs a label": "{gflops:.4g}",
            "ms a label": "{ms:.4g}",
            "GFLOPs / InTI recomputed": "{gflops_ratio:.3f}",
            "time / InTI recomputed": "{time_ratio:.3f}",
        },
    )
    return f"`{measured['model']}`, {measured['frames']} frames; {where(measured)}\n\n{table}"


def long_video(measured: dict[str, Any] | None = None) -> str:
    """Cost of long clips at a constant budget."""
    measured = measured or read("long_video_cpu")
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


def encoding() -> str:
    """How far the two embeddings of a clip are apart."""
    measured = read("encoding")
    if measured is None:
        return NOT_MEASURED
    form = {
        "model": "`{model}`",
        "frames that remain": "{remaining_frames:.0f}",
        "deviation of their lengths": "{length_of_frames_deviation:.1%}",
        "mean cosine": "{mean_cosine:.5f}",
        "lowest": "{lowest_cosine:.3f}",
        "same nearest %": "{same_nearest_percent:.1f}",
        "nearest has the label %": "{nearest_has_label_percent:.1f}",
        "normalised": "{nearest_has_label_normalised_percent:.1f}",
    }
    return f"{measured['clips']} clips of MotionDigits' validation set.\n\n{columns(measured['rows'], form)}"


def latency(measured: dict[str, Any] | None = None) -> str:
    """From file to label."""
    measured = measured or read("latency_cpu")
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


def file_to_label(part: str, of: dict[str, str]) -> str:
    """A part of `file_to_label.py`."""
    measured = (read("file_to_label_cpu") or {}).get(part)
    if measured is None:
        return NOT_MEASURED
    on = measured["machine"]
    native = "computes" if on["bfloat16"] else "does not compute"
    where = f"{on['device']}, which {native} bfloat16 natively, {on['threads']} threads, torch {on['torch']}."
    rows = [row | {"batch_size": row.get("batch_size") or "–"} for row in measured["rows"]]
    return f"{where}\n\n{columns(rows, of)}"


def training_options() -> str:
    """Options of a training step."""
    measured = read("training_options_cpu")
    if measured is None:
        return NOT_MEASURED
    of = {
        "model": "`{model}`",
        "clips": "{clips}",
        "options": "{options}",
        "ms": "{ms:.4g}",
        "time / none": "{ratio:.3f}",
    }
    return f"{where(measured)}\n\n{columns(measured['rows'], of)}"


def start_up() -> str:
    """CPU time of commands that compute nothing."""
    measured = read("start_up_cpu")
    if measured is None:
        return NOT_MEASURED
    of = {"": "`{what}`", "CPU seconds": "{cpu_seconds:.2f}", "/ importing timm": "{ratio:.2f}"}
    return f"{where(measured)} Median of {measured['repeats']}.\n\n{columns(measured['rows'], of)}"


def load_time() -> str:
    """Time and memory of loading."""
    measured = read("load_time_cpu")
    if measured is None:
        return NOT_MEASURED
    what = {"load": "`inti_models.load`", "least": "`load_file`, digest, `timm.create_model`"}
    rows = [
        {"what": text, "seconds": measured["seconds"][key], "peak": measured["peak_mib"][key]}
        for key, text in what.items()
    ]
    table = columns(rows, {"": "{what}", "seconds": "{seconds:.3f}", "peak, MiB": "{peak:.0f}"})
    return (
        f"`{measured['model']}`, a file of {measured['file_mib']:.0f} MiB, in a fresh process; {where(measured)} "
        f"Median of {measured['repeats']}. {measured['time_ratio']:.2f} of the time, a peak of "
        f"{measured['peak_to_file']:.2f} of the file.\n\n{table}"
    )


def decoding() -> str:
    """Clips a second of one core, by reader."""
    measured = read("decoding_cpu")
    if measured is None:
        return NOT_MEASURED
    names = list(measured["rows"][0]["readers"])

    def cell(reader: dict[str, Any] | None, ours: float) -> str:
        if reader is None or "error" in reader:
            return "fails" if reader else "–"
        rate, off = reader["clips_per_second"], reader["difference"]
        return f"{rate:.3g} ({rate / ours:.2f}x{f', differs by {off:g}' if off > 2 else ''})"

    lines = [f"| codec | frames | {' | '.join(names)} |", f"|---|---|{'---:|' * len(names)}"]
    for row in measured["rows"]:
        ours = row["readers"]["inti_models"]["clips_per_second"]
        cells = " | ".join(cell(row["readers"].get(name), ours) for name in names)
        lines.append(f"| {row['codec']} {'x'.join(map(str, row['size']))} | {row['sampling']} | {cells} |")
    versions = ", ".join(f"{name} {version}" for name, version in measured["versions"].items())
    return f"{where(measured)} {versions}. Clips a CPU second (ratio to ours).\n\n" + "\n".join(lines)


def interpolation(measured: dict[str, Any] | None = None) -> str:
    """Fraction of the interpolations in a forward pass."""
    measured = measured or read("interpolation_cpu")
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
    of = {
        "model": "`{model}`",
        "forward, ms": "{forward_ms:.4g}",
        "interpolations, ms": "{ms:.3g}",
        "floor, ms": "{floor_ms:.3g}",
        "fraction": "{fraction_percent:.2f}%",
    }
    if all("compiled_fraction_percent" in row for row in rows):
        of["fraction, compiled"] = "{compiled_fraction_percent:.2f}%"
    table = columns(rows, of)
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


def peers() -> str:
    """Peers of the CPU's run."""
    measured = read("throughput_cpu")
    return peers_table(measured) if measured else NOT_MEASURED


TABLES: dict[str, Callable[[], str]] = {
    "gflops": lambda: flops.table(read("flops") + read("flops_others")),
    "stages": lambda: flops.stage_table(read("flops")),
    "frames": lambda: flops.frames_table(read("flops")),
    "throughput_cpu": lambda: throughput("throughput_cpu"),
    "throughput_cpu_train": lambda: throughput("throughput_cpu_train"),
    "equal_cost": lambda: throughput("throughput_cpu_equal_cost"),
    "cuda": cuda,
    "train_stage0": lambda: throughput("throughput_cpu_train_stage0"),
    "train_compiled": lambda: throughput("throughput_cpu_train_compiled"),
    "compiled": lambda: throughput("throughput_cpu_compiled"),
    "small_model": small_model,
    "streaming": streaming,
    "long_video": long_video,
    "ragged": ragged,
    "encoding": encoding,
    "latency": latency,
    "file_to_label": lambda: file_to_label(
        "files",
        {
            "model": "`{model}`",
            "precision": "{precision}",
            "ms": "{ms:.4g}",
            "time / float32": "{ratio:.3f}",
            "CPU time / float32": "{cpu_ratio:.3f}",
        },
    ),
    "file_lists": lambda: file_to_label(
        "lists",
        {
            "200 short files": "{way}",
            "clips of a pass": "{batch_size}",
            "ms a file": "{ms:.4g}",
            "time / before": "{ratio:.3f}",
            "CPU time / before": "{cpu_ratio:.3f}",
        },
    ),
    "clips_of_a_pass": lambda: file_to_label(
        "batches",
        {
            "model": "`{model}`",
            "precision": "{precision}",
            "clips of a pass": "{clips}",
            "ms a clip": "{ms_a_clip:.4g}",
            "time / one": "{ratio:.3f}",
        },
    ),
    "precision_agreement": lambda: file_to_label(
        "agreement",
        {
            "model": "`{model}`",
            "precision": "{precision}",
            "clips": "{clips}",
            "top-1 %": "{top1_percent:.2f}",
            "same label as float32 %": "{same_label_percent:.2f}",
            "largest difference of a logit": "{largest_difference:.2g}",
            "range of logits": "{range_of_logits:.3g}",
        },
    ),
    "training_options": training_options,
    "start_up": start_up,
    "load_time": load_time,
    "decoding": decoding,
    "interpolation": interpolation,
    "quantization": quantization,
    "peers": peers,
    "scaling": scaling,
    "motion_digits": motion_digits_table,
    "kinetics": lambda: audit.table(read("audit")),
}


def with_tables(text: str) -> str:
    """README with its tables written anew."""
    return MARKED.sub(lambda found: f"{found[1]}{TABLES[found[2]]()}\n{found[3]}", text)


def as_csv() -> str:
    """Both joined tables as CSV; accuracy of papers has a column of its own."""
    columns = ["task", "model", "frames", "size", "gflops", "total_gflops", "stated_gflops", "clips_per_second"]
    columns += ["motion", "digit", "seeds", "paper_top1", "views", "pretraining", "source"]
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    writer.writerows({"task": "MotionDigits, measured here", **row} for row in motion_digits())
    writer.writerows(
        {"task": "Kinetics-400, accuracy of papers", "model": row["name"], "paper_top1": row["top1"], **row}
        for row in kinetics()
    )
    return text.getvalue()


def frontier(points: list[tuple[float, float]], cheaper: int) -> list[tuple[float, float]]:
    """The points that no other beats: none is as cheap and more accurate. ``cheaper``: 1 for costs, -1 for speeds."""
    best: list[tuple[float, float]] = []
    for cost, accuracy in sorted(points, key=lambda p: (cheaper * p[0], -p[1])):
        if not best or accuracy > best[-1][1]:
            best.append((cost, accuracy))
    return best


def place_labels(axis: Any, labels: list[tuple[str, float, float]]) -> None:
    """Write each label at a point of the axis, where it covers no other label and no point.

    Nearer places are tried first; a label that had to move away is joined to its point by a line. Axis limits have to
    be final.

    Raises:
        ValueError: a label has no free place.
    """
    from matplotlib.transforms import Bbox

    renderer = axis.figure.canvas.get_renderer()
    inside = axis.get_window_extent(renderer)
    unit = axis.figure.dpi / 72  # pixels of a point, the unit of offsets
    at = [axis.transData.transform((x, y)) for _, x, y in labels]
    taken = [axis.get_legend().get_window_extent(renderer), *(Bbox.from_bounds(x - 4, y - 4, 8, 8) for x, y in at)]
    for (name, x, y), (left, bottom) in zip(labels, at, strict=True):
        text = axis.annotate(name, (x, y), xytext=(0, 0), textcoords="offset points", fontsize=8)
        width, height = (extent := text.get_window_extent(renderer)).width, extent.height
        for radius, (dx, dy) in ((r, d) for r in range(6, 90, 4) for d in DIRECTIONS):
            offset = (dx * radius * unit + (dx - 1) * width / 2, dy * radius * unit - height / 2)
            box = Bbox.from_bounds(left + offset[0], bottom + offset[1], width, height)
            if (Bbox.union((inside, box)).extents == inside.extents).all() and not any(
                box.overlaps(other) for other in taken
            ):
                break
        else:
            raise ValueError(f"{name!r} has no free place in the figure; make the figure larger or draw fewer points.")
        text.set_position((offset[0] / unit, offset[1] / unit))
        taken.append(box)
        if dy:
            nearest = (min(max(left, box.x0), box.x1), min(max(bottom, box.y0), box.y1))
            end = axis.transData.inverted().transform(nearest)
            axis.plot((x, end[0]), (y, end[1]), color="0.6", linewidth=0.6, zorder=1)


DIRECTIONS = ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (1, -1), (-1, 1), (-1, -1))  # of a label from its point
COLORS = (  # of the Kinetics figure: what the title of a group is, and whether a row is of it; the first that fits
    ("CLIP: InTI", "tab:red", lambda r: r["name"].startswith("InTI")),
    ("CLIP", "tab:blue", lambda r: r["pretraining"] == "CLIP"),
    ("CLIP, then K710", "tab:cyan", lambda r: r["pretraining"] == "CLIP + K710"),
    ("videos with other labels", "tab:green", lambda r: r["pretraining"].startswith("videos")),
    ("ImageNet, or Kinetics alone", "tab:gray", lambda r: True),
)


def draw_kinetics(folder: Path) -> None:
    """Papers' top-1 against audited GFLOPs a view, coloured by pretraining."""
    figure, axis = new_figure((8, 5.6))
    rows = [r for r in kinetics() if r["chart"]]
    groups: dict[str, list[dict[str, Any]]] = {title: [] for title, *_ in COLORS}
    for r in rows:
        groups[next(title for title, _, fits in COLORS if fits(r))].append(r)
    for title, color, _ in COLORS:
        group = groups[title]
        axis.scatter([r["gflops"] for r in group], [r["top1"] for r in group], color=color, label=title, s=28, zorder=3)
    axis.set(xscale="log", xlim=(50, 4000), ylim=(76.5, 91.5))
    axis.set(xlabel="GFLOPs of one view, audited (a multiply-add is one)", ylabel="Kinetics-400 top-1, % (papers')")
    axis.legend(title="pretrained on", fontsize=8, title_fontsize=8, loc="lower right")
    _ticks(axis, (50, 100, 200, 400, 800, 1600, 3200))
    place_labels(axis, [(r["name"], r["gflops"], r["top1"]) for r in rows])
    _save(figure, folder / "kinetics")


def draw_motion_digits(folder: Path) -> None:
    """Accuracy measured here against GFLOPs, with the frontier."""
    figure, axis = new_figure((8, 5.6))
    rows = motion_digits()
    for inti, color, title in ((True, "tab:red", "InTI"), (False, "tab:gray", "others")):
        group = [r for r in rows if r["inti"] == inti]
        axis.scatter(
            [r["gflops"] for r in group], [r["motion"] for r in group], color=color, label=title, s=28, zorder=3
        )
    axis.plot(
        *zip(*frontier([(r["gflops"], r["motion"]) for r in rows], 1), strict=True),
        color="tab:blue",
        linewidth=1,
        label="frontier: no other is as cheap and more accurate",
    )
    axis.set(xlim=(0.055, 0.152), ylim=(40, 95), xlabel="GFLOPs of a clip (a multiply-add is one)")
    axis.set_ylabel("MotionDigits: motion, % (measured here)")
    axis.legend(fontsize=8, loc="upper right")
    place_labels(axis, [(r["model"], r["gflops"], r["motion"]) for r in rows])
    _save(figure, folder / "motion_digits")


def new_figure(size: tuple[float, float]) -> tuple[Any, Any]:
    """A figure of one axis, drawn by Agg at 100 pixels an inch."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, dpi=100)
    FigureCanvasAgg(figure)
    axis = figure.add_axes((0.09, 0.1, 0.89, 0.87))
    axis.grid(alpha=0.3)
    return figure, axis


def _ticks(axis: Any, ticks: tuple[int, ...]) -> None:
    axis.set_xticks(ticks, [str(tick) for tick in ticks])
    axis.minorticks_off()


def _save(figure: Any, path: Path) -> None:
    import matplotlib

    with matplotlib.rc_context({"svg.hashsalt": "inti_models"}):  # ids in the SVG: the same from the same numbers
        figure.savefig(path.with_suffix(".png"), metadata={"Software": None})
        figure.savefig(path.with_suffix(".svg"), metadata={"Date": None})


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args(arguments)
    README.write_text(with_tables(README.read_text()))
    (RESULTS / "compare.csv").write_text(as_csv())
    draw_kinetics(RESULTS)
    draw_motion_digits(RESULTS)
    print(f"wrote {README.name}, compare.csv, and kinetics and motion_digits as .png and .svg")


if __name__ == "__main__":
    main()
