"""What a vLLM server was started for, read from how it refuses impossible requests: costs no tokens.

Each request asks to go on from a token that no vocabulary has. vLLM checks what is asked for here before it looks at
the prompt, and names what it does not take.

Source: vLLM 0.32, ``entrypoints/generate/base/protocol.py`` (stop texts), ``sampling_params.py`` (draft models),
``v1/engine/input_processor.py`` (thinking budget, ranks).
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from duet_sdk.errors import BackendError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from duet_sdk.types import Json

RANK_HEADER = "X-data-parallel-rank"
_BUDGET = "thinking_token_budget"
_NO_BUDGET = -7
"""A value that vLLM does not know as a thinking budget."""
_NO_TOKEN = 2**31 - 1
"""A token id that no vocabulary has."""
_NO_RANK = 2**20
"""More engines than any server has."""
_MANY_STOPS = 257
"""A server that takes as many stop texts (``VLLM_MAX_STOP_STRINGS``) counts as one without a limit."""
_MOST_STOPS = re.compile(r"at most (\d{1,4}) items")
_RANKS = re.compile(r"out of range \[0, (\d{1,6})\)")
REFUSED_BESIDE_DRAFTS = ("min_p", "logit_bias")
"""What vLLM refuses where a draft model writes ahead (speculative decoding)."""


@dataclass(frozen=True, slots=True)
class VllmLimits:
    """What a vLLM server takes; the defaults stand for what no answer told."""

    thinking_budget: bool | None = None
    """Whether it was started for ``thinking_token_budget``; None where it does not tell."""
    stop_texts: int | None = None
    """Most stop texts of a request; None for no limit that is known."""
    drafts: bool = False
    """Whether a draft model writes ahead."""
    ranks: int = 1
    """Data-parallel engines behind its address, each with a prefix cache of its own."""


async def find_limits(ask: Callable[..., Awaitable[Any]], model: str) -> VllmLimits:
    """Ask a server that is known to be vLLM.

    Args:
        ask: (path, JSON to post, headers) → JSON.
        model: as the server names it.
    """

    async def refusal(asked: Json, headers: Mapping[str, str] | None = None) -> str | None:
        """What the server says against it; None where it says nothing to it."""
        body: Json = {"model": model, "prompt": [_NO_TOKEN], "max_tokens": 1, **asked}
        try:
            await ask("/completions", body, headers)
        except BackendError as error:
            return str(error) if error.status in (400, 422) else None
        return None

    async def in_turn(*asked: Awaitable[str | None]) -> list[str | None]:
        return [await one for one in asked]

    # Two connections, as the probes for the template take.
    (no_budget, stops, ranks), (budget, drafts) = await asyncio.gather(
        in_turn(
            refusal({_BUDGET: _NO_BUDGET}),
            refusal({"stop": ["."] * _MANY_STOPS}),
            refusal({}, {RANK_HEADER: str(_NO_RANK)}),
        ),
        in_turn(refusal({_BUDGET: 1}), refusal({"min_p": 0.5})),
    )
    most_stops, engines = _MOST_STOPS.search(stops or ""), _RANKS.search(ranks or "")
    return VllmLimits(
        thinking_budget=None if no_budget is None or budget is None else _BUDGET in no_budget and _BUDGET not in budget,
        stop_texts=int(most_stops[1]) if most_stops else None,
        drafts="speculative" in (drafts or ""),
        ranks=int(engines[1]) if engines else 1,
    )
