"""Schemathesis over the description: what it draws gets a status, a content type and a form that the description names.

Both by ASGI and by a socket of `duet serve`. Two of its checks are left out: bodies that the schemas forbid are often
answered all the same, as clients send fields of all kinds and a 400 costs some of them six requests; and bodies that
they allow may be refused, as a schema cannot say that a tool choice names one of the tools.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from openapi_spec_validator import OpenAPIV31SpecValidator, validate
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    allow_header_conformance,
    content_type_conformance,
    ignored_auth,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)
from support.gateway_process import gateway_process
from support.server_process import ServerProcess, stop, tail

from duet_sdk import AsyncDuetClient
from duet_sdk.backends.scripted import Scripted
from duet_sdk.gateway import app
from duet_sdk.gateway.description import description

COUNT = int(os.environ.get("DUET_FUZZED_BODIES", "100"))
"""Requests for each operation and way of drawing."""
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    unsupported_method,
    allow_header_conformance,
    ignored_auth,
]
LOOPBACK = {"host": "localhost"}
drawn = settings(max_examples=COUNT, deadline=None, suppress_health_check=list(HealthCheck), database=None)
by_asgi = schemathesis.openapi.from_dict(description())
by_asgi.app = app(AsyncDuetClient(Scripted("17."), Scripted("There are 17.")))


def test_the_description_is_valid() -> None:
    validate(description(), cls=OpenAPIV31SpecValidator)


@by_asgi.parametrize()
@drawn
def test_what_is_drawn_is_answered_as_described(case: schemathesis.Case) -> None:
    case.call_and_validate(headers=LOOPBACK, checks=CHECKS)


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    server = gateway_process(tmp_path_factory.mktemp("gateway"))
    yield server
    stop([server])
    assert "Traceback" not in tail(server, 10_000)


by_socket = schemathesis.openapi.from_dict(description())


@by_socket.parametrize()
@drawn
def test_what_is_drawn_is_answered_as_described_by_a_socket(case: schemathesis.Case, gateway: ServerProcess) -> None:
    case.call_and_validate(base_url=gateway.root, checks=CHECKS)


def test_the_gateway_of_the_socket_is_left_idle(gateway: ServerProcess, tmp_path: Path) -> None:
    import urllib.request

    with urllib.request.urlopen(f"{gateway.root}/metrics", timeout=30) as answer:
        assert "\nduet_gateway_requests_running 1\n" in answer.read().decode()  # this one
