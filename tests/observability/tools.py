"""Phoenix and MLflow as the tests see them: where traces go, and what can be read back of them."""

from __future__ import annotations

import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Protocol, TypeVar

from support import server_process
from support.server_process import ServerProcess

from duet_sdk.pricing import TokenPrice

Found = TypeVar("Found")

START_S = 240
STORED_S = 60
"""Both store in the background; Phoenix computes costs some 5 s later."""
EMBEDDED_PRICE = TokenPrice("0.02", "0.06")
"""Of the embedded model, so that its tokens cost something."""


@dataclass(frozen=True, slots=True)
class StoredSpan:
    """What a tool has of one span."""

    name: str
    stage: str | None
    input_tokens: int | None
    output_tokens: int | None
    usd: Decimal | None
    """Both store a double: rounded to nano-USD here, below which a double of this size is exact."""


@dataclass(frozen=True, slots=True)
class StoredTrace:
    """What a tool has of one trace."""

    spans: tuple[StoredSpan, ...]
    """In the order in which they began."""
    total_tokens: int
    """The tool's own sum over the trace."""
    usd: Decimal | None
    """Likewise."""
    session: str | None
    text: str
    """All that the tool gives out about the trace."""

    @property
    def all_priced(self) -> bool:
        """Whether the cost of every attempt has arrived."""
        return self.usd is not None and all(span.usd is not None for span in self.spans if span.stage is not None)

    @property
    def stages(self) -> dict[str, StoredSpan]:
        """The attempts by stage; the last one where there are several."""
        return {span.stage: span for span in self.spans if span.stage is not None}


class Tool(Protocol):
    """A running tool."""

    name: str

    @property
    def traces_url(self) -> str:
        """Where an exporter sends spans."""

    @property
    def headers(self) -> Mapping[str, str]:
        """What an exporter sends with them."""

    def page(self, trace_id: str) -> str:
        """The trace's page for a browser."""

    def stored(self, trace_id: str) -> StoredTrace | None:
        """The trace as far as it is stored."""


class Phoenix:
    """Phoenix; it prices tokens by itself, so it has to be told the prices before the spans come."""

    name = "phoenix"
    headers: Mapping[str, str] = {}

    def __init__(self, server: ServerProcess) -> None:
        self._root = server.root

    @property
    def traces_url(self) -> str:
        return f"{self._root}/v1/traces"

    def page(self, trace_id: str) -> str:
        return f"{self._root}/redirects/traces/{trace_id}"

    def set_price(self, model: str, price: TokenPrice) -> None:
        """What a model costs from now on; known to the running server after some 5 s."""
        costs = [
            {"tokenType": "input", "kind": "PROMPT", "costPerMillionTokens": float(price.input_usd)},
            {"tokenType": "output", "kind": "COMPLETION", "costPerMillionTokens": float(price.output_usd)},
        ]
        asked = {"name": model, "namePattern": f"^{model}$", "costs": costs}
        self._ask("mutation($of: CreateModelMutationInput!) { createModel(input: $of) { model { id } } }", of=asked)

    def has_price_for(self, trace_id: str) -> bool | None:
        """Whether a price was found for a trace's attempts, None while their cost is not worked out."""
        trace = self._ask(_PHOENIX_TRACE, of=trace_id)["getTraceByOtelId"]
        costs = [edge["node"]["costSummary"] for edge in trace["spans"]["edges"]] if trace is not None else []
        return next((cost["total"]["cost"] is not None for cost in costs if cost is not None), None)

    def stored(self, trace_id: str) -> StoredTrace | None:
        trace = self._ask(_PHOENIX_TRACE, of=trace_id)["getTraceByOtelId"]
        nodes = sorted((edge["node"] for edge in trace["spans"]["edges"]), key=_began) if trace is not None else []
        root = next((node for node in nodes if node["parentId"] is None), None)
        if root is None:
            return None
        spans = tuple(map(_phoenix_span, nodes))
        priced = any(span.usd is not None for span in spans)
        return StoredTrace(
            spans=spans,
            total_tokens=int(root["cumulativeTokenCountTotal"]),
            usd=_usd(trace["costSummary"]["total"]["cost"]) if priced else None,  # it says 0 of no price, too
            session=(trace["session"] or {}).get("sessionId"),
            text=json.dumps(trace),
        )

    def _ask(self, query: str, **variables: object) -> dict:
        answer = _fetch(f"{self._root}/graphql", {"query": query, "variables": variables})
        if answer.get("errors"):
            raise RuntimeError(f"Phoenix refused: {answer['errors']}")
        return answer["data"]


_PHOENIX_TRACE = """query($of: String!) { getTraceByOtelId(traceId: $of) {
  costSummary { total { cost } }
  session { sessionId }
  spans(first: 50) { edges { node {
    name parentId startTime spanKind tokenCountPrompt tokenCountCompletion cumulativeTokenCountTotal attributes
    costSummary { total { cost } }
    events { name }
  } } }
} }"""


def _began(node: dict) -> str:
    return node["startTime"]


def _phoenix_span(span: dict) -> StoredSpan:
    return StoredSpan(
        name=span["name"],
        stage=json.loads(span["attributes"]).get("duet", {}).get("stage"),
        input_tokens=span["tokenCountPrompt"],
        output_tokens=span["tokenCountCompletion"],
        usd=_usd(span["costSummary"]["total"]["cost"]) if span["costSummary"] else None,
    )


class MLflow:
    """MLflow; it takes the cost of a span from the attribute of the dialect ``mlflow``."""

    name = "mlflow"
    headers: Mapping[str, str] = {"x-mlflow-experiment-id": "0"}

    def __init__(self, server: ServerProcess) -> None:
        self._root = server.root

    @property
    def traces_url(self) -> str:
        return f"{self._root}/v1/traces"

    def page(self, trace_id: str) -> str:
        return f"{self._root}/#/experiments/0/traces?selectedEvaluationId=tr-{trace_id}"

    def stored(self, trace_id: str) -> StoredTrace | None:
        try:
            info = _fetch(f"{self._root}/api/3.0/mlflow/traces/tr-{trace_id}")["trace"]["trace_info"]
            spans = _fetch(f"{self._root}/ajax-api/3.0/mlflow/get-trace-artifact?request_id=tr-{trace_id}")["spans"]
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return None
            raise
        about = info["trace_metadata"]
        cost = json.loads(about.get("mlflow.trace.cost", "{}"))
        return StoredTrace(
            spans=tuple(map(_mlflow_span, sorted(spans, key=lambda span: span["start_time_unix_nano"]))),
            total_tokens=json.loads(about.get("mlflow.trace.tokenUsage", "{}")).get("total_tokens", 0),
            usd=_usd(cost.get("total_cost")),
            session=about.get("mlflow.trace.session"),
            text=json.dumps([info, spans]),
        )


def _mlflow_span(span: dict) -> StoredSpan:
    values = {name: json.loads(value) for name, value in span["attributes"].items()}
    used, cost = values.get("mlflow.chat.tokenUsage", {}), values.get("mlflow.llm.cost", {})
    return StoredSpan(
        name=span["name"],
        stage=values.get("duet.stage"),
        input_tokens=used.get("input_tokens"),
        output_tokens=used.get("output_tokens"),
        usd=_usd(cost.get("total_cost")),
    )


def start_phoenix(python: str, folder: Path) -> ServerProcess:
    """Start Phoenix with an empty store in that folder; it is not ready yet."""
    port = server_process.free_port()
    environment = _clean_environment() | {
        "PHOENIX_HOST": "127.0.0.1",
        "PHOENIX_PORT": str(port),
        "PHOENIX_GRPC_PORT": str(server_process.free_port()),
        "PHOENIX_WORKING_DIR": str(folder),
        "PHOENIX_TELEMETRY_ENABLED": "false",
    }
    command = [python, "-m", "phoenix.server.main", "serve"]
    return server_process.start("phoenix", command, port=port, log=folder / "phoenix.log", environment=environment)


def start_mlflow(python: str, folder: Path) -> ServerProcess:
    """Start MLflow with an empty store in that folder; it is not ready yet."""
    port = server_process.free_port()
    environment = _clean_environment() | {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # else seven processes of its own that traces do not need
    }
    command = [
        *(python, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"),
        *("--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", f"{folder}/artifacts"),
    ]
    return server_process.start("mlflow", command, port=port, log=folder / "mlflow.log", environment=environment)


def read_back(tool: Tool, trace_id: str, when: Callable[[StoredTrace], bool]) -> StoredTrace:
    """The trace as the tool has it, once that holds of it."""

    def found() -> StoredTrace | None:
        trace = tool.stored(trace_id)
        return trace if trace is not None and when(trace) else None

    return wait_for(found, f"{tool.name} stored trace {trace_id}")


def wait_for(found: Callable[[], Found | None], what: str) -> Found:
    """What is found, once there is something.

    Raises:
        RuntimeError: there never was.
    """
    end = time.monotonic() + STORED_S
    while (value := found()) is None:
        if time.monotonic() > end:
            raise RuntimeError(f"not so after {STORED_S} s: {what}")
        time.sleep(0.25)
    return value


def _clean_environment() -> dict[str, str]:
    unwanted = ("PYTHON", "OTEL_", "PHOENIX_", "MLFLOW_", "DUET_")
    return {name: value for name, value in os.environ.items() if not name.startswith(unwanted)}


def _usd(stored: float | None) -> Decimal | None:
    return None if stored is None else Decimal(stored).quantize(Decimal("1e-9")).normalize()


def _fetch(url: str, body: object = None) -> dict:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)
