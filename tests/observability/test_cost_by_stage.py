"""One request is one trace in each tool, whose tokens and money are those of the reply, the receipt and the ledger."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal

import pytest
from opentelemetry.sdk.trace import TracerProvider
from support.traffic import ANSWER, AT_ONCE, BUSY, PRICES, QUESTION, SIGNAL
from tools import EMBEDDED_PRICE, MLflow, Phoenix, Tool, read_back

from duet_sdk import AsyncDuetClient, Budget, Reply
from duet_sdk.backends.scripted import Script, Scripted
from duet_sdk.budget import Entry, MemoryLedger

LIMITS = Budget(signal_tokens=768)


@dataclass(frozen=True)
class Asked:
    """A request that is over and exported."""

    reply: Reply
    entries: list[Entry]

    @property
    def trace_id(self) -> str:
        """As the ledger has it."""
        (found,) = {entry.facts.trace_id for entry in self.entries}
        return found


async def ask(provider: TracerProvider, duet: AsyncDuetClient, ledger: MemoryLedger, limits: Budget = LIMITS) -> Asked:
    async with duet:
        reply = await duet.chat(QUESTION, budget=limits, session="s-1", user="u-1", tenant="t-1")
    assert provider.force_flush()
    return Asked(reply, list(await ledger.entries()))


def scripted(ledger: MemoryLedger, signal: Script, *answers: Script) -> AsyncDuetClient:
    strong, light = Scripted(signal, model="strong-1"), Scripted(*answers, model="light-1")
    return AsyncDuetClient(strong, light, prices=PRICES, ledger=ledger, retry=AT_ONCE, trace_dialects=["mlflow"])


async def test_tokens_and_cost_of_each_stage_are_those_of_reply_receipt_and_ledger(
    tool: Tool, exported: TracerProvider
) -> None:
    ledger = MemoryLedger()
    asked = await ask(exported, scripted(ledger, Script(SIGNAL, billed=611), Script(ANSWER, billed=89)), ledger)

    found = read_back(tool, asked.trace_id, lambda trace: len(trace.spans) == 4 and trace.all_priced)

    names = [span.name for span in found.spans]
    assert names == ["invoke_workflow duet", "duet.gate", "chat strong-1", "chat light-1"]
    assert [span.output_tokens for span in found.spans[2:]] == [611, 89]
    spent = [(span.stage, span.input_tokens, span.output_tokens, span.usd) for span in found.spans[2:]]
    usage, cost = asked.reply.usage, asked.reply.cost
    assert spent == [
        ("reasoner", usage.reasoner.input_tokens, usage.reasoner.output_tokens, cost.reasoner_usd),
        ("generator", usage.generator.input_tokens, usage.generator.output_tokens, cost.generator_usd),
    ]
    assert spent == [
        (done.stage, done.usage.input_tokens, done.usage.output_tokens, done.usd)
        for done in asked.reply.receipt.attempts
    ]
    assert spent == [
        (line.facts.stage, line.facts.input_tokens, line.facts.output_tokens, line.usd) for line in asked.entries
    ]


async def test_the_sums_of_the_tool_count_nothing_twice(tool: Tool, exported: TracerProvider) -> None:
    ledger = MemoryLedger()
    asked = await ask(exported, scripted(ledger, Script(SIGNAL, billed=411), Script(ANSWER, billed=77)), ledger)

    found = read_back(tool, asked.trace_id, lambda trace: len(trace.spans) == 4 and trace.all_priced)

    assert found.total_tokens == asked.reply.usage.total_tokens
    assert found.usd == asked.reply.cost.usd == sum(line.usd or Decimal(0) for line in asked.entries)
    assert [(span.input_tokens, span.usd) for span in found.spans[:2]] == [(None, None), (None, None)]
    assert found.session == "s-1"


async def test_each_attempt_of_a_retried_stage_is_counted_once(tool: Tool, exported: TracerProvider) -> None:
    ledger = MemoryLedger()
    duet = scripted(ledger, Script(SIGNAL, billed=311), Script(ANSWER, error=BUSY, fail_after=2), Script(ANSWER))
    asked = await ask(exported, duet, ledger)

    found = read_back(tool, asked.trace_id, lambda trace: len(trace.spans) == 5 and trace.all_priced)

    answers = [span for span in found.spans if span.stage == "generator"]
    assert [span.output_tokens for span in answers] == [2, 6]
    assert sum(span.usd or Decimal(0) for span in answers) == asked.reply.cost.generator_usd
    assert found.total_tokens == asked.reply.usage.total_tokens
    assert found.usd == asked.reply.cost.usd


async def test_tokens_that_no_server_told_are_not_in_the_tool(tool: Tool, exported: TracerProvider) -> None:
    ledger = MemoryLedger()
    asked = await ask(exported, scripted(ledger, Script(SIGNAL, billed=211), Script(ANSWER, usage="none")), ledger)

    found = read_back(tool, asked.trace_id, lambda trace: len(trace.spans) == 4 and trace.total_tokens > 0)

    assert asked.reply.usage.generator.estimated
    assert found.stages["generator"].output_tokens in (None, 0)  # Phoenix says 0 of none
    assert found.total_tokens == asked.reply.usage.reasoner.total_tokens


async def test_no_question_signal_or_answer_is_in_the_tool(tool: Tool, exported: TracerProvider) -> None:
    ledger = MemoryLedger()
    asked = await ask(exported, scripted(ledger, Script(SIGNAL), Script(ANSWER)), ledger)

    found = read_back(tool, asked.trace_id, lambda trace: len(trace.spans) == 4)

    assert [text for text in (QUESTION, SIGNAL, ANSWER) if text[:12] in found.text] == []


@pytest.mark.model
async def test_tokens_and_cost_of_the_embedded_pair_are_in_both_tools(
    phoenix: Phoenix, mlflow: MLflow, export_to: Callable[..., TracerProvider]
) -> None:
    ledger = MemoryLedger()
    duet = AsyncDuetClient(prices={"embedded": EMBEDDED_PRICE}, ledger=ledger, trace_dialects=["mlflow"])
    asked = await ask(export_to(phoenix, mlflow), duet, ledger, Budget(signal_tokens=16, answer_tokens=16))

    for tool in (phoenix, mlflow):
        found = read_back(tool, asked.trace_id, lambda trace: len(trace.spans) == 4 and trace.all_priced)

        assert [(span.stage, span.input_tokens, span.output_tokens, span.usd) for span in found.spans[2:]] == [
            (line.facts.stage, line.facts.input_tokens, line.facts.output_tokens, line.usd) for line in asked.entries
        ]
        assert found.total_tokens == asked.reply.usage.total_tokens
        assert found.usd == asked.reply.cost.usd
