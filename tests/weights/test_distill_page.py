"""docs/distill.md runs as it stands, with a miniature of CLIP from a Hub on this machine."""

import re

from support.modules import ROOT

REPO = "timm/vit_base_patch16_clip_224.openai"


def test_walk_from_a_folder_of_videos_to_a_cheaper_clip(new_hub, run_client, miniature_clips):
    hub, clip = new_hub(), miniature_clips[REPO]
    hub.add_repo(REPO, clip.folder)
    size = {key: value for key, value in clip.overrides.items() if key != "img_size"}
    client = run_client(
        f"""
        import dataclasses, json
        from pathlib import Path
        import inti_models
        from inti_models import zoo
        from support.pages import blocks, run_block

        # the real architecture, at the size of the miniature
        b16 = zoo.ARCHITECTURES["b16"]
        zoo.ARCHITECTURES["b16"] = dataclasses.replace(b16, model_args=b16.model_args | {size!r})

        @check
        def walk():
            return [run_block(*block) for block in blocks(Path({str(ROOT / "docs" / "distill.md")!r}))]

        @check
        def left():
            run = Path("runs/cheap")
            report = json.loads((run / "fidelity" / "fidelity.json").read_text())
            model = inti_models.load(run / "last")
            files = sorted(path.name for path in [*run.iterdir(), *(run / "fidelity").iterdir()])
            return [report, files, (run / "last" / "README.md").read_text(), model.pretrained_cfg["label_names"]]
        """,
        hub,
    )
    _, distilled, predicted, python = client.value("walk")
    report, files, card, words = client.value("left")
    assert words == ["go left", "go right", "grow"]
    assert [row["name"] for row in report["rows"]][:2] == ["distilled", "plain mean"] and len(report["rows"]) == 7
    assert {row["videos"] for row in report["rows"]} == {4} and report["clips"] == 32
    assert {"best", "last", "fidelity.md", "fidelity.png", "fidelity.json"} <= set(files)
    assert "order of frames" in card and "32 clips" in card and "inti_vit_b16_k400" in card
    assert "| plain mean |" in distilled and "| distilled |" in python
    own, new = re.findall(r"^ +\S+%  (.+)$", predicted, re.MULTILINE)
    assert own in words and new in ("a handwritten three", "a handwritten seven")
