"""What other libraries have where a client of DUET is taken for theirs, answered with what to write instead.

Type checkers do not see it: to them none of these exists.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Final

from duet_sdk.errors import Misuse

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import NoReturn, TypeVar

    _Function = TypeVar("_Function", bound=Callable[..., object])

_CHAT = "write duet.chat('…'), or duet.chat([{'role': 'user', 'content': '…'}])"
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
