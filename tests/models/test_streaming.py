import pytest
import torch
from torch.testing import assert_close

from inti_models.models.streaming import StreamingClassifier, forward_chunked

VARIANTS = [
    {},
    {"compress_at": ()},
    {"compress_at": (2,), "weighting": "linear", "context": ("local", "temporal")},
    {"compress_at": (0, 2, 4), "weighting": "sigmoid"},
    {"compress_at": (1, 1), "class_token": False, "global_pool": "avg"},
    {"reg_tokens": 2, "fc_norm": True, "dynamic_img_size": True},
]


def windows(model, video, num_frames, stride):
    """Each window through the whole model, (B, W, classes)."""
    starts = range(0, video.shape[1] - num_frames + 1, stride)
    return torch.stack([model(video[:, s : s + num_frames]) for s in starts], dim=1)


@torch.no_grad()
@pytest.mark.parametrize("stride", [1, 2, 3, 4, 5, 8, 11])
@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_logits_are_those_of_the_model_on_every_window(tiny, variant, stride):
    model, video = tiny(**variant), torch.randn(2, 21, 3, 32, 48)
    stream = StreamingClassifier(model, 8, stride)
    logits = torch.cat([stream.push(frame) for frame in video.unbind(1)], dim=1)
    assert_close(logits, windows(model, video, 8, stride), rtol=1e-5, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("sizes", [[21], [1, 7, 2, 11], [3] * 7], ids=str)
def test_frames_can_come_several_at_once(tiny, sizes):
    model, video = tiny(), torch.randn(1, 21, 3, 32, 48)
    stream = StreamingClassifier(model, 12, stride=2)
    logits = torch.cat([stream.push(frames) for frames in video.split(sizes, dim=1)], dim=1)
    assert_close(logits, windows(model, video, 12, 2), rtol=1e-5, atol=1e-5)


def test_a_frame_costs_one_node_of_each_level_and_memory_is_bounded(tiny):
    model = tiny()
    frames = [0] * 4
    for i, block in enumerate(model.blocks):
        block.register_forward_pre_hook(lambda _, args, i=i: frames.__setitem__(i, frames[i] + len(args[0])))
    stream, held = StreamingClassifier(model, 16), []
    for _ in range(40):
        frames[:] = [0] * 4
        stream.push(torch.randn(1, 3, 32, 48))
        held.append(sum(map(len, stream._nodes)))
    assert frames == [1, 1, 1, 1]
    assert len(set(held[16:])) == 1
    assert held[-1] <= 1 + 3 + 16


def test_at_the_stride_of_the_window_nothing_more_than_the_window_is_computed(tiny):
    model, frames = tiny(), [0] * 4
    for i, block in enumerate(model.blocks):
        block.register_forward_pre_hook(lambda _, args, i=i: frames.__setitem__(i, frames[i] + len(args[0])))
    stream = StreamingClassifier(model, 8, stride=12)
    for _ in range(24):  # a window of 8, then 4 frames of none
        stream.push(torch.randn(1, 3, 32, 48))
    assert frames == [16, 8, 8, 4]


def test_reset_starts_anew(tiny):
    stream, video = StreamingClassifier(tiny(), 4), torch.randn(1, 4, 3, 32, 48)
    expected = stream.push(video)
    stream.push(torch.randn(1, 3, 3, 32, 48))
    stream.reset()
    assert stream.push(torch.randn(3, 3, 32, 48)).shape == (3, 0, 5)
    stream.reset()
    assert_close(stream.push(video), expected, rtol=0, atol=0)


@torch.no_grad()
@pytest.mark.parametrize("chunk", [1, 3, 8, 100])
def test_chunks_give_the_logits_of_the_whole_clip(tiny, chunk):
    model, clip = tiny(compress_at=(1, 1, 2, 3)), torch.randn(2, 32, 3, 32, 48)
    assert_close(forward_chunked(model, clip, chunk), model(clip), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_chunks_bound_the_frames_that_go_through_a_block_together(tiny):
    model, most = tiny(), [0]
    model.blocks[0].register_forward_pre_hook(lambda _, args: most.__setitem__(0, max(most[0], len(args[0]))))
    forward_chunked(model, torch.randn(1, 64, 3, 32, 48), 8)
    assert most == [8]


@pytest.mark.parametrize(
    ("model_args", "args", "message"),
    [
        ({}, {"num_frames": 6}, "num_frames=6 is not a multiple of the 4 frames"),
        ({}, {"num_frames": 0}, "num_frames=0 is not a multiple"),
        ({}, {"stride": 0}, "stride=0 is not a number of frames"),
        ({"global_pool": ""}, {}, "global_pool='' gives no feature"),
        ({"temporal": "divided_attention"}, {}, "DividedAttention lets all frames of a window see each other"),
    ],
    ids=str,
)
def test_bad_argument_is_told_in_a_sentence(tiny, model_args, args, message):
    with pytest.raises(ValueError, match=message):
        StreamingClassifier(tiny(**model_args), **args)


def test_other_streams_need_a_reset(tiny):
    stream = StreamingClassifier(tiny(), 4)
    stream.push(torch.randn(2, 3, 32, 48))
    with pytest.raises(ValueError, match=r"Frames are \(1, 3, 32, 48\), expected \(2, 3, 32, 48\) as before"):
        stream.push(torch.randn(1, 3, 32, 48))
    with pytest.raises(ValueError, match="chunk=0"):
        forward_chunked(tiny(), torch.randn(1, 4, 3, 32, 48), 0)
