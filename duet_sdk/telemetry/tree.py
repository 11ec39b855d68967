"""The spans of one request as a tree for the terminal, from its reply: nothing has to be recorded or installed for it.

Import it on use only; it needs rich.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from rich.text import Text

from duet_sdk.telemetry import names

if TYPE_CHECKING:
    from decimal import Decimal

    from duet_sdk.reply import Attempt, GateDecision, Reply

_UNANSWERED: Final = ("error", "deadline", "cancelled")
"""How a request ends that has no whole answer, and so nobody who gave one."""


def span_tree(reply: Reply) -> Text:
    """What spans of this request say, in the order in which its attempts ended: tokens, cost and time."""
    receipt = reply.receipt
    root = [
        f"mode {reply.mode}",
        f"ended by {reply.finish_reason}" if reply.finish_reason in _UNANSWERED else f"served by {reply.served_by}",
        f"{'~' if reply.cost.estimated else ''}{reply.usage.total_tokens} tokens",
        _usd(reply.cost.usd),
        f"{receipt.duration_s:.3f} s",
    ]
    if receipt.first_answer_s is not None:
        root.append(f"answer from {receipt.first_answer_s:.3f} s")
    below = [(f"{names.CHAT} {attempt.model}", _attempt(attempt)) for attempt in receipt.attempts]
    if reply.gate is not None:
        below.insert(0, (f"{names.GATE_SPAN} {reply.gate.policy}", _decision(reply.gate, receipt.gate_s)))
    tree = Text()
    _add(tree, "", f"{names.INVOKE_WORKFLOW} {names.WORKFLOW}", root)
    for at, (name, facts) in enumerate(below):
        _add(tree, "\n└── " if at == len(below) - 1 else "\n├── ", name, facts)
    return tree


def _add(tree: Text, branch: str, name: str, facts: list[str]) -> None:
    tree.append(branch).append(name, style="bold").append("  " + " · ".join(facts))


def _decision(decision: GateDecision, took_s: float) -> list[str]:
    facts = ["ask" if decision.ask else "skip"]
    if decision.score is not None:
        facts.append(f"score {decision.score:g}")
    if decision.threshold is not None:
        facts.append(f"threshold {decision.threshold:g}")
    return [*facts, f"{took_s:.3f} s"]


def _attempt(attempt: Attempt) -> list[str]:
    about = "~" if attempt.usage.estimated else ""
    end_s = attempt.start_s + attempt.duration_s
    facts = [
        f"{attempt.stage} {attempt.attempt}",
        attempt.kind,
        f"{about}{attempt.usage.input_tokens} in",
        f"{about}{attempt.usage.output_tokens} of {attempt.limit_tokens} out",
        _usd(attempt.usd),
        f"{attempt.start_s:.3f} to {end_s:.3f} s",
    ]
    if attempt.truncated:
        facts.append("cut")
    if attempt.discarded:
        facts.append("discarded")
    return facts + [said for said in (attempt.error_type, attempt.error) if said is not None]


def _usd(usd: Decimal | None) -> str:
    return "price unknown" if usd is None else f"{usd:f} USD"
