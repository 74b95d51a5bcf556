"""Labels and embeddings of a whole video collection with Ray Data: many processes, many machines.

One machine does not need it: ``inti-models predict`` on many files keeps one model busy. Ray pays off with
several GPUs or machines.
"""

import json
import os
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from reprlib import repr as shortened
from typing import Any, cast

import torch
from tqdm import tqdm

from ..data.limits import DEFAULT_LIMITS, Limits
from ..data.list_files import READERS, read_list
from ..files import locked, replacing, write_text
from ..models.precision import choose_precision
from ..weights.hub import WEIGHTS, create, load
from ..weights.tensor_files import stated_digest
from .export import describe
from .predict import TOPK, VideoClassifier, check_threshold, top_labels

PART, SETTINGS = "part-*.parquet", "settings.json"
# Of the settings, those that older folders do not name, and what they were; thresholds were 0.
BEFORE = {"precision": "float32", "embedding": False, "multi_label": False, "temperature": 1.0, "background": 0}


@dataclass(frozen=True)
class Summary:
    """Summary of a run.

    Attributes:
        labelled: files labelled now.
        failed: files that could not be read now.
        skipped: files done by an earlier run.
    """

    labelled: int
    failed: int
    skipped: int


class Labeller:
    """A model in a worker: batches of paths in, rows out."""

    def __init__(
        self,
        model: str,
        model_args: Mapping[str, Any],
        views: tuple[int, int],
        topk: int | None,
        embedding: bool,
        device: str,
        limits: Limits = DEFAULT_LIMITS,
        precision: str = "float32",
        batch_size: int | None = None,
        compile: bool = False,
        threshold: float | None = None,
    ) -> None:
        self.classifier = VideoClassifier(
            load(model, **model_args),
            views,
            device,
            limits=limits,
            precision=precision,
            batch_size=batch_size,
            compile=compile,
        )
        self.topk, self.embedding, self.threshold = topk, embedding, threshold

    def __call__(self, batch: Mapping[str, Iterable[str]]) -> Any:
        import pyarrow as pa

        rows = []
        for path, said in self.classifier.classify_files([str(path) for path in batch["path"]]):
            row: dict[str, Any] = {"path": path, "labels": None, "scores": None, "error": None}
            try:
                if isinstance(said, Exception):
                    raise said
                logits, features = said
                labels = top_labels(self.classifier.model, logits, self.topk, self.threshold)
            except (OSError, ValueError) as error:
                row["error"] = str(error)
            else:
                row |= {"labels": [label.name for label in labels], "scores": [label.probability for label in labels]}
                if self.embedding:
                    with torch.no_grad():
                        row["embedding"] = self.classifier.model.project(features).tolist()
            rows.append(row)
        columns = {"path": pa.string(), "labels": pa.list_(pa.string()), "scores": pa.list_(pa.float32())}
        columns |= {"error": pa.string()} | ({"embedding": pa.list_(pa.float32())} if self.embedding else {})
        return pa.Table.from_pylist(rows, pa.schema(columns.items()))


def label_collection(
    paths: Iterable[str | os.PathLike[str]],
    model: str,
    output: str | os.PathLike[str],
    *,
    workers: int = 1,
    views: tuple[int, int] = (1, 1),
    topk: int | None = None,
    embedding: bool = False,
    device: str = "cpu",
    part_size: int = 16,
    limits: Limits = DEFAULT_LIMITS,
    precision: str = "auto",
    batch_size: int | None = None,
    compile: bool = False,
    threshold: float | None = None,
    **model_args: Any,
) -> Summary:
    """Label files on a Ray cluster and write Parquet: ``path``, ``labels``, ``scores``, ``error``, ``embedding``.

    Rows are written in parts of ``part_size`` files, each whole or not at all; files that are in a part already are
    not done again, so a stopped run resumes. A file that cannot be read has its ``error`` and no labels, and is tried
    again by the next run. Uses the cluster that Ray is connected to, or starts one on this machine.

    Args:
        paths: files, as all workers see them.
        model: a name, repository or folder for `inti_models.load`, as all workers see it.
        output: folder for the Parquet files.
        workers: processes with a model each, on a GPU each if ``device`` is one.
        views: temporal clips and spatial crops; see `VideoClassifier`.
        topk: maximum number of labels of a file; see `inti_models.inference.predict.top_labels`.
        embedding: also write the embedding of each file, the mean over its views of ``model.encode``.
        device: where workers run.
        part_size: files that a worker takes at a time.
        limits: what a file may ask for.
        precision: what all workers compute in (`inti_models.models.precision`). "auto" is that of the rows in
            ``output``, if any, or the fastest on this machine's ``device``.
        batch_size: clips that go through the model together; see `VideoClassifier`.
        compile: see `VideoClassifier`.
        threshold: see `inti_models.inference.predict.top_labels`.
        **model_args: arguments for `inti_models.load`.

    Raises:
        ValueError: for numbers below 1, a threshold that is not a probability, a folder with rows of another model or
            other settings.
        BlockingIOError: if another process writes to ``output``.
        ModuleNotFoundError: if Ray is not installed.
    """
    for name, value in (("workers", workers), ("part_size", part_size), ("topk", topk)):
        if value is not None and value < 1:
            raise ValueError(f"{name}={value} is not a positive number; pass at least 1.")
    check_threshold(threshold)
    import pyarrow as pa
    import pyarrow.parquet as pq
    import ray

    settings = {
        "model": _identity(model),
        "model_args": model_args,
        "views": views,
        "topk": topk,
        "embedding": embedding,
        "threshold": threshold,
    }
    says = describe(create(model, **{**model_args, "device": "meta"}))  # which its weights are not known by
    settings = {**settings, **says, **settings}
    folder, chosen = Path(output), choose_precision(precision, device)
    wanted = list(dict.fromkeys(os.fspath(path) for path in paths))
    with locked(folder):
        chosen = _claim(folder, settings, chosen, keep=precision == "auto")
        _drop_failed(folder, set(wanted))
        done = {
            path for part in folder.glob(PART) for path in pq.read_table(part, columns=["path"])["path"].to_pylist()
        }
        left = [path for path in wanted if path not in done]
        labelled = failed = 0
        if left:
            started = not ray.is_initialized()
            if started:
                ray.init(include_dashboard=False, log_to_driver=False)
            try:
                ray.data.DataContext.get_current().enable_progress_bars = False
                rows = ray.data.from_items([{"path": path} for path in left]).map_batches(
                    Labeller,
                    batch_size=part_size,
                    compute=ray.data.ActorPoolStrategy(size=workers),
                    num_gpus=1 if device.startswith("cuda") else 0,
                    fn_constructor_args=(
                        model,
                        model_args,
                        views,
                        topk,
                        embedding,
                        device,
                        limits,
                        chosen,
                        batch_size,
                        compile,
                        threshold,
                    ),
                )
                with tqdm(total=len(left), unit="file") as bar:
                    batches = rows.iter_batches(batch_size=part_size, batch_format="pyarrow", prefetch_batches=0)
                    for table in cast(Iterable[pa.Table], batches):
                        with replacing(folder / f"part-{uuid.uuid4().hex}.parquet") as part:
                            pq.write_table(table, part)
                        errors = len(table) - table["error"].null_count
                        labelled, failed = labelled + len(table) - errors, failed + errors
                        bar.update(len(table))
            finally:
                if started:
                    ray.shutdown()
    return Summary(labelled, failed, len(wanted) - len(left))


def _identity(model: str) -> str:
    """Return the digest of the weights of a folder, where others may be saved later; otherwise the name."""
    weights = Path(model.removeprefix("local-dir:"), WEIGHTS)
    return stated_digest(weights) or model


def _claim(folder: Path, settings: Mapping[str, Any], precision: str, keep: bool) -> str:
    """Record what the rows of a folder are made with, or raise a ValueError if they are made with something else.

    An old folder without a record is taken as it is; settings missing from a record are as in `BEFORE`, or as they are
    now. A record without a threshold means none.

    Args:
        folder: the folder.
        settings: settings of this run.
        precision: precision of this run.
        keep: use the folder's precision instead, if it has one.

    Returns:
        The precision to use.
    """
    file, ours = folder / SETTINGS, json.loads(json.dumps({**settings, "precision": precision}))
    if not file.exists():
        write_text(file, json.dumps(ours, indent=2) + "\n")
        return precision
    said = json.loads(file.read_text(encoding="utf-8"))
    theirs = {**ours, **BEFORE, "thresholds": [0.0] * len(ours["thresholds"]), **said}
    if theirs.get("features"):  # a column that current rows lack
        theirs["embedding"] = "features"
    if "threshold" not in said:
        theirs |= {"threshold": None} | ({"topk": None} if theirs.get("topk") == TOPK and ours["topk"] is None else {})
    if keep:
        ours["precision"] = theirs["precision"]
    for name, value in ours.items():
        if theirs.get(name) != value:
            raise ValueError(
                f"{folder} holds rows made with {name}={shortened(theirs.get(name))}, not {shortened(value)}; name "
                "another folder."
            )
    return ours["precision"]


def _drop_failed(folder: Path, wanted: set[str]) -> None:
    """Remove rows of wanted files that have an error from their parts, so that these files are tried again."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    for part in folder.glob(PART):
        table = pq.read_table(part)
        kept = [
            error is None or path not in wanted
            for path, error in zip(table["path"].to_pylist(), table["error"].to_pylist(), strict=True)
        ]
        if all(kept):
            continue
        if any(kept):
            with replacing(part) as partial:
                pq.write_table(table.filter(pa.array(kept)), partial)
        else:
            part.unlink()


def read_paths(sources: Iterable[str]) -> list[str]:
    """Return paths of videos: those in lists (of the forms of `inti_models.data.find_videos`), other names as they are.

    Paths in a list are relative to the list's folder; labels are not needed.

    Raises:
        FileNotFoundError: if there is no such list.
        ValueError: if a list cannot be understood.
    """
    paths: list[str] = []
    for source in sources:
        is_list = Path(source).suffix.lower() in READERS
        paths += [row.path for row in read_list(source)] if is_list else [source]
    return paths
