"""The loopback Hub, proved with the real clients: huggingface_hub, open_clip and timm."""

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

# Beginning of every client below: `get` downloads and returns the bytes' length, or all of a small file.
GET = """
from pathlib import Path
from huggingface_hub import HfApi, ModelCard, hf_hub_download

def get(file, repo="org/model", **kwargs):
    data = Path(hf_hub_download(repo, file, **kwargs)).read_bytes()
    return data.decode() if len(data) < 1000 else len(data)
"""


def client_code(code):
    return GET + code


def lines(requests):
    return [(request.method, request.host, request.status) for request in requests]


def test_fresh_and_cached_downloads_ask_for_each_body_once(hub, run_client):
    first = hub.add_repo("org/model", FILES)
    hub.tag("org/model", "v1")
    second = hub.commit("org/model", {"config.json": '{"v": 2}'})
    hub.commit("org/model", {"config.json": '{"v": 3}'}, revision="feature/x")
    client = run_client(
        client_code(f"""
@check
def fresh():
    return [get("config.json"), get("model.safetensors")]

@check
def cached():
    return [get("config.json"), get("model.safetensors")]

@check
def tag_shares_unchanged_weights():
    return [get("config.json", revision="v1"), get("model.safetensors", revision="v1")]

@check
def branch_with_a_slash():
    return get("config.json", revision="feature/x")

@check
def commit():
    return get("config.json", revision="{first}")

@check
def info():
    info = HfApi().model_info("org/model", files_metadata=True)
    return [info.sha, info.card_data["license"], {{f.rfilename: f.lfs and f.lfs.sha256 for f in info.siblings}}]

@check
def listing():
    api = HfApi()
    refs = api.list_repo_refs("org/model")
    return [api.list_repo_files("org/model"), [r.name for r in refs.branches], [r.name for r in refs.tags]]

@check
def no_file():
    get("pytorch_model.bin")

@check
def no_revision():
    get("config.json", revision="v9")

@check
def no_repo():
    get("config.json", repo="org/none")
"""),
        hub,
        HF_TOKEN=TOKEN,
    )
    assert client.value("fresh") == ['{"v": 2}', len(WEIGHTS)]
    assert lines(hub.asked("org/model/config.json", during="fresh")) == [("HEAD", "hub", 200), ("GET", "hub", 200)]
    head, body = hub.asked("org/model/model.safetensors", during="fresh")
    assert lines([head, body]) == [("HEAD", "hub", 302), ("GET", "storage", 200)]
    assert (head.token, body.token) == (TOKEN, None)

    assert client.value("cached") == client.value("fresh")
    assert {request.method for request in hub.asked(during="cached")} == {"HEAD"}
    assert client.value("tag_shares_unchanged_weights") == [CONFIG, len(WEIGHTS)]
    assert [r.target for r in hub.asked(method="GET", during="tag_shares_unchanged_weights")] == [
        "org/model/config.json"
    ]
    assert client.value("branch_with_a_slash") == '{"v": 3}'
    assert client.value("commit") == CONFIG
    assert hub.asked(during="commit") == []

    sha, licence, siblings = client.value("info")
    assert (sha, licence, set(siblings)) == (second, "mit", set(FILES))
    assert siblings["model.safetensors"] == hub.repos["org/model"].resolve("main").files["model.safetensors"].sha256
    assert siblings["config.json"] is None
    assert client.value("listing") == [sorted(FILES), ["main", "feature/x"], ["v1"]]
    assert client["no_file"].error == "RemoteEntryNotFoundError"
    assert client["no_revision"].error == "RevisionNotFoundError"
    assert client["no_repo"].error == "RepositoryNotFoundError"
    assert client.leftovers == []


def test_private_and_gated_repos_need_the_right_token(hub, run_client):
    hub.add_repo("org/private", FILES, private=True)
    hub.add_repo("org/gated", FILES, gated=True)
    hub.add_user("hf_stranger", "stranger")
    hub.add_user("hf_granted", "guest", granted=["org/gated"])
    client = run_client(
        client_code("""
for token in (False, "hf_stranger", "hf_granted", "hf_tester", "hf_unknown"):
    for repo in ("org/private", "org/gated"):
        def attempt():
            return get("model.safetensors", repo=repo, token=token, cache_dir=f"{token}")
        attempt.__name__ = f"{token or 'nobody'}-{repo.split('/')[1]}"
        check(attempt)

@check
def private_info():
    return HfApi().model_info("org/private", token="hf_tester").private

@check
def who():
    return HfApi().whoami(token="hf_tester")["name"]

@check
def who_with_a_bad_token():
    HfApi().whoami(token="hf_unknown")
"""),
        hub,
    )
    answers = {name: outcome.error or outcome.value for name, outcome in client.checks.items()}
    assert answers == {
        "nobody-private": "RepositoryNotFoundError",
        "nobody-gated": "GatedRepoError",
        "hf_stranger-private": "RepositoryNotFoundError",
        "hf_stranger-gated": "GatedRepoError",
        "hf_granted-private": "RepositoryNotFoundError",
        "hf_granted-gated": len(WEIGHTS),
        "hf_tester-private": len(WEIGHTS),
        "hf_tester-gated": len(WEIGHTS),
        "hf_unknown-private": "HfHubHTTPError",
        "hf_unknown-gated": "HfHubHTTPError",
        "private_info": True,
        "who": "tester",
        "who_with_a_bad_token": "HfHubHTTPError",
    }
    assert hub.asked("org/private/*", during="nobody-private")[0].status == 401
    assert hub.asked("org/private/*", during="hf_stranger-private")[0].status == 404
    assert hub.asked("org/gated/*", during="hf_stranger-gated")[0].status == 403


def test_each_fault_reaches_the_client(hub, run_client):
    hub.add_repo("org/model", FILES)
    weights = "org/model/model.safetensors"
    hub.cut(weights, after=300_000, times=2, during="cut_then_good")
    hub.cut(weights, after=300_000, reset=True, during="reset")
    hub.cut(weights, after=0, times=None, during="cut_always")
    hub.answer(weights, 503, method="HEAD", times=2, during="head_503_then_good")
    hub.answer(weights, 503, during="always_503")
    hub.answer(weights, 500, method="GET", times=1, during="body_500")
    hub.answer(weights, 403, during="always_403")
    hub.answer(weights, 403, method="GET", during="body_403")
    hub.misstate_length(weights, -100, during="stated_short")
    hub.misstate_length(weights, 100, during="stated_long")
    hub.misstate_length(weights, 100, method="HEAD", during="head_stated_long")
    hub.replace(weights, hub.flip_bit, during="bit_flipped")
    hub.replace(weights, lambda data: data[:1000], during="truncated")
    hub.replace(weights, lambda data: b"", during="empty")
    hub.edit_headers(weights, {"X-Repo-Commit": None}, during="no_commit_header")
    names = list(dict.fromkeys(fault.during for fault in hub.faults))
    client = run_client(
        client_code(f"""
import hashlib

for name in {names}:
    def attempt():
        path = hf_hub_download("org/model", "model.safetensors", cache_dir=name)
        data = Path(path).read_bytes()
        return [len(data), hashlib.sha256(data).hexdigest() == Path(path).resolve().name]
    attempt.__name__ = name
    check(attempt)
    left = [str(p) for p in Path(name).rglob("*") if p.is_file() and p.parent.name == "blobs"]
    def blobs():
        return left
    blobs.__name__ = name + "-blobs"
    check(blobs)

@check
def good_again():
    return [get("model.safetensors", cache_dir=name) for name in ("reset", "always_503", "always_403", "stated_short")]
"""),
        hub,
        hurry=True,
        HF_HUB_DISABLE_PROGRESS_BARS="1",
    )
    size = len(WEIGHTS)
    outcomes = {name: client[name].error or client[name].value for name in names}
    assert outcomes == {
        "cut_then_good": [size, True],
        "reset": "ReadError",
        "cut_always": "RemoteProtocolError",
        "head_503_then_good": [size, True],
        "always_503": "LocalEntryNotFoundError",
        "body_500": "HfHubHTTPError",
        "always_403": "LocalEntryNotFoundError",
        "body_403": "HfHubHTTPError",
        "stated_short": "OSError",
        "stated_long": "RemoteProtocolError",
        "head_stated_long": "OSError",
        "bit_flipped": [size, False],
        "truncated": [1000, False],
        "empty": [0, False],
        "no_commit_header": "LocalEntryNotFoundError",
    }
    failed = [name for name in names if client[name].error]
    assert {name: client.value(f"{name}-blobs") for name in failed} == dict.fromkeys(failed, [])
    assert client.value("good_again") == [size] * 4

    # The client writes 10 MiB at a time, and what it had of the next 10 MiB is lost with the connection.
    assert [r.headers.get("range") for r in hub.asked(weights, "GET", during="cut_then_good")] == [None] * 3
    assert len(hub.asked(weights, "GET", during="cut_always")) == 6
    assert [r.status for r in hub.asked(weights, "HEAD", during="head_503_then_good")] == [503, 503, 302]
    assert len(hub.asked(weights, "GET", during="body_500")) == 1


def test_a_cut_download_resumes_where_the_client_had_written(hub, run_client):
    size, written = 21 * 2**20, 10 * 2**20
    hub.add_repo("org/model", {"model.safetensors": os.urandom(size)})
    hub.cut("org/model/model.safetensors", after=written + 1000)
    client = run_client(client_code('check(lambda: get("model.safetensors"))'), hub, hurry=True)
    assert client.value("<lambda>") == size
    bodies = hub.asked("org/model/model.safetensors", "GET")
    assert [r.headers.get("range") for r in bodies] == [None, f"bytes={written}-"]
    assert [r.status for r in bodies] == [200, 206]
    blob = next(path for path in client.home.rglob("blobs/*"))
    assert blob.read_bytes() == hub.files("org/model")["model.safetensors"]


def test_offline_clients_ask_for_nothing(hub, run_client):
    hub.add_repo("org/model", FILES)
    home = run_client(client_code('get("config.json")'), hub).home
    hub.forget()
    client = run_client(
        client_code("""
@check
def cached():
    return get("config.json")

@check
def never_downloaded():
    get("model.safetensors")
"""),
        hub,
        home=home,
        HF_HUB_OFFLINE="1",
    )
    assert client.value("cached") == CONFIG
    assert client["never_downloaded"].error == "LocalEntryNotFoundError"
    assert hub.requests == []


def test_closed_hub_refuses_connections(hub, run_client):
    hub.add_repo("org/model", FILES)
    home = run_client(client_code('get("config.json")'), hub).home
    hub.close()
    client = run_client(
        client_code("""
@check
def cached():
    return get("config.json")

@check
def never_downloaded():
    get("model.safetensors")
"""),
        hub,
        home=home,
        hub_runs=False,
        hurry=True,
    )
    assert client.value("cached") == CONFIG
    assert client["never_downloaded"].error == "LocalEntryNotFoundError"


def test_what_is_uploaded_comes_back_byte_for_byte(hub, run_client, tmp_path):
    folder = tmp_path / "folder"
    (folder / "sub").mkdir(parents=True)
    files = {name: data.encode() if isinstance(data, str) else data for name, data in FILES.items()}
    files |= {"sub/labels.txt": "Fähre\n".encode(), "sub/more.safetensors": os.urandom(1000), "empty.txt": b""}
    for name, data in files.items():
        (folder / name).write_bytes(data)
    hub.add_user("hf_reader", "reader", orgs=["org"], write=False)
    client = run_client(
        client_code(f"""
import filecmp
from huggingface_hub import CommitOperationDelete, snapshot_download

folder, api = Path({str(folder)!r}), HfApi()

@check
def create():
    urls = [api.create_repo("org/new", private=True, exist_ok=exist_ok) for exist_ok in (False, True)]
    return [url.repo_id for url in urls]

@check
def create_twice():
    api.create_repo("org/new")

@check
def upload():
    return api.upload_folder(repo_id="org/new", folder_path=folder, commit_message="Add model").oid

@check
def upload_again():
    return api.upload_folder(repo_id="org/new", folder_path=folder).oid

@check
def come_back():
    copy = Path(snapshot_download("org/new"))
    return sorted(p.relative_to(copy).as_posix() for p in copy.rglob("*") if p.is_file())

@check
def same_bytes():
    copy = Path(snapshot_download("org/new"))
    return [p.name for p in folder.rglob("*") if p.is_file()
            and not filecmp.cmp(p, copy / p.relative_to(folder), shallow=False)]

@check
def replace_and_delete():
    api.upload_file(path_or_fileobj=b"{{}}", path_in_repo="config.json", repo_id="org/new")
    delete = CommitOperationDelete("sub/more.safetensors")
    return api.create_commit("org/new", [delete], commit_message="Delete").oid

@check
def refs():
    api.create_tag("org/new", tag="v1")
    api.create_branch("org/new", branch="dev")
    api.upload_file(path_or_fileobj=b"dev", path_in_repo="dev.txt", repo_id="org/new", revision="dev")
    return [api.file_exists("org/new", "dev.txt", revision=r) for r in ("dev", "v1")]

@check
def pull_request():
    done = api.upload_file(path_or_fileobj=b"pr", path_in_repo="pr.txt", repo_id="org/new", create_pr=True)
    return [done.pr_revision, get("pr.txt", repo="org/new", revision="refs/pr/1")]

@check
def stale_parent():
    api.upload_file(path_or_fileobj=b"x", path_in_repo="x", repo_id="org/new", parent_commit="0" * 40)

@check
def reader_may_not_write():
    api.upload_file(path_or_fileobj=b"x", path_in_repo="x", repo_id="org/new", token="hf_reader")

@check
def reader_may_not_create():
    api.create_repo("org/other", token="hf_reader")

@check
def foreign_namespace():
    api.create_repo("elsewhere/other")

@check
def delete_repo():
    api.create_repo("tester/gone")
    api.delete_repo("tester/gone")
    return api.repo_exists("tester/gone")
"""),
        hub,
        HF_TOKEN=TOKEN,
    )
    assert client.value("create") == ["org/new"] * 2
    assert client["create_twice"].error == "HfHubHTTPError"
    repo = hub.repos["org/new"]
    assert repo.private
    uploaded = repo.commits[client.value("upload")]
    assert uploaded.title == "Add model"
    assert {path: blob.data for path, blob in uploaded.files.items() if path != ".gitattributes"} == files
    assert {path for path, blob in uploaded.files.items() if blob.lfs} == {"model.safetensors", "sub/more.safetensors"}
    assert client.value("upload_again") == uploaded.oid
    assert hub.asked("*", "PUT", during="upload_again") == []
    puts = hub.asked("*", "PUT", during="upload")
    assert [(r.host, r.token) for r in puts] == [("storage", None)] * 2
    assert client.value("come_back") == sorted([".gitattributes", *files])
    assert client.value("same_bytes") == []
    assert client.value("replace_and_delete") == repo.branches["main"]
    assert hub.files("org/new")["config.json"] == b"{}"
    assert "sub/more.safetensors" not in hub.files("org/new")
    assert client.value("refs") == [True, False]
    assert client.value("pull_request") == ["refs/pr/1", "pr"]
    assert "pr.txt" not in hub.files("org/new")
    assert client["stale_parent"].error == "HfHubHTTPError"
    assert hub.asked("*/commit/main", during="stale_parent")[0].status == 412
    for name in ("reader_may_not_write", "reader_may_not_create", "foreign_namespace"):
        assert client[name].error == "HfHubHTTPError"
        assert hub.asked(method="POST", during=name)[-1].status == 403
    assert client.value("delete_repo") is False


def test_a_failed_upload_changes_nothing(hub, run_client):
    before = hub.add_repo("org/model", FILES)
    hub.answer("*.git/info/lfs/objects/batch", 403, during="batch_403")
    hub.answer("*", 403, method="PUT", during="put_403")
    hub.answer("*", 503, method="PUT", times=1, during="put_503_then_good")
    hub.cut("*/commit/main", method="POST", during="commit_cut")
    client = run_client(
        client_code("""
api = HfApi()
for i, name in enumerate(["batch_403", "put_403", "commit_cut", "put_503_then_good"]):
    def attempt():
        data = bytes([i]) * 1000
        return api.upload_file(path_or_fileobj=data, path_in_repo="model.safetensors", repo_id="org/model").oid
    attempt.__name__ = name
    check(attempt)
"""),
        hub,
        hurry=True,
        HF_TOKEN=TOKEN,
    )
    assert client["batch_403"].error == "HfHubHTTPError"
    assert client["put_403"].error == "RuntimeError"
    assert client["commit_cut"].error == "RemoteProtocolError"
    after = hub.repos["org/model"].commits[client.value("put_503_then_good")]
    assert after.parent == before
    assert after.files["model.safetensors"].data == bytes([3]) * 1000


GOOD_INDEX = """model-index:
- name: m
  results:
  - task: {type: video-classification}
    dataset: {type: kinetics, name: Kinetics-400}
    metrics: [{type: accuracy, value: 70.1}]
"""
BAD_CARDS = {
    "license: my-own\n": '"license" must be one of',
    "tags: video\n": '"tags" must be an array',
    "datasets: kinetics\n": '"datasets" must be an array',
    "base_model: /models/clip\n": '"base_model" with value "/models/clip" is not valid',
    "license: [mit\n": "malformed",
    GOOD_INDEX.replace("type: kinetics, ", ""): '"model-index[0].results[0].dataset.type" is required',
    GOOD_INDEX.replace(", value: 70.1", ""): '"model-index[0].results[0].metrics[0].value" is required',
    GOOD_INDEX.replace("- name: m\n  results", "- results"): '"model-index[0].name" is required',
    "model-index: none\n": '"model-index" must be an array',
}


def test_model_cards_are_validated_as_on_the_hub(hub, run_client):
    hub.add_repo("org/model", FILES)
    client = run_client(
        client_code(f"""
import warnings
warnings.simplefilter("ignore")
good = "license: mit\\nlibrary_name: timm\\ntags: [video]\\nbase_model: {OPENAI}\\n" + {GOOD_INDEX!r}
api = HfApi()

@check
def card():
    card = ModelCard(f"---\\n{{good}}---\\n# Text\\n")
    card.validate()
    card.push_to_hub("org/model")
    return ModelCard.load("org/model").data.base_model

@check
def no_front_matter():
    api.upload_file(path_or_fileobj=b"# Text", path_in_repo="README.md", repo_id="org/model")

@check
def card_object_refuses():
    ModelCard("---\\nlicense: my-own\\n---\\n").validate()

for i, bad in enumerate({list(BAD_CARDS)!r}):
    def attempt():
        content = f"---\\n{{bad}}---\\n# Text\\n".encode()
        api.upload_file(path_or_fileobj=content, path_in_repo="README.md", repo_id="org/model")
    attempt.__name__ = f"bad_{{i}}"
    check(attempt)
"""),
        hub,
        HF_TOKEN=TOKEN,
    )
    assert client.value("card") == OPENAI
    assert client["no_front_matter"].error is None
    assert client["card_object_refuses"].error == "ValueError"
    for i, (bad, message) in enumerate(BAD_CARDS.items()):
        assert client[f"bad_{i}"].error == "ValueError", bad
        assert message in client[f"bad_{i}"].message
    assert hub.files("org/model")["README.md"] == b"# Text"


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
        client_code(f"""
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
"""),
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
