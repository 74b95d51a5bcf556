"""Zero-shot heads against open_clip's own zero-shot pipeline, on miniature CLIPs that open_clip made."""

import json
import shutil
import sys
from pathlib import Path

import huggingface_hub
import open_clip
import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch.testing import assert_close

import inti_models
from inti_models import zoo
from inti_models.data import write_video
from inti_models.weights import zero_shot
from inti_models.weights.tensor_files import read_checkpoint, save_checkpoint
from inti_models.weights.zero_shot import CLASS_WORDS, TEMPLATES, build_head, class_words, text_features, typical_norm
from support import miniature_clips
from support.modules import load_module

OPENAI, LAION = "timm/vit_base_patch16_clip_224.openai", "timm/vit_base_patch16_clip_224.laion2b"
NAMES = {OPENAI: "inti_vit_b16_hmdb51", LAION: "inti_vit_b16_hmdb51.laion2b"}
WORDS = ["riding a bike", "feeding goats", "tying a knot"]
HEADS = 2  # of the miniatures' text tower, 32 wide


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
def test_stills_are_ranked_as_by_open_clip_at_nearly_its_temperature(clips, repo):
    clip = clips[repo]
    model = create(clip)
    if repo == LAION:  # a tag without a zero-shot head
        model.head.load_state_dict(build_head(load_file(weights(clip)), model, hmdb51_words(), "hmdb51"))
    images = stills(clip.preprocess.size)
    features = clip.model.encode_image(images)
    theirs = 100 * F.normalize(features, dim=-1) @ classifier(clip, hmdb51_words(), TEMPLATES["hmdb51"])
    ours = model(images)

    assert ranks_alike(ours, theirs) and not ranks_alike(ours.roll(1, dims=1), theirs)
    # They differ in one factor for each image, as if in temperature: the norm of its feature over the typical norm.
    factor = features.norm(dim=-1, keepdim=True) / typical_norm(load_file(weights(clip)))
    assert_close(ours, theirs * factor, rtol=1e-4, atol=2e-3)
    assert 0.7 < factor[:100].mean() < 1.3 and factor[:100].std() < 0.1  # a temperature of CLIP's, nearly


@pytest.mark.parametrize("repo", NAMES)
@torch.no_grad()
def test_typical_norm_is_that_of_projected_tokens_without_preferred_direction(clips, repo):
    visual = clips[repo].model.visual
    features = visual.ln_post(torch.randn(20_000, 64)) @ visual.proj
    expected = features.square().sum(dim=-1).mean().sqrt()
    assert typical_norm(load_file(weights(clips[repo]))) == pytest.approx(expected.item(), rel=0.01)


@pytest.mark.parametrize("repo", NAMES)
def test_text_features_are_those_of_open_clip(clips, repo):
    templates = TEMPLATES["ssv2"]
    prompts = [[template.format(name) for template in templates] for name in zoo.label_names("ssv2")[:40]]
    state = load_file(weights(clips[repo]))
    features = text_features(state, prompts, HEADS, quick_gelu=repo == OPENAI, batch_size=7)
    expected = classifier(clips[repo], zoo.label_names("ssv2")[:40], templates).T
    assert_close(features, expected, rtol=0, atol=1e-5)
    for heads, quick_gelu in ((1, repo == OPENAI), (HEADS, repo != OPENAI)):  # what the tensors do not say counts
        assert (text_features(state, prompts, heads, quick_gelu) - expected).abs().max() > 1e-4


@pytest.mark.parametrize("repo", NAMES)
@torch.no_grad()
def test_head_is_the_projection_then_the_cosine_at_a_typical_norm(clips, repo):
    clip = clips[repo]
    head = build_head(load_file(weights(clip)), create(clip, NAMES[repo], pretrained=False), WORDS)
    text = classifier(clip, WORDS, TEMPLATES["any"])  # D K
    pooled = torch.randn(10, 64)
    expected = 100 / typical_norm(load_file(weights(clip))) * (pooled @ clip.model.visual.proj) @ text
    assert_close(pooled @ head["weight"].T, expected, rtol=1e-4, atol=1e-3)
    assert head["bias"].tolist() == [0, 0, 0]


def test_every_tensor_of_the_file_is_used(clips):
    state = load_file(weights(clips[OPENAI]))
    model = create(clips[OPENAI], pretrained=False)
    trunk = {key for key in state if key.startswith("visual.") and key != "visual.proj"}
    assert len(trunk) == len(model.state_dict()) - len(model.interpolations.state_dict()) - 2
    head, text = build_head(state, model, WORDS)["weight"], text_features(state, [WORDS], HEADS, True)
    of_image_tower = {"visual.ln_post.weight", "visual.ln_post.bias", "visual.proj"}
    for key in sorted((state.keys() - trunk) | of_image_tower):
        changed = state | {key: state[key] + 0.1 * torch.randn_like(state[key])}
        if key in {*of_image_tower, "logit_scale"}:
            assert not torch.allclose(build_head(changed, model, WORDS)["weight"], head, rtol=1e-4), key
        else:
            assert not torch.allclose(text_features(changed, [WORDS], HEADS, True), text, rtol=0, atol=1e-5), key


def test_half_precision_file_gives_nearly_the_same_head(clips):
    state = load_file(weights(clips[OPENAI]))
    model = create(clips[OPENAI], pretrained=False)
    half = build_head({key: value.half() for key, value in state.items()}, model, WORDS)["weight"]
    full = build_head(state, model, WORDS)["weight"]
    assert half.dtype == torch.float32
    assert F.cosine_similarity(half, full).min() > 0.999


def test_building_leaves_the_generator_alone(clips):
    generator = torch.get_rng_state()
    build_head(load_file(weights(clips[OPENAI])), create(clips[OPENAI], pretrained=False, device="meta"), WORDS)
    assert torch.equal(torch.get_rng_state(), generator)


# timm.create_model


@pytest.mark.parametrize("dataset", ["k400", "ssv2", "ucf101", "hmdb51"])
@pytest.mark.parametrize("architecture", zoo.ARCHITECTURES)
def test_default_tag_is_openai_with_a_zero_shot_head(architecture, dataset):
    name = f"inti_vit_{architecture}_{dataset}"
    default, plain = timm.get_pretrained_cfg(name), timm.get_pretrained_cfg(f"{name}.openai")
    assert default.tag == zero_shot.TAG
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
    assert model.head.weight.dtype == torch.float64
    assert_close(model.head.weight.float(), plain.head.weight)
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


def test_zero_shot_head_has_the_precision_of_the_model_and_is_saved_with_its_words(clips, tmp_path):
    model = create(clips[OPENAI], num_classes=0, dtype=torch.bfloat16)
    inti_models.set_zero_shot_head(model, WORDS)
    head = model.head
    assert (head.in_features, head.out_features, head.weight.dtype) == (64, 3, torch.bfloat16)
    assert head.weight.requires_grad and model.num_classes == 3
    inti_models.save_pretrained(model, tmp_path / "saved")
    again = inti_models.load(tmp_path / "saved", dtype=torch.bfloat16)
    assert list(again.pretrained_cfg["label_names"]) == WORDS and torch.equal(again.head.weight, head.weight)


def test_words_that_no_head_can_be_made_of_leave_the_model_as_it_is(clips):
    model = create(clips[OPENAI], pretrained=False)
    head, cfg = model.head, model.pretrained_cfg
    with pytest.raises(ValueError, match="over 77 tokens"):
        inti_models.set_zero_shot_head(model, ["jump " * 80])
    assert model.head is head and model.pretrained_cfg is cfg and model.num_classes == 51


@pytest.mark.parametrize(
    ("classes", "templates", "message"),
    [
        ([], None, "no classes"),
        ("riding a bike", None, "is one string"),
        (["jump", " "], None, "Class 1 has an empty name"),
        (["jump", "sit", "Jump "], None, "'Jump' is there twice"),
        (["jump"], ["a video of jumping"], "has no place for the class"),
        (["jump"], [], "no templates"),
        (["jump"], "k700", "no templates 'k700'; choose one of k400"),
    ],
)
def test_bad_words_are_told_in_a_sentence(clips, classes, templates, message):
    with pytest.raises(ValueError, match=message):
        inti_models.set_zero_shot_head(create(clips[OPENAI], pretrained=False), classes, templates)


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
    siglip = tmp_path / "siglip.safetensors"
    save_file(load_file(weights(clip)) | {"logit_bias": torch.zeros(())}, siglip)
    with pytest.raises(ValueError, match="no text tower of CLIP's kind"):
        inti_models.set_zero_shot_head(create(clip, file=siglip, pretrained=False), WORDS)
    with pytest.raises(ValueError, match="a CLIP of width 64, the model has 32"):
        inti_models.set_zero_shot_head(create(clip, pretrained=False, embed_dim=32), WORDS)
    with pytest.raises(FileNotFoundError, match="no checkpoint"):
        inti_models.set_zero_shot_head(create(clip, file=tmp_path / "absent.safetensors", pretrained=False), WORDS)


@pytest.mark.parametrize(
    ("key", "change", "message"),
    [
        ("token_embedding.weight", lambda x: x[:1000], "not those of CLIP"),
        ("transformer.resblocks.1.ln_1.weight", lambda x: x[:9], "text tower is not CLIP's"),
        ("transformer.resblocks.1.ln_1.weight", lambda x: x * torch.nan, "not finite"),
        ("visual.ln_post.weight", lambda x: x[:9], "width 9 and 64"),
    ],
)
def test_damaged_towers_are_told_in_a_sentence(clips, key, change, message, cache):
    state = load_file(weights(clips[OPENAI]))
    state[key] = change(state[key])
    with pytest.raises(ValueError, match=message):
        build_head(state, create(clips[OPENAI], pretrained=False), WORDS)
    assert not cache.exists()


def test_text_tower_of_another_kind_or_unknown_heads_is_told_in_a_sentence(clips, tmp_path):
    clip = clips[OPENAI]
    lone = Path(shutil.copy(weights(clip), tmp_path))
    model = create(clip, file=lone, pretrained=False, overlay={"hf_hub_id": None})
    with pytest.raises(
        ValueError, match="leaves the number of its heads open; put its open_clip_config.json beside it"
    ):
        inti_models.set_zero_shot_head(model, WORDS)
    config = json.loads((clip.folder / "open_clip_config.json").read_text())
    config["model_cfg"]["text_cfg"]["no_causal_mask"] = True
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"not CLIP's \(no_causal_mask"):
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
    assert_close(
        F.normalize(model.head.weight, dim=1), F.normalize((clip.visual.proj @ text).T, dim=1), rtol=0, atol=1e-5
    )


# The cache


def test_cached_head_is_the_same_without_the_text_tower(clips, cache, monkeypatch, capsys):
    first = create(clips[OPENAI])
    assert "Text tower" in capsys.readouterr().err
    (file,) = cache.iterdir()
    written = file.stat().st_mtime_ns
    monkeypatch.setitem(sys.modules, "open_clip", None)
    again = create(clips[OPENAI])
    assert torch.equal(first.head.weight, again.head.weight) and torch.equal(first.head.bias, again.head.bias)
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

    build_head(state, model, WORDS)
    variants = [
        (state, model, WORDS[::-1], None),
        (state, model, WORDS[:2], None),
        (state, model, WORDS, ["{}"]),
        (state, model, WORDS, TEMPLATES["any"][::-1]),
        (changed("token_embedding.weight"), model, WORDS, None),
        (changed("ln_final.bias"), model, WORDS, None),
        (changed("logit_scale"), model, WORDS, None),
        (changed("visual.proj"), model, WORDS, None),
        (changed("visual.ln_post.bias"), model, WORDS, None),
        (state, create(clip, pretrained=False, file=folder / "open_clip_model.safetensors"), WORDS, None),
        (state, create(clip, pretrained=False, file=four_heads / "open_clip_model.safetensors"), WORDS, None),
    ]
    for count, (tensors, target, names, templates) in enumerate(variants, start=2):
        build_head(tensors, target, names, templates)
        assert len(list(cache.iterdir())) == count
    for tensors, target, names, templates in variants:
        build_head(tensors, target, names, templates)
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
    state, model = load_file(weights(clips[OPENAI])), create(clips[OPENAI], pretrained=False)
    head = build_head(state, model, WORDS)
    (file,) = cache.iterdir()
    file.write_bytes(damage(file.read_bytes()))
    again = build_head(state, model, WORDS)
    assert all(torch.equal(head[key], again[key]) for key in head)
    assert read_checkpoint(file)["weight"].equal(head["weight"])
    assert list(cache.iterdir()) == [file]


def test_head_of_another_shape_in_the_cache_is_built_again(clips, cache):
    state, model = load_file(weights(clips[OPENAI])), create(clips[OPENAI], pretrained=False)
    build_head(state, model, WORDS[:2])
    (other,) = cache.iterdir()
    head = build_head(state, model, WORDS)
    (file,) = set(cache.iterdir()) - {other}
    shutil.copy(other, file)
    assert torch.equal(build_head(state, model, WORDS)["weight"], head["weight"])


def test_cache_that_cannot_be_written_is_no_error(clips, tmp_path, caplog):
    (tmp_path / "file").write_text("in the way")
    state, model = load_file(weights(clips[OPENAI])), create(clips[OPENAI], pretrained=False)
    head = build_head(state, model, WORDS, cache_dir=tmp_path / "file" / "heads")
    assert torch.equal(head["weight"], build_head(state, model, WORDS)["weight"])
    assert "is not kept in" in caplog.text


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
