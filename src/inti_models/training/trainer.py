"""The training loop: a network, clips, and a recipe's numbers. Stopped at any time, it resumes from its last state.

Nothing random has a state: the order of the videos comes from (seed, epoch), clips and their augmentation from
(seed, epoch, video), mixing from (seed, update), drop path from (seed, update, process).
"""

import contextlib
import copy
import csv
import hashlib
import io
import json
import random
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import (
    DistributedDataParallelKwargs,
    DistributedType,
    FullyShardedDataParallelPlugin,
    gather_object,
)
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.utils.data import DataLoader, Dataset
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from ..data import TrainSampler, seeded
from ..evaluation.evaluate import Videos, allowed_unreadable, contents_of
from ..files import replacing, write_text
from .objectives import Classification, Objective
from .recipe import Recipe

LOG_EVERY = 20  # updates
STATE = "state.pt"
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
FUSABLE = ("adamw", "adam", "sgd")  # timm's names of PyTorch's own


class Clips(Protocol):
    """Training data: for a key (index, draw) a clip (T, C, H, W), its label, and what was wrong with the video."""

    @property
    def class_names(self) -> Sequence[str]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, int, str]: ...


Export = Callable[[nn.Module, Path, Any], None]  # the last is what the objective measured, or None


@dataclass
class Progress:
    """Progress of a run; part of its state.

    Attributes:
        updates: updates done so far.
        loss_sum, batches: over the current epoch.
        best: score of the best epoch so far (for a classifier top-1, in percent).
        history: a row of metrics for each epoch.
        unreadable: a sentence for each video that could not be read.
        seconds: time spent in training.
    """

    updates: int = 0
    loss_sum: float = 0.0
    batches: int = 0
    best: float = -1.0
    history: list[dict[str, Any]] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    seconds: float = 0.0


def create_accelerator(recipe: Recipe) -> Accelerator:
    """Return accelerate's view of this process: device, number of processes, precision, DDP or FSDP.

    Raises:
        ValueError: if the model is to be sharded, but not over GPUs: accelerate would copy it silently.
    """
    # A clip of fewer frames than 2**len(compress_at) leaves the last interpolations without a gradient.
    ddp = DistributedDataParallelKwargs(find_unused_parameters=True)
    fsdp = FullyShardedDataParallelPlugin(fsdp_version=2, auto_wrap_policy="transformer_based_wrap")
    AcceleratorState._reset_state()  # a run before this one in the same process may have had another precision
    accelerator = Accelerator(
        cpu=not torch.accelerator.is_available(),  # said, it joins the processes of a launch there too
        mixed_precision=recipe.precision,
        kwargs_handlers=[ddp],
        fsdp_plugin=fsdp if recipe.fsdp else None,
    )
    if recipe.fsdp and accelerator.distributed_type != DistributedType.FSDP:
        raise ValueError(
            "fsdp=true shards the model over several GPUs, but this was not launched on several; use torchrun on a "
            "machine that has them, or set fsdp=false."
        )
    return accelerator


@contextlib.contextmanager
def _tf32(allowed: bool) -> Iterator[None]:
    """Let CUDA multiply in TF32 if ``allowed``, until the run ends: the next one of the process may not want it."""
    matmul = torch.backends.cuda.matmul
    before = matmul.fp32_precision
    if allowed:
        matmul.fp32_precision = "tf32"
    try:
        yield
    finally:
        matmul.fp32_precision = before


class Trainer:
    """The training of a network; `run` does it, from the state in ``output`` if there is one.

    Args:
        model: maps (B, T, C, H, W) to what the objective needs, such as logits; it is trained in place (under FSDP, its
            shards are).
        recipe: its optimisation, augmentation, precision, seed and whatever else concerns the loop are used.
        train_set: see `Clips`.
        validation_set: evaluated after epochs, if there is one.
        output: folder of the run.
        accelerator: from `create_accelerator`.
        export: called in the main process as ``export(copy of the model, folder, measurement)`` to save a model.
        objective: what is minimised and measured; None for `Classification`.

    Raises:
        ValueError: if the data do not make one update.
    """

    def __init__(
        self,
        model: nn.Module,
        recipe: Recipe,
        train_set: Clips,
        validation_set: Videos | None,
        output: Path,
        accelerator: Accelerator,
        export: Export | None = None,
        objective: Objective | None = None,
    ) -> None:
        self.recipe, self.output, self.accelerator, self.export = recipe, output, accelerator, export
        self.train_set, self.validation_set = train_set, validation_set
        o = recipe.optimization
        self.sampler = TrainSampler(
            len(train_set),
            o.batch_size,
            recipe.seed,
            accelerator.process_index,
            accelerator.num_processes,
            recipe.augmentation.repeats,
        )
        self.updates_per_epoch = len(self.sampler) // o.accumulation
        self.global_batch = o.batch_size * o.accumulation * accelerator.num_processes  # clips of an update
        if self.updates_per_epoch == 0:
            raise ValueError(
                f"The training set has {len(train_set)} videos, fewer than one update of {self.global_batch} clips; "
                "lower optimization.batch_size or accumulation."
            )
        self.loader = DataLoader(
            cast(Dataset, train_set),
            batch_sampler=self.sampler,
            num_workers=recipe.data.num_workers,
            pin_memory=accelerator.device.type == "cuda",
            persistent_workers=recipe.data.num_workers > 0,
        )
        # A whole model to evaluate and save, where the one that is trained is in shards or not to be touched.
        self.blueprint = copy.deepcopy(model) if export is not None or recipe.fsdp else None
        self.ema = None if o.ema is None else ModelEmaV3(model, decay=o.ema, device=accelerator.device)
        lr_scale = 1.0 if o.lr_batch is None else self.global_batch / o.lr_batch
        optimizer = create_optimizer_v2(
            model,
            o.optimizer,
            lr=o.lr * lr_scale,
            weight_decay=o.weight_decay,
            layer_decay=o.layer_decay,
            **_fused(recipe, accelerator.device),
            **o.opt_args,
        )
        self.scheduler, _ = create_scheduler_v2(
            optimizer,
            o.schedule,
            num_epochs=o.epochs,
            warmup_epochs=cast(int, o.warmup_epochs),  # a fraction of an epoch is as good
            warmup_lr=0.0,
            min_lr=o.min_lr * lr_scale,
            step_on_epochs=False,
            updates_per_epoch=self.updates_per_epoch,
        )
        if recipe.channels_last:
            model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if recipe.compile:
            model.compile()
        if recipe.fsdp:  # each block is a unit
            blocks = cast(Iterable[nn.Module], model.blocks)
            accelerator.state.fsdp_plugin.transformer_cls_names_to_wrap = sorted({type(b).__name__ for b in blocks})
        self.model, self.optimizer = accelerator.prepare(model, optimizer)
        self.data = {"class_names": list(train_set.class_names), "training": _digest(train_set)}
        if validation_set is not None:
            self.data["validation"] = _digest(validation_set)
        self.objective = objective or Classification(recipe.augmentation, len(train_set.class_names))
        self.progress = self._restore()
        # Of this process, since it was last brought together with the others.
        self.loss_sum, self.faults = torch.zeros((), device=accelerator.device), list[str]()

    def run(self) -> Progress:
        """Train to the end.

        Raises:
            ValueError: if too many videos are unreadable, or the loss is not finite.
            OSError: if a file cannot be written.
        """
        main, progress = self.accelerator.is_main_process, self.progress
        epochs, done = self.recipe.optimization.epochs, len(progress.history)
        total = epochs * self.updates_per_epoch
        if main and done == epochs:
            print(f"inti-models: {self.output} has its {epochs} epochs already; --extend adds some.", file=sys.stderr)
        started = time.monotonic()
        self.board = SummaryWriter(str(self.output / "tensorboard"), purge_step=progress.updates) if main else None
        bar = tqdm(total=total, initial=progress.updates, desc="train", unit="update", disable=not main)
        with _tf32(self.recipe.tf32), bar as self.bar:
            for epoch in range(done, epochs):
                clips_per_second = self._train_epoch(epoch)
                self._finish_epoch(epoch)
                if main:
                    left = (time.monotonic() - started) / (epoch + 1 - done) * (epochs - epoch - 1)
                    self.bar.write(self._line(clips_per_second, left), file=sys.stderr)
        if self.board is not None:
            self.board.close()
        return progress

    def _line(self, clips_per_second: float, left: float) -> str:
        """Return the log line of the last finished epoch."""
        row = self.progress.history[-1]
        skipped = ("epoch", "updates", "seconds")
        metrics = [f"{name} {value:.4g}" for name, value in row.items() if name not in skipped and value is not None]
        of = f"epoch {row['epoch']} of {self.recipe.optimization.epochs}"
        ending = [f"{clips_per_second:.1f} clips/s", f"{tqdm.format_interval(left)} left"]
        return ", ".join([f"{of}: {metrics[0]}", *metrics[1:], *ending])

    def _train_epoch(self, epoch: int) -> float:
        """Do the remaining updates of an epoch, and return the clips per second."""
        progress, accumulation = self.progress, self.recipe.optimization.accumulation
        self.model.train()
        for module in self.model.modules():
            if isinstance(module, BATCH_NORMS) and not any(p.requires_grad for p in module.parameters()):
                module.eval()  # frozen: so are its statistics
        done = progress.updates - epoch * self.updates_per_epoch
        self.sampler.set_epoch(epoch, start_batch=done * accumulation)
        before = progress.seconds
        started = time.monotonic() - before
        batches = iter(self.loader)
        for left in reversed(range(self.updates_per_epoch - done)):
            self._update([next(batches) for _ in range(accumulation)])
            progress.seconds = time.monotonic() - started
            save = progress.updates % self.recipe.save_every == 0 or left == 0
            if save or progress.updates % LOG_EVERY == 0:
                self._synchronize()
            self.bar.update()
            if save:
                self._save()
        seconds = progress.seconds - before
        return (self.updates_per_epoch - done) * self.global_batch / seconds if seconds else 0.0

    def _update(self, batches: Sequence[tuple[Tensor, Tensor, list[str]]]) -> None:
        """Make one step of the optimiser, with the gradients of some batches."""
        accelerator, model, progress = self.accelerator, self.model, self.progress
        seed_process(self.recipe.seed, progress.updates, accelerator.process_index)
        self.scheduler.step_update(progress.updates)
        for i, (clips, labels, faults) in enumerate(batches):
            self.faults.extend(filter(None, faults))
            clips = clips.to(accelerator.device, non_blocking=True)
            if self.recipe.channels_last:
                frames = clips.flatten(0, 1).contiguous(memory_format=torch.channels_last)  # BT C H W
                clips = frames.unflatten(0, clips.shape[:2])
            labels = labels.to(accelerator.device, non_blocking=True)
            with seeded(self.recipe.seed, progress.updates, i):  # alike in all processes
                clips, labels = self.objective.mix(clips, labels)
            if i + 1 < len(batches):
                with accelerator.no_sync(model):
                    self._backward(clips, labels, len(batches))
            else:
                self._backward(clips, labels, len(batches))
        if self.recipe.optimization.clip_grad is not None:
            accelerator.clip_grad_norm_(model.parameters(), self.recipe.optimization.clip_grad)
        self.optimizer.step()
        self.optimizer.zero_grad()
        progress.updates += 1
        progress.batches += len(batches)
        if self.ema is not None:
            self.ema.update(accelerator.unwrap_model(model), step=progress.updates)

    def _backward(self, clips: Tensor, labels: Tensor, accumulation: int) -> None:
        with self.accelerator.autocast():
            loss = self.objective.loss(self.model, clips, labels)
        self.accelerator.backward(loss / accumulation)
        self.loss_sum += loss.detach()

    def _synchronize(self) -> None:
        """Gather loss and unreadable videos of all processes, and show them; stop if either is bad."""
        progress, main, videos = self.progress, self.accelerator.is_main_process, len(self.train_set)
        progress.loss_sum += self.accelerator.reduce(self.loss_sum.double(), "mean").item()
        for fault in dict.fromkeys(gather_object(self.faults)):
            if fault not in progress.unreadable:
                progress.unreadable.append(fault)
                if main:
                    self.bar.write(f"inti-models: {fault} Another video takes its place.", file=sys.stderr)
        self.loss_sum, self.faults = torch.zeros_like(self.loss_sum), []
        if main and progress.unreadable:
            write_text(self.output / "unreadable.json", json.dumps(progress.unreadable, indent=2) + "\n")
        if len(progress.unreadable) > allowed_unreadable(self.recipe.data.max_unreadable, videos):
            raise ValueError(
                f"{len(progress.unreadable)} of {videos} videos cannot be read, more than data.max_unreadable="
                f"{self.recipe.data.max_unreadable:g} allows; see {self.output / 'unreadable.json'}."
            )
        if not np.isfinite(progress.loss_sum):
            raise ValueError(
                f"The loss is not finite after {progress.updates} updates; lower optimization.lr, or train in another "
                "precision. The last saved state is older."
            )
        loss, lr = progress.loss_sum / progress.batches, self.optimizer.param_groups[-1]["lr"]
        if self.board is not None:
            self.board.add_scalar("train/loss", loss, progress.updates)
            self.board.add_scalar("train/lr", lr, progress.updates)
        status = {"loss": f"{loss:.3f}", "lr": f"{lr:.1e}"}
        if rate := self.bar.format_dict["rate"]:
            status["clips/s"] = f"{rate * self.global_batch:.1f}"
        if self.accelerator.device.type == "cuda":
            status["GiB"] = f"{torch.cuda.max_memory_allocated(self.accelerator.device) / 2**30:.1f}"
        self.bar.set_postfix(status, refresh=False)

    def _finish_epoch(self, epoch: int) -> None:
        """Evaluate, save models, and write the metrics of an epoch."""
        recipe, progress = self.recipe, self.progress
        replica = None if self.blueprint is None else self._replica()
        row: dict[str, Any] = {
            "epoch": epoch + 1,
            "updates": progress.updates,
            "train_loss": progress.loss_sum / progress.batches,
        }
        measured, is_best = None, self.validation_set is None
        is_due = (epoch + 1) % recipe.validate_every == 0 or epoch + 1 == recipe.optimization.epochs
        if self.validation_set is not None and is_due:
            live = self.accelerator.unwrap_model(self.model) if self.ema is None else self.ema.module
            measured = self.objective.measure(
                live if replica is None else replica,
                self.validation_set,
                batch_size=recipe.optimization.batch_size,
                num_workers=recipe.data.num_workers,
                device=self.accelerator.device,
                autocast=recipe.precision,
                max_unreadable=recipe.data.max_unreadable,
            )
            is_best = measured.score > progress.best
            progress.best = max(progress.best, measured.score)
            row |= measured.metrics
        progress.history.append({**row, "seconds": progress.seconds})
        progress.loss_sum, progress.batches = 0.0, 0
        if self.export is not None and replica is not None and self.accelerator.is_main_process:
            for folder in ("best", "last") if is_best else ("last",):
                self.export(copy.deepcopy(replica).cpu(), self.output / folder, measured)
        if self.board is not None:
            with replacing(self.output / "metrics.csv") as path:
                path.write_bytes(_as_csv(progress.history))
            for name, value in row.items():
                if value is not None:
                    self.board.add_scalar(f"epoch/{name}", value, progress.updates)
            self.board.flush()
        self._save()

    def _replica(self) -> nn.Module:
        """Return a separate, whole model with the weights trained so far."""
        whole = StateDictOptions(full_state_dict=True)
        weights = get_model_state_dict(self.model, options=whole) if self.ema is None else self.ema.module.state_dict()
        replica = copy.deepcopy(self.blueprint)
        assert replica is not None
        replica.load_state_dict(weights)
        return replica

    def _save(self) -> None:
        """Write the state, whole or not at all; called in every process, the main one writes."""
        whole = StateDictOptions(full_state_dict=True, cpu_offload=True)
        scaler = self.accelerator.scaler
        state = {
            "data": self.data,
            "progress": asdict(self.progress),
            "model": get_model_state_dict(self.model, options=whole),
            "optimizer": get_optimizer_state_dict(self.model, self.optimizer.optimizer, options=whole),
            "ema": None if self.ema is None else self.ema.module.state_dict(),
            "scaler": None if scaler is None else scaler.state_dict(),
        }
        if self.accelerator.is_main_process:
            with replacing(self.output / STATE) as path:
                torch.save(state, path)
        self.accelerator.wait_for_everyone()

    def _restore(self) -> Progress:
        """Restore what `_save` wrote, if it did."""
        path = self.output / STATE
        if not path.exists():
            return Progress()
        state = torch.load(path, map_location="cpu", weights_only=True)
        self._check_data(state.get("data", self.data))  # an older state has none
        whole = StateDictOptions(full_state_dict=True)
        set_model_state_dict(self.model, state["model"], options=whole)
        set_optimizer_state_dict(self.model, self.optimizer.optimizer, state["optimizer"], options=whole)
        if self.ema is not None:
            self.ema.module.load_state_dict(state["ema"])
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        return Progress(**state["progress"])

    def _check_data(self, before: dict[str, Any]) -> None:
        """Raise a ValueError if the data are not those that the saved state was trained and evaluated on."""
        old, new = before["class_names"], self.data["class_names"]
        if old != new:
            pairs = [pair for pair in zip_longest(old, new) if pair[0] != pair[1]]
            was, now = ("no class" if name is None else repr(name) for name in pairs[0])
            raise ValueError(
                f"{self.output} holds a run on other classes: {was} is {now} now (of {len(old)}, now {len(new)}); "
                "restore the old ones, or choose another folder."
            )
        for part in ("training", "validation"):
            if before.get(part) != self.data.get(part):
                raise ValueError(
                    f"{self.output} holds a run on other {part} data: videos or their labels have changed since; "
                    "restore the old ones, or choose another folder."
                )


def _digest(dataset: Clips | Videos) -> str:
    return hashlib.sha256(contents_of(dataset).encode()).hexdigest()


def _fused(recipe: Recipe, device: torch.device) -> dict[str, Any]:
    """Return the argument for an optimizer that updates all weights in one kernel, if wanted and not already given."""
    o = recipe.optimization
    if "fused" in o.opt_args or o.optimizer not in FUSABLE:
        if o.fused and o.optimizer not in FUSABLE:
            raise ValueError(f"optimization.fused=true is for {', '.join(FUSABLE)}, not {o.optimizer}; leave it out.")
        return {}
    fused = device.type == "cpu" if o.fused is None else o.fused
    return {"fused": True} if fused else {}


def seed_process(seed: int, update: int, process: int) -> None:
    """Seed the global generators of this process for one update: resuming needs none of their state."""
    value = int(np.random.SeedSequence((seed, update, process)).generate_state(1)[0])
    random.seed(value)
    np.random.seed(value)
    torch.manual_seed(value)


def _as_csv(rows: Sequence[dict[str, Any]]) -> bytes:
    """Return rows, one for each epoch, as CSV."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(dict.fromkeys(key for row in rows for key in row)))
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()
