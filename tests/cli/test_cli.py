import argparse
import json
import os
import runpy
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from fractions import Fraction
from pathlib import Path

import av
import pytest
import timm
import torch
from omegaconf import OmegaConf
from PIL import Image
from safetensors.torch import save_file

from inti_models import __version__, save_pretrained
from inti_models.cli import completion, create_parser, export, main, options, predict
from inti_models.data import MotionDigitsClips, limits, read_clips, write_video
from inti_models.data.motion_digits import CLASS_NAMES, MotionDigits
from inti_models.evaluation.evaluate import DTYPES
from inti_models.inference.export import FORMATS
from inti_models.inference.predict import VideoClassifier
from inti_models.models import precision
from inti_models.training import recipe
from support.processes import forked

NAME = "inti_vit_t8_32_motiondigits"


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Three videos and their labels."""
    folder = tmp_path_factory.mktemp("clips")
    data = MotionDigits("validation", size=32, length=8)
    indices = (1, 2, 6)  # which the checkpoint gets right
    for i in indices:
        write_video(folder / f"{i}.mp4", data[i][0], fps=8)
    return [str(folder / f"{i}.mp4") for i in indices], [CLASS_NAMES[data[i][1]] for i in indices]


def test_help_imports_neither_torch_nor_timm_and_timm_imported_later_knows_the_models():
    code = f"""
import sys
from pathlib import Path
from inti_models.cli import COMMANDS, main
for argv in [["--help"], ["--version"], *([command.__name__.rpartition(".")[2], "--help"] for command in COMMANDS)]:
    try:
        main(argv)
    except SystemExit as stopped:
        assert stopped.code == 0
    assert not {{"torch", "timm"}} & sys.modules.keys(), argv
import timm
assert timm.is_model({NAME!r})
"""
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


def test_list_imports_nothing_but_timm_and_this_package():
    code = """
import sys
import timm
before = set(sys.modules)
from inti_models.cli import main
assert main(["list"]) == 0
added = {name.partition(".")[0] for name in sys.modules.keys() - before}
assert added - {"inti_models"} <= sys.stdlib_module_names, added
"""
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


def test_version_is_the_packages(capsys):
    with pytest.raises(SystemExit, match="^0$"):
        main(["--version"])
    assert capsys.readouterr().out == f"inti-models {__version__}\n"


def test_help_has_an_example_that_parses_and_every_default():
    parser = create_parser()
    (commands,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    for name, command in commands.choices.items():
        program, *arguments = shlex.split(command.epilog.removeprefix("example: "))
        args = parser.parse_args(arguments[: arguments.index(">")] if ">" in arguments else arguments)
        assert (program, args.run.__module__) == ("inti-models", f"inti_models.cli.{name}")
        for action in command._actions:
            assert action.help, (name, action.dest)
            if action.default not in (None, False, [], argparse.SUPPRESS):
                assert "default" in action.help, (name, action.dest)


def test_module_is_the_command(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["inti_models", "--version"])
    with pytest.raises(SystemExit, match="^0$"):
        runpy.run_module("inti_models", run_name="__main__")
    assert capsys.readouterr().out == f"inti-models {__version__}\n"


def test_options_offer_what_the_package_takes(capsys):
    assert tuple(FORMATS) == export.FORMATS
    assert tuple(DTYPES) == options.AUTOCASTS
    assert precision.PRECISIONS == options.PRECISIONS
    with pytest.raises(SystemExit):
        main(["predict", "--help"])
    printed = capsys.readouterr().out
    for default in (limits.MAX_PIXELS, limits.MAX_FRAMES, limits.MAX_PIXELS_PER_BYTE):
        assert f"(default: {default})" in " ".join(printed.split())


def test_list_names_the_zoo(capsys):
    assert main(["list"]) == 0
    names = capsys.readouterr().out.split()
    assert {"inti_vit", NAME, "inti_vit_l14_336_ssv2"} <= set(names)
    assert main(["list", "*l14_336*", "--tags"]) == 0
    assert "inti_vit_l14_336_k400.openai" in capsys.readouterr().out.split()


def test_list_says_that_nothing_matches(capsys):
    assert main(["list", "resnet*"]) == 1
    assert "'resnet*'" in capsys.readouterr().err


def test_info_shows_schedule_and_gflops_beside_the_naive_model(capsys):
    assert main(["info", NAME]) == 0
    out = capsys.readouterr().out
    assert "compress_at=(2, 5, 6): 8 frames become 1" in out
    assert "GFLOPs      0.06125" in out
    assert "0.09528" in out
    assert "35.7% less" in out


def test_predict_prints_the_right_label_first(clips, capsys):
    paths, names = clips
    assert main(["predict", *paths, "--model", NAME, "--topk", "2", "--device", "cpu"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[::3] == paths
    assert [line.split("%  ")[1] for line in lines[1::3]] == names


def test_predict_reads_files_while_the_weights_load(clips, capsys, monkeypatch):
    files, expected = clips
    loading, read = threading.Event(), []

    def load_after_reading(*args, **kwargs):
        assert loading.wait(60), "no file was read before the weights were loaded"
        return load_model(*args, **kwargs)

    def view(self, path, stop=None):
        read.append(path)
        views = whole(self, path, stop)
        loading.set()
        return views

    load_model, whole = options.load_model, VideoClassifier.views
    monkeypatch.setattr(predict, "load_model", load_after_reading)
    monkeypatch.setattr(VideoClassifier, "views", view)
    assert main(["predict", *files, "--model", NAME, "--json", "--topk", "1"]) == 0
    printed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["labels"][0]["name"] for line in printed] == expected
    assert sorted(read) == sorted(files)  # each once


def test_predict_prints_json_lines(clips, capsys):
    paths, names = clips
    assert main(["predict", *paths, "--model", NAME, "--json", "--views", "2x1"]) == 0
    results = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [result["file"] for result in results] == paths
    assert [result["labels"][0]["name"] for result in results] == names
    assert all(len(result["labels"]) == 5 for result in results)


def test_a_bad_file_is_reported_and_does_not_stop_the_rest(clips, tmp_path, capsys):
    paths, names = clips
    text = tmp_path / "text.mp4"
    text.write_text("not a video")
    missing = str(tmp_path / "missing.mp4")
    assert main(["predict", paths[0], str(text), missing, paths[2], "--model", NAME]) == 1
    captured = capsys.readouterr()
    assert names[0] in captured.out
    assert names[2] in captured.out
    assert str(text) in captured.err
    assert missing in captured.err
    assert "2 of 4 files" in captured.err


def test_a_bad_file_is_an_error_object_in_json(clips, tmp_path, capsys):
    missing = str(tmp_path / "missing.mp4")
    assert main(["predict", missing, clips[0][0], "--model", NAME, "--json"]) == 1
    bad, good = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert bad["file"] == missing
    assert missing in bad["error"]
    assert good["labels"][0]["name"] == clips[1][0]


def test_a_folder_of_videos_is_labelled_and_one_of_frames_is_a_video(clips, tmp_path, capsys, caplog):
    paths, names = clips
    for i, path in enumerate(paths):
        folder = tmp_path / "videos" / str(i)
        folder.mkdir(parents=True)
        shutil.copy(path, folder / f"{i}.mp4")
    frames = tmp_path / "videos" / "frames"
    frames.mkdir()
    for t, frame in enumerate(read_clips(paths[0], 8).frames[0]):
        Image.fromarray(frame.permute(1, 2, 0).numpy()).save(frames / f"{t}.png")
    assert main(["predict", str(tmp_path / "videos"), "--model", NAME, "--json", "--topk", "1"]) == 0
    printed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [Path(line["file"]).name for line in printed] == ["0.mp4", "1.mp4", "2.mp4", "frames"]
    assert [line["labels"][0]["name"] for line in printed] == [*names, names[0]]
    assert "folder of 4 videos" in caplog.text

    shutil.copy(paths[0], frames)
    assert main(["predict", str(frames), "--model", NAME]) == 1
    assert "videos and images" in capsys.readouterr().err


def test_a_pipe_without_stream_says_what_to_type(capsys):
    assert main(["predict", "-", "--model", NAME]) == 1
    assert "--stream" in capsys.readouterr().err


def test_a_stream_has_rounded_times_or_says_that_no_window_was_full(clips, capsys):
    stream = ["predict", clips[0][0], "--model", NAME, "--stream", "--json", "--topk", "1", "--frames", "4"]
    assert main([*stream, "--fps", "3"]) == 1  # 8 frames in a second: 3 of them
    assert "4 frames" in capsys.readouterr().err
    assert main([*stream, "--fps", "7"]) == 0
    windows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert windows
    assert all(window[key] == round(window[key], 3) for window in windows for key in ("start", "end"))


def test_recipes_are_listed_printed_and_explained(capsys):
    assert main(["recipes"]) == 0
    listed = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert listed == sorted(file.stem for file in recipe.RECIPES.glob("*.yaml"))
    assert main(["recipes", "k400_b16"]) == 0
    assert capsys.readouterr().out == (recipe.RECIPES / "k400_b16.yaml").read_text(encoding="utf-8")
    assert main(["recipes", "--keys"]) == 0
    keys = [line.partition("=")[0] for line in capsys.readouterr().out.splitlines()[::2]]
    values = OmegaConf.to_container(OmegaConf.structured(recipe.Recipe))
    parts = {f"{part}.{key}" for part in ("data", "augmentation", "optimization") for key in values.pop(part)}
    parts |= {f"distill.{key}" for key in OmegaConf.to_container(OmegaConf.structured(recipe.Distill))}
    assert len(keys) == len(set(keys))
    assert set(keys) == parts | values.keys()
    assert main(["recipes", "nothing"]) == 1
    assert "k400_b16" in capsys.readouterr().err


@pytest.mark.parametrize("shell", completion.SHELLS)
def test_completion_knows_commands_models_and_recipes(shell, capsys):
    pytest.importorskip("shtab", reason="shtab is not installed: pip install 'inti_models[completion]'")
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert all(word in script for word in ("visualize", "inti_vit_l14_336_k400", "ucf101_b16", "-precision"))


def test_a_checkpoint_replaces_the_published_weights(clips, tmp_path, capsys):
    torch.manual_seed(0)
    model = timm.create_model(NAME)
    torch.nn.init.zeros_(model.head.weight)
    model.head.bias.data = torch.arange(120.0)
    save_file(model.state_dict(), tmp_path / "mine.safetensors")
    checkpoint = ["--checkpoint", str(tmp_path / "mine.safetensors")]
    assert main(["predict", clips[0][0], "--model", NAME, *checkpoint, "--topk", "1"]) == 0
    assert CLASS_NAMES[119] in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["info", "resnet50"], "'resnet50'"),
        (["predict", "x.mp4", "--model", "inti_vit_b16_k400.nothing"], "'inti_vit_b16_k400.nothing'"),
        (["predict", "x.mp4", "--model", NAME, "--checkpoint", "nowhere.safetensors"], "nowhere.safetensors"),
        (["train", "nowhere.yaml", "--output", "run"], "nowhere.yaml"),
        (["train", "motiondigits", "--output", "run", "optimization.lr"], "'optimization.lr'"),
        (["train", "motiondigits", "optimization.rate=1", "--output", "run"], "rate"),
        (["validate", "nowhere", "--model", "nothing"], "no file or folder nowhere"),
        (["validate", "motiondigits", "--model", "nothing"], "'nothing'"),
        (["validate", "motiondigits", "--model", NAME, "--views", "2x1"], "2 clips"),
        (["validate", "motiondigits", "--model", NAME, "--zero-shot", "--checkpoint", "x"], "--checkpoint"),
    ],
)
def test_errors_are_one_line_that_names_the_cause(arguments, named, capsys):
    assert main(arguments) == 1
    err = capsys.readouterr().err
    assert named in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("option", [["--topk", "0"], ["--views", "4x2"], ["--views", "x1"], ["--topk", "many"]])
def test_wrong_usage_exits_with_2(option, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["predict", "x.mp4", "--model", NAME, *option])
    assert stopped.value.code == 2
    assert repr(option[1]) in capsys.readouterr().err


@pytest.mark.parametrize("option", [["--workers", "-1"], ["--max-unreadable", "2"], ["--max-unreadable", "few"]])
def test_wrong_numbers_of_validate_exit_with_2(option, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["validate", "videos", "--model", NAME, "=".join(option)])
    assert stopped.value.code == 2
    assert repr(option[1]) in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["predict", "x.mp4", "--model", NAME, "--no-such-option"],
        ["train", "motiondigits", "--output", "run", "--optimization.lr=1"],
        ["list", "inti*", "more"],
    ],
)
def test_what_no_command_takes_exits_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert arguments[-1] in capsys.readouterr().err


@pytest.mark.parametrize("classes", ["", "riding a\nbike", '"riding a bike,feeding goats'])
def test_words_that_are_no_list_are_told_in_a_sentence(classes, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["predict", "clip.mp4", "--model", "inti_vit_b16_k400", "--classes", classes])
    assert "names" in capsys.readouterr().err.splitlines()[-1]


def test_validate_measures_a_model_on_the_held_out_digits(tmp_path, capsys):
    name = "inti_vit_t8_32_motiondigits"
    model = timm.create_model(name, num_frames=1, depth=1, embed_dim=16, num_heads=1, compress_at=())
    torch.nn.init.zeros_(model.head.weight)
    model.head.bias.data = torch.eye(120)[7]
    save_pretrained(model, tmp_path / "model", label_names=CLASS_NAMES)
    options = ["--model", str(tmp_path / "model"), "--batch-size", "100", "--workers", "0", "--device", "cpu"]
    assert main(["validate", "motiondigits", *options]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines[:4]] == [
        ["top-1", "0.83%"],  # one class in 120
        ["top-5", "4.17%"],
        ["mean", "class", "0.83%"],
        ["videos", "6000", "measured,", "0", "unreadable"],
    ]
    assert lines[5:] == [f"    0.0%  {name} (50 videos)" for name in sorted(set(CLASS_NAMES) - {CLASS_NAMES[7]})[:5]]


def test_files_that_ask_for_more_than_the_limits_are_refused(clips, tmp_path, capsys):
    paths, names = clips
    (tmp_path / "list.json").write_text(
        json.dumps([{"path": path, "label": name} for path, name in zip(paths, names, strict=True)])
    )
    bounds = ["--model", NAME, "--max-frames", "7"]
    for command in (["predict", *paths], ["validate", str(tmp_path / "list.json"), "--workers", "0"]):
        assert main([*command, *bounds]) == 1
        assert "more frames than the limit of 7" in capsys.readouterr().err
        assert main([*command, *bounds[:-1], "8"]) == 0
    with pytest.raises(SystemExit):
        main(["predict", *paths, "--model", NAME, "--max-pixels", "many"])


def test_validate_wants_the_classes_of_the_digits(tmp_path, capsys):
    model = timm.create_model("inti_vit_t8_32_motiondigits", num_classes=2)
    save_pretrained(model, tmp_path / "model", label_names=["a", "b"])
    assert main(["validate", "motiondigits", "--model", str(tmp_path / "model")]) == 1
    assert "classes a, b," in capsys.readouterr().err


def test_a_killed_process_that_reads_videos_is_named_and_not_waited_for(tmp_path, monkeypatch, capsys):
    here = os.getpid()

    def killed(self, keys):
        assert os.getpid() != here
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(MotionDigitsClips, "__getitems__", killed)
    assert main(["train", "motiondigits", "data.num_workers=1", "--output", str(tmp_path / "run")]) == 1
    err = capsys.readouterr().err
    assert "Traceback" not in err
    assert "data.num_workers" in err.splitlines()[-1]


@pytest.mark.filterwarnings("default:.*the clock jumps")
@pytest.mark.parametrize("more", [[], ["--stream"]], ids=str)
def test_a_clock_that_jumps_is_said_in_one_line(clips, tmp_path, capsys, more):
    path = tmp_path / "jumps.mkv"
    with av.open(clips[0][0]) as source, av.open(str(path), "w") as output:
        stream = output.add_stream_from_template(source.streams.video[0])
        for k, packet in enumerate(packet for packet in source.demux(video=0) if packet.size):
            packet.pts = packet.dts = 125 * k + (3_600_000 if k else 0)
            packet.time_base, packet.stream = Fraction(1, 1000), stream
            output.mux(packet)
    assert main(["predict", str(path), "--model", NAME, "--device", "cpu", *more]) == 0
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "clock" in line]
    assert line.startswith(f"inti-models: {path}: the clock jumps")


# Devices and outputs


@pytest.mark.parametrize("device", ["cuda:99", "mps", "meta", "nothing"])
@pytest.mark.parametrize(
    "arguments",
    [
        ["predict", "x.mp4", "--model", NAME],
        ["visualize", "x.mp4", "--model", NAME, "--output", "x.png"],
        ["validate", "motiondigits", "--model", NAME],
        ["label", "x.mp4", "--model", NAME, "--output", "x"],
        ["benchmark", NAME],
        ["search", "index", "words"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_a_device_that_is_not_there_is_named_before_any_work(arguments, device, capsys, monkeypatch, tmp_path):
    if device == "mps" and torch.backends.mps.is_available():
        pytest.skip("there is one")
    monkeypatch.chdir(tmp_path)
    assert main([*arguments, "--device", device]) == 1
    err = capsys.readouterr().err
    assert f"--device {device} is not a device of this machine" in err
    assert err.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "file"),
    [
        (["visualize", "CLIP", "--model", NAME, "--output"], "out.png"),
        (["visualize", "CLIP", "--model", NAME, "--output"], "out.gif"),
        (["visualize", "CLIP", "--model", NAME, "--output"], "out.mp4"),
        (["visualize", "CLIP", "--model", NAME, "--output"], "out.html"),
        (["export", "--model", NAME, "--format", "torch-export", "--output"], "out.pt2"),
        (["convert", "CHECKPOINT", "--model", NAME, "--output"], "out"),
        (["label", "CLIP", "--model", NAME, "--device", "cpu", "--output"], "out"),
        (["validate", "motiondigits", "--model", NAME, "--device", "cpu", "--output"], "out"),
        (["train", "motiondigits", "--output"], "out"),
    ],
    ids=lambda value: value if isinstance(value, str) else value[0],
)
@pytest.mark.parametrize("place", ["file", "read-only"])
def test_an_output_that_cannot_be_written_is_one_sentence(arguments, file, place, clips, tmp_path, capsys):
    if arguments[0] == "label":
        pytest.importorskip("ray")
    (tmp_path / "file").write_text("")
    blocked = tmp_path / "file" if place == "file" else Path("/proc/self")
    if not blocked.exists():
        pytest.skip("this system has no folder in which nobody may write")
    save_file(timm.create_model(NAME, compress_at=()).state_dict(), tmp_path / "mine.safetensors")
    names = {"CLIP": clips[0][0], "CHECKPOINT": str(tmp_path / "mine.safetensors")}
    assert main([*(names.get(word, word) for word in arguments), str(blocked / file)]) == 1
    err = capsys.readouterr().err.splitlines()[-1]
    assert str(blocked) in err
    assert err.startswith("inti-models: ")
    assert err.endswith(".")
    assert "Errno" not in err


def with_output(output, arguments, errors):
    """Run a command in a fork whose standard output is this, and return its status and what it prints as errors."""

    def run():
        os.dup2(output, 1)
        sys.stdout = os.fdopen(1, "w")
        with errors.open("w") as sys.stderr:
            status = main(arguments)
            sys.stdout.flush()  # as Python does when it ends
        os._exit(status)

    return forked(run), errors.read_text()


@pytest.mark.parametrize(
    "command", [["list", "--tags"], ["info", NAME], ["predict", "CLIP", "--model", NAME, "--json"]]
)
def test_a_closed_pipe_ends_a_command_in_silence(command, clips, tmp_path):
    reading, writing = os.pipe()
    os.close(reading)
    command = [clips[0][0] if word == "CLIP" else word for word in command]
    assert with_output(writing, command, tmp_path / "errors") == (141, "")
    os.close(writing)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_an_output_that_is_full_is_one_sentence(tmp_path):
    with open("/dev/full", "w") as full:
        status, errors = with_output(full.fileno(), ["list"], tmp_path / "errors")
    assert (status, errors.count("\n")) == (1, 1)
    assert "inti-models: The output cannot be written (No space left on device)" in errors
