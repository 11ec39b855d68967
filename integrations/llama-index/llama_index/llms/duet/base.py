"""A DUET pair as an `LLM` of LlamaIndex."""

from collections.abc import Mapping, Sequence
from json import JSONDecodeError
from threading import Lock
from typing import Any

from llama_index.core.base.llms.generic_utils import (
    achat_to_completion_decorator,
    astream_chat_to_completion_decorator,
    chat_to_completion_decorator,
    stream_chat_to_completion_decorator,
)
from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    ChatResponseAsyncGen,
    ChatResponseGen,
    CompletionResponse,
    CompletionResponseAsyncGen,
    CompletionResponseGen,
    LLMMetadata,
    MessageRole,
    ToolCallBlock,
)
from llama_index.core.bridge.pydantic import Field, PrivateAttr
from llama_index.core.constants import DEFAULT_CONTEXT_WINDOW
from llama_index.core.llms.callbacks import llm_chat_callback, llm_completion_callback
from llama_index.core.llms.function_calling import FunctionCallingLLM
from llama_index.core.llms.llm import ToolSelection
from llama_index.core.llms.utils import parse_partial_json
from llama_index.core.tools.types import BaseTool
from llama_index.llms.duet.messages import Folded, response_of, to_duet

from duet_sdk import AsyncDuetClient, Budget, DuetClient
from duet_sdk.policies import DEFAULT_BUDGET


class DuetLLM(FunctionCallingLLM):
    """A pair wherever LlamaIndex takes an LLM: its signal is a `ThinkingBlock`, ``raw["duet"]`` is `Reply.summary`.

    Every call takes what `AsyncDuetClient.chat` takes (``budget``, ``mode``, ``gate``, ``session``, …).

    Args:
        client: the pair; it stays the caller's to close.
        context_window: tokens of the smaller of both models' windows, by which LlamaIndex packs its prompts.
        num_output: output tokens of an answer, and with them ``answer_tokens`` where a call's budget names none.
        call_options: defaults of every call.
    """

    context_window: int = Field(DEFAULT_CONTEXT_WINDOW, description="Tokens of the smaller window of the two models.")
    num_output: int = Field(DEFAULT_BUDGET.answer_tokens, description="Output tokens of one answer.")
    call_options: dict[str, Any] = Field(default_factory=dict, description="Defaults of every call.", exclude=True)
    _client: AsyncDuetClient = PrivateAttr()
    _face: DuetClient | None = PrivateAttr(None)
    _lock: Any = PrivateAttr(default_factory=Lock)

    def __init__(self, client: AsyncDuetClient, **fields: Any) -> None:
        super().__init__(**fields)
        self._client = client

    @classmethod
    def class_name(cls) -> str:
        """``duet_llm``."""
        return "duet_llm"

    @property
    def metadata(self) -> LLMMetadata:
        """A chat model that calls tools; its name has both models, the reasoner first."""
        return LLMMetadata(
            context_window=self.context_window,
            num_output=self.num_output,
            is_chat_model=True,
            is_function_calling_model=True,
            model_name="+".join(self._client.models[stage] for stage in ("reasoner", "generator")),
        )

    @property
    def _sync(self) -> DuetClient:
        with self._lock:
            self._face = self._face or DuetClient.over(self._client)
            return self._face

    def _options(self, messages: Sequence[ChatMessage], given: dict[str, Any]) -> dict[str, Any]:
        options = {**self.call_options, **given, "messages": to_duet(messages)}
        budget = options.get("budget") or Budget()
        budget = Budget(**budget) if isinstance(budget, Mapping) else budget
        return {**options, "budget": budget.over(Budget(answer_tokens=self.num_output))}

    def _chat(self, messages: Sequence[ChatMessage], **options: Any) -> ChatResponse:
        return response_of(self._sync.chat(**self._options(messages, options)))

    def _stream_chat(self, messages: Sequence[ChatMessage], **options: Any) -> ChatResponseGen:
        folded = Folded()
        with self._sync.stream(**self._options(messages, options)) as run:
            for event in run:
                yield from folded.take(event)

    async def _achat(self, messages: Sequence[ChatMessage], **options: Any) -> ChatResponse:
        return response_of(await self._client.chat(**self._options(messages, options)))

    async def _astream_chat(self, messages: Sequence[ChatMessage], **options: Any) -> ChatResponseAsyncGen:
        async def responses() -> ChatResponseAsyncGen:
            folded = Folded()
            async with self._client.stream(**self._options(messages, options)) as run:
                async for event in run:
                    for response in folded.take(event):
                        yield response

        return responses()

    @llm_chat_callback()
    def chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """Answer in one piece. Raises as `DuetClient.chat`."""
        return self._chat(messages, **kwargs)

    @llm_chat_callback()
    def stream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseGen:
        """Answer piece by piece; closing the generator ends both stages."""
        return self._stream_chat(messages, **kwargs)

    @llm_chat_callback()
    async def achat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """Answer in one piece."""
        return await self._achat(messages, **kwargs)

    @llm_chat_callback()
    async def astream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseAsyncGen:
        """Answer piece by piece; closing the generator ends both stages."""
        return await self._astream_chat(messages, **kwargs)

    @llm_completion_callback()
    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        """Answer a question without a history."""
        return chat_to_completion_decorator(self._chat)(prompt, **kwargs)

    @llm_completion_callback()
    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseGen:
        """Answer a question without a history, piece by piece."""
        return stream_chat_to_completion_decorator(self._stream_chat)(prompt, **kwargs)

    @llm_completion_callback()
    async def acomplete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        """Answer a question without a history."""
        return await achat_to_completion_decorator(self._achat)(prompt, **kwargs)

    @llm_completion_callback()
    async def astream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseAsyncGen:
        """Answer a question without a history, piece by piece."""
        return await astream_chat_to_completion_decorator(self._astream_chat)(prompt, **kwargs)

    def _prepare_chat_with_tools(
        self,
        tools: Sequence[BaseTool],
        user_msg: str | ChatMessage | None = None,
        chat_history: list[ChatMessage] | None = None,
        verbose: bool = False,
        allow_parallel_tool_calls: bool = False,
        tool_required: bool = False,
        tool_choice: str | dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        asked = ChatMessage(role=MessageRole.USER, content=user_msg) if isinstance(user_msg, str) else user_msg
        choice = tool_choice or ("required" if tool_required else "auto")
        if isinstance(choice, str) and choice not in ("auto", "required", "none"):
            choice = {"type": "function", "function": {"name": choice}}
        functions = [tool.metadata.to_openai_tool(skip_length_check=True) for tool in tools]
        told = {"tools": functions, "tool_choice": choice if functions else None}
        return {"messages": [*(chat_history or []), *([asked] if asked else [])], **told, **kwargs}

    def get_tool_calls_from_response(
        self, response: ChatResponse, error_on_no_tool_call: bool = True, **kwargs: Any
    ) -> list[ToolSelection]:
        """The calls of a response, also of one that is still being streamed."""
        calls = [block for block in response.message.blocks if isinstance(block, ToolCallBlock)]
        if not calls and error_on_no_tool_call:
            raise ValueError("the model called no tool")
        return [
            ToolSelection(tool_id=call.tool_call_id or "", tool_name=call.tool_name, tool_kwargs=_read(call))
            for call in calls
        ]


def _read(call: ToolCallBlock) -> dict[str, Any]:
    """Its arguments; empty if they are not JSON, so that the tool reports what is missing."""
    try:
        given = call.tool_kwargs if isinstance(call.tool_kwargs, dict) else parse_partial_json(call.tool_kwargs or "{}")
    except (ValueError, TypeError, JSONDecodeError):
        return {}
    return given if isinstance(given, dict) else {}
