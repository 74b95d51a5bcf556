"""The model zoo against timm's and open_clip's registries, and timm's ways of saving and loading."""

import json
import pickle

import open_clip
import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models import save_for_hf
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from torch.testing import assert_close

from inti_models import InTIModel, InTIVisionTransformer, from_image_model, zoo
from inti_models.models import registry
from inti_models.models.temporal import METHODS
from inti_models.training.run import freeze
from inti_models.weights.text_tower import REPOSITORIES, WITH_TEXT

NUM_CLASSES = {"k400": 400, "ssv2": 174, "ucf101": 101, "hmdb51": 51}
CLIP_NAMES = {
    f"inti_vit_{architecture}_{dataset}": (architecture, dataset)
    for architecture in ("b16", "l14", "l14_336")
    for dataset in NUM_CLASSES
}
# Image-text models for Kinetics-400 alone: architecture -> timm's image model and tag, open_clip's name and tag.
FAMILIES = {
    "h14": ("vit_huge_patch14_clip_224", "laion2b", "ViT-H-14", "laion2b_s32b_b79k"),
    "pe_core_t16_384": ("vit_pe_core_tiny_patch16_384", "fb", "PE-Core-T-16-384", "meta"),
    "pe_core_s16_384": ("vit_pe_core_small_patch16_384", "fb", "PE-Core-S-16-384", "meta"),
    "pe_core_b16": ("vit_pe_core_base_patch16_224", "fb", "PE-Core-B-16", "meta"),
    "pe_core_l14_336": ("vit_pe_core_large_patch14_336", "fb", "PE-Core-L-14-336", "meta"),
    "eva02_b16": ("eva02_base_patch16_clip_224", "merged2b", "EVA02-B-16", "merged2b_s8b_b131k"),
    "eva02_l14": ("eva02_large_patch14_clip_224", "merged2b", "EVA02-L-14", "merged2b_s4b_b131k"),
    "eva02_l14_336": ("eva02_large_patch14_clip_336", "merged2b", "EVA02-L-14-336", "merged2b_s6b_b61k"),
    "siglip2_b16_256": ("vit_base_patch16_siglip_256", "v2_webli", "ViT-B-16-SigLIP2-256", "webli"),
    "siglip2_l16_256": ("vit_large_patch16_siglip_256", "v2_webli", "ViT-L-16-SigLIP2-256", "webli"),
    "siglip2_so400m14_224": ("vit_so400m_patch14_siglip_224", "v2_webli", "ViT-SO400M-14-SigLIP2", "webli"),
}
FAMILY_NAMES = {f"inti_{'vit_' * (name == 'h14')}{name}_k400": name for name in FAMILIES}
NAMES = [*CLIP_NAMES, *FAMILY_NAMES, "inti_vit_t8_32_motiondigits"]
# Models with a temporal method: method, architecture, data set, frames and what the official code has for it.
TEMPORAL = {
    f"inti_{method}_{architecture}_{dataset}": (method, architecture, dataset)
    for method, made in {
        "st_adapter": [("b16", "k400"), ("l14", "k400"), ("b16", "ssv2"), ("l14", "ssv2")],
        "aim": [("b16", "k400"), ("l14", "k400"), ("b16", "ssv2"), ("l14", "ssv2")],
        "uniformerv2": [("b16", "k400"), ("l14", "k400"), ("l14_336", "k400"), ("b16", "ssv2"), ("l14", "ssv2")],
    }.items()
    for architecture, dataset in made
}
TAGGED = [(architecture, tag) for architecture in ("b16", "l14", "l14_336") for tag in zoo.IMAGE_TAGS[architecture]]
H14_TAGS = {  # timm's -> open_clip's
    "laion2b": "laion2b_s32b_b79k",
    "dfn5b": "dfn5b",
    "metaclip_2pt5b": "metaclip_fullcc",
    "metaclip_altogether": "metaclip_altogether",
    "metaclip2_worldwide": "metaclip2_worldwide",
}

# timm's tag -> open_clip's, where they differ
OPEN_CLIP_TAGS = {
    ("b16", "laion2b"): "laion2b_s34b_b88k",
    ("l14", "laion2b"): "laion2b_s32b_b82k",
    ("b16", "datacompxl"): "datacomp_xl_s13b_b90k",
    ("l14", "datacompxl"): "datacomp_xl_s13b_b90k",
    ("b16", "metaclip_2pt5b"): "metaclip_fullcc",
    ("l14", "metaclip_2pt5b"): "metaclip_fullcc",
}
OPEN_CLIP_MODELS = {"b16": "ViT-B-16", "l14": "ViT-L-14", "l14_336": "ViT-L-14-336"}
SMALL = {"embed_dim": 32, "depth": 4, "num_heads": 2, "img_size": 32, "reduction": 4}


def meta_model(name, **kwargs):
    """A model without memory for its weights: its structure alone."""
    return timm.create_model(name, device="meta", **kwargs)


def open_clip_cfg(architecture, tag):
    return open_clip.get_pretrained_cfg(OPEN_CLIP_MODELS[architecture], OPEN_CLIP_TAGS.get((architecture, tag), tag))


def activations(model):
    return {type(block.mlp.act).__name__ for block in model.blocks}


# Registry and configs


def test_timm_lists_the_zoo():
    assert set(timm.list_models("inti*")) == {*NAMES, *TEMPORAL, "inti_vit"}
    assert all(timm.is_model_pretrained(name) for name in [*NAMES, *TEMPORAL])
    assert [name for name in timm.list_models("inti*", pretrained=True) if name.split(".")[0] in TEMPORAL] == sorted(
        f"{name}.openai" for name in TEMPORAL
    )
    tagged = {f"inti_vit_{architecture}_{dataset}.{tag}" for architecture, tag in TAGGED for dataset in NUM_CLASSES}
    assert tagged < set(timm.list_models("inti*", pretrained=True))


@pytest.mark.parametrize("name", timm.list_models("inti*", pretrained=True))
def test_config_is_complete(name):
    cfg = timm.get_pretrained_cfg(name)
    assert cfg.has_weights
    for field in ("input_size", "mean", "std", "crop_pct", "interpolation", "license", "paper_name", "description"):
        assert getattr(cfg, field), field
    assert cfg.paper_ids == "arXiv:2408.06840"
    assert (cfg.first_conv, cfg.classifier) == ("patch_embed.proj", "head")
    assert len(cfg.label_names) == len(set(cfg.label_names)) == cfg.num_classes
    assert cfg.fixed_input_size


@pytest.mark.parametrize("name", NAMES)
def test_config_names_modules_and_sizes_of_the_model(name):
    model, cfg = meta_model(name), timm.get_pretrained_cfg(name)
    assert isinstance(model, InTIModel)
    assert isinstance(model.get_submodule(cfg.first_conv), nn.Conv2d)
    assert model.get_submodule(cfg.classifier) is model.get_classifier()
    assert model.get_classifier().out_features == model.num_classes == cfg.num_classes
    assert (model.in_chans, *model.patch_embed.img_size) == cfg.input_size
    assert model.num_frames == 8
    assert timm.data.resolve_input_data_config(model)["mean"] == cfg.mean


@pytest.mark.parametrize(
    ("dataset", "first", "last"),
    [
        ("k400", "abseiling", "zumba"),
        ("ssv2", "Approaching something with your camera", "Wiping something off of something"),
        ("ucf101", "ApplyEyeMakeup", "YoYo"),
        ("hmdb51", "brush_hair", "wave"),
    ],
)
def test_labels_are_those_of_the_data_set(dataset, first, last):
    names = zoo.label_names(dataset)
    assert len(set(names)) == NUM_CLASSES[dataset]
    assert all(name == name.strip() != "" for name in names)
    assert (names[0].lower().replace(" ", ""), names[-1].lower().replace(" ", "")) == (
        first.lower().replace(" ", ""),
        last.lower().replace(" ", ""),
    )
    for name, (_, of) in CLIP_NAMES.items():
        if of == dataset:
            assert timm.get_pretrained_cfg(name).label_names == names


def test_registered_configs_read_label_files_when_they_are_asked_for():
    for default in zoo.default_cfgs.values():
        for cfg in default.cfgs.values():
            assert type(cfg.label_names) is zoo.LabelNames
    assert timm.get_pretrained_cfg("inti_vit_b16_ssv2.laion2b").label_names is zoo.label_names("ssv2")
    assert meta_model("inti_vit_b16_ssv2.laion2b").pretrained_cfg["label_names"] == zoo.label_names("ssv2")


@pytest.mark.parametrize("name", timm.list_models("inti*"))
def test_each_entry_point_is_a_documented_function_of_the_zoo(name):
    entry_point = getattr(zoo, name)
    assert timm.models.model_entrypoint(name) is entry_point
    assert (entry_point.__module__, entry_point.__name__) == ("inti_models.zoo", name)
    assert pickle.loads(pickle.dumps(entry_point)) is entry_point
    dataset = zoo.DATASETS.get(name.rpartition("_")[2])
    assert dataset is None or dataset.title in entry_point.__doc__


def test_labels_of_motiondigits_are_motions_of_digits():
    names = zoo.label_names("motiondigits")
    assert len(set(names)) == 120
    assert sum("7" in name for name in names) == 12


# Architectures


@pytest.mark.parametrize(("name", "key"), list(CLIP_NAMES.items()), ids=str)
def test_architecture_is_that_of_timms_image_model(name, key):
    architecture, dataset = key
    image_model = meta_model(zoo.ARCHITECTURES[architecture].image_model, num_classes=NUM_CLASSES[dataset])
    model = meta_model(name, compress_at=())
    shapes = {key: value.shape for key, value in model.state_dict().items()}
    assert shapes == {key: value.shape for key, value in image_model.state_dict().items()}
    assert [block.attn.num_heads for block in model.blocks] == [block.attn.num_heads for block in image_model.blocks]
    assert {m.eps for m in model.modules() if isinstance(m, nn.LayerNorm)} == {1e-5}
    assert {m.eps for m in image_model.modules() if isinstance(m, nn.LayerNorm)} == {1e-5}


@pytest.mark.parametrize(
    ("architecture", "schedule"), [("b16", (4, 10, 12)), ("l14", (8, 20, 24)), ("l14_336", (8, 20, 24))]
)
def test_schedule_is_that_of_the_model_card(architecture, schedule):
    model = meta_model(f"inti_vit_{architecture}_k400")
    assert model.compress_at == schedule
    assert {key.split(".")[1] for key in model.state_dict() if key.startswith("interp")} == set(map(str, schedule))


def test_interpolations_are_a_small_share_of_the_parameters():
    model = meta_model("inti_vit_b16_k400")
    own = sum(parameter.numel() for parameter in model.interpolations.parameters())
    assert own < 0.002 * sum(parameter.numel() for parameter in model.parameters())


# Tags: source, normalisation, activation


@pytest.mark.parametrize(("architecture", "tag"), TAGGED)
@pytest.mark.parametrize("dataset", NUM_CLASSES)
def test_source_and_normalisation_are_those_of_the_tag(architecture, tag, dataset):
    cfg = timm.get_pretrained_cfg(f"inti_vit_{architecture}_{dataset}.{tag}")
    image = timm.get_pretrained_cfg(f"{zoo.ARCHITECTURES[architecture].image_model}.{tag}")
    assert (cfg.hf_hub_id, cfg.mean, cfg.std) == (image.hf_hub_id, image.mean, image.std)
    assert (cfg.input_size, cfg.interpolation, cfg.license) == (image.input_size, image.interpolation, image.license)
    reference = open_clip_cfg(architecture, tag)
    assert (cfg.mean, cfg.std) == (reference["mean"], reference["std"])


@pytest.mark.parametrize(("architecture", "tag"), TAGGED)
def test_activation_is_the_one_that_open_clip_says_the_weights_have(architecture, tag):
    reference = open_clip_cfg(architecture, tag)
    assert reference
    if reference["hf_hub"].startswith("timm/"):  # the same file, so the tags are matched rightly
        image = timm.get_pretrained_cfg(f"{zoo.ARCHITECTURES[architecture].image_model}.{tag}")
        assert reference["hf_hub"].rstrip("/") == image.hf_hub_id
    expected, act_layer = ("QuickGELU", "quick_gelu") if reference.get("quick_gelu") else ("GELU", "gelu")
    for dataset in NUM_CLASSES:
        model = meta_model(f"inti_vit_{architecture}_{dataset}.{tag}", depth=1, compress_at=())
        assert activations(model) == {expected}
        assert model._model_args["act_layer"] == act_layer


@pytest.mark.parametrize(("name", "architecture"), list(FAMILY_NAMES.items()))
def test_a_family_is_timms_image_model_with_the_towers_of_open_clip(name, architecture):
    image_name, tag, config_name, open_clip_tag = FAMILIES[architecture]
    image = timm.get_pretrained_cfg(f"{image_name}.{tag}")
    reference = open_clip.get_pretrained_cfg(config_name, open_clip_tag)
    default, plain = timm.get_pretrained_cfg(name), timm.get_pretrained_cfg(f"{name}.{tag}")
    assert (default.tag, default.hf_hub_filename) == (f"{tag}_zeroshot", "open_clip_model.safetensors")
    assert (plain.hf_hub_id, plain.hf_hub_filename) == (image.hf_hub_id, "model.safetensors")
    assert default.hf_hub_id == reference["hf_hub"].rstrip("/")
    for cfg in (default, plain):
        assert (cfg.mean, cfg.std) == (image.mean, image.std) == (reference["mean"], reference["std"])
        assert (cfg.input_size, cfg.license) == (image.input_size, image.license)
    model, image_model = meta_model(name, compress_at=()), meta_model(image_name, num_classes=400)
    shapes, expected = ({k: v.shape for k, v in each.state_dict().items()} for each in (model, image_model))
    assert shapes == expected and activations(model) == activations(image_model)


@pytest.mark.parametrize(("tag", "open_clip_tag"), list(H14_TAGS.items()))
def test_tags_of_h14_have_the_activation_and_licence_of_both_registries(tag, open_clip_tag):
    assert list(H14_TAGS) == list(zoo.IMAGE_TAGS["h14"])
    cfg = timm.get_pretrained_cfg(f"inti_vit_h14_k400.{tag}")
    image = timm.get_pretrained_cfg(f"vit_huge_patch14_clip_224.{tag}")
    assert (cfg.hf_hub_id, cfg.license, cfg.mean, cfg.std) == (image.hf_hub_id, image.license, image.mean, image.std)
    config_name = "ViT-H-14-worldwide" if "worldwide" in tag else "ViT-H-14"
    quick_gelu = open_clip.get_pretrained_cfg(config_name, open_clip_tag).get("quick_gelu")
    assert bool(quick_gelu) == any("QuickGELU" in note for note in image.notes or ())  # both registries say so
    model = meta_model(f"inti_vit_h14_k400.{tag}", depth=1, compress_at=())
    assert activations(model) == {"QuickGELU" if quick_gelu else "GELU"}
    assert (cfg.license == "cc-by-nc-4.0") == tag.startswith("metaclip")


def test_repositories_of_text_towers_are_those_of_open_clips_registry():
    known = {cfg["hf_hub"].rstrip("/") for _, tags in open_clip_registry() for cfg in tags.values()}
    assert set(REPOSITORIES.values()) <= known
    assert all(timm.get_pretrained_cfg(repository.removeprefix("timm/")) for repository in REPOSITORIES)
    assert {f"timm/{name}" for name in timm.list_pretrained("vit_*")} & known == WITH_TEXT
    tags = (f"{a.image_model}.{tag}" for key, a in zoo.ARCHITECTURES.items() for tag in zoo.IMAGE_TAGS[key])
    assert {f"timm/{tag}" for tag in tags} <= REPOSITORIES.keys() | WITH_TEXT


def open_clip_registry():
    return [
        (name, {tag: open_clip.get_pretrained_cfg(name, tag) for tag in open_clip.list_pretrained_tags_by_model(name)})
        for name in open_clip.list_models()
    ]


def test_both_activations_are_in_use():
    assert {bool(open_clip_cfg(*key).get("quick_gelu")) for key in TAGGED} == {True, False}


@pytest.mark.parametrize("architecture", ["b16", "l14", "l14_336"])
def test_model_without_tag_is_openais_with_quick_gelu(architecture):
    model = meta_model(f"inti_vit_{architecture}_ucf101", depth=1, compress_at=())
    assert model.pretrained_cfg["tag"].startswith("openai")
    assert activations(model) == {"QuickGELU"}


def test_activation_can_be_overruled():
    assert activations(meta_model("inti_vit_b16_k400", act_layer="relu", depth=1, compress_at=())) == {"ReLU"}


# Models with a temporal method


@pytest.mark.parametrize(("name", "key"), list(TEMPORAL.items()), ids=str)
def test_temporal_model_has_its_method_and_clips(name, key):
    method, architecture, dataset = key
    model, cfg = meta_model(name), timm.get_pretrained_cfg(name)
    assert type(model.temporal) is METHODS[method]
    dense = method != "uniformerv2" and dataset == "k400"
    assert (model.sampling, model.frame_stride) == (("dense", 16) if dense else ("uniform", None))
    assert model.num_frames == (16 if (method, dataset) == ("uniformerv2", "ssv2") else 8)
    assert model.num_classes == cfg.num_classes == NUM_CLASSES[dataset]
    assert (model.in_chans, *model.patch_embed.img_size) == cfg.input_size
    assert cfg.hf_hub_id == timm.get_pretrained_cfg(f"inti_vit_{architecture}_{dataset}.openai").hf_hub_id
    assert activations(model) == {"QuickGELU"}
    assert model.compress_at == ((4, 10, 12) if architecture == "b16" else (8, 20, 24))
    naive = meta_model(name, compress_at=())
    assert naive.compress_at == ()
    assert {k for k in model.state_dict() if not k.startswith("interp")} == set(naive.state_dict())
    trunk = meta_model(f"inti_vit_{architecture}_{dataset}", compress_at=()).state_dict()
    assert {k: v.shape for k, v in naive.state_dict().items() if "temporal." not in k} == {
        k: v.shape for k, v in trunk.items()
    }


def test_temporal_methods_are_as_in_the_official_code_of_each_data_set():
    for size in ("b16", "l14"):
        assert meta_model(f"inti_st_adapter_{size}_k400").temporal.before == ("mlp",)
        assert meta_model(f"inti_st_adapter_{size}_ssv2").temporal.before == ("attn", "mlp")
        assert meta_model(f"inti_aim_{size}_k400").temporal.scale == 0.5
        aim = meta_model(f"inti_aim_{size}_ssv2").temporal
        assert (aim.scale, aim.adapt_input) == (1.0, size == "b16")
        kinetics = meta_model(f"inti_uniformerv2_{size}_k400").temporal
        assert (kinetics.stride, kinetics.local_reduction, len(kinetics.units)) == (1, None, 4)
        something = meta_model(f"inti_uniformerv2_{size}_ssv2").temporal
        units = {"b16": 8, "l14": 16}[size]
        assert (something.stride, something.local_reduction, len(something.units)) == (2, 1.5, units)


@pytest.mark.parametrize(
    ("name", "published"),
    [
        # ST-Adapter, arXiv 2206.13559: tunable parameters of its tables, without heads.
        ("inti_st_adapter_b16_k400", 7.2e6),
        ("inti_st_adapter_b16_ssv2", 14.3e6),
        # AIM: "Tunable Param (M)" of the official repository's README.
        ("inti_aim_b16_k400", 11e6),
        ("inti_aim_l14_k400", 38e6),
    ],
)
def test_number_of_trained_parameters_is_the_published_one(name, published):
    model = meta_model(name)
    freeze(model, "adapters")
    trained = sum(
        parameter.numel()
        for key, parameter in model.named_parameters()
        if parameter.requires_grad and not key.startswith(("interpolations.", "head."))
    )
    assert trained == pytest.approx(published, abs=0.5e6)


def test_arguments_of_the_method_go_before_those_of_the_table():
    model = timm.create_model("inti_st_adapter_b16_ssv2", **SMALL, temporal_args={"width": 8})
    assert (model.temporal.before, model.temporal.width) == (("attn", "mlp"), 8)
    model = timm.create_model("inti_aim_b16_ssv2", **SMALL, temporal="st_adapter")
    assert model.temporal.before == ("mlp",)
    assert type(timm.create_model("inti_vit_b16_k400", **SMALL, temporal="aim").temporal) is METHODS["aim"]


# Saving and creating again from config.json


def round_trip(model, path):
    save_for_hf(model, path, safe_serialization=True)
    config = json.loads((path / "config.json").read_text())
    assert "file" not in config["pretrained_cfg"]
    return timm.create_model(f"local-dir:{path}", pretrained=True).eval(), config


@pytest.mark.parametrize(
    ("name", "kwargs"),
    [
        ("inti_vit_b16_k400", {"compress_at": (1, 1, 3)}),
        ("inti_vit_b16_k400.laion2b", {"compress_at": (0, 4), "weighting": "sigmoid"}),
        ("inti_vit_l14_ssv2.metaclip_400m", {"context": ("local", "point"), "num_frames": 16}),
        ("inti_vit_l14_ucf101.dfn2b_s39b", {"sampling": "dense", "frame_stride": 4, "in_chans": 1}),
        ("inti_st_adapter_b16_ssv2", {"compress_at": (1,), "temporal_args": {"width": 8, "kernel_size": (3, 3, 3)}}),
        ("inti_aim_b16_ssv2", {"compress_at": ()}),
        ("inti_uniformerv2_l14_ssv2", {"temporal_args": {"num_global": 2}}),
        ("inti_aim_b16_k400", {"temporal": "divided_attention"}),
        ("inti_vit_t8_32_motiondigits", {"compress_at": (2,), "num_classes": 7, "global_pool": "avg"}),
        ("inti_vit_t8_32_motiondigits", {"compress_at": ()}),
        ("inti_vit_t8_32_motiondigits", {"weighting": "uniform"}),
        ("inti_vit_t8_32_motiondigits", {"dynamic_img_size": True}),
        ("inti_vit", {"base": "vit_tiny_patch16_224", "compress_at": (1, 2)}),
        ("inti_vit", {"base": "vit_small_patch14_reg4_dinov2.lvd142m", "compress_at": (3,), "num_classes": 6}),
    ],
    ids=str,
)
def test_saved_model_is_created_again_from_its_directory(tmp_path, randomize_, name, kwargs):
    small = {**SMALL, "img_size": 56} if "dinov2" in kwargs.get("base", "") else SMALL
    model = randomize_(timm.create_model(name, **{**small, **kwargs}))
    again, config = round_trip(model, tmp_path)
    assert config["architecture"] == name.split(".")[0]
    assert type(again) is InTIVisionTransformer
    assert again.compress_at == model.compress_at
    assert activations(again) == activations(model)
    for attribute in ("num_frames", "sampling", "frame_stride", "num_classes", "global_pool", "in_chans"):
        assert getattr(again, attribute) == getattr(model, attribute), attribute
    clip = torch.randn(1, 5, model.in_chans, *model.patch_embed.img_size)
    assert_close(again(clip), model(clip), rtol=0, atol=0)
    if model.compress_at:
        assert (again(clip) - again(clip[:, :1])).abs().max() > 1e-3


def test_wrapped_image_model_is_created_again_from_its_directory(tmp_path, randomize_):
    vit = timm.create_model("vit_base_patch16_siglip_224", **{k: v for k, v in SMALL.items() if k != "reduction"})
    model = randomize_(from_image_model(vit, compress_at=(1, 3), num_classes=5, reduction=4, weighting="linear"))
    assert model.attn_pool is not None
    again, config = round_trip(model, tmp_path)
    assert config["architecture"] == "inti_vit"
    assert config["model_args"]["base"] == "vit_base_patch16_siglip_224"
    clip = torch.randn(1, 5, 3, 32, 32)
    assert_close(again(clip), model(clip), rtol=0, atol=0)
    assert again.num_classes == 5


def test_changed_model_is_created_again_from_its_directory(tmp_path, randomize_):
    model = timm.create_model("inti_vit_b16_k400", **SMALL)
    model.reset_classifier(3, global_pool="avg")
    model.set_input_size(img_size=(48, 32))
    again, config = round_trip(randomize_(model), tmp_path)
    clip = torch.randn(1, 2, 3, 48, 32)
    assert_close(again(clip), model(clip), rtol=0, atol=0)
    assert "label_names" not in config["pretrained_cfg"]


@pytest.mark.parametrize(("tag", "activation"), [("metaclip_400m", "QuickGELU"), ("laion2b", "GELU")])
def test_activation_survives_without_the_tag(tmp_path, tag, activation):
    save_for_hf(timm.create_model(f"inti_vit_b16_k400.{tag}", **SMALL), tmp_path, safe_serialization=True)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["pretrained_cfg"]["tag"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert activations(timm.create_model(f"local-dir:{tmp_path}")) == {activation}


def test_labels_and_normalisation_are_saved(tmp_path, randomize_):
    model = randomize_(timm.create_model("inti_vit_l14_hmdb51.laion2b", **SMALL))
    again, _ = round_trip(model, tmp_path)
    assert tuple(again.pretrained_cfg["label_names"]) == zoo.label_names("hmdb51")
    assert tuple(again.pretrained_cfg["mean"]) == tuple(again.pretrained_cfg["std"]) == (0.5, 0.5, 0.5)


def test_saved_model_loads_at_another_schedule(tmp_path, randomize_, caplog):
    model = randomize_(timm.create_model("inti_vit_t8_32_motiondigits", **SMALL, compress_at=(1, 3)))
    save_for_hf(model, tmp_path, safe_serialization=True)
    with caplog.at_level("WARNING"):
        other = timm.create_model(f"local-dir:{tmp_path}", pretrained=True, compress_at=(1, 2)).eval()
    assert other.compress_at == (1, 2)
    assert "another schedule" in caplog.text
    for key, value in other.state_dict().items():
        if key.startswith("interpolations.2."):
            assert "logit" not in key or not value.any()
        else:
            assert torch.equal(value, model.state_dict()[key])


# Starting from an image checkpoint


@pytest.fixture
def image_checkpoint(tmp_path, randomize_):
    """A small CLIP image model, its file, and the arguments to make an InTI model that it fits."""
    small = {key: value for key, value in SMALL.items() if key != "reduction"}
    image_model = randomize_(timm.create_model("vit_base_patch16_clip_quickgelu_224", **small, num_classes=64))
    path = tmp_path / "image.safetensors"
    save_file(image_model.state_dict(), path)
    return image_model, str(path)


def test_image_checkpoint_gives_the_trunk_and_a_neutral_start(image_checkpoint):
    image_model, path = image_checkpoint
    model = timm.create_model(
        "inti_vit_b16_k400", pretrained=True, pretrained_cfg_overlay={"file": path}, compress_at=(0,), **SMALL
    ).eval()
    clip = torch.randn(2, 2, 3, 32, 32)
    embeddings = [image_model.norm_pre(image_model._pos_embed(image_model.patch_embed(clip[:, t]))) for t in (0, 1)]
    expected = image_model.norm(image_model.blocks((embeddings[0] + embeddings[1]) / 2))
    assert_close(model.forward_features(clip).squeeze(1), expected)
    assert model.head.weight.shape == (400, 32)


def test_image_checkpoint_is_adapted_to_channels_and_size(image_checkpoint):
    image_model, path = image_checkpoint
    overlay = {"file": path, "input_size": (3, 32, 32)}
    args = {**SMALL, "img_size": (48, 32)}
    model = timm.create_model(
        "inti_vit_b16_k400", pretrained=True, pretrained_cfg_overlay=overlay, in_chans=1, **args
    ).eval()
    weight = image_model.patch_embed.proj.weight
    assert_close(model.patch_embed.proj.weight, weight.sum(1, keepdim=True))
    image_model.set_input_size(img_size=(48, 32))
    grey = torch.randn(2, 1, 48, 32)
    assert_close(model.forward_features(grey), image_model.forward_features(grey.expand(-1, 3, -1, -1)))


def test_generic_entry_point_equals_wrapping_the_pretrained_image_model(image_checkpoint):
    image_model, path = image_checkpoint
    model = timm.create_model(
        "inti_vit",
        base="vit_base_patch16_clip_quickgelu_224",
        pretrained=True,
        pretrained_cfg_overlay={"file": path, "num_classes": 64},
        num_classes=64,
        compress_at=(1, 3),
        **SMALL,
    ).eval()
    wrapped = from_image_model(image_model, compress_at=(1, 3), reduction=4)
    clip = torch.randn(1, 4, 3, 32, 32)
    assert_close(model(clip), wrapped(clip))


# The generic entry point


def test_generic_entry_point_takes_config_and_arguments_of_its_base():
    model = timm.create_model("inti_vit", base="vit_base_patch16_siglip_224", device="meta", compress_at=(2,))
    base = timm.get_pretrained_cfg("vit_base_patch16_siglip_224")
    assert (model.pretrained_cfg["mean"], model.pretrained_cfg["input_size"]) == (base.mean, base.input_size)
    assert model.pretrained_cfg["architecture"] == "inti_vit"
    assert model.attn_pool is not None
    assert model.compress_at == (2,)
    assert isinstance(model, VisionTransformer)


def test_generic_entry_point_gives_features():
    args = {**SMALL, "base": "vit_tiny_patch16_224", "features_only": True, "out_indices": [0, 2]}
    features = timm.create_model("inti_vit", compress_at=(1,), **args)(torch.randn(1, 4, 3, 32, 32))
    assert [tuple(y.shape) for y in features] == [(1, 4, 32, 2, 2), (1, 2, 32, 2, 2)]


@pytest.mark.parametrize("base", [None, "no_such_model", 3])
def test_unknown_base_is_told_in_a_sentence(base):
    with pytest.raises(ValueError, match=r"base=.* is not a timm model; name one of timm.list_models\('vit_\*'\)"):
        timm.create_model("inti_vit", base=base)


def test_base_that_is_a_video_model_is_refused():
    with pytest.raises(ValueError, match="base='inti_vit_b16_k400.openai' is already a video model; create it by"):
        timm.create_model("inti_vit", base="inti_vit_b16_k400.openai")
    with pytest.raises(ValueError, match="inti_pe_core_b16_k400 is on vit_pe_core_base_patch16_224, not on 'vit_tiny"):
        timm.create_model("inti_pe_core_b16_k400", base="vit_tiny_patch16_224")


@pytest.mark.parametrize("base", ["resnet10t", "deit_tiny_distilled_patch16_224"])
def test_base_that_cannot_be_wrapped_is_told_in_a_sentence(base):
    with pytest.raises(TypeError, match="Cannot wrap a"):
        timm.create_model("inti_vit", base=base)


def test_patch_dropout_of_the_base_is_told_in_a_sentence():
    with pytest.raises(ValueError, match="Cannot wrap a model with patch dropout"):
        timm.create_model("inti_vit", base="vit_tiny_patch16_224", patch_drop_rate=0.5, depth=1)


def test_zoo_creates_its_own_models_only():
    assert registry.create_model("inti_vit_b16_k400.laion2b", **SMALL).pretrained_cfg["tag"] == "laion2b"
    with pytest.raises(ValueError, match="'resnet10t' is not a model of this zoo"):
        registry.create_model("resnet10t")
    with pytest.raises(ValueError, match="inti_vit_b16_k400 has no weights 'inti_vit_b16_k400.imagenet'"):
        registry.create_model("inti_vit_b16_k400.imagenet")
