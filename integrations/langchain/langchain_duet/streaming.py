"""DUET's events → the chunks of LangChain's streams."""

from __future__ import annotations

from langchain_core.messages import AIMessageChunk
from langchain_core.messages.tool import tool_call_chunk
from langchain_core.outputs import ChatGenerationChunk

from duet_sdk import (
    AnswerDelta,
    Done,
    DuetError,
    Event,
    FellBack,
    Reply,
    Retried,
    SignalDelta,
    ToolCallDelta,
)
from langchain_duet.messages import PROVIDER
from langchain_duet.replies import response_metadata, usage_metadata


class Chunks:
    """Makes the chunks of one stream.

    Args:
        blocks: whether content is written as LangChain's standard blocks (``output_version="v1"``).
    """

    def __init__(self, *, blocks: bool) -> None:
        self._blocks = blocks
        self._signal: list[str] = []
        self._answered = False

    def of(self, event: Event) -> ChatGenerationChunk | None:
        """The chunk that shows an event, None if there is nothing to show.

        Raises:
            DuetError: an answer starts over of which a part was handed on.
        """
        match event:
            case SignalDelta():
                self._signal.append(event.text)
                return self._signalled(event.text)
            case AnswerDelta() if event.index == 0 and event.text:
                self._answered = True
                return self._answer(event.text)
            case ToolCallDelta() if event.index == 0:
                self._answered = True
                return _called(event)
            case Retried() | FellBack() if event.discard:
                if event.stage == "generator" and self._answered:
                    raise DuetError(
                        "the answer starts over, and text that a LangChain stream has shown cannot be retracted: "
                        "use invoke(), or leave answer_broken at its default"
                    )
                return None
            case Done():
                return self._last(event.reply)
            case _:
                return None

    def _signalled(self, text: str) -> ChatGenerationChunk:
        # Reasoning and a tool call in one message fall together where both are number 0 of their content: a text as
        # index keeps them apart (langchain_core.utils._merge).
        block: dict[str, object] = {"type": "reasoning", "reasoning": text, "index": "lc_rs_0"}
        return _chunk([block] if self._blocks else "", additional_kwargs={"reasoning_content": text})

    def _answer(self, text: str) -> ChatGenerationChunk:
        return _chunk([{"type": "text", "text": text, "index": "lc_txt_0"}] if self._blocks else text)

    def _last(self, reply: Reply) -> ChatGenerationChunk:
        facts = response_metadata(reply, shown="".join(self._signal))
        message = AIMessageChunk(
            content=[] if self._blocks else "",
            response_metadata=facts,
            usage_metadata=usage_metadata(reply),
            chunk_position="last",
        )
        return ChatGenerationChunk(message=message, generation_info={"finish_reason": reply.finish_reason})


def _called(delta: ToolCallDelta) -> ChatGenerationChunk:
    call = tool_call_chunk(name=delta.name, args=delta.arguments, id=delta.id, index=delta.position)
    message = AIMessageChunk(content="", tool_call_chunks=[call], response_metadata={"model_provider": PROVIDER})
    return ChatGenerationChunk(message=message)


def _chunk(
    content: str | list[str | dict[str, object]], additional_kwargs: dict[str, object] | None = None
) -> ChatGenerationChunk:
    message = AIMessageChunk(
        content=content,
        additional_kwargs=additional_kwargs or {},
        response_metadata={"model_provider": PROVIDER},
    )
    return ChatGenerationChunk(message=message)
