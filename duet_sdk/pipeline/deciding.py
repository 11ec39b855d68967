"""Asking a gate, a shipped one or a user's: within its time, and so that whatever goes wrong counts as yes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable

from duet_sdk.errors import DuetError
from duet_sdk.gate import Gate, TokenGate
from duet_sdk.pipeline.flow import Flow
from duet_sdk.reply import GateDecision

_log = logging.getLogger(__name__)

SHARE_OF_DEADLINE = 0.25
"""Most of a request's time that a decision may take, so that there is time left to act on it."""


async def decided(flow: Flow, gate: Gate | TokenGate, asking: Awaitable[object]) -> GateDecision:
    """What the gate says; yes where it fails, says nothing useful, or takes too long.

    Raises:
        DuetError: the gate raised one.
    """
    started_s, deadline_s = flow.budget.elapsed_s(), flow.budget.limits.deadline_s
    limit_s = flow.parts.gate_deadline_s
    if deadline_s is not None:
        limit_s = min(limit_s, deadline_s * SHARE_OF_DEADLINE)
    timeout = asyncio.timeout(limit_s)
    try:
        async with timeout:
            answer = await asking
    except DuetError:
        raise
    except Exception as error:  # noqa: BLE001  # a user's gate may raise anything; no answer gets worse by it
        problem = f"took longer than {limit_s:g} s" if timeout.expired() else f"failed with {type(error).__name__}"
    else:
        if isinstance(answer, GateDecision):
            return answer
        problem = f"returned a {type(answer).__name__}"
    finally:
        flow.draft.account.gate_s += flow.budget.elapsed_s() - started_s
    _log.warning("gate %s %s; the reasoner is asked", gate.name, problem)
    return GateDecision(ask=True, policy=gate.name, reason=f"the gate {problem}")
