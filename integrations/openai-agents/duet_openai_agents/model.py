"""A DUET pair as a `Model` of the OpenAI Agents SDK."""

import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from agents import (
    GenerationSpanData,
    Handoff,
    Model,
    ModelResponse,
    ModelSettings,
    ModelTracing,
    Span,
    Tool,
    Usage,
    UserError,
    generation_span,
)
from agents.agent_output import AgentOutputSchemaBase
from agents.items import TResponseInputItem, TResponseStreamEvent
from agents.models.chatcmpl_converter import Converter
from agents.models.chatcmpl_stream_handler import ChatCmplStreamHandler
from agents.models.fake_id import FAKE_RESPONSES_ID
from agents.models.reasoning_content_replay import ReasoningContentReplayContext
from agents.retry import ModelRetryAdvice, ModelRetryAdviceRequest, ModelRetryNormalizedError
from openai import Omit
from openai.types.responses import Response, ResponseOutputItem, ResponseReasoningItem
from openai.types.responses.response_prompt_param import ResponsePromptParam

from duet_openai_agents.chunks import MODEL, chunks_of, message_of, usage_of
from duet_sdk import AsyncDuetClient, BackendError, Budget, ConnectFailed, Reply
from duet_sdk.options import CallOptions
from duet_sdk.types import ProviderParts

PARTS = "provider_parts"
"""In the ``provider_data`` of a response's last item: what its model wants back with it."""
_OPTIONS = frozenset(CallOptions.__annotations__) | {"gate"}


class DuetModel(Model):
    """A pair behind an `Agent`: its signal is a reasoning item; `facts_of` a response says what was spent.

    ``ModelSettings.extra_args`` sets what a request to a pair can set: ``budget``, ``mode``, ``gate``, ``session``, ….

    Args:
        client: the pair; it stays the caller's to close.
    """

    def __init__(self, client: AsyncDuetClient) -> None:
        self.client = client
        self.model = "+".join(client.models[stage] for stage in ("reasoner", "generator"))

    async def get_response(
        self,
        system_instructions: str | None,
        input: str | list[TResponseInputItem],  # noqa: A002 - the SDK passes it by name
        model_settings: ModelSettings,
        tools: list[Tool],
        output_schema: AgentOutputSchemaBase | None,
        handoffs: list[Handoff],
        tracing: ModelTracing,
        *,
        previous_response_id: str | None,
        conversation_id: str | None,
        prompt: ResponsePromptParam | None,
    ) -> ModelResponse:
        """Answer in one piece.

        Raises:
            DuetError: as `AsyncDuetClient.chat`; the runner retries what `get_retry_advice` says.
            UserError: something that only OpenAI's own servers can do.
        """
        _refuse(previous_response_id=previous_response_id, conversation_id=conversation_id, prompt=prompt)
        options = _options(system_instructions, input, model_settings, [*tools, *handoffs], output_schema)
        with generation_span(model=self.model, disabled=tracing.is_disabled()) as span:
            reply = await self.client.chat(**options)
            output = Converter.message_to_output_items(message_of(reply), provider_data={"model": MODEL})
            _attach(output, reply)
            usage = usage_of(reply)
            _trace(span, output, usage.prompt_tokens, usage.completion_tokens, tracing)
        return ModelResponse(
            output,
            Usage(
                requests=1,
                input_tokens=usage.prompt_tokens,
                output_tokens=usage.completion_tokens,
                total_tokens=usage.total_tokens,
                input_tokens_details=usage.prompt_tokens_details,  # type: ignore[arg-type]  # the SDK converts these
                output_tokens_details=usage.completion_tokens_details,  # type: ignore[arg-type]
            ),
            response_id=None,
        )

    async def stream_response(
        self,
        system_instructions: str | None,
        input: str | list[TResponseInputItem],  # noqa: A002 - the SDK passes it by name
        model_settings: ModelSettings,
        tools: list[Tool],
        output_schema: AgentOutputSchemaBase | None,
        handoffs: list[Handoff],
        tracing: ModelTracing,
        *,
        previous_response_id: str | None,
        conversation_id: str | None,
        prompt: ResponsePromptParam | None,
    ) -> AsyncIterator[TResponseStreamEvent]:
        """Answer event by event; closing the iterator ends both stages. Raises as `get_response`."""
        _refuse(previous_response_id=previous_response_id, conversation_id=conversation_id, prompt=prompt)
        options = _options(system_instructions, input, model_settings, [*tools, *handoffs], output_schema)
        about = {"model": self.model, "tool_choice": "auto", "parallel_tool_calls": True, "tools": [], "output": []}
        response = Response(id=FAKE_RESPONSES_ID, created_at=time.time(), object="response", **about)
        with generation_span(model=self.model, disabled=tracing.is_disabled()) as span:
            async with self.client.stream(**options) as run:
                async for event in ChatCmplStreamHandler.handle_stream(response, chunks_of(run), model=MODEL):
                    if event.type == "response.completed":
                        usage = usage_of(run.reply)
                        _attach(event.response.output, run.reply)
                        _trace(span, event.response.output, usage.prompt_tokens, usage.completion_tokens, tracing)
                    yield event

    def get_retry_advice(self, request: ModelRetryAdviceRequest) -> ModelRetryAdvice | None:
        """What DUET knows of its own errors, for the runner's retry policies."""
        error = request.error
        if not isinstance(error, BackendError):
            return None
        facts = ModelRetryNormalizedError(
            status_code=error.status,
            message=str(error),
            retry_after=error.retry_after,
            is_network_error=isinstance(error, ConnectFailed),
        )
        return ModelRetryAdvice(error.retryable, error.retry_after, reason=str(error), normalized=facts)


def facts_of(response: ModelResponse) -> dict[str, Any]:
    """What a pair said of a response (`Reply.summary`); empty where another model gave it."""
    told = (getattr(item, "provider_data", None) or {} for item in response.output)
    return next((facts["duet"] for facts in told if "duet" in facts), {})


def _attach(output: Sequence[Any], reply: Reply) -> None:
    """Put the facts on the last item, and the signal as it was handed over in place of what was shown of it."""
    for item in output:
        if isinstance(item, ResponseReasoningItem) and item.summary:
            item.summary[0].text = reply.signal.text
    if output:
        parts = reply.provider_parts
        back = {} if parts is None else {PARTS: asdict(parts)}
        output[-1].provider_data = {"model": MODEL, "duet": reply.summary(), **back}


def _trace(
    span: Span[GenerationSpanData], output: Sequence[ResponseOutputItem], read: int, written: int, tracing: ModelTracing
) -> None:
    span.span_data.usage = {"input_tokens": read, "output_tokens": written}
    if tracing.include_data():
        told = [item.model_dump() for item in output]
        for item in told:
            (item.get("provider_data") or {}).pop(PARTS, None)  # no part of a trace
        span.span_data.output = told


def _refuse(**managed: object) -> None:
    if given := [name for name, value in managed.items() if value is not None]:
        raise UserError(f"{', '.join(given)}: only OpenAI's servers keep these; a pair reads the whole history")


def _options(
    system: str | None,
    items: str | list[TResponseInputItem],
    settings: ModelSettings,
    tools: Sequence[Tool | Handoff],
    output_schema: AgentOutputSchemaBase | None,
) -> dict[str, Any]:
    """What `AsyncDuetClient.chat` is asked."""
    extra = dict(settings.extra_args or {})
    if unknown := sorted(extra.keys() - _OPTIONS):
        raise UserError(f"extra_args: a pair knows no {unknown[0]!r}; known: {', '.join(sorted(_OPTIONS))}")
    budget = extra.pop("budget", None) or Budget()
    budget = Budget(**budget) if isinstance(budget, Mapping) else budget
    messages = Converter.items_to_messages(
        items, model=MODEL, should_replay_reasoning_content=_is_own, preserve_tool_output_all_content=True
    )
    functions = [
        Converter.convert_handoff_tool(tool) if isinstance(tool, Handoff) else Converter.tool_to_openai(tool)
        for tool in tools
    ]
    choice = Converter.convert_tool_choice(settings.tool_choice)
    wanted = Converter.convert_response_format(output_schema)
    return {
        "messages": [*([{"role": "system", "content": system}] if system else []), *_with_ours(messages, items)],
        "tools": functions,
        "tool_choice": None if isinstance(choice, Omit) else choice,
        "response_format": None if isinstance(wanted, Omit) else wanted,
        "temperature": settings.temperature,
        "top_p": settings.top_p,
        "metadata": settings.metadata,
        **extra,
        "budget": budget.over(Budget(answer_tokens=settings.max_tokens)),
    }


def _with_ours(
    messages: Sequence[Mapping[str, Any]], items: str | Sequence[TResponseInputItem]
) -> Iterator[Mapping[str, Any]]:
    """The messages with signals as such, which stand as reasoning until then, and with what their models want back."""
    back: dict[object, ProviderParts] = {}
    for item in items:
        told = item.get("provider_data") if isinstance(item, Mapping) else None
        parts = ProviderParts.parse(told.get(PARTS)) if isinstance(told, Mapping) else None
        if parts is not None and isinstance(item, Mapping):
            back[item.get("call_id") or _text(item.get("content"))] = parts
    for message in messages:
        if message["role"] != "assistant":
            yield message
            continue
        named = [call.get("id") for call in message.get("tool_calls") or ()] or [message.get("content")]
        parts = next((back[name] for name in reversed(named) if isinstance(name, str) and name in back), None)
        yield {**message, "signal": message.get("reasoning_content"), "provider_parts": parts}


def _text(content: object) -> str:
    pieces = content if isinstance(content, list) else []
    return "\n".join(str(piece.get("text", "")) for piece in pieces if isinstance(piece, Mapping))


def _is_own(found: ReasoningContentReplayContext) -> bool:
    return found.reasoning.origin_model == MODEL
