import io
import json
import os
import signal
import sys
import threading
from functools import partial

import pytest
import timm
import torch
from PIL import Image

from inti_models import load, save_pretrained
from inti_models.cli import main
from inti_models.data import create_clip_transform, iterate_frames, read_clips, write_video
from inti_models.data.motion_digits import CLASS_NAMES, MotionDigits
from inti_models.inference.predict import VideoClassifier, classify_stream
from support.hostile import write_gif_bomb
from support.processes import forked

NAME = "inti_vit_t8_32_motiondigits"


@pytest.fixture(scope="module")
def model():
    return timm.create_model(NAME, pretrained=True)


@pytest.fixture
def video(tmp_path):
    clip, label = MotionDigits("validation", size=32, length=8)[1]
    write_video(tmp_path / "clip.mp4", clip, fps=8)
    return tmp_path / "clip.mp4", label


def test_a_video_file_gets_its_label(model, video):
    path, label = video
    labels = VideoClassifier(model)(path, topk=3)
    assert [label.name for label in labels][0] == CLASS_NAMES[label]
    assert len(labels) == 3
    assert labels[0].probability >= labels[1].probability >= labels[2].probability


def test_probabilities_are_those_of_the_model_on_the_decoded_frames(model, video):
    path, _ = video
    transform = create_clip_transform(**timm.data.resolve_input_data_config(model))
    clip = transform(read_clips(path, model.num_frames).frames[0])
    with torch.inference_mode():
        expected = model(clip.unsqueeze(0)).softmax(-1)[0]
    torch.testing.assert_close(VideoClassifier(model).probabilities(path), expected)


def test_views_are_clips_times_crops_and_their_probabilities_are_averaged(model, tmp_path):
    frames = torch.randint(256, (24, 3, 64, 96), dtype=torch.uint8)
    write_video(tmp_path / "wide.mp4", frames, fps=8)
    classify = VideoClassifier(model, views=(2, 3))
    views = classify.views(tmp_path / "wide.mp4")
    assert views.shape == (6, 8, 3, 32, 32)
    with torch.inference_mode():
        expected = torch.stack([model(view.unsqueeze(0))[0].softmax(-1) for view in views]).mean(0)
    torch.testing.assert_close(classify.probabilities(tmp_path / "wide.mp4"), expected)


def test_sampling_follows_the_model(tmp_path):
    frames = torch.arange(32, dtype=torch.uint8).mul(8).view(-1, 1, 1, 1).expand(-1, 3, 64, 64)
    write_video(tmp_path / "ramp.mp4", frames.contiguous(), fps=8)
    model = timm.create_model(NAME, num_frames=4, sampling="dense", frame_stride=2)
    views = VideoClassifier(model).views(tmp_path / "ramp.mp4")[0]
    gray = (views.mean(dim=(1, 2, 3)) * 0.5 + 0.5) * 255
    torch.testing.assert_close(gray.diff(), torch.full((3,), 16.0), atol=2, rtol=0)


def test_classes_without_names_are_numbers(video):
    labels = VideoClassifier(timm.create_model(NAME, num_classes=7))(video[0], topk=9)
    assert sorted(label.name for label in labels) == [str(i) for i in range(7)]


def test_impossible_requests_get_a_sentence(model):
    with pytest.raises(ValueError, match="no classifier"):
        VideoClassifier(timm.create_model(NAME, num_classes=0))
    with pytest.raises(ValueError, match="at least one"):
        VideoClassifier(model, views=(0, 1))
    with pytest.raises(ValueError, match="num_crops is 2"):
        VideoClassifier(model, views=(1, 2))


# --- A stream of frames ---


def test_stream_labels_each_window_as_the_model_does(model, tmp_path):
    clips = MotionDigits("validation", size=32, length=3)
    frames = torch.cat([clips[i][0] for i in range(3)])  # 24 frames
    write_video(tmp_path / "clip.mp4", frames, fps=8)
    windows = list(classify_stream(model, iterate_frames(tmp_path / "clip.mp4"), stride=4, topk=2))
    assert [(w.start, w.end) for w in windows] == [(s / 8, (s + 7) / 8) for s in range(0, 17, 4)]
    decoded = torch.stack([frame for _, frame in iterate_frames(tmp_path / "clip.mp4")])
    transform = create_clip_transform(**timm.data.resolve_input_data_config(model))
    for start, window in zip(range(0, 17, 4), windows, strict=True):
        with torch.inference_mode():
            expected = model(transform(decoded[start : start + 8]).unsqueeze(0)).softmax(-1)[0].topk(2)
        assert [label.index for label in window.labels] == expected.indices.tolist()
        assert [label.probability for label in window.labels] == pytest.approx(expected.values.tolist(), abs=1e-5)


@pytest.mark.parametrize("source", ["file", "pipe"])
def test_command_streams_a_file_or_a_pipe(tmp_path, source, monkeypatch, capsys):
    frames = torch.cat([MotionDigits("validation", size=32, length=2)[i][0] for i in range(2)])
    write_video(tmp_path / "clip.mkv", frames, fps=8)
    with (tmp_path / "clip.mkv").open("rb") as file, io.TextIOWrapper(file) as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        name = str(tmp_path / "clip.mkv") if source == "file" else "-"
        assert main(["predict", "--model", NAME, "--stream", "--stride", "2", "--json", name]) == 0
    windows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [window["start"] for window in windows] == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert all(len(window["labels"]) == 5 for window in windows)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--stream", "a.mp4", "b.mp4"], "--stream"),
        (["--stream", "a.mp4", "--frames", "6"], "num_frames=6"),
        (["--stream", "none.mp4"], "none.mp4"),
        (["--stream", "--events", "none.mp4", "--threshold", "0.9"], "leave --threshold and --topk out"),
        (["--stream", "--events", "none.mp4", "--topk", "1"], "leave --threshold and --topk out"),
        (["none.mp4", "--frames", "6", "--chunk", "8"], "num_frames=6"),
        (["none.mp4", "--frames", "64", "--budget", "1"], "budget=1.0"),
    ],
)
def test_command_names_what_cannot_be_streamed(args, message, capsys):
    assert main(["predict", "--model", NAME, *args]) == 1
    assert message in capsys.readouterr().err


# --- Long clips ---


def test_chunks_give_the_probabilities_of_the_whole_clip(tmp_path):
    frames = torch.randint(256, (40, 3, 32, 32), dtype=torch.uint8)
    write_video(tmp_path / "clip.mp4", frames, fps=8)
    model = timm.create_model(NAME, pretrained=True, num_frames=32)
    whole, chunked = VideoClassifier(model), VideoClassifier(model, views=(2, 1), chunk=5)
    expected = VideoClassifier(model, views=(2, 1)).probabilities(tmp_path / "clip.mp4")
    torch.testing.assert_close(chunked.probabilities(tmp_path / "clip.mp4"), expected)
    assert whole.views(tmp_path / "clip.mp4").shape[1] == 32


def test_command_takes_more_frames_on_a_budget(tmp_path, capsys):
    write_video(tmp_path / "clip.mp4", torch.randint(256, (70, 3, 32, 32), dtype=torch.uint8), fps=8)
    options = ["--frames", "64", "--budget", "5", "--chunk", "8", "--json"]
    assert main(["predict", "--model", NAME, str(tmp_path / "clip.mp4"), *options]) == 0
    assert len(json.loads(capsys.readouterr().out)["labels"]) == 5


# --- Many files ---


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder, paths = tmp_path_factory.mktemp("files"), []
    clips = MotionDigits("validation", size=32, length=8)
    for i in range(8):
        paths.append(folder / f"{i}.mp4")
        write_video(paths[-1], clips[i][0], fps=8)
    paths[2].write_bytes(b"not a video")
    paths.insert(4, folder / "none.mp4")
    return paths


@pytest.fixture(scope="module")
def one_by_one(model, files):
    classify = VideoClassifier(model, batch_size=1)
    return {path: classify.probabilities(path) for i, path in enumerate(files) if i not in (2, 4)}


@pytest.mark.parametrize("ahead", [1, 3, 20, None])
@pytest.mark.parametrize("batch_size", [1, 2, 5, 64, None])
def test_batches_of_files_say_what_each_says_alone(model, files, one_by_one, batch_size, ahead):
    """In order, and with the error of a file that cannot be read."""
    said = list(VideoClassifier(model, batch_size=batch_size).classify_files(files, ahead))
    assert [path for path, _ in said] == files
    assert isinstance(said[2][1], ValueError) and isinstance(said[4][1], FileNotFoundError)
    for path, expected in one_by_one.items():
        logits, features = dict(said)[path]
        probabilities = logits.softmax(-1).mean(0)
        torch.testing.assert_close(probabilities, expected, atol=1e-6, rtol=0)
        torch.testing.assert_close(model.head(features).softmax(-1), expected, atol=1e-6, rtol=0)
        if batch_size == 1:
            assert torch.equal(probabilities, expected)


def test_labels_of_files_are_those_of_each(model, files):
    classify = VideoClassifier(model)
    for i, (path, labels) in enumerate(classify.label_files(files, topk=2)):
        if i not in (2, 4):
            alone = classify(path, 2)
            assert [label.name for label in labels] == [label.name for label in alone]
            assert [label.probability for label in labels] == pytest.approx(
                [each.probability for each in alone], abs=1e-6
            )


def test_views_of_a_file_are_averaged_within_and_across_batches(model, tmp_path):
    paths = [tmp_path / f"{i}.mp4" for i in range(3)]
    for path in paths:
        write_video(path, torch.randint(256, (24, 3, 40, 64), dtype=torch.uint8), fps=8)
    alone = VideoClassifier(model, views=(2, 3))
    for batch_size in (1, 4, 13):  # parts of a file, and of two files
        together = VideoClassifier(model, views=(2, 3), batch_size=batch_size)
        for path, (logits, _) in together.classify_files(paths):
            with torch.inference_mode():
                expected = torch.stack([model(view.unsqueeze(0))[0].softmax(-1) for view in alone.views(path)]).mean(0)
            torch.testing.assert_close(logits.softmax(-1).mean(0), expected, atol=1e-6, rtol=0)


def test_passes_have_as_many_clips_as_asked_for(model, files):
    classify, passes = VideoClassifier(model, batch_size=3), []
    handle = model.patch_embed.register_forward_hook(lambda _, args, output: passes.append(len(args[0]) // 8))
    try:
        list(classify.classify_files([path for i, path in enumerate(files) if i not in (2, 4)]))
    finally:
        handle.remove()
    assert passes == [3, 3, 1]


@pytest.mark.parametrize("batch_size", [1, 4])
def test_no_more_files_are_read_ahead_than_asked_for(model, tmp_path, batch_size):
    taken = []

    def paths():
        for i in range(10):
            taken.append(i)
            yield tmp_path / f"{i}.mp4"

    files = VideoClassifier(model, batch_size=batch_size).label_files(paths(), ahead=3)
    for i, _ in enumerate(files):
        assert len(taken) <= min(10, (i // batch_size + 1) * batch_size + 3)
    with pytest.raises(ValueError, match="ahead=0"):
        next(VideoClassifier(model).label_files([], ahead=0))


def test_a_compiled_model_says_the_same(model, files, one_by_one, monkeypatch):
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))  # without a C++ compiler
    compiled = VideoClassifier(model, batch_size=3, compile=True)
    said = dict(compiled.classify_files(files))
    for path, expected in one_by_one.items():
        torch.testing.assert_close(said[path][0].softmax(-1).mean(0), expected, atol=1e-6, rtol=0)
    with pytest.raises(ValueError, match="chunk=5"):
        VideoClassifier(model, chunk=5, compile=True)


def test_command_says_which_precision_it_chose(files, capsys, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True})
    command = ["predict", str(files[0]), str(files[1]), "--model", NAME, "--device", "cpu", "--batch-size", "2"]
    assert main(command) == 0
    assert "bfloat16" in capsys.readouterr().err
    assert main([*command, "--json"]) == 0
    assert {json.loads(line)["precision"] for line in capsys.readouterr().out.splitlines()} == {"bfloat16"}
    assert main([*command, "--json", "--precision", "float32"]) == 0
    assert {json.loads(line)["precision"] for line in capsys.readouterr().out.splitlines()} == {"float32"}
    assert main(["predict", str(files[0]), "--model", NAME, "--stream", "--compile"]) == 1
    assert "--compile" in capsys.readouterr().err


def test_fused_normalization_labels_a_file_alike(model, tmp_path):
    write_video(tmp_path / "clip.mp4", MotionDigits("validation", size=32, length=1)[0][0], fps=8)
    fused = VideoClassifier(timm.create_model(NAME, pretrained=True).fuse_normalization())
    assert fused.views(tmp_path / "clip.mp4").dtype == torch.uint8
    expected = VideoClassifier(model).probabilities(tmp_path / "clip.mp4")
    torch.testing.assert_close(fused.probabilities(tmp_path / "clip.mp4"), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("args", "resize"), [({"in_chans": 1}, None), ({"img_size": 48}, None), ({"in_chans": 1}, (48, 40))], ids=str
)
def test_one_channel_and_resized_models_go_from_file_to_label(tmp_path, capsys, args, resize):
    torch.manual_seed(0)
    model = timm.create_model(NAME, depth=1, embed_dim=32, num_heads=1, patch_size=8, compress_at=(1,), **args).eval()
    if resize is not None:
        model.set_input_size(img_size=resize)
    size = resize or (args.get("img_size", 32),) * 2
    model.pretrained_cfg = {**model.pretrained_cfg, "mean": (0.1, 0.2, 0.6), "std": (0.2, 0.4, 0.6), "crop_pct": 1.0}
    save_pretrained(model, tmp_path / "model", label_names=CLASS_NAMES)
    gray = torch.rand(8, 1, *size).mul(255).byte().expand(-1, 3, -1, -1)
    path = tmp_path / "frames"
    path.mkdir()
    for i, frame in enumerate(gray):
        Image.fromarray(frame.permute(1, 2, 0).numpy()).save(path / f"{i}.png")

    clip = gray[:, : model.in_chans] / 255
    mean, std = ([0.3], [0.4]) if model.in_chans == 1 else ([0.1, 0.2, 0.6], [0.2, 0.4, 0.6])
    clip = (clip - torch.tensor(mean).view(-1, 1, 1)) / torch.tensor(std).view(-1, 1, 1)
    with torch.inference_mode():
        expected = model(clip.unsqueeze(0))[0].softmax(-1)
    again = load(tmp_path / "model")
    for each in (model, again, again.fuse_normalization()):
        torch.testing.assert_close(VideoClassifier(each).probabilities(path), expected, atol=1e-5, rtol=1e-4)
    assert main(["predict", str(path), "--model", str(tmp_path / "model"), "--topk", "1", "--device", "cpu"]) == 0
    assert CLASS_NAMES[int(expected.argmax())] in capsys.readouterr().out


def test_ctrl_c_ends_the_threads_that_read(tmp_path):
    """Reading this file to its end takes many minutes."""
    path = write_gif_bomb(tmp_path / "long.gif", 4000, 100_000)

    def reading():
        return [thread for thread in threading.enumerate() if thread.name.startswith("read") and thread.is_alive()]

    def interrupt():
        while not reading():
            pass
        os.kill(os.getpid(), signal.SIGINT)

    def predict():
        signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where a shell starts tests in the background
        threading.Thread(target=interrupt).start()
        assert main(["predict", "--model", NAME, "--max-pixels-per-byte", "1e9", str(path), str(path)]) == 130
        for thread in reading():
            thread.join(60)
        assert not reading()

    assert forked(predict) == 0
