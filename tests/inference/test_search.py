"""Search: exact scores, and moments as the rule says."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from inti_models import load
from inti_models.cli import main
from inti_models.data import write_video
from inti_models.data.motion_digits import CLASS_NAMES, MotionDigits
from inti_models.inference import search as module
from inti_models.inference.embedding import Windows, embed
from inti_models.inference.index import Index
from inti_models.inference.indexing import build_index
from inti_models.inference.search import (
    LEVEL,
    Moment,
    by_class,
    by_clip,
    by_vector,
    by_words,
    find_moments,
    score_windows,
    search,
    search_files,
)
from inti_models.visualize.moments import frames_of
from support.numbered import read_numbers

pytest.importorskip("pyarrow")
NAME = "inti_vit_t8_32_motiondigits"


@pytest.fixture(scope="module")
def model():
    return load(NAME).eval()


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """A folder of videos of one clip after the other, its index, and file -> classes of its clips."""
    folder, digits = tmp_path_factory.mktemp("videos"), MotionDigits("validation", size=32, occlusion=0)
    classes = {}
    for video in range(6):
        clips = [digits[video * 5 + i] for i in range(5)]
        write_video(folder / f"{video}.mp4", torch.cat([frames for frames, _ in clips]), fps=8)
        classes[str(folder / f"{video}.mp4")] = [label for _, label in clips]
    index = tmp_path_factory.mktemp("index")
    build_index([folder], index, NAME, Windows((8.0,), (8, 16), 2), precision="float32")
    return folder, index, classes


def test_scores_are_exact_in_pieces(places, model, monkeypatch):
    index = Index.open(places[1])
    vectors = torch.cat([torch.from_numpy(index.vectors(part).astype(np.float32)) for part in index.parts])
    query = torch.randn(index.dim)
    expected = torch.nn.functional.cosine_similarity(vectors, query[None])
    for piece in (1000, 7):
        monkeypatch.setattr(module, "PIECE", piece)
        assert score_windows(index, by_vector(query)) == pytest.approx(expected.numpy(), abs=1e-5)
        found = score_windows(index, by_class(model, 3))
        assert found == pytest.approx(model.head(vectors).softmax(-1)[:, 3].detach().numpy(), abs=1e-6)


def test_a_class_is_found_where_it_is(places, model):
    folder, index, classes = places
    right = 0
    for file, labels in classes.items():
        for place, label in enumerate(labels):
            moment = search(Index.open(index), by_class(model, label), 1)[0]
            overlap = min(moment.end, place + 1) - max(moment.start, place)
            right += moment.file == file and overlap > 0.5 * (max(moment.end, place + 1) - min(moment.start, place))
    assert right > 15  # of 30


def test_the_best_moments_are_those_of_all_files(places, model):
    index = Index.open(places[1])
    score = by_class(model, next(iter(places[2].values()))[0])
    scores, row, everything = score_windows(index, score), 0, []
    median = float(np.median(scores))
    for part in index.parts:
        rows = index.rows(part)
        for number, file in enumerate(rows.files):
            cut = slice(rows.first[number], rows.first[number + 1])
            groups = (rows.scale[cut] == 16).astype(int)
            of_file = scores[row + cut.start : row + cut.stop]
            everything += find_moments(file, rows.start[cut], rows.end[cut], groups, of_file, median)
        row += part.rows
    everything.sort(key=lambda moment: -moment.score)
    for top in (1, 5, 10_000):
        found = search(index, score, top)
        assert [m.score for m in found] == pytest.approx([m.score for m in everything[:top]])
    for one in found:  # no two overlap
        others = [m for m in found if m.file == one.file and m is not one]
        assert all(m.end <= one.start or m.start >= one.end for m in others)


def moments(scores, step=1.0, length=4.0, median=0.0):
    start = np.arange(len(scores)) * step
    return list(
        find_moments("a", start, start + length, np.zeros(len(scores), int), np.array(scores, np.float32), median)
    )


def test_overlapping_hits_are_one_moment_and_a_gap_is_bridged():
    (first, *others) = moments([0, 0, 0, 0, 1, 1, 0.2, 1, 1, 0, 0, 0, 0])
    assert first.start <= 7 and first.end >= 8
    assert 4 < first.end - first.start < 10
    assert all(other.end <= first.start or other.start >= first.end for other in others)
    assert all(other.score < 0.5 for other in others)


def test_hits_apart_are_two_moments_and_a_window_alone_is_itself():
    first, second, *others = moments([0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0.9, 0, 0, 0, 0], length=1.0)
    assert first == Moment("a", 5.0, 6.0, 1.0)
    assert (second.start, second.end, second.score) == (15.0, 16.0, pytest.approx(0.9))
    assert all(other.score == 0 for other in others)
    assert moments([0.5], length=3.0) == [Moment("a", 0.0, 3.0, 0.5)]


def test_the_rule_is_that_of_a_plain_computation():
    """Instants of a tenth of a second, one by one."""
    rng = np.random.default_rng(0)
    start = np.concatenate([np.arange(0, 9, 0.5), np.arange(0, 7, 0.5)])
    groups = np.array([0] * 18 + [1] * 14)
    end, scores = start + np.where(groups == 0, 1.5, 3.5), rng.random(32)
    moment = next(find_moments("a", start, end, groups, scores, 0.4))
    instants = np.arange(0.05, 10, 0.1)
    curve = np.array(
        [
            np.mean([scores[w].mean() for g in (0, 1) if (w := (groups == g) & (start < t) & (t < end)).any()])
            for t in instants
        ]
    )
    above = curve - (0.4 + LEVEL * (curve.max() - 0.4))
    sums = {(a, b): above[a:b].sum() for a in range(len(above)) for b in range(a + 1, len(above) + 1)}
    seed = int(curve.argmax())
    (a, b), _ = max(((ab, s) for ab, s in sums.items() if ab[0] <= seed < ab[1]), key=lambda item: item[1])
    assert (moment.start, moment.end) == pytest.approx((a / 10, b / 10), abs=1e-6)
    assert moment.score == pytest.approx(curve.max())


def test_an_example_clip_finds_the_video_it_is_from(places, model):
    folder, index, _ = places
    moment = search(Index.open(index), by_clip(model, folder / "4.mp4"), 1)[0]
    expected = embed(model, [folder / "4.mp4"]).vectors[0]
    assert search(Index.open(index), by_vector(torch.from_numpy(expected)), 1) == [moment]


def test_a_query_that_is_like_nothing_is_refused(places, model):
    for vector in (torch.zeros(96), torch.full((96,), float("nan")), torch.full((96,), float("inf"))):
        with pytest.raises(ValueError, match="zero or not finite"):
            by_vector(vector)
    assert by_vector(torch.ones(4))(torch.zeros(2, 4)).tolist() == [0, 0]  # a window of zeros is like nothing
    with pytest.raises(ValueError, match="There are no words"):
        by_words(model, " ")
    with pytest.raises(ValueError, match="has neither a text tower nor classes"):
        by_words(load(NAME, num_classes=0), "3, left")
    for name in ("none.mp4", ""):
        with pytest.raises((OSError, ValueError)):
            by_clip(model, places[0] / name)


def test_words_that_are_no_class_are_refused_with_those_that_are_near(model):
    with pytest.raises(ValueError, match="'3, lef' is none of the 120 classes of this model.*'3, left'"):
        by_words(model, "3, lef")


def test_command_prints_moments_and_shows_them(places, tmp_path, capsys, model):
    folder, index, classes = places
    name = CLASS_NAMES[classes[str(folder / "2.mp4")][1]]
    page, animation = tmp_path / "out.html", tmp_path / "out.gif"
    assert main(["search", str(index), name, "--top", "3", "--json", "--preview", str(page)]) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(found) == 3 and found[0].keys() == {"file", "start", "end", "score"}
    assert found == [vars(m) for m in search(Index.open(index), by_words(model, name), 3)]
    text = page.read_text()
    assert text.count("<section>") == 3 and text.count("data:image/jpeg") == 18 and found[0]["file"] in text
    clip = tmp_path / "clip.mp4"
    write_video(clip, MotionDigits("validation", size=32, occlusion=0)[6][0], fps=8)
    assert main(["search", str(index), "--clip", str(clip), "--top", "2", "--preview", str(animation)]) == 0
    assert [line.split()[-1] for line in capsys.readouterr().out.splitlines()][0] == str(folder / "1.mp4")
    with Image.open(animation) as picture:
        assert picture.n_frames > 2
    assert main(["search", str(index), name, "--preview", str(tmp_path / "out.png")]) == 1
    assert main(["search", str(tmp_path), name]) == 1
    assert "is not an index" in capsys.readouterr().err


def test_the_command_refuses_before_it_works(places, tmp_path, capsys):
    from inti_models.inference.index import MANIFEST

    stated = json.loads((places[1] / MANIFEST).read_text())
    (tmp_path / "void").mkdir()
    (tmp_path / "void" / MANIFEST).write_text(json.dumps({**stated, "parts": []}))
    (tmp_path / "folder.html").mkdir()
    for args, message in (
        ([str(tmp_path / "void"), "0, left"], "has no windows"),
        ([str(places[1]), "0, left", "--preview", str(tmp_path / "folder.html")], "is a folder; name a file"),
        ([str(places[1]), "0, left", "--preview", str(tmp_path / "none" / "a.gif")], "There is no folder"),
        ([str(tmp_path / "void"), "--clip", str(tmp_path / "none.mp4")], "There is no file or folder"),
    ):
        assert main(["search", *args]) == 1
        said = capsys.readouterr()
        assert message in said.err and not said.out


def test_the_time_line_of_a_page_is_the_whole_video(tmp_path):
    from inti_models.visualize.moments import write

    write_video(tmp_path / "a.mp4", torch.zeros(40, 3, 32, 32, dtype=torch.uint8), fps=8)
    write([Moment(str(tmp_path / "a.mp4"), 1.0, 2.0, 0.5)], "x", tmp_path / "out.html")
    assert "margin-left:20.00%;width:20.00%" in (tmp_path / "out.html").read_text()


def test_a_page_escapes_names_and_says_what_cannot_be_read(tmp_path):
    from inti_models.visualize.moments import write

    write([Moment("<b>\x1b.mp4", 0.0, 1.0, 0.5)], "<i>", tmp_path / "out.html")
    text = (tmp_path / "out.html").read_text()
    assert "<b>" not in text and "<i>" not in text and "\x1b" not in text and "&lt;b&gt;" in text


def test_frames_of_a_moment_are_those_shown_in_it(tmp_path):
    from support.numbered import numbered_frame

    frames = torch.stack([torch.from_numpy(numbered_frame(i)).permute(2, 0, 1) for i in range(40)])
    write_video(tmp_path / "numbered.mp4", frames, fps=10)
    found = frames_of(Moment(str(tmp_path / "numbered.mp4"), 1.0, 2.0, 0.0), 5)
    assert read_numbers(found) == [11, 13, 15, 17, 19]


def test_numbers_below_one_are_refused(places):
    with pytest.raises(ValueError, match="top=0"):
        search(Index.open(places[1]), by_vector(torch.ones(64)), 0)


def test_search_in_files_is_that_of_their_index(places, model):
    folder, index, classes = places
    score = by_class(model, classes[str(folder / "3.mp4")][2])
    found = search_files(model, sorted(folder.glob("*.mp4")), score, Windows((8.0,), (8, 16), 2), 4)
    expected = search(Index.open(index), score, 4)
    assert [(m.file, m.start, m.end) for m in found] == [(m.file, m.start, m.end) for m in expected]
    assert [m.score for m in found] == pytest.approx([m.score for m in expected], abs=2e-3)
