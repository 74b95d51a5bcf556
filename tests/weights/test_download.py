"""One file of the Hub: found in the cache, verified by the hash that the Hub states. Whole models: test_loading.py."""

import hashlib
import os

import httpx2
import huggingface_hub
import pytest
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from inti_models.weights import download as download_module
from inti_models.weights.download import commit_of, download, hub_errors

COMMIT = "0123456789" * 4
CONTENT = b"tensors"
SHA256 = hashlib.sha256(CONTENT).hexdigest()
GIT = hashlib.sha1(b"blob 7\0" + CONTENT).hexdigest()


@pytest.fixture(params=[SHA256, GIT], ids=["LFS", "Git"])
def cached(request, tmp_path, monkeypatch):
    """A file in the cache, as huggingface_hub lays it out: a link to a blob that is named by its hash."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    repo = tmp_path / "models--org--mine"
    file, blob = repo / "snapshots" / COMMIT / "model.safetensors", repo / "blobs" / request.param
    for folder in (file.parent, blob.parent, repo / "refs"):
        folder.mkdir(parents=True)
    blob.write_bytes(CONTENT)
    file.symlink_to(os.path.relpath(blob, file.parent))
    (repo / "refs" / "main").write_text(COMMIT)
    return file, blob


def test_file_of_the_cache_has_the_hash_that_names_it(cached):
    file, _ = cached
    assert download("org/mine", "model.safetensors") == file
    assert commit_of(file, "model.safetensors") == COMMIT


def test_damaged_file_is_removed_from_the_cache(cached):
    file, blob = cached
    blob.write_bytes(CONTENT[:-1] + b"S")
    with pytest.raises(OSError, match="model.safetensors of org/mine was damaged in the download .* load it again"):
        download("org/mine", "model.safetensors")
    assert not blob.exists() and not file.is_symlink()
    with pytest.raises(FileNotFoundError, match="HF_HUB_OFFLINE is set and the cache has no model.safetensors"):
        download("org/mine", "model.safetensors")


def test_cache_without_links_is_verified_by_what_the_hub_states_if_it_can_be_asked(cached, monkeypatch):
    file, _ = cached
    file.unlink()
    file.write_bytes(CONTENT)
    assert download("org/mine", "model.safetensors") == file  # offline
    asked = []

    def metadata(url):
        asked.append(url)
        return huggingface_hub.HfFileMetadata(COMMIT, "f" * 64, url, 7, None)

    monkeypatch.setattr(download_module, "get_hf_file_metadata", metadata)
    with pytest.raises(OSError, match="was damaged in the download"):
        download("org/mine", "model.safetensors")
    assert asked == [huggingface_hub.hf_hub_url("org/mine", "model.safetensors", revision=COMMIT)]
    assert not file.exists()


def response(status):
    return httpx2.Response(status, request=httpx2.Request("GET", "http://hub"))


def caused(error, cause):
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("raised", "error", "words"),
    [
        (GatedRepoError("", response=response(403)), PermissionError, "org/mine is gated"),
        (RepositoryNotFoundError("", response=response(404)), FileNotFoundError, "shows you no org/mine"),
        (RevisionNotFoundError("", response=response(404)), FileNotFoundError, "org/mine has no revision v1"),
        (RemoteEntryNotFoundError("", response=response(404)), FileNotFoundError, "org/mine has no weights"),
        (OfflineModeIsEnabled(""), FileNotFoundError, "HF_HUB_OFFLINE is set"),
        (HfHubHTTPError("", response=response(401)), PermissionError, r"refuses weights of org/mine \(401\)"),
        (HfHubHTTPError("", response=response(500)), ConnectionError, "answered 500 for weights of org/mine"),
        (LocalEntryNotFoundError(""), ConnectionError, "cannot be reached for weights of org/mine@v1"),
        (caused(LocalEntryNotFoundError(""), HfHubHTTPError("", response=response(503))), ConnectionError, "503"),
        (OSError(28, "full"), OSError, r"The cache cannot take weights of org/mine \(No space left on device\)"),
        (httpx2.ReadError("cut"), ConnectionError, r"The download of weights of org/mine failed \(ReadError\)"),
        (ValueError("two\nlines"), ValueError, r"does not accept weights of org/mine \(two lines\)"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_each_error_of_the_client_becomes_one_sentence(raised, error, words):
    with pytest.raises(error, match=words) as refused, hub_errors("org/mine", "weights", "v1"):
        raise raised
    assert "\n" not in str(refused.value) and refused.value.__cause__ is raised
