"""Every tag of the zoo loads from the Hub, and class names become heads there: against miniatures of the real repos."""

import json

import pytest
import timm

from inti_models import zoo

MINIATURES = {
    "b16": "timm/vit_base_patch16_clip_224.openai",
    "l14": "timm/vit_large_patch14_clip_224.openai",
    "l14_336": "timm/vit_large_patch14_clip_336.openai",
}
TAGGED = [name for name in timm.list_pretrained("inti_vit_*") if "_motiondigits." not in name]


def architecture(name):
    return name.removeprefix("inti_vit_").split(".")[0].rpartition("_")[0]


@pytest.fixture(scope="module")
def full_hub(new_hub, miniature_clips):
    """A Hub with a repository for every tag; tensors do not tell QuickGELU from GELU, so one miniature serves all."""
    hub = new_hub()
    for name in TAGGED:
        repo_id = timm.get_pretrained_cfg(name).hf_hub_id
        if repo_id not in hub.repos:
            hub.add_repo(repo_id, miniature_clips[MINIATURES[architecture(name)]].folder)
    return hub


def test_every_tag_loads_the_trunk_that_timm_loads(full_hub, run_client, miniature_clips):
    overrides = {name: miniature_clips[repo_id].overrides for name, repo_id in MINIATURES.items()}
    client = run_client(
        f"""
        import warnings
        warnings.simplefilter("ignore")
        import timm, torch, inti_models

        overrides = {overrides!r}
        for name in {TAGGED!r}:
            architecture = name.removeprefix("inti_vit_").split(".")[0].rpartition("_")[0]
            args = overrides[architecture]

            def features(model):
                return model.eval().forward_features(torch.linspace(-2, 2, 3 * args["img_size"] ** 2).view(
                    1, 3, args["img_size"], args["img_size"]))

            def compare():
                ours = inti_models.load(name, **args)
                act = type(ours.blocks[0].mlp.act).__name__
                image = inti_models.zoo.ARCHITECTURES[architecture].image_model
                tag = name.split(".")[1].removesuffix("_zeroshot")
                if act == "QuickGELU":
                    image = image.replace("_clip_", "_clip_quickgelu_")
                # timm names the QuickGELU variant for most tags; the file is the same
                cfg = dict(timm.get_pretrained_cfg(image).to_dict(), hf_hub_id=ours.pretrained_cfg["hf_hub_id"])
                theirs = timm.create_model(image, pretrained=True, pretrained_cfg=cfg, num_classes=0, **args)
                difference = (features(ours) - features(theirs)).abs().max().item()
                return [difference, act, ours.head.weight.std().item(), ours.num_classes]

            compare.__name__ = name
            check(compare)
        """,
        full_hub,
    )
    for name in TAGGED:
        difference, act, spread, num_classes = client.value(name)
        arch, tag = architecture(name), name.split(".")[1].removesuffix("_zeroshot")
        assert difference < 1e-5, name
        assert act == ("QuickGELU" if zoo.IMAGE_TAGS[arch][tag] else "GELU"), name
        assert num_classes == len(zoo.label_names(name.split(".")[0].rpartition("_")[2]))
        assert (spread > 0.1) == name.endswith("_zeroshot"), f"{name}: head weights with deviation {spread}"
    assert not full_hub.asked("*.bin")


def test_predict_and_validate_take_a_users_own_words(full_hub, run_client, miniature_clips):
    clip = miniature_clips[MINIATURES["b16"]]
    size = {key: value for key, value in clip.overrides.items() if key != "img_size"}
    client = run_client(
        f"""
        import contextlib, dataclasses, io, json, os, shutil
        import torch
        from inti_models import zoo
        from inti_models.cli import main
        from inti_models.data import write_video

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
    status, out, err = client.value("twice")
    assert (status, out) == (1, "")
    assert "is there twice" in err[0]
    status, _, err = client.value("with_checkpoint")
    assert status == 1
    assert "leave --checkpoint out" in err[0]
    status, evaluation = client.value("validate")
    assert status == 0
    accuracy = {row["name"]: row["accuracy"] for row in evaluation["per_class"]}
    assert accuracy == {label["name"]: 100 * (label == labels[0]) for label in labels}
