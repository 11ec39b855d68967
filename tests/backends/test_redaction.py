"""Errors that quote the request, through every backend that has foreign errors: nothing of it may be shown."""

import html
import json
import pickle
import re
import sys
import time
from base64 import b64encode, urlsafe_b64encode
from contextlib import aclosing, asynccontextmanager
from functools import partial
from importlib.util import find_spec
from types import ModuleType, SimpleNamespace
from urllib.parse import quote

import pytest
from aiohttp import web
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from duet_sdk import Message
from duet_sdk.backends import Call
from duet_sdk.backends.failures import Failures
from duet_sdk.backends.litellm.backend import LiteLLMBackend
from duet_sdk.backends.local import transformers as local
from duet_sdk.backends.local.vllm_engine import VllmEngine, _Engine
from duet_sdk.backends.redaction import redacted, texts_of
from duet_sdk.backends.refusals import Refusal
from duet_sdk.backends.server.address import request_headers, secrets_in
from duet_sdk.backends.server.backend import VllmBackend
from duet_sdk.errors import BackendError
from duet_sdk.types import ImagePart, TextPart, ToolCall

needs_litellm = pytest.mark.skipif(find_spec("litellm") is None, reason="the extra 'litellm' is not installed")
litellm_warns = [
    # LiteLLM silences this warning about its own types when it is imported; pytest undoes that at every test.
    pytest.mark.filterwarnings("ignore:.*using the `ReadOnly` qualifier:UserWarning"),
]

KEY = "sk-not-real-abcdef1234567890"
PRIVATE = {
    "system prompt": ("Answer as Dr. Zuckerkandl would.", "Zuckerkandl"),
    "prompt": ("Who owns the account\n'DE89-3704' of J. Kowalski?", "Kowalski"),
    "short prompt": ("pin 4711", "4711"),
    "prompt in another script": ("Czyj to numer: żółw? Wąchock!", "żółw"),
    "image": ("https://cat.example/albums/secret-cat.png", "secret-cat"),
    "tool arguments": ('{"owner": "Meierhofer", "amount": 98765}', "Meierhofer"),
    "tool result": ("The balance of Meierhofer is 31415 EUR.", "31415"),
    "short tool result": ("Ünlü", "Ünlü"),
}
TEXT = {name: text for name, (text, _) in PRIVATE.items()}
MESSAGES = (
    Message("system", TEXT["system prompt"]),
    Message("user", (TextPart(TEXT["prompt"]), ImagePart(TEXT["image"]))),
    Message("user", TEXT["short prompt"]),
    Message("user", TEXT["prompt in another script"]),
    Message("assistant", "", (ToolCall("t1", "balance", TEXT["tool arguments"]),)),
    Message("tool", TEXT["tool result"], tool_call_id="t1"),
    Message("assistant", "", (ToolCall("t2", "name", "{}"),)),
    Message("tool", TEXT["short tool result"], tool_call_id="t2"),
)
WITHOUT_IMAGE = tuple(Message("user", message.text) if message.images else message for message in MESSAGES)


def quotations():
    """Ways of a server to quote the request; its own words stand in front."""
    told = [message.text for message in MESSAGES if message.text]
    for name, text in TEXT.items():
        yield name, text
        yield f"{name}, as JSON", json.dumps(text)
        yield f"{name}, as JSON in JSON", json.dumps(json.dumps({"input": text}))
        yield f"{name}, as Python", repr({"input": text})
        yield f"{name}, in capitals", text.upper()
    yield "all of it", json.dumps(told, ensure_ascii=False)
    yield "all of it, on one line", " ".join(" ".join(told).split())
    yield "values of arguments alone", "owner 'Meierhofer' has no 98765"
    yield "a name alone", "no such owner: 'Kowalski'"
    yield "the key", f"wrong key {KEY}; {KEY[:14]}…{KEY[-9:]} is not known"
    # What a long quotation hides moves what follows it to where a message is cut.
    yield "the key at a cut", f"'{'z' * 1100}' {'y' * 80} {KEY}"
    yield "a prompt at a cut", f"'{'z' * 16000}' {'y ' * 180}{TEXT['prompt']}"


WAYS = dict(quotations())


def shown_of_it(error):
    """What of the request can be read in an error."""
    # Not the server's own address: its port can have the digits of a private number.
    text = re.sub(r"127\.0\.0\.1:\d+", "", f"{error}".lower())
    parts = [private.lower() for _, private in PRIVATE.values()]
    return [part for part in (*parts, "98765", KEY[:8], KEY[-8:]) if part in text]


@asynccontextmanager
async def refusing(words, status=400):
    """A server that answers every completion with an error of these words."""

    async def refuse(request):
        return web.json_response({"error": {"message": f"cannot do this: {words}"}}, status=status)

    async def models(request):
        return web.json_response({"data": [{"id": "m"}]})

    app = web.Application()
    app.router.add_get("/v1/models", models)
    app.router.add_post("/v1/chat/completions", refuse)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}/v1"
    await runner.cleanup()


async def error_of(backend, messages=MESSAGES, **call):
    with pytest.raises(BackendError) as caught:
        async with aclosing(backend.stream(Call(max_tokens=8, messages=messages, **call))) as chunks:
            async for _ in chunks:
                pass
    await backend.aclose()
    return caught.value


def over_http(url):
    return VllmBackend("m", base_url=url, api_key=KEY)


def over_litellm(provider):
    return lambda url: LiteLLMBackend(f"{provider}/m", base_url=url, api_key=SecretStr(KEY))


@pytest.mark.parametrize(
    ("way", "status"), [*((way, 400) for way in WAYS), ("all of it", 401), ("the key", 401), ("all of it", 500)]
)
@pytest.mark.parametrize(
    "make",
    [
        pytest.param(over_http, id="vllm"),
        pytest.param(over_litellm("openai"), id="litellm/openai", marks=[needs_litellm, *litellm_warns]),
        pytest.param(over_litellm("hosted_vllm"), id="litellm/hosted_vllm", marks=[needs_litellm, *litellm_warns]),
    ],
)
async def test_a_server_that_quotes_the_request(make, way, status):
    async with refusing(WAYS[way], status) as url:
        error = await error_of(make(url))
    assert shown_of_it(error) == []
    assert error.status == status
    assert "cannot do this" in str(error)
    assert len(str(error)) < 420


class Quoting:
    """An engine, and vLLM's own parameters, that fail with words of the request."""

    errored = False

    def __init__(self, words):
        self.words = words

    async def generate(self, *_):
        raise RuntimeError(self.words)
        yield

    async def abort(self, _):
        pass

    def shutdown(self):
        pass


@pytest.fixture
def vllm(monkeypatch):
    """As much of vLLM as it takes to refuse a call."""
    module, exceptions, params = (ModuleType(name) for name in ("vllm", "vllm.exceptions", "vllm.sampling_params"))
    module.refuse_with = None

    def sampling(**_):
        if module.refuse_with is not None:
            raise ValueError(f"cannot do this: {module.refuse_with}")

    module.SamplingParams = sampling
    exceptions.VLLMClientError = type("VLLMClientError", (Exception,), {})
    params.RequestOutputKind = SimpleNamespace(DELTA=0)
    params.StructuredOutputsParams = dict
    for one in (module, exceptions, params):
        monkeypatch.setitem(sys.modules, one.__name__, one)
    return module


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("where", ["parameters", "engine"])
async def test_an_engine_that_quotes_the_request(vllm, way, where):
    backend = VllmEngine("m")
    files = SimpleNamespace(thinking_kwargs=lambda _: {})
    renderer = SimpleNamespace(chat_ids=lambda *_, **__: [1, 2, 3])
    backend._started = _Engine(Quoting(WAYS[way]), files, renderer, 4096, {}, {})
    vllm.refuse_with = WAYS[way] if where == "parameters" else None
    error = await error_of(backend, WITHOUT_IMAGE)
    # This backend has no key, and takes no image.
    assert [part for part in shown_of_it(error) if part not in (KEY[:8], KEY[-8:], "secret-cat")] == []
    assert ("cannot do this" if where == "parameters" else "RuntimeError") in str(error)


@pytest.mark.parametrize("way", WAYS)
async def test_a_model_in_this_process_that_quotes_the_request(way, monkeypatch):
    backend = local.TransformersBackend("m")

    def fails(*_):
        raise RuntimeError(WAYS[way])

    monkeypatch.setattr(backend, "_load", object)
    monkeypatch.setattr(backend, "_run", fails)
    error = await error_of(backend, WITHOUT_IMAGE)
    assert shown_of_it(error) == []
    assert "RuntimeError" in str(error)


@pytest.mark.parametrize("key", ["7", "ab", "k3y", "EMPTY", "s3cret", "not-needed", KEY])
def test_a_key_of_any_length_is_hidden(key):
    shown = redacted(f"the key {key}, or {json.dumps(key)}, is refused", secrets=(key, f"Bearer {key}"))
    assert key not in shown
    assert shown.startswith("the key ***")


@given(
    prompt=st.text(st.characters(codec="utf-8"), min_size=20, max_size=400),
    start=st.integers(0, 100),
    before=st.text(st.characters(codec="utf-8"), max_size=40),
    form=st.sampled_from([str, str.upper, repr, json.dumps, lambda text: json.dumps(json.dumps(text))]),
)
@settings(max_examples=150, deadline=None)
def test_no_run_of_a_prompt_is_shown(prompt, start, before, form):
    shown = redacted(f"{before}{form(prompt[start : start + 200])}", texts=[prompt])
    runs = {prompt[at : at + 16] for at in range(len(prompt) - 15)}
    assert not any(shown[at : at + 16] in runs for at in range(max(0, len(shown) - 15)))


@given(words=st.text(max_size=600), texts=st.lists(st.text(max_size=300), max_size=4), secret=st.text(max_size=20))
@settings(max_examples=150, deadline=None)
def test_any_words_can_be_shown(words, texts, secret):
    assert len(redacted(words, texts=texts, secrets=[secret])) <= 300


def test_what_is_not_of_the_request_is_shown():
    words = "top_k must be at least 1, got 'abc'; see https://docs.example/errors#17 (id 4711)"
    assert redacted(words, texts=["How many primes are below sixty?", "7"], secrets=[KEY]) == words


def test_runs_that_overlap_are_hidden_together():
    assert redacted("x abcdefghijklmnop y", texts=["abcdefghijkl", "efghijklmnop"]) == "x … y"


def test_a_long_conversation_is_looked_through_quickly():
    prompt = "".join(f"line {at}: the quick brown fox\n" for at in range(60_000))
    image = "data:image/png;base64," + "iVBORw0KGgoAAAANSUhEUg" * 200_000
    words = prompt[900_000:910_000] + image[:5000]
    began = time.perf_counter()
    assert redacted(f"bad: {words}", texts=[prompt, image]) == "bad: … …"
    assert time.perf_counter() - began < 5  # looking for each run of the words takes minutes


def test_words_that_nearly_repeat_a_long_prompt_are_looked_through_quickly():
    prompt = "x".join(str(at) for at in range(200_000))
    near = "".join(f"{prompt[at : at + 10]}Z" for at in range(0, 15_000, 10))
    assert redacted(f"bad: {near}", texts=[prompt]) == "bad: …"  # one search of the prompt for each took minutes
    assert redacted("1 " * 8_000).startswith("1 1 1")
    assert redacted("1" * 16_000) == "…"


@pytest.mark.parametrize(
    "sent",
    [
        {},
        {"messages": None},
        {"messages": [{"role": "user", "content": None}, {"role": "user"}], "prompt": [1, 2]},
        {"messages": [{"role": "assistant", "content": [{"type": "text", "text": "{"}], "tool_calls": None}]},
        {"messages": [{"role": "tool", "content": "[" * 100_000}]},
    ],
)
def test_a_request_of_any_form_has_its_texts(sent):
    assert all(isinstance(text, str) for text in texts_of(sent))


def test_values_within_a_tools_arguments_are_texts_too():
    call = {"function": {"name": "f", "arguments": '{"a": ["x", {"b": 123.5}], "c": true, "d": 7, "e": null}'}}
    texts = set(texts_of({"messages": [{"role": "assistant", "content": "", "tool_calls": [call]}]}))
    assert texts - {"", call["function"]["arguments"]} == {"x", "123.5"}


SECRETS = ["sk-not-real-abcdef1234567890", "p%ss w/rd<&>+é=", "0123456789abcdef", "sésame-öffne-dich"]


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize(
    "way",
    [str, str.upper, partial(quote, safe=""), html.escape, json.dumps, repr, lambda secret: secret.encode().hex()],
)
def test_a_key_is_hidden_in_every_way_of_writing_it(secret, way):
    shown = redacted(f"it got {way(secret)} and refused", secrets=[secret])
    assert re.fullmatch(r"""it got ["']?\*\*\*["']? and refused""", shown)


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize("encode", [b64encode, urlsafe_b64encode])
@pytest.mark.parametrize("before", ["", "a", "ab", "user:"])
def test_a_key_is_hidden_in_base64_wherever_it_begins(secret, encode, before):
    encoded = encode(f"{before}{secret} more".encode()).decode()
    shown = redacted(f"it got {encoded} and refused", secrets=[secret])
    # What is left encodes what stands around it, and a piece of a character at either end.
    assert re.fullmatch(r"it got [\w+/=-]{0,8}\*\*\*[\w+/=-]{0,11} and refused", shown)


@pytest.mark.parametrize("place", range(16_350, 16_400))
def test_a_key_is_hidden_where_long_words_are_cut(place):
    shown = redacted("'" + "z" * 400 + "' " + "y " * ((place - 403) // 2) + KEY, secrets=[KEY])
    assert KEY[:8] not in shown


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        ("GET https://me:pw@h.example/v1?key=abcd&x=1 failed", "GET https://***@h.example/v1?key=***&x=1 failed"),
        ("at https://h.example/v1?api-version=1&sig=ab%2Fcd.", "at https://h.example/v1?api-version=1&sig=***"),
        ("{'Authorization': 'Basic dXNlcjpw', 'x-api-key': 'zz'}", "{'Authorization': '***', 'x-api-key': '***'}"),
        ('"authorization":"Token abc","accept":"a"', '"authorization":"***","accept":"a"'),
        ("Proxy-Authorization: Digest a=b", "Proxy-Authorization: ***"),
        ("Ocp-Apim-Subscription-Key: abc is wrong", "Ocp-Apim-Subscription-Key: *** is wrong"),
        ("Set-Cookie: session=abc; Path=/", "Set-Cookie: ***"),
        ("Incorrect API key provided: abcd****wxyz.", "Incorrect API key provided: ***"),
        ("token eyJhbGciOiJIUzI1NiJ9.e30.abc refused", "token *** refused"),
        ("AKIAIOSFODNN7EXAMPLE and hf_abcdefghijkl", "*** and ***"),
        ("basic authentication is required", "basic authentication is required"),
        ("invalid api key: must be set", "invalid api key: must be set"),
        (
            "the key must not be empty, see https://h.example/keys",
            "the key must not be empty, see https://h.example/keys",
        ),
        ("context length 4096: 5000 tokens asked for; a**b", "context length 4096: 5000 tokens asked for; a**b"),
    ],
)
def test_what_looks_like_a_key_is_hidden_whoever_it_belongs_to(words, shown):
    assert redacted(words) == shown


@pytest.mark.parametrize("piece", ["a-", "api-", "?key", "://a", "a*", "authorization: ", "&a", "eyJ.", "basic "])
def test_looking_for_keys_takes_little_time(piece):
    began = time.thread_time()
    redacted(piece * (20_000 // len(piece)), secrets=[KEY])
    assert time.thread_time() - began < 0.5


def test_the_values_of_headers_are_secret_to_their_last_part():
    told = secrets_in(request_headers("sk-1", {"X-Auth": "Basic dXNlcjpzZXNhbWU=", "Cookie": "a=b"}))
    assert set(told) >= {"sk-1", "Bearer sk-1", "Basic dXNlcjpzZXNhbWU=", "dXNlcjpzZXNhbWU=", "sesame", "a=b"}


@needs_litellm
def test_a_key_that_litellm_takes_from_the_environment_is_hidden(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "an-unusual-form-4711")
    monkeypatch.setenv("PWD_TOKEN_ID", "short")
    backend = LiteLLMBackend("openai/m")
    said = str(backend._failures.refused(Refusal(401, "no such key: an-unusual-form-4711"), {}))
    assert "unusual" not in said


def test_a_servers_model_list_repeats_no_key():
    failures = Failures(backend="vllm", model="m", secrets=(KEY,))
    said = str(failures.not_served([f"echo {KEY}", "x" * 10_000]))
    assert KEY[:8] not in said
    assert len(said) < 600


def test_an_error_carries_no_key_through_a_pickle():
    error = Failures(backend="vllm", model="m", secrets=(KEY,)).refused(Refusal(401, f"bad key {KEY}"), {})
    error.__cause__ = ValueError(KEY)
    assert KEY[:8].encode() not in pickle.dumps(error)


@pytest.mark.parametrize(
    "text", ["Zoë", "Ada Lovelace", "+49 170 1234567", "a/b/ü", "a long prompt of more than one line\nhere"]
)
def test_a_prompt_is_hidden_in_a_url(text):
    for safe in ("/", ""):
        written = quote(text, safe=safe)
        assert redacted(f"cannot GET /v1?q={written} now", texts=[text]) == "cannot GET /v1?q=… now"
