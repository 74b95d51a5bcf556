"""Labelling a collection: what a worker makes of files, and a local Ray cluster."""

import contextlib
import json
import subprocess
import sys

import pytest
import torch

from inti_models import load, save_pretrained
from inti_models.cli import main
from inti_models.data import write_video
from inti_models.data.motion_digits import MotionDigits
from inti_models.files import locked
from inti_models.inference.collection import PART, SETTINGS, Labeller, Summary, label_collection, read_paths
from inti_models.inference.predict import VideoClassifier
from inti_models.models.probabilities import Probabilities
from inti_models.weights.hub import write_probabilities

pq = pytest.importorskip("pyarrow.parquet")
pytest.importorskip("ray")
NAME = "inti_vit_t8_32_motiondigits"


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    digits = MotionDigits("validation", size=32, length=6)
    paths = []
    for i in range(6):
        paths.append(folder / f"{i}.mp4")
        write_video(paths[-1], digits[i][0], fps=8)
    paths[3].write_bytes(b"not a video")
    return paths


def rows_of(folder):
    return {row["path"]: row for part in folder.glob(PART) for row in pq.read_table(part).to_pylist()}


def test_rows_are_what_the_classifier_says_and_bad_files_have_their_error(videos):
    label = Labeller(NAME, {}, views=(1, 1), topk=3, embedding=True, device="cpu")
    rows = label({"path": list(map(str, videos))}).to_pylist()
    assert [row["path"] for row in rows] == list(map(str, videos))
    model = load(NAME)
    classify = VideoClassifier(model)
    for path, row in zip(videos, rows, strict=True):
        if path == videos[3]:
            assert "cannot be opened as a video" in row["error"] and row["labels"] is row["embedding"] is None
            continue
        expected = classify(path, 3)
        assert row["labels"] == [label.name for label in expected] and row["error"] is None
        assert row["scores"] == pytest.approx([label.probability for label in expected], abs=1e-5)
        logits = model.head(torch.tensor(row["embedding"]))
        assert torch.allclose(logits.softmax(-1), classify.probabilities(path), atol=1e-5)
    plain = Labeller(NAME, {}, views=(1, 1), topk=3, embedding=False, device="cpu")
    assert plain({"path": [str(videos[0])]}).column_names == ["path", "labels", "scores", "error"]


def test_labels_and_features_of_a_file_come_of_one_reading_and_one_pass(videos):
    labeller = Labeller(NAME, {}, (1, 1), 3, True, "cpu")
    read, passes = [], []
    views = labeller.classifier.views
    labeller.classifier.views = lambda path, stop: read.append(path) or views(path, stop)
    labeller.classifier.model.patch_embed.register_forward_hook(lambda *_: passes.append(1))
    table = labeller({"path": videos[:3]})
    assert read == [str(path) for path in videos[:3]] and len(passes) == 1
    assert [len(features) for features in table["embedding"].to_pylist()] == [labeller.classifier.model.embed_dim] * 3


def test_files_that_are_not_done_are_labelled_on_a_cluster(videos, tmp_path):
    label = Labeller(NAME, {}, views=(1, 1), topk=5, embedding=False, device="cpu")
    earlier = label({"path": list(map(str, videos[:2]))})
    rows = earlier.to_pylist()
    rows[1] |= {"labels": None, "scores": None, "error": "unreadable then"}  # to be tried again
    pq.write_table(type(earlier).from_pylist(rows, earlier.schema), tmp_path / "part-earlier.parquet")
    (tmp_path / "list.txt").write_text("\n".join(map(str, [*videos, videos[0]])) + "\n")
    options = ["--model", NAME, "--output", str(tmp_path), "--part-size", "3", "--precision", "float32"]
    command = [sys.executable, "-m", "inti_models", "label", str(tmp_path / "list.txt"), *options]
    done = subprocess.run(command, capture_output=True, text=True)  # Ray's threads do not outlive it
    assert done.returncode == 1, done.stderr  # for the file that is no video
    assert "4 labelled, 1 could not be read" in done.stdout and "1 done before" in done.stdout
    assert sum(len(pq.read_table(part)) for part in tmp_path.glob(PART)) == len(videos)
    expected = {row["path"]: row for row in label({"path": list(map(str, videos))}).to_pylist()}
    rows = rows_of(tmp_path)
    assert rows.keys() == expected.keys()
    for path, row in expected.items():
        assert (rows[path]["labels"], rows[path]["error"]) == (row["labels"], row["error"])
    readable = [path for path in videos if expected[str(path)]["error"] is None]
    assert label_collection(readable, NAME, tmp_path) == Summary(0, 0, 5)


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        ({"views": (2, 1)}, r"views=\[1, 1\], not \[2, 1\]"),
        ({"embedding": True}, "embedding=False, not True"),
        ({"topk": 1}, "topk=None, not 1"),
        ({"threshold": 0.5}, "threshold=None, not 0.5"),
        ({"precision": "int8"}, "precision='(?:float32|bfloat16)', not 'int8'"),
        ({"compress_at": ()}, "model_args={}, not {'compress_at': \\[\\]}"),
        ({"model": "inti_vit_b16_k400"}, f"model='{NAME}', not 'inti_vit_b16_k400'"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_a_folder_of_other_settings_is_refused(tmp_path, args, sentence):
    assert label_collection([], NAME, tmp_path) == Summary(0, 0, 0)
    with pytest.raises(ValueError, match=f"{sentence}; name another folder"):
        label_collection([], **{"model": NAME, "output": tmp_path, **args})


def test_a_folder_is_known_by_what_its_model_says_too(tmp_path):
    model, labels = tmp_path / "model", tmp_path / "labels"

    def label(**args):
        return label_collection([], str(model), labels, **args)

    save_pretrained(load(NAME), model)
    label()
    written = json.loads((labels / SETTINGS).read_text())
    write_probabilities(model, Probabilities(temperature=2.0))
    with pytest.raises(ValueError, match="temperature=1.0, not 2.0; name another folder"):
        label()
    # Of before: probabilities were as they are of one label, and what else is not said is taken as it is.
    for name in ("temperature", "thresholds", "multi_label", "background", "label_names", "num_frames"):
        del written[name]
    (labels / SETTINGS).write_text(json.dumps(written))
    with pytest.raises(ValueError, match="temperature=1.0, not 2.0"):
        label()
    write_probabilities(model, Probabilities(thresholds=[0.0, 0.5] * 60))
    with pytest.raises(ValueError, match=r"thresholds=\[0.0, 0.0, .*, not \[0.0, 0.5, .*\.\.\.\]"):
        label()
    write_probabilities(model, Probabilities(multi_label=True))
    with pytest.raises(ValueError, match="multi_label=False, not True"):
        label()
    write_probabilities(model, Probabilities())
    assert label() == Summary(0, 0, 0)
    (labels / SETTINGS).unlink()
    label()
    save_pretrained(load(NAME), model, label_names=[f"class {i}" for i in range(120)])
    with pytest.raises(ValueError, match="label_names=.*, not \\['class 0'"):
        label()


def test_a_threshold_that_is_no_probability_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match="threshold=2 is not a probability"):
        label_collection([], NAME, tmp_path / "labels", threshold=2)
    assert not (tmp_path / "labels").exists()


def test_a_file_of_which_the_model_says_nothing_finite_has_an_error(videos):
    labeller = Labeller(NAME, {}, (1, 1), None, False, "cpu")
    torch.nn.init.constant_(labeller.classifier.model.head.bias, float("nan"))
    (row,) = labeller({"path": [str(videos[0])]}).to_pylist()
    assert "not finite" in row["error"] and row["labels"] is None


def test_a_folder_of_before_has_no_embeddings(tmp_path):
    label_collection([], NAME, tmp_path)
    settings = json.loads((tmp_path / SETTINGS).read_text())
    del settings["embedding"]
    (tmp_path / SETTINGS).write_text(json.dumps({**settings, "features": False}))
    assert label_collection([], NAME, tmp_path) == Summary(0, 0, 0)
    (tmp_path / SETTINGS).write_text(json.dumps({**settings, "features": True}))
    for embedding in (False, True):
        with pytest.raises(ValueError, match="embedding='features', not"):
            label_collection([], NAME, tmp_path, embedding=embedding)


def test_a_folder_of_before_had_five_labels_and_no_threshold(tmp_path):
    label_collection([], NAME, tmp_path)
    settings = json.loads((tmp_path / SETTINGS).read_text())
    del settings["threshold"]
    (tmp_path / SETTINGS).write_text(json.dumps({**settings, "topk": 5}))
    assert label_collection([], NAME, tmp_path) == Summary(0, 0, 0)
    assert label_collection([], NAME, tmp_path, topk=5) == Summary(0, 0, 0)
    for args, sentence in (({"topk": 4}, "topk=5, not 4"), ({"threshold": 0.5}, "threshold=None, not 0.5")):
        with pytest.raises(ValueError, match=sentence):
            label_collection([], NAME, tmp_path, **args)


def test_a_folder_keeps_its_precision(videos, tmp_path):
    assert label_collection([], NAME, tmp_path, precision="float16") == Summary(0, 0, 0)
    assert label_collection([], NAME, tmp_path) == Summary(0, 0, 0)  # auto
    with pytest.raises(ValueError, match="precision='float16', not 'float32'"):
        label_collection([], NAME, tmp_path, precision="float32")
    settings = json.loads((tmp_path / SETTINGS).read_text())
    assert settings.pop("precision") == "float16"
    (tmp_path / SETTINGS).write_text(json.dumps(settings))  # as before there were others than float32
    assert label_collection([], NAME, tmp_path, precision="float32") == Summary(0, 0, 0)
    with pytest.raises(ValueError, match="precision='float32', not 'bfloat16'"):
        label_collection([], NAME, tmp_path, precision="bfloat16")
    labeller = Labeller(NAME, {}, (1, 1), 3, False, "cpu", precision="bfloat16")
    assert labeller.classifier.model.precision == "bfloat16"


def test_a_folder_is_known_by_its_weights(tmp_path):
    model = load(NAME)
    save_pretrained(model, tmp_path / "model")
    assert label_collection([], str(tmp_path / "model"), tmp_path / "out") == Summary(0, 0, 0)
    save_pretrained(model, tmp_path / "copy")
    assert label_collection([], f"local-dir:{tmp_path / 'copy'}", tmp_path / "out") == Summary(0, 0, 0)
    torch.nn.init.zeros_(model.head.bias)
    save_pretrained(model, tmp_path / "model")
    with pytest.raises(ValueError, match="name another folder"):
        label_collection([], str(tmp_path / "model"), tmp_path / "out")


def test_a_folder_that_another_process_writes_to_is_refused(tmp_path):
    with locked(tmp_path), pytest.raises(BlockingIOError, match="Another process is writing to"):
        label_collection([], NAME, tmp_path)


@pytest.mark.slow  # a cluster of its own
def test_killed_run_leaves_whole_parts_and_resumes(videos, tmp_path, capsys):
    (tmp_path / "list.txt").write_text("\n".join(map(str, videos)) + "\n")
    output = tmp_path / "out"
    args = ["label", str(tmp_path / "list.txt"), "--model", NAME, "--output", str(output), "--part-size", "1"]
    process = subprocess.Popen([sys.executable, "-m", "inti_models", *args], stderr=subprocess.DEVNULL)
    while process.poll() is None and not list(output.glob(PART)):
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=0.01)
    process.kill()
    process.wait()
    done = rows_of(output)
    assert 1 <= len(done) <= len(videos)
    main(args)
    assert f"{len(done)} done before" in capsys.readouterr().out
    assert rows_of(output).keys() == {str(path) for path in videos}


def test_lists_and_tables_name_paths_from_their_folder(tmp_path):
    import pyarrow as pa

    (tmp_path / "a.txt").write_text("x.mp4\n\nwith space.mp4\n")
    pq.write_table(pa.table({"path": ["/y.mp4", "z.mp4"]}), tmp_path / "b.parquet")
    pq.write_table(pa.table({"file": ["y.mp4"]}), tmp_path / "c.parquet")
    paths = read_paths([str(tmp_path / "a.txt"), str(tmp_path / "b.parquet"), "plain.mp4"])
    assert paths == [
        *(str(tmp_path / n) for n in ("x.mp4", "with space.mp4")),
        "/y.mp4",
        str(tmp_path / "z.mp4"),
        "plain.mp4",
    ]
    assert read_paths([str(tmp_path / "c.parquet")]) == [str(tmp_path / "y.mp4")]
    pq.write_table(pa.table({"address": ["y.mp4"]}), tmp_path / "d.parquet")
    with pytest.raises(ValueError, match="has address for each video; expected path"):
        read_paths([str(tmp_path / "d.parquet")])


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("list.txt", "a.mp4\nb c.mp4\n"),
        ("list.txt", "a.mp4 0\r\nb c.mp4 1\r\n"),
        ("list.csv", "video_name,tag\na.mp4,0\nb c.mp4,1\n"),
        ("list.csv", "filename;length\na.mp4;3\nb c.mp4;4\n"),
        ("list.json", '[{"file": "a.mp4"}, {"file": "b c.mp4"}]'),
    ],
)
def test_lists_are_read_as_for_training(tmp_path, encoding, name, content):
    (tmp_path / name).write_bytes(content.encode(encoding))
    assert read_paths([str(tmp_path / name)]) == [str(tmp_path / "a.mp4"), str(tmp_path / "b c.mp4")]


def test_bad_numbers_are_refused(tmp_path, capsys):
    with pytest.raises(ValueError, match="workers=0 is not a positive number"):
        label_collection([], NAME, tmp_path, workers=0)
    assert main(["label", str(tmp_path / "none.txt"), "--model", NAME, "--output", str(tmp_path)]) == 1
    assert "none.txt" in capsys.readouterr().err
