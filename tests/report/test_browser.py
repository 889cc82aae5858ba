"""The report in a browser: Debian's headless Chromium, driven by Selenium through Debian's chromedriver."""

import io
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

from fastcam import drawing
from fastcam.report import write_report
from tests.support.reports import EVIL, failed, photos, row, with_maps, write_run

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="needs a browser: apt-get install chromium chromium-driver"
)


class Browser:
    """One window; what the page writes to the console is read with `complaints`."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self.driver = driver

    def open(self, path: Path) -> None:
        self.driver.get(path.as_uri())

    def all(self, selector: str) -> list[WebElement]:
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def one(self, selector: str) -> WebElement:
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def texts(self, selector: str) -> list[str]:
        """What elements hold, whether or not they are in sight."""
        return self.run("return [...document.querySelectorAll(arguments[0])].map((e) => e.textContent)", selector)

    def choose(self, name: str, value: str) -> None:
        """Press one of a row of buttons."""
        self.driver.execute_script(
            "arguments[0].scrollIntoView({block: 'center'})", self.one(f"input[name='{name}'][value='{value}'] + span")
        )
        self.one(f"input[name='{name}'][value='{value}'] + span").click()

    def pick(self, id: str, text: str) -> None:
        """Take an option of a list by the begin of its text."""
        next(option for option in self.all(f"#{id} option") if option.text.startswith(text)).click()

    @property
    def ids(self) -> list[str]:
        return self.texts("#cards article .id")

    def run(self, script: str, *arguments: object) -> object:
        return self.driver.execute_script(script, *arguments)

    def complaints(self) -> list[str]:
        return [entry["message"] for entry in self.driver.get_log("browser")]


@pytest.fixture(scope="module")
def window(tmp_path_factory) -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    # The sandbox does not work for root, as whom containers run.
    for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1200,900"):
        options.add_argument(flag)
    options.add_argument(f"--user-data-dir={tmp_path_factory.mktemp('profile')}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, Service(DRIVER))
    try:
        yield driver
    finally:
        driver.quit()


@pytest.fixture
def browser(window) -> Iterator[Browser]:
    """The window; the test fails if the page complains."""
    window.get_log("browser")
    browser = Browser(window)
    yield browser
    assert browser.complaints() == []


ROWS = [
    row("cat/a.png", "cat", 0.92, (0, 0, 50, 50)),
    row("cat/a.png", "dog", 0.08, (0, 0, 100, 50), 2),
    row("cat/b.png", "cat", 0.62, (10, 5, 60, 45)),
    row("cat/b.png", "dog", 0.38, (0, 0, 10, 10), 2),
    failed("cat/broken.png", "damaged: cut off"),
    row("dog/c.png", "cat", 0.71, (0, 0, 100, 50)),
    row("dog/c.png", "dog", 0.29, (0, 0, 10, 10), 2),
    row("dog/d.png", "dog", 0.82),
    row("dog/d.png", "cat", 0.18, (0, 0, 1, 1), 2),
]


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    images = photos(folder / "images", "cat/a.png", "cat/b.png", "dog/c.png", size=(100, 50))
    return write_report(write_run(folder, ROWS), images=images).path


def test_filters_show_what_they_say(browser, page):
    browser.open(page)
    shown = {}
    for kind in ("best", "worst", "uncertain", "wrong", "error", ""):
        browser.choose("kind", kind)
        shown[kind] = browser.ids
    everything = ["cat/a.png", "cat/b.png", "cat/broken.png", "dog/c.png", "dog/d.png"]
    assert shown == {
        "best": ["cat/a.png", "dog/d.png", "cat/b.png", "dog/c.png"],
        "worst": ["dog/c.png", "cat/b.png", "dog/d.png", "cat/a.png"],
        "uncertain": ["cat/b.png", "dog/c.png", "dog/d.png", "cat/a.png"],
        "wrong": ["dog/c.png"],
        "error": ["cat/broken.png"],
        "": everything,
    }
    browser.pick("found", "dog (1)")
    assert browser.ids == ["dog/d.png"]
    browser.pick("found", "all")
    browser.pick("label", "dog (2)")
    assert browser.ids == ["dog/c.png", "dog/d.png"]
    browser.pick("label", "all")
    browser.one("#search").send_keys("CAT/B")
    assert browser.ids == ["cat/b.png", "cat/broken.png"]
    assert browser.one("#status").text == "2 of 5 cards: in the order of the table"
    browser.one("#search").clear()
    browser.one("#search").send_keys("nothing like it")
    assert browser.ids == []


def test_a_number_of_the_confusion_shows_its_pictures(browser, page):
    browser.open(page)
    browser.one("#confusion button[data-label='1'][data-found='0']").click()
    assert browser.ids == ["dog/c.png"]


def test_cards_tell_class_label_and_error(browser, page):
    browser.open(page)
    browser.choose("kind", "")
    cards = browser.texts("#cards article")
    assert cards[3] == "dog/c.pngcat71.0 %dog29.0 %label: dog"
    assert cards[2] == "cat/broken.pngdamaged: cut offlabel: cat"
    assert [len(browser.all(f"#cards article:nth-child({n}) .{kind}")) for n, kind in ((1, "hit"), (4, "miss"))] == [
        1,
        1,
    ]


def test_boxes_lie_over_the_picture(browser, page):
    browser.open(page)
    browser.choose("kind", "")
    second = "#cards article:nth-child(2)"
    picture, box = (browser.one(f"{second} {part}").rect for part in (".picture", "rect.predicted"))
    scale = picture["width"] / 100
    assert picture["height"] == pytest.approx(50 * scale, abs=1)
    for name, value in (("width", 50), ("height", 40)):
        assert box[name] == pytest.approx(value * scale, abs=3)
    for name, value in (("x", 10), ("y", 5)):
        assert box[name] - picture[name] == pytest.approx(value * scale, abs=3)
    browser.one("#boxes").click()
    assert not browser.one(f"{second} rect.predicted").is_displayed()
    browser.one("#boxes").click()
    assert browser.one(f"{second} rect.predicted").is_displayed()
    assert not browser.all("#cards article:nth-child(5) rect")  # no box
    assert browser.texts("#cards article:nth-child(5) .none") == ["picture not in this page"]


def test_several_boxes_of_a_class(browser, tmp_path):
    boxes = [(0, 0, 50, 50), (60, 0, 90, 20), (5, 5, 9, 9)]
    rows = [row("a.png", "cat", 0.9, box) for box in boxes] + [row("a.png", "dog", 0.1, boxes[0], 2)] * 2
    browser.open(write_report(write_run(tmp_path, rows)).path)
    assert browser.texts("#cards .classes li") == ["cat90.0 %", "dog10.0 %"]
    assert len(browser.all("#cards rect.predicted")) == 3


def test_maps_over_pictures_look_as_overlays_do(browser, tmp_path):
    ramp = np.tile(np.linspace(0, 1, 8), (4, 1))
    run = with_maps(tmp_path / "run", [ramp], method="cam", size=64)
    page = write_report(run, images=photos(tmp_path / "images", "0.png", size=(256, 128))).path
    browser.open(page)
    browser.one("#boxes").click()
    stage = browser.one("#cards .stage")
    seen = {}
    for view in ("picture", "both", "map"):
        browser.choose("view", view)
        assert browser.one("#cards img.picture").is_displayed() == (view != "map")
        assert browser.one("#cards img.map").is_displayed() == (view != "picture")
        shot = Image.open(io.BytesIO(stage.screenshot_as_png)).convert("RGB").resize((256, 128))
        seen[view] = np.asarray(shot).astype(int)
    picture = np.full((128, 256, 3), (200, 40, 40), np.uint8)
    heat = np.tile(np.clip((np.arange(256) + 0.5) / 32 - 0.5, 0, 7) / 7, (128, 1))
    expected = {"picture": picture, "both": drawing.overlay(picture, heat), "map": drawing.colorize(heat)}
    for view, image in expected.items():
        assert np.abs(seen[view] - image)[8:-8, 8:-8].mean() < 6, view


def test_hostile_texts_stay_texts(browser, tmp_path):
    names = tuple(EVIL)
    rows = [row(text, text, 0.5, (0, 0, 9, 9), classes=names) for text in EVIL]
    rows += [failed(f"{text}/x", f"{text}: {text}") for text in EVIL]
    run = write_run(tmp_path / "<img src=x onerror=window.pwned=1>", rows, method=EVIL[1], **{EVIL[0]: EVIL[2]})
    browser.open(write_report(run, folder_labels=True).path)
    browser.choose("kind", "")
    assert set(EVIL) <= set(browser.ids)
    found = set(browser.texts("#cards article .classes bdi"))
    assert found == set(EVIL)
    # A parser of HTML makes one line feed of a carriage return and a line feed.
    lines = {text.replace("\r\n", "\n") for text in EVIL}
    assert lines <= {text.rsplit(" (", 1)[0] for text in browser.texts("#found option")}
    assert set(browser.texts("#errors th[scope='row']")) == lines
    for kind in ("best", "worst", "uncertain", "wrong", "error"):
        if browser.all(f"input[name='kind'][value='{kind}']"):
            browser.choose("kind", kind)
    assert browser.run("return window.pwned") is None
    assert browser.run("return document.scripts.length") == 2
    outside = "return [...document.querySelectorAll('[src], [href], [action], [onclick], [onerror]')].length"
    assert browser.run(outside) == 0
    assert browser.driver.title.endswith("<img src=x onerror=window.pwned=1>")


def test_the_policy_holds(browser, page):
    """What a hole in the escaping would let in is stopped by the browser, and complained about."""
    browser.open(page)
    attacks = [
        ("document.body.innerHTML = '<img src=x onerror=window.pwned=1>'", "requires 'TrustedHTML'"),
        ("const s = document.createElement('script'); s.text = 'window.pwned = 1'", "requires 'TrustedScript'"),
        ("new Image().src = 'http://localhost:9/x.png'", "img-src data:"),
        ("fetch('http://localhost:9/').catch(() => 0)", "default-src 'none'"),
        ("document.body.setAttribute('style', 'color: red')", "style-src"),
    ]
    for attack, word in attacks:
        browser.run(f"try {{ {attack} }} catch (error) {{ }}")
        assert word in " ".join(browser.complaints()), attack
    hole = page.with_name("hole.html")
    attack = (
        "<script>window.pwned = 1</script><img src=data:, onerror='window.pwned = 1'><b onclick='window.pwned = 1'>"
    )
    hole.write_text(page.read_text(encoding="utf-8").replace("<h1>", attack + "x</b><h1>", 1), encoding="utf-8")
    browser.open(hole)
    browser.one("b").click()
    said = browser.complaints()
    assert sum("violates the following Content Security Policy directive 'script-src" in text for text in said) == 3
    assert browser.run("return window.pwned") is None
    assert browser.ids  # the page's own script runs


def test_ten_thousand_pictures(browser, tmp_path):
    # 1000 classes with ten pictures each: every one of them gets a card.
    names = tuple(f"class {i:03}" for i in range(1000))
    rng = np.random.default_rng(0)
    found, scores = rng.permutation(np.arange(10_000) % 1000), rng.uniform(0.01, 1, 10_000)
    images = photos(tmp_path / "images", *(f"{i:05}.png" for i in range(10_000) if i % 100 == 0), size=(64, 48))
    rows = [
        row(f"{i:05}.png", names[c], s, (5, 5, 60, 40), classes=names)
        for i, (c, s) in enumerate(zip(found, scores, strict=True))
    ]
    summary = write_report(write_run(tmp_path, rows), images=images)
    assert (summary.pictures, summary.cards) == (10_000, 10_000)
    browser.open(summary.path)
    assert len(browser.ids) <= 72
    order = np.argsort(-scores)
    assert browser.ids[:20] == [f"{i:05}.png" for i in order[:20]]
    browser.choose("kind", "worst")
    assert browser.ids[0] == f"{order[-1]:05}.png"
    browser.pick("found", "class 123")
    assert set(browser.ids) == {f"{i:05}.png" for i in np.flatnonzero(found == 123)}
    browser.pick("found", "all")
    before = len(browser.ids)
    for _ in range(3):
        browser.run("window.scrollTo(0, document.body.scrollHeight)")
        for _ in range(100):  # the browser reports in its own time that the end has come near
            if len(browser.ids) > before:
                break
            time.sleep(0.1)
        assert len(browser.ids) > before
        before = len(browser.ids)
    browser.one("#search").send_keys("09999")
    assert browser.ids == ["09999.png"]


@pytest.mark.parametrize("width", [320, 1600])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_wider_than_the_window(browser, page, width, scheme):
    emulate = browser.driver.execute_cdp_cmd
    emulate("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]})
    metrics = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    emulate("Emulation.setDeviceMetricsOverride", metrics)
    try:
        browser.open(page)
        assert browser.run("return document.documentElement.scrollWidth") <= width
        colours = browser.run("const s = getComputedStyle(document.body); return [s.color, s.backgroundColor]")
        ink, paper = (sum(int(part) for part in colour[4:-1].split(",")) for colour in colours)
        assert (ink < paper) == (scheme == "light")
        assert abs(ink - paper) > 450
    finally:
        emulate("Emulation.clearDeviceMetricsOverride", {})
        emulate("Emulation.setEmulatedMedia", {"features": []})
