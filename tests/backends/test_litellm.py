"""LiteLLM as a backend, against a scripted OpenAI-compatible server on loopback."""

import asyncio
import gc
import json
import re
import subprocess
import sys
import threading
from contextlib import aclosing
from decimal import Decimal
from importlib.util import find_spec

import pytest
from aiohttp import web
from support.provider_errors import MEANINGS, OVERFLOWS
from support.raw_server import answering

from duet_sdk import AsyncDuetClient, Message, Sampling
from duet_sdk.backends import Call
from duet_sdk.backends.connect import connect
from duet_sdk.backends.litellm.backend import LiteLLMBackend
from duet_sdk.endpoints import Endpoint
from duet_sdk.errors import (
    Authentication,
    BackendError,
    ConfigError,
    ConnectFailed,
    ContextOverflow,
    ModelNotFound,
    QuotaExceeded,
    RateLimited,
    Rejected,
    StreamBroken,
)
from duet_sdk.pricing import TokenPrice
from duet_sdk.reply import StageUsage
from duet_sdk.types import ImagePart, TextPart, ToolCall

pytestmark = [
    pytest.mark.skipif(find_spec("litellm") is None, reason="the extra 'litellm' is not installed"),
    # LiteLLM silences this warning about its own types when it is imported; pytest undoes that at every test.
    pytest.mark.filterwarnings("ignore:.*using the `ReadOnly` qualifier:UserWarning"),
    # LiteLLM lists the attributes of pydantic's models at every piece of a stream, and meets a deprecated one.
    pytest.mark.filterwarnings("ignore:Accessing the 'model_(computed_)?fields' attribute:DeprecationWarning"),
]

KEY = "sk-very-secret-4711"
QUESTION = (Message("user", "How many primes are below sixty?"),)
USAGE = {
    "prompt_tokens": 12,
    "completion_tokens": 7,
    "total_tokens": 19,
    "prompt_tokens_details": {"cached_tokens": 5},
    "completion_tokens_details": {"reasoning_tokens": 3},
}


ALIVE = {
    "comments": b": keep-alive\n\n",
    "empty deltas": b'data: {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "tiny", '
    b'"choices": [{"index": 0, "delta": {"content": ""}, "finish_reason": null}]}\n\n',
}


class Server:
    """Answers every chat completion with ``deltas``; runs in a thread, so that it outlives any event loop."""

    def __init__(self):
        self.requests, self.keys = [], []
        self.deltas, self.finish, self.usage = [{"content": "Seven"}, {"content": "teen."}], "stop", USAGE
        self.told_at_end = {}
        self.fail = None  # (status, body, headers)
        self.fault = None  # "stall", "hang", "cut", "end"
        self.gone = threading.Event()
        self.reached = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self.url = asyncio.run_coroutine_threadsafe(self._start(), self._loop).result()

    async def _start(self):
        app = web.Application()
        app.router.add_post("/v1/chat/completions", self._answer)
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        return f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}/v1"

    def close(self):
        asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _answer(self, request):
        body = await request.json()
        self.requests.append(body)
        self.keys.append(request.headers.get("Authorization"))
        try:
            if self.fault == "hang":
                self.reached.set()
                await asyncio.Event().wait()
            if self.fail:
                status, told, headers = self.fail
                return web.json_response(told, status=status, headers=headers)
            return await (self._stream(request, body) if body.get("stream") else self._whole(body))
        except (asyncio.CancelledError, ConnectionError):
            self.gone.set()
            raise

    async def _whole(self, body):
        message = {"role": "assistant", "content": ""}
        for delta in self.deltas:
            message |= {name: message.get(name, "") + text for name, text in delta.items() if isinstance(text, str)}
            message |= {name: value for name, value in delta.items() if not isinstance(value, str)}
        choices = [{"index": i, "message": message, "finish_reason": self.finish} for i in range(body.get("n") or 1)]
        told = {"id": "c1", "object": "chat.completion", "created": 1, "model": body["model"], "choices": choices}
        return web.json_response(told | ({"usage": self.usage} if self.usage else {}))

    async def _stream(self, request, body):
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        base = {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": body["model"]}
        for delta in self.deltas:
            chunk = base | {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]}
            await response.write(f"data: {json.dumps(chunk)}\n\n".encode())
        if self.fault == "stall":
            self.reached.set()
            await asyncio.Event().wait()
        while self.fault in ALIVE:
            await response.write(ALIVE[self.fault])
            await asyncio.sleep(0.05)
        if self.fault == "cut":
            request.transport.abort()
            return response
        if self.fault != "end":
            last = base | {"choices": [{"index": 0, "delta": {}, "finish_reason": self.finish}]} | self.told_at_end
            await response.write(f"data: {json.dumps(last)}\n\n".encode())
            if self.usage and (body.get("stream_options") or {}).get("include_usage"):
                await response.write(f"data: {json.dumps(base | {'choices': [], 'usage': self.usage})}\n\n".encode())
            await response.write(b"data: [DONE]\n\n")
        return response


@pytest.fixture
def server():
    made = Server()
    yield made
    made.close()


@pytest.fixture(params=["openai", "hosted_vllm"])
def provider(request):
    return request.param


@pytest.fixture
async def backend(server, provider):
    _, made = connect(Endpoint(model=f"litellm/{provider}/tiny", base_url=server.url, api_key=KEY))
    yield made
    await made.aclose()


async def collect(backend, call):
    async with aclosing(backend.stream(call)) as stream:
        return [chunk async for chunk in stream]


def text_of(chunks):
    return "".join(chunk.text for chunk in chunks)


def last_usage(chunks):
    return [chunk.usage for chunk in chunks if chunk.usage][-1]


@pytest.mark.parametrize("whole", [False, True])
async def test_an_answer_comes_with_its_end_and_its_usage(backend, server, whole):
    chunks = await collect(backend, Call(max_tokens=32, messages=QUESTION, whole=whole))
    assert text_of(chunks) == "Seventeen."
    assert [chunk.finish_reason for chunk in chunks if chunk.finish_reason] == ["stop"]
    assert last_usage(chunks) == StageUsage(input_tokens=12, output_tokens=7, cached_tokens=5, reasoning_tokens=3)
    [sent] = server.requests
    assert sent["max_tokens"] == 32
    assert bool(sent.get("stream")) is not whole
    assert sent["model"] == "tiny"
    assert server.keys == [f"Bearer {KEY}"]


async def test_a_stream_comes_piece_by_piece(backend):
    chunks = await collect(backend, Call(max_tokens=32, messages=QUESTION))
    assert [chunk.text for chunk in chunks if chunk.text] == ["Seven", "teen."]


async def test_usage_that_the_server_does_not_report_is_not_made_up(backend, server):
    server.usage = None
    chunks = await collect(backend, Call(max_tokens=32, messages=QUESTION))
    assert text_of(chunks) == "Seventeen."
    assert not any(chunk.usage for chunk in chunks)


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
async def test_thinking_is_told_apart_from_text(backend, server, field):
    server.deltas = [{field: "2, 3, 5"}, {field: " …"}, {"content": "17"}]
    chunks = await collect(backend, Call(max_tokens=32, messages=QUESTION))
    assert "".join(chunk.reasoning for chunk in chunks) == "2, 3, 5 …"
    assert text_of(chunks) == "17"


async def test_tool_calls_come_in_pieces(backend, server):
    tool = {"type": "function", "function": {"name": "sieve", "parameters": {"type": "object", "properties": {}}}}
    first = {"index": 0, "id": "t1", "type": "function", "function": {"name": "sieve", "arguments": '{"n"'}}
    server.deltas = [{"tool_calls": [first]}, {"tool_calls": [{"index": 0, "function": {"arguments": ": 60}"}}]}]
    server.finish = "tool_calls"
    call = Call(max_tokens=32, messages=QUESTION, tools=(tool,), tool_choice="required")
    chunks = await collect(backend, call)
    deltas = [delta for chunk in chunks for delta in chunk.tool_calls]
    assert deltas[0].id == "t1"
    assert deltas[0].name == "sieve"
    assert "".join(delta.arguments for delta in deltas) == '{"n": 60}'
    assert [chunk.finish_reason for chunk in chunks if chunk.finish_reason] == ["tool_calls"]
    assert server.requests[0]["tools"][0]["function"]["name"] == "sieve"
    assert server.requests[0]["tool_choice"] == "required"


async def test_what_shapes_the_output_reaches_the_server(backend, server):
    sampling = Sampling(
        temperature=0.5, top_p=0.9, top_k=40, min_p=0.1, seed=7, stop=("END",), logprobs=2, extra_body={"priority": 3}
    )
    shape = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object", "properties": {}}}}
    await collect(backend, Call(max_tokens=32, messages=QUESTION, sampling=sampling, response_format=shape))
    [sent] = server.requests
    wanted = {"temperature": 0.5, "top_p": 0.9, "top_k": 40, "min_p": 0.1, "seed": 7, "stop": ["END"], "priority": 3}
    assert {name: sent.get(name) for name in wanted} == wanted
    assert (sent["logprobs"], sent["top_logprobs"]) == (True, 2)
    assert sent["response_format"]["type"] == "json_schema"


async def test_messages_of_every_kind_reach_the_server(backend, server):
    messages = (
        Message("system", "Be brief."),
        Message("user", (TextPart("What is this?"), ImagePart("data:image/png;base64,AAAA", "low"))),
        Message("assistant", "", (ToolCall("t1", "look", '{"at": 1}'),)),
        Message("tool", "a prime", tool_call_id="t1"),
    )
    await collect(backend, Call(max_tokens=8, messages=messages))
    sent = server.requests[0]["messages"]
    assert [message["role"] for message in sent] == ["system", "user", "assistant", "tool"]
    assert sent[1]["content"][1]["image_url"] == {"url": "data:image/png;base64,AAAA", "detail": "low"}
    assert sent[2]["tool_calls"][0]["function"] == {"name": "look", "arguments": '{"at": 1}'}
    assert sent[3]["tool_call_id"] == "t1"


async def test_several_outputs_are_told_apart(backend):
    chunks = await collect(backend, Call(max_tokens=8, messages=QUESTION, n=3))
    assert [(chunk.index, chunk.text) for chunk in chunks if chunk.text] == [(i, "Seventeen.") for i in range(3)]
    assert [chunk.index for chunk in chunks if chunk.finish_reason] == [0, 1, 2]


async def test_vllm_is_told_to_leave_thinking_out(server):
    backend = LiteLLMBackend("hosted_vllm/tiny", base_url=server.url)
    await collect(backend, Call(max_tokens=8, messages=QUESTION, thinking=False))
    assert server.requests[0]["chat_template_kwargs"] == {"enable_thinking": False}
    await backend.aclose()


@pytest.mark.parametrize(("model", "effort"), [("gpt-5.1", "none"), ("gpt-5", "minimal"), ("gpt-4o-mini", None)])
async def test_thinking_is_kept_short_where_the_model_thinks(server, model, effort):
    backend = LiteLLMBackend(f"openai/{model}", base_url=server.url, api_key=secret(KEY))
    assert (await backend.connect()).switch_thinking is (effort == "none")
    await collect(backend, Call(max_tokens=32, messages=QUESTION, thinking=False))
    assert server.requests[0].get("reasoning_effort") == effort
    await backend.aclose()


@pytest.mark.parametrize("provider", ["openai"])  # hosted_vllm leaves it out
async def test_usage_that_stands_elsewhere_is_read_without_a_cost(backend, server):
    server.usage, server.told_at_end = None, {"x_groq": {"id": "r", "usage": USAGE}}
    (chunk,) = [c for c in await collect(backend, Call(max_tokens=32, messages=QUESTION)) if c.usage]
    assert (chunk.usage.input_tokens, chunk.usage.output_tokens, chunk.cost_usd) == (12, 7, None)


@pytest.mark.parametrize("whole", [False, True])
async def test_the_cost_is_what_litellm_makes_of_the_usage(server, whole):
    backend = LiteLLMBackend("openai/gpt-4o-mini", base_url=server.url, api_key=secret(KEY))
    chunks = await collect(backend, Call(max_tokens=32, messages=QUESTION, whole=whole))
    # 7 input tokens at 0.15, 5 cached ones at 0.075, 7 output tokens at 0.60 USD a million
    assert [chunk.cost_usd for chunk in chunks if chunk.cost_usd] == [pytest.approx(Decimal("0.000005625"))]
    assert backend.price == TokenPrice("0.15", "0.6", "0.075")
    await backend.aclose()


async def test_a_model_without_a_listed_price_has_no_cost(backend):
    chunks = await collect(backend, Call(max_tokens=32, messages=QUESTION))
    assert backend.price is None
    assert [chunk.cost_usd for chunk in chunks if chunk.cost_usd is not None] == []


async def test_a_price_given_goes_before_litellms(server):
    price = TokenPrice("1", "2")
    backend = LiteLLMBackend("openai/gpt-4o-mini", base_url=server.url, api_key=secret(KEY), price=price)
    chunks = await collect(backend, Call(max_tokens=32, messages=QUESTION))
    assert backend.price == price
    assert not any(chunk.cost_usd for chunk in chunks)
    await backend.aclose()


async def test_a_listed_model_has_the_abilities_that_the_list_says():
    can = await LiteLLMBackend("openai/gpt-3.5-turbo").connect()
    assert (can.context_tokens, can.tools, can.images, can.prompt_ids) == (16385, True, False, False)


async def test_an_unknown_model_may_have_every_ability(backend):
    can = await backend.connect()
    assert can.context_tokens is None
    assert (can.tools, can.response_format, can.images, can.logprobs) == (True, True, True, True)


async def test_a_window_given_goes_before_the_list():
    assert (await LiteLLMBackend("openai/gpt-4o-mini", context_tokens=4096).connect()).context_tokens == 4096


@pytest.mark.parametrize(
    ("status", "kind", "retryable"),
    [
        (400, Rejected, False),
        (401, Authentication, False),
        (403, Authentication, False),
        (404, ModelNotFound, False),
        (422, Rejected, False),
        (425, RateLimited, True),
        (429, RateLimited, True),
        (500, BackendError, True),
        (501, BackendError, False),
        (502, BackendError, True),
        (503, BackendError, True),
    ],
)
@pytest.mark.parametrize("whole", [False, True])
async def test_a_refusal_becomes_an_error_of_ours(backend, server, status, kind, retryable, whole):
    server.fail = (status, {"error": {"message": f"no: {QUESTION[0].text} {KEY} " + "x" * 900}}, {})
    with pytest.raises(BackendError) as caught:
        await collect(backend, Call(max_tokens=8, messages=QUESTION, whole=whole))
    error = caught.value
    assert type(error) is kind
    assert (error.status, error.retryable) == (status, retryable)
    assert (error.backend, error.model) == ("litellm", backend.model)
    assert "no: … *** …" in str(error)
    assert KEY not in str(error)
    assert len(str(error)) < 420
    assert error.__cause__ is None
    assert len(server.requests) == 1  # no retries of LiteLLM's own


async def test_a_part_of_the_prompt_is_not_quoted_either(backend, server):
    server.fail = (400, {"error": {"message": f"cannot read {QUESTION[0].text[:20]!r}... at 20"}}, {})
    with pytest.raises(Rejected) as caught:
        await collect(backend, Call(max_tokens=8, messages=QUESTION))
    assert re.search(r"cannot read '… ?'... at 20", str(caught.value))
    assert "primes" not in str(caught.value)


async def test_the_wait_that_a_server_asks_for_is_passed_on(backend, server):
    server.fail = (429, {"error": {"message": "slow down"}}, {"Retry-After": "7"})
    with pytest.raises(RateLimited, match="it asks to retry after 7 s") as caught:
        await collect(backend, Call(max_tokens=8, messages=QUESTION))
    assert caught.value.retry_after == 7


async def test_the_wait_may_be_a_date(backend, server):
    server.fail = (429, {"error": {"message": "slow down"}}, {"Retry-After": "Fri, 01 Jan 2100 00:00:00 GMT"})
    with pytest.raises(RateLimited) as caught:
        await collect(backend, Call(max_tokens=8, messages=QUESTION))
    assert caught.value.retry_after > 86_400


async def test_a_quota_that_is_used_up_is_not_worth_a_retry(backend, server):
    server.fail = (429, {"error": {"message": "You exceeded your quota", "code": "insufficient_quota"}}, {})
    with pytest.raises(RateLimited) as caught:
        await collect(backend, Call(max_tokens=8, messages=QUESTION))
    assert not caught.value.retryable


async def test_an_overflow_says_its_numbers(backend, server):
    told = (
        "This model's maximum context length is 2048 tokens. However, you requested 9000 tokens "
        "(8000 in the messages, 1000 in the completion). Please reduce the length of the messages or completion."
    )
    server.fail = (400, {"error": {"message": told, "code": "context_length_exceeded"}}, {})
    with pytest.raises(ContextOverflow) as caught:
        await collect(backend, Call(max_tokens=8, messages=QUESTION))
    assert (caught.value.context_tokens, caught.value.needed_tokens) == (2048, 9000)


async def test_an_error_means_the_same_through_litellm(backend, server):
    rows = [(who, status, body, ContextOverflow) for who, status, body, *_ in OVERFLOWS]
    # Its address is the provider's: where nothing is found, it is the model.
    kinds = {ConnectFailed: ModelNotFound}
    rows += [(who, status, body, kinds.get(kind, kind)) for who, status, body, kind, _ in MEANINGS]
    other = {}
    for who, status, body, kind in rows:
        server.fail = (status, body, {})
        with pytest.raises((BackendError, ContextOverflow)) as caught:
            await collect(backend, Call(max_tokens=16, messages=QUESTION, whole=True))
        if type(caught.value) is not kind:
            other[who] = type(caught.value)
    assert other == {}


async def test_a_parameter_that_the_provider_does_not_take_is_refused_not_dropped():
    backend = LiteLLMBackend("anthropic/claude-sonnet-4-5", api_key=secret(KEY), base_url="http://127.0.0.1:9")
    with pytest.raises(Rejected, match="logprobs"):
        await collect(backend, Call(max_tokens=8, messages=QUESTION, sampling=Sampling(logprobs=0)))


async def test_a_server_that_is_not_there(provider):
    backend = LiteLLMBackend(f"{provider}/tiny", base_url="http://127.0.0.1:9/v1", api_key=secret(KEY))
    with pytest.raises(ConnectFailed) as caught:
        await collect(backend, Call(max_tokens=8, messages=QUESTION))
    assert (caught.value.status, caught.value.retryable) == (None, True)
    await backend.aclose()


async def test_a_server_that_stays_silent(server, provider):
    server.fault = "hang"
    backend = LiteLLMBackend(f"{provider}/tiny", base_url=server.url, api_key=secret(KEY), timeout_s=0.2)
    with pytest.raises(ConnectFailed):
        await collect(backend, Call(max_tokens=8, messages=QUESTION))
    await backend.aclose()


@pytest.mark.parametrize("fault", ["cut", "end"])
async def test_a_stream_that_breaks_off_keeps_what_was_written(backend, server, fault):
    server.fault = fault
    with pytest.raises(StreamBroken) as caught:
        await collect(backend, Call(max_tokens=8, messages=QUESTION))
    assert caught.value.partial == "Seventeen."


@pytest.mark.parametrize("fault", ALIVE)
async def test_a_stream_that_is_only_kept_alive_ends_after_timeout_s(server, provider, fault):
    server.fault = fault
    backend = LiteLLMBackend(f"{provider}/tiny", base_url=server.url, api_key=secret(KEY), timeout_s=1.0)
    with pytest.raises(StreamBroken, match="nothing more arrived within timeout_s") as caught:
        await collect(backend, Call(max_tokens=8, messages=QUESTION))
    assert caught.value.partial == "Seventeen."
    await backend.aclose()


async def test_closing_the_stream_closes_the_connection(backend, server):
    server.fault = "stall"
    async with aclosing(backend.stream(Call(max_tokens=8, messages=QUESTION))) as stream:
        async for chunk in stream:
            if chunk.text:
                break
        assert not server.gone.is_set()
    assert await asyncio.to_thread(server.gone.wait, 5)


@pytest.mark.parametrize("fault", ["hang", "stall"])
@pytest.mark.parametrize("whole", [False, True])
async def test_cancelling_closes_the_connection(backend, server, fault, whole):
    server.fault = "hang" if whole else fault
    task = asyncio.create_task(collect(backend, Call(max_tokens=8, messages=QUESTION, whole=whole)))
    assert await asyncio.to_thread(server.reached.wait, 30)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await asyncio.to_thread(server.gone.wait, 5)


def test_two_event_loops_one_after_the_other(server, provider):
    async def ask():
        model = connect(Endpoint(model=f"litellm/{provider}/tiny", base_url=server.url, api_key=KEY))[1]
        async with AsyncDuetClient(model, model) as duet:
            return (await duet.chat("How many primes are below 60?")).text

    assert [asyncio.run(ask()) for _ in range(3)] == ["Seventeen."] * 3


async def test_closing_one_backend_leaves_the_calls_of_another_alone(server, provider):
    first, second = (LiteLLMBackend(f"{provider}/tiny", base_url=server.url, api_key=secret(KEY)) for _ in range(2))
    await collect(first, Call(max_tokens=8, messages=QUESTION))
    async with aclosing(second.stream(Call(max_tokens=8, messages=QUESTION))) as stream:
        assert (await anext(stream)).text == "Seven"
        await first.aclose()
        assert text_of([chunk async for chunk in stream]) == "teen."
    await second.aclose()
    await second.aclose()
    assert text_of(await collect(first, Call(max_tokens=8, messages=QUESTION))) == "Seventeen."
    await first.aclose()


# A client each: the OpenAI SDK's; LiteLLM's own handler, called at once, and with the first step of a stream.
REDIRECTED = ["openai/m", "hosted_vllm/m", "anthropic/claude-sonnet-4-5", "ollama_chat/m"]


@pytest.fixture
async def redirecting():
    """A server that sends everything elsewhere; its URL, and what was sent there."""
    arrived = []

    async def far(request):
        arrived.append(await request.text())
        return web.json_response(FAR)

    async def near(request):
        return web.Response(status=307, headers={"Location": f"{urls[0]}{request.path_qs}"})

    urls, runners = [], []
    for handler in (far, near):
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", handler)
        runners.append(web.AppRunner(app))
        await runners[-1].setup()
        site = web.TCPSite(runners[-1], "127.0.0.1", 0)
        await site.start()
        urls.append(f"http://localhost:{site._server.sockets[0].getsockname()[1]}")
    yield f"{urls[1]}/v1", arrived
    for runner in runners:
        await runner.cleanup()


FAR = {
    "id": "c1",
    "object": "chat.completion",
    "created": 1,
    "model": "m",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "far"}, "finish_reason": "stop"}],
}


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("transport", ["aiohttp", "httpx"])
@pytest.mark.parametrize("model", REDIRECTED)
async def test_a_redirect_is_refused_whatever_client_litellm_sends_with(
    redirecting, monkeypatch, model, transport, whole
):
    import litellm

    monkeypatch.setattr(litellm, "disable_aiohttp_transport", transport == "httpx")
    monkeypatch.setattr(litellm, "in_memory_llm_clients_cache", type(litellm.in_memory_llm_clients_cache)())
    url, arrived = redirecting
    backend = LiteLLMBackend(model, base_url=url, api_key=secret(KEY))
    with pytest.raises(ConnectFailed, match=r"responds with a redirect \(307\), which is not followed") as refused:
        await collect(backend, Call(max_tokens=8, messages=QUESTION, whole=whole))
    assert not refused.value.retryable
    assert arrived == []
    await backend.aclose()
    del refused  # holds the answer that LiteLLM left open
    for client in litellm.in_memory_llm_clients_cache.cache_dict.values():
        await client.close()
    gc.collect()
    await asyncio.sleep(0)  # transports close in the loop's next turn


async def test_the_users_own_calls_of_litellm_are_redirected_as_before(redirecting):
    url, arrived = redirecting
    backend = LiteLLMBackend("openai/m", base_url=url, api_key=secret(KEY))
    with pytest.raises(ConnectFailed, match="redirect"):
        await collect(backend, Call(max_tokens=8, messages=QUESTION))
    import litellm

    answer = await litellm.acompletion(
        "openai/m", [{"role": "user", "content": "mine"}], base_url=url, api_key=KEY, max_retries=0
    )
    assert answer.choices[0].message.content == "far"
    assert len(arrived) == 1
    await backend.aclose()


def test_the_one_client_that_cannot_be_kept_from_redirects_is_refused():
    with pytest.raises(ConfigError, match="follows redirects"):
        connect("litellm/aiohttp_openai/m")


def test_the_key_is_in_no_representation(server):
    _, backend = connect(Endpoint(model="litellm/openai/tiny", base_url=server.url, api_key=KEY))
    assert KEY not in repr(backend) + repr(vars(backend))


@pytest.mark.parametrize(
    ("options", "boundary"),
    [({}, "any"), ({"base_url": "http://localhost:1/v1"}, "local"), ({"base_url": "https://eu.example"}, "any")],
)
def test_a_loopback_address_is_local(options, boundary):
    assert LiteLLMBackend("openai/tiny", **options).boundary == boundary
    assert LiteLLMBackend("openai/tiny", boundary="eu", **options).boundary == "eu"


async def test_prompts_of_openais_models_are_counted_by_their_tokenizer():
    """A ledger holds what a prompt costs: a bound of a token a byte would refuse four requests of five."""
    long = (Message("user", "word " * 1000),)
    counted = await LiteLLMBackend("openai/gpt-4o-mini").count_tokens(long)
    assert counted is not None
    assert 1000 <= counted <= 1020  # a token a word, and some for the turn


@pytest.mark.parametrize("model", ["openai/house-model", "anthropic/claude-sonnet-4-5"])
async def test_prompts_of_other_models_are_not_counted(model):
    assert await LiteLLMBackend(model).count_tokens(QUESTION) is None


async def test_prompts_with_tools_or_calls_are_not_counted():
    backend = LiteLLMBackend("openai/gpt-4o-mini")
    calls = (*QUESTION, Message("assistant", tool_calls=(ToolCall("c1", "look", "{}"),)))
    assert await backend.count_tokens(QUESTION, tools=[{"type": "function", "function": {"name": "look"}}]) is None
    assert await backend.count_tokens(calls) is None


@pytest.mark.parametrize("options", [{"colour": 1}, {"base_url": 1}, {"api_key": 1}, {"context_tokens": True}])
def test_an_option_that_cannot_be_used_is_named(options):
    from duet_sdk.backends.litellm.backend import connect as connect_litellm

    with pytest.raises(ConfigError, match=next(iter(options))):
        connect_litellm("openai/tiny", options)


async def test_a_provider_that_nobody_knows_is_named(capsys):
    with pytest.raises(ConfigError, match="nonsense/tiny"):
        await LiteLLMBackend("nonsense/tiny").connect()
    assert capsys.readouterr().out == ""


def test_litellm_is_imported_on_use_only():
    code = (
        "import sys; from duet_sdk.backends.connect import connect; connect('litellm/openai/tiny'); "
        "assert 'litellm' not in sys.modules and 'duet_sdk.backends.litellm.backend' in sys.modules"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


def secret(key):
    from pydantic import SecretStr

    return SecretStr(key)


@pytest.mark.parametrize(
    ("sent", "whole", "kind", "status"),
    [
        ({"error": {"code": 429, "message": "slow down"}}, False, RateLimited, 429),
        ({"error": {"code": "insufficient_quota", "message": "x"}}, False, QuotaExceeded, None),
        ({"error": {"code": "insufficient_quota", "message": "x"}}, True, QuotaExceeded, None),
        ({"error": "no eggs"}, False, BackendError, 500),
        ({"error": "no eggs"}, True, BackendError, 500),
    ],
)
async def test_an_error_with_status_200_means_what_it_says(sent, whole, kind, status):
    async with answering(lambda asked: [sent] if asked.get("stream") else sent) as url:
        backend = LiteLLMBackend("openai/tiny", base_url=url, api_key=secret(KEY))
        with pytest.raises(kind) as failed:
            async with aclosing(
                backend.stream(Call(messages=(Message("user", "q"),), max_tokens=8, whole=whole))
            ) as chunks:
                async for _ in chunks:
                    pass
        await backend.aclose()
    assert (type(failed.value), failed.value.status) == (kind, status)
    assert f"litellm/openai/tiny at {url}" in str(failed.value)
