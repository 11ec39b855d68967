"""The table in docs/reference/faults.md, cell by cell: each is read from the page, and the fault is made to happen."""

import asyncio
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from support.certificates import self_signed
from support.fault_server import FAULTS, Answer, FaultServer

from duet_sdk import AsyncDuetClient, Budget
from duet_sdk.backends.scripted import Scripted
from duet_sdk.backends.server.backend import VllmBackend
from duet_sdk.errors import DuetError
from duet_sdk.events import AnswerDelta
from duet_sdk.policies import Retry

PAGE = Path(__file__).parents[1] / "docs" / "reference" / "faults.md"
WRITTEN = "one two. three four five six"
CLIENT_SIDE = ("refused", "tls", "untrusted")


def rows():
    """Fault → the cells of its row."""
    lines = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {cells[0].strip("`"): cells[2:] for cells in table}


@asynccontextmanager
async def backend_with(fault):
    answer = Answer(WRITTEN, fault=None if fault in CLIENT_SIDE else fault, fault_after=3)
    async with FaultServer(answer, tls=self_signed() if fault == "untrusted" else None) as server:
        url = server.url.replace("http:", "https:") if fault == "tls" else server.url
        if fault == "refused":
            await server.stop()
        backend = VllmBackend("m", base_url=url, read_s=0.3, connect_s=2)
        yield backend
        await backend.aclose()
        if fault != "refused":
            await server.until_idle()
            assert server.open == 0


async def outcome(backend, stage, *, whole):
    """What the caller gets, in the words of the table."""
    good = Scripted("fine answer")
    pair = (backend, good) if stage == "reasoner" else (good, backend)
    budget = Budget(signal_tokens=16, answer_tokens=16, deadline_s=10)
    shown = ""
    async with AsyncDuetClient(*pair, retry=Retry(attempts=1)) as duet:
        try:
            if whole:
                reply = await duet.chat("q", budget=budget)
            else:
                async with duet.stream("q", budget=budget) as run:
                    async for event in run:
                        shown += event.text if isinstance(event, AnswerDelta) else ""
                reply = run.reply
        except DuetError as error:
            partial = getattr(error, "partial", "")
            assert partial == shown or whole
            return f"raises `{type(error).__name__}`" + (" with the partial text" if partial else "")
    told = [f"`{reply.served_by}`"]
    if reply.finish_reason == "length":
        told.append("cut at its limit")
    if not reply.signal.honoured:
        told.append("`honoured=False`")
    if getattr(reply.usage, stage).estimated and reply.served_by.startswith("pair"):
        told.append("usage estimated")
    return ", ".join(told)


def test_the_table_names_every_fault():
    assert set(rows()) == {*FAULTS, *CLIENT_SIDE}


@pytest.mark.parametrize("fault", [*FAULTS, *CLIENT_SIDE])
@pytest.mark.parametrize(
    ("column", "stage", "whole"), [(0, "reasoner", True), (1, "generator", True), (2, "generator", False)]
)
async def test_a_fault_gives_what_the_table_says(fault, column, stage, whole):
    async with asyncio.timeout(30), backend_with(fault) as backend:
        assert await outcome(backend, stage, whole=whole) == rows()[fault][column]
