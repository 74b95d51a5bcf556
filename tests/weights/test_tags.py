"""Every tag of the zoo loads from the Hub, and words become heads there: against miniatures of the real repos."""

import json

import pytest
import timm
import torch
import torch.nn.functional as F
from open_clip import build_zero_shot_classifier
from torch.testing import assert_close

from inti_models import zoo
from inti_models.weights.zero_shot import SUFFIX, TEMPLATES
from support import miniature_towers

MINIATURES = {
    "b16": "timm/vit_base_patch16_clip_224.openai",
    "l14": "timm/vit_large_patch14_clip_224.openai",
    "l14_336": "timm/vit_large_patch14_clip_336.openai",
}
TAGGED = [
    name
    for name in timm.list_pretrained("inti_*")
    if name.split(".")[0] in zoo.CLIP_MODELS and zoo.CLIP_MODELS[name.split(".")[0]][0] == "vit"
]
# One of a family, and each kind of file.
ONE_OF_EACH = [
    "inti_vit_b16_hmdb51.openai_zeroshot",
    "inti_vit_l14_336_ucf101.openai",
    "inti_vit_h14_k400.metaclip2_worldwide",
    "inti_pe_core_b16_k400.fb",
    "inti_pe_core_b16_k400.fb_zeroshot",
    "inti_eva02_b16_k400.merged2b",
    "inti_siglip2_b16_256_k400.v2_webli",
]
WORDS = ["riding a bike", "feeding goats", "tying a knot"]


def architecture(name):
    return zoo.CLIP_MODELS[name.split(".")[0]][1]


def image_tag(name):
    return name.split(".")[1].removesuffix(SUFFIX)


@pytest.fixture(scope="module")
def build_towers(tmp_path_factory):
    """Miniatures of the families by architecture and tag, each built once."""
    built = {}

    def build(name):
        if name not in built:
            built[name] = miniature_towers.build(name, tmp_path_factory.mktemp("towers") / name, seed=len(built))
        return built[name]

    return build


@pytest.fixture(scope="module")
def full_hub(new_hub, miniature_clips, build_towers):
    """A Hub with a repository for every tag of CLIP's b16 and l14, and for one of each family.

    Tensors do not tell QuickGELU from GELU, so one miniature serves all tags of an architecture.
    """
    hub = new_hub()
    for name in TAGGED:
        repo_id = timm.get_pretrained_cfg(name).hf_hub_id
        if architecture(name) in MINIATURES and repo_id not in hub.repos:
            hub.add_repo(repo_id, miniature_clips[MINIATURES[architecture(name)]].folder)
    for name in miniature_towers.FAMILIES:
        build_towers(name).add_to(hub)
    return hub


def overrides(name, miniature_clips, build_towers):
    """Arguments by which a model becomes as small as its miniature."""
    arch = architecture(name)
    if arch in MINIATURES:
        return miniature_clips[MINIATURES[arch]].overrides
    return build_towers(f"{arch}.{image_tag(name)}").overrides


def check_trunks(names, hub, run_client, miniature_clips, build_towers):
    """Each loads the trunk that timm loads, with the activation of its tag and the head that it promises."""
    args = {name: overrides(name, miniature_clips, build_towers) for name in names}
    client = run_client(
        f"""
        import warnings
        warnings.simplefilter("ignore")
        import timm, torch, inti_models

        for name, args in {args!r}.items():
            architecture = inti_models.zoo.CLIP_MODELS[name.split(".")[0]][1]

            def features(model):
                return model.eval().forward_features(torch.linspace(-2, 2, 3 * args["img_size"] ** 2).view(
                    1, 3, args["img_size"], args["img_size"]))

            def compare():
                ours = inti_models.load(name, **args)
                act = type(ours.blocks[0].mlp.act).__name__
                image = inti_models.zoo.ARCHITECTURES[architecture].image_model
                repository = "timm/" + image + "." + name.split(".")[1].removesuffix({SUFFIX!r})
                if act == "QuickGELU":
                    image = image.replace("_clip_", "_clip_quickgelu_")
                # timm names the QuickGELU variant for most tags; the file is the same
                cfg = dict(timm.get_pretrained_cfg(image).to_dict(), hf_hub_id=repository)
                theirs = timm.create_model(image, pretrained=True, pretrained_cfg=cfg, num_classes=0, **args)
                difference = (features(ours) - features(theirs)).abs().max().item()
                return [difference, act, type(ours.head).__name__, ours.num_classes]

            compare.__name__ = name
            check(compare)
        """,
        hub,
    )
    for name in names:
        difference, act, head, num_classes = client.value(name)
        quick_gelu = zoo.IMAGE_TAGS[architecture(name)][image_tag(name)]
        assert difference < 1e-5, name
        assert (act == "QuickGELU") == bool(quick_gelu), name
        assert num_classes == len(zoo.label_names(name.split(".")[0].rpartition("_")[2]))
        assert head == ("CosineHead" if name.endswith(SUFFIX) else "Linear"), name
    assert not hub.asked("*.bin")


def test_a_tag_of_each_family_loads_the_trunk_that_timm_loads(full_hub, run_client, miniature_clips, build_towers):
    check_trunks(ONE_OF_EACH, full_hub, run_client, miniature_clips, build_towers)


@pytest.mark.slow  # does at length what the test above does
def test_every_tag_loads_the_trunk_that_timm_loads(full_hub, run_client, miniature_clips, build_towers):
    for name in miniature_towers.MODELS:
        if name not in miniature_towers.FAMILIES:
            build_towers(name).add_to(full_hub)
    check_trunks(TAGGED, full_hub, run_client, miniature_clips, build_towers)


@torch.no_grad()
def test_words_are_ranked_on_stills_as_by_open_clips_own_pipeline(full_hub, run_client, build_towers):
    names = {}
    for key in miniature_towers.FAMILIES:
        arch, _, tag = key.partition(".")
        zeroshot = timm.get_pretrained_cfg(f"inti_{zoo.ARCHITECTURES[arch].prefix}{arch}_k400")
        tag = zeroshot.tag if zeroshot.tag.startswith(tag) else tag
        names[key] = f"{zeroshot.architecture}.{tag}"
    args = {key: build_towers(key).overrides for key in names}
    client = run_client(
        f"""
        import torch, inti_models

        args = {args!r}
        for key, name in {names!r}.items():
            def rank():
                size = args[key]["img_size"]
                stills = torch.randn(6, 3, size, size, generator=torch.Generator().manual_seed(0))
                model = inti_models.load(name, num_classes=0, **args[key]).eval()
                inti_models.set_zero_shot_head(model, {WORDS!r})
                embedding = model.encode(stills)
                inti_models.save_pretrained(model, key)
                again = inti_models.load(key).eval()
                inti_models.set_zero_shot_head(again, ["jump", "sit"])
                return {{
                    "embedding": embedding.tolist(), "logits": model(stills).tolist(),
                    "others": again(stills).tolist(), "sigmoid": model.head.has_sigmoid, "source": model.text_source,
                }}

            rank.__name__ = key
            check(rank)
        """,
        full_hub,
    )
    for key in names:
        miniature, found = build_towers(key), client.value(key)
        clip = miniature.model
        size = miniature.overrides["img_size"]
        stills = torch.randn(6, 3, size, size, generator=torch.Generator().manual_seed(0))
        embedding = clip.encode_image(stills)
        assert_close(torch.tensor(found["embedding"]), embedding, rtol=0, atol=1e-5)
        for words, logits in ((WORDS, found["logits"]), (["jump", "sit"], found["others"])):
            text = build_zero_shot_classifier(clip, miniature.tokenizer, words, TEMPLATES["any"])
            theirs = clip.logit_scale.exp() * F.normalize(embedding, dim=-1) @ text
            if clip.logit_bias is not None:
                theirs = theirs + clip.logit_bias
            assert_close(torch.tensor(logits), theirs, rtol=0, atol=1e-4)
        assert found["sigmoid"] == ("siglip" in key)  # then the sigmoid of a logit is SigLIP's own probability
        assert found["source"]["repository"] == miniature.repository


def test_predict_labels_a_video_with_words_by_one_command(full_hub, run_client, build_towers):
    pe, siglip = (
        {key: size for key, size in build_towers(name).overrides.items() if key not in ("img_size", "ref_feat_shape")}
        for name in ("pe_core_b16.fb", "siglip2_b16_256.v2_webli")
    )
    client = run_client(
        f"""
        import contextlib, io, sys
        import timm, torch
        from inti_models.cli import main
        from inti_models.data import write_video

        # the real architectures, at the widths of the miniatures
        sizes = {{"vit_pe_": {pe!r}, "vit_base_patch16_siglip": {siglip!r}}}
        create = timm.create_model
        timm.create_model = lambda name, **kwargs: create(
            name, **kwargs | next((size for start, size in sizes.items() if name.startswith(start)), {{}}))
        write_video("clip.mp4", torch.randint(256, (8, 3, 64, 64), dtype=torch.uint8), fps=8)
        open("templates.txt", "w").write("a clip of {{}}.\\n")

        def run(model, *options):
            out, err = io.StringIO(), io.StringIO()
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                status = main(["predict", "clip.mp4", "--model", model, "--classes", "riding a bike,feeding goats",
                               "--device", "cpu", *options])
            return [status, out.getvalue(), err.getvalue()]

        @check
        def words():
            return run("inti_pe_core_b16_k400", "--templates", "templates.txt")

        @check
        def by_itself():
            return run("inti_siglip2_b16_256_k400", "--json", "--threshold", "0")

        @check
        def without_transformers():
            sys.modules["transformers"] = None
            return run("inti_siglip2_b16_256_k400", "--templates", "templates.txt")
        """,
        full_hub,
        TQDM_POSITION="-1",  # bars of the Hub's client where there is no terminal
    )
    status, out, err = client.value("words")
    assert status == 0, err
    assert "riding a bike" in out and "feeding goats" in out
    assert "Text tower" in err and "B/s]" in err  # while the head is made, and while the file comes
    status, out, _ = client.value("by_itself")
    labels = json.loads(out)["labels"]
    assert status == 0 and len(labels) == 2 and all(0 < label["probability"] < 1 for label in labels)
    assert sum(label["probability"] for label in labels) != pytest.approx(1)
    status, _, err = client.value("without_transformers")
    assert status == 1 and "pip install 'inti_models[tokenizers]'" in err
    assert not full_hub.asked("*.bin")


def test_predict_and_validate_take_a_users_own_words(full_hub, run_client, miniature_clips):
    clip = miniature_clips[MINIATURES["b16"]]
    size = {key: value for key, value in clip.overrides.items() if key != "img_size"}
    client = run_client(
        f"""
        import contextlib, dataclasses, io, json, os, shutil
        import torch
        import inti_models
        from inti_models import zoo
        from inti_models.cli import main
        from inti_models.data import write_video
        from inti_models.inference.predict import VideoClassifier

        # the real architecture, at the size of the miniature
        b16 = zoo.ARCHITECTURES["b16"]
        zoo.ARCHITECTURES["b16"] = dataclasses.replace(b16, model_args=b16.model_args | {size!r})
        write_video("clip.mp4", torch.randint(256, (8, 3, 64, 64), dtype=torch.uint8), fps=8)

        def run(*arguments):
            out, err = io.StringIO(), io.StringIO()
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                status = main(["predict", "clip.mp4", "--model", "inti_vit_b16_k400", "--device", "cpu", *arguments])
            return [status, out.getvalue(), err.getvalue().splitlines()[-1:]]

        @check
        def own_words():
            return run("--classes", "riding a bike, feeding goats", "--json")

        @check
        def twice():
            return run("--classes", "riding a bike,Riding a bike")

        @check
        def with_checkpoint():
            return run("--classes", "a,b", "--checkpoint", "x.safetensors")

        @check
        def fine_tuned():
            # As a run saves it: another head, the trunk from OpenAI's weights and then changed.
            model = inti_models.load("inti_vit_b16_k400.openai")
            model.reset_classifier(2)
            with torch.no_grad():
                for name, parameter in model.named_parameters():
                    if name.startswith(("blocks.3.", "interpolations.")):
                        parameter.mul_(1.1).add_(0.01)
            inti_models.save_pretrained(model, "tuned", label_names=["a", "b"])
            words = ["riding a bike", "feeding goats"]
            printed = run("--model", "tuned", "--classes", ",".join(words), "--precision", "float32", "--json")
            inti_models.set_zero_shot_head(model, words)
            return [*printed, VideoClassifier(model)("clip.mp4")[0].probability]

        @check
        def validate():
            for name in ("riding a bike", "feeding goats"):
                os.makedirs("videos/" + name)
                shutil.copy("clip.mp4", "videos/" + name)
            options = ["--zero-shot", "--workers", "0", "--device", "cpu", "--output", "report"]
            status = main(["validate", "videos", "--model", "inti_vit_b16_k400", *options])
            with open("report/evaluation.json") as file:
                return [status, json.load(file)]
        """,
        full_hub,
    )
    status, out, _ = client.value("own_words")
    labels = json.loads(out)["labels"]
    assert status == 0
    assert {label["name"] for label in labels} == {"riding a bike", "feeding goats"}
    assert sum(label["probability"] for label in labels) == pytest.approx(1)
    status, out, _, probability = client.value("fine_tuned")
    tuned = json.loads(out)["labels"]
    assert status == 0 and tuned[0]["probability"] == pytest.approx(probability, abs=1e-4)
    assert tuned != labels
    status, out, _ = client.value("twice")
    assert status == 0 and out.count("riding a bike") + out.count("Riding a bike") == 2  # with a warning
    status, _, err = client.value("with_checkpoint")
    assert status == 1
    assert "leave --checkpoint out" in err[0]
    status, evaluation = client.value("validate")
    assert status == 0
    accuracy = {row["name"]: row["accuracy"] for row in evaluation["per_class"]}
    assert accuracy == {label["name"]: 100 * (label == labels[0]) for label in labels}
