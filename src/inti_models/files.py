"""Files that are written whole or not at all."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a path to write a file to, which takes the place of ``path`` when the block succeeds.

    Who opens ``path`` finds the file before or the one after, each whole, also after a crash. The path has the same
    name, in a hidden folder beside the file, which is removed with all that is in it. A symbolic link stays one: the
    file that it leads to is replaced.

    Raises:
        OSError: the folder or the file cannot be written; of the subclass that the system's error has.
    """
    target = Path(os.path.realpath(path))
    try:
        folder = tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name[:40]}.")
    except OSError as error:
        raise _cannot_write(path, error) from error
    with folder:
        partial = Path(folder.name, Path(path).name)
        yield partial
        try:
            with partial.open("rb+") as file:
                os.fsync(file.fileno())
            os.replace(partial, target)
        except OSError as error:
            raise _cannot_write(path, error) from error


def _cannot_write(path: str | os.PathLike[str], error: OSError) -> OSError:
    return type(error)(f"{os.fspath(path)} cannot be written ({error.strerror or error}); choose another place.")


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a text file by `replacing`."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")
