"""The loopback Hub is one to the real clients: huggingface_hub, open_clip and timm. Its faults: test_loading.py."""

import json
import os

import pytest
import torch

TOKEN = "hf_tester"
WEIGHTS = bytes(range(256)) * 4096
CONFIG = json.dumps({"architecture": "none"})
FILES = {"config.json": CONFIG, "model.safetensors": WEIGHTS, "README.md": "---\nlicense: mit\n---\n# A model\n"}
OPENAI = "timm/vit_base_patch16_clip_224.openai"
LAION = "timm/vit_base_patch16_clip_224.laion2b"


def lines(requests):
    return [(request.method, request.host, request.status) for request in requests]


def test_fresh_and_cached_downloads_ask_for_each_body_once(hub, run_client):
    hub.add_repo("org/model", FILES)
    client = run_client(
        """
        from pathlib import Path
        from huggingface_hub import hf_hub_download

        def get():
            return [len(Path(hf_hub_download("org/model", file)).read_bytes()) for file in files]

        files = ("config.json", "model.safetensors")
        @check
        def fresh():
            return get()

        @check
        def cached():
            return get()
        """,
        hub,
        HF_TOKEN=TOKEN,
    )
    assert client.value("fresh") == client.value("cached") == [len(CONFIG), len(WEIGHTS)]
    assert lines(hub.asked("org/model/config.json", during="fresh")) == [("HEAD", "hub", 200), ("GET", "hub", 200)]
    head, body = hub.asked("org/model/model.safetensors", during="fresh")
    assert lines([head, body]) == [("HEAD", "hub", 302), ("GET", "storage", 200)]
    assert (head.token, body.token) == (TOKEN, None)
    assert {request.method for request in hub.asked(during="cached")} == {"HEAD"}
    assert client.leftovers == []


def test_what_is_uploaded_comes_back_byte_for_byte(hub, run_client, tmp_path):
    folder = tmp_path / "folder"
    (folder / "sub").mkdir(parents=True)
    files = {name: data.encode() if isinstance(data, str) else data for name, data in FILES.items()}
    files |= {"sub/labels.txt": "Fähre\n".encode(), "sub/more.safetensors": os.urandom(1000), "empty.txt": b""}
    for name, data in files.items():
        (folder / name).write_bytes(data)
    client = run_client(
        f"""
        import filecmp
        from pathlib import Path
        from huggingface_hub import HfApi, snapshot_download

        folder, api = Path({str(folder)!r}), HfApi()
        api.create_repo("org/new")

        @check
        def upload():
            return api.upload_folder(repo_id="org/new", folder_path=folder, commit_message="Add model").oid

        @check
        def other_bytes():
            copy = Path(snapshot_download("org/new"))
            return [p.name for p in folder.rglob("*") if p.is_file()
                    and not filecmp.cmp(p, copy / p.relative_to(folder), shallow=False)]

        @check
        def bad_card():
            api.upload_file(path_or_fileobj=b"---\\nlicense: my-own\\n---\\n", path_in_repo="README.md",
                            repo_id="org/new")
        """,
        hub,
        HF_TOKEN=TOKEN,
    )
    uploaded = hub.repos["org/new"].commits[client.value("upload")]
    assert uploaded.title == "Add model"
    assert {path: blob.data for path, blob in uploaded.files.items() if path != ".gitattributes"} == files
    assert {path for path, blob in uploaded.files.items() if blob.lfs} == {"model.safetensors", "sub/more.safetensors"}
    assert [(r.host, r.token) for r in hub.asked("*", "PUT", during="upload")] == [("storage", None)] * 2
    assert client.value("other_bytes") == []
    assert client["bad_card"].error == "ValueError" and '"license" must be one of' in client["bad_card"].message


@pytest.mark.parametrize("repo_id", [OPENAI, LAION])
def test_miniatures_have_the_layout_of_the_hub(miniature_clips, repo_id):
    miniature = miniature_clips[repo_id]
    names = {path.name for path in miniature.folder.iterdir()}
    assert {"open_clip_config.json", "open_clip_model.safetensors", "config.json", "model.safetensors"} <= names
    config = json.loads((miniature.folder / "open_clip_config.json").read_text())
    assert config["model_cfg"].get("quick_gelu", False) is (repo_id == OPENAI)


def test_open_clip_and_timm_load_miniatures_from_the_hub(hub, run_client, miniature_clips):
    for repo_id in (OPENAI, LAION):
        hub.add_repo(repo_id, miniature_clips[repo_id].folder)
    client = run_client(
        f"""
        import open_clip, timm, torch

        images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
        words = ["riding a bike", "feeding goats"]
        for name, repo_id in (("openai", {OPENAI!r}), ("laion", {LAION!r})):
            @torch.no_grad()
            def both():
                model, _, preprocess = open_clip.create_model_and_transforms("hf-hub:" + repo_id)
                tokens = open_clip.get_tokenizer("hf-hub:" + repo_id)(words)
                text, image = model.eval().encode_text(tokens), model.encode_image(images)
                return [image.tolist(), text.tolist(), model.logit_scale.exp().item(), str(preprocess)]
            @torch.no_grad()
            def tower():
                model = timm.create_model("hf-hub:" + repo_id, pretrained=True).eval()
                return [model(images).tolist(), type(model.blocks[0].mlp.act).__name__]
            both.__name__, tower.__name__ = name, name + "_tower"
            check(both)
            check(tower)
        """,
        hub,
        HF_HUB_DISABLE_PROGRESS_BARS="1",
    )
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    for name, repo_id, activation in (("openai", OPENAI, "QuickGELU"), ("laion", LAION, "GELU")):
        miniature = miniature_clips[repo_id]
        with torch.no_grad():
            expected = miniature.model.encode_image(images)
            text = miniature.model.encode_text(miniature.tokenizer(["riding a bike", "feeding goats"]))
        image, words, scale, preprocess = client.value(name)
        torch.testing.assert_close(torch.tensor(image), expected)
        torch.testing.assert_close(torch.tensor(words), text)
        assert scale == pytest.approx(100)
        assert "0.48145466" in preprocess
        projected, act = client.value(f"{name}_tower")
        torch.testing.assert_close(torch.tensor(projected), expected, atol=1e-4, rtol=1e-4)
        assert act == activation
    assert hub.asked("*.bin") == []
    assert {r.target.split("/")[-1] for r in hub.asked(method="GET")} == {
        "open_clip_config.json",
        "open_clip_model.safetensors",
        "config.json",
        "model.safetensors",
    }
