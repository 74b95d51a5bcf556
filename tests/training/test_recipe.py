"""Recipes: the published ones, overrides, and what is wrong with others."""

import dataclasses
import re
from pathlib import Path

import pytest
import timm
from timm.optim import list_optimizers

from inti_models import zoo
from inti_models.data import create_train_transform
from inti_models.training.recipe import RECIPES, Recipe, as_yaml, load_recipe

NAMES = sorted(file.stem for file in RECIPES.glob("*.yaml") if file.stem != "distill")  # those for labels
OF_REAL_DATA = [name for name in NAMES if name != "motiondigits"]
MINE = "model: inti_vit_t8_32_motiondigits\ndata: {train: videos/train}\n"


@pytest.fixture
def mine(tmp_path):
    """A small recipe of one's own; called with text, one that says that."""

    def write(text: str = MINE) -> Path:
        path = tmp_path / "mine.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def published(name: str, *overrides: str) -> Recipe:
    return load_recipe(name, ["data.train=videos", *overrides])


def test_recipes_are_published_for_each_data_set_of_the_zoo():
    assert set(NAMES) >= {"k400_b16", "k400_l14", "k400_l14_336", "ssv2_b16", "ssv2_l14", "ucf101_b16", "hmdb51_b16"}
    assert {name.split("_")[0] for name in NAMES} == set(zoo.DATASETS)


@pytest.mark.parametrize("name", NAMES)
def test_published_recipe_makes_a_model_and_a_transform(name):
    recipe = published(name)
    assert recipe.model in timm.list_models("inti*", pretrained=recipe.pretrained)
    model = timm.create_model(recipe.model, device="meta", **recipe.model_args)
    transform = create_train_transform(
        model.pretrained_cfg["input_size"],
        **{k: getattr(recipe.augmentation, k) for k in ("scale", "ratio", "hflip", "auto_augment", "reprob")},
    )
    assert transform.is_random == (name != "motiondigits")
    assert recipe.optimization.optimizer in list_optimizers()


@pytest.mark.parametrize("name", OF_REAL_DATA)
def test_published_recipe_says_how_to_launch_it_and_where_its_values_are_from(name):
    text = (RECIPES / f"{name}.yaml").read_text(encoding="utf-8")
    comment = " ".join(re.match(r"(?:#.*\n)+", text)[0].replace("#", "").split())
    assert f"inti_models train {name} " in comment
    assert f"--output runs/{name}" in comment
    assert re.search(r"github\.com/[\w-]+/[\w-]+\), (exp|configs|scripts)/\S+\.(yaml|py|sh)", comment)
    assert "We have not run this recipe" in comment


@pytest.mark.parametrize("name", OF_REAL_DATA)
def test_published_recipe_leaves_the_data_to_the_reader_and_scales_the_learning_rate(name):
    with pytest.raises(ValueError, match=r"does not set data\.train; add data\.train="):
        load_recipe(name)
    optimization = published(name).optimization
    assert optimization.lr_batch is not None
    assert optimization.lr_batch % optimization.batch_size == 0
    assert optimization.min_lr < optimization.lr


def test_no_clip_is_mirrored_where_left_and_right_are_classes():
    for name in NAMES:
        classes = zoo.label_names(name.split("_")[0])
        directed = any("left to right" in c or c.endswith(", left") for c in classes)
        assert published(name).augmentation.hflip == (0 if directed else 0.5), name


def test_recipe_of_the_largest_model_shards_it():
    recipe = published("k400_l14_336")
    assert (recipe.fsdp, recipe.grad_checkpointing, recipe.precision) == (True, True, "bf16")


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("distill.targets=pixels", "distill.targets='pixels' is unknown; choose one of logits, embedding, both."),
        ("distill.temperature=0", "distill.temperature=0 is not a number above 0"),
        ("distill.held_out=1", "distill.held_out=1 is not between 0 and 1"),
        ("trainable=head", "trainable=head leaves nothing to distill; choose interpolation or all."),
        ("augmentation.mixup=0.5", "are for labels, which distill does not use"),
        ("head=new", "distill keeps the model's; leave them out."),
        ("pretrained=false", "makes a teacher with random weights"),
    ],
)
def test_recipe_without_labels_refuses_what_it_has_no_use_for(override, sentence):
    recipe = published("distill", "model=inti_vit_b16_k400")
    assert recipe.trainable == "interpolation" and recipe.distill is not None
    with pytest.raises(ValueError, match=re.escape(sentence)):
        published("distill", "model=inti_vit_b16_k400", override)


def test_defaults_fill_what_a_file_leaves_out(mine):
    recipe = load_recipe(mine())
    assert recipe == dataclasses.replace(Recipe(), model="inti_vit_t8_32_motiondigits", data=recipe.data)
    assert (recipe.data.train, recipe.data.validation) == ("videos/train", None)


def test_override_replaces_values_of_the_file_and_nothing_else(mine):
    path = mine(MINE + "optimization: {lr: 1e-3, epochs: 7}\n")
    recipe = load_recipe(
        path,
        [
            "optimization.lr=2e-4",
            "optimization.layer_decay=0.75",
            "views=[4,3]",
            "model_args.num_frames=16",
            "optimization.opt_args={betas: [0.9, 0.98]}",
            "data.train=a folder/with=signs.txt",
            "augmentation.auto_augment=rand-m9-mstd0.5-inc1",
            "fsdp=true",
        ],
    )
    plain = load_recipe(path)
    assert recipe.optimization == dataclasses.replace(
        plain.optimization, lr=2e-4, layer_decay=0.75, opt_args={"betas": [0.9, 0.98]}
    )
    assert recipe.augmentation == dataclasses.replace(plain.augmentation, auto_augment="rand-m9-mstd0.5-inc1")
    assert recipe.data == dataclasses.replace(plain.data, train="a folder/with=signs.txt")
    assert (recipe.views, recipe.model_args, recipe.fsdp) == ((4, 3), {"num_frames": 16}, True)


def test_later_override_wins_and_null_removes(mine):
    recipe = load_recipe(mine(), ["seed=1", "seed=2", "optimization.clip_grad=null"])
    assert recipe.seed == 2
    assert recipe.optimization.clip_grad is None


@pytest.mark.parametrize("name", NAMES)
def test_saved_recipe_is_read_back(name, tmp_path):
    recipe = published(name, "data.root=~/Videos", "optimization.opt_args={betas: [0.9, 0.98]}")
    (tmp_path / "recipe.yaml").write_text(as_yaml(recipe), encoding="utf-8")
    assert load_recipe(tmp_path / "recipe.yaml") == recipe


def test_file_goes_before_a_published_recipe_of_its_name(mine, monkeypatch, tmp_path):
    mine().rename(tmp_path / "k400_b16")
    monkeypatch.chdir(tmp_path)
    assert load_recipe("k400_b16").model == "inti_vit_t8_32_motiondigits"


def test_unknown_recipe_names_those_that_there_are():
    with pytest.raises(FileNotFoundError, match=r"no recipe k400; .*, k400_b16, .*, ucf101_b16\.$"):
        load_recipe("k400")


@pytest.mark.parametrize(
    ("override", "names"),
    [
        # keys and types
        ("optimization.epocs=3", ["optimization.epocs", "epochs"]),
        ("foo.bar=3", ["foo"]),
        ("optimization=3", ["optimization"]),
        ("optimization.epochs=3.5", ["optimization.epochs", "3.5"]),
        ("optimization.lr=fast", ["optimization.lr", "fast"]),
        ("optimization.lr=[", ["optimization.lr=["]),
        ("data.train=null", ["data.train", "None"]),
        ("fsdp=maybe", ["fsdp", "maybe"]),
        ("views=4x3", ["views"]),
        ("views=[4]", ["views=[4]"]),
        ("augmentation.scale=[0.5]", ["augmentation.scale=[0.5]"]),
        ("optimization.lr", ["'optimization.lr'", "key=value"]),
        ("lean=1.0", ["lean", "interpolation_logit_init"]),
        ("train=head", ["train", "trainable"]),
        ("data.max_broken=0.1", ["data.max_broken", "data.max_unreadable"]),
        # choices
        ("trainable=everything", ["trainable='everything'", "adapters"]),
        ("head=old", ["head='old'", "zero_shot"]),
        ("precision=fp8", ["precision='fp8'", "bf16"]),
        ("views=[4,2]", ["views=[4, 2]", "1 or 3"]),
        # numbers
        ("views=[0,1]", ["views[0]=0", "at least 1"]),
        ("factors=[10,0]", ["factors[1]=0", "at least 1"]),
        ("optimization.epochs=0", ["optimization.epochs=0", "at least 1"]),
        ("optimization.batch_size=0", ["optimization.batch_size=0"]),
        ("optimization.accumulation=-1", ["optimization.accumulation=-1"]),
        ("augmentation.repeats=0", ["augmentation.repeats=0"]),
        ("augmentation.repeats=3", ["augmentation.repeats=3", "optimization.batch_size=8"]),
        ("validate_every=0", ["validate_every=0"]),
        ("save_every=0", ["save_every=0"]),
        ("augmentation.hflip=1.5", ["augmentation.hflip=1.5", "0 to 1"]),
        ("augmentation.smoothing=-0.1", ["augmentation.smoothing=-0.1"]),
        ("data.max_unreadable=2", ["data.max_unreadable=2"]),
        ("optimization.ema=1.1", ["optimization.ema=1.1"]),
        ("data.limits.max_pixels=0", ["data.limits", "max_pixels is 0"]),
        ("data.limits.pixels=9", ["data.limits", "pixels", "max_frames"]),
        ("data.limits.timeout=long", ["data.limits", "timeout"]),
        ("optimization.lr=-1", ["optimization.lr=-1"]),
        ("optimization.weight_decay=-1", ["weight_decay=-1"]),
    ],
)
def test_wrong_override_is_named_in_one_sentence(mine, override, names):
    with pytest.raises(ValueError) as error:
        load_recipe(mine(), [override])
    check_sentence(str(error.value), names)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("data: {train: videos}\n", ["does not set model", "add model="]),
        ("", ["does not set model"]),
        (MINE + "epochs: 3\n", ["epochs"]),
        (MINE + "optimization: {lr: fast}\n", ["optimization.lr", "fast"]),
        ("- a\n- b\n", ["not a recipe"]),
        ("a sentence", ["not a recipe"]),
        ("model: [a\n", ["line 1"]),
        ("model: ${foo}\ndata: {train: videos}\n", ["foo"]),
    ],
)
def test_wrong_file_is_named_in_one_sentence(mine, text, names):
    path = mine(text)
    with pytest.raises(ValueError) as error:
        load_recipe(path)
    check_sentence(str(error.value), [str(path), *names])


def test_file_that_is_no_text_is_named(mine):
    path = mine()
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"mine\.yaml is not a recipe: .*decode"):
        load_recipe(path)


def test_sharded_average_of_weights_is_refused(mine):
    with pytest.raises(ValueError, match=r"fsdp=true .* optimization\.ema"):
        load_recipe(mine(), ["fsdp=true", "optimization.ema=0.999"])


def check_sentence(message: str, names: list[str]) -> None:
    assert "\n" not in message
    assert message.endswith(".")
    assert not message.endswith("..")
    for name in names:
        assert name in message
