"""Errors in every form that servers and proxies give them: found, shown within bounds, and without secrets."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager

import pytest
from aiohttp import web
from hypothesis import given, settings
from hypothesis import strategies as st

from duet_sdk import AsyncDuetClient, Endpoint, Message
from duet_sdk.backends import Call
from duet_sdk.backends.failures import Failures
from duet_sdk.backends.refusals import Refusal, error_within, parsed
from duet_sdk.backends.server.backend import VllmBackend
from duet_sdk.errors import (
    BackendError,
    ContentFiltered,
    ContextOverflow,
    DuetError,
    QuotaExceeded,
    RateLimited,
    Rejected,
    StreamBroken,
)
from duet_sdk.policies import Retry

KEY = "sk-not-real-abcdef1234567890"
PROMPT = "My grandmother's secret recipe takes eleven eggs and no flour at all."
OF = Failures(backend="vllm", model="m", url="http://x/v1", secrets=(KEY,))
SENT = {"messages": [{"role": "user", "content": PROMPT}], "max_tokens": 16}
EMPTY = "insufficient_quota"

FORMS = [
    # the body, words that are shown
    ({"error": {"message": "no eggs", "code": EMPTY}}, "no eggs"),
    ({"error": {"error": {"message": "no eggs", "type": EMPTY}}}, "no eggs"),
    ([{"error": {"message": "no eggs", "status": EMPTY}}], "no eggs"),
    ({"errors": [{"message": "no eggs", "code": EMPTY}, {"message": "no milk"}]}, "no eggs; no milk"),
    ({"errors": ["no eggs", "no milk"], "code": EMPTY}, "no eggs; no milk"),
    ({"error": "no eggs", "code": EMPTY}, "no eggs"),
    ({"error": EMPTY, "message": "no eggs"}, "no eggs"),
    (
        {"error": "Payment Required", "message": "no eggs", "statusCode": 402, "code": EMPTY},
        "no eggs; Payment Required",
    ),
    ({"detail": "no eggs", "code": EMPTY}, "no eggs"),
    ({"detail": {"message": "no eggs", "code": EMPTY}}, "no eggs"),
    ({"detail": {"error": {"message": "no eggs", "code": EMPTY}}}, "no eggs"),
    (
        {"detail": [{"loc": ["body", "x", 0], "msg": "no eggs", "type": EMPTY, "input": PROMPT}], "code": EMPTY},
        "body.x.0: no eggs",
    ),
    ({"code": EMPTY, "msg": "no eggs"}, "no eggs"),
    ({"base_resp": {"status_code": 1008, "status_msg": "no eggs"}}, "no eggs"),
    ({"type": f"https://x.test/errors/{EMPTY}", "title": "Quota", "status": 429, "detail": "no eggs"}, "no eggs"),
    ({"type": f"https://x.test/errors/{EMPTY}/", "title": "no eggs", "status": 429}, "no eggs"),
    (json.dumps({"error": {"message": "no eggs", "code": EMPTY}}), "no eggs"),
    ({"error": {"message": json.dumps({"error": {"message": "no eggs", "code": EMPTY}}), "code": 429}}, "no eggs"),
    (
        {"error": {"message": "of a provider: " + json.dumps({"error": {"message": "no eggs", "code": EMPTY}})}},
        "no eggs",
    ),
    (
        {
            "error": {
                "code": 429,
                "message": "Provider returned error",
                "metadata": {"raw": json.dumps({"error": {"message": "no eggs", "code": EMPTY}})},
            }
        },
        "Provider returned error; no eggs",
    ),
    ({"error": {"code": EMPTY, "message": None, "innererror": {"message": "no eggs"}}}, "no eggs"),
    ({"message": "no eggs", "__type": f"com.amazon.coral#{EMPTY}"}, "no eggs"),
    ({"Error": {"Code": "x", "code": EMPTY, "message": "no eggs"}}, "no eggs"),
    ({"success": False, "errors": [{"code": 5021, "message": "no eggs", "type": EMPTY}]}, "no eggs"),
]


@pytest.mark.parametrize(("body", "words"), FORMS)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_an_error_is_found_in_every_form(body, words, encoding):
    error = OF.status(429, {}, json.dumps(body).encode(encoding), SENT)
    assert type(error) is QuotaExceeded
    assert str(error).endswith(f"(429): {words}")


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", ""),
        (b"  \n", ""),
        (b"null", ""),
        (b"[]", ""),
        (b"{}", ""),
        (b"17", ""),
        (b"[[[1]]]", ""),
        (b'{"error": null}', ""),
        (b"upstream connect error", ": upstream connect error"),
        (b"caf\xe9 is closed", ": caf\ufffd is closed"),
        (b'"no eggs"', ": no eggs"),
        (b'{"error": {"message": "no eggs, and what is more', ": no eggs, and what is more"),
        (b'{"error": {"message": "no eggs", "code": 5', ": no eggs"),
        (b'data: {"error": {"message": "no eggs"}}\n\ndata: [DONE]\n\n', ": no eggs"),
        (b'event: error\ndata: {"code": 1, "msg": "no eggs"}\n\n', ": no eggs"),
        (b"<html><head><title>502 Bad Gateway</title></head><body>nginx</body></html>", ": 502 Bad Gateway"),
        (b"<!DOCTYPE html>\n<html lang='en'><title>\n  Attention\n Required! </title>", ": Attention Required!"),
        (b"<html><h1>It works!</h1></html>", ""),
        (b"<?xml version='1.0'?><Error><Code>Closed</Code><Message>no eggs</Message></Error>", ": no eggs"),
        (b'{"error":' * 100_000, None),
        (b"[" * 100_000, None),
        (b'{"a":' * 50 + b'{"error": "x"}' + b"}" * 50, ""),
        (b'{"error": {"message": "' + b"no eggs " * 100_000 + b'"}}', None),
        (b'{"message": "\\ud800 no eggs"}', ": ? no eggs"),
    ],
)
def test_whatever_a_body_is_its_words_are_shown_within_bounds(body, words):
    error = OF.status(503, {}, body, SENT)
    assert type(error) is BackendError
    assert error.retryable
    shown = str(error).removeprefix("vllm/m at http://x/v1 is overloaded (503)")
    assert len(shown) <= 302
    assert words is None or shown == words
    str(error).encode()


ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=30)
    | st.sampled_from(
        [KEY, PROMPT, "error", "context length 128,000", "insufficient_quota", "retry in 5s", "\ud800", "\x1b[2J"]
    ),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.text(max_size=8)
            | st.sampled_from(
                [
                    "error",
                    "errors",
                    "message",
                    "msg",
                    "detail",
                    "code",
                    "type",
                    "status",
                    "base_resp",
                    "metadata",
                    "raw",
                    "loc",
                    "retryDelay",
                    "retry_after",
                    "n_ctx",
                    "n_prompt_tokens",
                    "status_code",
                    "title",
                    "choices",
                    "seconds",
                ]
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=30,
)
BODIES = (
    ANYTHING.map(lambda value: json.dumps(value).encode())
    | st.binary(max_size=200)
    | st.text(max_size=200).map(lambda text: text.encode("utf-8", "surrogatepass"))
    | st.builds(lambda value, at: json.dumps(value).encode()[:at], ANYTHING, st.integers(0, 300))
)
HEADERS = st.dictionaries(
    st.sampled_from(
        ["Retry-After", "retry-after-ms", "x-ratelimit-reset", "x-ratelimit-remaining", "X-Amzn-ErrorType"]
    ),
    st.text(max_size=30) | st.sampled_from(["0", "7", "99999999999999999999", "1e9", "6m0s", "2099-01-01T00:00:00Z"]),
)


def check(error):
    assert isinstance(error, DuetError)
    assert len(str(error)) < 560
    for secret in (KEY, PROMPT):
        assert not any(secret[at : at + 16] in str(error) for at in range(len(secret) - 15))
    wait = getattr(error, "retry_after", None)
    assert wait is None or 0 <= wait < float("inf")
    if isinstance(error, ContextOverflow):
        assert 0 <= error.needed_tokens < 10**13
        assert 0 <= error.context_tokens < 10**13


@given(status=st.integers(300, 599), body=BODIES, headers=HEADERS)
@settings(max_examples=400, deadline=None)
def test_only_errors_of_ours_come_of_any_refusal(status, body, headers):
    check(OF.status(status, headers, body, SENT))


@given(error=ANYTHING, begun=st.booleans())
@settings(max_examples=400, deadline=None)
def test_only_errors_of_ours_come_of_any_error_in_an_answer(error, begun):
    check(OF.event(error, SENT, begun=begun))
    error_within(error)


@given(BODIES)
@settings(max_examples=200, deadline=None)
def test_an_error_is_read_alike_however_it_came(body):
    assert Refusal.of(429, parsed(body)).words == Refusal.of_body(429, {}, body).words


@asynccontextmanager
async def answering(body, *, status=200, kind="application/json", headers=()):
    """A backend whose server answers every completion so; ``asked`` of it counts them."""
    asked = []

    async def reply(request):
        if request.method == "GET":
            return web.json_response({"data": [{"id": "m"}]})
        asked.append(await request.read())
        return web.Response(status=status, body=body, headers={"Content-Type": kind, **dict(headers)})

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", reply)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = site._server.sockets[0].getsockname()[1]
    backend = VllmBackend("m", base_url=f"http://127.0.0.1:{port}/v1")
    backend.asked = asked
    try:
        yield backend
    finally:
        await backend.aclose()
        await runner.cleanup()


STATUSES = st.sampled_from(
    [200, 201, 202, 301, 307, 400, 401, 402, 403, 404, 408, 413, 422, 429, 498, 500, 501, 503, 529]
)
KINDS = st.sampled_from(
    ["application/json", "text/event-stream", "text/html", "application/problem+json", "text/plain"]
)
EVENTS = st.lists(BODIES, max_size=4).map(lambda bodies: b"".join(b"data: " + body + b"\n\n" for body in bodies))


def test_only_errors_of_ours_come_of_any_answer_over_http():
    """Whole and streamed, with any status, type and body: an answer, or an error of ours without a secret."""
    told = {}

    async def reply(request):
        if request.method == "GET":
            return web.json_response({"data": [{"id": "m"}]})
        await request.read()
        return web.Response(**told)

    @given(status=STATUSES, kind=KINDS, headers=HEADERS, body=BODIES | EVENTS, whole=st.booleans())
    @settings(max_examples=80, deadline=None)
    def try_all(status, kind, headers, body, whole):
        safe = {name: value for name, value in headers.items() if value.isascii() and value.isprintable()}
        told.update(status=status, headers={"Content-Type": kind, **safe}, body=body)
        loop.run_until_complete(asked(Call(max_tokens=8, messages=(Message("user", PROMPT),), whole=whole)))

    async def asked(call):
        try:
            async for _ in backend.stream(call):
                pass
        except DuetError as error:
            check(error)

    async def started():
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", reply)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = site._server.sockets[0].getsockname()[1]
        return runner, VllmBackend("m", base_url=f"http://127.0.0.1:{port}/v1", api_key=KEY)

    loop = asyncio.new_event_loop()
    runner, backend = loop.run_until_complete(started())
    try:
        try_all()
    finally:
        loop.run_until_complete(backend.aclose())
        loop.run_until_complete(runner.cleanup())
        loop.close()


def event(value):
    return b"data: " + json.dumps(value).encode() + b"\n\n"


async def raised(backend, *, whole):
    call = Call(max_tokens=8, messages=(Message("user", PROMPT),), whole=whole)
    with pytest.raises(DuetError) as caught:
        async for _ in backend.stream(call):
            pass
    return caught.value


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize(
    ("value", "kind", "retryable"),
    [
        ({"error": {"message": "no eggs", "code": EMPTY}}, QuotaExceeded, False),
        ({"error": {"message": "no eggs", "code": "402"}}, QuotaExceeded, False),
        ({"error": "no eggs"}, BackendError, True),
        ({"code": 1113, "msg": "no eggs", "success": False}, QuotaExceeded, False),
        (
            {"choices": None, "base_resp": {"status_code": 1008, "status_msg": "insufficient balance"}},
            QuotaExceeded,
            False,
        ),
        (
            {"choices": None, "base_resp": {"status_code": 1027, "status_msg": "output sensitive"}},
            ContentFiltered,
            False,
        ),
        (
            {"object": "error", "message": "This model's maximum context length is 8 tokens", "code": 400},
            ContextOverflow,
            False,
        ),
        ([{"error": {"code": 429, "message": "no eggs", "status": "RESOURCE_EXHAUSTED"}}], RateLimited, True),
        ({"detail": "no eggs"}, BackendError, True),
        ({"errors": [{"message": "no eggs", "code": 400}]}, Rejected, False),
        ({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}, BackendError, True),
        ({"type": "error", "error": {"type": "invalid_request_error", "message": "no eggs"}}, Rejected, False),
    ],
)
async def test_an_error_with_status_200_is_found_in_whole_answers_and_at_the_beginning_of_streams(
    value, kind, retryable, whole
):
    for body, content_type in (
        (json.dumps(value).encode(), "application/json"),
        (event(value) + b"data: [DONE]\n\n", "text/event-stream"),
        (event(value), "text/event-stream; charset=utf-8"),
    ):
        if whole and content_type != "application/json":
            continue
        async with answering(body, kind=content_type) as backend:
            error = await raised(backend, whole=whole)
        assert type(error) is kind, error
        assert getattr(error, "retryable", False) is retryable


@pytest.mark.parametrize(
    ("value", "retryable"),
    [
        ({"error": {"message": "no eggs", "code": 500}}, True),
        ({"error": {"message": "no eggs", "type": "overloaded_error"}}, True),
        ({"error": {"message": "no eggs", "code": EMPTY}}, False),
        ({"error": {"message": "no eggs", "code": "content_filter"}}, False),
        ({"code": 1113, "msg": "no eggs"}, False),
    ],
)
async def test_a_late_error_breaks_the_answer_off_and_is_tried_again_where_that_helps(value, retryable):
    piece = event({"choices": [{"index": 0, "delta": {"content": "one two"}}]})
    async with answering(piece + event(value), kind="text/event-stream") as backend:
        error = await raised(backend, whole=False)
    assert type(error) is StreamBroken
    assert "no eggs" in str(error)
    assert (error.retryable, error.replaceable) == (retryable, True)


async def test_a_page_with_status_200_is_no_answer():
    async with answering(b"<html><title>Sign in</title></html>", kind="text/html") as backend:
        for whole in (True, False):
            assert type(await raised(backend, whole=whole)) is StreamBroken


async def test_an_error_longer_than_what_is_read_keeps_its_words():
    long = json.dumps({"error": {"message": "no eggs", "code": EMPTY, "input": PROMPT * 10_000}}).encode()
    assert len(long) > 1 << 16
    async with answering(long, status=429) as backend:
        error = await raised(backend, whole=True)
    assert type(error) is QuotaExceeded
    assert str(error).endswith("(429): no eggs")


async def test_an_aws_error_names_its_kind_in_a_header():
    body, headers = b'{"message": "no eggs"}', {"X-Amzn-ErrorType": "ThrottlingException:http://x"}
    async with answering(body, status=400, headers=headers) as backend:
        assert type(await raised(backend, whole=True)) is RateLimited


@pytest.mark.parametrize("headers", [{"Retry-After": "Fri, 01 Jan 2100 00:00:00 GMT"}, {"retry-after-ms": "86400000"}])
async def test_a_server_that_asks_for_a_day_is_left_to_the_next_model(headers):
    async with answering(b"{}", status=429, headers=headers) as backend:
        model = Endpoint(model="vllm/m", base_url=backend.base_url)
        async with AsyncDuetClient("scripted/s", [model, "scripted/fine"], retry=Retry(first_wait_s=0)) as duet:
            reply = await duet.chat("q")
    assert (reply.text, reply.served_by) == ("fine", "pair")
    assert [attempt.error_type for attempt in reply.receipt.attempts] == [None, "RateLimited", None]


@pytest.mark.parametrize(
    ("code", "again"), [("content_filter", False), ("insufficient_quota", False), ("invalid_value", True)]
)
async def test_what_would_be_stopped_again_is_not_sent_in_another_form(code, again):
    """A refusal of messages that a template may not take is: two system messages are then sent as one."""
    messages = (Message("system", "Be brief."), Message("system", "Be kind."), Message("user", PROMPT))
    body = json.dumps({"error": {"message": "System message must be at the beginning.", "code": code}}).encode()
    async with answering(body, status=400) as backend:
        with pytest.raises(BackendError):
            async for _ in backend.stream(Call(max_tokens=8, messages=messages)):
                pass
        assert (len(backend.asked) > 1) is again
