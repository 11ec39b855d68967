"""What other libraries call an option or a method, answered with what to write instead.

Type checkers do not see the methods: to them none of these exists.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Final

from duet_sdk.errors import Misuse

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import NoReturn, TypeVar

    _Function = TypeVar("_Function", bound=Callable[..., object])

_LIMIT: Final = "write budget=Budget({}=…)"
_ANSWER: Final = f"{_LIMIT.format('answer_tokens')} for the answer, or signal_tokens for the reasoner's signal"
_USD: Final = _LIMIT.format("cost_usd")
_SYSTEM: Final = "begin the messages with {'role': 'system', 'content': …}, or use duet.conversation(system=…)"
_MESSAGES: Final = "the messages are the first argument: duet.chat([…])"
_QUESTION: Final = "the question is the first argument: duet.chat('…')"
_MODELS: Final = (
    "models are the client's: DuetClient(reasoner=…, generator=…), named backend/model; mode='reasoner' or "
    "mode='generator' asks one of them alone"
)
_PLACE: Final = (
    "each model has its own: 'vllm/MODEL@http://host:port/v1', or Endpoint(model='vllm/MODEL', base_url=…, "
    "api_key_env=…)"
)
_HEADERS: Final = "each model has its own: Endpoint(model=…, options={'headers': {…}})"
_RETRY: Final = "write on_failure=FailurePolicy(retry=Retry(attempts=…)) for the client"
_FORM: Final = "write response_format=…, a pydantic model, a TypedDict, or OpenAI's form"
_BODY: Final = "write generator_params=Sampling(extra_body={'%s': …}), which goes to the generator's server as it is"
_PARTS: Final = (
    "an image is a part of a message's content: [{'type': 'text', 'text': …}, {'type': 'image_url', 'image_url': "
    "{'url': …}}]"
)
_TALK: Final = "use duet.conversation(), which keeps the messages; session= is a label for traces and ledgers"
_SHOWN: Final = "read reply.summary(), or the receipt of the reply; logging.getLogger('duet_sdk') tells more"
OPTIONS: Final[Mapping[str, str]] = {
    **dict.fromkeys(("max_tokens", "max_completion_tokens", "max_output_tokens", "max_new_tokens"), _ANSWER),
    **dict.fromkeys(("timeout", "request_timeout", "deadline"), _LIMIT.format("deadline_s")),
    **dict.fromkeys(("cost", "max_cost", "max_usd", "budget_usd"), _USD),
    **dict.fromkeys(("max_retries", "retries", "num_retries"), _RETRY),
    **dict.fromkeys(("system", "system_prompt", "system_message", "instructions", "developer"), _SYSTEM),
    **dict.fromkeys(("messages", "history", "chat_history"), _MESSAGES),
    **dict.fromkeys(("prompt", "question", "input", "query", "content", "text"), _QUESTION),
    **dict.fromkeys(("images", "image", "files", "attachments"), _PARTS),
    **dict.fromkeys(("model", "models", "model_name", "llm", "deployment", "reasoner", "generator"), _MODELS),
    **dict.fromkeys(("base_url", "api_key", "api_base", "url", "host", "organization", "project"), _PLACE),
    **dict.fromkeys(("headers", "extra_headers", "default_headers"), _HEADERS),
    **dict.fromkeys(("schema", "output_type", "output_schema", "response_model"), _FORM),
    **dict.fromkeys(("verbose", "debug"), _SHOWN),
    **dict.fromkeys(("thread_id", "conversation_id", "session_id", "previous_response_id", "memory"), _TALK),
    **{
        name: _BODY % name
        for name in (
            "presence_penalty",
            "frequency_penalty",
            "repetition_penalty",
            "logit_bias",
            "parallel_tool_calls",
            "service_tier",
            "store",
        )
    },
    "json_mode": "write response_format={'type': 'json_object'}",
    "stream": "write duet.stream(…), which gives events, or run.text_stream for the text alone",
    "stop_sequences": "write stop=[…]",
    "top_logprobs": "write generator_params=Sampling(logprobs=…)",
    "functions": "write tools=[…], in OpenAI form or as Python functions",
    "function_call": "write tool_choice=…",
    **dict.fromkeys(
        ("reasoning_effort", "reasoning", "thinking", "thinking_budget"),
        f"the reasoner's work is bounded by its limit: {_LIMIT.format('signal_tokens')}",
    ),
    "callbacks": "read the events of duet.stream(…), or the receipt of the reply",
    "config": "options are arguments of the call: duet.chat('…', temperature=…, budget=…)",
    "cache": "write signal_cache=MemorySignalCache() for the client",
    "http_client": "connections are the client's own; what can be set stands in Endpoint(model=…, options={…})",
}
"""What other libraries take as an argument → where it stands here."""
_CHAT: Final = "write duet.chat('…'), or duet.chat([{'role': 'user', 'content': '…'}])"
_LANGCHAIN: Final = (
    "a client is not a chat model of LangChain: pass ChatDuet(client=duet) of the package langchain-duet "
    "(integrations/langchain)"
)
_LLAMA_INDEX: Final = (
    "a client is not an LLM of LlamaIndex: pass DuetLLM(AsyncDuetClient(…)) of the package llama-index-llms-duet "
    "(integrations/llama-index)"
)
_PYDANTIC_AI: Final = (
    "a client is not a model of Pydantic AI: pass DuetModel(AsyncDuetClient(…)) of the package duet-pydantic-ai "
    "(integrations/pydantic-ai)"
)
_AGENTS: Final = (
    "a client is not a model of the OpenAI Agents SDK: pass DuetModel(AsyncDuetClient(…)) of the package "
    "duet-openai-agents (integrations/openai-agents)"
)
METHODS: Final[Mapping[str, str]] = {
    **dict.fromkeys(
        (
            "bind",
            "bind_tools",
            "with_structured_output",
            "with_config",
            "with_retry",
            "with_fallbacks",
            "invoke",
            "ainvoke",
            "batch",
            "abatch",
            "astream",
            "astream_events",
            "pipe",
        ),
        _LANGCHAIN,
    ),
    **dict.fromkeys(
        ("complete", "acomplete", "stream_complete", "stream_chat", "astream_chat", "chat_with_tools"), _LLAMA_INDEX
    ),
    **dict.fromkeys(("request", "request_stream"), _PYDANTIC_AI),
    **dict.fromkeys(("get_response", "stream_response"), _AGENTS),
    **dict.fromkeys(
        (
            "completions",
            "responses",
            "messages",
            "create",
            "completion",
            "generate",
            "generate_content",
            "ask",
            "answer",
            "query",
            "predict",
            "run",
            "run_sync",
        ),
        _CHAT,
    ),
    "achat": "write await AsyncDuetClient(…).chat('…')",
    "acompletion": "write await AsyncDuetClient(…).chat('…')",
    "embeddings": "a pair answers questions; it makes no embeddings",
}
"""A method or namespace of another library → what stands in its place here."""


class Client:
    """Base of a client: what other libraries would have in its place is a `Misuse` that says what to use.

    `hasattr` says no, as before, and so do copies, pickles and notebooks.
    """

    _other: ClassVar[Mapping[str, str]] = {}
    """What the other client has, and is written otherwise here."""

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> NoReturn:
            if (instead := self._other.get(name) or METHODS.get(name)) is not None:
                raise Misuse(f"{type(self).__name__} has no {name!r}: {instead}")
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}", name=name, obj=self)

        def __copy__(self) -> object:
            """A shallow copy, which shares everything with the client."""
            copied = object.__new__(type(self))
            copied.__dict__.update(self.__dict__)
            return copied

        def __reduce_ex__(self, _: object) -> NoReturn:
            """Say what to do in place of pickling, or copying deeply, what holds connections and threads.

            Raises:
                Misuse: always.
            """
            raise Misuse("a client cannot be pickled: make one in each process, of the same models and options")

        def __call__(self, *_: object, **__: object) -> NoReturn:
            """Say what to call; a chain of LangChain takes whatever can be called, and calls it.

            Raises:
                Misuse: always.
            """
            raise Misuse(f"a client cannot be called: {_CHAT}; in a chain use ChatDuet(client=duet) of langchain-duet")


class OnlyAsync:
    """Base of what is entered with ``async with`` alone."""

    __slots__ = ()

    if not TYPE_CHECKING:

        def __enter__(self) -> NoReturn:
            """Say so.

            Raises:
                Misuse: always.
            """
            raise Misuse(f"{type(self).__name__} is asynchronous: write 'async with', or use DuetClient")

        __exit__ = __enter__


class OnlySync:
    """Base of what is entered with ``with`` alone."""

    __slots__ = ()

    if not TYPE_CHECKING:

        def __aenter__(self) -> NoReturn:
            """Say so.

            Raises:
                Misuse: always.
            """
            raise Misuse(f"{type(self).__name__} is not asynchronous: write 'with', or use AsyncDuetClient")

        __aexit__ = __aenter__


class _Completions:
    """``chat.completions``, as OpenAI's client has it."""

    def __getattr__(self, name: str) -> NoReturn:
        if name in ("create", "parse", "stream"):
            raise Misuse(f"chat.completions.{name} is OpenAI's: {_CHAT}")
        raise AttributeError(name)


def with_completions(chat: _Function) -> _Function:
    """Let ``duet.chat.completions.create(…)`` say what to write."""
    chat.completions = _Completions()  # type: ignore[attr-defined]
    return chat
