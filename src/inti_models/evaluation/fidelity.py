"""How closely a cheaper model follows the one it was made from, for which no labels are needed.

On the same clips it is compared with what costs as much and needs no training (`controls`).
"""

import copy
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self, cast

import torch
import torch.distributed as dist
import torch.nn.functional as F
from huggingface_hub import EvalResult
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from ..files import replacing, write_text
from ..models.interpolation import InterFrameInterpolation
from ..models.reductions import (
    DropFrames,
    SimilarityWeights,
    clip_shape,
    compress_by,
    frames_at_cost,
    keep_frames,
    meta_gflops,
)
from ..models.stages import InTIModel
from ..models.token_merging import merge_tokens, tome_schedule
from .evaluate import DTYPES, Videos, check_unreadable, of_all_processes


class Readout(nn.Module):
    """What is read from the feature of a clip: its embedding and its logits, by a model's own head.

    Args:
        head: the model's head, without its dropout.
        has_classes: whether it gives logits.
        multi_label: whether these are of each class by itself (sigmoid), not of one among all (softmax).
        label_names: names of the classes; empty where they have none.
    """

    def __init__(
        self, head: nn.Module, has_classes: bool, multi_label: bool = False, label_names: Sequence[str] = ()
    ) -> None:
        super().__init__()
        self.head, self.has_classes, self.multi_label = head, has_classes, multi_label
        self.label_names = tuple(label_names)

    @classmethod
    def take(cls, model: InTIModel) -> Self:
        """Take the head off a model, which then returns the features (B, C) that the head got."""
        names = model.pretrained_cfg.get("label_names") or ()
        readout = cls(model.head, model.num_classes > 0, model.probabilities.multi_label, names)
        model.head = nn.Identity()
        return readout

    def embedding(self, features: Tensor) -> Tensor:
        """Return embeddings, (B, C) -> (B, D), in the space shared with texts if the head projects into it."""
        projection = getattr(self.head, "projection", None)
        return features if projection is None else projection(features)

    def logits(self, features: Tensor) -> Tensor | None:
        """Return float32 logits, (B, C) -> (B, classes); None for a head without classes."""
        return self.head(features).float() if self.has_classes else None

    def divergence(self, features: Tensor, wanted: Tensor, temperature: float = 1.0) -> Tensor:
        """Return the `divergence` of the head's logits for the features (B, C) of two models."""
        logits, others = self.logits(features), self.logits(wanted)
        assert logits is not None and others is not None
        return divergence(logits, others, temperature, self.multi_label)

    def known(self, labels: Tensor, videos: Videos) -> Tensor | None:
        """Return the labels of videos if they are of the model's own classes, otherwise None."""
        return labels if self.label_names and tuple(videos.class_names) == self.label_names else None


@dataclass(frozen=True)
class Fidelity:
    """How closely a model follows another on some videos.

    Attributes:
        videos: number of videos.
        cosine: mean cosine of the embeddings of both.
        agreement: percent of videos for which both name the same class first; None without classes.
        kl: mean Kullback-Leibler divergence of the other's probabilities from the model's, in nats; likewise.
        accuracy: percent of videos whose label is the model's first class; None without labels.
    """

    videos: int
    cosine: float
    agreement: float | None = None
    kl: float | None = None
    accuracy: float | None = None

    @classmethod
    def of(cls, readout: Readout, features: Tensor, teacher: Tensor, labels: Tensor | None = None) -> Self:
        """Compare features (n, C) of a model with those of the one it is to follow, on any device."""
        device = next((parameter.device for parameter in readout.parameters()), features.device)
        features, teacher = features.to(device), teacher.to(device)
        with torch.no_grad():
            cosine = F.cosine_similarity(readout.embedding(features), readout.embedding(teacher)).mean().item()
            logits, wanted = readout.logits(features), readout.logits(teacher)
            if logits is None or wanted is None:
                return cls(len(features), cosine)
            first, theirs = logits.argmax(dim=1).cpu(), wanted.argmax(dim=1).cpu()
            return cls(
                len(features),
                cosine,
                agreement=100 * (first == theirs).double().mean().item(),
                kl=readout.divergence(features, teacher).item(),
                accuracy=None if labels is None else 100 * (first == labels).double().mean().item(),
            )

    @property
    def score(self) -> float:
        """Score by which the best epoch of a training run is chosen: agreement, or the cosine in percent."""
        return max(0.0, 100 * self.cosine) if self.agreement is None else self.agreement

    @property
    def metrics(self) -> dict[str, float | None]:
        """Values of an epoch's row in ``metrics.csv``."""
        return {name: value for name, value in asdict(self).items() if name != "videos" and value is not None}


def divergence(logits: Tensor, wanted: Tensor, temperature: float = 1.0, multi_label: bool = False) -> Tensor:
    """Return the mean over clips of KL(softmax(wanted / t) || softmax(logits / t)) t**2, in nats.

    The factor keeps the size of its gradients at any temperature (Hinton et al., 2015, arXiv 1503.02531). With
    ``multi_label`` each class is present or not by itself: the sum over classes, with (sigmoid(x), sigmoid(-x)) for
    softmax(x).
    """
    if multi_label:
        log_q, log_p = (F.logsigmoid(torch.stack((x, -x), dim=-1) / temperature) for x in (logits, wanted))
    else:
        log_q, log_p = ((x / temperature).log_softmax(dim=-1) for x in (logits, wanted))
    return temperature**2 * F.kl_div(log_q, log_p, log_target=True, reduction="batchmean")


@torch.no_grad()
def outputs_of(
    models: Mapping[str, nn.Module],
    dataset: Videos,
    *,
    batch_size: int,
    num_workers: int = 0,
    device: str | torch.device = "cpu",
    autocast: str = "no",
    max_unreadable: float = 0.01,
    progress: bool = True,
) -> tuple[dict[str, Tensor], Tensor]:
    """Run models on the first view of each video; each is read once. The processes of torch.distributed split the work.

    Args:
        models: name -> from clips (B, T, C, H, W) to (B, D). They are moved to ``device`` and put into evaluation mode.
        dataset, batch_size, num_workers, device, autocast, max_unreadable, progress: as for `evaluate`.

    Returns:
        Name -> outputs (n, D) in float32 on the CPU, of the n videos that can be read, and their labels (n,); the same
        in every process.

    Raises:
        ValueError: if more videos are unreadable than ``max_unreadable`` allows.
    """
    rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    device = torch.device(device)
    for model in models.values():
        model.to(device).eval()
    mine = list(range(rank, len(dataset), world))
    loader = DataLoader(cast(Dataset, dataset), batch_size, sampler=mine, num_workers=num_workers)
    measured: dict[int, tuple[int, list[Tensor]]] = {}
    faults: dict[int, str] = {}
    done = 0
    for views, labels, sentences in tqdm(loader, desc="compare", unit="batch", disable=not progress or rank > 0):
        with torch.autocast(device.type, DTYPES[autocast], enabled=autocast != "no"):
            clips = views[:, 0].to(device, non_blocking=True)
            outputs = [model(clips).float().cpu() for model in models.values()]
        for i, sentence in enumerate(sentences):
            index = mine[done + i]
            if sentence:
                faults[index] = sentence
            else:
                measured[index] = int(labels[i]), [output[i] for output in outputs]
        done += len(sentences)
        check_unreadable(faults, len(dataset), max_unreadable)
    together: dict[int, tuple[int, list[Tensor]]] = {}
    for part, faults_of in of_all_processes((measured, faults)):
        together |= part
        faults |= faults_of
    check_unreadable(faults, len(dataset), max_unreadable)
    rows = [together[index] for index in sorted(together)]
    stacked = {name: torch.stack([outputs[i] for _, outputs in rows]) for i, name in enumerate(models)}
    return stacked, torch.tensor([label for label, _ in rows])


# What needs no training

TEACHER, PLAIN_MEAN = "teacher, every frame", "plain mean"


def controls(teacher: InTIModel, compress_at: Sequence[int]) -> tuple[dict[str, nn.Module], dict[str, str]]:
    """Return what is possible without training at the cost of a compressed model.

    Args:
        teacher: the naive model; the controls are made of its modules (not copies) and return what it returns.
        compress_at: schedule of the compressed model.

    Returns:
        Name -> model, and name -> why there is none.
    """
    mean = partial(InterFrameInterpolation, teacher.embed_dim, teacher.num_prefix_tokens, weighting="uniform")
    made: dict[str, nn.Module] = {PLAIN_MEAN: compress_by(teacher, compress_at, mean)}
    target = gflops_of(made[PLAIN_MEAN], teacher)

    def merged() -> nn.Module:
        schedule = tome_schedule(teacher, teacher.num_frames, target)
        return merge_tokens(copy.deepcopy(teacher), schedule)

    makers: dict[str, Callable[[], nn.Module]] = {
        "every other frame": lambda: compress_by(teacher, compress_at, DropFrames),
        "fewer frames through the whole model": lambda: keep_frames(
            teacher, frames_at_cost(teacher, target, most=teacher.num_frames)
        ),
        "ToMe within frames": merged,
        "weights by similarity": lambda: compress_by(
            teacher, compress_at, partial(SimilarityWeights, teacher.embed_dim)
        ),
    }
    without: dict[str, str] = {}
    for name, make in makers.items():
        try:
            made[name] = make()
        except ValueError as error:
            without[name] = str(error)
    return made, without


def gflops_of(model: nn.Module, teacher: InTIModel) -> float:
    """Return the multiply-adds, in 1e9, of a clip of the teacher's size."""
    return meta_gflops(model, clip_shape(teacher, teacher.num_frames))


# One table, one picture, and JSON

COLUMNS = {"agreement": "agreement %", "cosine": "cosine", "kl": "KL", "accuracy": "accuracy %"}


@dataclass(frozen=True)
class Report:
    """A model and what needs no training, side by side.

    Attributes:
        rows: name -> cost in GFLOPs, and fidelity.
        without: name -> why there is no such row.
    """

    rows: dict[str, tuple[float, Fidelity]]
    without: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        """Return everything, for JSON."""
        rows = [{"name": name, "gflops": gflops, **asdict(fidelity)} for name, (gflops, fidelity) in self.rows.items()]
        return {"rows": rows, "without": self.without}

    def to_markdown(self) -> str:
        """The table."""
        shown = [c for c in COLUMNS if any(getattr(f, c) is not None for _, f in self.rows.values())]
        lines = ["| | GFLOPs | " + " | ".join(COLUMNS[c] for c in shown) + " |", "|---|" + "---:|" * (1 + len(shown))]
        for name, (gflops, fidelity) in self.rows.items():
            lines.append(f"| {name} | {gflops:.4g} | " + " | ".join(_cell(fidelity, c) for c in shown) + " |")
        lines += [f"\n{name}: none. {reason}" for name, reason in self.without.items()]
        return "\n".join(lines) + "\n"

    def results(self, dataset_name: str) -> list[EvalResult]:
        """Return all numbers for the model card, as `inti_models.save_pretrained` takes them."""
        return [
            EvalResult(
                task_type="video-classification",
                dataset_type="videos",
                dataset_name=dataset_name,
                metric_type=column,
                metric_value=round(value, 4 if column in ("cosine", "kl") else 2),
                metric_name=f"{name}: {title}",
            )
            for name, (_, fidelity) in self.rows.items()
            for column, title in COLUMNS.items()
            if (value := getattr(fidelity, column)) is not None
        ]

    def draw(self, path: str | os.PathLike[str]) -> None:
        """Draw agreement (the cosine without classes) against cost, to a file in any format that matplotlib writes."""
        from matplotlib.figure import Figure  # slow to import, and only for pictures

        figure = Figure(figsize=(7, 4.2), layout="constrained")
        axes = figure.add_subplot()
        has_classes = all(fidelity.agreement is not None for _, fidelity in self.rows.values())
        for name, (gflops, fidelity) in self.rows.items():
            marker = "*" if name not in (TEACHER, PLAIN_MEAN) and name == next(iter(self.rows)) else "o"
            axes.plot(gflops, cast(float, fidelity.agreement) if has_classes else fidelity.cosine, marker, label=name)
        axes.set(xlabel="GFLOPs per clip", ylabel="agreement with the teacher (%)" if has_classes else "cosine")
        axes.legend(fontsize="small")
        figure.savefig(path, dpi=110, metadata={"Software": None})


def _cell(fidelity: Fidelity, column: str) -> str:
    value = getattr(fidelity, column)
    return "-" if value is None else f"{value:.3f}" if column in ("cosine", "kl") else f"{value:.1f}"


def write_fidelity(report: Report, folder: str | os.PathLike[str], **facts: Any) -> None:
    """Write fidelity.json (with facts about the run), fidelity.md and fidelity.png to a folder.

    Raises:
        OSError: if they cannot be written.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "fidelity.json", json.dumps({**facts, **report.to_json()}, indent=2) + "\n")
    write_text(folder / "fidelity.md", report.to_markdown())
    with replacing(folder / "fidelity.png") as path:
        report.draw(path)
