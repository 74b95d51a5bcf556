"""`inti_models.weights.convert`: foreign checkpoints against the forward pass of the library they come from."""

import json
import re
import warnings
from pathlib import Path

import open_clip
import pytest
import timm
import torch
from open_clip.model import build_model_from_openai_state_dict
from safetensors.torch import load_file, save_file

import inti_models
from inti_models.cli import main
from inti_models.inference.predict import VideoClassifier
from inti_models.models.registry import create_model
from inti_models.weights import convert
from inti_models.weights.checkpoint_filter import load_checkpoint
from inti_models.weights.tensor_files import read_checkpoint
from support.models import randomize_model_
from support.modules import load_module

# Every foreign model below, and the InTI model that has its trunk.
SIZES = {"img_size": 32, "patch_size": 8, "embed_dim": 128, "depth": 2, "num_heads": 2}
OPTIONS = {**SIZES, "num_classes": 5, "reduction": 4}
TEXT = {"context_length": 8, "vocab_size": 50, "width": 64, "heads": 1, "layers": 1}
VISION = {"image_size": 32, "patch_size": 8, "width": 128, "layers": 2, "head_width": 64}
MODEL = "inti_vit_b16_k400"


@pytest.fixture
def randomize_():
    """Draw every parameter anew, CLIP's scalars included, and return the model for evaluation."""

    @torch.no_grad()
    def draw(model):
        for parameter in model.parameters():
            parameter.normal_(std=0.5 if parameter.ndim < 2 else 2 * parameter[0].numel() ** -0.5)
        return model.eval()

    return draw


@pytest.fixture
def images():
    return torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@torch.inference_mode()
def features(model, x):
    return model.forward_head(model.forward_features(x), pre_logits=True)


@torch.inference_mode()
def assert_same_features(path, expected, images, model=MODEL, project=lambda x: x, **options):
    """T = 1 equals the source per image; a naive clip of the images equals the source's mean over them."""
    naive, source, dropped = convert.convert_checkpoint(path, model, {**OPTIONS, "compress_at": (), **options})
    torch.testing.assert_close(project(features(naive, images)), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(project(features(naive, images[:, None])), expected, atol=1e-5, rtol=1e-5)
    clip = project(features(naive, images[None]))
    torch.testing.assert_close(clip, expected.mean(0, keepdim=True), atol=1e-5, rtol=1e-5)

    compressed, _, _ = convert.convert_checkpoint(path, model, {**OPTIONS, "compress_at": (1,), **options})
    torch.testing.assert_close(project(features(compressed, images)), expected, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(project(features(compressed, images[None])), clip, atol=1e-3)

    trunk = {key for key in naive.state_dict() if not key.startswith("head.")}
    used = {source.prefix + name for key in trunk for name in source.layout.names(key)}
    assert used | dropped.keys() == source.tensors.keys() | source.dropped.keys()
    assert not used & dropped.keys()
    return naive, source, dropped


@pytest.fixture
def clip_model(randomize_):
    return lambda quick_gelu: randomize_(open_clip.CLIP(16, VISION, TEXT, quick_gelu=quick_gelu))


@pytest.mark.parametrize("quick_gelu", [True, False])
@torch.inference_mode()
def test_open_clip(quick_gelu, clip_model, images, tmp_path):
    clip = clip_model(quick_gelu)
    save_file(clip.state_dict(), tmp_path / "open_clip_model.safetensors")
    expected = clip.encode_image(images)
    _, source, dropped = assert_same_features(
        tmp_path / "open_clip_model.safetensors",
        expected,
        images,
        model=MODEL if quick_gelu else f"{MODEL}.laion2b",
        project=lambda x: x @ clip.visual.proj,
    )
    assert source.layout.title == "OpenAI's CLIP or open_clip"
    assert {name for name in clip.state_dict() if not name.startswith("visual.")} == dropped.keys() - {"visual.proj"}


@torch.inference_mode()
def test_the_activation_and_heads_are_read_from_the_configuration_beside_the_file(clip_model, images, tmp_path):
    clip = clip_model(False)
    torch.save({"epoch": 3, "state_dict": {f"module.{k}": v for k, v in clip.state_dict().items()}}, tmp_path / "e.pt")
    config = {"model_cfg": {"embed_dim": 16, "vision_cfg": VISION, "text_cfg": TEXT}, "preprocess_cfg": {}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    options = {name: value for name, value in OPTIONS.items() if name != "num_heads"}
    model, _, dropped = convert.convert_checkpoint(tmp_path / "e.pt", MODEL, options)
    torch.testing.assert_close(features(model, images) @ clip.visual.proj, clip.encode_image(images))
    assert dropped["epoch"] == "state of a training run"

    (tmp_path / "open_clip_config.json").write_text('{"architecture": "vit_base_patch16_224"}')
    with pytest.raises(ValueError, match="open_clip_config.json is not a configuration of OpenAI's CLIP or open_clip"):
        convert.convert_checkpoint(tmp_path / "e.pt", MODEL, options)


@torch.inference_mode()
def test_openai_in_half_precision_with_its_sizes(clip_model, images, tmp_path):
    state = clip_model(True).half().state_dict()
    state |= {"input_resolution": torch.tensor(32), "context_length": torch.tensor(8), "vocab_size": torch.tensor(50)}
    torch.save(state, tmp_path / "clip.pt")
    openai = build_model_from_openai_state_dict(dict(state), cast_dtype=torch.float32).float().eval()
    assert_same_features(
        tmp_path / "clip.pt", openai.encode_image(images), images, project=lambda x: x @ openai.visual.proj
    )


@torch.inference_mode()
def test_open_clip_with_a_tower_of_timms(randomize_, images, tmp_path):
    images = torch.nn.functional.interpolate(images, size=224)
    vision = {"timm_model_name": "vit_tiny_patch16_224", "timm_pool": "token", "timm_proj": "linear"}
    clip = randomize_(open_clip.CustomTextCLIP(16, vision, TEXT))
    save_file(clip.state_dict(), tmp_path / "model.safetensors")
    model, _, dropped = convert.convert_checkpoint(
        tmp_path / "model.safetensors", "inti_vit", {"base": "vit_tiny_patch16_224", "compress_at": ()}
    )
    projected = clip.visual.head(features(model, images))
    torch.testing.assert_close(projected, clip.encode_image(images), atol=1e-5, rtol=1e-5)
    assert dropped["visual.head.proj.weight"] == "projection to the space of texts"


@pytest.mark.parametrize("act_layer", ["quick_gelu", "gelu"])
@torch.inference_mode()
def test_timm(act_layer, randomize_, images, tmp_path):
    vit = randomize_(timm.create_model("vit_base_patch16_clip_224", **SIZES, num_classes=7, act_layer=act_layer))
    save_file(vit.state_dict(), tmp_path / "model.safetensors")
    expected = vit.forward_head(vit.forward_features(images), pre_logits=True)
    _, _, dropped = assert_same_features(tmp_path / "model.safetensors", expected, images, act_layer=act_layer)
    assert dropped.keys() == {"head.weight", "head.bias"}

    (tmp_path / "config.json").write_text(
        json.dumps({"architecture": "vit_base_patch16_clip_224", "model_args": {"act_layer": act_layer}})
    )
    assert_same_features(tmp_path / "model.safetensors", expected, images)


def transformers_model(kind, activation):
    transformers = pytest.importorskip("transformers")
    vision = {
        "hidden_size": 128,
        "intermediate_size": 512,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 32,
        "patch_size": 8,
        "hidden_act": activation,
        "projection_dim": 16,
    }
    if kind == "CLIPVisionModel":
        return transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**vision))
    text = {
        "hidden_size": 64,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "vocab_size": 50,
        "max_position_embeddings": 8,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    return transformers.CLIPModel(transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=16))


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
@pytest.mark.parametrize("kind", ["CLIPVisionModel", "CLIPModel"])
@torch.inference_mode()
def test_transformers(kind, activation, randomize_, images, tmp_path):
    foreign = randomize_(transformers_model(kind, activation))
    vision = foreign if kind == "CLIPVisionModel" else foreign.vision_model
    expected = vision(pixel_values=images).pooler_output

    foreign.save_pretrained(tmp_path)
    assert_same_features(tmp_path / "model.safetensors", expected, images)
    (tmp_path / "config.json").unlink()
    assert_same_features(tmp_path / "model.safetensors", expected, images, act_layer=activation)


@torch.inference_mode()
def test_transformers_as_its_releases_before_5_saved_it(randomize_, images, tmp_path):
    foreign = randomize_(transformers_model("CLIPVisionModel", "quick_gelu"))
    state = {f"vision_model.{name.removeprefix('vision_model.')}": v for name, v in foreign.state_dict().items()}
    state["vision_model.embeddings.position_ids"] = torch.arange(17)[None]
    torch.save(state, tmp_path / "pytorch_model.bin")
    expected = foreign(pixel_values=images).pooler_output
    _, _, dropped = assert_same_features(tmp_path / "pytorch_model.bin", expected, images)
    assert dropped.keys() == {"vision_model.embeddings.position_ids"}


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"model_type": "clip_vision_model", "layer_norm_eps": 1e-6}, "layer norms of eps 1e-06"),
        ({"model_type": "siglip_vision_model"}, "config.json is not a configuration of transformers"),
        ({"architecture": "vit_base_patch16_clip_224"}, "config.json is not a configuration of transformers"),
    ],
)
def test_a_configuration_that_does_not_fit_is_refused(config, sentence, tmp_path):
    torch.save({"embeddings.patch_embedding.weight": torch.ones(1)}, tmp_path / "pytorch_model.bin")
    (tmp_path / "config.json").write_text(json.dumps({"num_attention_heads": 2, **config}))
    with pytest.raises(ValueError, match=sentence):
        convert.convert_checkpoint(tmp_path / "pytorch_model.bin", MODEL, OPTIONS)


@pytest.fixture
def state(clip_model):
    """A whole CLIP of open_clip's that fits `OPTIONS`."""
    return dict(clip_model(True).state_dict())


BLOCK = "visual.transformer.resblocks.1"
FAULTS = {
    "missing": (lambda s: s.pop(f"{BLOCK}.mlp.c_fc.bias"), f"lacks {BLOCK}.mlp.c_fc.bias that the model needs"),
    "missing embedding": (lambda s: s.pop("visual.class_embedding"), "lacks visual.class_embedding"),
    "unknown": (lambda s: s.update({f"{BLOCK}.ls_1.gamma": torch.ones(128)}), f"has {BLOCK}.ls_1.gamma that the"),
    "unknown at the top": (lambda s: s.update({"temperature": torch.ones(1)}), "has temperature that the model"),
    "deeper": (
        lambda s: s.update({k.replace("resblocks.1", "resblocks.2"): v for k, v in s.items() if BLOCK in k}),
        "has visual.transformer.resblocks.2.attn.in_proj_bias and 11 more",
    ),
    "another shape": (
        lambda s: s.update({"visual.positional_embedding": torch.ones(50, 128)}),
        r"has visual.positional_embedding of shape \(50, 128\) where the model has \(1, 17, 128\)",
    ),
    "transposed": (
        lambda s: s.update({f"{BLOCK}.mlp.c_fc.weight": torch.ones(128, 512)}),
        r"mlp.c_fc.weight of shape \(128, 512\) where the model has \(512, 128\)",
    ),
    "not finite": (
        lambda s: s[f"{BLOCK}.ln_1.bias"].fill_(float("nan")),
        "ln_1.bias of another type, or with values that are not finite",
    ),
    "integers": (
        lambda s: s.update({f"{BLOCK}.ln_1.bias": torch.ones(128, dtype=torch.long)}),
        "ln_1.bias of another type, or with values that are not finite",
    ),
    "no vision transformer": (lambda s: s.pop("visual.conv1.weight"), "has no known layout"),
    "not tensors": (lambda s: s.update({"epoch": 3}), "is not a state dict"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_checkpoint_that_does_not_fit_exactly_is_refused(fault, state, tmp_path):
    change, sentence = FAULTS[fault]
    change(state)
    torch.save(state, tmp_path / "clip.pt")
    with pytest.raises(ValueError, match=sentence) as error:
        convert.convert_checkpoint(tmp_path / "clip.pt", MODEL, OPTIONS)
    assert str(tmp_path / "clip.pt") in str(error.value)
    assert "\n" not in str(error.value)


def test_each_of_query_key_and_value_has_to_fit(tmp_path):
    state = dict(transformers_model("CLIPVisionModel", "quick_gelu").state_dict())
    name = next(name for name in state if name.endswith("layers.0.self_attn.k_proj.weight"))
    state[name] = state[name][:64]
    torch.save(state, tmp_path / "clip.bin")
    with pytest.raises(ValueError, match=r"k_proj.weight of shape \(64, 128\) where the model has \(128, 128\)"):
        convert.convert_checkpoint(tmp_path / "clip.bin", MODEL, OPTIONS)
    del state[name]
    torch.save(state, tmp_path / "clip.bin")
    with pytest.raises(ValueError, match="lacks .*layers.0.self_attn.k_proj.weight"):
        convert.convert_checkpoint(tmp_path / "clip.bin", MODEL, OPTIONS)


def test_another_architecture_is_refused(state, tmp_path):
    torch.save(state, tmp_path / "clip.pt")
    with pytest.raises(ValueError, match="clip.pt .*of shape .*name the model of that size"):
        convert.convert_checkpoint(tmp_path / "clip.pt", MODEL, {**OPTIONS, "img_size": 64})
    with pytest.raises(ValueError, match="has visual.ln_pre.bias and 1 more that the model has no place for|lacks"):
        convert.convert_checkpoint(tmp_path / "clip.pt", "inti_vit_t8_32_motiondigits")


class Plant:
    """A pickle that makes a file when it is read."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("legacy", [False, True])
def test_code_in_a_pickle_is_never_run(legacy, state, tmp_path):
    planted = tmp_path / "planted"
    path = tmp_path / "clip.pt"
    torch.save({**state, "extra": Plant(planted)}, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(ValueError, match="holds more than tensors, which could run code"):
        convert.read(path)
    assert not planted.exists()
    torch.load(path, weights_only=False)  # the trap works
    assert planted.exists()


def test_a_torchscript_archive_is_refused_by_name(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), tmp_path / "ViT-B-16.pt")
    with pytest.raises(ValueError, match="is a TorchScript archive, as OpenAI publishes its models"):
        convert.read(tmp_path / "ViT-B-16.pt")
    for load in (inti_models.load, lambda path: load_checkpoint(None, path)):  # nor is the command advised, in vain
        with pytest.raises(ValueError, match="is a TorchScript archive.* take the same weights as"):
            load(tmp_path / "ViT-B-16.pt")


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.safetensors", b"", "is not a complete safetensors file"),
        ("a.safetensors", b"\x10" + bytes(7) + b"{}", "is not a complete safetensors file"),
        ("a.pt", b"", "is not a complete PyTorch checkpoint|is damaged"),
        ("a.pt", b"PK\x03\x04" + bytes(99), "is not a complete PyTorch checkpoint|is damaged"),
        ("a.bin", b"not a pickle", "is not a complete PyTorch checkpoint|is damaged"),
        ("a.ckpt", b"", "is neither .safetensors nor one of .pt, .pth, .pyth, .bin"),
    ],
)
def test_a_file_that_is_no_checkpoint_is_one_sentence(name, content, sentence, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=sentence) as error:
        convert.read(tmp_path / name)
    assert "\n" not in str(error.value)


def test_a_truncated_pickle_is_one_sentence(state, tmp_path):
    torch.save(state, tmp_path / "clip.pt")
    whole = (tmp_path / "clip.pt").read_bytes()
    for keep in (100, len(whole) // 2, len(whole) - 10):
        (tmp_path / "clip.pt").write_bytes(whole[:keep])
        with pytest.raises(ValueError, match="is not a complete PyTorch checkpoint|is damaged"):
            convert.read(tmp_path / "clip.pt")


def test_no_file_and_a_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist; check the path"):
        convert.read(tmp_path / "absent.pt")
    with pytest.raises(FileNotFoundError, match="is a folder; name the weights file in it"):
        convert.read(tmp_path)


def arguments(**options):
    return [word for name, value in options.items() for word in ("--set", f"{name}={json.dumps(value)}")]


def test_the_command_writes_a_folder_that_timm_loads(state, images, tmp_path, capsys):
    torch.save(state, tmp_path / "clip.pt")
    output = tmp_path / "made" / "converted"
    command = [str(tmp_path / "clip.pt"), "--model", MODEL, "--output", str(output), "--license", "mit"]
    assert main(["convert", *command, *arguments(**OPTIONS, compress_at=[1])]) == 0
    printed = capsys.readouterr().out
    assert "logit_scale: scale of the contrastive loss" in printed
    assert "visual.proj: projection to the space of texts" in printed
    assert "OpenAI's CLIP or open_clip; QuickGELU, 2 heads" in printed

    expected, _, _ = convert.convert_checkpoint(tmp_path / "clip.pt", MODEL, {**OPTIONS, "compress_at": (1,)})
    loaded = timm.create_model(f"local-dir:{output}", pretrained=True).eval()
    assert loaded.compress_at == (1,) and loaded.num_classes == 5
    clip = images[None, :2]
    assert torch.equal(features(loaded, clip), features(expected, clip))
    config = json.loads((output / "config.json").read_text())
    assert config["pretrained_cfg"]["license"] == "mit"
    assert config["model_args"]["act_layer"] == "quick_gelu"
    assert "hf_hub_id" not in config["pretrained_cfg"]
    assert not list(output.glob("*.bin")) and (output / "model.safetensors").is_file()
    assert [path.name for path in output.parent.iterdir()] == ["converted"]

    before = load_file(output / "model.safetensors")
    assert main(["convert", *command, *arguments(**OPTIONS)]) == 1
    assert capsys.readouterr().err == f"inti-models: {output} exists; choose another folder, or remove it first.\n"
    assert all(torch.equal(tensor, before[name]) for name, tensor in load_file(output / "model.safetensors").items())


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--model", "inti_vit_b16_k700"], "not a model of this zoo"),
        (["--model", MODEL, "--set", "colour=red"], "{'colour': 'red'}"),
        (["--model", MODEL, "--set", "compress_at=[9]", *arguments(**SIZES)], "compress_at=[9] is not a schedule"),
        (["--model", MODEL, "--set", "num_heads=5"], "cannot be built with {'num_heads': 5}"),
        (["--model", MODEL, "--set", "act_layer=colour"], "{'act_layer': 'colour'}"),
        (["--model", MODEL, *arguments(**SIZES), "--set", "num_classes=many"], "'num_classes': 'many'"),
        (["--model", MODEL, "--set", "depth=2"], "of shape"),  # the right depth, but B/16's width
    ],
)
def test_the_command_says_what_is_wrong_in_one_line_and_writes_nothing(options, sentence, state, tmp_path, capsys):
    torch.save(state, tmp_path / "clip.pt")
    assert main(["convert", str(tmp_path / "clip.pt"), "--output", str(tmp_path / "out"), *options]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert sentence in error
    assert [path.name for path in tmp_path.iterdir()] == ["clip.pt"]


golden = load_module("tests/models/temporal/golden/make.py")

# Case of the golden files -> a model of the zoo, its arguments, a tensor of the trunk, the method and the head.
VIDEO = {
    "aim": (
        "inti_aim_b16_k400",
        {},
        (
            "backbone.ln_post.bias",
            "backbone.transformer.resblocks.1.S_Adapter.D_fc1.weight",
            "cls_head.fc_cls.bias",
        ),
    ),
    "uniformerv2_local": (
        "inti_uniformerv2_b16_ssv2",
        {"num_global": 3},
        (
            "backbone.ln_pre.bias",
            "backbone.transformer.resblocks.1.lmhra2.pos_embed.0.running_var",
            "backbone.transformer.proj.2.bias",
        ),
    ),
    "st_adapter_mlp": (
        "inti_st_adapter_b16_k400",
        {"width": 24},
        ("ln_post.bias", "transformer.resblocks.1.adapter_pre_mlp.conv.weight", "fc.bias"),
    ),
}


def video_arguments(case, **options):
    """Model and its options for an official checkpoint of 8 frames."""
    resolution, patch, width, layers, heads = golden.CASES[case]["sizes"]
    sizes = {"img_size": resolution, "patch_size": patch, "embed_dim": width, "depth": layers, "num_heads": heads}
    model, temporal_args, _ = VIDEO[case]
    return model, {**sizes, "num_classes": golden.CLASSES, "reduction": 4, "temporal_args": temporal_args, **options}


@pytest.fixture(params=VIDEO)
def video(request, tmp_path):
    """A case, its official state dict, and where to save it."""
    return request.param, golden.official_state(request.param, 8), tmp_path / "video.pth"


def refusal_of_video(case, state, path, **options):
    torch.save(state, path)
    with pytest.raises(ValueError) as error:
        convert.convert_checkpoint(path, *video_arguments(case, **options))
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)
    return str(error.value)


def test_a_video_model_is_refused_unless_each_tensor_fits(video):
    case, state, path = video
    for name in VIDEO[case][2]:
        assert f"lacks {name} that the model needs" in refusal_of_video(
            case, {key: tensor for key, tensor in state.items() if key != name}, path
        )
        assert f"has {name}_too that the model has no place for" in refusal_of_video(
            case, {**state, f"{name}_too": torch.ones(1)}, path
        )
        assert f"has {name} of shape (3,) where the model has" in refusal_of_video(
            case, {**state, name: torch.ones(3)}, path
        )
        assert f"has {name} of another type, or with values that are not finite" in refusal_of_video(
            case, {**state, name: state[name] * float("nan")}, path
        )


def test_sizes_that_only_the_video_model_knows_are_named(video):
    case, state, path = video
    assert f"--set num_classes={golden.CLASSES}." in refusal_of_video(case, state, path, num_classes=710)
    if case == "aim":
        assert refusal_of_video(case, state, path, num_frames=16).endswith("with --set num_frames=8.")
    if case == "uniformerv2_local":
        arguments = {"temporal_args": {"num_global": 3, "stride": 1}}
        assert "has backbone.conv1.weight[+1] and 1 more that" in refusal_of_video(case, state, path, **arguments)
        name = "backbone.transformer.dec.0.attn.in_proj_weight"
        assert f"has {name}[query] of shape (32, 64) where" in refusal_of_video(
            case, {**state, name: state[name][:96]}, path
        )
        name = next(name for name in state if name.endswith("num_batches_tracked"))
        assert f"has {name} of another type, or with values" in refusal_of_video(
            case, {**state, name: torch.tensor(0.5)}, path
        )
        arguments = {"temporal_args": {"num_global": 3, "fuse": False}}
        assert "has backbone.transformer.balance that" in refusal_of_video(case, state, path, **arguments)


def test_a_video_model_of_another_method_is_refused(video):
    case, state, path = video
    torch.save(state, path)
    for other in {*VIDEO} - {case}:
        with pytest.raises(ValueError, match=f"name an inti_{golden.CASES[case]['method']}_"):
            convert.convert_checkpoint(path, *video_arguments(other))
    with pytest.raises(ValueError, match="has no temporal method; name an inti_"):
        convert.convert_checkpoint(path, MODEL, OPTIONS)


@torch.inference_mode()
def test_the_command_keeps_a_video_models_head_and_logits(video, tmp_path, capsys):
    case, state, path = video
    wrapper = {"aim": "state_dict", "uniformerv2_local": "model_state", "st_adapter_mlp": "model"}[case]
    torch.save({wrapper: state, "epoch": 3}, path)
    (tmp_path / "names.txt").write_text("".join(f"class {i}\n" for i in range(golden.CLASSES)))
    model, options = video_arguments(case)
    command = [str(path), "--model", model, *arguments(**options), "--labels", str(tmp_path / "names.txt")]
    assert main(["convert", *command, "--output", str(tmp_path / "converted")]) == 0
    assert "dropped  epoch: state of a training run\n" in (printed := capsys.readouterr().out)
    assert "kept     7 classes\nnew      compress_at=(1, 3, 4)\n" in printed

    expected, _, _ = convert.convert_checkpoint(path, model, options)
    loaded = inti_models.load(tmp_path / "converted").eval()
    clip = golden.draw_clip(8, 32)
    assert torch.equal(loaded(clip), expected(clip))
    assert loaded.pretrained_cfg["label_names"] == [f"class {i}" for i in range(golden.CLASSES)]

    assert main(["convert", *command, "--output", str(tmp_path / "original"), "--set", "compress_at=[]"]) == 0
    original = load_file(Path(__file__).parents[1] / "models" / "temporal" / "golden" / f"{case}.safetensors")["8"]
    torch.testing.assert_close(inti_models.load(tmp_path / "original").eval()(clip), original, atol=1e-4, rtol=0)
    card = (tmp_path / "converted" / "README.md").read_text()
    assert "Converted with its classifier from video.pth" in card and "not measured" in card


def test_class_names_mean_and_std_are_those_of_the_video_model(video):
    case, state, path = video
    torch.save(state, path)
    cfg = convert.convert_checkpoint(path, *video_arguments(case))[0].pretrained_cfg
    assert cfg["label_names"] is None

    model, options = video_arguments(case)
    classes = {"k400": 400, "ssv2": 174}[model.rpartition("_")[2]]
    for name in VIDEO[case][2][2], VIDEO[case][2][2].replace("bias", "weight"):
        state[name] = torch.randn(classes, *state[name].shape[1:])
    torch.save(state, path)
    cfg = convert.convert_checkpoint(path, model, {**options, "num_classes": classes})[0].pretrained_cfg
    if case == "uniformerv2_local":  # numbers classes in an order of its own
        assert (cfg["label_names"], cfg["mean"], cfg["std"]) == (None, (0.45,) * 3, (0.225,) * 3)
    else:
        assert len(cfg["label_names"]) == classes and cfg["mean"][0] == pytest.approx(0.48145466, abs=1e-5)


# Method and data set -> sampling, interpolation, views and rounding of its official code.
PROTOCOLS = {
    "inti_st_adapter_b16_k400": ("dense_rounded", "bicubic", (3, 1), "st_adapter"),
    "inti_aim_b16_k400": ("dense_looped", "bilinear", (3, 1), "mmaction"),
    "inti_uniformerv2_b16_ssv2": ("uniform_offsets", "bilinear", (1, 3), "slowfast"),
}


def test_a_video_model_takes_its_clips_as_its_official_code_does(video, tmp_path):
    case, state, path = video
    torch.save(state, path)
    name, options = video_arguments(case)
    model, _, _ = convert.convert_checkpoint(path, name, options)
    inti_models.save_pretrained(model, tmp_path / "saved")
    for again in (model, inti_models.load(tmp_path / "saved")):
        cfg = again.pretrained_cfg
        assert PROTOCOLS[name] == (again.sampling, cfg["interpolation"], again.views, again.resize_rounding)
        assert again.antialias is False and cfg["crop_pct"] == 1
        classify = VideoClassifier(again)
        assert (classify.num_clips, classify.transform.num_crops) == PROTOCOLS[name][2]
        assert (classify.transform.antialias, classify.transform.rounding) == (False, PROTOCOLS[name][3])
        assert VideoClassifier(again, views=(1, 1)).num_clips == 1
    plain, _, _ = convert.convert_checkpoint(path, name, {**options, "sampling": "uniform", "frame_stride": None})
    assert plain.sampling == "uniform"  # options go before


def test_models_that_take_clips_as_ours_do_are_saved_as_before(tmp_path):
    model = inti_models.load("inti_vit_t8_32_motiondigits")
    inti_models.save_pretrained(model, tmp_path / "saved")
    saved = json.loads((tmp_path / "saved" / "config.json").read_text())["model_args"]
    assert not {"antialias", "resize_rounding", "views"} & saved.keys()
    assert (model.antialias, model.resize_rounding, model.views) == (True, "timm", (1, 1))


@pytest.mark.parametrize(
    "args", [{"sampling": "sparse"}, {"resize_rounding": "cv2"}, {"views": (0, 1)}, {"views": (1, 2)}, {"antialias": 1}]
)
def test_ways_to_make_clips_that_nobody_knows_are_refused(args):
    with pytest.raises(ValueError, match=next(iter(args))):
        create_model("inti_vit_t8_32_motiondigits", device="meta", **args)


def test_a_video_model_without_its_frozen_weights_needs_the_clip(tmp_path):
    state = golden.official_state("st_adapter_mlp", 8)
    frozen = {name: state.pop(name) for name in list(state) if "adapter" not in name and not name.startswith("fc.")}
    path, trunk = tmp_path / "checkpoint-11.pth", tmp_path / "open_clip_model.safetensors"
    torch.save({"model": state, "optimizer": {}, "next_epoch": 12}, path)
    assert "name the CLIP that it was trained on with --trunk FILE" in refusal_of_video("st_adapter_mlp", state, path)

    save_file({f"visual.{name}": tensor for name, tensor in frozen.items()}, trunk)
    model, source, dropped = convert.convert_checkpoint(path, *video_arguments("st_adapter_mlp"), trunk=trunk)
    assert source.layout.title == "ST-Adapter"
    assert torch.equal(model.norm.weight, frozen["ln_post.weight"])
    assert "its image model from open_clip_model.safetensors" in model.pretrained_cfg["description"]

    torch.save({**state, **frozen}, path)  # whole, and a trunk beside
    with pytest.raises(ValueError, match="has class_embedding and .* that the model has no place for"):
        convert.convert_checkpoint(path, *video_arguments("st_adapter_mlp"), trunk=trunk)
    for pair in ((trunk, trunk), (path, path)):
        with pytest.raises(ValueError, match="do not complete each other"):
            convert.convert_checkpoint(pair[0], *video_arguments("st_adapter_mlp"), trunk=pair[1])


@pytest.mark.parametrize("case", VIDEO)
@torch.inference_mode()
def test_a_clip_starts_a_temporal_model(case, state, tmp_path):
    torch.save(state, tmp_path / "clip.pt")
    name, temporal_args, _ = VIDEO[case]
    fewer = {"num_global": 1} if "num_global" in temporal_args else {}  # the CLIP has two blocks
    options = {**OPTIONS, "temporal_args": {**temporal_args, **fewer}}
    model, _, _ = convert.convert_checkpoint(tmp_path / "clip.pt", name, options)
    image, _, _ = convert.convert_checkpoint(tmp_path / "clip.pt", MODEL, OPTIONS)
    for key, tensor in image.state_dict().items():
        if not key.startswith(("interpolations.", "head.")):
            assert torch.equal(model.state_dict()[key], tensor)
    assert model.pretrained_cfg["description"].endswith("interpolations, temporal modules and head start untrained.")


# Models of our own

OURS = {"embed_dim": 32, "depth": 4, "num_heads": 2, "img_size": 32, "num_classes": 5, "reduction": 4}
WRAPPED = {
    "alone": lambda s: s,
    "DistributedDataParallel": lambda s: prefixed("module.", s),
    "compiled, in DistributedDataParallel": lambda s: {"state_dict": prefixed("module._orig_mod.", s), "epoch": 3},
    "Lightning": lambda s: {"state_dict": prefixed("model.", s), "hyper_parameters": {"lr": 1e-4}},
    "timm's, with an average": lambda s: {
        "state_dict": {name: torch.zeros_like(tensor) for name, tensor in s.items()},
        "state_dict_ema": s,
        "optimizer": {"state": {}},
    },
    "AveragedModel": lambda s: {"n_averaged": torch.tensor(7), **prefixed("module.", s)},
    "a model in a model": lambda s: {"model": {"state_dict": s}},
    "our trainer's": lambda s: {"model": s, "ema": None, "progress": {"epoch": 3}, "optimizer": {"state": {}}},
}


def prefixed(prefix, tensors):
    return {prefix + name: tensor for name, tensor in tensors.items()}


def flat(loaded):
    """The tensors of a checkpoint, as a safetensors file can have them."""
    tensors = {}
    for name, value in loaded.items():
        if isinstance(value, torch.Tensor):
            tensors[name] = value.contiguous()
        elif isinstance(value, dict):
            tensors |= prefixed(f"{name}.", flat(value))
    return tensors


@pytest.fixture(scope="module")
def our_model():
    torch.manual_seed(0)
    return randomize_model_(timm.create_model("inti_vit_t8_32_motiondigits", **OURS, compress_at=(1, 1, 3)))


@pytest.mark.parametrize("wrapped", WRAPPED)
def test_a_model_of_ours_converts_whatever_its_tensors_are_wrapped_in(wrapped, our_model, tmp_path, capsys, caplog):
    torch.save(WRAPPED[wrapped](our_model.state_dict()), tmp_path / "run.pth")
    save_file(flat(WRAPPED[wrapped](our_model.state_dict())), tmp_path / "run.safetensors")
    options = [f"--set={name}={value}" for name, value in OURS.items()]
    arguments = ["--model", "inti_vit_t8_32_motiondigits", *options, "--output"]
    clip = torch.rand(1, 8, 3, 32, 32)
    for file in ("run.pth", "run.safetensors"):
        assert main(["convert", str(tmp_path / file), *arguments, str(tmp_path / file) + ".d"]) == 0
        assert "kept     5 classes\nkept     compress_at=(1, 1, 3)" in capsys.readouterr().out
        converted = inti_models.load(tmp_path / f"{file}.d")
        torch.testing.assert_close(converted(clip), our_model(clip), rtol=0, atol=0)
    caplog.clear()
    loaded = timm.create_model("inti_vit_t8_32_motiondigits", **OURS, compress_at=(1, 1, 3)).eval()
    load_checkpoint(loaded, tmp_path / "run.safetensors")
    torch.testing.assert_close(loaded(clip), our_model(clip), rtol=0, atol=0)
    assert len(caplog.records) == (wrapped != "alone")


def test_a_model_of_ours_without_tensors_of_its_own_keeps_its_head(tmp_path):
    args = OURS | {"compress_at": ()}
    model = randomize_model_(timm.create_model("inti_vit_t8_32_motiondigits", **args))
    torch.save(model.state_dict(), tmp_path / "naive.pth")
    converted, _, dropped = convert.convert_checkpoint(tmp_path / "naive.pth", "inti_vit_t8_32_motiondigits", args)
    assert not dropped and torch.equal(converted.head.weight, model.head.weight)


@pytest.mark.parametrize("names", [("model", "state_dict"), ("module", "model", "ema"), ("ema", "model_ema")])
def test_tensors_of_several_models_are_refused_by_their_names(names, our_model, tmp_path):
    loaded = {name: our_model.state_dict() for name in names}
    torch.save(loaded, tmp_path / "run.pth")
    tensors = {name: tensor.clone() for name, tensor in flat(loaded).items()}
    save_file(tensors, tmp_path / "run.safetensors")
    for refused in (
        lambda: convert.read(tmp_path / "run.pth"),
        lambda: load_checkpoint(our_model, tmp_path / "run.safetensors"),
    ):
        with pytest.raises(ValueError, match=f"has tensors under {' and '.join(sorted(names))};"):
            refused()


def test_a_dictionary_that_holds_itself_is_refused(tmp_path):
    loaded = {}
    loaded["model"] = loaded
    torch.save(loaded, tmp_path / "run.pth")
    with pytest.raises(ValueError, match="is not a state dict"):
        convert.read(tmp_path / "run.pth")


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_command_that_is_advised_works_for_the_file(suffix, our_model, tmp_path):
    file = tmp_path / "folder" / f"run{suffix}"
    file.parent.mkdir()
    (torch.save if suffix == ".pth" else save_file)(our_model.state_dict(), file)
    for i, load in enumerate((inti_models.load, lambda path: inti_models.load(path.parent), read_checkpoint)):
        if load is read_checkpoint and suffix == ".safetensors":
            continue
        with pytest.raises((ValueError, FileNotFoundError)) as advice:
            load(file)
        command = re.search("'inti-models (convert .*) --model NAME --output DIR'", str(advice.value))
        options = [f"--set={name}={value}" for name, value in OURS.items()]
        arguments = ["--model", "inti_vit_t8_32_motiondigits", "--output", str(tmp_path / str(i)), *options]
        assert main([*command[1].split(), *arguments]) == 0
    (file.parent / f"run{suffix}").rename(file.with_suffix(".h5"))
    for load in (inti_models.load, read_checkpoint):
        with pytest.raises(ValueError, match="name one that ends in .safetensors or, for 'inti-models convert', in"):
            load(file.with_suffix(".h5"))
