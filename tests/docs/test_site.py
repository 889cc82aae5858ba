"""The built site in a browser, from the disk: no page complains, in light and dark, and search finds."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("selenium", reason="needs selenium")
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

SITE = Path(__file__).resolve().parents[2] / "build/docs"
PAGES = sorted(path for path in SITE.rglob("*.html") if "_static" not in path.parts)
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
# Blocks of code that have to be scrolled to be read, by their first words; what is folded has no inner text.
LONG_LINES = """return [...document.querySelectorAll('article pre')]
    .filter(pre => pre.innerText && pre.scrollWidth > pre.clientWidth + 1)
    .map(pre => pre.innerText.slice(0, 80))"""
pytestmark = [
    pytest.mark.skipif(not PAGES, reason="needs the documentation in build/docs: make docs"),
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs a browser: apt-get install chromium chromium-driver"),
]


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


def _complaints(window: webdriver.Chrome) -> list[str]:
    return [entry["message"] for entry in window.get_log("browser")]


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_no_page_complains_or_is_wider_than_the_window(window, theme):
    window.get(PAGES[0].as_uri())
    window.execute_script(f"localStorage.setItem('theme', '{theme}')")
    _complaints(window)
    for page in PAGES:
        window.get(page.as_uri())
        assert _complaints(window) == [], page
        assert window.execute_script("return document.body.dataset.theme") == theme
        wide = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
        assert window.execute_script(wide) <= 0, page
        assert window.execute_script(LONG_LINES) == [], page
        broken = "return [...document.images].filter(i => i.complete && !i.naturalWidth && i.loading != 'lazy').length"
        assert window.execute_script(broken) == 0, page


def test_search_finds_pages_from_the_disk(window):
    window.get((SITE / "search.html").as_uri() + "?q=threshold")
    found = WebDriverWait(window, 20).until(lambda w: w.find_elements(By.CSS_SELECTOR, "#search-results li a"))
    links = [link.get_attribute("href") for link in found]
    assert links
    assert _complaints(window) == []
    window.get(links[0])
    assert "threshold" in window.find_element(By.TAG_NAME, "body").text.lower()
    assert _complaints(window) == []
