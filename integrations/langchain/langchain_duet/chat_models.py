"""`ChatDuet`: a pair of models as one LangChain chat model."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from operator import is_
from typing import Any, TypeAlias, cast

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel, LangSmithParams, LanguageModelInput, ModelProfile
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable
from langchain_core.utils import secret_from_env
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, SecretStr, ValidationError

from duet_sdk import (
    AsyncDuetClient,
    Budget,
    ConfigError,
    DuetClient,
    Endpoint,
    GateConfig,
    GpuHour,
    InvalidRequest,
    Progressive,
    Prompts,
    Retry,
    RunScope,
    Sampling,
    Settings,
    TokenPrice,
)
from duet_sdk.backends import Backend
from duet_sdk.budget import BaseLedger
from duet_sdk.cache import SignalCache
from duet_sdk.context import ContextPolicy
from duet_sdk.endpoints import LedgerStore
from duet_sdk.gate import Gate, TokenGate
from duet_sdk.gate.calibration import Calibration
from duet_sdk.options import ClientOptions
from duet_sdk.settings import FailureSetting, load_settings
from duet_sdk.signal import CutPolicy
from duet_sdk.types import HandoffName, Mode, TraceDialect
from langchain_duet.clients import Clients, GivenClient
from langchain_duet.errors import langchain_errors
from langchain_duet.keys import beside, check_one_server, keyed
from langchain_duet.messages import to_duet
from langchain_duet.options import Prepared, fields, prepare
from langchain_duet.plain import plain
from langchain_duet.refusals import check_call, refused
from langchain_duet.replies import chat_result, model_name
from langchain_duet.streaming import Chunks
from langchain_duet.structured import (
    Method,
    Schema,
    Tool,
    ToolChoice,
    structured_options,
    structured_parser,
    tool_options,
    with_raw,
)

OneModel: TypeAlias = str | Endpoint | Backend
Model: TypeAlias = OneModel | list[OneModel]
"""A model by its full name, with what a name cannot say, or an object; a list is tried in order."""

_PAIR = ("reasoner", "generator", "settings", "api_key", "client")
_POLICIES = (
    "gate",
    "calibration",
    "gate_deadline_s",
    "progressive",
    "handoff",
    "signal_scope",
    "on_cut",
    "on_failure",
    "context",
    "prompts",
    "trace_dialects",
)
_SAMPLING = ("reasoner_params", "generator_params")
_BOOKS = ("retry", "prices", "ledger", "ledger_wait_s", "signal_cache")
_CLIENT_FIELDS = (*_PAIR, *_POLICIES, *_SAMPLING, *_BOOKS, "max_retries")
_CALL_FIELDS = ("mode", "budget", "temperature", "max_tokens", "timeout", "stop", "session", "user", "tenant")
_NOT_IN_ANSWERS = {"api_key", "ledger", "ledger_wait_s", "signal_cache", "prices", "session", "trace_dialects"}
"""Settings that the answer does not depend on, so that an answer kept under others can be used again."""


class ChatDuet(BaseChatModel):
    """A pair of models as one chat model: a strong reasoner writes a short signal, a light generator answers from it.

    It takes what `duet_sdk.DuetClient` takes, and what every LangChain chat model takes. With no model named the
    settings say which (``duet.toml``, environment ``DUET_*``), and without any the embedded pair answers.

    >>> model = ChatDuet("scripted/17", "scripted/There are 17.", max_tokens=64)
    >>> message = model.invoke("How many primes are below 60?", budget=Budget(signal_tokens=32))
    >>> message.text, message.additional_kwargs["reasoning_content"], message.usage_metadata["output_tokens"]
    ('There are 17.', '17', 4)

    Raises:
        ConfigError: an option, a model or a combination that cannot work; nothing has been loaded or sent.
        InvalidRequest: an option of a request that is of the wrong kind or out of range.
        UnknownOption: there is no such option.
    """

    reasoner: Model | None = None
    """The model that writes the signal, ``"vllm/Qwen/Qwen3-4B@http://…/v1"`` or the like."""
    generator: Model | None = None
    """The model that answers; it alone gets tools and response formats."""
    settings: Settings | None = None
    """In place of what the environment says; here a pair on disk can be named."""
    api_key: SecretStr | None = Field(default_factory=secret_from_env("DUET_API_KEY", default=None))
    """Key of the server, where one serves both models; otherwise each model's `Endpoint` has its own."""
    client: AsyncDuetClient | DuetClient | None = None
    """In place of models and of what a client is made of; it serves every event loop, and stays yours to close."""

    mode: Mode = "duet"
    """``duet`` (the gate decides), ``reasoner``, ``generator``, or ``signal`` (no answer is written)."""
    budget: Budget | None = None
    """Limits of every request; a call's own take precedence."""
    gate: str | GateConfig | Gate | TokenGate | None = None
    """Whether the reasoner is asked: ``always`` (default), ``never``, ``heuristic``, ``confidence``, ``race``, one of
    these with numbers of its own, or a gate of your own."""
    calibration: str | Calibration | None = None
    """Thresholds measured on your own questions: a file's path, or what was read from one."""
    gate_deadline_s: float | None = None
    """Seconds that a gate's own code may take to decide; 2 by default."""
    progressive: Progressive | None = None
    """Stops the reasoner as soon as what it has written suffices the generator; off by default."""
    handoff: HandoffName | None = None
    """``instruct`` (default), or ``think`` for pairs trained together."""
    signal_scope: str | RunScope | None = None
    """How long a signal holds while tools are called: for the ``run`` (default), or a ``turn``."""
    on_cut: str | CutPolicy | None = None
    """What a signal that its limit cut off becomes; ``sentence`` by default."""
    on_failure: FailureSetting | None = None
    """``answer`` (default) continues with the stage that works; ``raise`` fails; or a `FailurePolicy`, which also says
    which pair takes over and what follows when a model breaks off midway."""
    context: str | ContextPolicy | None = None
    """What each stage sees of a long conversation; ``all`` by default."""
    prompts: Prompts | None = None
    """System prompts by stage."""
    trace_dialects: tuple[TraceDialect, ...] | None = None
    """Names that spans carry in addition to the standard's, for tools that read only those."""
    reasoner_params: Sampling | None = None
    """How the reasoner samples."""
    generator_params: Sampling | None = None
    """How the generator samples; overrides ``temperature`` and ``stop``."""
    retry: Retry | None = None
    """When a model that failed is called again; overrides ``max_retries``."""
    prices: dict[str, TokenPrice | GpuHour] | None = None
    """Prices by model name; they override every other source."""
    ledger: BaseLedger | LedgerStore | str | None = None
    """Holds limits over many requests: an object, which stays yours to close, or a URL such as ``sqlite:///ledger.db``."""
    ledger_wait_s: float | None = None
    """Longest wait for room in the ledger that only others' holds take; none by default."""
    signal_cache: SignalCache | None = None
    """Keeps signals for questions asked again; stays yours to close."""

    temperature: float | None = None
    """Of the stage that answers; None leaves it to the model."""
    max_tokens: int | None = None
    """Of the answer; LangChain's name for ``budget.answer_tokens``."""
    timeout: float | None = None
    """Seconds for a whole request; LangChain's name for ``budget.deadline_s``."""
    max_retries: int | None = None
    """Further calls of a model that failed; LangChain's name for ``retry.attempts - 1``."""
    stop: list[str] | None = None
    """Texts that end the answer."""
    session: str | None = None
    """Label for traces and ledger; by default the ``thread_id`` that a graph or chain runs for."""
    user: str | None = None
    """Label for traces and ledger."""
    tenant: str | None = None
    """Label for traces and ledger; answers cached for one tenant are not given to another."""
    streaming: bool = False
    """Whether `invoke` streams underneath, so that callbacks see every piece."""

    # A limit with a typo must not vanish in silence.
    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    _settings: Settings | None = PrivateAttr(default=None)
    _clients: dict[str | None, tuple[tuple[object, ...], Clients | GivenClient]] = PrivateAttr(default_factory=dict)

    def __init__(self, reasoner: Model | None = None, generator: Model | None = None, **options: Any) -> None:
        models = {"reasoner": reasoner, "generator": generator}
        given = fields({name: model for name, model in models.items() if model is not None} | options)
        try:
            super().__init__(**given)
        except ValidationError as problem:
            raise refused(given, problem, type(self)) from None
        # Not a validator: pydantic would show a ConfigError, which is a ValueError, as an error of its own.
        self._connect()

    def _connect(self) -> None:
        """Refuse now what no client could be made of, and no call with."""
        check_call({name: getattr(self, name) for name in _CALL_FIELDS})
        if self.client is not None:
            own = [name for name in _CLIENT_FIELDS if name != "client" and self._is_given(name)]
            if own:
                raise ConfigError(f"the client has its own {', '.join(own)}: leave these out, or leave out client")
            return
        unnamed = self.reasoner is None and self.generator is None
        self._settings = load_settings() if self.settings is None and unnamed else self.settings
        if self.api_key is not None:
            check_one_server([self.reasoner, self.generator])
        self._clients_of(None)

    def _is_given(self, name: str) -> bool:
        return name in self.model_fields_set and getattr(self, name) is not None

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        with langchain_errors():
            call = self._prepare(stop, kwargs)
            client = self._clients_of(call.model).sync()
            return chat_result(client.chat(to_duet(messages), gate=call.gate, **call.options))

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        with langchain_errors():
            call = self._prepare(stop, kwargs)
            client = self._clients_of(call.model).of_this_loop()
            return chat_result(await client.chat(to_duet(messages), gate=call.gate, **call.options))

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        with langchain_errors():
            call = self._prepare(stop, kwargs)
            client = self._clients_of(call.model).sync()
            chunks = Chunks(blocks=self.output_version == "v1")
            with client.stream(to_duet(messages), gate=call.gate, **call.options) as run:
                for event in run:
                    if (chunk := chunks.of(event)) is None:
                        continue
                    if run_manager is not None:
                        run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                    yield chunk

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        with langchain_errors():
            call = self._prepare(stop, kwargs)
            client = self._clients_of(call.model).of_this_loop()
            chunks = Chunks(blocks=self.output_version == "v1")
            async with client.stream(to_duet(messages), gate=call.gate, **call.options) as run:
                async for event in run:
                    if (chunk := chunks.of(event)) is None:
                        continue
                    if run_manager is not None:
                        await run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                    yield chunk

    def bind_tools(
        self,
        tools: Sequence[Tool],
        *,
        tool_choice: ToolChoice = None,
        strict: bool | None = None,
        parallel_tool_calls: bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """The model with tools for its generator; the reasoner is given a list of them.

        Args:
            tools: functions, pydantic classes, LangChain's tools, or schemas.
            tool_choice: a tool's name, ``"any"`` or True for whichever, ``"auto"``, ``"none"``, or OpenAI's own form.
                The server's grammar enforces it where it can; where it cannot, an answer without the call is asked
                for once more.
            strict: whether servers that know it hold arguments to their schema.
            parallel_tool_calls: False for one call in a turn, where the server knows how.
            kwargs: further options of the calls, such as ``budget``.

        Raises:
            InvalidRequest: ``tool_choice`` names none of the tools.
        """
        options = tool_options(tools, choice=tool_choice, strict=strict, parallel=parallel_tool_calls)
        return self.bind(**options, **kwargs)

    def with_structured_output(
        self,
        schema: Schema,
        *,
        method: Method = "json_schema",
        include_raw: bool = False,
        strict: bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, dict[str, Any] | BaseModel]:
        """The model with answers of one form.

        Args:
            schema: a pydantic class (answers are its instances), a TypedDict or JSON schema (answers are dicts).
            method: ``json_schema`` (the server's grammar holds the answer to it), ``function_calling`` (a tool is
                called), or ``json_mode`` (any JSON; your prompt says which).
            include_raw: give message, parsed value and parsing error in one dict, and raise no parsing error.
            strict: whether servers that know it hold the answer to the schema, where they do not always.
            kwargs: further options of the calls, such as ``budget``.
        """
        options = structured_options(schema, method=method, strict=strict)
        answering = self.bind(**options, **kwargs)
        parser = structured_parser(schema, method=method)
        if include_raw:
            return with_raw(answering, parser)
        return answering | parser

    def close(self) -> None:
        """Close the connections of synchronous calls, and their thread; later calls open new ones."""
        for _, clients in self._clients.values():
            clients.close()

    async def aclose(self) -> None:
        """Close these and the connections of the running event loop; those of another loop close as it ends."""
        for _, clients in self._clients.values():
            await clients.aclose()

    @property
    def model_name(self) -> str:
        """The full names of both models."""
        models = self._clients_of(None).models
        return model_name(models["reasoner"], models["generator"])

    @property
    def _llm_type(self) -> str:
        return "chat-duet"

    @property
    def _identifying_params(self) -> Mapping[str, Any]:
        """Both models and every setting that answers depend on: the key under which LangChain caches them."""
        every = (
            (name, getattr(self, name)) for name in (*_CLIENT_FIELDS, *_CALL_FIELDS) if name not in _NOT_IN_ANSWERS
        )
        given = {name: plain(value) for name, value in every if value is not None}
        if self.client is not None:
            given["client"] = id(self.client)  # how it was made is not told, and another one may answer otherwise
        if self.settings is None and self._settings is not None:
            given["settings"] = plain(self._settings)
        return {"model_name": self.model_name, **given}

    def _get_llm_string(self, stop: list[str] | None = None, **kwargs: Any) -> str:
        # The inherited one reads what is serialised, where objects such as a gate of the user's stand without content.
        params = {**self._identifying_params, "stop": stop, **kwargs}
        return str(sorted((name, plain(value)) for name, value in params.items()))

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        params = super()._get_ls_params(stop=stop or self.stop, **kwargs)
        params["ls_provider"] = "duet"
        return params

    def _resolve_model_profile(self) -> ModelProfile | None:
        # What depends on the generator (tools, images) is not known before it is asked. Structured output is left out
        # on purpose: agents would send tools and response_format together, and under such a grammar servers of open
        # models call no tools.
        profile = ModelProfile(text_inputs=True, text_outputs=True, reasoning_output=True)
        models = (self.reasoner, self.generator)
        windows = [model.context_tokens for model in models if isinstance(model, Endpoint) and model.context_tokens]
        if windows:
            profile["max_input_tokens"] = min(windows)
        return profile

    @classmethod
    def is_lc_serializable(cls) -> bool:
        """Yes: keys become references, and objects of your own (a gate, a ledger) must be given again."""
        return True

    @property
    def lc_secrets(self) -> dict[str, str]:
        """Where the key comes from when a model is loaded."""
        return {"api_key": "DUET_API_KEY"}

    @property
    def lc_attributes(self) -> dict[str, Any]:
        """The options as plain values."""
        given = ((name, getattr(self, name)) for name in (*_CLIENT_FIELDS, *_CALL_FIELDS) if name != "api_key")
        default = type(self).model_fields
        return {name: plain(value) for name, value in given if value != default[name].default}

    def _prepare(self, stop: list[str] | None, given: Mapping[str, Any]) -> Prepared:
        defaults = {name: getattr(self, name) for name in _CALL_FIELDS}
        body = None if self.generator_params is None else self.generator_params.extra_body
        return prepare(given, defaults, stop=stop, body=body)

    def _clients_of(self, generator: str | None) -> Clients | GivenClient:
        """The clients for that generator in place of the model's own; made anew when an option was changed.

        Raises:
            InvalidRequest: another generator than that of a client that was given.
        """
        made_of = tuple(getattr(self, name) for name in _CLIENT_FIELDS)
        found = self._clients.get(generator)
        if found is not None and all(map(is_, found[0], made_of)):
            return found[1]
        if self.client is not None:
            if generator is not None:
                raise InvalidRequest(
                    "model= names another generator than the client's: leave it out, or make ChatDuet "
                    "of models, without client="
                )
            made: Clients | GivenClient = GivenClient(self.client)
        else:
            key = self.api_key
            second = self.generator if generator is None else beside(self.generator, generator)
            made = Clients(keyed(self.reasoner, key), keyed(second, key), self._settings, self._client_options())
        self._clients[generator] = (made_of, made)
        return made

    def _client_options(self) -> ClientOptions:
        names = (*_POLICIES, *_SAMPLING, *_BOOKS)
        given = {name: value for name in names if (value := getattr(self, name)) is not None}
        if self.retry is None and self.max_retries is not None:
            given["retry"] = Retry(attempts=self.max_retries + 1)
        return cast("ClientOptions", given)
