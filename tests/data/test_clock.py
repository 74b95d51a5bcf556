"""Tests of the clock: one rule of time for both readers."""

import warnings
from collections.abc import Callable, Sequence
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from inti_models.data.clock import Clock, Timeline
from inti_models.data.images import channels_first
from inti_models.data.video import iterate_frames, read_clips
from support.numbered import (
    B_FRAMES,
    FORMATS,
    OPEN_GOP,
    Encode,
    all_frames,
    middles,
    numbered_frame,
    read_numbers,
    through_a_pipe,
)


@pytest.mark.parametrize("rate", [24, 25, 30, 60])
def test_a_constant_rate_is_recognised_through_millisecond_rounding(rate: int) -> None:
    ticks = [round(1000 * k / rate) for k in range(97)]
    timeline = Timeline.from_ticks(ticks, ticks[1], 1e-3)
    assert timeline.starts.tolist() == list(range(97))
    assert timeline.end == 97
    assert timeline.unit == pytest.approx(1 / rate, rel=1e-3)


def test_a_dropped_frame_makes_the_rate_variable() -> None:
    ticks = [k for k in range(40) if k != 17]
    timeline = Timeline.from_ticks(ticks, 1, 1 / 25)
    assert timeline.starts.tolist() == ticks
    assert timeline.end == 40


def test_a_last_frame_of_unknown_length_lasts_as_long_as_most() -> None:
    timeline = Timeline.from_ticks([0, 2, 4, 20, 22, 24], 0, 0.1)
    assert timeline.end == 26


def test_rounded_times_of_matroska_still_equal_index_sampling(encode: Encode) -> None:
    path = encode("a.mkv", range(32), fps=30)
    # Every sample falls exactly on the start of a frame: 1, 3, 5, ...
    assert read_numbers(read_clips(path, 16).frames) == [list(range(1, 32, 2))]


def test_variable_frame_rate_is_sampled_by_time(encode: Encode) -> None:
    # Ten frames in the first half second, the last of which stays until 4.5 s, then ten more.
    pts = [*range(10), *range(90, 100)]
    path = encode("a.mkv", range(20), fps=20, pts=pts)
    clips = read_clips(path, 5)  # at 0.5, 1.5, 2.5, 3.5 and 4.5 s
    assert read_numbers(clips.frames) == [[9, 9, 9, 9, 10]]
    assert clips.times[0].tolist() == pytest.approx([0.45] * 4 + [4.5])
    assert read_numbers(read_clips(path, 50).frames)[0][:6] == [1, 3, 5, 7, 9, 9]


def test_a_last_frame_that_is_held_counts_as_long_as_it_is_shown(tmp_path: Path) -> None:
    path = tmp_path / "a.gif"
    first, *others = [Image.fromarray(numbered_frame(k)) for k in range(4)]
    first.save(path, save_all=True, append_images=others, duration=[100, 100, 100, 700])
    clips = read_clips(path, 5)  # at 0.1, 0.3, 0.5, 0.7 and 0.9 s
    assert read_numbers(clips.frames) == [[1, 3, 3, 3, 3]]


def test_times_count_from_the_first_frame(encode: Encode) -> None:
    path = encode("a.mkv", range(10), pts=range(500, 510))
    clips = read_clips(path, 10)
    assert read_numbers(clips.frames) == [list(range(10))]
    assert clips.times[0, 0] == 0


CLOCKED = [
    *FORMATS,
    ("mpeg2.mpg", "mpeg2video", "yuv420p", {"bf": "2", "g": "12", "qscale": "2"}),
    ("mpeg1.mpeg", "mpeg1video", "yuv420p", {"bf": "2", "g": "12", "qscale": "2"}),
    ("mpeg2.vob", "mpeg2video", "yuv420p", {"bf": "2", "g": "12", "qscale": "2"}),
    ("mpeg2.ts", "mpeg2video", "yuv420p", {"bf": "2", "g": "12", "qscale": "2"}),
]


PIPED = (".mkv", ".webm", ".ts", ".mpg", ".vob", ".avi", ".gif")


def assert_one_clock(path: Path, numbers: Sequence[int], times: Sequence[float] | None = None) -> None:
    """Both readers, and one that reads a pipe where the container allows it, give these frames at these times."""
    times = [k / 25 for k in range(len(numbers))] if times is None else times
    readings = [iterate_frames(path)] + ([through_a_pipe(path)] if path.suffix in PIPED else [])
    for reading in readings:
        got_times, got = all_frames(reading)
        assert got == list(numbers)
        assert got_times == pytest.approx(times, abs=2e-3)
    for sampling in ({}, {"sampling": "dense", "stride": 2}):
        clips = read_clips(path, 8, **sampling)
        for number, time in zip(read_numbers(clips.frames)[0], clips.times[0].tolist(), strict=True):
            assert time == pytest.approx(times[numbers.index(number)], abs=2e-3)


@pytest.mark.parametrize(("name", "codec", "pix_fmt", "options"), CLOCKED)
def test_both_readers_give_every_frame_at_its_time(
    encode: Encode, name: str, codec: str, pix_fmt: str, options: dict[str, str]
) -> None:
    path = encode(name, range(50), codec=codec, pix_fmt=pix_fmt, options=options)
    assert_one_clock(path, range(50))
    assert read_numbers(read_clips(path, 8).frames) == [middles(8, 50)]
    assert all_frames(iterate_frames(path, fps=5))[1] == list(range(0, 50, 5))
    with path.open("rb") as file:
        assert all_frames(iterate_frames(file)) == all_frames(iterate_frames(path))


@pytest.mark.parametrize(
    ("starts", "lengths"),
    [
        ((0, 0), (20, 20)),
        ((0, 0, 0), (12, 12, 12)),
        ((0, 19), (20, 20)),  # goes back by one frame
        ((0, 15), (20, 20)),
        ((500, 0), (20, 8)),
        ((0, 25 * 3600), (20, 20)),
        ((25 * 3600, 0, 25 * 7200), (12, 12, 12)),
        ((0, 0), (20, 3)),
    ],
    ids=str,
)
@pytest.mark.parametrize(("codec", "options"), [("libx264", B_FRAMES), ("mpeg2video", {"bf": "2", "g": "6"})])
def test_joined_recordings_follow_each_other(
    encode: Encode, starts: Sequence[int], lengths: Sequence[int], codec: str, options: dict[str, str]
) -> None:
    joined, numbers = b"", []
    for k, (start, length) in enumerate(zip(starts, lengths, strict=True)):
        part = range(80 * k, 80 * k + length)
        pts = range(start, start + length)
        joined += encode(f"{k}.ts", part, codec=codec, pts=pts, options=options | {"qscale": "2"}).read_bytes()
        numbers += part
    path = encode("all.ts", [0])
    path.write_bytes(joined)
    with pytest.warns(UserWarning, match=r"all\.ts: the clock jumps (back|forward) by .* bridged by the duration"):
        assert read_numbers(read_clips(path, 6).frames) == [[numbers[k] for k in middles(6, len(numbers))]]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert_one_clock(path, numbers)


HOUR = 3_600_000


@pytest.mark.parametrize(
    "jumps",
    [{1: HOUR}, {20: HOUR}, {39: HOUR}, {38: 24 * HOUR}, {10: 61_000, 11: 70_000}, dict.fromkeys(range(1, 10), HOUR)],
    ids=str,
)
def test_a_gap_that_no_rate_explains_is_bridged(retime: Callable[..., Path], jumps: dict[int, int]) -> None:
    path = retime([40 * k + sum(jump for at, jump in jumps.items() if at <= k) for k in range(40)])
    with pytest.warns(UserWarning, match=rf"jumps forward by {min(jumps.values()) // 1000}\.0 s after"):
        assert read_numbers(read_clips(path, 8).frames) == [middles(8, 40)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert_one_clock(path, range(40))


@pytest.mark.parametrize("gap", [400, 8_000, 59_000])
def test_a_frame_that_is_held_is_no_jump(retime: Callable[..., Path], gap: int) -> None:
    times = [40 * k + (gap if k >= 20 else 0) for k in range(40)]
    assert_one_clock(retime(times), range(40), [t / 1000 for t in times])


@pytest.mark.parametrize("step", [2 * 60_000, HOUR])
def test_slow_pictures_are_no_jumps(retime: Callable[..., Path], step: int) -> None:
    clips = read_clips(retime([step * k for k in range(12)]), 6)
    assert read_numbers(clips.frames) == [middles(6, 12)]
    assert clips.times[0, -1] == step * 11 / 1000


@pytest.mark.parametrize("equal", [[5], [19], [1], [5, 6], [3, 12], [18, 19]], ids=str)
def test_equal_times_keep_the_others(retime: Callable[..., Path], equal: list[int]) -> None:
    times = [100 * k for k in range(11)] + [9000 + 100 * k for k in range(9)]
    for k in equal:
        times[k] = times[k - 1]
    path = retime(times)
    clips = read_clips(path, 8)
    end = times[-1] + 40  # the stated length of a frame
    expected = [max(k for k in range(20) if times[k] <= (2 * i + 1) * end / 16) for i in range(8)]
    assert read_numbers(clips.frames) == [expected]
    for reading in (iterate_frames(path), through_a_pipe(path)):
        got, numbers = all_frames(reading)
        assert numbers == list(range(20))
        assert got == pytest.approx([t / 1000 for t in times])


@pytest.mark.parametrize(
    ("stated", "expected"),
    [
        ([7, 8, 9, 10], [0, 1, 2, 3]),
        ([0, 1, 2, 0, 4, 5], [0, 1, 2, 3, 4, 5]),  # one wrong time, earlier
        ([0, 1, 2, 9999, 4, 5], [0, 1, 2, 3, 4, 5]),  # and later
        ([0, 1, 2, 1, 2, 3], [0, 1, 2, 3, 4, 5]),  # back by one frame
        ([0, 1, 2, 5, 6], [0, 1, 2, 5, 6]),
        ([None, 5, 6, None, 8], [0, 1, 2, 3, 4]),
        ([None, None, None], [0, 1, 2]),
        ([0, None, None, 2, 4], [0, 1, 2, 2, 4]),  # not back before what was only assumed
        ([0, 5000, 10_000], [0, 1, 2]),
        ([9, 9, 9, 10], [0, 0, 0, 1]),
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:.*the clock jumps")
def test_rules_of_the_clock(stated: list[float | None], expected: list[float]) -> None:
    clock = Clock(Path("a.ts"), 1, 1)
    assert [clock(time) for time in stated] == expected


@given(st.lists(st.one_of(st.none(), st.integers(-(2**40), 2**40)), min_size=1, max_size=30), st.integers(1, 1000))
def test_the_clock_starts_at_zero_and_never_goes_back(stated: list[int | None], period: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        clock = Clock(Path("a.ts"), period, 1e-3)
        times = [clock(time) for time in stated]
    assert times[0] == 0
    assert all(0 <= b - a <= clock.longest + period for a, b in pairwise(times))


def without_packets(path: Path, count: int) -> Path:
    """The stream without its first packets, times and all."""
    cut = path.with_stem("cut")
    with av.open(str(path)) as container, av.open(str(cut), "w") as output:
        stream = output.add_stream_from_template(container.streams.video[0])
        for k, packet in enumerate(p for p in container.demux(video=0) if p.size):
            if k >= count:
                packet.stream = stream
                output.mux(packet)
    return cut


@pytest.mark.parametrize("count", [1, 5, 13])
@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("a.mkv", "libx264", {"bf": "0", "g": "8"}),
        ("a.ts", "libx264", OPEN_GOP),
        ("a.mp4", "libx264", B_FRAMES),
        ("a.ts", "mpeg2video", {"bf": "2", "g": "12", "qscale": "2"}),
        ("a.mpeg", "mpeg2video", {"bf": "2", "g": "12", "qscale": "2"}),
    ],
)
def test_a_stream_that_begins_inside_a_group_counts_what_decodes(
    encode: Encode, name: str, codec: str, options: dict[str, str], count: int
) -> None:
    path = without_packets(encode(name, range(60), codec=codec, options=options), count)
    with av.open(str(path)) as container:
        decoded = [read_numbers(channels_first(f.to_ndarray(format="rgb24"))) for f in container.decode(video=0)]
    assert 20 < len(decoded) < 60
    assert decoded == sorted(set(decoded))
    times = [(n - decoded[0]) / 25 for n in decoded]
    assert_one_clock(path, decoded, times)
    if decoded == list(range(decoded[0], 60)):
        assert read_numbers(read_clips(path, 8).frames) == [[decoded[k] for k in middles(8, len(decoded))]]


def test_a_first_keyframe_that_does_not_decode_is_left_out(encode: Encode) -> None:
    path = encode("a.mkv", range(40), options=B_FRAMES)
    with av.open(str(path)) as container:
        packet = next(p for p in container.demux(video=0) if p.size)
        position = path.read_bytes().index(bytes(packet))
    data = bytearray(path.read_bytes())
    data[position + 4 : position + packet.size] = bytes(packet.size - 4)
    path.write_bytes(data)
    assert_one_clock(path, range(8, 40))


@pytest.mark.parametrize(
    ("codec", "options"),
    [("libx264", B_FRAMES), ("mpeg4", {"g": "6", "bf": "2"}), ("mpeg4", {"g": "6"}), ("mjpeg", {})],
)
def test_damage_in_the_middle_of_an_avi_shortens_nothing(encode: Encode, codec: str, options: dict[str, str]) -> None:
    path = encode(
        "a.avi", range(100), codec=codec, options=options, pix_fmt="yuvj420p" if codec == "mjpeg" else "yuv420p"
    )
    data = bytearray(path.read_bytes())
    begin, end = data.index(b"movi"), data.rindex(b"idx1")
    for at in range(begin + (end - begin) * 3 // 10, begin + (end - begin) * 7 // 10):
        data[at] = 0
    path.write_bytes(data)
    times = [time for time, _ in iterate_frames(path)]
    assert times == sorted(times)
    assert times[-1] == pytest.approx(99 / 25, abs=0.13)
    last = read_clips(path, 100).times[0, -1]
    assert last == pytest.approx(times[-1])


def test_an_encoder_delay_at_the_start_of_an_avi_takes_no_time(encode: Encode) -> None:
    """As Xvid writes it: after the first frame comes a packet that gives none."""
    source = encode("source.avi", range(40), options=B_FRAMES)
    path = source.with_name("a.avi")
    with av.open(str(source)) as container, av.open(str(path), "w") as output:
        stream = output.add_stream_from_template(container.streams.video[0])
        packets = [bytes(p) for p in container.demux(video=0) if p.size]
        filler = bytes([0, 0, 0, 1, 12, 255, 128])  # a unit of H.264 that is no picture
        for k, data in enumerate([packets[0], filler, *packets[1:]]):
            packet = av.Packet(data)
            packet.dts = packet.pts = k
            packet.time_base, packet.stream, packet.is_keyframe = Fraction(1, 25), stream, k == 0
            output.mux(packet)
    assert_one_clock(path, range(40))
