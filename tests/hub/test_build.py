"""hub/build.py: what is published, and MODEL_CARD.md."""

import json
import re
import shutil
from pathlib import Path

import pytest
import timm
import torch
from huggingface_hub import ModelCard

import inti_models
from inti_models.weights.tensor_files import save_checkpoint
from support.modules import load_module

HUB = Path(__file__).parents[2] / "hub"
NAME = "inti_vit_t8_32_motiondigits"
RESULTS = {  # as benchmarks/accuracy.py --ship writes it
    "model": NAME,
    "accuracy": {
        "clips": 6000,
        "motion": 97.53,
        "digit": 91.27,
        "top1": 89.11,
        "digit_occluded": 88.5,
        "digit_clear": 94.25,
        "motion_by_class": {"left": 99.0},
    },
    "training": {"stills": 64000, "clips": 128000, "seed": 0, "minutes": 41.5, "how": "in one go"},
    "gflops": 0.0611,
    "machine": "some machine, 2 threads",
    "versions": {"torch": "2"},
}


@pytest.fixture(scope="module")
def build():
    return load_module("hub/build.py")


@pytest.fixture
def model(randomize_):
    return randomize_(timm.create_model(NAME))


@pytest.fixture
def measured_hub(tmp_path, model):
    """A folder like hub/, with the real card of the model, random weights and results."""
    folder = tmp_path / "hub" / NAME
    folder.mkdir(parents=True)
    shutil.copy(HUB / NAME / "card.md", folder)
    (folder / "results.json").write_text(json.dumps(RESULTS))
    save_checkpoint(model, folder / "model.safetensors")
    return folder.parent


def rows(text):
    """Cells of the table, by checkpoint."""
    lines = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| `")]
    return {cells[0].strip("`"): cells[1:] for cells in lines}


def test_written_files_agree_with_the_data(build):
    for path, text in build.written(build.published()).items():
        assert path.read_text(encoding="utf-8") == text, f"{path.name} is out of date: python hub/build.py --card"


def test_every_checkpoint_has_a_row_that_says_what_its_config_says(build):
    table = rows(build.written(build.published())[build.MODEL_CARD])
    assert list(table) == timm.list_models("inti*", pretrained=True)
    for name, (source, trained_on, head, licence, _) in table.items():
        cfg = timm.get_pretrained_cfg(name)
        assert source == (f"`{cfg.hf_hub_id}`" if cfg.hf_hub_id else "this package")
        assert licence == cfg.license
        assert trained_on == build.TRAINED_ON[cfg.tag.removesuffix("_zeroshot")]
        assert (head == "text tower") == cfg.tag.endswith("_zeroshot")
        assert (head == "trained") == (name in {model.checkpoint for model in build.published()})


def test_only_what_a_results_file_states_is_called_measured(build, measured_hub):
    texts = build.written(build.published(hub=measured_hub))
    accuracy = {name: cells[-1] for name, cells in rows(texts[build.MODEL_CARD]).items()}
    mine = f"{NAME}.motiondigits"
    assert accuracy.pop(mine) == "top-1 89.11 (MotionDigits); motion 97.53 (MotionDigits); digit 91.27 (MotionDigits)"
    assert set(accuracy.values()) == {"not measured"}
    assert json.loads(texts[build.ACCURACIES]) == {
        mine: {"accuracy": {"top-1": 89.11, "motion": 97.53, "digit": 91.27}}
    }

    (measured_hub / NAME / "results.json").unlink()
    texts = build.written(build.published(hub=measured_hub))
    assert rows(texts[build.MODEL_CARD])[mine][-1] == "not measured"
    assert json.loads(texts[build.ACCURACIES]) == {}


def test_an_assembled_folder_is_the_model_and_its_card(build, measured_hub, model, tmp_path, capsys):
    assert build.main([str(tmp_path / "out")], measured_hub) == 0
    folder = tmp_path / "out" / NAME
    assert capsys.readouterr().out == f"wrote {folder}\n"
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "config.json", "model.safetensors"]

    clip = torch.randn(1, 8, 3, 32, 32)
    with torch.inference_mode():
        expected = model(clip)
        assert torch.equal(inti_models.load(folder).eval()(clip), expected)
        assert torch.equal(timm.create_model(f"local-dir:{folder}", pretrained=True).eval()(clip), expected)

    card = ModelCard.load(folder / "README.md")
    assert card.data.license == timm.get_pretrained_cfg(NAME).license
    assert card.data.library_name == "timm"
    values = {result.metric_name: result.metric_value for result in card.data.eval_results}
    assert values == {"top-1": 89.11, "motion": 97.53, "digit": 91.27}
    assert not re.search(r"[{}]", card.text)
    assert "64,000 still images" in card.text and "some machine, 2 threads" in card.text


@pytest.mark.parametrize(
    ("change", "arguments", "sentence"),
    [
        (lambda folder: (folder / "results.json").unlink(), [], "results.json is missing; measure the model first"),
        (lambda folder: (folder / "results.json").write_text("{}"), [], "results.json lacks 'model'"),
        (lambda folder: (folder / "results.json").write_text("{"), [], "results.json is not JSON"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"no"), [], "is not a complete safetensors file"),
        (lambda folder: None, ["--only", "inti_vit_b16_k400"], "'inti_vit_b16_k400' is not made here"),
    ],
)
def test_what_cannot_be_assembled_is_one_sentence_and_no_folder(
    change, arguments, sentence, build, measured_hub, tmp_path, capsys
):
    change(measured_hub / NAME)
    assert build.main([str(tmp_path / "out"), *arguments], measured_hub) == 1
    error = capsys.readouterr().err
    assert re.search(sentence, error)
    assert error.startswith("build: ") and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_every_folder_of_a_model_has_results_and_is_a_checkpoint_of_the_zoo(build):
    models = build.published()
    assert [model.name for model in models] == sorted(path.parent.name for path in HUB.glob("*/results.json"))
    assert {model.checkpoint for model in models} <= set(timm.list_models("inti*", pretrained=True))
