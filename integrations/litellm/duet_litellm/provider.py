"""The provider ``duet`` of LiteLLM."""

from collections.abc import AsyncIterator, Iterator, Mapping
from threading import Lock
from typing import Any

import litellm
from litellm import CustomLLM, ModelResponse
from litellm.llms.base_llm.base_utils import type_to_response_format_param
from litellm.types.utils import ModelResponseStream

from duet_litellm.answers import TURN, Chunks, response_of, told_as_theirs
from duet_sdk import AsyncDuetClient, Budget, DuetClient
from duet_sdk.types import ProviderParts

_SHARED = ("temperature", "top_p", "top_k", "seed", "stop", "n", "tools", "tool_choice")
_REFUSED = {
    "frequency_penalty",
    "presence_penalty",
    "logit_bias",
    "logprobs",
    "top_logprobs",
    "functions",
    "function_call",
}
_REFUSED |= {"modalities", "audio", "prediction", "web_search_options"}
_BY_CALLER = {"budget", "mode", "gate", "session", "signal_scope"}
_BY_OWNER = {"user", "tenant", "scopes", "metadata", "boundary", "reasoner_params", "generator_params"}
"""What clients of a proxy cannot say of themselves."""


class DuetProvider(CustomLLM):
    """Answers ``duet/NAME`` with the pair of that name.

    Args:
        pairs: by name; they stay the caller's to close. Without one called ``default``, that is the settings' pair.
    """

    def __init__(self, pairs: Mapping[str, AsyncDuetClient] | None = None) -> None:
        super().__init__()
        self._pairs = dict(pairs or {})
        self._faces: dict[str, DuetClient] = {}
        self._lock = Lock()

    # LiteLLM passes some dozen arguments by name; all but four of them serve HTTP providers of its own.

    def completion(self, model: str, messages: list[Any], **call: Any) -> ModelResponse:  # type: ignore[override]
        """Answer in one piece.

        Raises:
            Exception: LiteLLM's own kinds; the cause is DUET's.
        """
        with told_as_theirs(model):
            return response_of(self._face(model).chat(_messages(messages), **_options(model, call)), model)

    def streaming(self, model: str, messages: list[Any], **call: Any) -> Iterator[ModelResponseStream]:  # type: ignore[override]
        """Answer piece by piece; closing the iterator ends both stages."""
        chunks = Chunks(model)
        with told_as_theirs(model), self._face(model).stream(_messages(messages), **_options(model, call)) as run:
            for event in run:
                yield from chunks.take(event)

    async def acompletion(self, model: str, messages: list[Any], **call: Any) -> ModelResponse:  # type: ignore[override]
        """Answer in one piece."""
        with told_as_theirs(model):
            return response_of(await self._pair(model).chat(_messages(messages), **_options(model, call)), model)

    async def astreaming(  # type: ignore[override]
        self, model: str, messages: list[Any], **call: Any
    ) -> AsyncIterator[ModelResponseStream]:
        """Answer piece by piece; closing the iterator ends both stages."""
        chunks = Chunks(model)
        with told_as_theirs(model):
            async with self._pair(model).stream(_messages(messages), **_options(model, call)) as run:
                async for event in run:
                    for chunk in chunks.take(event):
                        yield chunk

    def _pair(self, model: str) -> AsyncDuetClient:
        with self._lock:
            if model not in self._pairs:
                if model != "default":
                    known = ", ".join(sorted({*self._pairs, "default"}))
                    raise litellm.NotFoundError(f"no pair is called {model!r}; known: {known}", model, "duet")
                self._pairs[model] = AsyncDuetClient()
            return self._pairs[model]

    def _face(self, model: str) -> DuetClient:
        pair = self._pair(model)
        with self._lock:
            if model not in self._faces:
                self._faces[model] = DuetClient.over(pair)
            return self._faces[model]


def register(provider: DuetProvider) -> None:
    """Let ``litellm.completion("duet/…")`` of this process go to the provider, in place of an earlier one."""
    others = [item for item in litellm.custom_provider_map if item["provider"] != "duet"]
    litellm.custom_provider_map = [*others, {"provider": "duet", "custom_handler": provider}]


def _messages(messages: list[Any]) -> list[dict[str, Any]]:
    plain = [message if isinstance(message, dict) else message.model_dump() for message in messages]
    return [{**message, "content": message.get("content") or "", **_turn_of(message)} for message in plain]


def _turn_of(message: dict[str, Any]) -> dict[str, Any]:
    """The signal and what a model wants back, on a message that a pair wrote."""
    beside = message.get("provider_specific_fields")
    turn = beside.get(TURN) if isinstance(beside, Mapping) else None
    if message.get("role") != "assistant" or not isinstance(turn, Mapping):
        return {}
    told = {"signal": turn.get("signal"), "provider_parts": ProviderParts.parse(turn.get("provider_parts"))}
    return {name: value for name, value in told.items() if isinstance(value, str | ProviderParts)}


def _options(model: str, call: dict[str, Any]) -> dict[str, Any]:
    """What `AsyncDuetClient.chat` is asked.

    Raises:
        UnsupportedParamsError: a parameter without a meaning here, or one that only the owner of a proxy can set.
    """
    params, around = call["optional_params"], call.get("litellm_params") or {}
    proxied = around.get("proxy_server_request") is not None
    own, allowed = dict(params.get("duet") or {}), _BY_CALLER if proxied else _BY_CALLER | _BY_OWNER
    dropped = bool(around.get("drop_params") or litellm.drop_params)
    unknown = {name for name in _REFUSED if params.get(name) is not None and not dropped}
    budget = own.pop("budget", None) or Budget()
    unknown |= {f"duet.{name}" for name in own.keys() - allowed}
    if isinstance(budget, Mapping):
        unknown |= {f"duet.budget.{name}" for name in budget.keys() - Budget.__dataclass_fields__.keys()}
    if unknown:
        told = f"{', '.join(sorted(unknown))}; duet={{…}} takes {', '.join(sorted(allowed))}"
        raise litellm.UnsupportedParamsError(f"a pair does not take {told}", "duet", model)
    options = {name: params[name] for name in _SHARED if params.get(name) is not None}
    budget = Budget(**budget) if isinstance(budget, Mapping) else budget
    answer = params.get("max_completion_tokens") or params.get("max_tokens")
    wanted = params.get("response_format")
    options["response_format"] = wanted if isinstance(wanted, dict) else type_to_response_format_param(wanted)
    return {**options, **own, **_labels(around, proxied), "budget": budget.over(Budget(answer_tokens=answer))}


def _labels(around: dict[str, Any], proxied: bool) -> dict[str, str]:
    """Whom the proxy took the caller for: its team is the tenant."""
    who = around.get("metadata") or {} if proxied else {}
    found = {"tenant": who.get("user_api_key_team_id"), "user": who.get("user_api_key_user_id")}
    return {label: str(name) for label, name in found.items() if name}
