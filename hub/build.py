"""Assemble the models that are made here, as they are published, and write down what was measured.

    python hub/build.py OUTPUT     every model: OUTPUT/NAME/{config.json, model.safetensors, README.md}
    python hub/build.py --card     rewrite MODEL_CARD.md, and the accuracies that the package lists

A model is a folder of this one, named for the model, with a tag if it is not its default: `card.md` is its card, a
template that is filled from `results.json`. A large model's `model.safetensors` lies there too; a small one's ships
with the package. `python benchmarks/accuracy.py --ship` writes results and weights of the small ones.
"""

import argparse
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
from huggingface_hub import EvalResult, ModelCard

import inti_models
from inti_models.assets import ASSETS
from inti_models.models.registry import create_model
from inti_models.weights.checkpoint_filter import load_checkpoint

HUB = Path(__file__).resolve().parent
MODEL_CARD = HUB.parent / "MODEL_CARD.md"
ACCURACIES = ASSETS / "weights" / "results.json"  # for `inti-models list --pretrained`
ZERO_SHOT = "_zeroshot"

# Tag of an image checkpoint -> the data of its trunk, as its publishers name them.
TRAINED_ON = {
    "openai": "OpenAI's 400 M pairs, not public",
    "laion400m_e32": "LAION-400M",
    "laion2b": "LAION-2B, English",
    "datacompxl": "DataComp-1B",
    "dfn2b": "DFN-2B",
    "dfn2b_s39b": "DFN-2B, 39 B samples seen",
    "metaclip_400m": "MetaCLIP, 400 M pairs",
    "metaclip_2pt5b": "MetaCLIP, 2.5 B pairs",
    "metaclip_altogether": "MetaCLIP with Altogether captions",
    "metaclip2_worldwide": "MetaCLIP 2, pairs in all languages",
    "dfn5b": "DFN-5B",
    "fb": "PE's images, then videos with synthetic captions",
    "merged2b": "Merged-2B",
    "v2_webli": "WebLI",
    "motiondigits": "MotionDigits, from scratch",
    "naive": "MotionDigits, from scratch",
}

# Image-text model, and ours on it -> zero-shot top-1 on Kinetics-400 that its authors publish for it.
THEIRS = {
    "PE-Core T/16, 384 pixels (`inti_pe_core_t16_384_k400`)": 41.5,
    "PE-Core S/16, 384 pixels (`inti_pe_core_s16_384_k400`)": 55.0,
    "PE-Core B/16, 224 pixels (`inti_pe_core_b16_k400`)": 65.6,
    "PE-Core L/14, 336 pixels (`inti_pe_core_l14_336_k400`)": 73.4,
    "PE-Core G/14, 448 pixels (`inti_vit` on `vit_pe_core_gigantic_patch14_448`)": 76.9,
}


@dataclass(frozen=True)
class Published:
    """A model made here.

    Attributes:
        folder: with its card and results; the name of the folder is the model's.
        weights: safetensors file.
    """

    folder: Path
    weights: Path

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def checkpoint(self) -> str:
        """The name with its tag."""
        cfg = timm.get_pretrained_cfg(self.name)
        assert cfg is not None
        return f"{self.name.partition('.')[0]}.{cfg.tag}"

    def results(self) -> dict[str, Any] | None:
        """What was measured; None before anything was.

        Raises:
            ValueError: the file is not JSON.
        """
        path = self.folder / "results.json"
        try:
            return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
        except ValueError as error:
            raise ValueError(f"{path} is not JSON ({error}); write it anew from what was measured.") from None

    def card(self, organisation: str = "ORGANISATION") -> ModelCard:
        """The card, filled from the results.

        Raises:
            ValueError: there are no results, or not those that the card needs.
        """
        results = self.results()
        if results is None:
            raise ValueError(f"{self.folder / 'results.json'} is missing; measure the model first.")
        template = (self.folder / "card.md").read_text(encoding="utf-8")
        try:
            return ModelCard(template.format_map({**results, "organisation": organisation}))
        except (KeyError, IndexError) as error:
            raise ValueError(f"{self.folder / 'results.json'} lacks {error}, which the card needs.") from None

    def measured(self) -> list[EvalResult]:
        """The results in the card's front matter; none before anything was measured."""
        return [] if self.results() is None else self.card().data.get("eval_results") or []


def published(names: Iterable[str] = (), hub: Path = HUB) -> list[Published]:
    """The models of ``hub``; those of ``names``, if any are given.

    Raises:
        ValueError: a name is not one of them.
    """
    folders = {path.parent.name: path.parent for path in sorted(hub.glob("*/card.md"))}
    for name in names:
        if name not in folders:
            raise ValueError(f"{name!r} is not made here; the models are {', '.join(folders)}.")
    return [Published(folders[name], _weights(folders[name])) for name in names or folders]


def _weights(folder: Path) -> Path:
    """The weights of a model: beside its card, where they are too large for the package, else in the package."""
    beside = folder / "model.safetensors"
    return beside if beside.is_file() else ASSETS / "weights" / f"{folder.name}.safetensors"


def assemble(model: Published, output: Path, organisation: str = "ORGANISATION") -> Path:
    """Write ``output/NAME``, what is published of a model under ``organisation``. Returns that folder."""
    card = model.card(organisation)
    network = create_model(model.name)
    load_checkpoint(network, model.weights)
    folder = output / model.name
    inti_models.save_pretrained(network, folder, description=network.pretrained_cfg["description"])
    card.save(folder / "README.md")
    return folder


def written(models: Sequence[Published]) -> dict[Path, str]:
    """The files that are written from the data: path -> text."""
    measured = {model.checkpoint: model.measured() for model in models}
    return {MODEL_CARD: model_card(measured), ACCURACIES: accuracies(measured)}


def accuracies(measured: Mapping[str, Sequence[EvalResult]]) -> str:
    """What was measured of each checkpoint, as JSON for the package."""
    table = {
        checkpoint: {"accuracy": {str(result.metric_name): result.metric_value for result in results}}
        for checkpoint, results in measured.items()
        if results
    }
    return json.dumps(table, indent=2) + "\n"


def model_card(measured: Mapping[str, Sequence[EvalResult]]) -> str:
    """The text of MODEL_CARD.md, given what was measured of the models made here."""
    columns = ("checkpoint", "weights from", "trunk trained on", "head", "licence", "accuracy on videos, ours")
    rows: list[tuple[str, ...]] = [columns, ("---",) * len(columns)]
    for checkpoint in timm.list_models("inti*", pretrained=True):
        cfg = timm.get_pretrained_cfg(checkpoint)
        assert cfg is not None and cfg.tag is not None
        results = measured.get(checkpoint)
        untrained = "text tower" if cfg.tag.endswith(ZERO_SHOT) else "untrained"
        rows.append(
            (
                f"`{checkpoint}`",
                f"`{cfg.hf_hub_id}`" if cfg.hf_hub_id else "this package",
                TRAINED_ON[cfg.tag.removesuffix(ZERO_SHOT)],
                untrained if results is None else "trained",
                cfg.license or "not stated",
                "; ".join(f"{r.metric_name} {r.metric_value} ({r.dataset_name})" for r in results or ())
                or "not measured",
            )
        )
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    theirs = ["| image-text model | theirs: zero-shot top-1 | ours |", "| --- | ---: | --- |"]
    theirs += [f"| {name} | {top1} | not measured |" for name, top1 in THEIRS.items()]
    text = (HUB / "model_card.md").read_text(encoding="utf-8").replace("{checkpoints}", table)
    return text.replace("{theirs}", "\n".join(theirs))


def main(argv: Sequence[str] | None = None, hub: Path = HUB) -> int:
    """Run the command on the models of ``hub``. Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, nargs="?", metavar="OUTPUT", help="folder for the models")
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="this model; may be repeated")
    parser.add_argument("--card", action="store_true", help="rewrite MODEL_CARD.md and its kin")
    args = parser.parse_args(argv)
    if args.output is None and not args.card:
        parser.error("name a folder for the models, or pass --card")
    try:
        if args.card:
            for path, text in written(published(hub=hub)).items():
                path.write_text(text, encoding="utf-8")
                print(f"wrote {path}")
        if args.output is not None:
            for model in published(args.only, hub):
                print(f"wrote {assemble(model, args.output)}")
    except (OSError, ValueError, RuntimeError) as error:
        print(f"build: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
