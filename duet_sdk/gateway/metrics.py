"""What ``/metrics`` shows, in Prometheus' text form: sums over all requests, without anybody's name."""

from __future__ import annotations

from collections import Counter
from decimal import Decimal
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from duet_sdk.reply import Reply

KIND: Final = (b"content-type", b"text/plain; version=0.0.4; charset=utf-8")
_BOUNDS_S: Final = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Of the time to the first token of an answer: from a small local model to a long signal."""


class Metrics:
    """Counts requests and what they took.

    Attributes:
        running: requests that are being answered.
    """

    def __init__(self) -> None:
        self.running = 0
        self._requests: Counter[int] = Counter()
        self._served: Counter[str] = Counter()
        self._tokens: Counter[tuple[str, str]] = Counter()
        self._usd = Decimal(0)
        self._first_s: Counter[float] = Counter()
        self._first_sum_s, self._firsts = 0.0, 0

    def ended(self, status: int, reply: Reply | None) -> None:
        """A request is over; the status is 499 where the client left before it."""
        self._requests[status] += 1
        if reply is None:
            return
        self._served[reply.served_by] += 1
        for stage, usage in (("reasoner", reply.usage.reasoner), ("generator", reply.usage.generator)):
            self._tokens[stage, "input"] += usage.input_tokens
            self._tokens[stage, "output"] += usage.output_tokens
        self._usd += reply.cost.usd or 0
        if (first_s := reply.receipt.first_answer_s) is not None:
            self._firsts += 1
            self._first_sum_s += first_s
            self._first_s[next((bound for bound in _BOUNDS_S if first_s <= bound), float("inf"))] += 1

    def text(self) -> str:
        """All of it."""
        lines = [
            "# TYPE duet_gateway_requests_running gauge",
            f"duet_gateway_requests_running {self.running}",
            "# TYPE duet_gateway_requests_total counter",
            *(f'duet_gateway_requests_total{{status="{key}"}} {n}' for key, n in sorted(self._requests.items())),
            "# TYPE duet_gateway_served_total counter",
            *(f'duet_gateway_served_total{{by="{key}"}} {n}' for key, n in sorted(self._served.items())),
            "# TYPE duet_gateway_tokens_total counter",
            *(
                f'duet_gateway_tokens_total{{stage="{stage}",kind="{kind}"}} {n}'
                for (stage, kind), n in sorted(self._tokens.items())
            ),
            "# TYPE duet_gateway_usd_total counter",
            f"duet_gateway_usd_total {self._usd:f}",
            "# TYPE duet_gateway_first_answer_seconds histogram",
            *self._histogram(),
        ]
        return "\n".join(lines) + "\n"

    def _histogram(self) -> list[str]:
        name, below, lines = "duet_gateway_first_answer_seconds", 0, []
        for bound in _BOUNDS_S:
            below += self._first_s[bound]
            lines.append(f'{name}_bucket{{le="{bound:g}"}} {below}')
        lines += [f'{name}_bucket{{le="+Inf"}} {self._firsts}', f"{name}_sum {self._first_sum_s:.6f}"]
        return [*lines, f"{name}_count {self._firsts}"]
