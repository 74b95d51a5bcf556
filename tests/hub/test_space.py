"""The demo page, by its API and in a real browser."""

import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

import inti_models
from inti_models.data import write_video
from inti_models.data.motion_digits import CLASS_NAMES, MotionDigits
from support import environments
from support.modules import load_module

gradio_client = pytest.importorskip("gradio_client")
gr = pytest.importorskip("gradio")
SPACE = Path(__file__).parents[2] / "hub" / "space"
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")


@pytest.fixture(scope="module")
def app():
    return load_module("hub/space/app.py")


@pytest.fixture(scope="module")
def address(app, tmp_path_factory):
    app.EXAMPLES = tmp_path_factory.mktemp("examples")
    app.make_examples.__defaults__ = (app.EXAMPLES,)
    demo, address = app.launch(block=False)
    yield address
    demo.close()


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    path = tmp_path_factory.mktemp("videos") / "clip.mp4"
    clip, label = MotionDigits("validation", size=64, length=2)[1]
    write_video(path, clip, fps=8)
    return path, CLASS_NAMES[label]


@pytest.fixture(scope="module")
def call(address):
    client = gradio_client.Client(address, verbose=False)

    def call(path, name="inti_vit_t8_32_motiondigits", schedule="the model's own", precision="auto"):
        video = None if path is None else {"video": gradio_client.handle_file(str(path))}
        return client.predict(video["video"] if video else None, name, schedule, precision, api_name="/classify")

    return call


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "int8"])
def test_video_gets_labels_costs_and_three_figures(call, video, precision):
    path, name = video
    labels, cost, *figures = call(path, precision=precision)
    assert labels["label"] == name and len(labels["confidences"]) == 5
    assert cost["headers"] == ["model", "after blocks", "GFLOPs", "ms"]
    (ours, naive) = cost["data"]
    assert ours[:3] == [f"this model, {precision}", "[2, 5, 6]", 0.06125] and naive[:3] == ["naive", "[]", 0.09528]
    assert ours[3] > 0 and naive[3] > 0
    assert len(figures) == 3 and all(figure["plot"].startswith("data:image/") for figure in figures)


def test_faults_are_sentences(app, call, video, tmp_path, monkeypatch):
    (tmp_path / "text.mp4").write_text("no video")
    write_video(tmp_path / "long.mp4", torch.zeros(65, 3, 16, 16, dtype=torch.uint8), fps=1)
    for path, schedule, named in (
        (tmp_path / "text.mp4", app.OWN, "The file"),  # not where it lies on the server
        (tmp_path / "long.mp4", app.OWN, "65.0 s"),
        (None, app.OWN, "no video"),
        (video[0], "early", "'early'"),
        (video[0], "7", "compress_at=(7,)"),
        (video[0], "2," * 20_000 + "5", "at most 12 numbers"),
        (video[0], "9" * 20_000, "at most 12 numbers"),
        (video[0], ", ".join("2" * 13), "at most 12 numbers"),
    ):
        with pytest.raises(gradio_client.exceptions.AppError) as error:
            call(path, schedule=schedule)
        assert named in str(error.value) and str(tmp_path) not in str(error.value)
    monkeypatch.setattr(app, "MAX_MEGABYTES", 1e-4)
    with pytest.raises(gradio_client.exceptions.AppError, match="0.0001 MB"):
        call(video[0])


@pytest.mark.parametrize("count", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_users_at_once_get_the_schedules_that_they_chose(app, call, video, count):
    schedules = [("1, 3", "[1, 3]"), (app.NAIVE, "[]"), (app.OWN, "[2, 5, 6]")]
    chosen = [schedules[user % 3] for user in range(count)]
    with ThreadPoolExecutor(count) as users:
        answers = list(users.map(lambda schedule: call(video[0], schedule=schedule[0]), chosen))
    for (_, compress_at), (labels, cost, *_) in zip(chosen, answers, strict=True):
        ours, naive = cost["data"]
        assert (ours[1], naive[1]) == (compress_at, "[]")
        assert (ours[2] == naive[2]) == (compress_at == "[]")
        assert compress_at != "[2, 5, 6]" or labels["label"] == video[1]


def test_words_find_moments_in_examples_and_in_a_video(address, video, tmp_path):
    client = gradio_client.Client(address, verbose=False)
    upload = {"video": gradio_client.handle_file(str(video[0]))}["video"]
    found, line = client.predict(video[1], "inti_vit_t8_32_motiondigits", upload, api_name="/find")
    assert found["headers"] == ["video", "from, s", "to, s", "score"]
    assert found["data"][0][0] == "clip.mp4" and found["data"][0][3] > 0.5
    assert {row[0] for row in found["data"]} > {"clip.mp4"}  # and the examples
    assert line["plot"].startswith("data:image/")
    for words, path, named in (("", None, "no words"), ("a dog", None, "none of the 120 classes")):
        with pytest.raises(gradio_client.exceptions.AppError, match=named):
            client.predict(words, "inti_vit_t8_32_motiondigits", path, api_name="/find")
    write_video(tmp_path / "long.mp4", torch.zeros(65, 3, 16, 16, dtype=torch.uint8), fps=1)
    with pytest.raises(gradio_client.exceptions.AppError, match=r"65\.0 s"):
        upload = gradio_client.handle_file(str(tmp_path / "long.mp4"))
        client.predict("3, left", "inti_vit_t8_32_motiondigits", upload, api_name="/find")


needs_browser = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs chromium and chromedriver")


@pytest.fixture(scope="module")
def chromium():
    webdriver = pytest.importorskip("selenium.webdriver")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture
def browser(chromium, address):
    """The browser, with the page anew."""
    chromium.set_window_size(1200, 1400)
    chromium.get(address)
    return chromium


def waits(browser, found):
    from selenium.webdriver.support.ui import WebDriverWait

    return WebDriverWait(browser, 60, ignored_exceptions=[Exception]).until(found)


def upload(browser, path):
    waits(browser, lambda b: b.find_element("css selector", "input[type=file]")).send_keys(str(path))


@pytest.mark.browser
@needs_browser
@pytest.mark.parametrize("width", [1200, 390])
def test_page_labels_an_uploaded_video_by_keyboard(browser, video, width, request):
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.keys import Keys

    browser.set_window_size(width, 1400)
    upload(browser, video[0])
    waits(browser, lambda b: b.find_element("css selector", "video"))
    for _ in range(60):  # by Tab to the button
        if browser.switch_to.active_element.get_attribute("id") == "run":
            break
        ActionChains(browser).send_keys(Keys.TAB).perform()
    assert browser.switch_to.active_element.get_attribute("id") == "run"
    assert not any(options.is_displayed() for options in browser.find_elements("css selector", "ul[role=listbox]"))
    ActionChains(browser).send_keys(Keys.ENTER).perform()
    waits(browser, lambda b: video[1] in b.find_element("css selector", "#labels").text)
    figures = waits(browser, lambda b: (found := b.find_elements("css selector", ".figure img"))[2] and found)
    assert all(figure.is_displayed() for figure in figures)
    overflow = browser.execute_script("return document.documentElement.scrollWidth - window.innerWidth")
    assert overflow <= 0
    folder = request.config.getoption("basetemp", None)
    if folder:
        browser.save_screenshot(str(Path(folder) / f"page-{width}.png"))


@pytest.mark.browser
@needs_browser
def test_page_shows_a_sentence_for_what_is_no_video(browser, tmp_path):
    (tmp_path / "text.mp4").write_text("no video")
    upload(browser, tmp_path / "text.mp4")
    waits(browser, lambda b: b.find_element("css selector", "video"))
    browser.find_element("css selector", "#run").click()
    sentence = "cannot be opened as a video"  # Gradio's player may have had its own word before
    toasts = "[data-testid=toast-body], .toast-body"
    assert waits(browser, lambda b: any(sentence in toast.text for toast in b.find_elements("css selector", toasts)))
    boxes = browser.find_elements("css selector", "[data-testid=toast-body]")
    assert len(boxes) == 1 and not any(
        e.is_displayed() for e in browser.find_elements("css selector", "#labels .error")
    )


@pytest.mark.browser
@needs_browser
def test_page_asks_nothing_of_the_network(browser, address):
    hosts = browser.execute_script(
        "return performance.getEntriesByType('resource').map(e => new URL(e.name)).filter(u => u.protocol != 'data:')"
        ".map(u => u.origin)"
    )
    assert set(hosts) <= {address.rstrip("/")}


@pytest.mark.slow  # an environment of its own
def test_page_starts_with_what_its_requirements_name(tmp_path):
    requirements = SPACE / "requirements.txt"
    extras = environments.extras_named(requirements)
    assert extras
    python = environments.create(tmp_path / "venv", extras)
    shutil.copytree(SPACE, tmp_path / "space")
    where = {"PYTHONPATH": str(Path(inti_models.__file__).parents[1])}
    command = [
        python,
        "-W",
        "ignore",
        "-c",
        "import app; app.page(); app.classify(app.make_examples()[0], *app.DEFAULTS)",
    ]
    subprocess.run(command, check=True, cwd=tmp_path / "space", env={**os.environ, **where})
