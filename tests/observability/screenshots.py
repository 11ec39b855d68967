"""The pictures of the documentation, taken anew. Not a part of the suite:

    .venv/bin/python -m pip install selenium
    make test-observability ARGS="-o python_files=screenshots.py"

It needs Debian's chromium and chromium-driver. Look at what it wrote before it is committed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from opentelemetry.sdk.trace import TracerProvider
from tools import MLflow, Phoenix, read_back
from traffic import ANSWER, PRICES, QUESTION, SIGNAL

from duet_sdk import AsyncDuetClient, Budget
from duet_sdk.backends.scripted import Script, Scripted
from duet_sdk.budget import MemoryLedger

webdriver = pytest.importorskip("selenium.webdriver")

ASSETS = Path(__file__).resolve().parents[2] / "docs" / "assets"
OPTIONS = ["headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking"]


@pytest.fixture
def browser() -> Iterator[webdriver.Chrome]:
    """A browser without a screen."""
    options = webdriver.ChromeOptions()
    for option in (*OPTIONS, "disable-component-update", "disable-sync", "window-size=1440,760", "hide-scrollbars"):
        options.add_argument(f"--{option}")
    chrome = webdriver.Chrome(options, webdriver.ChromeService("/usr/bin/chromedriver"))
    yield chrome
    chrome.quit()


async def test_the_page_of_a_trace(
    phoenix: Phoenix, mlflow: MLflow, export_to: Callable[..., TracerProvider], browser: webdriver.Chrome
) -> None:
    provider, ledger = export_to(phoenix, mlflow), MemoryLedger()
    strong = Scripted(Script(SIGNAL, billed=411, token_s=0.08), model="strong-1")
    light = Scripted(Script(ANSWER, billed=186, token_s=0.04), model="light-1")
    dialects = ["openinference", "mlflow"]
    async with AsyncDuetClient(strong, light, prices=PRICES, ledger=ledger, trace_dialects=dialects) as duet:
        await duet.chat(QUESTION, budget=Budget(signal_tokens=768), session="demo")
    provider.force_flush()
    trace_id = (await ledger.entries())[0].facts.trace_id
    for tool in (phoenix, mlflow):
        read_back(tool, trace_id, lambda trace: len(trace.spans) == 4 and trace.all_priced)

    browser.get(phoenix.page(trace_id))
    _open_span(browser, "chat strong-1")
    browser.save_screenshot(str(ASSETS / "trace-in-phoenix.png"))

    browser.get(mlflow.page(trace_id))
    # Its assistant opens by itself, over the page, once.
    browser.execute_script("localStorage.setItem('mlflow.assistant.panelOpen_v1', 'false')")
    browser.refresh()
    _open_span(browser, "chat strong-1")
    browser.save_screenshot(str(ASSETS / "trace-in-mlflow.png"))


def _open_span(browser: webdriver.Chrome, name: str) -> None:
    browser.implicitly_wait(60)
    browser.find_element("xpath", f"//*[text()='{name}']").click()
    time.sleep(5)  # what the page shows of a span loads last, and moves into its place
