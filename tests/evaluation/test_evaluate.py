"""Measuring: numbers against a plain loop, and processes that share the work, are killed and resume."""

import csv
import json
import logging
import os
import signal

import numpy as np
import pytest
import timm
import torch
from accelerate import PartialState
from huggingface_hub import EvalResult
from matplotlib import colormaps
from PIL import Image
from torch import nn

from inti_models import load
from inti_models.data import (
    FrameSampling,
    MotionDigitsClips,
    VideoDataset,
    create_clip_transform,
    find_videos,
    open_source,
    write_video,
)
from inti_models.data.motion_digits import MotionDigits
from inti_models.evaluation.evaluate import (
    MOST_CLASSES,
    Evaluation,
    confusion_picture,
    evaluate,
    validate,
    write_report,
)
from inti_models.files import locked
from inti_models.inference.predict import VideoClassifier
from inti_models.models.precision import set_precision
from support.processes import launched

CLASSES = 7
VIEWS = 3


class Noise:
    """Videos of noise, in three views, that know which of them were read; one kills the process that reads it."""

    def __init__(self, length=12, broken=(), kill=None, views=VIEWS, shift=0.0):
        self.class_names = tuple(f"class {i}" for i in range(CLASSES))
        self.videos = [f"{index}.mp4" for index in range(length)]
        self.broken, self.kill, self.views, self.shift = broken, kill, views, shift
        self.read = []

    def __len__(self):
        return len(self.videos)

    def __getitem__(self, index):
        if index == self.kill:
            os.kill(os.getpid(), signal.SIGKILL)
        self.read.append(index)
        shape = (self.views, 2, 3, 4, 4)
        label = index * 3 % CLASSES
        if index in self.broken:
            return torch.zeros(shape), label, f"{self.videos[index]} is no video."
        return torch.randn(shape, generator=torch.Generator().manual_seed(index)) + self.shift, label, ""


class Classifier(nn.Module):
    """Clips to logits, with the largest batch that it was given."""

    def __init__(self, classes=CLASSES):
        super().__init__()
        self.head = nn.Linear(2 * 3 * 4 * 4, classes)
        self.dropout = nn.Dropout()
        self.largest = 0
        generator = torch.Generator().manual_seed(5)
        with torch.no_grad():
            self.head.weight.normal_(std=0.1, generator=generator)
            self.head.bias.normal_(generator=generator)

    def forward(self, clips):
        assert clips.ndim == 5
        self.largest = max(self.largest, len(clips))
        return self.dropout(self.head(clips.flatten(1)))


def assert_same(one: Evaluation, other: Evaluation) -> None:
    assert torch.equal(one.labels, other.labels)
    torch.testing.assert_close(one.probabilities, other.probabilities)
    assert (one.class_names, one.unreadable) == (other.class_names, other.unreadable)


def run(**kwargs) -> Evaluation:
    return evaluate(kwargs.pop("model", None) or Classifier(), **{"batch_size": 6, "progress": False, **kwargs})


def expected(model: nn.Module, data: Noise) -> tuple[np.ndarray, np.ndarray]:
    """Labels and probabilities of the readable videos, one clip at a time."""
    labels, probabilities = [], []
    for index in range(len(data)):
        views, label, fault = data[index]
        if not fault:
            with torch.inference_mode():
                shares = [model.eval()(view.unsqueeze(0))[0].double().exp().numpy() for view in views]
            labels.append(label)
            probabilities.append(np.mean([share / share.sum() for share in shares], axis=0))
    return np.array(labels), np.array(probabilities)


@pytest.mark.parametrize("batch_size", [1, 2, 7, 100])
def test_probabilities_are_the_mean_over_the_views(batch_size):
    model = Classifier()
    evaluation = evaluate(model, Noise(), batch_size=batch_size, progress=False)
    labels, probabilities = expected(model, Noise())
    np.testing.assert_array_equal(evaluation.labels, labels)
    np.testing.assert_allclose(evaluation.probabilities, probabilities, rtol=1e-5, atol=1e-7)
    assert evaluation.probabilities.dtype == torch.float32
    assert model.largest <= batch_size


def test_no_more_videos_are_held_than_go_through_the_model_together():
    model, data, read = Classifier(), Noise(), []
    model.register_forward_pre_hook(lambda *_: read.append(len(data.read)))
    run(model=model, dataset=data, batch_size=2 * VIEWS + 1)
    assert read == [3, 5, 7, 9, 11, 13]  # the first video is also read to learn how many views there are


def test_numbers_are_those_of_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics")
    data = Noise(length=61)
    evaluation = run(dataset=data)
    labels, probabilities = expected(Classifier(), data)
    classes = range(CLASSES)
    predictions = probabilities.argmax(axis=1)
    recalls = metrics.recall_score(labels, predictions, labels=classes, average=None)
    for k, measured in ((1, evaluation.top1), (5, evaluation.top5), (3, evaluation.top(3))):
        share = metrics.top_k_accuracy_score(labels, probabilities, k=k, labels=classes)
        assert measured == pytest.approx(100 * share)
    np.testing.assert_array_equal(evaluation.confusion(), metrics.confusion_matrix(labels, predictions, labels=classes))
    assert evaluation.loss == pytest.approx(metrics.log_loss(labels, probabilities, labels=classes), rel=1e-5)
    assert [row.accuracy for row in evaluation.per_class()] == pytest.approx(list(100 * recalls))
    assert [row.name for row in evaluation.per_class()] == list(data.class_names)
    assert [row.videos for row in evaluation.per_class()] == np.bincount(labels).tolist()
    assert evaluation.mean_class == pytest.approx(100 * recalls.mean())


def test_a_class_without_videos_counts_neither_as_right_nor_as_wrong():
    probabilities = torch.tensor([[0.7, 0.2, 0.1], [0.6, 0.3, 0.1], [0.1, 0.8, 0.1]])
    evaluation = Evaluation(torch.tensor([0, 1, 1]), probabilities, ("a", "b", "c"), {})
    assert evaluation.per_class() == [("a", 1, 100.0), ("b", 2, 50.0), ("c", 0, None)]
    assert evaluation.mean_class == 75
    assert evaluation.top1 == pytest.approx(200 / 3)
    assert evaluation.top5 is None
    assert evaluation.confusion().tolist() == [[1, 0, 0], [1, 1, 0], [0, 0, 0]]


def test_of_equally_probable_classes_the_first_wins():
    """Three views that are sure of three classes: no other order must come of the number of classes or the machine."""
    for classes in (3, 7, 40, 400):
        votes = torch.zeros(classes).index_fill_(0, torch.tensor([0, 1, 2]), 1 / 3).expand(3, -1)
        names = tuple(map(str, range(classes)))
        evaluation = Evaluation(torch.tensor([0, 1, 2]), votes, names, {})
        assert evaluation.confusion()[:3, 0].tolist() == [1, 1, 1]
        assert [evaluation.top(k) for k in (1, 2, 3)] == pytest.approx([100 / 3, 200 / 3, 100])


def test_files_get_the_probabilities_of_predict(tmp_path):
    root, work = tmp_path / "videos", tmp_path / "work"
    pixels = torch.Generator().manual_seed(3)
    for name in ("b/two", "a/one", "b/three"):
        path = root / f"{name}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_video(path, torch.randint(0, 256, (11, 3, 48, 80), dtype=torch.uint8, generator=pixels), fps=8)
    (root / "b" / "broken.mp4").write_bytes(b"no video")
    videos = find_videos(root)
    model = timm.create_model("inti_vit_t8_32_motiondigits", pretrained=True)
    model.reset_classifier(2)
    transform = create_clip_transform(**timm.data.resolve_input_data_config(model), num_crops=3)
    data = VideoDataset(videos, transform, FrameSampling.of(model), num_clips=2)

    evaluation = evaluate(model, data, batch_size=4, num_workers=1, work_dir=work, max_unreadable=0.25, progress=False)
    classify = VideoClassifier(model, views=(2, 3))
    readable = [path for path in videos.paths if "broken" not in path]
    torch.testing.assert_close(evaluation.probabilities, torch.stack([classify.probabilities(p) for p in readable]))
    assert (evaluation.class_names, evaluation.labels.tolist()) == (("a", "b"), [0, 1, 1])
    (sentence,) = evaluation.unreadable.values()
    assert "broken.mp4" in sentence

    with locked(tmp_path / "report"), pytest.raises(BlockingIOError, match="Another process is writing to"):
        validate(model, root, output=tmp_path / "report")
    again = validate(model, root, views=(2, 3), batch_size=4, max_unreadable=0.25, output=tmp_path / "report")
    assert torch.equal(again.probabilities, evaluation.probabilities)
    assert json.loads((tmp_path / "report" / "evaluation.json").read_text())["videos"] == 3

    other = VideoDataset(find_videos(root / "b" / ".."), transform, FrameSampling.of(model), num_clips=2)
    with pytest.raises(ValueError, match="other data;"):
        evaluate(model, other, batch_size=4, work_dir=work, max_unreadable=0.25, progress=False)


def test_the_shipped_model_on_motion_digits(tmp_path):
    model = timm.create_model("inti_vit_t8_32_motiondigits", pretrained=True)
    transform = create_clip_transform(**timm.data.resolve_input_data_config(model))
    data = MotionDigitsClips(MotionDigits("validation", size=32, length=40), transform)
    evaluation = evaluate(model, data, batch_size=16, work_dir=tmp_path, progress=False)
    assert evaluation.top1 > 75
    assert len(evaluation.per_class()) == 120
    easier = MotionDigitsClips(MotionDigits("validation", size=32, length=40, occlusion=0), transform)
    with pytest.raises(ValueError, match="other data;"):
        evaluate(model, easier, batch_size=16, work_dir=tmp_path, progress=False)


def test_broken_videos_are_listed_and_left_out(caplog):
    with caplog.at_level(logging.WARNING):
        evaluation = run(dataset=Noise(broken=(4, 2)), max_unreadable=0.2)
    assert evaluation.unreadable == {2: "2.mp4 is no video.", 4: "4.mp4 is no video."}
    assert [record.getMessage() for record in caplog.records] == list(evaluation.unreadable.values())
    np.testing.assert_array_equal(evaluation.labels, expected(Classifier(), Noise(broken=(4, 2)))[0])
    assert evaluation.to_json()["unreadable"] == ["2.mp4 is no video.", "4.mp4 is no video."]


def test_too_many_broken_videos_are_an_error_that_names_one():
    data = Noise(broken=(2, 4, 5))
    with pytest.raises(ValueError, match=r"At least 3 of 12 .* max_unreadable=0.1; .* 2\.mp4 is no video"):
        run(dataset=data, max_unreadable=0.1)
    assert 11 not in data.read, "it goes on though the limit is passed"
    with pytest.raises(ValueError, match="cannot be read"):
        run(dataset=Noise(length=3, broken=range(3)), max_unreadable=1.0)


def test_one_broken_video_of_a_few_is_allowed_unless_none_may_be():
    assert list(run(dataset=Noise(broken=(4,))).unreadable) == [4]  # of 12, at 1%
    with pytest.raises(ValueError, match="too many for max_unreadable=0;"):
        run(dataset=Noise(broken=(4,)), max_unreadable=0.0)


def test_broken_videos_are_tried_again(tmp_path):
    run(dataset=Noise(broken=(4,)), max_unreadable=0.1, work_dir=tmp_path)
    repaired = Noise()
    assert_same(run(dataset=repaired, work_dir=tmp_path), run(dataset=Noise()))
    assert set(repaired.read) == {0, 4}  # the first one tells whether the data are the same


def in_processes(work_dir, output, kill=None):
    """Evaluate in two processes, which write what they found and what they read; return their statuses."""

    def evaluated() -> None:
        state = PartialState(cpu=True)
        data = Noise(length=13, broken=(2,), kill=kill)
        evaluation = run(dataset=data, batch_size=1, work_dir=work_dir, max_unreadable=0.1)
        torch.save((vars(evaluation), data.read), f"{output}.{state.process_index}")
        state.destroy_process_group()

    return launched(evaluated, 2)


def test_two_killed_processes_then_two_then_one_give_the_result_of_one(tmp_path):
    work, output = tmp_path / "work", tmp_path / "output"
    waiting, killed = in_processes(work, output, kill=9)  # of the second process, which has finished 1, 3, 5 and 7
    assert waiting != 0 and killed == -signal.SIGKILL
    assert not list(tmp_path.glob("output*"))

    assert in_processes(work, output) == [0, 0]
    whole = run(dataset=Noise(length=13, broken=(2,)), max_unreadable=0.1)
    read = []
    for rank in range(2):
        result, indices = torch.load(f"{output}.{rank}", weights_only=True)
        assert_same(Evaluation(**result), whole)
        assert indices[0] == 0  # the first item says how many views there are
        read.append(indices[1:])
    assert not {1, 3, 5, 7} & {*read[0], *read[1]}, "finished videos are measured again"
    assert {2, 9, 11} <= {*read[0], *read[1]}
    assert len(read[0]) == len(read[1]), "a sharded model would hang"
    assert len({*read[0]} & {*read[1]}) <= 1, "the work is not shared"

    alone = Noise(length=13, broken=(2,))
    assert_same(run(dataset=alone, work_dir=work, max_unreadable=0.1), whole)
    assert set(alone.read) == {0, 2}


def test_torn_and_empty_rows_are_measured_again(tmp_path):
    whole = run(dataset=Noise(), work_dir=tmp_path)
    (rows,) = tmp_path.glob("*.rows")
    content = rows.read_bytes()
    size = len(content) // 12
    rows.write_bytes(content[: 9 * size + size // 2])
    (tmp_path / "0.rows").write_bytes(bytes(3 * size))  # of a power cut; read before the other
    data = Noise()
    assert_same(run(dataset=data, work_dir=tmp_path), whole)
    assert set(data.read) == {0, 9, 10, 11}


def test_a_work_dir_of_other_settings_is_refused(tmp_path):
    run(dataset=Noise(), work_dir=tmp_path)
    other_weights, other_list = Classifier(), Noise()
    with torch.no_grad():
        other_weights.head.bias[0] += 1e-3
    other_list.videos[7] = "another.mp4"
    for what, changes in {
        "other model": {"model": other_weights},
        "other data": {"dataset": other_list},
        "other data;": {"dataset": Noise(shift=0.1)},
        "other data and views": {"dataset": Noise(views=1)},
        "other precision": {"autocast": "bf16"},
    }.items():
        with pytest.raises(ValueError, match=what):
            run(**{"dataset": Noise(), "work_dir": tmp_path, **changes})
    assert_same(run(dataset=Noise(), work_dir=tmp_path, batch_size=1), run(dataset=Noise()))


def test_training_goes_on_with_the_same_random_numbers():
    model, before = Classifier(), torch.get_rng_state()
    run(model=model, dataset=Noise(), num_workers=1)
    assert torch.equal(torch.get_rng_state(), before)


def test_autocast_is_used_and_results_stay_float32():
    whole, half = run(dataset=Noise()), run(dataset=Noise(), autocast="bf16")
    assert half.probabilities.dtype == torch.float32
    assert not torch.equal(half.probabilities, whole.probabilities)
    torch.testing.assert_close(half.probabilities, whole.probabilities, atol=0.05, rtol=0)


@pytest.mark.parametrize("precision", ["bfloat16", "int8"])
def test_a_model_is_measured_in_a_precision_and_resumes_in_it(precision, tmp_path):
    if precision == "int8":
        pytest.importorskip("torchao")
    name, data = "inti_vit_t8_32_motiondigits", open_source("motiondigits", args={"length": 6})
    measured = [validate(load(name), data, precision=precision, output=tmp_path) for _ in range(2)]
    assert_same(*measured)
    model = load(name)
    set_precision(model, precision)
    assert_same(validate(model, data), measured[0])
    assert not torch.equal(validate(load(name), data).probabilities, measured[0].probabilities)
    with pytest.raises(ValueError, match="results of other precision;"):
        validate(load(name), data, output=tmp_path)


def test_results_of_before_are_of_float32(tmp_path):
    run(dataset=Noise(), work_dir=tmp_path)
    settings = json.loads((tmp_path / "settings.json").read_text())
    assert settings["precision"] == "float32"
    (tmp_path / "settings.json").write_text(json.dumps({**settings, "precision": "no"}))
    assert_same(run(dataset=Noise(), work_dir=tmp_path), run(dataset=Noise()))


def test_wrong_arguments_get_a_sentence():
    diverged = Classifier()
    diverged.head.weight.data[0, 0] = float("inf")
    for match, changes in {
        "autocast is 'half'": {"autocast": "half"},
        "batch_size is 0": {"batch_size": 0},
        "0 videos": {"dataset": Noise(length=0)},
        "has 3 classes, the data 7": {"model": Classifier(3)},
        "not finite": {"model": diverged},
    }.items():
        with pytest.raises(ValueError, match=match):
            run(**{"dataset": Noise(), **changes})


def test_report_is_json_a_table_and_a_picture(tmp_path):
    evaluation = run(dataset=Noise(length=20, broken=(1,)), max_unreadable=0.1)
    write_report(evaluation, tmp_path / "new" / "report")
    folder = tmp_path / "new" / "report"
    names = ["confusion.png", "evaluation.json", "per_class.csv", "reliability.png"]
    assert sorted(path.name for path in folder.iterdir()) == names
    numbers = json.loads((folder / "evaluation.json").read_text())
    assert numbers == json.loads(json.dumps(evaluation.to_json()))
    assert (numbers["videos"], numbers["unreadable"]) == (19, ["1.mp4 is no video."])
    assert numbers["top1"] == round(evaluation.top1, 2)
    with (folder / "per_class.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [{**row, "videos": int(row["videos"]), "accuracy": float(row["accuracy"])} for row in rows] == numbers[
        "per_class"
    ]
    with Image.open(folder / "confusion.png") as image:
        image.load()
        assert image.format == "PNG"


def test_the_picture_shows_shares_of_each_class(tmp_path):
    labels, predictions = torch.tensor([0] * 8 + [1] * 2), torch.tensor([0] * 4 + [1] * 6)
    probabilities = nn.functional.one_hot(predictions).float()
    confusion_picture(Evaluation(labels, probabilities, ("a", "b"), {}), tmp_path / "confusion.png")
    with Image.open(tmp_path / "confusion.png") as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    colors = [np.array(colormaps["Blues"](share, bytes=True)[:3]).astype(int) for share in (0.5, 1.0)]
    half, full = ((abs(pixels - color).max(axis=-1) <= 3).sum() for color in colors)
    assert half / full == pytest.approx(2, rel=0.1)


def test_a_picture_of_many_classes_shows_those_that_are_confused(tmp_path):
    classes = 400
    labels = torch.arange(classes)
    predictions = labels.clone()
    predictions[[17, 301]] = torch.tensor([301, 17])
    probabilities = nn.functional.one_hot(predictions, classes).float()
    names = tuple(f"class-{i:03d}" for i in range(classes))
    confusion_picture(Evaluation(labels, probabilities, names, {}), tmp_path / "confusion.svg")
    # matplotlib's SVG says each text in a comment
    text = (tmp_path / "confusion.svg").read_text()
    assert "<!-- class-017 -->" in text
    assert "<!-- class-301 -->" in text
    assert text.count("<!-- class-") == 2 * MOST_CLASSES


def test_results_for_the_model_card():
    evaluation = run(dataset=Noise())
    top1, top5 = evaluation.results("My Videos (test)")
    assert isinstance(top1, EvalResult)
    assert (top1.dataset_type, top1.metric_name) == ("my-videos-test", "top-1")
    assert (top1.metric_value, top5.metric_value) == (round(evaluation.top1, 2), round(evaluation.top5, 2))
