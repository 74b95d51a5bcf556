"""Models on the Hub: published, loaded bit for bit, and every fault in one sentence with the cache left usable."""

import pytest
import timm
import torch

from inti_models import save_pretrained

ID = "org/mine"
NAME = "inti_vit_t8_32_motiondigits"

# What every client starts with, indented as the rest of its code is.
START = """
        import warnings
        warnings.simplefilter("ignore")
        import timm, torch, inti_models

        def logits(model):
            return model.eval()(torch.linspace(-1, 1, 2 * 4 * 3 * 32 * 32).view(2, 4, 3, 32, 32)).tolist()

        def loaded(name="hf-hub:org/mine", **kwargs):
            return logits(inti_models.load(name, **kwargs))
"""


def small_model(seed=0):
    torch.manual_seed(seed)
    model = timm.create_model(
        NAME, embed_dim=32, depth=4, num_heads=2, compress_at=(1, 3), num_classes=3, img_size=32, num_frames=4
    )
    torch.nn.init.normal_(model.interpolations["1"][0].predict.logit.weight)
    return model.eval()


def logits(model):
    with torch.no_grad():
        return model(torch.linspace(-1, 1, 2 * 4 * 3 * 32 * 32).view(2, 4, 3, 32, 32)).tolist()


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder that `save_pretrained` wrote, and its logits."""
    folder = tmp_path_factory.mktemp("saved") / "mine"
    model = small_model()
    save_pretrained(model, folder, label_names=["left", "right", "still"])
    return folder, logits(model)


def refused(outcome, error, *words):
    """Assert that a check ended with one sentence that has these words."""
    assert outcome.error == error, outcome.traceback or outcome.value
    for word in words:
        assert word in outcome.message
    assert outcome.message.endswith(".")
    assert "\n" not in outcome.message


def test_pushed_models_come_back_bit_for_bit_and_offline_too(hub, run_client, saved):
    folder, expected = saved
    client = run_client(
        START
        + f"""
        from huggingface_hub import EvalResult
        model = inti_models.load({str(folder)!r})
        result = EvalResult("video-classification", "motiondigits", "MotionDigits", "accuracy", 97.5)

        @check
        def push():
            return inti_models.push_to_hub(model, "org/mine", results=[result], commit_message="First")

        @check
        def load():
            return loaded()

        @check
        def by_timm():
            return logits(timm.create_model("hf-hub:org/mine", pretrained=True))

        @check
        def private():
            inti_models.push_to_hub(model, "tester/secret", private=True)
            return loaded("hf-hub:tester/secret")

        @check
        def branch():
            other = inti_models.load({str(folder)!r}, num_classes=5)
            inti_models.push_to_hub(other, "org/mine", revision="five", label_names=list("abcde"))
            again = inti_models.load("hf-hub:org/mine@five")
            cfg = again.pretrained_cfg
            return [logits(again) == logits(other), len(loaded()[0]), cfg["hf_hub_id"], "".join(cfg["label_names"])]

        @check
        def overridden():
            model = inti_models.load("hf-hub:org/mine@main", num_classes=7, in_chans=1, img_size=48, compress_at=(2,))
            return [model.num_classes, model.in_chans, model.compress_at]

        @check
        def not_recreatable():
            inti_models.push_to_hub(inti_models.InTIVisionTransformer(depth=2, embed_dim=32, num_heads=2), "org/none")

        @check
        def bad_card():
            inti_models.push_to_hub(model, "org/none", license="no-such-license")

        @check
        def foreign_owner():
            inti_models.push_to_hub(model, "others/none")

        import contextlib, io
        from PIL import Image
        from inti_models.cli import main
        Image.new("RGB", (40, 32), "red").save("frame.png")

        def predict(name):
            out, err = io.StringIO(), io.StringIO()
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                status = main(["predict", "frame.png", "--model", name, "--topk", "1", "--device", "cpu",
                               "--precision", "float32"])
            return [status, out.getvalue().split()[-1:], err.getvalue()]

        @check
        def predicted():
            return predict("hf-hub:org/mine")

        @check
        def not_predicted():
            return predict("hf-hub:org/nowhere")

        @check
        def no_token():
            import os
            del os.environ["HF_TOKEN"]
            inti_models.push_to_hub(model, "org/none")
        """,
        hub,
        HF_TOKEN="hf_tester",
    )
    assert "/org/mine/commit/" in client.value("push")
    for name in ("load", "by_timm", "private"):
        assert client.value(name) == expected
    assert client.value("branch") == [True, 3, "org/mine@five", "abcde"]
    assert client.value("overridden") == [7, 1, [2]]
    assert set(hub.files(ID)) == {".gitattributes", "README.md", "config.json", "model.safetensors"}
    assert hub.repos["tester/secret"].private
    assert b"model-index" in hub.files(ID)["README.md"]
    refused(client["not_recreatable"], "ValueError", "cannot be created again by name")
    refused(client["bad_card"], "ValueError", "The Hub does not accept upload of org/none", "must be one of")
    refused(client["foreign_owner"], "PermissionError", "upload of others/none", "(403)", "HF_TOKEN")
    refused(client["no_token"], "PermissionError", "upload of org/none", "HF_TOKEN")
    assert set(hub.files("org/none")) <= {".gitattributes"}
    assert client.leftovers == []

    status, label, err = client.value("predicted")
    assert (status, err) == (0, "")
    assert label[0] in {"left", "right", "still"}
    status, _, err = client.value("not_predicted")
    assert status == 1
    assert err.startswith("inti-models: The Hub shows you no org/nowhere")
    assert err.count("\n") == 1

    asked = len(hub.requests)
    offline = run_client(
        START
        + """
        @check
        def load():
            return loaded()

        @check
        def by_timm():
            return logits(timm.create_model("hf-hub:org/mine", pretrained=True))

        @check
        def other_revision():
            return loaded("hf-hub:org/mine@v1")

        @check
        def other_repo():
            return loaded("hf-hub:org/other")
        """,
        hub,
        home=client.home,
        HF_HUB_OFFLINE="1",
        hub_runs=False,
    )
    assert len(hub.requests) == asked
    assert offline.value("load") == offline.value("by_timm") == expected
    for name, repo_id in (("other_revision", "org/mine@v1;"), ("other_repo", "org/other;")):
        refused(
            offline[name], "FileNotFoundError", f"HF_HUB_OFFLINE is set and the cache has no config.json of {repo_id}"
        )


def test_repositories_that_cannot_be_loaded(hub, run_client, saved, tmp_path):
    folder, expected = saved
    files = {path.name: path for path in folder.iterdir()}
    config = files["config.json"]
    trap = b"cos\nmkdir\n(S'" + str(tmp_path / "sprung").encode() + b"'\ntR."
    hub.add_repo(ID, files)
    hub.tag(ID, "v1")
    hub.commit(ID, {"config.json": "{}"})
    hub.add_repo("org/secret", files, private=True)
    hub.add_repo("org/gated", files, gated=True)
    hub.add_repo("org/pickles", {"config.json": config, "pytorch_model.bin": trap, "model.pth": trap})
    hub.add_repo("org/empty")
    hub.add_repo("org/resnet", {"config.json": '{"architecture": "resnet18", "pretrained_cfg": {}}'})
    hub.add_repo("org/zero", {"config.json": config, "model.safetensors": b""})
    broken = files["model.safetensors"].read_bytes()
    hub.add_repo("org/short", {"config.json": config, "model.safetensors": broken[:-100]})
    hub.add_repo("org/flipped", {"config.json": config, "model.safetensors": hub.flip_bit(broken)})
    hub.add_user("hf_blocked", "blocked")
    client = run_client(
        START
        + """
        import os
        names = ["secret", "gated", "pickles", "empty", "resnet", "zero", "short", "flipped", "none", "mine", "mine@v2"]
        for name in names:
            def load():
                return loaded(f"hf-hub:org/{name}")
            load.__name__ = name
            check(load)

        @check
        def tagged():
            return loaded("hf-hub:org/mine@v1")

        @check
        def old_spelling():
            return loaded("hf_hub:org/mine@v1")

        @check
        def pickles_by_timm():
            timm.create_model("hf-hub:org/pickles", pretrained=True)

        for name in ("no name", "a/b/c", ""):
            def load():
                return loaded(f"hf-hub:{name}")
            load.__name__ = "id:" + name.replace(" ", "_").replace("/", "_")
            check(load)

        os.environ["HF_TOKEN"] = "hf_wrong"
        @check
        def wrong_token():
            return loaded("hf-hub:org/secret")

        os.environ["HF_TOKEN"] = "hf_blocked"
        @check
        def blocked():
            return loaded("hf-hub:org/gated")

        os.environ["HF_TOKEN"] = "hf_tester"
        @check
        def with_token():
            return loaded("hf-hub:org/secret") == loaded("hf-hub:org/gated")
        """,
        hub,
    )
    missing = "FileNotFoundError"
    refused(client["secret"], missing, "The Hub shows you no org/secret", "HF_TOKEN")
    refused(client["none"], missing, "The Hub shows you no org/none", "check the name")
    refused(client["gated"], "PermissionError", "org/gated is gated", "HF_TOKEN")
    refused(client["blocked"], "PermissionError", "org/gated is gated", "HF_TOKEN")
    refused(client["wrong_token"], "PermissionError", "config.json of org/secret", "(401)", "HF_TOKEN")
    refused(client["pickles"], missing, "org/pickles has no model.safetensors", "inti-models convert")
    assert client["pickles_by_timm"].error == "RemoteEntryNotFoundError"  # for our configs pin the file
    refused(client["empty"], missing, "org/empty has no config.json")
    refused(client["resnet"], "ValueError", "is of 'resnet18', which is not an InTI model")
    refused(client["mine"], "ValueError", "config.json is not a model's config")
    refused(client["mine@v2"], missing, "org/mine has no revision v2")
    refused(client["zero"], "ValueError", "org--zero", "is not a complete safetensors file")
    refused(client["short"], "ValueError", "org--short", "is not a complete safetensors file")
    refused(client["flipped"], "ValueError", "org--flipped", "is damaged: its tensors are not those that were saved")
    for name in ("id:no_name", "id:a_b_c", "id:"):
        refused(client[name], "ValueError", "cannot be a repository; write hf-hub:org/name")
    assert client.value("tagged") == client.value("old_spelling") == expected
    assert client.value("with_token") is True
    assert not (tmp_path / "sprung").exists()
    assert not [request for request in hub.asked("*") if request.path.endswith((".bin", ".pth"))]
    assert client.leftovers == []


def test_faults_on_the_way_leave_a_cache_that_heals(hub, run_client, saved):
    """Each fault hits the weights of a repository of its own; the same call again succeeds."""
    folder, expected = saved
    faults = {
        "flipped": lambda file, name: hub.replace(file, hub.flip_bit, during=name),
        "truncated": lambda file, name: hub.replace(file, lambda data: data[:-1000], during=name),
        "emptied": lambda file, name: hub.replace(file, lambda data: b"", during=name),
        "cut": lambda file, name: hub.cut(file, after=5000, times=None, during=name),
        "reset": lambda file, name: hub.cut(file, after=5000, times=None, reset=True, during=name),
        "long": lambda file, name: hub.misstate_length(file, 7, during=name),
        "forbidden": lambda file, name: hub.answer(file, 403, during=name),
        "broken": lambda file, name: hub.answer(file, 500, during=name),
        "away": lambda file, name: hub.answer(file, 503, method="GET", during=name),
        "config": lambda file, name: hub.replace(
            file.replace("model.safetensors", "config.json"), lambda data: data.replace(b'"dense"', b'"densf"') + b" "
        ),
    }
    for name, arm in faults.items():
        hub.add_repo(f"org/{name}", folder)
        fault = arm(f"org/{name}/model.safetensors", name)
        if name == "config":
            fault.during = name
    hub.add_repo("org/recovers", folder)
    hub.answer("org/recovers/model.safetensors", 503, method="HEAD", times=2, during="recovers")
    client = run_client(
        START
        + f"""
        import os
        for name in {list(faults)!r} + ["recovers"]:
            for suffix in ("", "_again"):
                def load():
                    return loaded("hf-hub:org/" + name)
                load.__name__ = name + suffix
                check(load)

        def blob(name):
            folder = os.path.join(os.environ["HF_HOME"], "hub", "models--org--" + name)
            return max((p.path for p in os.scandir(folder + "/blobs")), key=os.path.getsize)

        def damage(name, change):
            data = open(blob(name), "rb").read()
            open(blob(name), "wb").write(change(data))

        @check
        def damaged_in_cache():
            damage("flipped", lambda data: data[:-1] + bytes([data[-1] ^ 1]))
            return loaded("hf-hub:org/flipped")

        @check
        def healed():
            return loaded("hf-hub:org/flipped")

        @check
        def truncated_in_cache():
            damage("flipped", lambda data: data[:100])
            return loaded("hf-hub:org/flipped")

        @check
        def healed_again():
            return loaded("hf-hub:org/flipped")
        """,
        hub,
        hurry=True,
    )
    for name in ("flipped", "truncated", "emptied"):
        refused(client[name], "OSError", f"model.safetensors of org/{name} was damaged in the download")
    refused(client["config"], "OSError", "config.json of org/config was damaged in the download")
    for name in ("damaged_in_cache", "truncated_in_cache"):
        refused(client[name], "OSError", "model.safetensors of org/flipped was damaged", "load it again")
    for name in ("cut", "reset", "long"):
        refused(client[name], "ConnectionError", f"The download of model.safetensors of org/{name} failed", "try again")
    refused(client["forbidden"], "PermissionError", "The Hub refuses model.safetensors of org/forbidden (403)")
    refused(client["broken"], "ConnectionError", "The Hub answered 500 for model.safetensors of org/broken")
    refused(client["away"], "ConnectionError", "The Hub answered 503 for model.safetensors of org/away")
    for name in faults:
        assert client.value(f"{name}_again") == expected
    for name in ("recovers", "recovers_again", "healed", "healed_again"):
        assert client.value(name) == expected
    assert client.leftovers == []


def test_full_disk_no_network_and_a_cache_without_links(hub, run_client, saved):
    """A limit on the size of files stands in for the full disk: it needs no privileges."""
    folder, expected = saved
    hub.add_repo(ID, folder)
    hub.add_repo("org/flipped", folder)
    hub.replace("org/flipped/model.safetensors", hub.flip_bit, during="flipped")
    client = run_client(
        START
        + """
        import resource
        limit = resource.getrlimit(resource.RLIMIT_FSIZE)

        @check
        def full():
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limit[1]))
            try:
                return loaded()
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, limit)

        @check
        def space_again():
            return loaded()

        @check
        def flipped():
            return loaded("hf-hub:org/flipped")

        @check
        def flipped_again():
            return loaded("hf-hub:org/flipped")
        """,
        hub,
        hurry=True,
        HF_HUB_DISABLE_SYMLINKS="1",
    )
    refused(client["full"], "OSError", "The cache cannot take model.safetensors of org/mine", "HF_HOME")
    refused(client["flipped"], "OSError", "model.safetensors of org/flipped was damaged in the download")
    assert client.value("space_again") == client.value("flipped_again") == expected
    assert not [path for path in client.home.rglob("*") if path.is_symlink()]
    assert client.leftovers == []

    alone = run_client(
        START
        + """
        @check
        def from_cache():
            return loaded()

        @check
        def by_timm():
            return logits(timm.create_model("hf-hub:org/mine", pretrained=True))

        @check
        def absent():
            return loaded("hf-hub:org/other")

        @check
        def pushed():
            inti_models.push_to_hub(inti_models.load("hf-hub:org/mine"), "org/other")
        """,
        hub,
        home=client.home,
        hurry=True,
        hub_runs=False,
        HF_ENDPOINT="http://127.0.0.1:9",  # where nobody listens
        HF_HUB_DISABLE_SYMLINKS="1",
    )
    assert alone.value("from_cache") == alone.value("by_timm") == expected
    refused(alone["absent"], "ConnectionError", "The Hub cannot be reached for config.json of org/other", "network")
    refused(alone["pushed"], "ConnectionError", "upload of org/other", "network")


def test_weights_of_the_zoo_are_loaded_by_tag_and_verified(hub, run_client, miniature_clips):
    clip = miniature_clips["timm/vit_base_patch16_clip_224.openai"]
    hub.add_repo(clip.repo_id, clip.folder)
    other = miniature_clips["timm/vit_base_patch16_clip_224.laion2b"]
    hub.add_repo(other.repo_id, other.folder)
    hub.replace(f"{other.repo_id}/model.safetensors", hub.flip_bit, during="flipped")
    client = run_client(
        START
        + f"""
        args = {clip.overrides!r}

        def trunk(model):
            return [float(model.blocks[0].attn.qkv.weight.detach().double().sum()), model.pretrained_cfg["hf_hub_id"]]

        @check
        def openai():
            return trunk(inti_models.load("inti_vit_b16_k400.openai", **args))

        @check
        def default():
            return trunk(inti_models.load("inti_vit_b16_hmdb51", **args, num_classes=3))

        @check
        def zero_shot():
            head = inti_models.load("inti_vit_b16_hmdb51", **args).head.classes.weight
            by_timm = timm.create_model("inti_vit_b16_hmdb51", pretrained=True, **args).head.classes.weight
            return [list(head.shape), torch.equal(head, by_timm), bool(head.any())]

        @check
        def wrapped():
            base = "vit_base_patch16_clip_quickgelu_224.openai"
            return trunk(inti_models.load("inti_vit", base=base, **args, num_classes=3))

        @check
        def flipped():
            return trunk(inti_models.load("inti_vit_b16_k400.laion2b", **args))

        @check
        def flipped_again():
            return trunk(inti_models.load("inti_vit_b16_k400.laion2b", **args))[1]

        @check
        def another_architecture():
            return trunk(inti_models.load("inti_vit_b16_k400.openai", **(args | {{"depth": 3}})))

        @check
        def absent():
            return trunk(inti_models.load("inti_vit_b16_k400.dfn2b", **args))
        """,
        hub,
    )
    qkv = clip.model.visual.transformer.resblocks[0].attn.in_proj_weight.detach().double().sum().item()
    for name in ("openai", "default", "wrapped"):
        assert client.value(name) == [pytest.approx(qkv), clip.repo_id]
    assert client.value("zero_shot") == [[51, 32], True, True]
    refused(client["flipped"], "OSError", f"model.safetensors of {other.repo_id} was damaged")
    assert client.value("flipped_again") == other.repo_id
    refused(client["another_architecture"], "ValueError", clip.repo_id, "has, unlike the model, blocks.3.")
    refused(client["absent"], "FileNotFoundError", "The Hub shows you no timm/vit_base_patch16_clip_224.dfn2b")
