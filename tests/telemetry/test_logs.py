"""Log records: the standard's module, one logger for each module, ids of traces, never content or keys."""

from __future__ import annotations

import ast
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

import duet_sdk
from duet_sdk import AsyncDuetClient
from duet_sdk.backends.scripted import Script, Scripted
from duet_sdk.errors import ConnectFailed, StreamBroken
from duet_sdk.policies import Retry
from duet_sdk.telemetry.logs import add_trace_ids

PACKAGE = Path(duet_sdk.__file__).parent
LOGGING = [path for path in sorted(PACKAGE.rglob("*.py")) if "getLogger(" in path.read_text(encoding="utf-8")]


@pytest.fixture
def ids() -> Iterator[None]:
    factory = logging.getLogRecordFactory()
    add_trace_ids()
    yield
    logging.setLogRecordFactory(factory)


async def failing(duet_log):
    error = ConnectFailed("refused", backend="scripted", model="lines")
    broken = Script(
        "walnut walnut", error=StreamBroken("cut", backend="scripted", model="lines", partial="x"), fail_after=1
    )
    async with AsyncDuetClient(
        Scripted(Script(error=error)), [Scripted(broken), Scripted("beech")], retry=Retry(attempts=1)
    ) as duet:
        with duet_log.at_level(logging.DEBUG, "duet_sdk"):
            await duet.chat("squirrel")
    return [record for record in duet_log.records if record.name.startswith("duet_sdk")]


@pytest.mark.usefixtures("ids")
async def test_records_of_a_request_have_its_trace_s_id(spans, caplog):
    records = await failing(caplog)
    assert len(records) >= 2
    assert {record.otelTraceID for record in records} == {format(spans.root.context.trace_id, "032x")}
    assert {record.otelTraceSampled for record in records} == {True}


@pytest.mark.usefixtures("ids")
def test_records_outside_of_a_trace_say_so(caplog):
    logging.getLogger("app").warning("x")
    assert (caplog.records[-1].otelTraceID, caplog.records[-1].otelSpanID) == ("0", "0")


async def test_the_library_changes_no_record_by_itself(spans, caplog):
    records = await failing(caplog)
    assert not [record for record in records if hasattr(record, "otelTraceID")]


async def test_no_record_holds_content(caplog):
    records = await failing(caplog)
    told = "".join(f"{record.getMessage()} {record.exc_info}" for record in records)
    assert not [word for word in ("squirrel", "walnut", "beech") if word in told]


def test_the_package_s_logger_has_a_handler_that_does_nothing():
    assert [type(handler) for handler in logging.getLogger("duet_sdk").handlers] == [logging.NullHandler]


OTHER_NAMES = {
    "duet_sdk/gateway/access_log.py": "LOG",  # operators send it elsewhere than what a module says
    "duet_sdk/cli/serve.py": "'duet_sdk.gateway'",  # all of the gateway's, to show them
}


@pytest.mark.parametrize("path", LOGGING, ids=lambda path: path.stem)
def test_every_module_logs_by_its_own_name_and_never_with_content_or_a_key(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    banned = {"text", "content", "messages", "prompt", "answer", "partial", "api_key", "headers", "secret", "body"}
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    # A library that says too much is told so by its own logger's name.
    hushed = [ast.unparse(call.func.value) for call in calls if ast.unparse(call.func).endswith(").setLevel")]
    for call in calls:
        function = ast.unparse(call.func)
        own = path != PACKAGE / "telemetry" / "logs.py" and ast.unparse(call) not in hushed
        if function.endswith("getLogger") and own:
            name = OTHER_NAMES.get(path.relative_to(PACKAGE.parent).as_posix(), "__name__")
            assert [ast.unparse(arg) for arg in call.args] == [name]
        if function.startswith("_log."):
            used = {node.attr for arg in call.args for node in ast.walk(arg) if isinstance(node, ast.Attribute)}
            used |= {node.id for arg in call.args for node in ast.walk(arg) if isinstance(node, ast.Name)}
            assert not used & banned
