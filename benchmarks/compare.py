"""Join cost with accuracy, draw both, and rewrite the tables of the README files.

    python benchmarks/compare.py

Reads results/*.json, measures nothing. Writes results/compare.csv, the figures results/kinetics.png and accuracy.png
(and .svg), and the tables between the markers ``<!-- table: NAME -->`` and ``<!-- end -->`` of this folder's README.md
and of the repository's. The same results give the same bytes.
"""

import argparse
import csv
import io
import json
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import accuracy
import audit
import flops
import real_videos as real
from experiments import mean_and_spread, with_interval, with_spread

from inti_models.evaluation.benchmark import describe
from inti_models.evaluation.benchmark import table as throughput_table

HERE = Path(__file__).parent
RESULTS = HERE / "results"
READMES = (HERE / "README.md", HERE.parent / "README.md")
MARKED = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
NOT_MEASURED = "*Not measured.*"
DATA_SETS = {"jhmdb": "J-HMDB", "egogestar": "EgoGestAR"}
DEFAULT = accuracy.DEFAULT
CHEAPER = ("every other frame dropped", "naive, 5 frames", "ToMe, same GFLOPs")
REDUCED_AT_RANDOM = ("random tokens, same GFLOPs", "random frames, same GFLOPs")
# What the paper claims -> pairs of rows that tell.
CLAIMS: dict[str, tuple[tuple[str, str], ...]] = {
    "within half a point of the full cost, or better": ((DEFAULT, "naive, every frame"),),
    "predicted weights beat the plain mean": ((DEFAULT, "fixed mean (2, 5, 6)"),),
    "cheaper ways lose more": tuple((DEFAULT, name) for name in (*CHEAPER, *REDUCED_AT_RANDOM)),
    "four contexts beat any three": tuple((DEFAULT, row.name) for row in accuracy.CONTEXT),
    "softmax is the best weighting": ((DEFAULT, "sigmoid"), (DEFAULT, "linear")),
    "combines with temporal methods": tuple((f"InTI + {name}", name) for name in accuracy.TEMPORAL_METHODS),
    "what is learned transfers": (
        ("InTI, other motions, from the first ones", "InTI, other motions, from the image model"),
        ("InTI, 64x64 pixels, from 32x32", "InTI, 64x64 pixels, from the image model"),
    ),
}


def read(name: str) -> Any:
    """A result, or None if it was never written."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else None


def motion_digits() -> list[dict[str, Any]]:
    """Accuracy on MotionDigits after as many clips, mean and spread over seeds, beside cost."""
    tables = accuracy.summarize(read("motion_digits"))
    return [*tables["adaptation"], *tables["schedule"]]


@cache
def real_tables() -> dict[str, list[dict[str, Any]]]:
    """Data set -> its rows on real videos, of the start with the most."""
    tables: dict[str, list[dict[str, Any]]] = {}
    for (data, _), table in real.tables_of(read("real_videos")).items():
        if len(table) > len(tables.get(data, [])):
            tables[data] = table
    return tables


@cache
def real_videos() -> dict[str, list[dict[str, Any]]]:
    """Data set -> accuracy on real videos, mean and spread over seeds, beside cost."""
    return {data: rows for table in real_tables().values() for (data, _), rows in real.summarize(table).items()}


def adaptations() -> list[dict[str, Any]]:
    """The main rows and those reduced at random: cost on the first real videos, and ``results`` for each task."""
    digits = {row["name"]: row for row in motion_digits()}
    tables = {DATA_SETS[data]: {row["name"]: row for row in rows} for data, rows in real_videos().items()}
    rows = []
    for name in (*real.MAIN, *real.SCHEDULES, *REDUCED_AT_RANDOM):
        results = {task: {"value": of[name]["top1"], **of[name]} for task, of in tables.items() if name in of}
        cost = next(iter(results.values()), None)
        if name in digits:
            for column in ("motion", "digit"):
                spread = digits[name][f"{column}_spread"]
                results[f"MotionDigits, {column}"] = digits[name] | {"value": digits[name][column], "spread": spread}
        if cost is not None:
            title = name if cost["seeds"] > 1 else f"{name}, one seed"
            rows.append(
                {"name": title, "results": results} | {key: cost[key] for key in ("gflops", "clips_per_second")}
            )
    return rows


def difference(data: str, name: str, reference: str) -> str:
    """Points between two rows, for the seeds of both: of real videos with the interval, of MotionDigits the spread."""
    if data in DATA_SETS:
        found = real.difference(real_tables().get(data, []), name, reference)
        return "–" if found is None else with_interval(found)
    rows = [r for r in read("motion_digits") if r["table"] in ("adaptation", "weighting", "context", "transfer")]
    of = [{r["seed"]: r["accuracy"][data] for r in rows if r["name"] == n} for n in (name, reference)]
    shared = sorted(set(of[0]) & set(of[1]))
    return with_spread(*mean_and_spread(of[0][s] - of[1][s] for s in shared), sign="+") if shared else "–"


def claims() -> str:
    """The paper's claims, and what was measured of each here."""
    tasks = {**DATA_SETS, "motion": "MotionDigits, motion", "digit": "MotionDigits, digit"}
    lines = [f"| the paper says | measured | {' | '.join(tasks.values())} |", "|---|---|" + "---:|" * len(tasks)]
    for claim, pairs in CLAIMS.items():
        rows = {" against ".join(pair): [difference(data, *pair) for data in tasks] for pair in pairs}
        measured = {pair: cells for pair, cells in rows.items() if set(cells) != {"–"}}
        if not measured:
            measured = {"not measured in this setting yet": ["–"] * len(tasks)}
        for i, (pair, cells) in enumerate(measured.items()):
            lines.append(f"| {' | '.join(['' if i else claim, pair, *cells])} |")
    return "\n".join(lines)


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


def accuracy_table() -> str:
    """Accuracy measured here: real videos first."""
    rows = adaptations()
    tasks = list(dict.fromkeys(task for row in rows for task in row["results"]))
    titles = [title for task in tasks for title in ([task, "against naive"] if task in DATA_SETS.values() else [task])]
    lines = [f"| | GFLOPs | clips/s | {' | '.join(titles)} |", "|---|" + "---:|" * (len(titles) + 2)]
    for row in rows:
        cells = [row["name"], f"{row['gflops']:.4f}", row["clips_per_second"] or "–"]
        for task in tasks:
            result = row["results"].get(task)
            cells.append("–" if result is None else with_spread(result["value"], result["spread"]))
            if task in DATA_SETS.values():
                against = (result or {}).get("difference")
                cells.append(with_interval(against) if against else "")
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def longer() -> str:
    """What was trained for longer on MotionDigits."""
    rows = accuracy.summarize(read("motion_digits"))["long"]
    rounds = {accuracy.SECOND_ROUND.name: 2}  # it starts from a row with as many clips
    rows = [row | {"clips": row["clips"] * rounds.get(row["name"], 1)} for row in rows]
    of = {"": "{name}", "clips": "{clips:,}", "GFLOPs": "{gflops:.4f}"}
    return columns(rows, of | {column: f"{{{column}:.1f}}" for column in ("motion", "digit")})


def schedules() -> str:
    """Where to compress: cost and accuracy of each schedule that was trained, dearest first."""
    tables = {data: {row["name"]: row for row in rows} for data, rows in real_videos().items()}
    rows = [row for row in motion_digits() if row["name"].startswith("InTI (") or row["name"] == real.NAIVE_ROW]
    titles = [title for data in tables for title in (DATA_SETS[data], "against the default")]
    lines = [
        f"| | GFLOPs | MotionDigits, motion | MotionDigits, digit | {' | '.join(titles)} |",
        "|---|" + "---:|" * (len(titles) + 3),
    ]
    for row in sorted(rows, key=lambda row: -row["gflops"]):
        name = row["name"]
        cells = [with_spread(row[column], row[f"{column}_spread"]) for column in ("motion", "digit")]
        for data, of in tables.items():
            cells.append(with_spread(of[name]["top1"], of[name]["spread"]) if name in of else "–")
            cells.append("" if name == DEFAULT else difference(data, name, DEFAULT))
        lines.append(f"| {' | '.join([name, format(row['gflops'], '.4f'), *cells])} |")
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
    "accuracy": accuracy_table,
    "longer": longer,
    "schedules": schedules,
    "claims": claims,
    "kinetics": lambda: audit.table(read("audit")),
}


def with_tables(text: str) -> str:
    """A README with its tables written anew."""
    return MARKED.sub(lambda found: f"{found[1]}{TABLES[found[2]]()}\n{found[3]}", text)


def as_csv() -> str:
    """Accuracy beside cost as CSV; accuracy of papers has a column of its own."""
    columns = ["task", "model", "frames", "size", "gflops", "total_gflops", "stated_gflops", "clips_per_second"]
    columns += ["top1", "motion", "digit", "seeds", "paper_top1", "views", "pretraining", "source"]
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    measured = {DATA_SETS[data]: rows for data, rows in real_videos().items()} | {"MotionDigits": motion_digits()}
    for task, rows in measured.items():
        writer.writerows({"task": f"{task}, measured here", "model": row["name"], **row} for row in rows)
    writer.writerows(
        {"task": "Kinetics-400, accuracy of papers", "model": row["name"], "paper_top1": row.pop("top1"), **row}
        for row in kinetics()
    )
    return text.getvalue()


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
    figure = new_figure((8, 5.6))
    axis = figure.add_axes((0.09, 0.1, 0.89, 0.87))
    axis.grid(alpha=0.3)
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


def draw_accuracy(folder: Path) -> None:
    """Accuracy measured here: a panel for each task, a row for each way to adapt."""
    rows = adaptations()
    tasks = list(dict.fromkeys(task for row in rows for task in row["results"]))
    figure = new_figure((10, 1.1 + 0.36 * len(rows)), layout="constrained")
    axes = figure.subplots(1, len(tasks), sharey=True, squeeze=False)[0]
    for axis, task in zip(axes, tasks, strict=True):
        for place, row in enumerate(rows):
            if (result := row["results"].get(task)) is not None:
                color = "tab:red" if row["name"].startswith("InTI") else "tab:gray"
                axis.errorbar(result["value"], place, xerr=result["spread"] or 0, fmt="o", capsize=3, color=color)
                if place == 0:
                    axis.axvline(result["value"], color="0.7", linewidth=1, zorder=0)
        axis.set_title(task, fontsize=10)
        axis.set_xlabel("right, %", fontsize=9)
        axis.grid(alpha=0.3, axis="x")
    axes[0].set_yticks(range(len(rows)), [f"{row['name']}, {row['gflops']:.3f} GFLOPs" for row in rows], fontsize=9)
    axes[0].invert_yaxis()
    _save(figure, folder / "accuracy")


def new_figure(size: tuple[float, float], layout: Any = None) -> Any:
    """An empty figure, drawn by Agg at 100 pixels an inch."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, dpi=100, layout=layout)
    FigureCanvasAgg(figure)
    return figure


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
    for readme in READMES:
        readme.write_text(with_tables(readme.read_text()))
    (RESULTS / "compare.csv").write_text(as_csv())
    draw_kinetics(RESULTS)
    draw_accuracy(RESULTS)
    print("wrote the README files' tables, compare.csv, and kinetics and accuracy as .png and .svg")


if __name__ == "__main__":
    main()
