"""Models of this zoo in the video embedding benchmark of the mteb package (extra ``[mteb]``).

    python -m inti_models.evaluation.mteb_models inti_vit_b16_k400.openai [--text] [--tasks NAME ...] [--output FILE]

evaluates a model and its uncompressed self on each task and prints scores beside the cost of a video. Tasks download
their videos from the Hub. A video becomes an embedding by `InTIModel.encode`, averaged over views; with ``--text`` it
is projected into the space that CLIP shares with texts, which its text tower embeds.

Videos are read by this package's own reader, from the data set's bytes, and sampled and resized as the model says.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..data import ClipTransform, FrameSampling
from ..extras import missing
from ..models.flops import count_flops
from ..models.stages import InTIModel
from ..weights.hub import load
from ..weights.text_tower import read_towers

TASKS = ("HMDB51Classification", "HMDB51Clustering", "BreakfastClustering")  # without texts
TEXT_TASKS = ("Kinetics600VZeroShot", "HMDB51ZeroShot", "BreakfastZeroShot", "MSRVTTT2V", "MSVDT2VRetrieval")


class VideoEncoder:
    """A model with mteb's `EncoderProtocol`.

    Args:
        model: the model; it is moved to ``device`` and put into evaluation mode.
        name: its name in mteb; two models need two names.
        text: embed texts too, and videos in the same space; for the published trunk of an image-text model.
        device: where to run.
        views: temporal clips and spatial crops; None for the model's own.

    Raises:
        ValueError: ``text`` for a model without a text tower; see `read_towers`.
    """

    def __init__(
        self,
        model: InTIModel,
        name: str,
        *,
        text: bool = False,
        device: str | torch.device = "cpu",
        views: tuple[int, int] | None = None,
    ) -> None:
        self.model, self.name, self.device = model.to(device).eval(), name, torch.device(device)
        self.frames = FrameSampling.of(model)
        self.num_clips, num_crops = model.views if views is None else views
        self.num_views = self.num_clips * num_crops
        self.transform = ClipTransform.of(model, num_crops)
        self.towers = read_towers(model) if text else None
        self.projection = None if self.towers is None else self.towers.projection(model.num_features)

    @cached_property
    def gflops(self) -> float:
        """Return the multiply-adds, in 1e9, of a video with all its views, without the text tower."""
        model = self.model
        return (
            count_flops(model, (1, model.num_frames, model.in_chans, *model.patch_embed.img_size)).gflops
            * self.num_views
        )

    @torch.inference_mode()
    def embed_video(self, path: Path) -> Tensor:
        """Return the embedding of a file, (D,) of unit length, on the CPU."""
        clips = torch.stack([self.transform(clip) for clip in self.frames.read(path, self.num_clips).frames])
        clips = clips if clips.ndim == 5 else clips.flatten(0, 1)  # views T C H W
        embedding = self.model.encode(clips.to(self.device)).float().mean(dim=0)
        if self.projection is not None and getattr(self.model.head, "projection", None) is None:
            embedding = F.linear(embedding, *(tensor.to(embedding) for tensor in self.projection))
        return F.normalize(embedding, dim=-1).cpu()

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Return the embeddings of texts, (texts, D) of unit length.

        Raises:
            ValueError: if the model was made without ``text``.
        """
        if self.towers is None:
            raise ValueError(f"{self.name} embeds no texts; create it with text=True, or choose tasks without texts.")
        return self.towers.features([[text] for text in texts])  # a long one is cut, as open_clip does

    def encode(self, inputs: Any, **kwargs: Any) -> Tensor:
        """Return the embeddings of a `DataLoader` of mteb's with columns ``video`` or ``text``, (rows, D).

        Raises:
            ValueError: if it has neither, or both.
        """
        columns = set(inputs.dataset.features) & {"video", "text"}
        if len(columns) != 1:
            raise ValueError(f"expected one column, video or text, got {sorted(inputs.dataset.features)}.")
        if columns == {"text"}:
            return self.embed_texts([text for batch in inputs for text in batch["text"]])
        return torch.stack([self.embed_video(path) for path in _files(inputs.dataset)])

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Tensor:
        """Return cosines of each with each, (n, m)."""
        first, second = (F.normalize(torch.as_tensor(e).float(), dim=-1) for e in (embeddings1, embeddings2))
        return first @ second.T

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Tensor:
        """Return cosines of each with its counterpart, (n,)."""
        return F.cosine_similarity(torch.as_tensor(embeddings1).float(), torch.as_tensor(embeddings2).float(), dim=-1)

    @cached_property
    def mteb_model_meta(self) -> Any:
        """What mteb needs to know about a model."""
        from mteb.models.model_meta import ModelMeta, ScoringFunction

        return ModelMeta(
            loader=None,
            name=self.name if "/" in self.name else f"inti_models/{self.name}",
            revision="0",
            release_date=None,
            languages=["eng-Latn"],
            n_parameters=sum(p.numel() for p in self.model.parameters()),
            memory_usage_mb=None,
            max_tokens=None if self.towers is None else self.towers.context_length,
            embed_dim=self.model.num_features if self.towers is None else self.towers.embed_dim,
            license=None,
            open_weights=None,
            public_training_code=None,
            public_training_data=None,
            framework=["PyTorch"],
            similarity_fn_name=ScoringFunction.COSINE,
            use_instructions=False,
            training_datasets=None,
            modalities=["video"] if self.towers is None else ["video", "text"],
        )


def _files(dataset: Any) -> Iterator[Path]:
    """Yield each video of a data set as a file; bytes are written to one that lasts until the next."""
    from datasets import Video

    with tempfile.TemporaryDirectory() as folder:
        for row in dataset.select_columns(["video"]).cast_column("video", Video(decode=False)):
            if row["video"].get("bytes") is None:
                yield Path(row["video"]["path"])
                continue
            file = Path(folder) / "video"
            file.write_bytes(row["video"]["bytes"])
            yield file


def pair(name: str, text: bool = False, device: str = "cpu", **model_args: Any) -> list[VideoEncoder]:
    """Return a model with its published weights, and its uncompressed self.

    Args:
        name: a name, repository or folder for `inti_models.load`.
        text: see `VideoEncoder`.
        device: where to run.
        **model_args: arguments for `inti_models.load`.
    """
    options: dict[str, Any] = {"num_classes": 0} if text else {}
    model = load(name, **{**options, **model_args})
    naive = load(name, **{**options, **model_args, "compress_at": ()})
    label = Path(name).name if Path(name).is_dir() else name.replace(":", "_").replace("/", "_")
    return [VideoEncoder(m, label + suffix, text=text, device=device) for m, suffix in ((model, ""), (naive, "_naive"))]


def measure(encoders: Iterable[VideoEncoder], tasks: Sequence[Any]) -> list[dict[str, Any]]:
    """Return a row for each model and mteb task: ``model``, ``task``, ``metric``, ``score``, ``gflops``.

    A task that fails raises its error.
    """
    import mteb

    metrics = {task.metadata.name: task.metadata.main_score for task in tasks}
    rows = []
    for encoder in encoders:
        for result in mteb.evaluate(encoder, tasks, cache=None).task_results:
            rows.append(
                {
                    "model": encoder.name,
                    "task": result.task_name,
                    "metric": metrics[result.task_name],
                    "score": round(float(result.get_score()), 5),
                    "gflops": round(encoder.gflops, 4),
                }
            )
    return rows


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows as a Markdown table."""
    lines = ["| task | metric | model | score | GFLOPs a video |", "|---|---|---|---:|---:|"]
    ordered = sorted(rows, key=lambda row: row["task"])
    return "\n".join(
        [
            *lines,
            *(
                f"| {r['task']} | {r['metric']} | {r['model']} | {r['score']:.4f} | {r['gflops']:.4g} |"
                for r in ordered
            ),
        ]
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a name, repository or folder for inti_models.load")
    parser.add_argument("--text", action="store_true", help="embed texts too, for tasks with texts")
    parser.add_argument("--tasks", nargs="+", metavar="NAME", help="names of mteb tasks (default: a few of each kind)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    args = parser.parse_args(arguments)
    try:
        import mteb
    except ModuleNotFoundError:
        print(missing("mteb"), file=sys.stderr)
        return 1
    names = args.tasks or [*TASKS, *(TEXT_TASKS if args.text else ())]
    rows = measure(pair(args.model, args.text, args.device), mteb.get_tasks(tasks=names))
    if args.output:
        args.output.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    print(table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
