"""Write the golden files of a temporal method: logits of its official code, with weights and clips drawn by name.

    python tests/models/temporal/golden/make.py st_adapter PATH_OF_CHECKOUT

The checkout is of the repository and commit in `OFFICIAL`. What its modules import beside PyTorch and einops (for
AIM) is not needed for a forward pass and replaced by empty modules. Nothing of it is in the golden files but names
and shapes of the weights, and logits.
"""

import argparse
import importlib.util
import json
import logging
import subprocess
import sys
import types
import zlib
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

FOLDER = Path(__file__).parent
CLASSES = 7
# Method -> repository, commit.
OFFICIAL = {
    "st_adapter": ("https://github.com/linziyi96/st-adapter", "b914b388f45ddd1968348ae2b1590a17eca75f8f"),
    "aim": ("https://github.com/taoyang1122/adapt-image-models", "b3580d2d3a78ff5cffa6c7a82ce993165166f00f"),
    "uniformerv2": ("https://github.com/OpenGVLab/UniFormerV2", "722a43440fc5b9662cc2a8f23b86caa205e45ebc"),
}

# Case -> method; sizes of the image model (resolution, patch, width, layers, heads); official arguments of the method;
# numbers of frames.
CASES: dict[str, dict[str, Any]] = {
    "st_adapter_mlp": {
        "method": "st_adapter",
        "sizes": (32, 8, 64, 4, 4),
        "official": {"adapter_width": 24, "adapter_kernel_size": (3, 1, 1), "adapter_pre_attn": False},
        "frames": (8, 16, 5, 1),
    },
    "st_adapter_both": {
        "method": "st_adapter",
        "sizes": (48, 16, 48, 4, 3),
        "official": {"adapter_width": 20, "adapter_kernel_size": (3, 1, 1), "adapter_pre_attn": True},
        "frames": (8, 16, 7),
    },
    "st_adapter_3x3x3": {
        "method": "st_adapter",
        "sizes": (32, 8, 48, 2, 1),
        "official": {"adapter_width": 16, "adapter_kernel_size": (3, 3, 3), "adapter_pre_attn": True},
        "frames": (8,),
    },
    "aim": {
        "method": "aim",
        "sizes": (32, 8, 64, 4, 4),
        "official": {"num_tadapter": 1, "adapter_scale": 0.5},
        "frames": (8, 16, 5),
    },
    "aim_two": {
        "method": "aim",
        "sizes": (48, 16, 48, 4, 3),
        "official": {"num_tadapter": 2, "adapter_scale": 1.0},
        "frames": (8, 16, 7),
    },
    "uniformerv2_global": {
        "method": "uniformerv2",
        "sizes": (32, 8, 64, 4, 4),
        "official": {"no_lmhra": True, "temporal_downsample": False, "return_list": [2, 3]},
        "frames": (8, 16, 5),
    },
    "uniformerv2_local": {
        "method": "uniformerv2",
        "sizes": (32, 8, 64, 4, 2),
        "official": {"no_lmhra": False, "temporal_downsample": True, "dw_reduction": 1.5, "return_list": [1, 2, 3]},
        "frames": (8, 16, 7),
    },
    "uniformerv2_local_stride1": {
        "method": "uniformerv2",
        "sizes": (48, 16, 48, 4, 3),
        "official": {"no_lmhra": False, "temporal_downsample": False, "dw_reduction": 2.0, "return_list": [3]},
        "frames": (8, 5),
    },
    "uniformerv2_frozen": {
        "method": "uniformerv2",
        "sizes": (48, 16, 48, 4, 1),
        "official": {"no_lmhra": True, "temporal_downsample": False, "return_list": [0, 1, 2, 3], "frozen": True},
        "frames": (8, 16),
    },
}


def draw(name: str, shape: tuple[int, ...]) -> Tensor:
    """The tensor that everyone draws for this name: of NumPy's frozen generator, with none at its neutral value.

    Matrices and kernels keep the scale of their input, but for attention, which is not to be near uniform; vectors and
    embeddings have a deviation of 0.5.
    """
    generator = np.random.RandomState(zlib.crc32(name.encode()))
    if name.endswith("num_batches_tracked"):
        return torch.tensor(generator.randint(1, 99))
    if name.endswith("running_var"):
        return torch.from_numpy(generator.uniform(0.5, 2.0, shape)).float()
    values = generator.standard_normal(shape)
    if len(shape) < 2 or name.endswith(("_embedding", "_token")):
        values *= 0.5
    else:
        values *= (3 if "in_proj" in name else 1) * float(np.prod(shape[1:])) ** -0.5
    return torch.from_numpy(values).float()


def draw_clip(num_frames: int, resolution: int) -> Tensor:
    """Two clips of frames that differ in colour, (B, T, C, H, W)."""
    generator = np.random.RandomState(num_frames)
    colour = generator.standard_normal((2, num_frames, 3, 1, 1))
    return torch.from_numpy(colour + generator.standard_normal((2, num_frames, 3, resolution, resolution))).float()


def official_state(case: str, num_frames: int) -> dict[str, Tensor]:
    """The weights that the official model of a case has, by its names."""
    with safe_open(FOLDER / f"{case}.safetensors", framework="pt") as file:
        shapes = json.loads(json.loads(file.metadata()["golden"])["shapes"])
    if "backbone.temporal_embedding" in shapes:
        shapes["backbone.temporal_embedding"][1] = num_frames
    return {name: draw(name, tuple(shape)) for name, shape in shapes.items()}


def load_module(path: Path, name: str, stubs: dict[str, dict[str, Any]]) -> types.ModuleType:
    """Run a file as the module ``name`` while ``stubs``, modules by name, are there to import from."""
    before = {stub: sys.modules.get(stub) for stub in stubs}
    for stub, attributes in stubs.items():
        sys.modules[stub] = types.ModuleType(stub)
        sys.modules[stub].__dict__.update(attributes, __path__=[])
    try:
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        for stub, there in before.items():
            del sys.modules[stub]
            if there is not None:
                sys.modules[stub] = there
    return module


class Registry:
    """mmcv's registry, as a decorator that registers nothing."""

    def register_module(self) -> Any:
        """Return the class as it is."""
        return lambda cls: cls


class BaseHead(nn.Module):
    """What AIM's head reads of mmaction's base class."""

    def __init__(self, num_classes: int, in_channels: int, loss_cls: Any = None) -> None:
        super().__init__()
        self.num_classes, self.in_channels = num_classes, in_channels


class AIMRecognizer(nn.Module):
    """mmaction's recogniser: a backbone and a head of its names."""

    def __init__(self, backbone: nn.Module, cls_head: nn.Module) -> None:
        super().__init__()
        self.backbone, self.cls_head = backbone, cls_head

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T, H, W) -> logits."""
        return self.cls_head(self.backbone(x))


def build_st_adapter(checkout: Path, sizes: tuple[int, ...], num_frames: int, **official: Any) -> nn.Module:
    """The official model."""
    configs = {"CLIP_VIT_B16_PATH": None, "CLIP_VIT_L14_PATH": None, "DWCONV3D_DISABLE_CUDNN": True}
    module = load_module(checkout / "models_adapter.py", "models_adapter", {"configs": configs})
    resolution, patch, width, layers, heads = sizes
    return module.VisionTransformer(
        resolution, patch, width, layers, heads, CLASSES, adapter_layers=layers, adapter_pre_mlp=True, **official
    ).float()  # it keeps its frozen weights in half precision


def build_aim(checkout: Path, sizes: tuple[int, ...], num_frames: int, **official: Any) -> nn.Module:
    """The official backbone and head."""
    registries = {"BACKBONES": Registry(), "HEADS": Registry()}
    stubs: dict[str, dict[str, Any]] = {
        "clip": {},
        "mmcv": {},
        "mmcv.cnn": {"normal_init": None},
        "mmaction": {},
        "mmaction.utils": {"get_root_logger": None},
        "mmaction.models": {},
        "mmaction.models.builder": registries,
        "mmaction.models.backbones": {},
        "mmaction.models.heads": {},
        "mmaction.models.heads.base": {"BaseHead": BaseHead},
    }
    models = checkout / "mmaction" / "models"
    backbone = load_module(models / "backbones" / "vit_clip.py", "mmaction.models.backbones.vit_clip", stubs)
    head = load_module(models / "heads" / "i3d_head.py", "mmaction.models.heads.i3d_head", stubs)
    resolution, patch, width, layers, heads = sizes
    return AIMRecognizer(
        backbone.ViT_CLIP(resolution, num_frames, patch, width, layers, heads, drop_path_rate=0.2, **official),
        head.I3DHead(CLASSES, width),
    )


def build_uniformerv2(checkout: Path, sizes: tuple[int, ...], num_frames: int, **official: Any) -> nn.Module:
    """The official model, as the ``backbone`` of its wrapper."""
    log = {"get_logger": logging.getLogger}
    stubs: dict[str, dict[str, Any]] = {"slowfast": {}, "slowfast.utils": {}, "slowfast.utils.logging": log}
    module = load_module(
        checkout / "slowfast" / "models" / "uniformerv2_model.py", "slowfast.models.uniformerv2_model", stubs
    )
    resolution, patch, width, layers, heads = sizes
    model = module.VisionTransformer(
        resolution,
        patch,
        width,
        layers,
        heads,
        output_dim=width,
        # Half of it, rounded down, has to be the number of frames after the convolution.
        t_size=num_frames + num_frames % 2 if official["temporal_downsample"] else num_frames,
        n_layers=len(official["return_list"]),
        n_dim=width,
        n_head=heads,
        num_classes=CLASSES,
        backbone_drop_path_rate=0.2,
        drop_path_rate=0.4,
        **official,
    )
    return nn.Sequential(OrderedDict(backbone=model))


BUILD = {"st_adapter": build_st_adapter, "aim": build_aim, "uniformerv2": build_uniformerv2}


@torch.inference_mode()
def make(name: str, checkout: Path) -> None:
    """Write the golden file of a case: logits for each number of frames; names and shapes of the weights beside."""
    case = CASES[name]
    logits: dict[str, Tensor] = {}
    shapes: dict[str, list[int]] = {}
    for num_frames in case["frames"]:
        model = BUILD[case["method"]](checkout, case["sizes"], num_frames, **case["official"]).eval()
        own = {key: list(tensor.shape) for key, tensor in model.state_dict().items()}
        model.load_state_dict({key: draw(key, tuple(shape)) for key, shape in own.items()})
        clip = draw_clip(num_frames, case["sizes"][0])
        logits[str(num_frames)] = model(clip.transpose(1, 2))
        shapes = shapes or own
        for key in own:
            assert own[key] == shapes[key] or key.endswith("temporal_embedding"), key
    repository, commit = OFFICIAL[case["method"]]
    metadata = {"shapes": json.dumps(shapes, separators=(",", ":")), "source": f"{repository} {commit}"}
    save_file(logits, FOLDER / f"{name}.safetensors", {"golden": json.dumps(metadata)})
    for frames, values in logits.items():
        print(f"{name}  {frames} frames: deviation of the logits {values.std():.2f}")


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("method", choices=OFFICIAL)
    parser.add_argument("checkout", type=Path)
    args = parser.parse_args()
    head = subprocess.run(
        ["git", "-C", str(args.checkout), "rev-parse", "HEAD"], capture_output=True, text=True, check=True
    ).stdout.strip()
    if head != OFFICIAL[args.method][1]:
        sys.exit(f"{args.checkout} is at {head}, not at {OFFICIAL[args.method][1]}; check that commit out.")
    for name in CASES:
        if CASES[name]["method"] == args.method:
            make(name, args.checkout)


if __name__ == "__main__":
    main()
