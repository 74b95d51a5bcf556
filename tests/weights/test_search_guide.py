"""docs/search.md runs as it stands, on a miniature CLIP from the loopback Hub."""

import json

import pytest

from support.modules import ROOT

pytest.importorskip("pyarrow")
REPO = "timm/vit_base_patch16_clip_224.openai"


def test_guide_to_search_runs(hub, run_client, miniature_clips):
    clip = miniature_clips[REPO]
    hub.add_repo(REPO, {path.name: path.read_bytes() for path in clip.folder.iterdir()})
    size = dict(clip.overrides)
    client = run_client(
        f"""
        import dataclasses
        from pathlib import Path
        import torch
        from inti_models import zoo
        from support.pages import blocks, run_block

        # the real architecture, at the size of the miniature
        b16 = zoo.ARCHITECTURES["b16"]
        zoo.ARCHITECTURES["b16"] = dataclasses.replace(b16, model_args=b16.model_args | {size!r})
        torch.cuda.is_available = lambda: False

        @check
        def guide():
            return [run_block(*block) for block in blocks(Path({str(ROOT / "docs" / "search.md")!r}))]

        @check
        def left():
            return [sorted(path.name for path in Path().iterdir()), Path("found.html").read_text().count("<section>")]
        """,
        hub,
    )
    _, searched, embedded, vectors, streamed = client.value("guide")
    lines = searched.splitlines()
    assert lines[0].startswith("index: ") and "3 files added" in lines[0]
    assert [".mp4" in line for line in lines[1:4]] == [True] * 3
    moments = [json.loads(line) for line in lines[4:7]]
    assert all(moment["start"] < moment["end"] for moment in moments)
    assert moments[0]["score"] > 0.9  # of the clip itself, at another rate
    assert "3 vectors of 32 values" in embedded
    assert "(3, 32)" in vectors and vectors.count("videos/") == 2
    assert " s  " in streamed
    files, sections = client.value("left")
    assert {"files.parquet", "windows.parquet", "found.html", "index"} <= set(files) and sections == 3
