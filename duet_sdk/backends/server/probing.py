"""What a server can do: read from its endpoints, unless it was said by hand."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from duet_sdk import models
from duet_sdk.backends.answers.listing import model_cards, token_ids
from duet_sdk.backends.base import Capabilities
from duet_sdk.backends.server.vllm_limits import REFUSED_BESIDE_DRAFTS, VllmLimits, find_limits
from duet_sdk.backends.server.wire import Dialect
from duet_sdk.errors import (
    Authentication,
    BackendError,
    ConfigError,
    ConnectFailed,
    DuetError,
    MissingExtra,
    ModelNotFound,
)
from duet_sdk.rendering import Renderer, TokenizerFiles
from duet_sdk.types import Message

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from duet_sdk.backends.failures import Failures
    from duet_sdk.types import Json

    Ask = Callable[..., Awaitable[Any]]

_log = logging.getLogger(__name__)

_WINDOWS = (
    "max_model_len",  # vLLM 0.32, SGLang 0.5
    "context_length",  # OpenRouter, Kimi, Together
    "context_window",  # Groq
    "max_context_length",  # Mistral
    "meta.n_ctx",  # llama.cpp's server: the window of one slot
)
"""Where lists of models write the window, and who does. The first that is a number counts."""
_UNUSED = (
    "the tokenizer {!r} cannot be had for {}, so that tokens are counted in another way: it is not the server's, or "
    "the extra 'local' is not installed; the log says which"
)
_QUESTION = {"role": "user", "content": "?"}
_PROBE = (
    Message("user", "Zwei plus  zwei?\n\n 2+2=… 🙂"),
    Message("assistant", "Four:\n\tvier."),
    Message("user", "And 1,000 – 17?"),
)


@dataclass(frozen=True, slots=True)
class Said:
    """What is known of a server by hand; None leaves it to the probes, or to the default where none exists."""

    prompt_ids: bool | None = None
    """Takes prompts as token ids; probed: vLLM does."""
    tools: bool | None = None
    """True by default: no endpoint tells, and a server that cannot refuses with its own words."""
    strict_tools: bool | None = None
    """Holds a call to a tool's schema where the tool says ``strict``; probed: vLLM does."""
    response_format: bool | None = None
    """True by default, as ``tools``."""
    images: bool | None = None
    """Likewise."""
    logprobs: bool | None = None
    """Likewise."""
    switch_thinking: bool | None = None
    """The chat template takes ``enable_thinking``; probed by ``/tokenize``."""
    thinking_budget: bool | None = None
    """The server was started for ``thinking_token_budget``; probed by requests that vLLM refuses either way."""
    grammar_in_thinking: bool = False
    """Grammars hold for thinking too (vLLM's ``enable_in_reasoning``), so that no budget may end it; nothing tells."""
    drafts: bool | None = None
    """A draft model writes ahead, and ``min_p`` and ``logit_bias`` are refused; probed as ``thinking_budget``."""
    token_ids: bool | None = None
    """Sends the output's token ids; probed: vLLM does."""
    continuous_usage: bool | None = None
    """Sends usage with every chunk; probed: vLLM does."""
    tokenize: bool | None = None
    """Has ``/tokenize`` at its root; probed."""
    tokenizer: bool | None = None
    """Whether the local tokenizer is the server's: True skips the comparison, False never uses it."""

    @classmethod
    def parse(cls, given: Mapping[str, object]) -> Said:
        """From the option ``capabilities``.

        Raises:
            ConfigError: an unknown name, or a value that is neither True nor False.
        """
        known = [field.name for field in fields(cls)]
        for name, value in given.items():
            if name not in known:
                raise ConfigError(f"there is no capability {name!r}; there are {', '.join(known)}")
            if not isinstance(value, bool):
                raise ConfigError(f"capability {name!r} must be true or false, got {value!r}")
        return cls(**{name: bool(value) for name, value in given.items()})


@dataclass(frozen=True, slots=True)
class Facts:
    """What a connected server turned out to be."""

    can: Capabilities
    dialect: Dialect
    tokenize: bool
    thinking_budget: bool | None
    """Whether the server was started for ``thinking_token_budget``, None where nothing tells."""
    files: TokenizerFiles | None = None
    renderer: Renderer | None = field(default=None, compare=False)  # made of the files
    is_vllm: bool = False
    ranks: int = 1
    """Data-parallel engines behind the address."""
    shortfalls: tuple[str, ...] = ()
    """What was named and cannot be had."""


async def probe(
    ask: Ask, *, model: str, said: Said, context_tokens: int | None, tokenizer: str | None, failures: Failures
) -> Facts:
    """Ask the server what is not known by hand; where all is, nothing is sent.

    Args:
        ask: (path, JSON to post or None to get, headers) → JSON. A path that begins with ``//`` counts from the
            server's root.
        model: as the server names it.
        said: what is known by hand.
        context_tokens: the window, where it is known by hand.
        tokenizer: folder or cached hub id of the model's tokenizer.
        failures: makes the errors.

    Raises:
        BackendError: the server does not answer, or does not serve the model.
        ConfigError: ``tokenizer`` names nothing that is there.
    """
    window, vllm = context_tokens, False
    known = (said.prompt_ids, said.token_ids, said.continuous_usage, said.tokenize, said.switch_thinking)
    if context_tokens is None or None in known:
        cards = await _cards(ask, model, failures)
        card = cards.get(model, {})
        window = context_tokens or served_window(cards, model)
        # Other servers have a /version as well (TensorRT-LLM), and refuse the fields that only vLLM knows.
        owner = card.get("owned_by")
        vllm = owner == "vllm" or (owner is None and None in known and await _has_version(ask))
    tokenize, switches = said.tokenize, said.switch_thinking
    if vllm and (tokenize is None or (tokenize and switches is None)):
        tokenize, found = await _tokenize_probe(ask, model)
        switches = found if switches is None else switches
    limits = await find_limits(ask, model) if vllm else VllmLimits()
    drafts = _first(said.drafts, limits.drafts)
    files, renderer = await _own_tokenizer(ask if tokenize else None, model, said, tokenizer)
    unused = (_UNUSED.format(tokenizer, model),) if tokenizer is not None and files is None else ()
    can = Capabilities(
        context_tokens=window,
        prompt_ids=_first(said.prompt_ids, vllm),
        tools=_first(said.tools, True),
        strict_tools=_first(said.strict_tools, vllm),
        response_format=_first(said.response_format, True),
        images=_first(said.images, True),
        logprobs=_first(said.logprobs, True),
        switch_thinking=bool(switches),
        stop_texts=limits.stop_texts,
        refused=REFUSED_BESIDE_DRAFTS if drafts else (),
        token_ids=_first(said.token_ids, vllm),
    )
    dialect = Dialect(_first(said.token_ids, vllm), _first(said.continuous_usage, vllm), bool(switches))
    budget = limits.thinking_budget if said.thinking_budget is None else said.thinking_budget
    return Facts(can, dialect, bool(tokenize), budget, files, renderer, vllm, limits.ranks, unused)


def _first(said: bool | None, found: bool) -> bool:
    return found if said is None else said


def served_window(cards: Mapping[str, Json], model: str) -> int | None:
    """The window that a list of models gives a model, else that of the model that it is an adapter of, else None.

    Args:
        cards: what the list says, by the model's id.
        model: the model's id.
    """
    by_root = {card["root"]: card for card in cards.values() if isinstance(card.get("root"), str)}
    left = dict(cards)  # each is asked once: some lists name a model as its own parent
    while card := left.pop(model, None) or left.pop(str(by_root.get(model, {}).get("id")), None):
        window = next(filter(None, (_window(card, path) for path in _WINDOWS)), None)
        if window is not None:
            return window
        model = str(card.get("parent"))  # vLLM: an adapter has no window of its own
    return None


def _window(card: Json, path: str) -> int | None:
    value: object = card
    for name in path.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value if type(value) is int and value > 0 else None


async def _cards(ask: Ask, model: str, failures: Failures) -> dict[str, Json]:
    """What the server's list says about its models, by their ids; empty where the server has no list."""
    try:
        listed = await ask("/models", None)
    except BackendError as error:
        if error.status not in (404, 405, 501):
            raise
        if error.status == 404 and await _answers(ask, "/v1/models"):
            raise failures.wrong_url("the API is one level below, at /v1", status=404) from None
        return {}
    by_id = model_cards(listed)
    if by_id is None:
        raise failures.wrong_url("its list of models is none")
    if model not in by_id:
        await _check_answered(ask, model, failures, listed=list(by_id))
    return by_id


async def _check_answered(ask: Ask, model: str, failures: Failures, *, listed: list[str]) -> None:
    """Whether a model is answered to that the list does not show: gateways have aliases, and lists are advice.

    The call asks for an answer to nothing, which servers refuse; what they say of the model is looked at alone.

    Raises:
        ModelNotFound: it is not; names those that are.
        BackendError: the server does not answer, or refuses the key.
    """
    try:
        await ask("/chat/completions", {"model": model, "messages": [], "max_tokens": 1})
    except DuetError as error:
        status = error.status if isinstance(error, BackendError) else None
        if isinstance(error, ModelNotFound) or status == 404:
            raise failures.not_served(listed) from None
        if isinstance(error, Authentication) or (isinstance(error, ConnectFailed) and error.retryable):
            raise


async def _has_version(ask: Ask) -> bool:
    try:
        answer = await ask("//version", None)
    except BackendError:
        return False
    return isinstance(answer, dict) and isinstance(answer.get("version"), str)


async def _answers(ask: Ask, path: str) -> bool:
    try:
        await ask(path, None)
    except BackendError:
        return False
    return True


async def tokenize(ask: Ask, body: Json) -> list[int] | None:
    """Token ids by the server's ``/tokenize``, None where it does not tell."""
    try:
        answer = await ask("//tokenize", body)
    except DuetError as error:
        _log.debug("/tokenize does not answer (%s)", type(error).__name__)
        return None
    return token_ids(answer)


async def _tokenize_probe(ask: Ask, model: str) -> tuple[bool, bool]:
    """Whether there is a ``/tokenize``, and whether the template listens to ``enable_thinking``."""
    on, off = await asyncio.gather(
        *(
            tokenize(
                ask, {"model": model, "messages": [_QUESTION], "chat_template_kwargs": {"enable_thinking": thinking}}
            )
            for thinking in (True, False)
        )
    )
    return on is not None, on is not None and off is not None and on != off


async def _own_tokenizer(
    ask: Ask | None, model: str, said: Said, named: str | None
) -> tuple[TokenizerFiles | None, Renderer | None]:
    """The local tokenizer and template, if they are what the server uses."""
    if said.tokenizer is False:
        return None, None
    files = await asyncio.to_thread(_local_files, model, named)
    if files is None or files.chat_template is None:
        return files if named else None, None
    try:
        renderer = await asyncio.to_thread(Renderer, files)
    except MissingExtra as error:
        _log.info("the local tokenizer of %s is not used: %s", model, error)
        return None, None
    if said.tokenizer is None and not await _same(ask, model, renderer, named):
        return None, None
    return files, renderer


async def _same(ask: Ask | None, model: str, renderer: Renderer, named: str | None) -> bool:
    """Whether a small conversation makes the same ids here and there; if that is unknown, the user's word counts."""
    ours = await asyncio.to_thread(renderer.chat_ids, _PROBE)
    asked = {"model": model, "messages": [message.on_wire() for message in _PROBE]}
    theirs = await tokenize(ask, asked) if ask else None
    if theirs is None:
        return named is not None
    if tuple(theirs) != ours:
        _log.warning(
            "the local tokenizer or chat template of %s is not the server's (a probe makes %d ids here and %d there, "
            "not the same ones): it is not used, and the think handoff falls back to instruct. "
            "capabilities={'tokenizer': True} uses it all the same",
            model,
            len(ours),
            len(theirs),
        )
        return False
    return True


def _local_files(model: str, named: str | None) -> TokenizerFiles | None:
    """The tokenizer in the folder or the cache, None where nothing was named and nothing is there.

    Raises:
        ConfigError: what was named is not there.
    """
    name = named or model
    is_path = name.startswith(("/", ".", "~"))
    folder = Path(name).expanduser()
    path = folder if folder.is_dir() and (named or is_path) else None
    if path is None and not is_path:
        try:
            path = models.find(name)
        except ConfigError:
            path = None  # a served name need not be a hub id
    if path is None or not (path / "tokenizer.json").is_file():
        if named:
            raise ConfigError(
                f"there is no tokenizer {named!r}: name a folder with tokenizer.json, or a model that "
                "`duet models list` shows"
            )
        return None
    return TokenizerFiles.from_folder(path)
