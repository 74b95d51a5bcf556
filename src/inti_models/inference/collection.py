"""Labels and features of a whole video collection with Ray Data: many processes, many machines.

One machine needs none of it: ``inti-models predict`` on many files keeps one model busy. Ray pays where there are
several GPUs or machines.
"""

import json
import os
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from tqdm import tqdm

from ..data.limits import DEFAULT_LIMITS, Limits
from ..data.list_files import READERS, read_list
from ..files import locked, replacing, write_text
from ..weights.hub import WEIGHTS, load
from ..weights.tensor_files import stated_digest
from .predict import VideoClassifier, top_labels

PART, SETTINGS = "part-*.parquet", "settings.json"


@dataclass(frozen=True)
class Summary:
    """What a run did.

    Attributes:
        labelled: files labelled now.
        failed: files that could not be read now.
        skipped: files that an earlier run had done.
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
        topk: int,
        features: bool,
        device: str,
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        self.classifier = VideoClassifier(load(model, **model_args), views, device, limits=limits)
        self.topk, self.features = topk, features

    def __call__(self, batch: Mapping[str, Iterable[str]]) -> Any:
        import pyarrow as pa

        paths = [str(path) for path in batch["path"]]
        rows = []
        for path, views in self.classifier.read_ahead(paths):
            row: dict[str, Any] = {"path": path, "labels": None, "scores": None, "error": None}
            if isinstance(views, Exception):
                row["error"] = str(views)
            else:
                logits, features = self._run(views)
                labels = top_labels(self.classifier.model, logits, self.topk)
                row |= {"labels": [label.name for label in labels], "scores": [label.probability for label in labels]}
                row |= {"features": features} if self.features else {}
            rows.append(row)
        columns = {"path": pa.string(), "labels": pa.list_(pa.string()), "scores": pa.list_(pa.float32())}
        columns |= {"error": pa.string()} | ({"features": pa.list_(pa.float32())} if self.features else {})
        return pa.Table.from_pylist(rows, pa.schema(columns.items()))

    @torch.inference_mode()
    def _run(self, views: Tensor) -> tuple[Tensor, list[float] | None]:
        """Logits of each view and, if wanted, pooled features averaged over the views, of one pass."""
        if not self.features:
            return self.classifier.logits(views), None
        model, views = self.classifier.model, views.to(self.classifier.device)
        pooled = model.forward_head(model.forward_features(views), pre_logits=True)
        return model.head(pooled).float(), pooled.mean(dim=0).float().tolist()


def label_collection(
    paths: Iterable[str | os.PathLike[str]],
    model: str,
    output: str | os.PathLike[str],
    *,
    workers: int = 1,
    views: tuple[int, int] = (1, 1),
    topk: int = 5,
    features: bool = False,
    device: str = "cpu",
    batch_size: int = 16,
    limits: Limits = DEFAULT_LIMITS,
    **model_args: Any,
) -> Summary:
    """Label files on a Ray cluster and write Parquet: ``path``, ``labels``, ``scores``, ``error``, ``features``.

    Rows are written in parts of ``batch_size`` files, each whole or not at all; files that a part in ``output`` has are
    not done again, so a stopped run resumes. A file that cannot be read has its ``error`` and no labels, and is tried
    again by the next run. Uses the cluster that Ray is connected to, or starts one on this machine.

    Args:
        paths: files, as all workers see them.
        model: a name, repository or folder for `inti_models.load`, as all workers see it.
        output: folder for the Parquet files.
        workers: processes with a model each, on a GPU each if ``device`` is one.
        views: temporal clips and spatial crops; see `VideoClassifier`.
        topk: labels of a file.
        features: also write the pooled features before the classifier, averaged over views.
        device: where workers run.
        batch_size: files that a worker takes at a time.
        limits: what a file may ask for.
        **model_args: arguments for `inti_models.load`.

    Raises:
        ValueError: for numbers below 1, or a folder with rows of another model or other settings.
        BlockingIOError: another process writes to ``output``.
        ModuleNotFoundError: Ray is not installed.
    """
    for name, value in (("workers", workers), ("batch_size", batch_size), ("topk", topk)):
        if value < 1:
            raise ValueError(f"{name}={value} is not a positive number; pass at least 1.")
    import pyarrow as pa
    import pyarrow.parquet as pq
    import ray

    settings = {
        "model": _identity(model),
        "model_args": model_args,
        "views": views,
        "topk": topk,
        "features": features,
    }
    folder = Path(output)
    wanted = list(dict.fromkeys(os.fspath(path) for path in paths))
    with locked(folder):
        _claim(folder, settings)
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
                    batch_size=batch_size,
                    compute=ray.data.ActorPoolStrategy(size=workers),
                    num_gpus=1 if device.startswith("cuda") else 0,
                    fn_constructor_args=(model, model_args, views, topk, features, device, limits),
                )
                with tqdm(total=len(left), unit="file") as bar:
                    batches = rows.iter_batches(batch_size=batch_size, batch_format="pyarrow", prefetch_batches=0)
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
    """Return the digest of the weights of a folder, which others may be saved to; else the name."""
    weights = Path(model.removeprefix("local-dir:"), WEIGHTS)
    return stated_digest(weights) or model


def _claim(folder: Path, settings: Mapping[str, Any]) -> None:
    """Write down what the rows of a folder are made with, or raise a ValueError if they are made with something else.

    A folder of before, which says nothing, is taken as it is.
    """
    file, ours = folder / SETTINGS, json.loads(json.dumps(settings))
    if not file.exists():
        write_text(file, json.dumps(ours, indent=2) + "\n")
        return
    theirs = json.loads(file.read_text(encoding="utf-8"))
    for name, value in ours.items():
        if theirs.get(name) != value:
            raise ValueError(
                f"{folder} holds rows made with {name}={theirs.get(name)!r}, not {value!r}; name another folder."
            )


def _drop_failed(folder: Path, wanted: set[str]) -> None:
    """Take rows of wanted files that have an error out of their parts, so that these files are tried again."""
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
    """Return paths of videos: those in lists (`inti_models.data.find_videos` says which), other names as they are.

    Paths in a list start at the folder that the list is in; labels are not needed.

    Raises:
        FileNotFoundError: there is no such list.
        ValueError: a list cannot be understood.
    """
    paths: list[str] = []
    for source in sources:
        is_list = Path(source).suffix.lower() in READERS
        paths += [row.path for row in read_list(source)] if is_list else [source]
    return paths
