import html
import re

import pytest
import timm
import torch
from PIL import Image

from inti_models.cli import main
from inti_models.data import iterate_frames, write_video
from inti_models.data.motion_digits import MotionDigits
from inti_models.text import printable
from inti_models.visualize import figures as visualize
from inti_models.visualize.explain import frame_fractions

pytest.importorskip("matplotlib")
NAME = "inti_vit_t8_32_motiondigits"


@pytest.fixture(scope="module")
def model():
    return timm.create_model(NAME, pretrained=True)


@pytest.fixture
def video(tmp_path):
    write_video(tmp_path / "clip.mp4", MotionDigits("validation", size=48, length=2)[1][0], fps=8)
    return tmp_path / "clip.mp4"


def test_explanation_shows_what_the_model_saw(model, video):
    e = visualize.explain_file(model, video)
    assert e.frames.shape == (8, 3, 32, 32) and e.frames.dtype == torch.uint8
    assert e.times.tolist() == pytest.approx([i / 8 for i in range(8)])
    assert torch.allclose(e.fractions, frame_fractions(e.weights.frame_weights)[0])
    assert e.aggregated.shape == (1, 3, 32, 32) and e.relevance.shape == (8, 4, 4)
    assert e.label == e.labels[0] and len(e.labels) == 5
    assert visualize.explain_file(model, video, 7).label.index == 7


@pytest.mark.parametrize(
    "model_args",
    [
        {},
        {"compress_at": ()},
        {"num_frames": 5},
        {"num_frames": 1},
        {"num_frames": 24, "compress_at": (1, 1, 2, 3)},
        {"class_token": False, "global_pool": "avg"},
        {"temporal": "divided_attention"},
        {"temporal": "uniformerv2", "temporal_args": {"stride": 2}},
    ],
    ids=str,
)
def test_figures_have_a_cell_for_every_frame_on_every_model(tiny, model_args):
    model = tiny(**model_args)
    model.pretrained_cfg = {"mean": (0.5,) * 3, "std": (0.5,) * 3, "crop_pct": 1.0, "input_size": (3, 32, 48)}
    frames = torch.randint(256, (2, model.num_frames, 3, 40, 60), dtype=torch.uint8)
    times = torch.arange(model.num_frames).div(8).expand(2, -1)
    for e in (*visualize.explain_clips(model, frames[:1]), *visualize.explain_clips(model, frames, times)):
        kept = e.weights.frame_weights.shape[1]
        assert e.frames.shape == (kept, 3, 32, 48) and len(e.moments) == len(e.fractions) == kept
        for draw in (visualize.draw_weights, visualize.draw_stages, visualize.draw_relevance):
            figure = draw(e)
            shown = [axis for axis in figure.axes if axis.get_images()]
            titles = [axis.get_title() for axis in shown]
            if draw is visualize.draw_weights:
                assert titles.count("became") == (len(e.aggregated) if e.weights.group_size > 1 else 0)
                is_time = [t.endswith(" s") for t in titles if t != "became"]
                assert is_time == [e.times is not None] * kept  # a number of a frame is not shown as a time
                assert ("time" in figure.axes[-1].get_xlabel()) == (e.times is not None)
            for axis in shown[: kept if draw is not visualize.draw_stages else 1]:
                overlay = axis.get_images()[-1]
                if len(axis.get_images()) > 1:
                    assert overlay.get_clim() == ((-1, 1) if draw is visualize.draw_relevance else (0, 1))


def test_heat_map_over_a_frame_is_its_weights(model, video):
    e = visualize.explain_file(model, video)
    axis = next(a for a in visualize.draw_weights(e).axes if a.get_title() == "0.62 s")
    frame, heat = (torch.as_tensor(image.get_array()) for image in axis.get_images())
    assert torch.equal(frame.permute(2, 0, 1), e.frames[5])
    assert torch.allclose(heat[::8, ::8].float(), e.weights.frame_weights[0, 5])


@pytest.mark.parametrize("ending", list(visualize.WRITERS))
def test_command_writes_what_the_ending_says(video, tmp_path, capsys, ending):
    output = tmp_path / f"out{ending}"
    assert main(["visualize", str(video), "--model", NAME, "--class", "3, up", "-o", str(output)]) == 0
    assert re.search(r"the frame at \d\.\d\d s counted most", capsys.readouterr().out)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clip.mp4", output.name]
    if ending in (".png", ".gif"):
        with Image.open(output) as image:
            assert min(image.size) > 300 and getattr(image, "n_frames", 1) == (8 if ending == ".gif" else 1)
    elif ending == ".mp4":
        assert len(list(iterate_frames(output))) == 8
    else:
        text = output.read_text()
        assert text.count('src="data:image/png;base64,') == 3 == len(re.findall(r'alt="[^"]{20,}"', text))
        assert "What supports “3, up”" in text and "http" not in text.replace("http-equiv", "")


@pytest.mark.filterwarnings("ignore:Glyph")
@pytest.mark.parametrize("name", ["<b>x</b>", r"a$\frac{1}$", "\x1b[2J<b>", '"><b>', "$x$"])
def test_names_are_escaped_in_the_page(tiny, tmp_path, name):
    model = tiny()
    model.pretrained_cfg = {"mean": (0.5,) * 3, "std": (0.5,) * 3, "label_names": [name] * 5}
    model.pretrained_cfg |= {"crop_pct": 1.0, "input_size": (3, 32, 48)}
    (e,) = visualize.explain_clips(model, torch.randint(256, (1, 8, 3, 32, 48), dtype=torch.uint8))
    visualize.write(e, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "<b>" not in page and "\x1b" not in page and html.escape(printable(name)) in page
    for figure in (visualize.draw_weights(e), visualize.draw_relevance(e)):
        assert not figure._suptitle.get_parse_math() and printable(name) in figure._suptitle.get_text()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["clip.mp4", "-o", "out.jpg"], "out.jpg ends in none of .png, .gif, .mp4, .html"),
        (["clip.mp4", "-o", "none/out.png"], "There is no folder none"),
        (["none.mp4", "-o", "out.png"], "There is no file or folder none.mp4"),
        (["clip.mp4", "-o", "out.png", "--class", "riding"], "'riding' is not a class of"),
        (["clip.mp4", "-o", "out.png", "--class", "120"], "class_index=120 is not a class"),
    ],
)
def test_bad_request_is_told_in_a_sentence_and_nothing_is_written(video, tmp_path, monkeypatch, capsys, args, message):
    monkeypatch.chdir(tmp_path)
    assert main(["visualize", *args, "--model", NAME]) == 1
    assert message in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["clip.mp4"]


def test_interrupted_writing_leaves_no_file(model, video, tmp_path, monkeypatch):
    def interrupted(explanation, path):
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setitem(visualize.WRITERS, ".png", interrupted)
    with pytest.raises(KeyboardInterrupt):
        visualize.write(visualize.explain_file(model, video), tmp_path / "out.png")
    assert [path.name for path in tmp_path.iterdir()] == ["clip.mp4"]
