"""DUET's replies → LangChain's messages."""

from __future__ import annotations

import json
from dataclasses import asdict
from uuid import uuid4

from langchain_core.messages import AIMessage, InvalidToolCall
from langchain_core.messages import ToolCall as LangChainCall
from langchain_core.messages.ai import InputTokenDetails, OutputTokenDetails, UsageMetadata
from langchain_core.messages.tool import invalid_tool_call, tool_call
from langchain_core.outputs import ChatGeneration, ChatResult

from duet_sdk import Reply, ToolCall
from langchain_duet.messages import PARTS, PROVIDER


def chat_result(reply: Reply) -> ChatResult:
    """The reply as one generation for each of its answers, the chosen one first; that one has calls and usage."""
    chosen = AIMessage(
        content=reply.text,
        additional_kwargs={"reasoning_content": signal} if (signal := reply.message.signal) else {},
        tool_calls=[call for each in reply.tool_calls if (call := _read(each)) is not None],
        invalid_tool_calls=[_broken(each) for each in reply.tool_calls if _read(each) is None],
        usage_metadata=usage_metadata(reply),
        response_metadata=response_metadata(reply),
    )
    others = list(reply.answers)
    if reply.text in others:
        others.remove(reply.text)
    rest = [AIMessage(content=text, response_metadata={"model_provider": PROVIDER}) for text in others]
    info = {"finish_reason": reply.finish_reason}
    return ChatResult(
        generations=[ChatGeneration(message=message, generation_info=info) for message in (chosen, *rest)]
    )


def usage_metadata(reply: Reply) -> UsageMetadata:
    """Tokens of both stages together; those spent on the signal are its reasoning."""
    stages = (reply.usage.reasoner, reply.usage.generator)
    return UsageMetadata(
        input_tokens=sum(stage.input_tokens for stage in stages),
        output_tokens=sum(stage.output_tokens for stage in stages),
        total_tokens=reply.usage.total_tokens,
        input_token_details=InputTokenDetails(cache_read=sum(stage.cached_tokens or 0 for stage in stages)),
        output_token_details=OutputTokenDetails(
            reasoning=sum(
                attempt.usage.output_tokens
                for attempt in reply.receipt.attempts
                if attempt.kind in ("signal", "wrap_up")
            )
        ),
    )


def response_metadata(reply: Reply, *, shown: str | None = None) -> dict[str, object]:
    """What LangChain expects of every provider, and DUET's own facts as JSON-ready values.

    Args:
        reply: the complete reply.
        shown: the signal as a stream showed it, None if there was no stream; where the signal became another text
            in the end, that text stands in ``signal``.
    """
    told = reply.signal
    signal: dict[str, object] = {
        "tokens": told.tokens,
        "limit": told.limit,
        "truncated": told.truncated,
        "honoured": told.honoured,
        "counted_by": told.counted_by,
    }
    final = reply.message.signal or ""
    if shown is not None and shown != final:
        signal["text"] = final
    cost, parts = reply.cost, reply.provider_parts
    back = {} if parts is None else {PARTS: asdict(parts)}
    return back | {
        "id": f"duet-{uuid4().hex}",
        "model_provider": PROVIDER,
        "model_name": model_name(reply.models["reasoner"], reply.models["generator"]),
        "finish_reason": reply.finish_reason,
        "mode": reply.mode,
        "served_by": reply.served_by,
        "why": reply.why,
        "handoff": reply.handoff,
        "gate": None if reply.gate is None else asdict(reply.gate),
        "signal": signal,
        "cost_usd": None if cost.usd is None else format(cost.usd, "f"),
        "cost_estimated": cost.estimated,
        "models": dict(reply.models),
        "run": None if reply.receipt.run is None else {"reasoner_calls": reply.receipt.run.reasoner_calls},
    }


def model_name(reasoner: str, generator: str) -> str:
    """How a pair is called in traces and where usage is summed by model."""
    return generator if reasoner == generator else f"{reasoner} + {generator}"


def _read(call: ToolCall) -> LangChainCall | None:
    """A call with its arguments; None if these are not a JSON object."""
    try:
        arguments: object = json.loads(call.arguments or "{}", strict=False)
    except ValueError:
        return None
    return tool_call(name=call.name, args=arguments, id=call.id) if isinstance(arguments, dict) else None


def _broken(call: ToolCall) -> InvalidToolCall:
    problem = "the arguments are not a JSON object"
    return invalid_tool_call(name=call.name, args=call.arguments, id=call.id, error=problem)
