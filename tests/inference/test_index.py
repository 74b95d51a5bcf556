"""An index of videos: what is in it, how it is kept up to date, and what is refused."""

import copy
import json
import os
import resource
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from inti_models import load, save_pretrained
from inti_models.cli import main
from inti_models.data import Limits, write_video
from inti_models.data.motion_digits import MotionDigits
from inti_models.files import locked
from inti_models.inference import indexing
from inti_models.inference.embedding import WindowEncoder, Windows
from inti_models.inference.index import MANIFEST, Index, model_digest
from inti_models.inference.indexing import build_index
from inti_models.inference.search import by_vector, score_windows
from support.processes import forked, killing

pytest.importorskip("pyarrow")
NAME = "inti_vit_t8_32_motiondigits"
WINDOWS = Windows((8.0,), (8, 16), 4)


@pytest.fixture(scope="module")
def rendered(tmp_path_factory):
    folder, digits = tmp_path_factory.mktemp("videos"), MotionDigits("validation", size=32, length=20)
    (folder / "inner").mkdir()
    for i, name in enumerate(["a.mp4", "b.mp4", "inner/c.mp4", "d.mp4"]):
        write_video(folder / name, torch.cat([digits[3 * i + j][0] for j in range(3)])[: 24 - 3 * i], fps=8)
    return folder


@pytest.fixture(scope="module")
def built(rendered, tmp_path_factory):
    """An index of one video, to read or to copy."""
    folder = tmp_path_factory.mktemp("built")
    build(rendered / "a.mp4", folder)
    return folder


@pytest.fixture
def videos(rendered, tmp_path):
    return shutil.copytree(rendered, tmp_path / "videos")  # with their times of change


@pytest.fixture
def small_parts(monkeypatch):
    monkeypatch.setattr(indexing, "PART_ROWS", 8)  # about two videos


def build(sources, output, **args):
    return build_index([sources], output, **{"model": NAME, "windows": WINDOWS, "precision": "float32", **args})


def contents(folder):
    """File -> rows with their embeddings."""
    index = Index.open(folder)
    found = {}
    for part in index.parts:
        rows, vectors = index.rows(part), index.vectors(part)
        for number, file in enumerate(rows.files):
            cut = slice(rows.first[number], rows.first[number + 1])
            columns = (rows.start[cut], rows.end[cut], rows.scale[cut], rows.fps[cut], vectors[cut])
            assert file not in found
            found[file] = [column.tolist() for column in columns]
    return found


def test_rows_are_those_of_each_video_in_float16(videos, tmp_path, small_parts):
    summary = build(videos, tmp_path / "index")
    assert (summary.added, summary.kept, summary.failed) == (4, 0, {})
    encoder = WindowEncoder(load(NAME), WINDOWS)
    found = contents(tmp_path / "index")
    assert found.keys() == {str(path) for path in videos.rglob("*.mp4")}
    assert len(Index.open(tmp_path / "index").parts) > 1
    for file, (start, end, scale, fps, vectors) in found.items():
        video = encoder(file)
        assert (start, end, scale, fps) == tuple(c.tolist() for c in (video.start, video.end, video.scale, video.fps))
        assert np.array_equal(np.array(vectors, np.float16), video.vectors.astype(np.float16))
    assert summary.windows == len(Index.open(tmp_path / "index")) == sum(len(rows[0]) for rows in found.values())


def test_a_killed_run_resumes_to_an_identical_index(rendered, tmp_path, small_parts):
    import inti_models.inference.index as module

    def files_of(folder):
        return {path.name: path.read_bytes() for path in folder.iterdir() if path.name[0] != "."}

    build(rendered, tmp_path / "whole")
    for step in (("write_text", 2), ("replacing", 1), ("replacing", 4)):

        def killed(step=step):
            with killing(module, *step):
                build(rendered, tmp_path / "index")

        assert forked(killed) == -9
        build(rendered, tmp_path / "index")
        assert files_of(tmp_path / "index") == files_of(tmp_path / "whole"), step
        shutil.rmtree(tmp_path / "index")


def test_a_full_disk_is_named_and_the_index_stays_whole(rendered, tmp_path, small_parts):
    def full():
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))  # the manifest fits, the embeddings do not
        with pytest.raises(OSError, match=r"part-.* cannot be written .*choose another place"):
            build(rendered, tmp_path / "index")
        assert len(Index.open(tmp_path / "index")) == 0

    assert forked(full) == 0
    assert build(rendered, tmp_path / "index").added == 4


def test_files_are_added_changed_and_dropped(videos, tmp_path, small_parts):
    index = tmp_path / "index"
    build(videos, index)
    before = contents(index)
    (videos / "a.mp4").unlink()
    shutil.copy(videos / "d.mp4", videos / "b.mp4")
    os.utime(videos / "b.mp4", ns=(1, 1))
    shutil.copy2(videos / "d.mp4", videos / "e.mp4")
    summary = build(videos, index)
    assert (summary.added, summary.changed, summary.dropped, summary.kept) == (1, 1, 1, 2)
    after = contents(index)
    d = str(videos / "d.mp4")
    assert after.keys() == {str(path) for path in videos.rglob("*.mp4")}
    assert after[str(videos / "b.mp4")] == after[str(videos / "e.mp4")] == after[d] == before[d]
    assert after[str(videos / "inner" / "c.mp4")] == before[str(videos / "inner" / "c.mp4")]
    named = {f"part-{part.name}.{end}" for part in Index.open(index).parts for end in ("npy", "parquet")}
    assert {p.name for p in index.iterdir() if p.name.startswith("part")} == named
    summary = build(videos, index, windows=None)  # nothing is left; the windows are the index's
    assert (summary.added, summary.changed, summary.dropped, summary.kept) == (0, 0, 0, 4)


def test_a_frame_that_changes_in_a_folder_of_frames_is_noticed(tmp_path):
    (tmp_path / "frames").mkdir()
    for i in range(4):
        Image.new("RGB", (32, 32), (60 * i, 0, 0)).save(tmp_path / "frames" / f"{i}.png")
    build(tmp_path / "frames", tmp_path / "index")
    os.utime(tmp_path / "frames" / "2.png", ns=(1, 2**62))
    assert build(tmp_path / "frames", tmp_path / "index").changed == 1


def test_what_is_not_named_stays(videos, tmp_path):
    index = tmp_path / "index"
    build(videos, index)
    write_video(tmp_path / "more.mp4", torch.zeros(9, 3, 32, 32, dtype=torch.uint8), fps=8)
    (videos / "a.mp4").unlink()
    summary = build(tmp_path / "more.mp4", index)
    assert (summary.added, summary.dropped, summary.kept) == (1, 0, 4)
    summary = build(videos / "a.mp4", index)  # named, and gone
    assert (summary.dropped, summary.kept) == (1, 4)
    with pytest.raises(FileNotFoundError, match=r"There is no .*none\.mp4"):
        build(tmp_path / "none.mp4", index)


def test_unreadable_files_are_reported_and_tried_again(videos, tmp_path, capsys):
    good = (videos / "b.mp4").read_bytes()
    (videos / "b.mp4").write_bytes(b"not a video")
    args = ["index", str(videos), "--model", NAME, "-o", str(tmp_path / "index"), "--fps", "8", "--scales", "8,16"]
    assert main(args) == 1
    said = capsys.readouterr()
    assert "b.mp4 cannot be opened" in said.err and "3 files added" in said.out and "1 could not be read" in said.out
    (videos / "b.mp4").write_bytes(good)
    assert main(args) == 0
    assert "1 files added" in capsys.readouterr().out


def test_another_model_and_other_windows_are_refused(rendered, built, tmp_path, capsys):
    index, videos = shutil.copytree(built, tmp_path / "index"), rendered / "a.mp4"
    model = load(NAME)
    save_pretrained(model, tmp_path / "same")
    assert build(videos, index, model=str(tmp_path / "same")).kept == 1
    torch.nn.init.zeros_(model.head.bias)
    save_pretrained(model, tmp_path / "other")
    for args, name in (
        ({"model": str(tmp_path / "other")}, "model"),
        ({"model": f"{NAME}.naive"}, "model"),
        ({"windows": Windows((8.0,), (8,), 4)}, "scales"),
        ({"windows": Windows((4.0,), (8, 16), 4)}, "fps"),
        ({"windows": Windows((8.0,), (8, 16), 2)}, "stride"),
        ({"precision": "bfloat16"}, "precision"),
    ):
        with pytest.raises(ValueError, match=f"was made with {name}=.*name another folder"):
            build(videos, index, **args)
    assert main(["search", str(index), "0, left", "--model", str(tmp_path / "other")]) == 1
    assert "with other weights than this model's" in capsys.readouterr().err


def test_a_model_without_a_checkpoint_is_the_same_at_each_start(tiny):
    """Its interpolations are drawn anew, and neutral."""
    first = tiny()
    second = copy.deepcopy(first)
    for model in (first, second):
        for each in model.interpolations.values():
            torch.nn.init.normal_(each[0].predict.reduce.weight)
            each[0].predict.init_weights()
    assert model_digest(first) == model_digest(second)
    torch.nn.init.ones_(second.interpolations["1"][0].predict.logit.bias)
    assert model_digest(first) != model_digest(second)


def test_activations_make_another_model(tiny):
    model = tiny()
    before = model_digest(model)
    for block in model.blocks:
        block.mlp.act = torch.nn.ReLU()
    assert model_digest(model) != before


def test_a_second_process_is_refused(rendered, tmp_path):
    with locked(tmp_path / "index"), pytest.raises(BlockingIOError, match="Another process is writing to"):
        build(rendered / "d.mp4", tmp_path / "index")


def test_files_of_every_odd_kind_are_reported_and_the_others_indexed(rendered, tmp_path):
    folder = tmp_path / "odd"
    folder.mkdir()
    good = (rendered / "d.mp4").read_bytes()
    for name in ("good.mp4", "line\n\x1b[31m.mp4", os.fsdecode(b"latin\xff.mp4")):
        (folder / name).write_bytes(good)
    (folder / "empty.mp4").touch()
    (folder / "cut.mp4").write_bytes(good[:1000])
    (folder / "dead.mp4").symlink_to(folder / "nowhere.mp4")
    (folder / "inside").symlink_to(folder)  # a circle
    os.mkfifo(folder / "pipe.mp4")  # nobody writes to it
    write_video(folder / "one frame.mp4", torch.zeros(1, 3, 32, 32, dtype=torch.uint8), fps=8)
    summary = build_index([folder, folder, folder / "good.mp4"], tmp_path / "index", NAME, WINDOWS)
    for name, said in {
        "latin\udcff": "not UTF-8",
        "empty": "is empty",
        "cut": "cannot be opened",
        "dead": "a link that leads nowhere",
        "pipe": "is a pipe or a device",
    }.items():
        file = str(folder / f"{name}.mp4")
        assert file in summary.failed[file] and said in summary.failed[file]
    assert (summary.added, len(summary.failed)) == (3, 5)
    assert len(Index.open(tmp_path / "index").files) == 3
    slow = build_index([folder / "good.mp4"], tmp_path / "limited", NAME, limits=Limits(max_duration=1))
    assert "more than the limit of 1 s" in slow.failed[str(folder / "good.mp4")]


def test_what_is_refused_leaves_no_folder(rendered, tmp_path):
    output = tmp_path / "index"
    for args, error, message in (
        ({"sources": tmp_path / "none"}, FileNotFoundError, "There is no"),
        ({"windows": Windows(scales=(9,))}, ValueError, "num_frames=9"),
        ({"model": str(tmp_path)}, (OSError, ValueError), str(tmp_path)),
        ({"output": rendered}, ValueError, "is in the folder of the index"),
    ):
        with pytest.raises(error, match=message):
            build(**{"sources": rendered, "output": output, **args})
        assert not output.exists() and not (rendered / MANIFEST).exists()


def test_models_with_temporal_modules_say_that_windows_are_separate(rendered, tmp_path, capsys, randomize_):
    from inti_models.models.registry import create_model

    save_pretrained(
        randomize_(create_model(NAME, temporal="divided_attention", depth=2, compress_at=(1,))), tmp_path / "m"
    )
    args = [
        "index",
        str(rendered / "d.mp4"),
        "--model",
        str(tmp_path / "m"),
        "-o",
        str(tmp_path / "index"),
        "--fps",
        "8",
    ]
    assert main([*args, "--scales", "8"]) == 0
    assert "each window is computed by itself" in capsys.readouterr().err


# The files of an index are not trusted


def test_damaged_files_are_refused(built, tmp_path):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    stated = json.loads((built / MANIFEST).read_text())
    (part,) = Index.open(built).parts
    npy, parquet = (f"part-{part.name}.{ending}" for ending in ("npy", "parquet"))
    vectors, table = np.load(built / npy), pq.read_table(built / parquet)

    def attempt(name, content):
        folder = shutil.copytree(built, tmp_path / "damaged", dirs_exist_ok=True)
        if isinstance(content, pa.Table):
            pq.write_table(content, folder / name)
        elif isinstance(content, np.ndarray):
            np.save(folder / name, content, allow_pickle=True)
        else:
            (folder / name).write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
        with pytest.raises(ValueError, match="make it again"):
            index = Index.open(folder)
            score_windows(index, by_vector(torch.ones(index.dim)))
            index.files  # noqa: B018

    for change in (
        {"format": 2},
        {"dim": -1},
        {"dim": True},
        {"model": 3},
        {"scales": [8.5]},
        {"fps": []},
        {"parts": [{"name": "../../../etc", "rows": 1}]},
        {"parts": [{"name": part.name, "rows": part.rows + 1}]},
        {"parts": [{"name": part.name, "rows": 10**15}]},
        {"parts": [{"name": "0" * 16, "rows": 1}]},
        {"parts": 3},
    ):
        attempt(MANIFEST, {**stated, **change})
    attempt(MANIFEST, b"[" * 100_000)
    attempt(MANIFEST, b" " * (2**24 + 1))
    attempt(npy, np.array([object()] * part.rows))  # a pickle
    attempt(npy, vectors.astype(np.float32))
    attempt(npy, vectors[:, :-1])
    attempt(npy, np.full_like(vectors, np.nan))
    attempt(npy, b"\x93NUMPY")
    attempt(parquet, b"not Parquet")
    attempt(parquet, table.slice(1))
    attempt(parquet, table.drop_columns("start"))
    attempt(parquet, table.set_column(table.column_names.index("end"), "end", [[-1.0] * part.rows]))
    attempt(parquet, table.set_column(table.column_names.index("end"), "end", table["start"]))
    attempt(parquet, table.set_column(table.column_names.index("end"), "end", [[float("inf")] * part.rows]))
    attempt(parquet, table.set_column(table.column_names.index("start"), "start", [[float("nan")] * part.rows]))
    attempt(parquet, table.set_column(table.column_names.index("fps"), "fps", pa.array([-1.0] * part.rows, "float32")))
    attempt(parquet, table.set_column(table.column_names.index("scale"), "scale", pa.array([0] * part.rows, "int32")))
    attempt(parquet, table.set_column(table.column_names.index("start"), "start", [["x"] * part.rows]))
    attempt(parquet, table.set_column(0, "file", pa.array([None] * part.rows, pa.string())))
    attempt(parquet, table.set_column(0, "file", [[["a", "b"][i % 2] for i in range(part.rows)]]))


def test_a_folder_without_an_index_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"is not an index: it has no index\.json"):
        Index.open(tmp_path)


@pytest.mark.slow  # a cluster of its own
def test_workers_of_a_cluster_make_the_same_index(videos, tmp_path, small_parts):
    pytest.importorskip("ray")
    build(videos, tmp_path / "alone")
    code = (
        "from inti_models.inference import indexing\nfrom inti_models.inference.embedding import Windows\n"
        "indexing.PART_ROWS = 8\nimport torch\ntorch.set_num_threads(1)\n"
        f"indexing.build_index([{str(videos)!r}], {str(tmp_path / 'index')!r}, {NAME!r}, "
        "Windows((8.0,), (8, 16), 4), precision='float32', workers=2)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)  # Ray's threads do not outlive it
    found, expected = contents(tmp_path / "index"), contents(tmp_path / "alone")
    assert list(found) == list(expected)
    for file in expected:
        assert found[file][:4] == expected[file][:4]
        np.testing.assert_allclose(np.array(found[file][4]), np.array(expected[file][4]), atol=2e-3)
