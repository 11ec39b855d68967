"""The real LiteLLM proxy, a process of its own, serving a pair by configuration; the real OpenAI client asks it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from support.fault_server import Answer, FaultServer, running

from duet_sdk import ToolCall

START_S = 120
CONFIG = {
    "model_list": [
        {"model_name": "sums", "litellm_params": {"model": "duet/default"}},
        {"model_name": "other", "litellm_params": {"model": "duet/other"}},
    ],
    "litellm_settings": {
        "custom_provider_map": [{"provider": "duet", "custom_handler": "duet_litellm.from_settings"}],
        "num_retries": 0,
        "telemetry": False,
    },
    "general_settings": {"master_key": "sk-test"},
}
ASKED: Any = [{"role": "user", "content": "How many primes are below 60?"}]
READ: Any = {"type": "function", "function": {"name": "read", "parameters": {"type": "object", "properties": {}}}}


def answer(body: dict[str, Any]) -> Answer:
    """The reasoner's answer or the generator's, by what the question says."""
    asked = str(body["messages"])
    if body["model"] == "strong":
        return Answer("17, by sieve.")
    if "stall" in asked:
        return Answer("one two three four", fault="stall_mid_stream")
    if "fail" in asked:
        return Answer(fault="rejected_400")
    return Answer("There are 17.", tool_calls=(ToolCall("1", "read", '{"name": "a"}'),))


@pytest.fixture(scope="module")
def server() -> Iterator[FaultServer]:
    with running(answer, models=["strong", "light"]) as started:
        yield started


@pytest.fixture(scope="module")
def client(server: FaultServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[openai.OpenAI]:
    folder = tmp_path_factory.mktemp("proxy")
    (folder / "config.yaml").write_text(json.dumps(CONFIG))
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "DUET_REASONER": f"vllm/strong@{server.url}",
        "DUET_GENERATOR": f"vllm/light@{server.url}",
        "DUET_PRICES": '{"vllm/strong": {"input_usd": "10", "output_usd": "100"}, "vllm/light": {"input_usd": "1", "output_usd": "2"}}',
        "DUET_RETRY__ATTEMPTS": "1",
        "DUET_ON_FAILURE": "raise",
    }
    command = [
        Path(sys.executable).parent / "litellm",
        "--config",
        "config.yaml",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        url = f"http://127.0.0.1:{port}"
        wait_until_ready(f"{url}/health/readiness", process, folder / "log")
        with openai.OpenAI(base_url=f"{url}/v1", api_key="sk-test", max_retries=0, timeout=30) as asking:
            yield asking
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(20)


def wait_until_ready(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + START_S
    while time.monotonic() < until and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    pytest.fail(f"the proxy did not start:\n{log.read_text()[-4000:]}")


def test_a_completion_has_answer_signal_usage_and_facts(client: openai.OpenAI):
    raw = client.chat.completions.with_raw_response.create(
        model="sums", messages=ASKED, extra_body={"duet": {"budget": {"signal_tokens": 64}, "session": "7"}}
    )
    response = raw.parse()
    message, usage = response.choices[0].message, response.usage
    assert message.content == "There are 17."
    assert message.model_extra is not None
    assert message.model_extra["reasoning_content"] == "17, by sieve."
    facts = message.model_extra["provider_specific_fields"]["duet"]
    assert (facts["served_by"], facts["signal"]["limit"]) == ("pair", 64)
    assert usage is not None
    assert usage.completion_tokens_details is not None
    assert (usage.completion_tokens, usage.completion_tokens_details.reasoning_tokens) == (3 + 3, 3)
    assert float(raw.headers["x-litellm-response-cost"]) == float(facts["cost"]["usd"]) > 0


def test_a_stream_brings_signal_then_text_then_usage(client: openai.OpenAI):
    stream = client.chat.completions.create(
        model="sums", messages=ASKED, stream=True, stream_options={"include_usage": True}
    )
    thought, text, usage = "", "", None
    for chunk in stream:
        for choice in chunk.choices:
            thought += (choice.delta.model_extra or {}).get("reasoning_content") or ""
            text += choice.delta.content or ""
        usage = chunk.usage or usage
    assert (thought, text) == ("17, by sieve.", "There are 17.")
    assert usage is not None
    assert usage.completion_tokens_details is not None
    assert (usage.completion_tokens, usage.completion_tokens_details.reasoning_tokens) == (3 + 3, 3)


def test_a_tool_turn_brings_its_signal_back(client: openai.OpenAI, server: FaultServer):
    first = client.chat.completions.create(model="sums", messages=ASKED, tools=[READ]).choices[0].message
    assert first.tool_calls
    turn = [
        first.model_dump(exclude_none=True),
        {"role": "tool", "tool_call_id": first.tool_calls[0].id, "content": "a"},
    ]
    before = len([call for call in server.calls if call["model"] == "strong"])
    client.chat.completions.create(model="sums", messages=[*ASKED, *turn], tools=[READ])
    assert len([call for call in server.calls if call["model"] == "strong"]) == before
    assert "17, by sieve." in str(server.calls[-1]["messages"])


def test_errors_have_their_status(client: openai.OpenAI):
    with pytest.raises(openai.BadRequestError, match="top_k"):
        client.chat.completions.create(model="sums", messages=[{"role": "user", "content": "fail"}])
    with pytest.raises(openai.NotFoundError, match="no pair is called 'other'"):
        client.chat.completions.create(model="other", messages=ASKED)


def test_a_client_cannot_say_which_tenant_it_is(client: openai.OpenAI):
    with pytest.raises(openai.BadRequestError, match=r"duet\.tenant"):
        client.chat.completions.create(model="sums", messages=ASKED, extra_body={"duet": {"tenant": "another"}})


def test_a_client_that_goes_away_ends_the_generator(client: openai.OpenAI, server: FaultServer):
    before = server.aborted
    stream = client.chat.completions.create(model="sums", messages=[{"role": "user", "content": "stall"}], stream=True)
    for chunk in stream:
        if chunk.choices and chunk.choices[0].delta.content:
            break
    stream.close()
    until = time.monotonic() + 20
    while server.aborted == before and time.monotonic() < until:
        time.sleep(0.05)
    assert server.aborted == before + 1
