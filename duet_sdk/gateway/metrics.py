"""What ``/metrics`` shows, in Prometheus' text form: sums over all requests, without anybody's name unless asked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from decimal import Decimal
from typing import TYPE_CHECKING, Final

from duet_sdk.gateway.exposition import Histogram, Lines

if TYPE_CHECKING:
    from duet_sdk.gateway.record import Record
    from duet_sdk.reply import Receipt, Reply

KIND: Final = (b"content-type", b"text/plain; version=0.0.4; charset=utf-8")
_FIRST_S: Final = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Bounds of the time to the first token of an answer: from a small local model to a long signal."""
_WHOLE_S: Final = (0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
"""Bounds of the time of a request: from a cached answer to an agent's longest turn."""
_WAIT_S: Final = (0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0)
"""Bounds of the time in the queue: what nobody notices up to what clients give up at."""
_FALLBACKS: Final = frozenset({"generator_fallback", "reasoner_fallback", "fallback_pair"})


class Metrics:
    """Counts requests and what they took.

    Args:
        by_tenant: whether tenants are named.

    Attributes:
        running: requests that are being answered.
        waiting: requests that wait for their turn.
    """

    def __init__(self, *, by_tenant: bool = False) -> None:
        self.by_tenant = by_tenant
        self.running = 0
        self.waiting = 0
        self._requests: Counter[tuple[str, str, str]] = Counter()
        self._ended: Counter[str] = Counter()
        self._served: Counter[str] = Counter()
        self._tokens: Counter[tuple[str, str]] = Counter()
        self._usd: dict[str, Decimal] = {}
        self._gate: Counter[str] = Counter()
        self._fallbacks: Counter[str] = Counter()
        self._retries: Counter[str] = Counter()
        self._refused: Counter[str] = Counter()
        self._tenant_requests: Counter[str] = Counter()
        self._tenant_tokens: Counter[tuple[str, str, str]] = Counter()
        self._tenant_usd: dict[str, Decimal] = {}
        self._first_s = Histogram(_FIRST_S)
        self._whole_s = Histogram(_WHOLE_S)
        self._wait_s = Histogram(_WAIT_S)

    def waited(self, wait_s: float) -> None:
        """A request has had its turn, or was refused one, after this time in the queue."""
        self._wait_s.add(wait_s)

    def ended(self, record: Record) -> None:
        """A request is over."""
        self._requests[record.wire or "none", record.model, str(record.status)] += 1
        if not record.wire:
            return
        self._ended[record.ended] += 1
        self._whole_s.add(record.so_far_s)
        if record.refused_scope is not None:
            self._refused[record.refused_scope] += 1
        tenant = record.tenant if self.by_tenant else None
        if tenant is not None:
            self._tenant_requests[tenant] += 1
        if record.reply is not None:
            self._spent(record.reply, tenant)
            if record.ended == "complete":
                self._answered(record.reply)

    def _spent(self, reply: Reply, tenant: str | None) -> None:
        stages = (
            ("reasoner", reply.usage.reasoner, reply.cost.reasoner_usd),
            ("generator", reply.usage.generator, reply.cost.generator_usd),
        )
        for stage, usage, usd in stages:
            self._usd[stage] = self._usd.get(stage, Decimal(0)) + (usd or 0)
            for kind, tokens in (("input", usage.input_tokens), ("output", usage.output_tokens)):
                self._tokens[stage, kind] += tokens
                if tenant is not None:
                    self._tenant_tokens[tenant, stage, kind] += tokens
        if tenant is not None:
            self._tenant_usd[tenant] = self._tenant_usd.get(tenant, Decimal(0)) + (reply.cost.usd or 0)
        for stage in _retries(reply.receipt):
            self._retries[stage] += 1
        if reply.gate is not None:
            self._gate["ask" if reply.gate.ask else "skip"] += 1

    def _answered(self, reply: Reply) -> None:
        self._served[reply.served_by] += 1
        if reply.served_by in _FALLBACKS:
            self._fallbacks[reply.served_by] += 1
        if reply.receipt.first_answer_s is not None:
            self._first_s.add(reply.receipt.first_answer_s)

    def text(self, labels: Mapping[str, str] | None = None) -> str:
        """All of it.

        Args:
            labels: for every line, such as which worker this is.
        """
        lines = Lines("duet_gateway_", labels or {})
        lines.gauge("requests_running", "Requests that are being answered", self.running)
        lines.gauge("requests_waiting", "Requests that wait for their turn", self.waiting)
        names = ("wire", "model", "status")
        lines.counter(
            "requests_total", "Requests by protocol, configured model name and status", names, self._requests.items()
        )
        lines.counter("ended_total", "Model requests by how they ended", ("how",), self._ended.items())
        lines.counter("served_total", "Complete answers by who gave them", ("by",), self._served.items())
        lines.counter("tokens_total", "Tokens of both stages", ("stage", "kind"), self._tokens.items())
        lines.counter("usd_total", "Cost in USD, where prices are known", ("stage",), self._usd.items())
        lines.counter("gate_total", "Decisions of the gate", ("decision",), self._gate.items())
        lines.counter("fallbacks_total", "Answers that a fallback gave", ("by",), self._fallbacks.items())
        lines.counter("retries_total", "Calls of a model that followed a failed one", ("stage",), self._retries.items())
        lines.counter("ledger_refusals_total", "Requests without room in the ledger", ("scope",), self._refused.items())
        lines.histogram("first_answer_seconds", "Time to the first token of an answer", self._first_s)
        lines.histogram("request_seconds", "Time of a model request", self._whole_s)
        lines.histogram("queue_seconds", "Time in the queue", self._wait_s)
        if self.by_tenant:
            lines.counter(
                "tenant_requests_total", "Model requests by tenant", ("tenant",), self._tenant_requests.items()
            )
            of_tenants = ("tenant", "stage", "kind")
            lines.counter("tenant_tokens_total", "Tokens by tenant", of_tenants, self._tenant_tokens.items())
            lines.counter("tenant_usd_total", "Cost in USD by tenant", ("tenant",), self._tenant_usd.items())
        return str(lines)


def _retries(receipt: Receipt) -> list[str]:
    """The stage of each call that was made since the one before it, of the same stage, had failed."""
    found: list[str] = []
    failed: set[str] = set()
    for attempt in sorted(receipt.attempts, key=lambda one: one.start_s):
        if attempt.stage in failed:
            found.append(attempt.stage)
            failed.discard(attempt.stage)
        if attempt.error_type not in (None, "cancelled"):
            failed.add(attempt.stage)
    return found
