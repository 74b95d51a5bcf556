"""Tests of the times that make a clip."""

import pytest
import torch

from inti_models.data.limits import VideoError
from inti_models.data.sample_times import sample_times
from inti_models.data.video import read_clips
from support.numbered import Encode, read_numbers


def test_segment_times_equal_index_sampling_at_a_constant_rate() -> None:
    for length in range(1, 70):
        for num_frames in range(1, 34):
            for num_clips in (1, 2, 3):
                times = sample_times(num_frames, length, num_clips=num_clips)
                expected = [
                    [
                        (2 * num_clips * i + 2 * v + 1) * length // (2 * num_clips * num_frames)
                        for i in range(num_frames)
                    ]
                    for v in range(num_clips)
                ]
                assert times.floor().int().tolist() == expected


def test_dense_sampling_is_centred_and_keeps_the_stride(encode: Encode) -> None:
    path = encode("a.mp4", range(40))
    dense = read_clips(path, 5, sampling="dense", stride=4)
    assert read_numbers(dense.frames) == [[11, 15, 19, 23, 27]]


def test_dense_clips_start_evenly_from_the_first_possible_frame_to_the_last(
    encode: Encode,
) -> None:
    path = encode("a.mp4", range(40))
    dense = read_clips(path, 4, sampling="dense", stride=3, num_clips=3)
    assert read_numbers(dense.frames) == [[0, 3, 6, 9], [15, 18, 21, 24], [30, 33, 36, 39]]


def test_dense_sampling_repeats_the_last_frame_of_a_short_video(encode: Encode) -> None:
    path = encode("a.mp4", range(6))
    dense = read_clips(path, 5, sampling="dense", stride=2, num_clips=2)
    assert read_numbers(dense.frames) == [[0, 2, 4, 5, 5]] * 2


def test_several_uniform_clips_spread_inside_the_segments(encode: Encode) -> None:
    path = encode("a.mp4", range(24))
    # Segments of 6 frames; three clips at 1/6, 3/6 and 5/6 of each.
    clips = read_clips(path, 4, num_clips=3)
    assert read_numbers(clips.frames) == [[1, 7, 13, 19], [3, 9, 15, 21], [5, 11, 17, 23]]


def test_a_generator_draws_a_frame_from_each_segment(encode: Encode) -> None:
    path = encode("a.mp4", range(40))
    draws = [
        read_numbers(read_clips(path, 5, generator=torch.Generator().manual_seed(seed)).frames)[0] for seed in (0, 1, 0)
    ]
    assert draws[0] == draws[2]
    assert draws[0] != draws[1]
    assert all([k // 8 for k in draw] == list(range(5)) for draw in draws)


def test_a_generator_draws_each_dense_start_where_the_clip_fits() -> None:
    generator = torch.Generator().manual_seed(0)
    times = sample_times(4, 20, sampling="dense", step=3, num_clips=2000, generator=generator).floor()
    assert times.diff(dim=1).unique().tolist() == [3]
    starts, counts = times[:, 0].unique(return_counts=True)
    assert starts.tolist() == list(range(11))  # 20 frames less the 10 that the clip spans
    assert counts.min() > 2000 / 11 / 2


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"num_frames": 0}, "num_frames is 0; expected a whole number of at least 1"),
        ({"num_frames": 2.5}, "num_frames is 2.5"),
        ({"num_clips": 0}, "num_clips is 0"),
        ({"sampling": "random"}, "sampling is 'random'; expected one of 'uniform', 'dense', "),
        ({"sampling": "dense"}, "stride is None; sampling='dense' needs a whole number"),
        ({"sampling": "dense", "stride": 0}, "stride is 0"),
        ({"stride": 2}, "stride is 2 but sampling is 'uniform'"),
        ({"num_frames": 10**12}, "do not fit"),
    ],
)
def test_impossible_requests_are_refused(encode: Encode, arguments: dict, sentence: str) -> None:
    path = encode("a.mp4", range(3))
    with pytest.raises(VideoError, match=sentence):
        read_clips(path, **{"num_frames": 4} | arguments)
