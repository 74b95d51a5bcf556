"""Write protocols.npz: which frames and pixels the official code of ST-Adapter, AIM and UniFormerV2 makes clips of.

    python tests/data/golden/make.py ST_ADAPTER AIM UNIFORMERV2

The arguments are checkouts of the repositories and commits in `OFFICIAL`. Needs OpenCV, by which mmcv resizes. What the
modules import beside is not needed here and replaced by empty modules; mmcv's `rescale_size` and `imresize` are the two
lines that they are. Nothing of the official code is in the file, only indices of frames and pixels of drawn images.
"""

import argparse
import importlib.util
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

OFFICIAL = {
    "st_adapter": ("https://github.com/linziyi96/st-adapter", "b914b388f45ddd1968348ae2b1590a17eca75f8f"),
    "aim": ("https://github.com/taoyang1122/adapt-image-models", "b3580d2d3a78ff5cffa6c7a82ce993165166f00f"),
    "uniformerv2": ("https://github.com/OpenGVLab/UniFormerV2", "722a43440fc5b9662cc2a8f23b86caa205e45ebc"),
}
LENGTHS, VIEWS, FRAMES, STRIDE = (1, 5, 8, 37, 113, 128, 129, 300), (1, 3, 4), 8, 16
SIZES, SIDE = ((45, 64), (70, 41), (33, 24), (24, 24)), 24  # heights and widths of images, and the side of the crops


class Anything(types.ModuleType):
    """A module with whatever is asked for, which does nothing."""

    __path__: list[str] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return Anything(name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return lambda thing: thing  # a registry's decorator


def load(file: Path, name: str, *stubs: str) -> types.ModuleType:
    """A module of a checkout, with empty modules in place of those named."""
    for stub in stubs:
        sys.modules[stub] = Anything(stub)
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def draw(height: int, width: int) -> np.ndarray:
    """Frames (2, height, width, 3): smooth, with noise and hard edges."""
    generator = np.random.default_rng(height * 1000 + width)
    y, x = np.mgrid[:height, :width]
    smooth = 120 + 80 * np.sin(x / 5)[..., None] * np.cos(y / 7)[..., None] * np.array([1, 0.5, -1])
    frames = smooth + generator.normal(0, 20, (2, height, width, 3))
    frames[:, height // 3 : height // 2, width // 4 : width // 2] = 255
    frames[:, height // 2 : height // 2 + 3] = 0
    return frames.clip(0, 255).astype(np.uint8)


def st_adapter(root: Path) -> dict[str, np.ndarray]:
    """Its `VideoDataset` in evaluation."""
    package = types.ModuleType("st")
    package.__path__ = [str(root / "video_dataset")]  # type: ignore[attr-defined]
    sys.modules["st"] = package
    for name in ("transform", "random_erasing", "load_binary", "rand_augment"):
        sys.modules[f"st.{name}"] = Anything(f"st.{name}")
    dataset = load(root / "video_dataset" / "dataset.py", "st.dataset", "av").VideoDataset

    def sampler(clips: int = 1, crops: int = 1, rate: int = STRIDE) -> Any:
        made = dataset.__new__(dataset)
        made.num_frames, made.sampling_rate, made.spatial_size = FRAMES, rate, SIDE
        made.num_temporal_views, made.num_spatial_views, made.random_sample = clips, crops, False
        made.mean, made.std, made.interpolation = torch.zeros(3), torch.ones(3), "bicubic"
        return made

    arrays = {}
    for length in LENGTHS:
        video = torch.arange(length).view(1, length, 1, 1)
        for clips in VIEWS:
            chosen = sampler(clips)._generate_temporal_crops(video)
            arrays[f"dense_rounded/{length}/{clips}"] = torch.cat(chosen)[..., 0, 0].numpy()
        arrays[f"uniform_centers/{length}/1"] = sampler(rate=0)._generate_temporal_crops(video)[0][..., 0, 0].numpy()
    for height, width in SIZES:
        frames = torch.from_numpy(draw(height, width)).float().permute(3, 0, 1, 2) / 255
        # the lines of `__getitem__` that choose a size
        size = (SIDE, width * SIDE // height) if height < width else (height * SIDE // width, SIDE)
        small = torch.nn.functional.interpolate(frames, size=size, mode="bicubic", align_corners=False)
        for crops in (1, 3):
            cut = sampler(crops=crops)._generate_spatial_crops(small)
            arrays[f"st_adapter/{height}x{width}/{crops}"] = _levels(torch.stack(cut).permute(0, 2, 1, 3, 4) * 255)
    return arrays


def aim(root: Path) -> dict[str, np.ndarray]:
    """The pipeline of mmaction2 of its configs, in test mode."""
    import cv2

    np.int = int  # type: ignore[attr-defined]  # of the numpy that it was written for
    pipelines = root / "mmaction" / "datasets" / "pipelines"
    for name in ("mm", "mm.utils", "mm.datasets", "mm.datasets.builder", "mm.datasets.pipelines"):
        sys.modules[name] = Anything(name)
    loading = load(pipelines / "loading.py", "mm.datasets.pipelines.loading", "mmcv", "mmcv.fileio", "mmcv.utils")
    augmentations = load(pipelines / "augmentations.py", "mm.datasets.pipelines.augmentations", "mmcv", "mmcv.utils")

    def rescale_size(old: tuple[int, int], scale: tuple[float, float]) -> tuple[int, int]:
        factor = min(max(scale) / max(old), min(scale) / min(old))
        return int(old[0] * factor + 0.5), int(old[1] * factor + 0.5)

    mmcv = augmentations.mmcv
    mmcv.rescale_size = rescale_size
    mmcv.imresize = lambda image, size, interpolation: cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)
    mmcv.is_tuple_of = lambda value, kind: all(isinstance(each, kind) for each in value)

    arrays = {}
    for length in LENGTHS:
        for clips in VIEWS:
            sample = loading.SampleFrames(FRAMES, STRIDE, clips, test_mode=True)
            found = sample({"total_frames": length, "start_index": 0})["frame_inds"]
            arrays[f"dense_looped/{length}/{clips}"] = found.reshape(clips, FRAMES)
        sample = loading.SampleFrames(FRAMES, 2, 1, test_mode=True, frame_uniform=True)
        found = sample({"total_frames": length, "start_index": 0})["frame_inds"].reshape(1, FRAMES)
        arrays[f"uniform_centers_aim/{length}/1"] = found
    for height, width in SIZES:
        for crops, cut in ((1, augmentations.CenterCrop(SIDE)), (3, augmentations.ThreeCrop(SIDE))):
            results = {"imgs": list(draw(height, width)), "img_shape": (height, width), "modality": "RGB"}
            images = np.stack(cut(augmentations.Resize((-1, SIDE))(results))["imgs"])  # crops frames H W 3
            images = images.reshape(crops, 2, SIDE, SIDE, 3)[[0, 2, 1] if crops == 3 else [0]]  # theirs: middle last
            arrays[f"mmaction/{height}x{width}/{crops}"] = _levels(torch.from_numpy(images).permute(0, 1, 4, 2, 3))
    return arrays


def uniformerv2(root: Path) -> dict[str, np.ndarray]:
    """Its sparse sampling, and PySlowFast's transforms."""
    datasets = root / "slowfast" / "datasets"
    decoder = load(datasets / "decoder.py", "decoder", "torchvision.io")
    text = (datasets / "transform.py").read_text()
    start, end = text.index("def random_short_side_scale_jitter"), text.index("def crop_boxes")
    crop_start, crop_end = text.index("def uniform_crop"), text.index("def clip_boxes_to_image")
    space: dict[str, Any] = {"np": np, "math": __import__("math"), "torch": torch}
    exec(text[start:end] + "\n" + text[crop_start:crop_end], space)
    resize: Callable[..., Any] = space["random_short_side_scale_jitter"]
    arrays = {}
    for length in LENGTHS:
        for clips in VIEWS:
            chosen = [decoder.get_seq_frames(length, FRAMES, clip, clips) for clip in range(clips)]
            arrays[f"uniform_offsets/{length}/{clips}"] = np.array(chosen)
    for height, width in SIZES:
        frames = torch.from_numpy(draw(height, width)).float().permute(0, 3, 1, 2)
        small, _ = resize(frames, SIDE, SIDE)
        cut = [space["uniform_crop"](small, SIDE, place)[0] for place in (0, 1, 2)]
        arrays[f"slowfast/{height}x{width}/1"] = _levels(cut[1][None])
        arrays[f"slowfast/{height}x{width}/3"] = _levels(torch.stack(cut))
    return arrays


def _levels(crops: torch.Tensor) -> np.ndarray:
    """Grey levels (crops, T, 3, H, W) of the first frame, to 1/64: (crops, 3, H, W)."""
    return (crops[:, 0].double() * 64).round().numpy().astype(np.int16)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for method in OFFICIAL:
        parser.add_argument(method, type=Path, metavar=method.upper())
    args = parser.parse_args()
    arrays: dict[str, np.ndarray] = {}
    for method, read in (("st_adapter", st_adapter), ("aim", aim), ("uniformerv2", uniformerv2)):
        root = getattr(args, method)
        commit = subprocess.run(["git", "-C", root, "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip()
        if commit != OFFICIAL[method][1]:
            raise SystemExit(f"{root} is at {commit or 'no commit'}; check out {OFFICIAL[method][1]}.")
        arrays |= read(root)
    indices = {key: value.astype(np.int16) for key, value in arrays.items()}
    np.savez_compressed(Path(__file__).parent / "protocols.npz", **indices)
    print(f"wrote {len(indices)} arrays")


if __name__ == "__main__":
    main()
