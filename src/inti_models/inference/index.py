"""An index of videos: a folder with an embedding of each window, to search in.

`MANIFEST` says which model made it, from which windows, and which parts there are. A part holds a few thousand windows
of whole videos: their embeddings in ``part-*.npy`` (float16, memory-mapped) and one row for each in ``part-*.parquet``:
``file``, ``start``, ``end``, ``scale``, ``fps``, and size and modification time of the file. A part counts once the
manifest, which is replaced whole, names it; what a killed process left behind is removed by the next.
"""

import hashlib
import json
import os
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from timm.data import resolve_input_data_config

from ..files import replacing, write_text
from ..models.interpolation import InterFrameInterpolation
from ..models.stages import InTIModel
from ..weights.tensor_files import digest
from .embedding import VideoWindows, Windows

MANIFEST = "index.json"
MAX_MANIFEST = 2**24  # bytes: of 200,000 parts
_FORMAT = 1
_NAME = re.compile(r"[0-9a-f]{16}")
_OWN_FILES = re.compile(r"part-[0-9a-f]{16}\.(npy|parquet)")


@dataclass(frozen=True)
class Part:
    """A part of an index: the name in its files, and its number of windows."""

    name: str
    rows: int


@dataclass(frozen=True)
class Rows:
    """The windows of a part, those of a file next to each other.

    Attributes:
        files: each file.
        first: the number of its first window, and at the end the number of all windows, (files + 1,).
        start: seconds, float64.
        end: seconds.
        scale: frames of a window.
        fps: frames per second of a window.
        stamps: size in bytes, and modification time in nanoseconds, of each file when it was read.
    """

    files: list[str]
    first: np.ndarray
    start: np.ndarray
    end: np.ndarray
    scale: np.ndarray
    fps: np.ndarray
    stamps: list[tuple[int, int]]

    def place(self, row: int) -> int:
        """Return the number of the file that a window is from."""
        return int(np.searchsorted(self.first, row, side="right")) - 1


@dataclass(frozen=True)
class Index:
    """An opened index. Its files are not trusted: sizes, types and values are checked as they are read.

    Attributes:
        folder: where it is.
        model: name of the model, for `inti_models.load`.
        digest: digest of the tensors that embeddings depend on; see `model_digest`.
        dim: width D of an embedding.
        precision: what the model computed in.
        windows: which windows.
        parts: in the order of their numbers.
    """

    folder: Path
    model: str
    digest: str
    dim: int
    precision: str
    windows: Windows
    parts: tuple[Part, ...] = ()
    _rows: dict[str, Rows] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def open(cls, folder: str | os.PathLike[str]) -> "Index":
        """Read the manifest of an index.

        Raises:
            FileNotFoundError: if the folder has none.
            ValueError: if it is damaged.
        """
        file = Path(folder, MANIFEST)
        if not file.is_file():
            raise FileNotFoundError(f"{folder} is not an index: it has no {MANIFEST}; make one with inti-models index.")
        if file.stat().st_size > MAX_MANIFEST:
            raise _damaged(file, f"is larger than {MAX_MANIFEST} bytes")
        try:
            stated = json.loads(file.read_text(encoding="utf-8"))
            if stated["format"] != _FORMAT:
                raise ValueError(f"format {stated['format']!r}")
            windows = Windows(
                tuple(map(float, stated["fps"])), tuple(map(_whole, stated["scales"])), _whole(stated["stride"])
            )
            parts = tuple(Part(str(part["name"]), _whole(part["rows"])) for part in stated["parts"])
            texts = [stated[name] for name in ("model", "digest", "precision")]
            index = cls(Path(folder), texts[0], texts[1], _whole(stated["dim"]), texts[2], windows, parts)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise _damaged(file, f"cannot be understood ({type(error).__name__}: {error})") from None
        if not all(isinstance(text, str) for text in texts) or index.dim < 1:
            raise _damaged(file, "names no model")
        if not all(_NAME.fullmatch(part.name) and part.rows > 0 for part in parts):
            raise _damaged(file, "names invalid parts")
        return index

    def save(self) -> None:
        """Write the manifest: what it names counts from now on."""
        stated = {
            "format": _FORMAT,
            **{name: getattr(self, name) for name in ("model", "digest", "dim", "precision")},
            **asdict(self.windows),
            "parts": [asdict(part) for part in self.parts],
        }
        write_text(self.folder / MANIFEST, json.dumps(stated, indent=1) + "\n")

    def __len__(self) -> int:
        """Number of windows."""
        return sum(part.rows for part in self.parts)

    @cached_property
    def files(self) -> dict[str, tuple[int, int]]:
        """Each file with its size and modification time."""
        return {
            file: stamp
            for part in self.parts
            for file, stamp in zip(self.rows(part).files, self.rows(part).stamps, strict=True)
        }

    def vectors(self, part: Part) -> np.ndarray:
        """Return the embeddings of a part, float16 (W, D), memory-mapped.

        Raises:
            ValueError: if the file is missing, or not such an array.
        """
        file = self._file(part, "npy")
        try:
            mapped = np.load(file, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise _damaged(file, f"cannot be read ({error})") from None
        if not isinstance(mapped, np.ndarray) or mapped.dtype != np.float16 or mapped.shape != (part.rows, self.dim):
            raise _damaged(file, f"does not hold float16 embeddings of {part.rows} windows and {self.dim} values")
        return mapped

    def rows(self, part: Part) -> Rows:
        """Return the windows of a part; they stay in memory.

        Raises:
            ValueError: if the file is missing, or has other rows.
        """
        if part.name not in self._rows:
            self._rows[part.name] = _read_rows(self._file(part, "parquet"), part.rows)
        return self._rows[part.name]

    def _file(self, part: Part, ending: str) -> Path:
        return self.folder / f"part-{part.name}.{ending}"

    # Writing; by one process, which holds the lock

    def with_part(self, videos: Sequence[tuple[str, tuple[int, int], VideoWindows]]) -> "Index":
        """Write one more part, of these files, and return the index with it."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        counts = [len(video.vectors) for _, _, video in videos]
        key = [[file, *stamp, count] for (file, stamp, _), count in zip(videos, counts, strict=True)]
        part = Part(hashlib.sha256(json.dumps(key).encode()).hexdigest()[:16], sum(counts))
        columns: dict[str, Any] = {
            "file": pa.array(np.repeat([file for file, _, _ in videos], counts)).dictionary_encode(),
            "size": np.repeat([size for _, (size, _), _ in videos], counts),
            "changed": np.repeat([changed for _, (_, changed), _ in videos], counts),
        }
        for name in ("start", "end", "scale", "fps"):
            columns[name] = np.concatenate([getattr(video, name) for _, _, video in videos])
        vectors = np.concatenate([video.vectors for _, _, video in videos])
        with replacing(self._file(part, "npy")) as partial, partial.open("wb") as file:
            np.save(file, vectors.astype(np.float16))
        with replacing(self._file(part, "parquet")) as partial:
            pq.write_table(pa.table(columns), partial)
        return replace(self, parts=(*self.parts, part))

    def without(self, files: set[str]) -> "Index":
        """Return the index without some files: parts that hold them are written again."""
        index = replace(self, parts=())
        for part in self.parts:
            rows = self.rows(part)
            if files.isdisjoint(rows.files):
                index = replace(index, parts=(*index.parts, part))
                continue
            vectors = self.vectors(part)
            kept = []
            for file, stamp, first, after in zip(rows.files, rows.stamps, rows.first, rows.first[1:], strict=False):
                if file not in files:
                    cut = slice(first, after)
                    columns = (rows.start[cut], rows.end[cut], rows.scale[cut], rows.fps[cut], vectors[cut])
                    kept.append((file, stamp, VideoWindows(*columns)))
            if kept:
                index = index.with_part(kept)
        return index

    def clean(self) -> None:
        """Remove the files of parts that the manifest does not name."""
        named = {self._file(part, ending).name for part in self.parts for ending in ("npy", "parquet")}
        for file in self.folder.iterdir():
            if _OWN_FILES.fullmatch(file.name) and file.name not in named:
                file.unlink()


def _whole(value: Any) -> int:
    if type(value) is not int:
        raise ValueError(f"{value!r} is not a whole number")
    return value


def _damaged(file: Path, fault: str) -> ValueError:
    if not file.exists():
        return ValueError(
            f"There is no {file}; try again if the index was just updated, otherwise remove it and make it again."
        )
    return ValueError(f"{file} {fault}; remove the index and make it again.")


def _read_rows(file: Path, count: int) -> Rows:
    import pyarrow as pa
    import pyarrow.parquet as pq

    types = {"size": "int64", "changed": "int64", "start": "float64", "end": "float64", "scale": "int32"}
    types["fps"] = "float32"
    try:
        if pq.read_metadata(file).num_rows != count:
            raise _damaged(file, f"does not hold {count} windows")
        table = pq.read_table(file, columns=["file", *types], memory_map=False)
        names = table["file"].combine_chunks()
        if pa.types.is_dictionary(names.type):
            names = names.cast(pa.string())
        names = names.to_pylist()
        columns = {name: table[name].combine_chunks().to_numpy(zero_copy_only=False) for name in types}
    except (OSError, KeyError, TypeError, pa.ArrowException) as error:
        raise _damaged(file, f"cannot be read ({' '.join(str(error).split())[:200]})") from None
    if any(str(columns[name].dtype) != kind for name, kind in types.items()) or not all(
        isinstance(name, str) for name in names
    ):
        raise _damaged(file, "has columns of other types")
    start, end, scale, fps = (columns[name] for name in ("start", "end", "scale", "fps"))
    if not ((start >= 0) & (start < end) & (end < np.inf) & (scale > 0) & (fps > 0) & (fps < np.inf)).all():
        raise _damaged(file, "has invalid windows")
    begins = [i for i in range(count) if i == 0 or names[i] != names[i - 1]]
    files = [names[i] for i in begins]
    if len(set(files)) < len(files):
        raise _damaged(file, "has the windows of a file in several places")
    stamps = [(int(columns["size"][i]), int(columns["changed"][i])) for i in begins]
    first = np.array([*begins, count])
    return Rows(files, first, start, end, scale, fps, stamps)


# The model of an index


def model_digest(model: InTIModel) -> str:
    """Return the SHA-256, in hex, of what an embedding or its class depends on.

    That is all tensors except those of a classifier made from words and of neutral interpolations; where frames are
    compressed, activations, and how tokens and frames are pooled; and size and normalisation of frames.
    """
    without: tuple[str, ...] = ("head.classes.",) if model.projects else ()
    weightings = []
    for name, module in model.named_modules():
        if isinstance(module, InterFrameInterpolation):
            weightings.append(module.weighting)
            if module.is_neutral:  # without a checkpoint of InTI's: its networks are drawn, and do not matter
                without += (f"{name}.",)
    tensors = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith(without)}
    activations = sorted({type(m).__name__ for m in model.modules() if "activation" in type(m).__module__})
    built = [model.compress_at, weightings, type(model.temporal).__name__, model.global_pool, activations]
    settings = json.dumps([built, resolve_input_data_config(model)], sort_keys=True)
    return hashlib.sha256(f"{settings}\n{digest(tensors)}".encode()).hexdigest()


def embedding_dim(model: InTIModel) -> int:
    """Return the width D of the embeddings of a model."""
    return model.head.projection.out_features if model.projects else model.num_features


def check_model(index: Index, model: InTIModel) -> None:
    """Raise a ValueError for a model other than the one that made an index; call it before changing precision."""
    if model_digest(model) != index.digest or embedding_dim(model) != index.dim:
        raise ValueError(
            f"{index.folder} was made by {index.model} with other weights than this model's; name the model that made "
            "it, or make the index again."
        )
