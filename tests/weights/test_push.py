"""hub/push.py against the loopback Hub."""

import json
import shutil
from pathlib import Path

import pytest
import timm
import torch

from inti_models.weights.tensor_files import save_checkpoint

SCRIPTS = Path(__file__).parent.parent.parent / "hub"
NAME = "inti_vit_t8_32_motiondigits"
RESULTS = {
    "model": NAME,
    "accuracy": {"clips": 6000, "motion": 97.5, "digit": 91.2, "top1": 89.1, "digit_occluded": 88, "digit_clear": 94},
    "training": {"stills": 64, "clips": 128, "seed": 0, "minutes": 41.5, "how": "in one go"},
    "gflops": 0.0611,
    "machine": "some machine",
}


@pytest.fixture
def model(randomize_):
    return randomize_(timm.create_model(NAME))


@pytest.fixture
def models(tmp_path, model):
    """A folder like hub/, with the real card, random weights and results."""
    folder = tmp_path / "models" / NAME
    folder.mkdir(parents=True)
    shutil.copy(SCRIPTS / NAME / "card.md", folder)
    (folder / "results.json").write_text(json.dumps(RESULTS))
    save_checkpoint(model, folder / "model.safetensors")
    return folder.parent


def test_push_uploads_when_told_and_only_then(hub, run_client, models, model):
    hub.answer("*", 500, during="down")
    client = run_client(
        f"""
        import contextlib, io, sys
        from pathlib import Path

        sys.path.insert(0, {str(SCRIPTS)!r})
        import push

        def run(*words):
            out, err = io.StringIO(), io.StringIO()
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                status = push.main(words, Path({str(models)!r}))
            return [status, out.getvalue(), err.getvalue()]

        @check
        def dry():
            return run("org", "--private")

        @check
        def no_right():
            return run("others", "--really")

        @check
        def no_name():
            return run("no/name")

        @check
        def unknown():
            return run("org", "--only", "inti_vit_b16_k400", "--really")

        @check
        def really():
            return run("org", "--only", {NAME!r}, "--private", "--really")

        @check
        def down():
            return run("org", "--really")

        @check
        def loaded():
            import torch, inti_models

            model = inti_models.load("hf-hub:org/{NAME}").eval()
            with torch.inference_mode():
                return model(torch.linspace(-1, 1, 8 * 3 * 32 * 32).view(1, 8, 3, 32, 32)).tolist()
        """,
        hub,
        hurry=True,
        HF_TOKEN="hf_tester",
    )
    status, out, err = client.value("dry")
    assert (status, err) == (0, "")
    assert hub.asked(during="dry") == []
    for line in (f"org/{NAME} (private)", "  README.md  ", "  config.json  ", "  model.safetensors  "):
        assert line in out
    assert out.endswith("Nothing was uploaded; add --really to do it.\n")

    for name, sentence in {
        "no_right": "push: The Hub refuses the upload of others/",
        "no_name": "push: 'no/name/",
        "unknown": "push: 'inti_vit_b16_k400' is not made here",
        "down": "push: The Hub answered 500 for the upload of org/",
    }.items():
        status, _, err = client.value(name)
        assert (status, err.count("\n")) == (1, 1)
        assert err.startswith(sentence)
    assert hub.asked(during="no_name") == hub.asked(during="unknown") == []

    status, out, _ = client.value("really")  # a progress bar goes to stderr
    assert status == 0
    assert "published: " in out and "Nothing was uploaded" not in out
    assert list(hub.repos) == [f"org/{NAME}"]
    assert hub.repos[f"org/{NAME}"].private
    assert set(hub.files(f"org/{NAME}")) - {".gitattributes"} == {"README.md", "config.json", "model.safetensors"}
    assert f"hf-hub:org/{NAME}".encode() in hub.files(f"org/{NAME}")["README.md"]
    with torch.inference_mode():
        expected = model(torch.linspace(-1, 1, 8 * 3 * 32 * 32).view(1, 8, 3, 32, 32))
    assert torch.equal(torch.tensor(client.value("loaded")), expected)
