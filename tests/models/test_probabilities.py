"""Tests of how logits become probabilities and labels, and that a model keeps it."""

import json

import pytest
import timm
import torch

import inti_models
from inti_models import load, save_pretrained
from inti_models.inference.export import describe
from inti_models.inference.predict import NONE, classify_stream, top_labels
from inti_models.models.heads import CosineHead, set_text_head
from inti_models.models.probabilities import Probabilities
from inti_models.weights.hub import create, write_probabilities

NAME = "inti_vit_t8_32_motiondigits"
NAMES = ["bike", "goat", "knot", "lamp"]
LOGITS = torch.tensor([[2.0, -1.0, 0.5, -3.0]])


def model_of(probabilities: Probabilities, num_classes: int = 4) -> inti_models.InTIModel:
    model = timm.create_model(NAME, num_classes=num_classes)
    model.set_probabilities(probabilities)
    model.pretrained_cfg = {**model.pretrained_cfg, "label_names": NAMES, "num_classes": num_classes}
    return model


def said(model, logits=LOGITS, **options):
    return [label.name for label in top_labels(model, logits, **options)]


def test_one_label_a_video_ranks_and_a_threshold_leaves_none() -> None:
    model = model_of(Probabilities())
    assert said(model) == ["bike", "knot", "goat", "lamp"]
    assert said(model, topk=2) == ["bike", "knot"]
    assert said(model, threshold=0.1) == ["bike", "knot"]
    assert said(model, threshold=0.99) == []
    assert said(model_of(Probabilities(thresholds=(0.9, 0, 0.5, 0))), topk=5) == ["goat", "lamp"]


@pytest.mark.parametrize("several", [False, True])
def test_what_is_no_answer_is_no_answer_of_none(several) -> None:
    model = model_of(Probabilities(multi_label=several))
    for wrong in (2, -0.1, float("nan")):
        with pytest.raises(ValueError, match="is not a probability"):
            said(model, threshold=wrong)
    for wrong in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="not finite"):
            said(model, torch.tensor([[0.0, wrong, 0.0, 0.0]]))


def test_several_labels_are_all_from_their_thresholds_on() -> None:
    model = model_of(Probabilities(multi_label=True))
    labels = top_labels(model, LOGITS)
    assert [(label.index, label.name) for label in labels] == [(0, "bike"), (2, "knot")]
    assert [label.probability for label in labels] == pytest.approx(LOGITS.sigmoid()[0, [0, 2]].tolist())
    assert said(model, -LOGITS.abs() - 1) == []
    assert said(model, torch.ones(1, 4) * 9) == NAMES  # more than the five of one label, if there were more
    assert said(model, threshold=0) == ["bike", "knot", "goat", "lamp"]
    assert said(model, threshold=0, topk=1) == ["bike"]
    own = Probabilities(multi_label=True, thresholds=(0.95, 0.2, 0.5, 0.9))
    assert said(model_of(own)) == ["knot", "goat"]
    cool = Probabilities(multi_label=True, temperature=2.0, thresholds=(0.75, 0.2, 0.5, 0.9))
    assert said(model_of(cool)) == ["knot", "goat"]  # 2 / 2 is below the logit of 0.75


def test_views_are_averaged() -> None:
    model = model_of(Probabilities(multi_label=True))
    views = torch.tensor([[4.0, -9, -9, -9], [-1.0, -9, -9, -9]])
    assert top_labels(model, views)[0].probability == pytest.approx(views[:, 0].sigmoid().mean().item())


def test_background_prompts_are_one_label_that_competes() -> None:
    model = model_of(Probabilities(background=2))
    labels = top_labels(model, torch.tensor([[1.0, 0.0, 0.9, 0.8]]))
    assert [label.name for label in labels] == [NONE, "bike", "goat"]
    assert sum(label.probability for label in labels) == pytest.approx(1)
    assert labels[0].index == 2
    assert said(model, torch.tensor([[9.0, 0.0, 0.9, 0.8]]), threshold=0.5) == ["bike"]
    assert said(model, torch.tensor([[0.0, 0.0, 9.0, 9.0]]), threshold=0.5) == [NONE]
    several = model_of(Probabilities(multi_label=True, background=1))
    assert said(several, torch.tensor([[1.0, 3.0, 0.5, 0.6]])) == ["goat", "bike"]
    assert said(several, torch.tensor([[1.0, 3.0, 0.5, 4.0]])) == []


def test_a_stream_gives_the_labels_from_the_thresholds_on() -> None:
    model = model_of(Probabilities(multi_label=True)).eval()
    torch.nn.init.zeros_(model.head.weight)
    with torch.no_grad():
        model.head.bias.copy_(LOGITS[0])
    frames = [(i / 8, torch.zeros(3, 32, 32, dtype=torch.uint8)) for i in range(8)]
    (window,) = classify_stream(model, frames)
    assert [label.name for label in window.labels] == ["bike", "knot"]
    (window,) = classify_stream(model, frames, threshold=0.99)
    assert window.labels == []


def test_a_saved_model_keeps_them_and_a_new_head_does_not(tmp_path) -> None:
    own = Probabilities(multi_label=True, temperature=1.5, thresholds=[0.1, 0.2, 0.3, 0.4])
    model = model_of(own)
    save_pretrained(model, tmp_path / "m", label_names=NAMES)
    again = load(tmp_path / "m")
    assert again.probabilities == own
    assert timm.create_model(f"local-dir:{tmp_path / 'm'}").probabilities.multi_label
    assert load(tmp_path / "m", temperature=2.0).probabilities.temperature == 2.0
    assert load(tmp_path / "m", num_classes=3).probabilities == Probabilities()
    assert (
        load(tmp_path / "m", multi_label=False).probabilities == Probabilities()
    )  # what was fitted was of the sigmoid
    assert load(tmp_path / "m", multi_label=False, temperature=3.0).probabilities == Probabilities(temperature=3.0)
    again.reset_classifier(4)
    assert again.probabilities == Probabilities()
    save_pretrained(again, tmp_path / "n")
    assert not {"multi_label", "temperature", "thresholds", "background"} & {
        *json.loads((tmp_path / "n" / "config.json").read_text())["model_args"]
    }
    described = describe(model)
    assert {key: described[key] for key in ("multi_label", "temperature", "thresholds")} == {
        "multi_label": True,
        "temperature": 1.5,
        "thresholds": [0.1, 0.2, 0.3, 0.4],
    }


def test_they_can_be_written_into_the_config_of_a_saved_model(tmp_path) -> None:
    model = model_of(Probabilities())
    save_pretrained(model, tmp_path, label_names=NAMES)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    own = Probabilities(temperature=0.5, thresholds=[0.0, 0.5, 0.25, 1.0])
    write_probabilities(tmp_path, own)
    assert {path.name for path in tmp_path.iterdir() if path.read_bytes() != before[path.name]} == {"config.json"}
    assert load(tmp_path).probabilities == own
    assert torch.equal(load(tmp_path).head.weight, model.head.weight)
    write_probabilities(tmp_path, Probabilities())
    assert json.loads((tmp_path / "config.json").read_text()) == json.loads(before["config.json"])
    with pytest.raises(ValueError, match="2 thresholds do not fit 4 classes"):
        write_probabilities(tmp_path, Probabilities(thresholds=[0.1, 0.2]))
    with pytest.raises(FileNotFoundError, match="no config.json"):
        write_probabilities(tmp_path / "nowhere", own)


@pytest.mark.parametrize(
    ("args", "named"),
    [
        ({"temperature": 0.0}, "temperature=0.0"),
        ({"thresholds": [0.5, 1.5]}, "1.5"),
        ({"thresholds": [0.5]}, "1 thresholds do not fit 4"),
        ({"thresholds": []}, "0 thresholds do not fit 4"),
        ({"thresholds": 0.5}, "thresholds=0.5 is not a list"),
        ({"thresholds": "0000"}, "thresholds='0000' is not a list"),
        ({"thresholds": [0, True, 0, 0]}, "The threshold True"),
        ({"thresholds": [0, float("nan"), 0, 0]}, "The threshold nan"),
        ({"temperature": True}, "temperature=True"),
        ({"temperature": float("nan")}, "temperature=nan"),
        ({"multi_label": 1}, "multi_label=1"),
        ({"background": 4}, "background=4 leaves none"),
        ({"background": -1}, "background=-1"),
    ],
)
def test_values_that_cannot_be_are_refused(args, named) -> None:
    with pytest.raises(ValueError, match=named):
        create(NAME, num_classes=4, device="meta", **args)


def test_a_head_of_words_by_a_sigmoid_gives_several_labels_also_where_its_config_does_not_say(tmp_path) -> None:
    model = timm.create_model(NAME, num_classes=0)
    head = CosineHead(96, 8, 4)
    torch.nn.init.constant_(head.classes.bias, -3.0)
    set_text_head(model, head, NAMES)
    assert model.probabilities.multi_label
    save_pretrained(model, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["model_args"].pop("multi_label") is True
    del config["config_sha256"]
    (tmp_path / "config.json").write_text(json.dumps(config))  # as one of before
    assert load(tmp_path).probabilities.multi_label
    torch.nn.init.zeros_(head.classes.bias)  # CLIP's
    set_text_head(model, head, NAMES)
    assert not model.probabilities.multi_label
