"""Models in folders: saved, loaded bit for bit, and refused in one sentence. The Hub itself: test_loading.py."""

import contextlib
import dataclasses
import json
import os
import pickle
import resource
import shutil
import signal
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest
import timm
import torch
from huggingface_hub import EvalResult, ModelCard
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from timm.models import _registry
from timm.models.vision_transformer import VisionTransformer

import inti_models
from inti_models import InTIVisionTransformer, from_image_model, load, save_pretrained
from inti_models.cli import main
from inti_models.weights import hub
from inti_models.weights.hub import CONFIG_DIGEST, create, published, weights_name
from inti_models.weights.tensor_files import DIGEST, digest, read_checkpoint
from support.models import FAMILIES, SOME_FAMILIES, TINY
from support.processes import forked, killing

NAME = "inti_vit_t8_32_motiondigits"
SMALL = {"embed_dim": 32, "depth": 4, "num_heads": 2, "compress_at": (1, 3)}
FILES = ["README.md", "config.json", "model.safetensors"]


@pytest.fixture
def model(randomize_):
    return randomize_(timm.create_model(NAME, **SMALL, num_classes=5, img_size=32))


@pytest.fixture
def folder(model, tmp_path):
    save_pretrained(model, tmp_path / "saved", label_names=list("abcde"))
    return tmp_path / "saved"


def logits(model, size=32):
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        return model.eval()(torch.randn(2, 5, model.in_chans, size, size, generator=generator))


def refusal(action, *args, error=ValueError, **kwargs):
    """The one sentence by which something is refused."""
    with pytest.raises(error) as refused:
        action(*args, **kwargs)
    message = str(refused.value)
    assert message.endswith(".")
    assert "\n" not in message
    return message


def publish(monkeypatch, file, **kwargs):
    """Let a file be the published weights of `NAME`."""
    cfg = dataclasses.replace(timm.get_pretrained_cfg(NAME), file=str(file), **kwargs)
    for name in (NAME, f"{NAME}.motiondigits"):
        monkeypatch.setitem(_registry._model_pretrained_cfgs, name, cfg)


# Round trips


@pytest.mark.parametrize(
    ("name", "kwargs"),
    [
        (NAME, {"num_classes": 3, "context": ("local", "point"), "reduction": 2}),
        (NAME, {"compress_at": (), "num_frames": 16}),
        (NAME, {"weighting": "uniform", "in_chans": 1}),
        ("inti_vit_b16_k400.laion2b", {"weighting": "sigmoid", "sampling": "dense", "frame_stride": 4}),
        ("inti_vit_l14_ssv2.metaclip_400m", {"num_classes": 0, "patch_size": 8}),
        ("inti_vit", {"base": "vit_base_patch16_siglip_224"}),
    ],
    ids=str,
)
def test_a_saved_model_comes_back_bit_for_bit(tmp_path, randomize_, name, kwargs):
    model = randomize_(timm.create_model(name, **{**SMALL, "img_size": 32, **kwargs}))
    save_pretrained(model, tmp_path / "runs" / "mine")
    assert sorted(path.name for path in (tmp_path / "runs" / "mine").iterdir()) == FILES
    expected = logits(model)
    for again in (load(tmp_path / "runs" / "mine"), timm.create_model(f"local-dir:{tmp_path}/runs/mine", True)):
        assert type(again) is InTIVisionTransformer
        assert torch.equal(logits(again), expected)
        for attribute in ("compress_at", "num_frames", "sampling", "frame_stride"):
            assert getattr(again, attribute) == getattr(model, attribute)
        assert type(again.blocks[0].mlp.act) is type(model.blocks[0].mlp.act)


@pytest.mark.parametrize(
    "family",
    [*SOME_FAMILIES, *(pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES if name not in SOME_FAMILIES)],
)
def test_a_model_on_every_family_comes_back_bit_for_bit(tmp_path, randomize_, family):
    base, args = FAMILIES[family]
    model = randomize_(timm.create_model("inti_vit", base=base, compress_at=(1, 3), reduction=4, **{**TINY, **args}))
    model.set_input_size(img_size=(48, 32))
    save_pretrained(model, tmp_path / "mine")
    again, clip = load(tmp_path / "mine").eval(), torch.randn(1, 5, 3, 48, 32)
    assert type(again) is type(model)
    with torch.no_grad():
        assert torch.equal(again(clip), model(clip))


def test_a_wrapped_image_model_comes_back_bit_for_bit(tmp_path, randomize_):
    vit = timm.create_model("vit_tiny_patch16_224", depth=2, embed_dim=32, num_heads=2, img_size=32)
    model = randomize_(from_image_model(vit, compress_at=(1,), num_classes=4))
    save_pretrained(model, tmp_path / "wrapped", label_names=["run", "sit", "eat", "nap"])
    again = load(tmp_path / "wrapped")
    assert torch.equal(logits(again), logits(model))
    assert list(again.pretrained_cfg["label_names"]) == ["run", "sit", "eat", "nap"]


def test_a_model_changed_by_its_own_methods_comes_back_bit_for_bit(model, tmp_path):
    model.reset_classifier(3, global_pool="avg")
    model.set_input_size(img_size=48)
    model.num_frames, model.sampling, model.frame_stride = 4, "dense", 3
    save_pretrained(model, tmp_path / "changed")
    again = load(tmp_path / "changed")
    assert torch.equal(logits(again, 48), logits(model, 48))
    assert (again.num_frames, again.sampling, again.frame_stride) == (4, "dense", 3)


def test_what_was_loaded_can_be_saved_again(folder, tmp_path):
    save_pretrained(load(folder), tmp_path / "again")
    again = load(tmp_path / "again")
    assert torch.equal(logits(again), logits(load(folder)))
    assert again.pretrained_cfg["label_names"] == list("abcde")
    weights = [path / "model.safetensors" for path in (folder, tmp_path / "again")]
    assert weights[0].read_bytes() == weights[1].read_bytes()


@pytest.mark.parametrize("name", ["{}", "local-dir:{}", "relative"])
def test_a_folder_is_named_by_path_or_source(folder, model, monkeypatch, name):
    monkeypatch.chdir(folder.parent)
    again = load("saved" if name == "relative" else name.format(folder))
    assert torch.equal(logits(again), logits(model))


def test_arguments_may_differ_all_at_once(folder, model, caplog):
    args = {"num_classes": 3, "img_size": 48, "in_chans": 1, "compress_at": (1, 2), "num_frames": 16}
    again = load(folder, **args)
    for key, value in args.items():
        assert (again.patch_embed.img_size[0] if key == "img_size" else getattr(again, key)) == value
    for key, value in again.state_dict().items():
        if key.startswith(("blocks.", "norm", "interpolations.1.")):
            assert torch.equal(value, model.state_dict()[key])
    weight = model.patch_embed.proj.weight
    assert torch.equal(again.patch_embed.proj.weight, weight.sum(dim=1, keepdim=True))
    warnings = [record.message for record in caplog.records if record.name.startswith("inti_models")]
    assert warnings == [f"{folder} was made with another schedule: interpolations.2.0 new; interpolations.3.0 unused."]


@pytest.fixture
def read_once(monkeypatch):
    """Remove each file of weights when it was read, so that it cannot be read again."""

    def read_and_remove(path, *args):
        tensors = read_checkpoint(path, *args)
        Path(path).unlink()
        return tensors

    monkeypatch.setattr(hub, "read_checkpoint", read_and_remove)


def test_tensors_that_are_verified_are_those_that_are_used(folder, model, read_once):
    assert torch.equal(logits(load(folder)), logits(model))


def test_a_loaded_models_parameters_are_the_verified_tensors_themselves(folder, monkeypatch):
    read = []
    monkeypatch.setattr(hub, "read_checkpoint", lambda *args: read.append(read_checkpoint(*args)) or read[0])
    loaded = load(folder)
    assert {name: p.data_ptr() for name, p in loaded.named_parameters()} == {
        name: tensor.data_ptr() for name, tensor in read[0].items()
    }
    assert all(p.requires_grad and isinstance(p, torch.nn.Parameter) for p in loaded.parameters())
    assert {p.dtype for p in load(folder, dtype=torch.bfloat16).parameters()} == {torch.bfloat16}


def test_predicting_at_a_budget_loads_once(folder, tmp_path, read_once):
    Image.new("RGB", (40, 32), "red").save(tmp_path / "frame.png")
    arguments = ["--budget", "4", "--frames", "8", "--device", "cpu"]
    assert main(["predict", str(tmp_path / "frame.png"), "--model", str(folder), *arguments]) == 0


def test_created_model_is_the_loaded_one_before_its_weights(folder):
    loaded = load(folder, num_frames=4)
    (folder / "model.safetensors").write_bytes(b"")
    created = create(folder, num_frames=4, device="meta")
    assert {k: v.shape for k, v in created.state_dict().items()} == {k: v.shape for k, v in loaded.state_dict().items()}
    assert created.pretrained_cfg == loaded.pretrained_cfg
    assert (created.compress_at, created.num_frames) == ((1, 3), 4)


def test_the_zoos_own_weights_are_loaded_by_name(tmp_path, model, monkeypatch):
    save_pretrained(model, tmp_path)
    publish(monkeypatch, tmp_path / "model.safetensors", num_classes=5)
    for name in (NAME, f"{NAME}.motiondigits"):
        assert torch.equal(logits(load(name, **SMALL, img_size=32)), logits(model))
    content = bytearray((tmp_path / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (tmp_path / "model.safetensors").write_bytes(content)
    assert "is damaged" in refusal(load, NAME, **SMALL, img_size=32)


# What is written


def test_weights_carry_their_digest_and_no_pickle_is_written(folder):
    with safe_open(folder / "model.safetensors", "pt") as file:
        assert file.metadata()[DIGEST] == digest(load_file(folder / "model.safetensors"))
    assert sorted(path.name for path in folder.iterdir()) == FILES
    assert [path.name for path in folder.parent.iterdir()] == ["saved"]


def test_config_pins_the_file_and_keeps_labels_and_arguments(folder):
    config = json.loads((folder / "config.json").read_text())
    assert config["pretrained_cfg"]["hf_hub_filename"] == "model.safetensors"
    assert config["label_names"] == list("abcde")
    assert config["model_args"]["compress_at"] == [1, 3]


def test_label_names_of_other_classes_are_dropped(folder, tmp_path):
    save_pretrained(load(folder, num_classes=3), tmp_path / "three")
    config = json.loads((tmp_path / "three" / "config.json").read_text())
    assert "label_names" not in config
    assert "label_names" not in config["pretrained_cfg"]


def test_card_is_what_the_hub_reads(model, tmp_path):
    result = EvalResult(
        task_type="video-classification",
        dataset_type="motiondigits",
        dataset_name="MotionDigits",
        metric_type="accuracy",
        metric_value=97.5,
        metric_name="motion accuracy",
    )
    save_pretrained(
        model,
        tmp_path / "card",
        name="org/mine",
        license="mit",
        datasets=["org/digits"],
        base_model="timm/vit_base_patch16_clip_224.openai",
        results=[result],
        description="It reads digits.",
    )
    card = ModelCard.load(tmp_path / "card" / "README.md")
    assert card.data.license == "mit"
    assert card.data.library_name == "timm"
    assert card.data.pipeline_tag == "video-classification"
    assert {"timm", "video-classification"} <= set(card.data.tags)
    assert card.data.datasets == ["org/digits"]
    assert card.data.base_model == "timm/vit_base_patch16_clip_224.openai"
    assert card.data.eval_results == [result]
    assert "It reads digits." in card.text
    assert "MotionDigits, motion accuracy: 97.5" in card.text
    assert 'inti_models.load("hf-hub:org/mine")' in card.text
    assert "Not measured." not in card.text


def test_card_without_results_says_so(folder):
    card = ModelCard.load(folder / "README.md")
    assert "Not measured." in card.text
    assert card.data.eval_results is None
    assert card.data.license == "apache-2.0"


def test_saving_again_replaces_the_three_files_and_leaves_others(folder, randomize_, model):
    (folder / "notes.txt").write_text("mine")
    save_pretrained(randomize_(model), folder)
    assert torch.equal(logits(load(folder)), logits(model))
    assert sorted(path.name for path in folder.iterdir()) == [*FILES, "notes.txt"]


# What is not saved


def test_a_model_without_a_name_is_not_saved(tiny, tmp_path):
    message = refusal(save_pretrained, tiny(), tmp_path / "none")
    assert "cannot be created again by name" in message
    wrapped = from_image_model(VisionTransformer(img_size=32, depth=2, embed_dim=32, num_heads=2))
    assert "cannot be created again by name" in refusal(save_pretrained, wrapped, tmp_path / "none")
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_its_config_would_not_make_again_is_not_saved(model, tmp_path):
    model.blocks = model.blocks[:3]
    assert "was changed after it was created" in refusal(save_pretrained, model, tmp_path / "none")
    made = timm.create_model(NAME, **SMALL, act_layer=torch.nn.Mish)
    assert "config does not create it again" in refusal(save_pretrained, made, tmp_path / "none")
    assert list(tmp_path.iterdir()) == []


def test_other_wrong_arguments_of_saving(model, tmp_path):
    wrapper = torch.nn.DataParallel(model)
    assert "A DataParallel cannot be saved" in refusal(save_pretrained, wrapper, tmp_path / "none", error=TypeError)
    assert "2 label_names do not fit 5" in refusal(save_pretrained, model, tmp_path / "none", label_names=["a", "b"])
    (tmp_path / "file").write_text("")
    message = refusal(save_pretrained, model, tmp_path / "file", error=NotADirectoryError)
    assert "is a file; name a folder" in message
    model.norm.bias.data[0] = torch.inf
    assert "values in norm.bias that are not finite" in refusal(save_pretrained, model, tmp_path / "none")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_full_disk_leaves_the_old_model(model, folder, tmp_path):
    """A limit on the size of files stands in for it: the same error path, and it needs no privileges."""
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def fill() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
        for target in (folder, tmp_path / "new"):
            message = refusal(save_pretrained, model, target, error=OSError)
            assert f"{target.name} cannot be written" in message
            assert message.endswith("free some space or choose another folder.")

    assert forked(fill) == 0
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["saved"]


# What is not loaded


class Trap:
    """A pickle that makes a file when it is opened."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


@pytest.mark.parametrize("file", ["pytorch_model.bin", "model.pth", "model.pt"])
def test_a_folder_with_pickles_only_is_refused_unopened(folder, tmp_path, file):
    (folder / "model.safetensors").unlink()
    (folder / file).write_bytes(pickle.dumps(Trap(tmp_path / "sprung")))
    message = refusal(load, folder, error=FileNotFoundError)
    assert "There is no model.safetensors in" in message
    assert "convert" in message
    assert f"run 'inti-models convert {folder / file} " in refusal(load, folder / file)
    assert not (tmp_path / "sprung").exists()


@contextmanager
def changing(folder):
    """A config.json as somebody writes it who means it."""
    config = json.loads((folder / "config.json").read_text())
    del config[CONFIG_DIGEST]
    yield config
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace('"compress_at": [\n      2,', '"compress_at": [\n      1,'),
        lambda text: text.replace("0.5", "0.4"),
        lambda text: text.replace('"0, left"', '"0, loft"'),
    ],
    ids=["schedule", "mean", "class name"],
)
def test_config_that_still_makes_a_model_but_was_changed_is_refused(tmp_path, change):
    model = load(NAME)
    save_pretrained(model, tmp_path, label_names=list(model.pretrained_cfg["label_names"]))
    text = (tmp_path / "config.json").read_text()
    (tmp_path / "config.json").write_text(json.dumps(json.loads(text), sort_keys=True))  # says the same
    assert load(tmp_path).compress_at == model.compress_at
    assert change(text) != text
    (tmp_path / "config.json").write_text(change(text))
    with pytest.raises(ValueError, match=r"config.json is not as it was saved; .* take config_sha256 out of it"):
        load(tmp_path)


@pytest.mark.parametrize("where", ["config", "argument"])
def test_no_argument_makes_timm_open_another_file(folder, tmp_path, where):
    trap = tmp_path / "trap.pth"
    trap.write_bytes(pickle.dumps(Trap(tmp_path / "sprung")))
    args = {"checkpoint_path": str(trap)}
    if where == "config":
        with changing(folder) as config:
            config["model_args"] |= args
        args = {}
    assert "cannot be loaded with the argument checkpoint_path" in refusal(load, folder, **args)
    assert not (tmp_path / "sprung").exists()


def test_a_config_cannot_name_another_source(folder, model, tmp_path):
    with changing(folder) as config:
        config["pretrained_cfg"] |= {
            "file": str(tmp_path / "trap.pth"),
            "url": "http://127.0.0.1:9/trap.pth",
            "custom_load": True,
            "hf_hub_filename": "trap.pth",
        }
    assert torch.equal(logits(load(folder)), logits(model))


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ("", "is not a model's config"),
        ('{"architecture": ', "is not a model's config"),
        ("[]", "is not a model's config"),
        pytest.param("[" * 100_000, "is not a model's config", id="deep"),
        ("{}", "is not a model's config"),
        ('{"architecture": "inti_vit", "pretrained_cfg": {"nonsense": 1}}', "is not a model's config"),
        ('{"architecture": "inti_vit", "pretrained_cfg": {}, "model_args": 3}', "is not a model's config"),
        ('{"architecture": "resnet18", "pretrained_cfg": {}}', "is of 'resnet18', which is not an InTI model"),
        ("\0\xff", "is not a model's config"),
    ],
)
def test_a_damaged_config_is_told_in_a_sentence(folder, content, fault):
    (folder / "config.json").write_text(content, encoding="latin-1")
    assert f"config.json {fault}" in refusal(load, folder)


@pytest.mark.parametrize("fault", ["flipped", "truncated", "empty", "nan", "int", "shape", "missing", "extra", "head"])
def test_damaged_weights_are_told_in_a_sentence(folder, fault):
    path = folder / "model.safetensors"
    content, tensors = path.read_bytes(), load_file(path)
    words = {
        "flipped": "is damaged",
        "truncated": "is not a complete safetensors file",
        "empty": "is not a complete safetensors file",
        "nan": "not finite",
        "int": "in torch.int8",
        "shape": "as 64 where the model has 32",
        "missing": "lacks norm.bias;",
        "extra": "has, unlike the model, junk;",
        "head": "lacks head.bias and 1 more;",
    }[fault]
    foreign = {
        "nan": {**tensors, "norm.bias": torch.full((32,), torch.nan)},
        "int": {**tensors, "norm.bias": torch.zeros(32, dtype=torch.int8)},
        "shape": {**tensors, "norm.bias": torch.zeros(64)},
        "missing": {key: value for key, value in tensors.items() if key != "norm.bias"},
        "extra": {**tensors, "junk": torch.zeros(1)},
        "head": {key: value for key, value in tensors.items() if not key.startswith("head.")},
    }
    if fault in foreign:
        save_file(foreign[fault], path)
    else:
        damaged = content[:-1] + bytes([content[-1] ^ 64])
        path.write_bytes({"flipped": damaged, "truncated": content[:-99], "empty": b""}[fault])
    message = refusal(load, folder)
    assert words in message
    assert str(folder) in message


def test_weights_of_another_architecture_are_told_in_a_sentence(folder):
    save_file(timm.create_model("resnet10t").state_dict(), folder / "model.safetensors")
    assert "lacks blocks.0.attn.proj.bias and" in refusal(load, folder)


@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        ("resnet10t", ValueError, "'resnet10t' is not a model of this zoo"),
        ("inti_vit_b16_k400.nothing", ValueError, "has no weights 'inti_vit_b16_k400.nothing'"),
        ("inti_vit", ValueError, "inti_vit with {} has no weights"),
        ("no/such", FileNotFoundError, "There is no folder no/such; check the path, or write hf-hub:no/such"),
        ("local-dir:no/such", FileNotFoundError, "There is no config.json in no/such; name a folder"),
    ],
)
def test_a_name_of_nothing_is_told_in_a_sentence(name, error, words):
    assert words in refusal(load, name, error=error)


# The command line


def test_predict_takes_a_folder(folder, tmp_path, capsys, monkeypatch):
    frame = tmp_path / "frame.png"
    from PIL import Image

    Image.new("RGB", (32, 32), "red").save(frame)
    assert main(["predict", str(frame), "--model", str(folder), "--topk", "1", "--device", "cpu"]) == 0
    assert capsys.readouterr().out.split()[-1] in "abcde"
    (folder / "model.safetensors").write_bytes(b"")
    assert main(["predict", str(frame), "--model", f"local-dir:{folder}"]) == 1
    err = capsys.readouterr().err
    assert "model.safetensors is not a complete safetensors file" in err
    assert err.count("\n") == 1


def test_list_shows_source_licence_size_and_accuracy(tmp_path, capsys, monkeypatch):
    weights = tmp_path / "weights"
    weights.mkdir()
    (weights / "t8.safetensors").write_bytes(b"\0" * 2_500_000)
    table = {f"{NAME}.motiondigits": {"accuracy": {"motion": 97.5, "digit": 96.25}}}
    (weights / "results.json").write_text(json.dumps(table))
    monkeypatch.setattr(inti_models.weights.hub, "ASSETS", tmp_path)
    publish(monkeypatch, weights / "t8.safetensors")
    assert main(["list", "--pretrained"]) == 0
    lines = [line.split("  ") for line in capsys.readouterr().out.splitlines()]
    rows = {row[0]: [cell.strip() for cell in row if cell][1:] for row in lines}
    assert rows["weights"] == ["source", "licence", "size", "accuracy"]
    assert rows[f"{NAME}.motiondigits"] == ["t8.safetensors", "apache-2.0", "2.5 MB", "motion 97.5%, digit 96.25%"]
    openai = "timm/vit_base_patch16_clip_224.openai"
    assert rows["inti_vit_b16_k400.openai"] == [openai, "apache-2.0", "not downloaded", "not measured"]
    assert set(rows) - {"weights"} == set(timm.list_pretrained("inti*"))
    assert main(["list", "*resnet*", "--pretrained"]) == 1
    assert "'*resnet*'" in capsys.readouterr().err


def test_published_weights_are_safetensors_of_a_repository_or_of_the_package():
    table = published()
    assert {weights.name for weights in table} == set(timm.list_pretrained("inti*"))
    for weights in table:
        cfg = timm.get_pretrained_cfg(weights.name)
        assert weights_name(cfg).endswith(".safetensors")
        assert weights.source == (Path(cfg.file).name if cfg.file else cfg.hf_hub_id)
    assert {weights.name for weights in published("*l14_336*")} == set(timm.list_pretrained("inti*l14_336*"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_classes": 3}, "says num_classes=3, but its model has 120"),
        ({"model_args": {"compress_at": [2, 5], "reduction": 10**9}}, "says reduction=1000000000, which no model has"),
        ({"model_args": {"more": 1}}, "does not make a model"),
        ({"model_args": {"patch_size": 0}}, r"does not make a model \(integer division or modulo by zero\)"),
    ],
    ids=str,
)
def test_config_of_another_model_is_refused(tmp_path, change, message):
    model = load("inti_vit_t8_32_motiondigits")
    save_pretrained(model, tmp_path, label_names=list(model.pretrained_cfg["label_names"]))
    with changing(tmp_path) as config:
        config |= change
    with pytest.raises(ValueError, match=message):
        load(tmp_path)


@pytest.mark.parametrize("moved", ["model.safetensors", "README.md", "config.json"])
def test_model_that_was_saved_stays_until_the_next_one_is(tmp_path, monkeypatch, moved):
    """A process that ends between two moves leaves the model before, or the new one: no mixture."""
    folder, names = tmp_path / "saved", [[f"{word}-{i}" for i in range(120)] for word in ("old", "new", "newer")]
    models = [timm.create_model(NAME) for _ in names]
    save_pretrained(models[0], folder, label_names=names[0])
    replace = os.replace

    def interrupted(source, target):
        replace(source, target)
        if Path(target).name == moved and Path(target).parent == folder:
            raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save_pretrained(models[1], folder, label_names=names[1])
    monkeypatch.undo()
    expected = 1 if moved == "config.json" else 0
    for attempt in (expected, 2):
        model = load(folder)
        assert list(model.pretrained_cfg["label_names"]) == names[attempt]
        assert torch.equal(model.head.weight, models[attempt].head.weight)
        save_pretrained(models[2], folder, label_names=names[2])
        assert sorted(path.name for path in folder.iterdir()) == FILES


@pytest.mark.parametrize("at", ["config read", "previous model chosen"])
def test_a_reader_beside_a_writer_gets_a_whole_model(model, folder, randomize_, monkeypatch, at):
    """Another process saves while this one loads: after the config is read, or while the model before is chosen."""
    old, other = logits(model), timm.create_model(NAME, **SMALL | {"compress_at": (2,)}, num_classes=7, img_size=32)
    randomize_(other)
    expected, pending = logits(other), [True]

    def save_once():
        if pending:
            pending.clear()
            save_pretrained(other, folder)

    read = read_checkpoint

    def reading(path, *args):
        if at == "config read" or ".previous" in str(path):
            save_once()
        return read(path, *args)

    if at == "previous model chosen":  # of a save that was interrupted, which the next one completes
        with contextlib.suppress(KeyboardInterrupt), monkeypatch.context() as patch:
            replace = os.replace

            def interrupted(source, target):
                replace(source, target)
                if Path(target) == folder / "model.safetensors":
                    raise KeyboardInterrupt

            patch.setattr(os, "replace", interrupted)
            save_pretrained(other, folder)
        assert torch.equal(logits(load(folder)), old)
    monkeypatch.setattr(hub, "read_checkpoint", reading)
    loaded = load(folder)
    assert not pending and loaded.compress_at == (2,) and torch.equal(logits(loaded), expected)


@pytest.mark.slow  # many real loads beside a process that saves all the time
def test_loads_beside_a_process_that_saves_all_the_time(model, folder, randomize_):
    other = randomize_(timm.create_model(NAME, **SMALL | {"compress_at": (2,)}, num_classes=7, img_size=32))
    either = [logits(model), logits(other)]
    writer = os.fork()
    if writer == 0:
        signal.alarm(120)
        while True:
            save_pretrained(other, folder)
            save_pretrained(model, folder)
    try:
        for _ in range(200):
            loaded = logits(load(folder))
            assert any(loaded.shape == whole.shape and torch.equal(loaded, whole) for whole in either)
    finally:
        os.kill(writer, signal.SIGKILL)
        os.waitpid(writer, 0)


def test_a_symbolic_link_to_another_file_system_is_saved_through(folder, model, tmp_path):
    if not os.path.isdir("/dev/shm") or os.stat("/dev/shm").st_dev == os.stat(tmp_path).st_dev:
        pytest.skip("no other file system at /dev/shm")
    with tempfile.TemporaryDirectory(dir="/dev/shm") as elsewhere:
        (tmp_path / "link").symlink_to(elsewhere)
        for _ in range(2):
            save_pretrained(model, tmp_path / "link")
            assert sorted(os.listdir(elsewhere)) == FILES
        assert torch.equal(logits(load(tmp_path / "link")), logits(model))


def test_a_folder_whose_parent_cannot_be_written_is_saved_to(model):
    with tempfile.TemporaryDirectory() as parent:  # where another user gets to
        folder = Path(parent, "saved")
        folder.mkdir()
        folder.chmod(0o777)
        os.chmod(parent, 0o555)

        def save() -> None:
            if os.geteuid() == 0:  # whom no mode stops
                os.setuid(65534)
            with pytest.raises(PermissionError):
                Path(parent, "beside").touch()
            save_pretrained(model, folder)
            save_pretrained(model, folder)

        assert forked(save) == 0
        assert sorted(os.listdir(folder)) == FILES and torch.equal(logits(load(folder)), logits(model))
        os.chmod(parent, 0o755)


def test_a_symbolic_link_at_previous_does_not_break_saving(folder, model, tmp_path):
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "file").touch()
    (folder / ".previous").symlink_to(tmp_path / "kept")
    save_pretrained(model, folder)
    assert sorted(path.name for path in folder.iterdir()) == FILES and (tmp_path / "kept" / "file").exists()


def test_a_model_that_is_refused_leaves_no_folder(model, tmp_path):
    model.blocks = model.blocks[:2]
    refusal(save_pretrained, model, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_config_of_other_weights_is_refused(tmp_path):
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        save_pretrained(timm.create_model(NAME), folder)
    shutil.copy(folders[1] / "model.safetensors", folders[0])
    with pytest.raises(ValueError, match="was not written with the weights beside it .* save the model again"):
        load(folders[0])
    with changing(folders[0]) as config:
        del config[DIGEST]
    assert load(folders[0]).num_classes == 120


def test_a_process_that_is_killed_while_it_saves_leaves_a_whole_model(folder, randomize_, model):
    before = logits(load(folder))
    randomize_(model)
    for call in range(1, 9):

        def save(call: int = call) -> None:
            with killing(os, "replace", call):
                save_pretrained(model, folder, label_names=list("vwxyz"))

        status = forked(save)
        loaded = load(folder)
        is_new = torch.equal(logits(loaded), logits(model))
        assert is_new or torch.equal(logits(loaded), before)
        assert "".join(loaded.pretrained_cfg["label_names"]) == ("vwxyz" if is_new else "abcde")
        if status == 0:
            break
        assert status == -signal.SIGKILL
    assert call > 2 and is_new
