"""Zero-shot heads against open_clip's own zero-shot pipeline, on miniature CLIPs that open_clip made."""

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import huggingface_hub
import open_clip
import pytest
import timm
import torch
import torch.nn.functional as F
import transformers
from safetensors.torch import load_file, save_file
from torch.testing import assert_close

import inti_models
from inti_models import zoo
from inti_models.data import write_video
from inti_models.inference.predict import NONE, top_labels
from inti_models.models.heads import set_text_head
from inti_models.weights import zero_shot
from inti_models.weights.tensor_files import read_checkpoint, save_checkpoint
from inti_models.weights.text_tower import towers_of
from inti_models.weights.zero_shot import CLASS_WORDS, TEMPLATES, build_head, class_words
from support import miniature_clips, miniature_towers
from support.modules import load_module

OPENAI, LAION = "timm/vit_base_patch16_clip_224.openai", "timm/vit_base_patch16_clip_224.laion2b"
NAMES = {OPENAI: "inti_vit_b16_hmdb51", LAION: "inti_vit_b16_hmdb51.laion2b"}
WORDS = ["riding a bike", "feeding goats", "tying a knot"]


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Miniature CLIPs by repo id: with QuickGELU (OpenAI's) and with GELU (LAION's)."""
    return {
        repo: miniature_clips.build(repo, tmp_path_factory.mktemp("clip"), seed=3 + i) for i, repo in enumerate(NAMES)
    }


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """The folder of heads, with HF_HOME in a folder of the test."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HOME", str(tmp_path / "hf"))
    return tmp_path / "hf" / "inti_models" / "zero_shot"


@pytest.fixture
def without_open_clip(monkeypatch):
    """As if open_clip were not installed: no text tower can run."""
    monkeypatch.setitem(sys.modules, "open_clip", None)


def weights(clip):
    return clip.folder / "open_clip_model.safetensors"


def create(clip, name=None, file=None, **kwargs):
    overlay = {"file": str(file or weights(clip)), **kwargs.pop("overlay", {})}
    kwargs = {"pretrained": True, **clip.overrides, **kwargs}
    return timm.create_model(name or NAMES[clip.repo_id], pretrained_cfg_overlay=overlay, **kwargs).eval()


def towers(clip, state=None, model=None):
    """The towers of a clip's file, with other tensors if given, for a model of its activation."""
    model = create(clip, pretrained=False, device="meta") if model is None else model
    return towers_of(model, load_file(weights(clip)) if state is None else state, weights(clip))


def classifier(clip, names, templates):
    """open_clip's zero-shot classifier, (D, K)."""
    return open_clip.build_zero_shot_classifier(clip.model, clip.tokenizer, names, templates)


def hmdb51_words():
    return [class_words(name, "hmdb51") for name in zoo.label_names("hmdb51")]


def stills(size, count=100):
    """Normalised images of three kinds: coloured noise, white noise, plain."""
    white = torch.randn(count, 3, size, size)
    waves = torch.fft.rfft2(torch.randn(count, 3, size, size))
    frequency = torch.hypot(torch.fft.fftfreq(size).unsqueeze(1), torch.fft.rfftfreq(size)).clamp(min=1 / size)
    coloured = torch.fft.irfft2(waves / frequency, s=(size, size))  # amplitudes as in photographs
    coloured = coloured / coloured.std(dim=(1, 2, 3), keepdim=True)
    return torch.cat([coloured, white, white.mean((2, 3), True) + 0 * white])


def ranks_alike(ours, theirs):
    """Whether logits (B, K) have the same order, but for classes that the other has within rounding of each other."""
    in_our_order = theirs.gather(1, ours.argsort(descending=True))
    return bool((in_our_order.diff() < 5e-4).all())


# The head against open_clip's pipeline


@pytest.mark.parametrize("repo", NAMES)
@torch.no_grad()
def test_logits_of_stills_are_those_of_open_clip(clips, repo):
    clip = clips[repo]
    model = create(clip)
    if repo == LAION:  # a tag without a zero-shot head
        set_text_head(model, build_head(towers(clip), 64, hmdb51_words(), "hmdb51"), zoo.label_names("hmdb51"))
    images = stills(clip.preprocess.size)
    features = clip.model.encode_image(images)
    theirs = 100 * F.normalize(features, dim=-1) @ classifier(clip, hmdb51_words(), TEMPLATES["hmdb51"])
    ours = model(images)
    assert_close(ours, theirs, rtol=0, atol=1e-3)
    assert ranks_alike(ours, theirs) and not ranks_alike(ours.roll(1, dims=1), theirs)


@pytest.mark.parametrize("repo", NAMES)
def test_text_features_are_those_of_open_clip(clips, repo):
    templates = TEMPLATES["ssv2"]
    prompts = [[template.format(name) for template in templates] for name in zoo.label_names("ssv2")[:40]]
    text = towers(clips[repo])
    expected = classifier(clips[repo], zoo.label_names("ssv2")[:40], templates).T
    assert_close(text.features(prompts, batch_size=7), expected, rtol=0, atol=1e-5)
    for changed in ({"text_cfg": {**text.config["text_cfg"], "heads": 1}}, {"quick_gelu": repo != OPENAI}):
        other = replace(text, config={**text.config, **changed})  # what the tensors do not say counts
        assert (other.features(prompts) - expected).abs().max() > 1e-4


@torch.no_grad()
def test_a_clip_is_classified_by_the_mean_of_its_frames_features(clips):
    clip = clips[OPENAI]
    model = create(clip, num_classes=0, compress_at=())
    inti_models.set_zero_shot_head(model, WORDS)
    frames = torch.randn(2, 3, 3, clip.preprocess.size, clip.preprocess.size)
    features = clip.model.encode_image(frames.flatten(0, 1)).unflatten(0, (2, 3)).mean(dim=1)
    theirs = 100 * F.normalize(features, dim=-1) @ classifier(clip, WORDS, TEMPLATES["any"])
    assert_close(model(frames), theirs, rtol=0, atol=1e-3)


def test_every_tensor_of_the_file_is_used(clips):
    clip, state = clips[OPENAI], load_file(weights(clips[OPENAI]))
    model = create(clip, pretrained=False)
    trunk = {key for key in state if key.startswith("visual.") and key != "visual.proj"}
    assert len(trunk) == len(model.state_dict()) - len(model.interpolations.state_dict()) - 2
    head = build_head(towers(clip, state, model), 64, WORDS).state_dict()
    for key in sorted(state.keys() - trunk):
        changed = state | {key: state[key] + 0.1 * torch.randn_like(state[key])}
        other = build_head(towers(clip, changed, model), 64, WORDS).state_dict()
        assert any(not torch.allclose(other[name], head[name], rtol=1e-6, atol=1e-4) for name in head), key


def test_half_precision_file_gives_nearly_the_same_head(clips):
    clip, state = clips[OPENAI], load_file(weights(clips[OPENAI]))
    half = build_head(towers(clip, {key: value.half() for key, value in state.items()}), 64, WORDS)
    full = build_head(towers(clip), 64, WORDS)
    assert half.classes.weight.dtype == torch.float32
    assert F.cosine_similarity(half.classes.weight, full.classes.weight).min() > 0.999


def test_building_leaves_the_generator_alone(clips):
    generator = torch.get_rng_state()
    build_head(towers(clips[OPENAI]), 64, WORDS)
    assert torch.equal(torch.get_rng_state(), generator)


# timm.create_model


@pytest.mark.parametrize("dataset", ["k400", "ssv2", "ucf101", "hmdb51"])
@pytest.mark.parametrize("architecture", ["b16", "l14", "l14_336"])
def test_default_tag_is_openai_with_a_zero_shot_head(architecture, dataset):
    name = f"inti_vit_{architecture}_{dataset}"
    default, plain = timm.get_pretrained_cfg(name), timm.get_pretrained_cfg(f"{name}.openai")
    assert default.tag == f"openai{zero_shot.SUFFIX}"
    assert default.hf_hub_filename == open_clip.constants.HF_SAFE_WEIGHTS_NAME
    assert plain.hf_hub_filename == "model.safetensors"
    image_model = zoo.ARCHITECTURES[architecture].image_model
    assert default.hf_hub_id == plain.hf_hub_id == f"timm/{image_model}.openai"
    for tag in ("", ".openai_zeroshot", ".openai"):
        model = timm.create_model(name + tag, device="meta")
        assert {type(block.mlp.act) for block in model.blocks} == {timm.layers.QuickGELU}


def test_other_number_of_classes_keeps_the_trunk_and_runs_no_text_tower(clips, without_open_clip, cache):
    with pytest.raises(ImportError, match="open_clip"):
        create(clips[OPENAI])
    for kwargs in (
        {"num_classes": 7},
        {"num_classes": 0},
        {"features_only": True},
        {"name": "inti_vit_b16_hmdb51.openai"},
    ):
        model = create(clips[OPENAI], **kwargs)
        trunk = getattr(model, "model", model)
        expected = load_file(weights(clips[OPENAI]))["visual.transformer.resblocks.0.attn.in_proj_weight"]
        assert torch.equal(trunk.blocks[0].attn.qkv.weight, expected)
    assert not cache.exists()


@pytest.mark.slow  # a text tower in double precision
def test_zero_shot_head_is_built_with_all_sizes_changed(clips):
    model = create(
        clips[OPENAI], in_chans=1, img_size=(48, 80), compress_at=(0, 2, 2), num_frames=4, dtype=torch.float64
    )
    plain = create(clips[OPENAI])
    assert model.head.classes.weight.dtype == torch.float64
    assert_close(model.head.classes.weight.float(), plain.head.classes.weight)
    assert model(torch.randn(1, 4, 1, 48, 80, dtype=torch.float64)).isfinite().all()


# A user's own words


@pytest.mark.parametrize("repo", NAMES)
@torch.no_grad()
def test_zero_shot_head_ranks_own_words_as_open_clip(clips, repo):
    clip = clips[repo]
    model = create(clip, num_classes=0)
    images = stills(clip.preprocess.size)
    theirs = 100 * F.normalize(clip.model.encode_image(images), dim=-1)
    inti_models.set_zero_shot_head(model, ["  riding a  bike", *WORDS[1:]])
    assert ranks_alike(model(images), theirs @ classifier(clip, WORDS, TEMPLATES["any"]))
    inti_models.set_zero_shot_head(model, WORDS, ["{}!"])
    assert ranks_alike(model(images), theirs @ classifier(clip, WORDS, ["{}!"]))


def test_prompts_of_the_background_are_further_rows_as_they_stand(clips, cache, tmp_path):
    clip, prompts = clips[OPENAI], ["a video.", "a wall {}"]
    plain = create(clip, num_classes=0)
    inti_models.set_zero_shot_head(plain, WORDS)
    model = create(clip, num_classes=0)
    inti_models.set_zero_shot_head(model, WORDS, background=prompts)
    assert model.num_classes == 5 and model.probabilities.background == 2
    assert torch.equal(model.head.classes.weight[:3], plain.head.classes.weight)
    expected = 100 * classifier(clip, prompts[:1], ["{}"]).T
    assert_close(model.head.classes.weight[3:4], expected, rtol=1e-3, atol=1e-3)
    labels = top_labels(model, torch.tensor([[1.0, 0.0, 0.0, 2.0, 2.0]]))
    assert [label.name for label in labels][0] == NONE and len(labels) == 4
    inti_models.save_pretrained(model, tmp_path / "saved")
    again = inti_models.load(tmp_path / "saved")
    assert again.probabilities == model.probabilities
    assert torch.equal(again.head.classes.weight, model.head.classes.weight)


def test_zero_shot_head_has_the_precision_of_the_model_and_is_saved_with_its_words(clips, tmp_path):
    model = create(clips[OPENAI], num_classes=0, dtype=torch.bfloat16)
    inti_models.set_zero_shot_head(model, WORDS)
    head = model.head
    assert (head.projection.in_features, head.classes.out_features) == (64, 3)
    assert {(p.dtype, p.requires_grad) for p in head.parameters()} == {(torch.bfloat16, True)}
    assert model.num_classes == 3
    inti_models.save_pretrained(model, tmp_path / "saved")
    again = inti_models.load(tmp_path / "saved", dtype=torch.bfloat16)
    assert list(again.pretrained_cfg["label_names"]) == WORDS
    assert all(torch.equal(again.head.state_dict()[key], value) for key, value in head.state_dict().items())
    clip = torch.randn(1, 4, 3, *2 * [clips[OPENAI].preprocess.size], dtype=torch.bfloat16)
    assert torch.equal(again.eval()(clip), model.eval()(clip))
    other = inti_models.load(tmp_path / "saved", num_classes=7)  # the head of words goes with its words
    assert isinstance(other.head, torch.nn.Linear) and other.head.out_features == 7


def test_a_saved_model_takes_other_words_from_the_text_tower_that_it_was_made_with(clips, tmp_path):
    clip = clips[LAION]
    file = Path(shutil.copytree(clip.folder, tmp_path / "clip") / "open_clip_model.safetensors")
    model = create(clip, file=file, num_classes=0)
    inti_models.set_zero_shot_head(model, WORDS)
    with torch.no_grad():  # fine-tuned
        for parameter in model.blocks.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    inti_models.save_pretrained(model, tmp_path / "saved")
    inti_models.save_pretrained(inti_models.load(tmp_path / "saved", num_classes=5), tmp_path / "again")

    stated = json.loads((tmp_path / "saved" / "config.json").read_text())["text_tower"]
    assert stated["file"] == str(file) and len(stated["tensors_sha256"]) == 64
    new = ["jump", "sit"]
    for folder in ("saved", "again"):
        loaded = inti_models.load(tmp_path / folder).eval()
        inti_models.set_zero_shot_head(loaded, new)
        images = stills(clip.preprocess.size, 5)
        with torch.no_grad():
            features = loaded.forward_head(loaded.forward_features(images), pre_logits=True) @ clip.model.visual.proj
            theirs = 100 * F.normalize(features, dim=-1) @ classifier(clip, new, TEMPLATES["any"])
            assert_close(loaded(images), theirs, rtol=0, atol=1e-3)
    state = load_file(file)
    save_file(state | {"text_projection": state["text_projection"] + 0.1}, file)
    with pytest.raises(ValueError, match="a text tower or projection other than this model was made with"):
        inti_models.set_zero_shot_head(loaded, WORDS)


def test_where_a_text_tower_is_is_saved_before_it_was_read_and_only_where_there_is_one(clips, tiny, tmp_path):
    def stated(model):
        inti_models.save_pretrained(model, tmp_path / "model", label_names=zoo.label_names("hmdb51"))
        return json.loads((tmp_path / "model" / "config.json").read_text()).get("text_tower")

    untrained = {"pretrained": False, "overlay": {"file": None}}
    laion, openai = (stated(create(clips[repo], NAMES[repo], **untrained)) for repo in (LAION, OPENAI))
    assert laion["repository"] == "laion/CLIP-ViT-B-16-laion2B-s34B-b88K" and "tensors_sha256" not in laion
    assert openai["repository"] == OPENAI
    # The tag without a zero-shot head, to fine-tune from: both towers are in the same repository.
    assert stated(create(clips[OPENAI], f"{NAMES[OPENAI]}.openai", **untrained))["repository"] == OPENAI
    assert stated(create(clips[LAION], num_classes=51)) == {"file": str(weights(clips[LAION]))}  # not the Hub's
    inti_models.save_pretrained(inti_models.load("inti_vit_t8_32_motiondigits"), tmp_path / "digits")
    assert "text_tower" not in json.loads((tmp_path / "digits" / "config.json").read_text())


@pytest.mark.parametrize("stated", [7, {"file": 7}, {"file": "x", "command": "rm"}, {"repository": "org/x"}])
def test_a_text_tower_that_cannot_be_one_is_refused(clips, tmp_path, stated):
    inti_models.save_pretrained(create(clips[LAION], pretrained=False), tmp_path, label_names=zoo.label_names("hmdb51"))
    config = json.loads((tmp_path / "config.json").read_text())
    del config["config_sha256"]
    (tmp_path / "config.json").write_text(json.dumps(config | {"text_tower": stated}))
    with pytest.raises(ValueError, match="text_tower"):
        inti_models.load(tmp_path)


def test_words_that_no_head_can_be_made_of_leave_the_model_as_it_is(clips):
    model = create(clips[OPENAI], pretrained=False)
    head, cfg = model.head, model.pretrained_cfg
    with pytest.raises(ValueError, match="does not fit into the 77 tokens"):
        inti_models.set_zero_shot_head(model, ["jump" * 100])
    assert model.head is head and model.pretrained_cfg is cfg and model.num_classes == 51


@pytest.mark.parametrize(
    ("classes", "templates", "message"),
    [
        ([], None, "no classes"),
        ("riding a bike", None, "is one string"),
        (["jump", " "], None, "Class 1 has an empty name"),
        (["jump"], ["a video of jumping"], "has no place for the class"),
        (["jump"], [], "no templates"),
        (["jump"], "k700", "no templates 'k700'; choose one of k400"),
    ],
)
def test_bad_words_are_told_in_a_sentence(clips, classes, templates, message):
    with pytest.raises(ValueError, match=message):
        inti_models.set_zero_shot_head(create(clips[OPENAI], pretrained=False), classes, templates)


def test_long_class_names_are_cut_at_a_word_and_named(clips, caplog):
    model = create(clips[OPENAI], pretrained=False)
    inti_models.set_zero_shot_head(model, ["jump " * 80, "sit"], ["a video of {} and more"])
    (said,) = [record.message for record in caplog.records if "longer than the 77 tokens" in record.message]
    cut = said.rpartition("'")[0].rpartition("'")[2]
    assert set(cut.split()) == {"jump"} and len(open_clip.SimpleTokenizer().encode(f"a video of {cut} and more")) == 75
    assert model.pretrained_cfg["label_names"][0] == "jump " * 80
    other = create(clips[OPENAI], pretrained=False)
    inti_models.set_zero_shot_head(other, [cut, "sit"], ["a video of {} and more"])
    assert torch.equal(model.head.classes.weight, other.head.classes.weight)


@torch.no_grad()
def test_classes_that_are_there_twice_or_spelled_with_entities_are_named(clips, caplog):
    model = create(clips[OPENAI], pretrained=False)
    inti_models.set_zero_shot_head(model, ["rock &amp; roll", "Jump", "rock & roll", "jump"], ["{}", "{}"])
    text = caplog.text
    assert "'rock &amp; roll' is spelled with an HTML entity, and read as 'rock & roll'" in text
    assert "The class 'rock & roll' occurs twice, as 'rock &amp; roll' too" in text
    assert "The class 'jump' occurs twice, as 'Jump' too" in text and "The template '{}' occurs twice;" in text
    rows = model.head.classes.weight
    assert_close(rows[0], rows[2])
    assert_close(rows[1], rows[3])


def test_templates_come_from_a_file(tmp_path):
    file = tmp_path / "templates.txt"
    file.write_bytes("\ufeffa clip of {}.\r\n\n  someone doing {}  \n".encode())
    assert zero_shot.read_templates(file) == ["a clip of {}.", "someone doing {}"]
    for content, message in ((b"\n", "has no templates"), (b"a clip", "no place for the class"), (b"\xff{}", "UTF-8")):
        file.write_bytes(content)
        with pytest.raises(ValueError, match=message):
            zero_shot.read_templates(file)
    with pytest.raises(FileNotFoundError, match="no template file"):
        zero_shot.read_templates(tmp_path / "absent.txt")


def test_models_without_a_clip_are_told_in_a_sentence(clips, tiny, tmp_path):
    clip = clips[OPENAI]
    with pytest.raises(ValueError, match="does not start from a CLIP"):
        inti_models.set_zero_shot_head(tiny(), WORDS)
    with pytest.raises(ValueError, match="inti_vit_b16_hmdb51 does not start from a CLIP"):
        own = create(clip, pretrained=False, overlay={"source": "hf-hub", "hf_hub_id": "me/mine", "file": None})
        inti_models.set_zero_shot_head(own, WORDS)
    tiny_file = tmp_path / "t8.safetensors"
    t8 = timm.create_model("inti_vit_t8_32_motiondigits", pretrained_cfg_overlay={"file": str(tiny_file)})
    save_checkpoint(t8, tiny_file)
    with pytest.raises(ValueError, match="t8.safetensors has no text tower"):
        inti_models.set_zero_shot_head(t8, WORDS)
    with pytest.raises(ValueError, match="model.safetensors has no text tower"):
        inti_models.set_zero_shot_head(create(clip, file=clip.folder / "model.safetensors", pretrained=False), WORDS)
    mlp = tmp_path / "mlp.safetensors"
    save_file(load_file(weights(clip)) | {"visual.head.mlp.fc1.weight": torch.zeros(2, 2)}, mlp)
    with pytest.raises(ValueError, match="does not project its image features linearly"):
        inti_models.set_zero_shot_head(create(clip, file=mlp, pretrained=False), WORDS)
    with pytest.raises(ValueError, match="an image tower of width 64, but the model has 32"):
        inti_models.set_zero_shot_head(create(clip, pretrained=False, embed_dim=32), WORDS)
    with pytest.raises(FileNotFoundError, match="no checkpoint"):
        inti_models.set_zero_shot_head(create(clip, file=tmp_path / "absent.safetensors", pretrained=False), WORDS)


@pytest.mark.parametrize(
    ("key", "change", "message"),
    [
        ("token_embedding.weight", lambda x: x[:1000], "does not say how its text tower is built"),
        ("transformer.resblocks.1.ln_1.weight", lambda x: x[:9], "that open_clip does not build"),
        ("transformer.resblocks.1.ln_1.weight", lambda x: x * torch.nan, "not finite"),
        ("visual.proj", lambda x: x[:9], "width 9, but the model has 64"),
    ],
)
def test_damaged_towers_are_told_in_a_sentence(clips, key, change, message, cache):
    state = load_file(weights(clips[OPENAI]))
    state[key] = change(state[key])
    with pytest.raises(ValueError, match=message):
        build_head(towers(clips[OPENAI], state), 64, WORDS)
    assert not cache.exists()


def test_a_text_tower_that_leaves_its_heads_open_needs_its_config(clips, tmp_path):
    clip = clips[OPENAI]
    lone = Path(shutil.copy(weights(clip), tmp_path))
    model = create(clip, file=lone, pretrained=False, overlay={"hf_hub_id": None})
    with pytest.raises(
        ValueError, match=r"does not say how its text tower is built.*; put its open_clip_config.json beside it"
    ):
        inti_models.set_zero_shot_head(model, WORDS)
    shutil.copy(clip.folder / "open_clip_config.json", tmp_path)
    inti_models.set_zero_shot_head(model, WORDS)
    assert torch.equal(model.head.classes.weight, build_head(towers(clip), 64, WORDS).classes.weight)


@pytest.mark.parametrize(
    ("text_cfg", "message"),
    [
        ({"layers": 10**9}, "does not say how its text tower is built"),  # of another file
        ({"run": "this"}, "open_clip does not build"),
        ({"heads": 5}, "open_clip does not build"),
        ({"tokenizer_kwargs": {"trust_remote_code": True}}, "asks for a tokenizer with trust_remote_code"),
        ({"hf_tokenizer_name": "org/none"}, "tokenizer org/none"),
    ],
)
def test_a_config_that_makes_no_tower_or_would_run_code_is_refused(clips, tmp_path, text_cfg, message, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    folder = Path(shutil.copytree(clips[OPENAI].folder, tmp_path / "clip"))
    config = json.loads((folder / "open_clip_config.json").read_text())
    config["model_cfg"]["text_cfg"] |= text_cfg
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    model = create(clips[OPENAI], file=folder / "open_clip_model.safetensors", pretrained=False)
    model.pretrained_cfg["hf_hub_id"] = None
    with pytest.raises((ValueError, OSError), match=message):
        inti_models.set_zero_shot_head(model, WORDS)


def test_heads_are_64_wide_and_the_activation_is_the_models_without_a_config(clips, tmp_path):
    model_cfg = {
        "embed_dim": 8,
        "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "head_width": 16, "patch_size": 16},
        "text_cfg": {"width": 128, "heads": 2, "layers": 2},
        "quick_gelu": True,
    }
    clip = open_clip.CLIP(**model_cfg)
    clip.token_embedding.weight.data.mul_(50)
    save_file(clip.state_dict(), tmp_path / "clip.safetensors")
    model = timm.create_model(
        "inti_vit_b16_k400", img_size=32, embed_dim=64, depth=2, num_heads=4,
        pretrained_cfg_overlay={"file": str(tmp_path / "clip.safetensors")},
    )  # fmt: skip
    inti_models.set_zero_shot_head(model, WORDS)
    text = open_clip.build_zero_shot_classifier(clip, open_clip.tokenize, WORDS, TEMPLATES["any"])
    assert_close(model.head.projection.weight, clip.visual.proj.T)
    assert_close(F.normalize(model.head.classes.weight, dim=1), text.T, rtol=0, atol=1e-5)


@torch.no_grad()
def test_a_text_tower_of_transformers_makes_a_head(tmp_path):
    """As that of LAION's H/14 with XLM-RoBERTa, with open_clip's projection by an MLP."""
    text = transformers.XLMRobertaConfig(
        vocab_size=300, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64
    )
    text.save_pretrained(tmp_path / "text")
    miniature_towers.save_tokenizer(tmp_path, siglip=False)
    model_cfg = {
        "embed_dim": 8,
        "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "head_width": 16, "patch_size": 16},
        "text_cfg": {
            "hf_model_name": str(tmp_path / "text"),
            "hf_tokenizer_name": "org/text",
            "hf_model_pretrained": False,
        },
    }
    clip = open_clip.CustomTextCLIP(**model_cfg).eval()
    save_file(clip.state_dict(), tmp_path / "clip.safetensors")
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": model_cfg}))
    model = timm.create_model(
        "inti_vit_b16_k400", img_size=32, embed_dim=64, depth=2, num_heads=4,
        pretrained_cfg_overlay={"file": str(tmp_path / "clip.safetensors")},
    )  # fmt: skip
    inti_models.set_zero_shot_head(model, WORDS)
    tokenizer = open_clip.get_tokenizer(f"local-dir:{tmp_path}")
    text = open_clip.build_zero_shot_classifier(clip, tokenizer, WORDS, TEMPLATES["any"])
    assert_close(F.normalize(model.head.classes.weight, dim=1), text.T, rtol=0, atol=1e-5)
    vectors = model.head.classes.weight
    miniature_towers.save_tokenizer(tmp_path, siglip=True)  # another one: what is in the cache is not taken
    inti_models.set_zero_shot_head(model, WORDS)
    assert (model.head.classes.weight - vectors).abs().max() > 1e-2


# The cache


def test_cached_head_is_the_same_without_the_text_tower(clips, cache, monkeypatch, capsys):
    first = create(clips[OPENAI])
    assert "Text tower" in capsys.readouterr().err
    (file,) = cache.iterdir()
    written = file.stat().st_mtime_ns
    monkeypatch.setitem(sys.modules, "open_clip", None)
    again = create(clips[OPENAI])
    assert all(torch.equal(again.head.state_dict()[key], value) for key, value in first.head.state_dict().items())
    assert [f.stat().st_mtime_ns for f in cache.iterdir()] == [written]
    assert "Text tower" not in capsys.readouterr().err


def test_all_that_determines_the_head_determines_its_file(clips, cache, tmp_path):
    clip, state = clips[OPENAI], load_file(weights(clips[OPENAI]))
    model = create(clip, pretrained=False)
    folder = tmp_path / "gelu"
    shutil.copytree(clip.folder, folder)
    config = json.loads((folder / "open_clip_config.json").read_text())
    config["model_cfg"] |= {"quick_gelu": False}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    config["model_cfg"]["text_cfg"]["heads"] = 4
    four_heads = tmp_path / "four_heads"
    shutil.copytree(clip.folder, four_heads)
    (four_heads / "open_clip_config.json").write_text(json.dumps(config))

    def changed(key):
        return state | {key: state[key] + 1e-3}

    def beside(folder):
        return towers_of(model, state, folder / "open_clip_model.safetensors")

    file = towers(clip, state, model)
    build_head(file, 64, WORDS)
    variants = [
        (file, WORDS[::-1], None),
        (file, WORDS[:2], None),
        (file, WORDS, ["{}"]),
        (file, WORDS, TEMPLATES["any"][::-1]),
        *(
            (towers(clip, changed(key), model), WORDS, None)
            for key in ("token_embedding.weight", "ln_final.bias", "logit_scale", "visual.proj")
        ),
        (beside(folder), WORDS, None),
        (beside(four_heads), WORDS, None),
    ]
    for count, (tensors, names, templates) in enumerate(variants, start=2):
        build_head(tensors, 64, names, templates)
        assert len(list(cache.iterdir())) == count
    for tensors, names, templates in variants:
        build_head(tensors, 64, names, templates)
    assert len(list(cache.iterdir())) == 1 + len(variants)


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[:-5],
        lambda data: data[:-5] + bytes([data[-5] ^ 1]) + data[-4:],
        lambda data: b"not safetensors" * 100,
    ],
    ids=["empty", "truncated", "one bit", "foreign"],
)
def test_damaged_cache_is_built_again(clips, damage, cache):
    file_of_towers = towers(clips[OPENAI])
    head = build_head(file_of_towers, 64, WORDS).state_dict()
    (file,) = cache.iterdir()
    file.write_bytes(damage(file.read_bytes()))
    again = build_head(file_of_towers, 64, WORDS).state_dict()
    assert all(torch.equal(head[key], again[key]) for key in head)
    assert read_checkpoint(file)["classes.weight"].equal(head["classes.weight"])
    assert list(cache.iterdir()) == [file]


def test_head_of_another_shape_in_the_cache_is_built_again(clips, cache):
    file_of_towers = towers(clips[OPENAI])
    build_head(file_of_towers, 64, WORDS[:2])
    (other,) = cache.iterdir()
    head = build_head(file_of_towers, 64, WORDS)
    (file,) = set(cache.iterdir()) - {other}
    shutil.copy(other, file)
    assert torch.equal(build_head(file_of_towers, 64, WORDS).classes.weight, head.classes.weight)


def test_cache_that_cannot_be_written_is_no_error(clips, tmp_path, caplog):
    (tmp_path / "file").write_text("in the way")
    file = towers(clips[OPENAI])
    head = build_head(file, 64, WORDS, cache_dir=tmp_path / "file" / "heads")
    assert torch.equal(head.classes.weight, build_head(file, 64, WORDS).classes.weight)
    assert "cannot be cached in" in caplog.text


# Words and templates


@pytest.mark.parametrize(
    ("dataset", "name", "words"),
    [
        ("ucf101", "ApplyEyeMakeup", "apply eye makeup"),
        ("ucf101", "TaiChi", "tai chi"),
        ("ucf101", "Archery", "archery"),
        ("hmdb51", "brush_hair", "brush hair"),
        ("hmdb51", "golf", "golf"),
        ("k400", "passing American football (in game)", "passing American football (in game)"),
        ("ssv2", "Approaching something with your camera", "Approaching something with your camera"),
    ],
)
def test_class_names_become_words(dataset, name, words):
    assert name in zoo.label_names(dataset)
    assert class_words(name, dataset) == words


@pytest.mark.parametrize("dataset", ["k400", "ssv2", "ucf101", "hmdb51"])
def test_prompts_of_a_data_set_differ_and_fit_into_the_context(dataset):
    words = [class_words(name, dataset) for name in zoo.label_names(dataset)]
    prompts = [template.format(name) for name in words for template in TEMPLATES[dataset]]
    assert len(TEMPLATES[dataset]) >= 5
    tokens = open_clip.tokenize(prompts, context_length=120)
    assert len(tokens.unique(dim=0)) == len(prompts)
    assert tokens.argmax(dim=-1).max() < 77
    assert not any("_" in name for name in words)
    assert dataset not in CLASS_WORDS or all(name == name.lower() for name in words)


def test_example_labels_a_video_with_words(clips, tmp_path):
    """examples/zero_shot_labels.py, on a miniature CLIP."""
    example = load_module("examples/zero_shot_labels.py")
    write_video(tmp_path / "clip.mp4", torch.randint(256, (8, 3, 64, 64), dtype=torch.uint8), fps=8)
    found = example.label(create(clips[OPENAI]), str(tmp_path / "clip.mp4"), WORDS)
    assert sorted(label.name for label in found) == sorted(WORDS)
    assert sum(label.probability for label in found) == pytest.approx(1)
