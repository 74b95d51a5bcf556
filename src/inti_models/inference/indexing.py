"""Making and updating an index of videos."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ..data import Limits
from ..data.folders import expand_folders
from ..data.limits import DEFAULT_LIMITS
from ..files import locked
from ..models.precision import choose_precision
from ..models.stages import InTIModel
from ..models.streaming import StreamingWindows
from ..weights.hub import load
from .collection import read_paths
from .embedding import VideoWindows, WindowEncoder, Windows, cast, check_name
from .index import MANIFEST, Index, check_model, embedding_dim, model_digest

PART_ROWS = 4096  # windows after which a part is written
Encoded = tuple[str, tuple[int, int], VideoWindows | str]  # a file, its stamp, its windows or why there are none


@dataclass(frozen=True)
class Summary:
    """Summary of a run, in files.

    Attributes:
        added: files that were not there.
        changed: files whose size or modification time differ from when they were read, which were read again.
        dropped: files that are gone.
        kept: files that were there before.
        failed: files that could not be read, with the error of each.
        windows: windows of the index.
    """

    added: int
    changed: int
    dropped: int
    kept: int
    failed: dict[str, str]
    windows: int


def build_index(
    sources: Iterable[str | os.PathLike[str]],
    output: str | os.PathLike[str],
    model: str,
    windows: Windows | None = None,
    *,
    device: str = "cpu",
    precision: str = "auto",
    limits: Limits = DEFAULT_LIMITS,
    workers: int | None = None,
    progress: Callable[[Iterable[Any], int], Iterable[Any]] = lambda files, total: files,
    say: Callable[[str], None] = lambda line: None,
) -> Summary:
    """Embed the windows of videos into a folder, or update it.

    Files that the index has, with the same size and modification time, are kept; changed ones are read again; those
    gone from the sources named now are dropped; files of the index that are not named now stay. A stopped run resumes,
    and ends with the same index as a run that was never stopped.

    Args:
        sources: folders (every video and folder of frames in them), files, or lists of files (.txt, .csv, .parquet).
        output: folder of the index.
        model: a name for `inti_models.load`, which `search` loads too.
        windows: which windows; None for those of the index, or for a new one, the defaults of `Windows`.
        device: where to run.
        precision: of a new index; "auto" takes the index's, or the fastest on ``device``.
        limits: what a file may ask for; see `WindowEncoder`.
        workers: processes of a Ray cluster, each with a model; None for only this process.
        progress: gets the files one by one and their number, and passes them on.
        say: gets a line that says how windows are computed, before any is.

    Raises:
        FileNotFoundError: if a source is missing, and the index does not have it.
        ValueError: if the index was made by another model, or from other windows.
        BlockingIOError: if another process writes to the index.
        ModuleNotFoundError: if pyarrow is not installed, or Ray with ``workers``.
    """
    import pyarrow  # noqa: F401  # before any work

    folder, loaded = Path(output), load(model)
    digest, dim = model_digest(loaded), embedding_dim(loaded)  # before its precision is changed

    def claim() -> Index:
        return _claim(folder, model, loaded, (digest, dim), windows, precision, device)

    index = claim()  # what is refused is refused before a folder is made
    wanted, named = _list_sources(sources, index)
    encoder = WindowEncoder(loaded, index.windows, device, index.precision, limits)
    with locked(folder):
        index = claim()  # as another process may have left it
        index.save()
        index.clean()
        if not isinstance(encoder.stream, StreamingWindows):
            say("frames see each other in this model's temporal modules: each window is computed by itself.")
        elif len(index.windows.fps) > 1:
            say(f"{len(index.windows.fps)} rates take that many passes over each video.")
        before = index.files
        gone = {file for file in before if not os.path.exists(file) and any(_is_below(file, top) for top in named)}
        changed = {file for file in wanted if file in before and file not in gone and _is_changed(file, before[file])}
        if gone or changed:
            index = index.without(gone | changed)
            index.save()
            index.clean()
        left = [file for file in wanted if file not in gone and (file not in before or file in changed)]
        if workers is None:
            found = _encode_files(encoder, left)
        else:
            found = _encode_with_ray(index, model, left, device, limits, workers)
        failed: dict[str, str] = {}
        waiting: list[tuple[str, tuple[int, int], VideoWindows]] = []
        for file, stamp, video in progress(found, len(left)):
            if isinstance(video, str):
                failed[file] = video
                continue
            waiting.append((file, stamp, video))
            if sum(len(each.vectors) for _, _, each in waiting) >= PART_ROWS:
                index, waiting = index.with_part(waiting), []
                index.save()
        if waiting:
            index = index.with_part(waiting)
            index.save()
    return Summary(
        added=sum(file not in before for file in left if file not in failed),
        changed=len(changed - failed.keys()),
        dropped=len(gone),
        kept=len(before) - len(gone) - len(changed),
        failed=failed,
        windows=len(index),
    )


def _claim(
    folder: Path,
    name: str,
    model: InTIModel,
    identity: tuple[str, int],
    windows: Windows | None,
    precision: str,
    device: str,
) -> Index:
    """Open the index of a folder, or make a new one; raise a ValueError for another model or other settings."""
    wanted = None if windows is None else replace(windows, scales=windows.scales_of(model))
    if not (folder / MANIFEST).exists():
        wanted = wanted or replace(Windows(), scales=Windows().scales_of(model))
        return Index(folder, name, *identity, choose_precision(precision, device), wanted)
    index = Index.open(folder)
    if identity != (index.digest, index.dim):
        raise _other(folder, "model", f"{index.model} ({index.digest[:8]})", f"{name} ({identity[0][:8]})")
    if precision not in ("auto", index.precision):
        raise _other(folder, "precision", index.precision, precision)
    for setting, value in asdict(wanted or index.windows).items():
        if getattr(index.windows, setting) != value:
            raise _other(folder, setting, getattr(index.windows, setting), value)
    return index


def _other(folder: Path, name: str, theirs: Any, ours: Any) -> ValueError:
    return ValueError(f"{folder} was made with {name}={theirs!r}, not {ours!r}; name another folder.")


def _list_sources(sources: Iterable[str | os.PathLike[str]], index: Index) -> tuple[list[str], list[str]]:
    """Return absolute paths of all videos, and of what was named: folders and files."""
    files: list[str] = []
    named: list[str] = []
    for source in read_paths([os.fspath(source) for source in sources]):
        path = os.path.abspath(source)
        named.append(path)
        if os.path.isdir(path):
            inside = expand_folders([path])
            is_emptied = inside == [path] and any(_is_below(file, path) and file != path for file in index.files)
            files += [] if is_emptied else inside
        elif os.path.exists(path):
            files.append(path)
        elif path not in index.files:
            raise FileNotFoundError(f"There is no {source}; check the path.")
    own = os.path.abspath(index.folder)
    if inside := [file for file in files if _is_below(file, own)]:
        raise ValueError(f"{inside[0]} is in the folder of the index, {index.folder}; choose another for the index.")
    return list(dict.fromkeys(files)), named


def _is_below(file: str, folder: str) -> bool:
    return file == folder or file.startswith(os.path.join(folder, ""))


def _stamp(file: str) -> tuple[int, int]:
    """Return size and modification time of a file; for a folder of frames the sum, and the latest, of these."""
    stats = [os.stat(file)]
    if os.path.isdir(file):
        stats += [entry.stat() for entry in os.scandir(file)]
    return sum(stat.st_size for stat in stats), max(stat.st_mtime_ns for stat in stats)


def _is_changed(file: str, before: tuple[int, int]) -> bool:
    try:
        return _stamp(file) != before
    except OSError:  # it went meanwhile, which reading it will say
        return True


def _encode_files(encoder: WindowEncoder, files: Iterable[str]) -> Iterator[Encoded]:
    """Yield each file with its windows in float16, or with the error from reading it."""
    for file in files:
        try:
            _check_file(file)
            stamp = _stamp(file)  # before it is read: what is written meanwhile is noticed by the next run
            video = encoder(file)
            yield file, stamp, replace(video, vectors=cast(video.vectors, "float16"))
        except (OSError, ValueError) as error:
            said = str(error)
            yield file, (0, 0), said if file in said else f"{file}: {said}"


def _check_file(file: str) -> None:
    """Raise an error for what is listed but is not a file with an end, or cannot be a row."""
    check_name(file)
    if not os.path.exists(file):
        raise FileNotFoundError(f"There is no {file}, or it is a link that leads nowhere; check the path.")
    if not os.path.isfile(file) and not os.path.isdir(file):
        raise ValueError(f"{file} is a pipe or a device, not a file; leave it out.")


class Worker:
    """A model in a process of Ray."""

    def __init__(self, index: Index, model: str, device: str, limits: Limits) -> None:
        loaded = load(model)
        check_model(index, loaded)
        self.encoder = WindowEncoder(loaded, index.windows, device, index.precision, limits)

    def encode(self, file: str) -> Encoded:
        """See `_encode_files`."""
        return next(_encode_files(self.encoder, [file]))


def _encode_with_ray(
    index: Index, model: str, files: Sequence[str], device: str, limits: Limits, workers: int
) -> Iterator[Encoded]:
    """Run `_encode_files` in the processes of a Ray cluster, in the same order."""
    import ray
    from ray.util import ActorPool

    started = not ray.is_initialized()
    if started:
        ray.init(include_dashboard=False, log_to_driver=False)
    try:
        actor = ray.remote(Worker).options(num_gpus=1 if device.startswith("cuda") else 0)
        pool = ActorPool([actor.remote(index, model, device, limits) for _ in range(min(workers, len(files)))])
        yield from pool.map(lambda worker, file: worker.encode.remote(file), list(files))
    finally:
        if started:
            ray.shutdown()
