"""How fast models are: in turns on one device, as times, as ratios, and as fractions of what is possible.

A model is measured beside a reference, its naive twin: one step of one, one step of the other, and so on, so that
whatever slows the machine slows both. The ratio of their times is then compared with the ratio of their GFLOPs, which
is the best possible at equal efficiency: *fraction of ideal* = GFLOPs ratio / time ratio.
"""

import platform
import statistics
import subprocess
import time
import weakref
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ..models.registry import create_model
from ..models.stages import InTIModel
from ._private import TorchDispatchMode, tree_leaves

DTYPES = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
WARM_UP, INPUTS = 2, 4


@dataclass(frozen=True)
class Settings:
    """How to measure.

    Attributes:
        device: "cpu" or "cuda".
        train: measure a training step (forward, cross entropy, backward, AdamW) instead of inference.
        fused: fused AdamW.
        batch_size: clips per step; None for the size of each model that gives the most clips per second.
        amp: autocast: "no", "bf16" or "fp16".
        compile: use torch.compile.
        cuda_graphs: compile with CUDA graphs (torch.compile's mode "reduce-overhead").
        channels_last: channels-last images and weights.
        checkpoint_stages: recompute the blocks of these stages in the backward pass (`set_grad_checkpointing`).
        threads: CPU threads; None for PyTorch's choice.
        seconds: time to measure a model and its reference for, not including warm-up.
        rounds: minimum number of steps of each.
    """

    device: str = "cpu"
    train: bool = False
    fused: bool = True
    batch_size: int | None = 1
    amp: str = "no"
    compile: bool = False
    cuda_graphs: bool = False
    channels_last: bool = False
    checkpoint_stages: tuple[int, ...] = ()
    threads: int | None = None
    seconds: float = 20.0
    rounds: int = 5

    def __post_init__(self) -> None:
        if self.batch_size is not None and self.batch_size < 1:
            raise ValueError(f"batch_size={self.batch_size} is not a number of clips; pass at least 1, or None.")
        if self.amp not in DTYPES:
            raise ValueError(f"amp={self.amp!r} is unknown; choose one of {', '.join(DTYPES)}.")
        if self.device.startswith("cuda") and not torch.cuda.is_available():
            raise ValueError(f"device={self.device!r}: this PyTorch sees no CUDA device; choose 'cpu'.")
        if self.cuda_graphs and not self.device.startswith("cuda"):
            raise ValueError(f"cuda_graphs needs device='cuda', not {self.device!r}; leave it out.")


@dataclass(frozen=True)
class Subject:
    """A model to measure.

    Attributes:
        name: its name in the tables.
        build: makes it; it takes clips (B, T, C, H, W) and returns logits (B, classes).
        input: shape (T, C, H, W) of a clip.
    """

    name: str
    build: Callable[[], nn.Module]
    input: tuple[int, int, int, int]


def zoo_subject(name: str, num_frames: int | None = None, **model_args: Any) -> Subject:
    """Return a model of the zoo, with random weights: cost does not depend on them."""
    model = create_model(name, device="meta", **model_args)
    size = (num_frames or model.num_frames, model.in_chans, *model.patch_embed.img_size)
    label = name if model.compress_at else f"{name} (naive)"
    return Subject(label, lambda: create_model(name, **model_args), size)


class PeakMemory(TorchDispatchMode):
    """A counter of the bytes of tensors while it is active; ``peak`` is the most that were alive at once.

    These are the tensors given to it (weights, inputs) and those that operators make. What libraries allocate inside an
    operator is not seen.
    """

    def __init__(self, *tensors: Tensor) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._alive: dict[int, weakref.ref] = {}
        for tensor in tensors:
            self._add(tensor)

    def _add(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._alive:
            return

        def forget(_: weakref.ref) -> None:
            del self._alive[key]
            self.now -= size

        self._alive[key] = weakref.ref(storage, forget)
        self.now += size
        self.peak = max(self.peak, self.now)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._add(leaf)
        return result


class Runner:
    """A model on its device, ready to make steps.

    Args:
        model: the model.
        input: shape (T, C, H, W) of a clip.
        settings: how to run it; ``batch_size`` must be a number.
    """

    def __init__(self, model: nn.Module, input: tuple[int, int, int, int], settings: Settings) -> None:
        assert settings.batch_size is not None
        self.settings, self.device = settings, torch.device(settings.device)
        self.model = model.to(self.device).train(settings.train)
        generator = torch.Generator().manual_seed(0)
        # Several inputs in turns: on CUDA one would stay in the cache.
        clips = [torch.randn(settings.batch_size, *input, generator=generator) for _ in range(INPUTS)]
        if settings.checkpoint_stages:
            if not isinstance(self.model, InTIModel):
                raise ValueError("checkpoint_stages are for InTI models; leave them out.")
            last = len(self.model.compress_at)
            self.model.set_grad_checkpointing(stages=[stage for stage in settings.checkpoint_stages if stage <= last])
        if settings.channels_last:
            self.model = self.model.to(memory_format=torch.channels_last)
            clips = [
                clip.flatten(0, 1).contiguous(memory_format=torch.channels_last).unflatten(0, clip.shape[:2])
                for clip in clips
            ]
        self.clips = [clip.to(self.device) for clip in clips]
        self.labels = torch.zeros(settings.batch_size, dtype=torch.long, device=self.device)
        self.forward: Callable[[Tensor], Tensor] = self.model
        if settings.compile or settings.cuda_graphs:
            self.forward = torch.compile(self.model, mode="reduce-overhead" if settings.cuda_graphs else None)
        if settings.train:
            self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-6, fused=self.settings.fused)
            # Only fp16 needs its loss scaled.
            self.scaler = torch.amp.GradScaler(self.device.type, enabled=settings.amp == "fp16")

    def _autocast(self) -> AbstractContextManager:
        if self.settings.amp == "no":
            return nullcontext()
        return torch.autocast(self.device.type, DTYPES[self.settings.amp])

    def step(self, i: int, forward: Callable[[Tensor], Tensor] | None = None) -> None:
        """Run one forward pass, or one training step, on the i-th input."""
        forward, clip = forward or self.forward, self.clips[i % INPUTS]
        if not self.settings.train:
            with torch.inference_mode(), self._autocast():
                forward(clip)
            return
        with self._autocast():
            loss = cross_entropy(forward(clip).float(), self.labels)
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()

    def seconds(self, i: int) -> float:
        """Return the time of a step; by events on CUDA."""
        if self.device.type != "cuda":
            start = time.perf_counter()
            self.step(i)
            return time.perf_counter() - start
        start_event, end_event = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start_event.record()
        self.step(i)
        end_event.record()
        end_event.synchronize()
        return start_event.elapsed_time(end_event) / 1e3

    def peak_memory_mib(self) -> float:
        """Return the peak memory of a step: from PyTorch's allocator on CUDA, from `PeakMemory` (eager) elsewhere."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            self.step(0)
            return torch.cuda.max_memory_allocated(self.device) / 2**20
        state = [value for s in self.optimizer.state.values() for value in s.values()] if self.settings.train else []
        with PeakMemory(*self.model.parameters(), *self.model.buffers(), *state, self.clips[0]) as memory:
            self.step(0, forward=self.model)
        return memory.peak / 2**20


def in_turns(
    runners: Mapping[str, Runner], seconds: float, rounds: int, warm_up: int = WARM_UP
) -> dict[str, list[float]]:
    """Return the seconds of each step of each runner: one step of each in turn, for at least so long and so often."""
    for runner in runners.values():
        for i in range(warm_up):
            runner.step(i)
    measured: dict[str, list[float]] = {name: [] for name in runners}
    end, i = time.perf_counter() + seconds, 0
    while i < rounds or time.perf_counter() < end:
        for name, runner in runners.items():
            measured[name].append(runner.seconds(i))
        i += 1
    return measured


def best_batch_size(subject: Subject, settings: Settings, most: int = 512) -> int:
    """Return the power of two with the most clips per second: doubled until a doubling gives less than 2% more."""
    best, rate, size = 1, 0.0, 1
    while size <= most:
        try:
            runner = Runner(subject.build(), subject.input, replace(settings, batch_size=size))
            measured = in_turns({"": runner}, settings.seconds / 10, 3)[""]
        except torch.OutOfMemoryError:
            break
        finally:
            runner = None  # type: ignore[assignment]
            if settings.device.startswith("cuda"):
                torch.cuda.empty_cache()
        new = size / statistics.median(measured)
        if new < 1.02 * rate:
            break
        best, rate, size = size, new, 2 * size
    return best


def matmul_tflops(device: str, amp: str = "no") -> float:
    """Measure the device's peak in 1e12 floating-point operations per second (two a multiply-add), on square products.

    The fastest repetition of the fastest of several sizes.
    """
    sizes = (2048, 4096, 8192) if device.startswith("cuda") else (1024, 2048)
    rates = []
    for n in sizes:
        a, b = (torch.randn(n, n, device=device, dtype=DTYPES[amp]) for _ in range(2))
        times = []
        for _ in range(8):
            if device.startswith("cuda"):
                torch.cuda.synchronize()
            start = time.perf_counter()
            a @ b
            if device.startswith("cuda"):
                torch.cuda.synchronize()
            times.append(time.perf_counter() - start)
        rates.append(2 * n**3 / min(times) / 1e12)
    return max(rates)


def measure(subject: Subject, reference: Subject, settings: Settings, peak_tflops: float | None = None) -> dict:
    """Measure a model and its reference in turns.

    Args:
        subject: the model.
        reference: what it is compared with, such as its naive twin.
        settings: how.
        peak_tflops: what `matmul_tflops` measured; None to measure it now.

    Returns:
        One row: ``name``, ``input``, ``parameters_m``, ``gflops`` (1e9 multiply-adds per clip), ``batch_size``,
        ``ms_per_clip`` (median, p10, p90), ``clips_per_second``, ``peak_memory_mib``, ``tflops`` (1e12 floating-point
        operations per second, two for each multiply-add; three times the forward pass's for a training step),
        ``fraction_of_peak``, the same for the ``naive`` reference, ``time_ratio`` (median over rounds of the ratio of
        times per clip), ``gflops_ratio`` and ``fraction_of_ideal``.
    """
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    from ..models.flops import count_flops

    peak = peak_tflops or matmul_tflops(settings.device, settings.amp)
    subjects = {"model": subject, "naive": reference}
    runners: dict[str, Runner] = {}
    rows: dict[str, dict[str, Any]] = {}
    for key, s in subjects.items():
        size = settings.batch_size or best_batch_size(s, settings)
        model = s.build().eval()
        cost = count_flops(model, (1, *s.input))
        rows[key] = {
            "name": s.name,
            "input": list(s.input),
            "parameters_m": round(cost.parameters / 1e6, 2),
            "gflops": round(cost.gflops, 5),
            "batch_size": size,
        }
        runners[key] = Runner(model, s.input, replace(settings, batch_size=size))
    measured = in_turns(runners, settings.seconds, settings.rounds)
    per_clip = {key: [t / rows[key]["batch_size"] for t in times] for key, times in measured.items()}
    for key, times in per_clip.items():
        low, *_, high = statistics.quantiles(times, n=10, method="inclusive")
        median = statistics.median(times)
        tflops = 2 * rows[key]["gflops"] * (3 if settings.train else 1) / median / 1e3
        rows[key] |= {
            "ms_per_clip": {"median": _round(median * 1e3), "p10": _round(low * 1e3), "p90": _round(high * 1e3)},
            "clips_per_second": _round(1 / median),
            "peak_memory_mib": round(runners[key].peak_memory_mib(), 1),
            "tflops": _round(tflops),
            "fraction_of_peak": round(tflops / peak, 4),
        }
    time_ratio = statistics.median(a / b for a, b in zip(per_clip["model"], per_clip["naive"], strict=True))
    gflops_ratio = rows["model"]["gflops"] / rows["naive"]["gflops"]
    return rows["model"] | {
        "rounds": len(measured["model"]),
        "naive": rows["naive"],
        "time_ratio": round(time_ratio, 4),
        "gflops_ratio": round(gflops_ratio, 4),
        "fraction_of_ideal": round(gflops_ratio / time_ratio, 4),
    }


def _round(value: float) -> float:
    return float(f"{value:.4g}")


def machine(device: str) -> dict[str, Any]:
    """Return the device, driver, threads and versions that a figure was measured with."""
    described: dict[str, Any]
    if torch.device(device).type == "cuda":
        described = {"device": torch.cuda.get_device_name(device), "cuda": torch.version.cuda, "driver": _driver()}
    else:
        described = {"device": f"CPU ({platform.machine()}, {torch.backends.cpu.get_cpu_capability()})"}
    return described | {
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "timm": timm.__version__,
    }


def _driver() -> str | None:
    """Return the version of NVIDIA's driver, which PyTorch does not report; None where its tool is missing."""
    try:
        query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        return subprocess.run(query, capture_output=True, text=True, check=True).stdout.split()[0]
    except (OSError, subprocess.CalledProcessError, IndexError):
        return None


def result(rows: list[dict], settings: Settings, peak_tflops: float) -> dict[str, Any]:
    """Return rows with everything that says what they were measured on."""
    return {
        "machine": machine(settings.device),
        "settings": asdict(settings) | {"checkpoint_stages": list(settings.checkpoint_stages)},
        "matmul_tflops": _round(peak_tflops),
        "rows": rows,
    }


def table(rows: list[dict]) -> str:
    """Return rows as a Markdown table."""
    lines = [
        "| model | frames × size | batch | GFLOPs | ms a clip (p10–p90) | clips/s | peak MiB | of matmul peak | "
        "time / naive | GFLOPs / naive | fraction of ideal |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for r in rows:
        frames, _, height, width = r["input"]
        ms = r["ms_per_clip"]
        sizes = {r["batch_size"], r["naive"]["batch_size"]}
        batch = str(r["batch_size"]) if len(sizes) == 1 else f"{r['batch_size']} (naive {r['naive']['batch_size']})"
        lines.append(
            f"| {r['name']} | {frames} × {height}×{width} | {batch} | {r['gflops']:.4g} | "
            f"{ms['median']:.4g} ({ms['p10']:.4g}–{ms['p90']:.4g}) | {r['clips_per_second']:.3g} | "
            f"{r['peak_memory_mib']:.0f} | {r['fraction_of_peak']:.0%} | {r['time_ratio']:.3f} | "
            f"{r['gflops_ratio']:.3f} | {r['fraction_of_ideal']:.1%} |"
        )
    return "\n".join(lines)


def describe(measured: Mapping[str, Any]) -> str:
    """Return one sentence: what a result was measured on, and how."""
    where, how = measured["machine"], measured["settings"]
    size = "each model's best batch size" if how["batch_size"] is None else f"batch size {how['batch_size']}"
    options = [name.replace("_", " ") for name in ("compile", "cuda_graphs", "channels_last") if how[name]]
    options += [f"stages {how['checkpoint_stages']} recomputed"] if how.get("checkpoint_stages") else []
    driver = f", driver {where['driver']}" if where.get("driver") else ""
    return (
        f"{'Training step' if how['train'] else 'Inference'} on {where['device']}{driver}, {where['threads']} threads, "
        f"{'float32' if how['amp'] == 'no' else how['amp']}, {size}, {', '.join(options) or 'eager'}; "
        f"torch {where['torch']}, timm {where['timm']}, Python {where['python']}; matrix products reach "
        f"{measured['matmul_tflops']:.3g} TFLOP/s (of two operations a multiply-add; GFLOPs count it once)."
    )
