"""Tensors in safetensors files: written whole or not at all, verified when read."""

import hashlib
import os
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn, uint8

from ..files import replacing

PICKLES = (".pt", ".pth", ".pyth", ".bin")  # which 'inti-models convert' reads, unless they are TorchScript
DIGEST = "tensors_sha256"  # in the metadata of our files
MAX_HEADER = 2**21  # bytes; a model of 5,000 tensors has a third of it, and a million tensors take minutes to list
Shapes = Mapping[str, tuple[int, ...]]  # of tensors by name
# timm takes a tensor of such a name for a nested checkpoint.
_CONTAINERS = {"state_dict", "state_dict_ema", "model", "model_ema"}


def digest(tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256, in hex, of tensors with their names, dtypes and shapes; their order does not matter."""

    def line(name: str) -> str:
        tensor = tensors[name]
        data = tensor.detach().cpu().contiguous().reshape(-1).view(uint8).numpy().data
        return f"{name} {tensor.dtype} {tuple(tensor.shape)} {hashlib.sha256(memoryview(data)).hexdigest()}\n"

    with ThreadPoolExecutor() as pool:  # hashing lets other threads run
        lines = list(pool.map(line, sorted(tensors)))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def save_checkpoint(model: nn.Module, path: str | os.PathLike[str]) -> None:
    """Write the tensors of ``model`` and their `digest` to a safetensors file, whole or not at all.

    Raises:
        OSError: if the file cannot be written.
    """
    tensors, storages = {}, set()
    for name, tensor in model.state_dict().items():
        tensor = tensor.detach().cpu().contiguous()
        storage = tensor.untyped_storage().data_ptr()
        tensors[name] = tensor.clone() if storage in storages else tensor  # safetensors takes no tied tensors
        storages.add(storage)
    with replacing(path) as partial:
        try:
            save_file(tensors, partial, {DIGEST: digest(tensors)})  # one entry: the order of more would be random
        except SafetensorError as error:  # its way of saying that the disk is full
            raise OSError(f"{path} cannot be written ({error}); free some space or choose another disk.") from None


@contextmanager
def _opened(path: str | os.PathLike[str], expected: str | None = None) -> Iterator[Any]:
    """Open a safetensors file whose header is not too long; no tensor is read.

    Args, Raises: see `read_checkpoint`.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no checkpoint {path}; check the path.")
    if path.suffix != ".safetensors":
        raise ValueError(f"{path} is not a .safetensors file, and nothing else is opened; {how_to_open(path)}.")
    with path.open("rb") as raw:
        length = int.from_bytes(raw.read(8), "little")
    if MAX_HEADER < length < path.stat().st_size:
        raise ValueError(
            f"{path} has a header of {length} bytes, more than the limit of {MAX_HEADER}; use another checkpoint."
        )
    try:
        # Read, not mapped: what is verified is then what is used, whatever becomes of the file.
        with safe_open(path, framework="pt", backend="pread") as file:
            stated = (file.metadata() or {}).get(DIGEST)
            if expected is not None and stated is not None and stated != expected:
                raise OtherDigestError(f"{path} has tensors other than those saved; save the model again.")
            yield file
    except SafetensorError as error:
        raise ValueError(
            f"{path} is not a complete safetensors file ({error}); copy, convert or download it again."
        ) from None


def stated_digest(path: str | os.PathLike[str]) -> str | None:
    """Return the `digest` that a safetensors file states; None for a file without one, or a damaged one."""
    try:
        with _opened(path) as file:
            return (file.metadata() or {}).get(DIGEST)
    except (ValueError, OSError):
        return None


class OtherDigestError(ValueError):
    """A safetensors file that states a digest other than the expected one."""


def read_shapes(path: str | os.PathLike[str], expected: str | None = None) -> Shapes:
    """Read the names and shapes in the header of a safetensors file; no tensor is read.

    Args, Raises: see `read_checkpoint`.
    """
    with _opened(path, expected) as file:
        return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118


def read_checkpoint(path: str | os.PathLike[str], expected: str | None = None) -> dict[str, Tensor]:
    """Read the tensors of a safetensors file, verified by their `digest` if the file has one.

    Args:
        path: the file.
        expected: the digest that the file has to state, if it states any; None for any.

    Raises:
        FileNotFoundError: if there is no such file.
        OtherDigestError: if it states another digest.
        ValueError: if it is not a complete safetensors file, has a header of more than `MAX_HEADER` bytes, or its
            tensors are not those that were saved.
    """
    with _opened(path, expected) as file:
        stated = (file.metadata() or {}).get(DIGEST)
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (it is not a dict)
    if stated is not None and digest(tensors) != stated:
        raise ValueError(f"{path} is damaged: its tensors are not those that were saved; copy or download it again.")
    refuse(str(path), "has, unlike any model,", _CONTAINERS & tensors.keys())
    return tensors


def how_to_open(path: Path) -> str:
    """Return what to do with a file of weights that is not beside its config.json: advice that works for this one."""
    if path.suffix in PICKLES and is_torchscript(path):  # as OpenAI publishes its models
        return (
            "it is a TorchScript archive, as OpenAI publishes its models, and reading it would run the code in it: "
            "take the same weights as open_clip_model.safetensors from open_clip's repository on the Hub"
        )
    if path.suffix in (".safetensors", *PICKLES):
        return f"run 'inti-models convert {path} --model NAME --output DIR'"
    return f"name one that ends in .safetensors or, for 'inti-models convert', in {', '.join(PICKLES)}"


def is_torchscript(path: Path) -> bool:
    """Return whether a file is a TorchScript archive, which holds code."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/constants.pkl") for name in archive.namelist())
    except (zipfile.BadZipFile, OSError):
        return False


def is_finite(tensor: Tensor) -> bool:
    """Return whether all values are finite, in a twentieth of the time of ``isfinite().all()``."""
    if tensor.is_meta or not tensor.numel():
        return True
    low, high = (bound.item() for bound in tensor.aminmax())  # nan if there is one
    return float("-inf") < low and high < float("inf")


def refuse(source: str, fault: str, keys: Iterable[str]) -> None:
    """Raise a ValueError that names the first of ``keys``, if there is one."""
    names = sorted(keys)
    if names:
        rest = f" and {len(names) - 1} more" if len(names) > 1 else ""
        raise ValueError(f"{source} {fault} {names[0]}{rest}; name the model it was made for, with the same options.")


def refuse_shapes(source: str, shapes: Shapes, own: Shapes) -> None:
    """Raise a ValueError that names the first tensor whose shape is not the model's ``own``, if there is one."""
    for key, shape in shapes.items():
        if shape != own[key]:
            there, here = ("x".join(map(str, each)) or "one value" for each in (shape, own[key]))
            raise ValueError(
                f"{source} has {key} as {there} where the model has {here}; "
                "name the model it was made for, with the same options."
            )
