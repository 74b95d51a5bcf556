"""Embeddings of files and windows: those of `model.encode` on the same frames."""

import os

import numpy as np
import pytest
import timm
import torch

import inti_models
from inti_models import load
from inti_models.cli import main
from inti_models.data import ClipTransform, iterate_frames, write_video
from inti_models.data.motion_digits import MotionDigits
from inti_models.inference.embedding import WindowEncoder, Windows, cast
from inti_models.inference.predict import VideoClassifier
from inti_models.models.heads import CosineHead, set_text_head

pq = pytest.importorskip("pyarrow.parquet")
NAME = "inti_vit_t8_32_motiondigits"


@pytest.fixture(scope="module")
def model():
    return load(NAME).eval()


@pytest.fixture(scope="module")
def projecting():
    model = load(NAME)
    set_text_head(model, CosineHead(model.num_features, 12, 2), ("one", "two"))
    return model.eval()


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Of 40, 11 and 5 frames, at 8 a second."""
    folder, digits = tmp_path_factory.mktemp("videos"), MotionDigits("validation", size=32, length=8)
    frames = torch.cat([digits[i][0] for i in range(5)])
    paths = []
    for name, count in (("long", 40), ("odd", 11), ("short", 5)):
        paths.append(folder / f"{name}.mp4")
        write_video(paths[-1], frames[:count], fps=8)
    return paths


def frames_of(model, path, fps=None):
    times, frames = zip(*iterate_frames(path, fps=fps), strict=True)
    return list(times), ClipTransform.of(model)(torch.stack(frames))


def one_by_one(model, clip, scale, stride):
    with torch.no_grad():
        return model.encode(torch.stack([clip[s : s + scale] for s in range(0, len(clip) - scale + 1, stride)]))


@pytest.fixture(scope="module")
def alone(model, projecting, videos):
    """Each kind of model -> times, and scale -> embeddings of the windows at stride 1, of the long video."""
    times, clip = frames_of(model, videos[0])
    kinds = {"model": model, "projecting": projecting}
    return times, {
        kind: {scale: one_by_one(each, clip, scale, 1) for scale in (8, 16, 32)} for kind, each in kinds.items()
    }


@pytest.mark.parametrize("kind, stride", [*(("model", stride) for stride in (1, 2, 3, 4, 5, 8, 11)), ("projecting", 3)])
def test_rows_are_the_embeddings_of_windows_one_by_one(request, videos, alone, kind, stride):
    model = request.getfixturevalue(kind)
    found = WindowEncoder(model, Windows((8.0,), None, stride))(videos[0])
    shown = [*alone[0], 40 / 8]
    for scale in (8, 16, 32):
        rows = found.scale == scale
        expected = alone[1][kind][scale][::stride]
        torch.testing.assert_close(torch.from_numpy(found.vectors[rows]), expected, atol=1e-5, rtol=0)
        half = cast(found.vectors[rows], "float16").astype(np.float32)
        torch.testing.assert_close(torch.from_numpy(half), expected, atol=1e-3, rtol=1e-3)
        starts = range(0, 40 - scale + 1, stride)
        assert found.start[rows].tolist() == [shown[s] for s in starts]
        assert found.end[rows].tolist() == pytest.approx([shown[s + scale] for s in starts])


def test_all_scales_come_from_one_pass_over_the_frames(model, videos):
    seen = []
    handle = model.blocks[0].register_forward_hook(lambda _, args, output: seen.append(len(args[0])))
    try:
        WindowEncoder(model, Windows((8.0,), (8, 16, 32), 1))(videos[0])
        once = sum(seen)
        seen.clear()
        WindowEncoder(model, Windows((8.0, 4.0), (8, 16), 1))(videos[0])
    finally:
        handle.remove()
    assert once == 40
    assert sum(seen) == 40 + 20  # another rate is a pass of its own


def test_rates_are_frames_of_their_own_and_rows_say_of_which(model, videos):
    found = WindowEncoder(model, Windows((8.0, 4.0), (8,), 4))(videos[0])
    for fps in (8, 4):
        expected = one_by_one(model, frames_of(model, videos[0], fps)[1], 8, 4)
        torch.testing.assert_close(torch.from_numpy(found.vectors[found.fps == fps]), expected, atol=1e-5, rtol=0)
    assert set((found.end - found.start)[found.fps == 4].tolist()) == {2.0}


def test_a_video_shorter_than_a_window_repeats_its_last_frame(model, videos):
    found = WindowEncoder(model, Windows((8.0,), None, 4))(videos[2])
    clip = frames_of(model, videos[2])[1]
    expected = one_by_one(model, torch.cat([clip, clip[-1:].expand(3, -1, -1, -1)]), 8, 4)
    torch.testing.assert_close(torch.from_numpy(found.vectors), expected, atol=1e-5, rtol=0)
    assert (found.start.tolist(), found.end.tolist(), found.scale.tolist()) == ([0.0], [5 / 8], [8])


def test_models_whose_frames_see_each_other_run_window_by_window(videos, randomize_):
    model = randomize_(timm.create_model(NAME, temporal="divided_attention")).eval()
    encoder = WindowEncoder(model, Windows((8.0,), (8, 12), 3))
    found = encoder(videos[1])
    expected = one_by_one(model, frames_of(model, videos[1])[1], 8, 3)
    torch.testing.assert_close(torch.from_numpy(found.vectors), expected, atol=1e-5, rtol=1e-5)


def test_a_file_has_the_mean_of_its_views(model, projecting, videos):
    for each in (model, projecting):
        found = inti_models.embed(each, videos, views=(2, 1), batch_size=3)
        for path, vector in zip(videos, found.vectors, strict=True):
            with torch.no_grad():
                expected = each.encode(VideoClassifier(each, (2, 1)).views(path)).mean(0)
            torch.testing.assert_close(torch.from_numpy(vector), expected, atol=1e-5, rtol=1e-5)
    unit = inti_models.embed(NAME, videos, normalize=True, dtype="float16")
    assert unit.vectors.dtype == np.float16
    assert np.linalg.norm(unit.vectors.astype(float), axis=1) == pytest.approx(1, abs=1e-3)


def test_a_model_without_classes_embeds(model, videos):
    headless = load(NAME, num_classes=0)
    expected = inti_models.embed(model, videos[:1]).vectors
    np.testing.assert_allclose(inti_models.embed(headless, videos[:1]).vectors, expected, atol=1e-6)


@pytest.mark.parametrize("ending", ["parquet", "npy"])
@pytest.mark.parametrize(
    "windows", [[], ["--windows", "--fps", "8", "--scales", "8,16", "--stride", "8"]], ids=["f", "w"]
)
def test_command_writes_what_python_gives(model, videos, tmp_path, ending, windows):
    output = tmp_path / f"out.{ending}"
    options = ["--model", NAME, "--dtype", "float16", "--precision", "float32", "-o", str(output)]
    assert main(["embed", *map(str, videos), *options, *windows]) == 0
    expected = inti_models.embed(model, videos, windows=windows and Windows((8.0,), (8, 16), 8), dtype="float16")
    if ending == "npy":
        np.testing.assert_allclose(np.load(output), expected.vectors, atol=1e-3)
        return
    table = pq.read_table(output)
    assert (
        table["file"].to_pylist()
        == expected.files
        == [str(p) for p in videos for _ in range(expected.files.count(str(p)))]
    )
    np.testing.assert_allclose(np.array(table["embedding"].to_pylist()), expected.vectors, atol=1e-3)
    for name, column in expected.windows.items():
        assert table[name].to_numpy().tolist() == column.tolist()
    assert ("start" in table.column_names) == bool(windows)


def test_files_that_cannot_be_read_are_named_and_the_others_written(videos, tmp_path, capsys):
    (tmp_path / "bad.mp4").write_bytes(b"not a video")
    files = [str(tmp_path / "bad.mp4"), str(videos[0])]
    assert main(["embed", *files, "--model", NAME, "-o", str(tmp_path / "out.parquet")]) == 1
    assert "bad.mp4" in capsys.readouterr().err
    assert pq.read_table(tmp_path / "out.parquet")["file"].to_pylist() == files[1:]
    assert main(["embed", *files, "--model", NAME, "-o", str(tmp_path / "out.npy")]) == 1
    assert not (tmp_path / "out.npy").exists()
    with pytest.raises(ValueError, match=r"bad\.mp4") as error:
        inti_models.embed(NAME, files[::-1])
    assert torch.is_grad_enabled(), error  # which holds the loop over files, stopped in its middle


def test_impossible_requests_are_refused(model, videos, tmp_path, capsys):
    for args, message in (
        ({"windows": Windows(scales=(6,))}, "num_frames=6 is not a multiple of the 8 frames"),
        ({"dtype": "float64"}, "dtype='float64'"),
    ):
        with pytest.raises(ValueError, match=message):
            inti_models.embed(model, videos, **args)
    for args, message in (
        ({"fps": ()}, "fps="),
        ({"fps": (4.0, 4.0)}, "names a rate twice"),
        ({"scales": (0,)}, "scales="),
        ({"stride": 0}, "stride=0"),
    ):
        with pytest.raises(ValueError, match=message):
            Windows(**args)
    with pytest.raises(ValueError, match="not finite in float16"):
        cast(np.array([1e6], np.float32), "float16")
    (tmp_path / "folder.npy").mkdir()
    for options, message in (
        (["-o", str(tmp_path / "out.csv")], "out.csv ends in none of"),
        (["-o", str(tmp_path / "none" / "out.npy")], "There is no folder"),
        (["-o", str(tmp_path / "folder.npy")], "is a folder; name a file"),
        (["-o", str(tmp_path / "out.npy"), "--windows", "--max-frames", "3"], "more frames than the limit of 3"),
        (["-o", str(tmp_path / "out.npy"), "--stride", "2"], "add --windows"),
        (["-o", str(tmp_path / "out.npy"), "--windows", "--views", "2x1"], "leave them out with --windows"),
    ):
        assert main(["embed", str(videos[0]), "--model", NAME, *options]) == 1
        assert message in capsys.readouterr().err
    unnamed = str(tmp_path / os.fsdecode(b"\xff.mp4"))
    assert main(["embed", unnamed, "--model", NAME, "-o", str(tmp_path / "out.parquet")]) == 1
    assert "not UTF-8" in capsys.readouterr().err
