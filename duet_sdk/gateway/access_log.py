"""The access log: a line of JSON for each request, with numbers and names, and nothing of what was said."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from duet_sdk._shown import OBEYED

if TYPE_CHECKING:
    from duet_sdk.gateway.record import Record

LOG: Final = "duet_sdk.gateway.access"
"""The log's name; each record is one line."""
_LONGEST: Final = 200
"""Characters of a model's name that are kept; none that is served has more."""
_log = logging.getLogger(LOG)


def write(record: Record) -> None:
    """Log a request that is over."""
    _log.info("%s", line(record))


def line(record: Record) -> str:
    """A request as one line of printable ASCII, so that no client can begin a line of its own or steer a terminal."""
    told: dict[str, Any] = {
        "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "receipt": record.receipt,
        "method": record.method,
        "path": record.path,
        "status": record.status,
        "ended": record.ended,
        "seconds": round(record.so_far_s, 4),
    }
    if record.wire:
        told |= {
            "wire": record.wire,
            "tenant": record.tenant,
            "model": record.asked[:_LONGEST],
            "streamed": record.streamed,
        }
    if record.code is not None:
        told["code"] = record.code
    if (reply := record.reply) is not None:
        signal, answer, cost = reply.usage.reasoner, reply.usage.generator, reply.cost
        told |= {
            "served_by": reply.served_by,
            "reasoner_tokens": [signal.input_tokens, signal.output_tokens],
            "generator_tokens": [answer.input_tokens, answer.output_tokens],
            "usd": None if cost.usd is None else format(cost.usd, "f"),
            "first_answer_s": reply.receipt.first_answer_s and round(reply.receipt.first_answer_s, 4),
        }
    # JSON leaves DEL as it is, which some terminals obey.
    return OBEYED.sub(lambda found: f"\\u{ord(found[0]):04x}", json.dumps(told, ensure_ascii=True))
