"""Events of a stream: hysteresis by hand, and on a video with a known one."""

import json

import pytest
import torch

from inti_models.cli import main
from inti_models.data import write_video
from inti_models.data.motion_digits import CLASS_NAMES, MotionDigits
from inti_models.inference.events import Event, find_events
from inti_models.inference.predict import Label, Window


def windows(*rows):
    """A window of two seconds each second, with the probabilities of the classes 0, 1, ..."""
    return [Window(float(t), t + 2.0, [Label(i, str(i), p) for i, p in enumerate(row)]) for t, row in enumerate(rows)]


def test_an_event_begins_at_one_threshold_and_ends_below_the_other():
    stream = windows([0.4], [0.4], [0.6], [0.35], [0.7], [0.2], [0.4], [0.2])
    assert list(find_events(stream, 0.5, 0.3)) == [Event(2.5, 5.5, 0, "0", 0.7)]
    assert list(find_events(stream, 0.5, 0.5)) == [Event(2.5, 3.5, 0, "0", 0.6), Event(4.5, 5.5, 0, "0", 0.7)]


def test_classes_have_events_of_their_own_in_the_order_of_their_ends():
    stream = windows([0.9, 0.0], [0.5, 0.5], [0.0, 0.9], [0.0, 0.9])
    assert list(find_events(stream)) == [Event(0.0, 2.5, 0, "0", 0.9), Event(1.5, 5.0, 1, "1", 0.9)]


def test_what_is_too_short_is_left_out():
    stream = windows([0.0], [0.9], [0.0], [0.9], [0.9], [0.0])
    assert list(find_events(stream, least=1.5)) == [Event(3.5, 5.5, 0, "0", 0.9)]
    assert list(find_events(windows([0.9]), least=2.0)) == [Event(0.0, 2.0, 0, "0", 0.9)]
    assert list(find_events([])) == []


def test_an_event_comes_as_soon_as_it_is_over():
    stream = iter(windows([0.9], [0.0], [0.0]))
    assert next(find_events(stream)) == Event(0.0, 1.5, 0, "0", 0.9)
    assert len(list(stream)) == 1


@pytest.mark.parametrize("args", [{"begin": 0.2}, {"keep": 0.0}, {"begin": 1.5}, {"least": -1.0}], ids=str)
def test_impossible_thresholds_are_refused(args):
    with pytest.raises(ValueError, match="not thresholds" if "least" not in args else "not a duration"):
        list(find_events([], **args))


def test_command_prints_the_event_of_a_video(tmp_path, capsys):
    digits = MotionDigits("validation", size=32, occlusion=0)
    still = [digits[i][0][:1].expand(16, -1, -1, -1) for i in (2, 3)]
    clip, label = digits[12]
    write_video(tmp_path / "clip.mp4", torch.cat([still[0], clip, still[1]]), fps=8)
    args = ["predict", str(tmp_path / "clip.mp4"), "--model", "inti_vit_t8_32_motiondigits", "--json"]
    assert main([*args, "--stream", "--events", "--least", "0.4"]) == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    (event,) = [event for event in events if event["name"] == CLASS_NAMES[label]]
    assert event["start"] == pytest.approx(2.0, abs=0.5) and event["end"] == pytest.approx(3.0, abs=0.5)
    write_video(tmp_path / "short.mp4", clip[:3], fps=8)
    short = ["predict", str(tmp_path / "short.mp4"), *args[2:], "--stream", "--events"]
    for words, message in (
        ([*args, "--events"], "add --stream"),
        ([*args, "--stream", "--batch-size", "4"], "--batch-size"),
        ([*args, "--stride", "1"], "--stride 1 is for a stream; add --stream"),
        ([*args, "--fps", "2.5"], "--fps 2.5 is for a stream; add --stream"),
        ([*args, "--stream", "--begin", "0.9"], "add --events"),
        ([*args, "--stream", "--events", "--begin", "0.2"], "begin=0.2 and keep=0.3 are not thresholds"),
        (short, "ended before the first window of 8 frames"),
    ):
        assert main(words) == 1
        said = capsys.readouterr()
        assert message in said.err and not said.out
    for fps in ("0", "nan", "-2", "fast"):
        with pytest.raises(SystemExit):
            main([*args, "--stream", f"--fps={fps}"])
        assert f"{fps!r} is not a number of frames per second" in capsys.readouterr().err
