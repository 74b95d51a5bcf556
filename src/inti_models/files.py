"""Files written whole or not at all, and folders that one process at a time writes to."""

import os
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a path to write a file to, which takes the place of ``path`` when the block succeeds.

    Opening ``path`` gives the old file or the new one, each whole, even after a crash. The yielded path has the same
    name, in a hidden folder beside the file, which is removed with its contents. A symbolic link stays one: its
    target is replaced.

    Raises:
        OSError: if the folder or the file cannot be written; of the same subclass as the system's error.
    """
    target = Path(os.path.realpath(path))
    try:
        folder = tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name[:40]}.")
    except OSError as error:
        raise _cannot_write(path, error) from error
    with folder:
        partial = Path(folder.name, Path(path).name)
        try:
            yield partial
        except OSError as error:
            if error.filename is None:  # of a write to the open file: the disk is full
                raise _cannot_write(path, error) from error
            raise
        try:
            with partial.open("rb+") as file:
                os.fsync(file.fileno())
            os.replace(partial, target)
        except OSError as error:
            raise _cannot_write(path, error) from error


def _cannot_write(path: str | os.PathLike[str], error: OSError) -> OSError:
    return type(error)(f"{os.fspath(path)} cannot be written ({error.strerror or error}); choose another place.")


def check_output(path: str | os.PathLike[str], endings: Collection[str]) -> None:
    """Raise the error that writing a file would raise, before the work for it.

    Raises:
        ValueError: if its name has none of these suffixes.
        FileNotFoundError: if its folder is missing.
        IsADirectoryError: if it is a folder.
    """
    path = Path(path)
    if path.suffix not in endings:
        raise ValueError(f"{path} ends in none of {', '.join(endings)}; rename it.")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"There is no folder {path.parent}; make it first.")
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; name a file.")


def check_input(path: str | os.PathLike[str]) -> None:
    """Raise the error that reading a file or folder would raise, before the work for it, such as loading a model.

    A name with ``*`` is one of images in a folder (`inti_models.data`), which are looked for when they are read.

    Raises:
        FileNotFoundError: if there is nothing at this path.
    """
    path = Path(path)
    if not path.exists() and not ("*" in path.name and path.parent.is_dir()):
        raise FileNotFoundError(f"There is no file or folder {path}; check the path.")


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a text file with `replacing`."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


@contextmanager
def locked(folder: str | os.PathLike[str], name: str = "") -> Iterator[None]:
    """Lock a folder, created if missing, or one file in it, against other processes that would write to it.

    The lock is the operating system's: it ends with the process that holds it, even when that is killed.

    Args:
        folder: the folder.
        name: name of the locked file; "" for the whole folder.

    Raises:
        BlockingIOError: if another process holds it.
        OSError: if the folder cannot be written; of the same subclass as the system's error.
    """
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _cannot_write(folder, error) from error
    file = Path(folder, f".{name}.lock" if name else ".lock")
    lock = FileLock(file, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise BlockingIOError(
            f"Another process is writing to {Path(folder, name)}; wait until it ends, or choose another place."
        ) from None
    except OSError as error:
        raise _cannot_write(folder, error) from error
    try:
        yield
    finally:
        with suppress(OSError):  # of Windows, which removes no open file
            file.unlink(missing_ok=True)
        lock.release()
