"""What a client of chat completions sends → messages and options of a request. What is not known here is read over."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, cast
from urllib.parse import urlsplit

from duet_sdk.gateway.bounds import check_count
from duet_sdk.gateway.errors import Refused
from duet_sdk.gateway.limits import limits, tokens
from duet_sdk.gateway.scope import session_of, user_of
from duet_sdk.gateway.side import is_side_request
from duet_sdk.gateway.wires.wire import Asked, Given
from duet_sdk.messages import parse_messages
from duet_sdk.options import MOST_ANSWERS, CallOptions
from duet_sdk.policies import Budget, Sampling

if TYPE_CHECKING:
    from duet_sdk.gateway_policy import GatewayPolicy, ServedMode
    from duet_sdk.types import Json

PASSED_ON: Final = ("temperature", "top_p", "top_k", "seed", "stop")
"""Fields that mean here what they mean there."""
OF_A_MESSAGE: Final = ("role", "content", "refusal", "tool_calls", "tool_call_id", "is_error")
"""What is read of a client's message: no signal and no provider's parts, which only a pair's own replies may bring."""
_ODD: Final = re.compile(r"[\x00-\x20\x7f\\]")
"""Characters that no URL has, and that hide its host from some readers."""
_OFF: Final = (-1, 0)
"""What engines take for "no ``top_k``"."""


def asked(given: Given) -> Asked:
    """The request that a body makes.

    Raises:
        Refused: 400, a field that cannot be used.
        InvalidRequest: likewise, in the words of the SDK.
    """
    body = given.body
    mode, budget = limits(
        given.choice,
        effort=body.get("reasoning_effort"),
        answer=tokens(body, "max_tokens"),
        both=tokens(body, "max_completion_tokens"),
    )
    return request(body, given, mode, budget, session=session_of(body, given.headers, given.caller))


def request(
    body: Mapping[str, Any],
    given: Given,
    mode: ServedMode,
    budget: Budget,
    *,
    session: str | None,
    read: Sequence[str] = OF_A_MESSAGE,
) -> Asked:
    """The request that a body in the form of chat completions makes; other wires bring theirs into it.

    Args:
        body: messages, tools, sampling and form of the answer; limits are not read from it.
        given: whose request it is.
        mode: who answers.
        budget: limits of its stages.
        session: the label of its session.
        read: what is read of a message; a wire that makes these messages itself may have put the signal there.

    Raises:
        Refused: 400, a field that cannot be used.
        InvalidRequest: likewise, in the words of the SDK.
    """
    if mode == "duet" and given.policy.side_requests and is_side_request(body):
        mode, budget = "generator", Budget(answer_tokens=budget.answer_tokens)
    answers = tokens(body, "n") or 1
    if answers > MOST_ANSWERS:
        raise Refused(400, None, f"n may be {MOST_ANSWERS} at most", param="n")
    options = CallOptions(
        mode=mode,
        n=answers,
        budget=budget,
        tenant=given.caller.tenant,
        user=user_of(body, given.caller),
        session=session,
    )
    plain = {name: body[name] for name in PASSED_ON if body.get(name) is not None}
    if plain.get("top_k") in _OFF:
        del plain["top_k"]
    options.update(cast("CallOptions", plain))
    if (sampling := _sampling(body)) is not None:
        options["reasoner_params" if mode == "reasoner" else "generator_params"] = sampling
    if (form := body.get("response_format")) is not None and _kind(form) != "text":
        options["response_format"] = form
    if tools := _functions(body.get("tools")):
        options["tools"] = tools
        options["tool_choice"] = _tool_choice(body.get("tool_choice"), tools)
    extra = body.get("stream_options")
    return Asked(
        parse_messages(_messages(body.get("messages"), given.policy, read)),
        options,
        streamed=body.get("stream") is True,
        with_usage=isinstance(extra, Mapping) and extra.get("include_usage") is True,
        answers=answers,
    )


def _sampling(body: Mapping[str, Any]) -> Sampling | None:
    """What has no option of a request's own."""
    logprobs = (body.get("top_logprobs") or 0) if body.get("logprobs") is True else None
    min_p = body.get("min_p") or None
    return None if logprobs is None and min_p is None else Sampling(logprobs=logprobs, min_p=min_p)


def _messages(given: object, policy: GatewayPolicy, read: Sequence[str]) -> list[Json]:
    if not isinstance(given, list):
        raise Refused(400, None, "messages must be a list of messages", param="messages")
    check_count("messages", given, policy)  # with those that an id stood for
    kept = []
    for at, message in enumerate(given):
        if not isinstance(message, Mapping):
            raise Refused(400, None, f"message {at} must be an object with role and content", param="messages")
        _check_images(message.get("content"), at, policy.image_hosts)
        turn = {name: message[name] for name in read if name in message}
        if not _is_blank_turn(turn):
            kept.append(turn)
    # Agents add notes for the system behind the question; the last word of a conversation must be the user's.
    for turn in reversed(kept):
        if turn.get("role") not in ("system", "developer"):
            break
        turn["role"] = "user"
    return cast("list[Json]", kept)


def _is_blank_turn(turn: Mapping[str, Any]) -> bool:
    """Whether an assistant's message says nothing, as clients keep it of a turn that was broken off."""
    return turn.get("role") == "assistant" and not (
        turn.get("content") or turn.get("tool_calls") or turn.get("refusal")
    )


def _check_images(content: object, at: int, hosts: Sequence[str]) -> None:
    """Refuse an image whose URL a server would fetch, unless the operator allows its host.

    Raises:
        Refused: 400.
    """
    if not isinstance(content, list):
        return
    for part in content:
        if isinstance(part, Mapping) and "image_url" in part:
            image = part["image_url"]
            url = image.get("url") if isinstance(image, Mapping) else image
            if isinstance(url, str) and not url.startswith("data:") and _host(url) not in hosts:
                raise Refused(
                    400, None, f"message {at} has an image by URL; send it as data:image/…;base64,…", param="messages"
                )


def _host(url: str) -> str | None:
    try:
        parts = urlsplit(url)
    except ValueError:
        return None
    # Readers of URLs disagree about these: each may take another part for the host.
    if parts.scheme != "https" or "@" in parts.netloc or _ODD.search(url):
        return None
    return parts.hostname


def _kind(given: object) -> object:
    return given.get("type") if isinstance(given, Mapping) else None


def _functions(given: object) -> list[Json]:
    """The tools that are functions; what else there is, such as a provider's own search, the pair cannot call.

    Raises:
        Refused: 400, tools that are no list of objects.
    """
    if given is None:
        return []
    if not isinstance(given, list) or not all(isinstance(tool, Mapping) for tool in given):
        raise Refused(400, None, "tools must be a list of objects", param="tools")
    return [tool for tool in given if _kind(tool) in ("function", None)]


def _tool_choice(given: object, tools: Sequence[Json]) -> Any:
    """The choice, where it is one among the tools that are left."""
    function = given.get("function") if isinstance(given, Mapping) else None
    if not isinstance(function, Mapping):
        return given
    names = [tool["function"].get("name") for tool in tools if isinstance(tool.get("function"), Mapping)]
    return given if function.get("name") in names else None
