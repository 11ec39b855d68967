"""The pictures of the documentation, taken anew. Not a part of the suite:

    .venv/bin/python -m pip install selenium
    make test-observability ARGS="-o python_files=screenshots.py"

It needs Debian's chromium and chromium-driver. Look at what it wrote before it is committed.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from program import run_example, trace_of
from tools import MLflow, Phoenix, read_back

webdriver = pytest.importorskip("selenium.webdriver")

ASSETS = Path(__file__).resolve().parents[2] / "docs" / "assets"
OPTIONS = ["headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking"]


@pytest.fixture
def browser() -> Iterator[webdriver.Chrome]:
    """A browser without a screen."""
    options = webdriver.ChromeOptions()
    for option in (*OPTIONS, "disable-component-update", "disable-sync", "window-size=1440,900", "hide-scrollbars"):
        options.add_argument(f"--{option}")
    chrome = webdriver.Chrome(options, webdriver.ChromeService("/usr/bin/chromedriver"))
    yield chrome
    chrome.quit()


def test_the_page_of_a_trace(phoenix: Phoenix, mlflow: MLflow, browser: webdriver.Chrome) -> None:
    pages = {}
    for tool in (phoenix, mlflow):
        trace_id = trace_of(run_example(tool))
        read_back(tool, trace_id, lambda trace: len(trace.spans) == 4 and trace.all_priced)
        pages[tool.name] = tool.page(trace_id)

    for name, page in pages.items():
        browser.get(page)
        _open_span(browser, "chat strong-1")
        browser.save_screenshot(str(ASSETS / f"trace-in-{name}.png"))


def _open_span(browser: webdriver.Chrome, name: str) -> None:
    browser.implicitly_wait(60)
    browser.find_element("xpath", f"//*[text()='{name}']")
    time.sleep(5)  # the page moves into its place, and then listens
    browser.find_element("xpath", f"//*[text()='{name}']").click()
    time.sleep(5)  # what it shows of a span loads last
