"""`inti_models.evaluation.mteb_models`: embeddings of videos and texts, and a run of mteb's own mock tasks."""

import json

import pytest
import timm
import torch
import torch.nn.functional as F

import inti_models
from inti_models.data import write_video
from inti_models.evaluation import mteb_models
from inti_models.inference.predict import VideoClassifier
from inti_models.models.flops import zoo_cost
from support import miniature_clips

TRAINED = "inti_vit_t8_32_motiondigits"
CLIP = "timm/vit_base_patch16_clip_224.openai"
WORDS = ["riding a bike", "feeding goats", "tying a knot"]


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    for i in range(3):
        frames = torch.randint(256, (12, 3, 48, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(i))
        write_video(folder / f"{i}.mp4", frames, fps=8)
    return sorted(folder.iterdir())


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return miniature_clips.build(CLIP, tmp_path_factory.mktemp("clip"), seed=3)


def zero_shot_model(clip, **kwargs):
    """A model of the zoo with the trunk of a miniature CLIP and no head."""
    overlay = {"file": str(clip.folder / "open_clip_model.safetensors")}
    options = {"pretrained": True, "num_classes": 0, **clip.overrides, **kwargs}
    return timm.create_model("inti_vit_b16_hmdb51.openai", pretrained_cfg_overlay=overlay, **options).eval()


def test_a_video_is_the_mean_of_its_views_as_the_model_takes_them(videos):
    model = inti_models.load(TRAINED)
    encoder = mteb_models.VideoEncoder(model, "trained", views=(2, 3))
    with torch.inference_mode():
        views = VideoClassifier(model, views=(2, 3)).views(videos[0])
        expected = F.normalize(model.encode(views).mean(dim=0), dim=0)
    torch.testing.assert_close(encoder.embed_video(videos[0]), expected)
    assert encoder.gflops == pytest.approx(6 * zoo_cost(TRAINED).gflops)


@pytest.mark.parametrize("compress_at", [None, ()])
def test_texts_and_videos_share_clips_space(videos, clip, compress_at):
    options = {} if compress_at is None else {"compress_at": compress_at}
    encoder = mteb_models.VideoEncoder(zero_shot_model(clip, **options), "zero_shot", text=True)
    texts, embedded = encoder.embed_texts(WORDS), torch.stack([encoder.embed_video(path) for path in videos])
    classifier = zero_shot_model(clip, **options)
    inti_models.set_zero_shot_head(classifier, WORDS, templates=["{}"])
    logits = torch.stack([VideoClassifier(classifier).probabilities(path).log() for path in videos])
    cosines = encoder.similarity(embedded, texts)
    scale = (logits[:, 0] - logits[:, 1]) / (cosines[:, 0] - cosines[:, 1])
    torch.testing.assert_close(
        cosines * scale.unsqueeze(1) - logits,
        (cosines[:, :1] * scale.unsqueeze(1) - logits[:, :1]).expand(-1, 3),
        atol=2e-3,
        rtol=1e-3,
    )
    torch.testing.assert_close(encoder.similarity_pairwise(embedded, texts), cosines.diagonal())
    long = " ".join(WORDS * 60)
    assert encoder.embed_texts([long]).norm() == pytest.approx(1)  # cut, not refused


def test_a_model_without_text_tower_says_so(videos):
    with pytest.raises(ValueError, match="no text tower"):
        mteb_models.VideoEncoder(inti_models.load(TRAINED), "trained", text=True)
    with pytest.raises(ValueError, match="embeds no texts"):
        mteb_models.VideoEncoder(inti_models.load(TRAINED), "trained").embed_texts(["a"])


@pytest.fixture(scope="module")
def mocks():
    pytest.importorskip("mteb", reason="mteb is not installed: pip install 'inti_models[mteb]'")
    from mteb.mocks import ALL_MOCK_TASK_TEST_GRID

    def of(*modalities):
        return [task for task in ALL_MOCK_TASK_TEST_GRID if set(task.metadata.modalities) == set(modalities)]

    return of


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.UndefinedMetricWarning")  # of ten videos
def test_mock_tasks_of_videos_run_for_a_model_and_its_uncompressed_self(mocks):
    tasks = mocks("video")
    rows = mteb_models.measure(mteb_models.pair(TRAINED), tasks)
    assert {row["task"] for row in rows} == {task.metadata.name for task in tasks} and len(tasks) >= 3
    assert {row["model"] for row in rows} == {TRAINED, f"{TRAINED}_naive"} and len(rows) == 2 * len(tasks)
    costs = {row["model"]: row["gflops"] for row in rows}
    assert costs[TRAINED] < costs[f"{TRAINED}_naive"]
    assert all(0 <= abs(row["score"]) <= 1 for row in rows)
    assert mteb_models.table(rows).count("\n") == 1 + len(rows)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.UndefinedMetricWarning")
def test_mock_tasks_with_texts_run_for_a_zero_shot_model(mocks, clip):
    tasks = mocks("video", "text")
    encoder = mteb_models.VideoEncoder(zero_shot_model(clip), "zero_shot", text=True)
    rows = mteb_models.measure([encoder], tasks)
    assert {row["task"] for row in rows} == {task.metadata.name for task in tasks} and len(tasks) >= 3


def test_the_command_prints_a_table_and_writes_the_rows(mocks, tmp_path, capsys, monkeypatch):
    import mteb

    monkeypatch.setattr(mteb, "get_tasks", lambda tasks: [t for t in mocks("video") if t.metadata.name in tasks])
    path = tmp_path / "scores.json"
    assert mteb_models.main([TRAINED, "--tasks", "MockVideoClassification", "--output", str(path)]) == 0
    rows = json.loads(path.read_text())
    assert [row["task"] for row in rows] == ["MockVideoClassification"] * 2
    assert mteb_models.table(rows) in capsys.readouterr().out
