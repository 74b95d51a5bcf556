import pytest
import timm
import torch

from inti_models.data import create_clip_transform, read_clips, write_video
from inti_models.data.motion_digits import CLASS_NAMES, MotionDigits
from inti_models.predict import VideoClassifier

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
    transform = create_clip_transform(**timm.data.resolve_model_data_config(model))
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
