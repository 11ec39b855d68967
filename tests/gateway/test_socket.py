"""What a hostile or broken client can do to `duet serve` by its socket: nothing that others notice or that stays."""

from __future__ import annotations

import gzip
import json
import socket
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import closing, suppress

import pytest
from support.gateway_process import LONG, WORD, gateway_process, resident_kib
from support.server_process import ServerProcess, stop, tail

QUESTION = json.dumps({"model": "duet", "messages": [{"role": "user", "content": "How many?"}]}).encode()
MIB = 1 << 20
CLOSED = (ConnectionResetError, BrokenPipeError)
PATIENCE_S = 30
"""Far longer than every limit that is set below; only a hang is."""


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    limits = {"HEAD_S": 0.5, "UNREAD_S": 1, "LINGER_S": 1, "KEEP_S": 1, "BODY_S": 1}
    server = gateway_process(tmp_path_factory.mktemp("gateway"), **limits)
    yield server
    stop([server])


@pytest.fixture(autouse=True)
def nothing_is_left(gateway: ServerProcess) -> Iterator[None]:
    yield
    end = threading.Event()
    for _ in range(200):
        if running(gateway) == 0:
            break
        end.wait(0.05)
    assert running(gateway) == 0
    assert "Traceback" not in tail(gateway, 10_000)


def running(server: ServerProcess) -> int:
    """Requests that are being answered, without the one that asks."""
    with urllib.request.urlopen(f"{server.root}/metrics", timeout=PATIENCE_S) as answer:
        text = answer.read().decode()
    return int(text.partition("\nduet_gateway_requests_running ")[2].split()[0]) - 1


def connect(server: ServerProcess) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE_S)


def post(body: bytes = QUESTION, *fields: str, path: str = "/v1/chat/completions", length: int | None = None) -> bytes:
    """A request, raw."""
    given = ("content-type: application/json", f"content-length: {len(body) if length is None else length}", *fields)
    head = "".join(f"{field}\r\n" for field in ("host: localhost", *given))
    return f"POST {path} HTTP/1.1\r\n{head}\r\n".encode("latin-1") + body


def one(line: socket.socket) -> bytes:
    """A whole response, of a connection that stays open."""
    found = bytearray()
    while b"\r\n\r\n" not in found:
        found += line.recv(1 << 16)
    head = bytes(found).partition(b"\r\n\r\n")[0]
    length = int(head.lower().partition(b"content-length: ")[2].split()[0])
    while len(found) - len(head) - 4 < length:
        found += line.recv(1 << 16)
    return bytes(found)


def to_the_end(line: socket.socket) -> bytes:
    """All that comes until the server closes."""
    found = bytearray()
    with suppress(ConnectionResetError):
        while piece := line.recv(1 << 16):
            found += piece
    return bytes(found)


def answers(server: ServerProcess, raw: bytes) -> bytes:
    """What comes to these bytes until the server closes; it takes all of them."""
    with closing(connect(server)) as line:
        line.sendall(raw)
        return to_the_end(line)


def status(answer: bytes) -> int:
    return int(answer.split()[1])


def error(answer: bytes) -> dict[str, object]:
    """The error of a response, which has the API's form."""
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"content-type: application/json" in head
    told: dict[str, object] = json.loads(body)["error"]
    assert set(told) == {"message", "type", "param", "code"}
    return told


def still_serves(server: ServerProcess) -> None:
    with closing(connect(server)) as line:
        line.sendall(post())
        assert status(one(line)) == 200


def test_heads_and_bodies_that_never_end_are_given_up_and_nobody_waits_for_them(gateway: ServerProcess) -> None:
    half_head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\nx-slow: "
    lines = [connect(gateway) for _ in range(150)]
    for number, line in enumerate(lines):
        line.sendall((b"", half_head, post(b"{", length=100))[number % 3])
    still_serves(gateway)
    for number, line in enumerate(lines):
        answer = to_the_end(line)
        assert not answer if number % 3 < 2 else status(answer) == 408
        line.close()


def test_a_head_that_comes_byte_by_byte_is_given_up(gateway: ServerProcess) -> None:
    with closing(connect(gateway)) as line, pytest.raises(CLOSED):
        pause = threading.Event()
        for _ in range(PATIENCE_S * 20):
            line.sendall(b"\r\n")  # what a parser skips before a request, so that it never begins
            pause.wait(0.05)


def test_a_body_that_is_refused_unread_cannot_go_on_for_ever(gateway: ServerProcess) -> None:
    with closing(connect(gateway)) as line:
        line.sendall(post(b"", "content-type: text/plain", length=MIB))
        assert status(one(line)) == 415
        pause = threading.Event()
        with pytest.raises(CLOSED):
            for _ in range(PATIENCE_S * 20):
                line.sendall(b" ")
                pause.wait(0.05)


def test_a_client_that_sends_no_more_has_left(gateway: ServerProcess) -> None:
    with closing(connect(gateway)) as line:
        line.sendall(post(b"{", length=100))
        line.shutdown(socket.SHUT_WR)
        assert to_the_end(line) == b""


@pytest.mark.parametrize("streamed", [True, False])
def test_clients_that_never_read_are_ended_and_take_no_memory(gateway: ServerProcess, streamed: bool) -> None:
    asked = {"model": "duet/generator", "messages": [{"role": "user", "content": "long"}], "max_tokens": LONG}
    lines = [connect(gateway) for _ in range(5)]
    for line in lines:
        line.sendall(post(json.dumps(asked | {"stream": streamed}).encode()))
    pause = threading.Event()
    for _ in range(PATIENCE_S * 20):
        if running(gateway) == 0:
            break
        pause.wait(0.05)
    still_serves(gateway)
    for line in lines:
        assert len(to_the_end(line)) < LONG * WORD  # what was on its way, and no end
        line.close()
    assert resident_kib(gateway) < 300 * 1024


def test_100_mb_are_refused_before_they_are_read(gateway: ServerProcess) -> None:
    with closing(connect(gateway)) as line:
        line.sendall(post(b"", "expect: 100-continue", length=100 * MIB))
        answer = one(line)  # and no "100 Continue", which would ask for them
    assert status(answer) == 413
    assert error(answer)["code"] == "request_too_large"


def test_100_mb_of_unknown_length_are_refused_while_they_come(gateway: ServerProcess) -> None:
    before = resident_kib(gateway)
    head = post(b"", "transfer-encoding: chunked").replace(b"content-length: 0\r\n", b"")
    with closing(connect(gateway)) as line:
        line.sendall(head)
        with suppress(OSError):
            for _ in range(100):
                line.sendall(b"%x\r\n%b\r\n" % (MIB, b" " * MIB))
        answer = to_the_end(line)
    assert status(answer) == 413
    assert resident_kib(gateway) - before < 110 * 1024  # three times the longest body, which is allowed


def test_a_body_that_was_refused_can_be_followed_by_another_request(gateway: ServerProcess) -> None:
    with closing(connect(gateway)) as line:
        line.sendall(post(b"{}" * MIB, "content-encoding: br"))
        assert status(one(line)) == 415
        line.sendall(post())
        assert status(one(line)) == 200


def test_a_body_that_is_asked_for_by_expect_is_answered(gateway: ServerProcess) -> None:
    with closing(connect(gateway)) as line:
        line.sendall(post(b"", "expect: 100-continue", length=len(QUESTION)))
        assert line.recv(1 << 16) == b"HTTP/1.1 100 Continue\r\n\r\n"
        line.sendall(QUESTION)
        assert status(one(line)) == 200


def test_a_compressed_body_is_refused_unread(gateway: ServerProcess) -> None:
    bomb = gzip.compress(b" " * 64 * MIB)
    with closing(connect(gateway)) as line:
        line.sendall(post(bomb, "content-encoding: gzip"))
        answer = one(line)
    assert status(answer) == 415
    assert b"accept-encoding: identity" in answer
    assert error(answer)["code"] == "content_encoding"


@pytest.mark.parametrize("opens", [b"[", b'{"a":', b'{"model":"duet","messages":['])
def test_deep_json_is_refused(gateway: ServerProcess, opens: bytes) -> None:
    with closing(connect(gateway)) as line:
        line.sendall(post(opens * 100_000))
        answer = one(line)
    assert (status(answer), error(answer)["code"]) == (400, "invalid_json")


def test_text_that_is_no_utf8_is_refused_wherever_it_stands(gateway: ServerProcess) -> None:
    body = QUESTION.replace(b"How", b"\xff\xfe")
    assert status(answers(gateway, post(body, "connection: close"))) == 400
    assert status(answers(gateway, post(path="/v1/\xff"))) == 400
    assert status(answers(gateway, post(QUESTION, "connection: close", path="/v1/%ff"))) == 404
    assert status(answers(gateway, post(QUESTION, "connection: close", "x-session-id: \xff\xfe"))) == 200
    assert status(answers(gateway, post(QUESTION, "connection: close", "authorization: Bearer \xff"))) == 200


@pytest.mark.parametrize("fields", [[f"x-{n}: 1" for n in range(200)], ["x-long: " + "a" * 70_000]])
def test_too_many_or_too_long_header_fields_are_refused(gateway: ServerProcess, fields: list[str]) -> None:
    answer = answers(gateway, post(QUESTION, *fields))
    assert (status(answer), error(answer)["code"]) == (431, "head_too_large")


def test_a_header_that_never_ends_takes_no_memory(gateway: ServerProcess) -> None:
    before = resident_kib(gateway)
    with closing(connect(gateway)) as line:
        line.sendall(b"GET /health HTTP/1.1\r\nx-long: ")
        with suppress(OSError):
            for _ in range(64):
                line.sendall(b"a" * MIB)
        answer = to_the_end(line)
    assert not answer or status(answer) == 431
    assert resident_kib(gateway) - before < 16 * 1024


def test_what_stands_behind_a_request_is_not_read_and_the_connection_says_so(gateway: ServerProcess) -> None:
    answer = answers(gateway, post() + post() * 2000 + b"\0 no request")
    assert status(answer) == 200
    assert answer.count(b"HTTP/1.1 ") == 1
    assert b"connection: close" in answer


def test_requests_one_after_the_other_share_a_connection(gateway: ServerProcess) -> None:
    with closing(connect(gateway)) as line:
        for _ in range(3):
            line.sendall(post())
            answer = one(line)
            assert status(answer) == 200
            assert b"connection: close" not in answer


def test_a_connection_that_is_idle_is_closed(gateway: ServerProcess) -> None:
    with closing(connect(gateway)) as line:
        line.sendall(post())
        assert status(to_the_end(line)) == 200


@pytest.mark.parametrize(
    "raw",
    [
        b"\0\1\2\3\r\n\r\n",
        b"GET\r\n\r\n",
        b"BREW /v1/models HTTP/1.1\r\nhost: localhost\r\n\r\n",
        b"CONNECT evil.example:443 HTTP/1.1\r\nhost: localhost\r\n\r\n",
        b"GET /health HTTP/9.9\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET /health HTTP/1.1\r\nno colon\r\n\r\n",
        post(b"0\r\n\r\n", "transfer-encoding: chunked"),  # and a length
        post().replace(b"content-length: ", b"content-length: 1\r\ncontent-length: "),
        post().replace(b"content-length: ", b"content-length: -"),
        post(b"zz\r\n", "transfer-encoding: chunked").replace(b"content-length: 4\r\n", b""),
    ],
    ids=range(11),
)
def test_what_is_no_http_is_refused_in_our_form(gateway: ServerProcess, raw: bytes) -> None:
    answer = answers(gateway, raw)
    assert status(answer) == 400
    assert error(answer)["code"] == "malformed"


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND"])
def test_other_methods_are_told_which_there_is(gateway: ServerProcess, method: str) -> None:
    raw = f"{method} /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n".encode()
    answer = answers(gateway, raw)
    assert status(answer) == 405
    assert b"\r\nallow: POST\r\n" in answer
    assert answer.endswith(b"\r\n\r\n") if method == "HEAD" else error(answer)["code"] == "method"


def test_http_1_0_is_answered_and_closed(gateway: ServerProcess) -> None:
    answer = answers(gateway, post().replace(b"HTTP/1.1", b"HTTP/1.0"))
    assert status(answer) == 200
    assert b"transfer-encoding" not in answer


@pytest.mark.parametrize("protocol", ["websocket", "h2c"])
def test_another_protocol_is_not_taken_up_and_the_request_is_answered(gateway: ServerProcess, protocol: str) -> None:
    raw = post(QUESTION, "connection: upgrade", f"upgrade: {protocol}")
    with closing(connect(gateway)) as line:  # as Java's client does by default, with a body
        line.sendall(raw[:-10])
        line.sendall(raw[-10:])
        answer = to_the_end(line)
    assert status(answer) == 200
    assert b"There are 17." in answer
