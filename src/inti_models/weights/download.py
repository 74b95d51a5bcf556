"""Files from the Hugging Face Hub, verified by the hash that it states, and its errors in one sentence each."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

CONFIG = "config.json"


def download(repo_id: str, filename: str, revision: str | None = None) -> Path:
    """Fetch a file of a repository into the Hub's cache and verify its hash; a damaged file is removed.

    Raises:
        ValueError: if ``repo_id`` cannot be one.
        OSError: see `inti_models.load`.
    """
    with hub_errors(repo_id, filename, revision):
        path = Path(hf_hub_download(repo_id, filename, revision=revision))
    stated = _stated_hash(path, repo_id, filename)
    if stated is not None and stated != _hash(path, stated):
        _remove(path)
        raise OSError(f"{filename} of {repo_id} was damaged in the download and has been removed; load it again.")
    return path


def _stated_hash(path: Path, repo_id: str, filename: str) -> str | None:
    """Return the SHA-256 of an LFS file or Git's SHA-1 of another, as the Hub states it; None if not known now."""
    if path.is_symlink():
        return Path(os.readlink(path)).name  # the cache names its files by their hashes
    try:
        return get_hf_file_metadata(hf_hub_url(repo_id, filename, revision=commit_of(path, filename))).etag
    except Exception:  # offline, with a cache that has no links
        return None


def commit_of(path: Path, filename: str) -> str:
    """Return the commit of a file in the Hub's cache: snapshots/<commit>/<filename>."""
    return path.parts[-1 - len(Path(filename).parts)]


def _hash(path: Path, like: str) -> str:
    """Return the hash of a file, of the same kind as ``like``."""
    if len(like) == 64:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    if len(like) == 40:
        content = path.read_bytes()
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    return like  # no hash that is known


def _remove(path: Path) -> None:
    """Remove a file from the cache, with what its links lead to."""
    while path.is_symlink():
        target = path.parent / os.readlink(path)
        path.unlink()
        path = target
    path.unlink(missing_ok=True)


@contextmanager
def hub_errors(repo_id: str, what: str, revision: str | None = None) -> Iterator[None]:
    """Wrap calls to huggingface_hub, and nothing else: turn what they raise into one sentence about ``what``."""
    try:
        yield
    except Exception as error:
        raise _explained(error, repo_id, what, revision) from error


def _explained(error: Exception, repo_id: str, what: str, revision: str | None) -> Exception:
    cause: BaseException = error.__cause__ or error if isinstance(error, LocalEntryNotFoundError) else error
    status = getattr(getattr(cause, "response", None), "status_code", None)
    this, at = f"{what} of {repo_id}", f"@{revision}" if revision else ""
    match cause:
        case HFValidationError():
            return ValueError(f"{repo_id!r} cannot be a repository; write hf-hub:org/name or hf-hub:org/name@revision.")
        case GatedRepoError():
            return PermissionError(f"{repo_id} is gated; ask for access on its page, then set HF_TOKEN to your token.")
        case RepositoryNotFoundError():
            return FileNotFoundError(
                f"The Hub shows you no {repo_id}; check the name, and set HF_TOKEN if it is private."
            )
        case RevisionNotFoundError():
            return FileNotFoundError(f"{repo_id} has no revision {revision}; check the name after the @.")
        case OfflineModeIsEnabled():
            return FileNotFoundError(
                f"HF_HUB_OFFLINE is set and the cache has no {this}{at}; unset it to reach the Hub."
            )
        case EntryNotFoundError() if not isinstance(cause, LocalEntryNotFoundError):
            advice = (
                "name another"
                if what == CONFIG
                else "no other file is opened: download its .pth or .bin and run 'inti-models convert' on it"
            )
            return FileNotFoundError(f"{repo_id} has no {what}; {advice}.")
        case ValueError():
            return ValueError(
                f"The Hub does not accept {this} ({' '.join(str(cause).split())}); correct it and try again."
            )
        case LocalTokenNotFoundError():
            return PermissionError(f"{this} needs a Hub token; log in, or set HF_TOKEN.")
    if status in (401, 403):
        return PermissionError(f"The Hub refuses {this} ({status}); set HF_TOKEN to a token with access to it.")
    if status is not None:
        return ConnectionError(f"The Hub answered {status} for {this}; try again later.")
    if isinstance(cause, LocalEntryNotFoundError) or cause is not error:
        return ConnectionError(f"The Hub cannot be reached for {this}{at}; check the network and HF_ENDPOINT.")
    if isinstance(cause, OSError) and cause.errno is not None and not isinstance(cause, ConnectionError):
        reason = os.strerror(cause.errno)
        return OSError(f"The cache cannot take {this} ({reason}); free some space or set HF_HOME to another disk.")
    return ConnectionError(f"The download of {this} failed ({type(cause).__name__}); check the network and try again.")
