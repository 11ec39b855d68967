"""All configuration: constructor, then environment ``DUET_*``, then ``duet.toml``, then defaults.

This module is the package's one reader of the environment. ``duet.toml`` is looked for in the working directory, or
where ``DUET_CONFIG`` says. Nested settings are written with two underscores: ``DUET_BUDGET__SIGNAL_TOKENS=256``;
lists and tables as a whole in JSON.
"""

from __future__ import annotations

import logging
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, TypeAlias, cast, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    Discriminator,
    Field,
    SecretStr,
    Tag,
    ValidationError,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)
from typing_extensions import override

from duet_sdk.errors import ConfigError
from duet_sdk.policies import Retry
from duet_sdk.sections import (
    BudgetSettings,
    GateSettings,
    PriceSettings,
    ProgressiveSettings,
    PromptSettings,
    RetrySettings,
    SamplingSettings,
    ScopeSettings,
    Section,
)
from duet_sdk.types import GateName, HandoffName, TraceDialect

if TYPE_CHECKING:
    from duet_sdk.client import ClientOptions


_log = logging.getLogger(__name__)
_PREFIX = "DUET_"
_OTHER_VARIABLES = {"DUET_API_KEY", "DUET_CONFIG", "DUET_CACHE_DIR", "DUET_CI_CACHE"}
_TAGS = ("name", "endpoint", "chain", "table", "url", "store")
_SECRET_OPTION = re.compile(
    r"(.*[_-])?(api[_-]?key|(access|api|auth|bearer|hf)[_-]?token|authorization|passw(or)?d|secret)|key|token",
    re.IGNORECASE,
)
_SECRET_IN_URL = re.compile(r"https?://([^/\s]*@|\S*\?)")
_SECRET_IN_LEDGER = re.compile(r"\w+://([^/\s]*:[^/\s]*@|\S*\?)")
_named_file: ContextVar[Path | None] = ContextVar("settings file of this load", default=None)


def _without_secrets(text: str) -> str:
    """Refuse what is shown in traces and errors and holds a key; only ``api_key`` is kept from view.

    Raises:
        ValueError: there is a user, a password or a query in a URL.
    """
    if _SECRET_IN_URL.search(text):
        raise ValueError(
            "a URL must not hold a user, a password or a query, as it is shown in traces; give the key as "
            "api_key_env, the name of an environment variable"
        )
    return text


def _name_of_variable(text: str) -> str:
    """Refuse what may be the key itself, written in the wrong place, where it would be shown.

    Raises:
        ValueError: it is not in capitals.
    """
    if re.fullmatch(r"[A-Z_][A-Z0-9_]*", text) is None:
        raise ValueError("must be the name of an environment variable, in capitals, such as MY_API_KEY")
    return text


def _ledger_without_secrets(url: str) -> str:
    """Refuse a password in a ledger's URL, which is shown in errors.

    Raises:
        ValueError: there is a password or a query in it.
    """
    if _SECRET_IN_LEDGER.match(url):
        raise ValueError(
            "a ledger's URL must not hold a password or a query, as it is shown in errors; name an environment "
            "variable with the password as password_env"
        )
    return url


class LedgerStore(Section):
    """Where a ledger is kept, with what its URL may not say.

    >>> LedgerStore(url="redis://127.0.0.1:6379/0", password_env="REDIS_PASSWORD").url
    'redis://127.0.0.1:6379/0'
    """

    url: Annotated[str, AfterValidator(_ledger_without_secrets)]
    """As `duet_sdk.budget.connect_ledger` reads it."""
    password_env: Annotated[str, AfterValidator(_name_of_variable)] | None = None
    """Name of the environment variable that holds the store's password, in capitals; read when it is connected."""

    def resolve_password(self) -> str | None:
        """The password, None where there is none.

        Raises:
            ConfigError: the named environment variable is not set.
        """
        if self.password_env is None:
            return None
        if not (value := os.environ.get(self.password_env)):
            raise ConfigError(f"the ledger's password is read from {self.password_env}, which is not set")
        return value


class Endpoint(Section):
    """A model with what its name cannot say: where it is served, with which key, at which price.

    >>> Endpoint(model="vllm/Qwen/Qwen3-4B", base_url="http://127.0.0.1:8101/v1", api_key="sk-1").api_key
    SecretStr('**********')
    """

    model: Annotated[str, AfterValidator(_without_secrets)]
    """Full name, ``backend/model``."""
    base_url: Annotated[str, AfterValidator(_without_secrets)] | None = None
    """Where it is served, such as ``http://127.0.0.1:8000/v1``; the backend's own address when not set."""
    api_key: SecretStr | None = None
    """The key itself; never shown. The next field keeps it out of files."""
    api_key_env: Annotated[str, AfterValidator(_name_of_variable)] | None = None
    """Name of the environment variable that holds the key, in capitals; read when the client is made."""
    boundary: str | None = None
    """``local``, a named region, or ``any``; the backend's own when not set, as it knows where it sends requests."""
    price: PriceSettings | None = None
    """What a call costs; not set, other sources of prices are asked."""
    context_tokens: Annotated[int, Field(ge=1)] | None = None
    """The model's window in tokens, where it cannot be found out; not set, the backend asks the model."""
    options: dict[str, Any] = Field(default={})
    """What else the backend takes, such as ``dtype``; no keys, as all but the values of ``headers`` is shown."""

    @model_validator(mode="after")
    def _keys_are_safe(self) -> Self:
        if self.api_key is not None and self.api_key_env is not None:
            raise ValueError("give api_key or api_key_env, not both")
        if secret := _secret_option(self.options):
            raise ValueError(f"the option {secret!r} looks like a key, and options are shown: use api_key_env")
        return self

    @override
    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        for name, value in super().__repr_args__():
            if name == "options" and isinstance(headers := value.get("headers"), Mapping):
                # Which header holds a key is up to the server (Cookie, X-Auth): none of their values is shown.
                yield name, {**value, "headers": dict.fromkeys(headers, "**********")}
            else:
                yield name, value

    def resolve_key(self) -> SecretStr | None:
        """The key, from the named environment variable where it is there; None where there is none.

        Raises:
            ConfigError: the named environment variable is not set.
        """
        if self.api_key_env is None:
            return self.api_key
        if not (value := os.environ.get(self.api_key_env)):
            raise ConfigError(f"the key of {self.model} is read from {self.api_key_env}, which is not set")
        return SecretStr(value)

    def connect_options(self) -> dict[str, object]:
        """What the backend is made with; the key is read here, at the last moment.

        Raises:
            ConfigError: the named environment variable is not set.
        """
        named = {
            "base_url": self.base_url,
            "boundary": self.boundary,
            "price": self.price.to_price() if self.price else None,
            "context_tokens": self.context_tokens,
            "api_key": self.resolve_key(),
        }
        return {**self.options, **{name: value for name, value in named.items() if value is not None}}


def _kind(value: object) -> str | None:
    """Which of a model's three forms this is, so that an error speaks of that one alone."""
    if isinstance(value, str):
        return "name"
    if isinstance(value, list | tuple):
        return "chain"
    return "endpoint" if isinstance(value, Mapping | Endpoint) else None


_by_kind = Discriminator(
    _kind,
    custom_error_type="model_form",
    custom_error_message="must be 'backend/model', a table with 'model' in it, or a list of these",
)
_Name: TypeAlias = Annotated[str, AfterValidator(_without_secrets), Tag("name")]
_One: TypeAlias = Annotated[_Name | Annotated[Endpoint, Tag("endpoint")], _by_kind]
LedgerSetting: TypeAlias = Annotated[
    Annotated[str, AfterValidator(_ledger_without_secrets), Tag("url")] | Annotated[LedgerStore, Tag("store")],
    Discriminator(lambda value: "url" if isinstance(value, str) else "store"),
]
"""A ledger's URL, or a `LedgerStore`."""
ModelSetting: TypeAlias = Annotated[
    _Name | Annotated[Endpoint, Tag("endpoint")] | Annotated[list[_One], Tag("chain")], _by_kind
]
"""A model's full name, an `Endpoint`, or a list of these in the order in which they are tried."""


def _form_of_gate(value: object) -> str:
    """Which of a gate's two forms this is, so that an error speaks of that one alone."""
    return "table" if isinstance(value, Mapping | GateSettings) else "name"


GateSetting: TypeAlias = Annotated[
    Annotated[GateName, Tag("name")] | Annotated[GateSettings, Tag("table")], Discriminator(_form_of_gate)
]
"""A gate's name, or its name with numbers."""


class Settings(BaseSettings):
    """Everything that can be configured; `load_settings` makes one with errors of DUET's own.

    >>> Settings(reasoner="scripted/17", generator="scripted/There are 17.").gate
    'always'
    """

    model_config = SettingsConfigDict(
        env_prefix=_PREFIX,
        env_nested_delimiter="__",
        env_ignore_empty=True,
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
    )

    reasoner: ModelSetting | None = None
    """The model that writes the signal; when neither is named the embedded one, which needs no server and no key."""
    generator: ModelSetting | None = None
    """The model that answers; likewise."""
    pair: str | None = None
    """Folder or hub id of a pair, in place of the two above."""
    budget: BudgetSettings = BudgetSettings()
    """Limits of every request."""
    gate: GateSetting = "always"
    """Whether the reasoner is asked: a gate's name, or a table with its ``policy``, ``threshold`` and ``first_tokens``;
    the calibration's gate where there is a calibration, else ``always``, as skipping the reasoner needs thresholds
    from your own questions."""
    calibration: str | None = None
    """Path of a calibration file: thresholds measured on your own questions."""
    gate_deadline_s: Annotated[float, Field(gt=0)] = 2.0
    """Seconds that a gate's own code may take to decide; two, as it must not be what a user waits for."""
    progressive: ProgressiveSettings | None = None
    """Stops the reasoner as soon as what it has written suffices the generator; off when not set, as its threshold
    needs your own questions."""
    handoff: HandoffName | None = None
    """When not set what the pair was trained with, else ``instruct``, which works with any two models."""
    on_cut: Literal["sentence", "keep", "wrap_up", "error"] = "sentence"
    """What a signal that its limit cut off becomes; ``sentence`` costs no further tokens."""
    on_failure: Literal["answer", "raise"] = "answer"
    """Whether a request goes on with the stage that works; ``answer``, and the reply says so."""
    context: Literal["all", "last_turn"] = "all"
    """What each stage sees of a long conversation; ``all``, as anything less can miss what the question means."""
    signal_scope: Literal["turn", "run"] | ScopeSettings = "run"
    """How long a signal holds while tools are called; ``run``, as a plan for the whole task is paid for once."""
    retry: RetrySettings = RetrySettings()
    """When a model that failed is called again."""
    fallback_pair: tuple[ModelSetting, ModelSetting] | None = None
    """Reasoner and generator that take over when the pair cannot answer; none, as they may cost more."""
    trace_dialects: tuple[TraceDialect, ...] = ()
    """Names beside the standard's that spans bear, for tools that read only those; none, as each costs time and room.
    Where traces go is set by the standard's own variables, ``OTEL_…``."""
    prices: dict[str, PriceSettings] = {}
    """Prices by model name; they go before every other source."""
    ledger: LedgerSetting | None = None
    """Where spending over many requests is kept: a URL, or a table with ``url`` and ``password_env``; nowhere when not
    set."""
    prompts: PromptSettings = PromptSettings()
    """System prompts by stage."""
    reasoner_params: SamplingSettings = SamplingSettings()
    """How the reasoner samples."""
    generator_params: SamplingSettings = SamplingSettings()
    """How the generator samples."""

    @model_validator(mode="after")
    def _one_way_to_name_models(self) -> Self:
        if self.pair is not None and (self.reasoner or self.generator) is not None:
            raise ValueError("pair names both models: leave reasoner and generator out")
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Constructor, environment, settings file."""
        return init_settings, env_settings, InitSettingsSource(settings_cls, _read_file())

    def client_options(self) -> ClientOptions:
        """What a client is made with, models left out: only what some source sets, so that a pair's own stands."""
        every: ClientOptions = {
            "budget": self.budget.to_budget(),
            "gate": self.gate.to_gate() if isinstance(self.gate, GateSettings) else self.gate,
            "calibration": self.calibration,
            "gate_deadline_s": self.gate_deadline_s,
            "progressive": self.progressive.to_progressive() if self.progressive else None,
            "handoff": self.handoff,
            "on_cut": self.on_cut,
            "on_failure": self.on_failure,
            "context": self.context,
            "signal_scope": self.signal_scope if isinstance(self.signal_scope, str) else self.signal_scope.to_scope(),
            "retry": Retry(**self.retry.model_dump()),
            "fallback_pair": self.fallback_pair,
            "ledger": self.ledger,
            "trace_dialects": self.trace_dialects,
            "prices": {name: price.to_price() for name, price in self.prices.items()},
            "prompts": self.prompts.to_prompts(),
            "reasoner_params": self.reasoner_params.to_sampling(),
            "generator_params": self.generator_params.to_sampling(),
        }
        return cast("ClientOptions", {name: value for name, value in every.items() if name in self.model_fields_set})


def load_settings(path: str | Path | None = None, **overrides: Any) -> Settings:
    """Read the settings, with errors of ours.

    Args:
        path: a settings file in place of ``duet.toml`` and ``DUET_CONFIG``; the environment goes over it all the same.
        overrides: values that go before all sources.

    Raises:
        ConfigError: a file that is missing or no TOML, an unknown key, or a value of the wrong kind; names the key
            and never quotes a value that may be secret.
    """
    _warn_of_unknown_variables()
    named = _named_file.set(None if path is None else Path(path))
    try:
        return Settings(**overrides)
    except ValidationError as error:
        raise ConfigError(_explain(error)) from None
    except SettingsError as error:
        raise ConfigError(
            f"the settings cannot be used: {error}: a list or a table in the environment must be JSON; or set its "
            f"parts, such as {_PREFIX}BUDGET__SIGNAL_TOKENS"
        ) from None
    finally:
        _named_file.reset(named)


def default_cache_dir() -> Path:
    """DUET's cache folder: ``DUET_CACHE_DIR``, else ``duet`` in ``XDG_CACHE_HOME``, else ``~/.cache/duet``."""
    if own := os.environ.get("DUET_CACHE_DIR"):
        return Path(own).expanduser()
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    # A relative path there is to be passed over (XDG Base Directory Specification).
    return (base if base.is_absolute() else Path.home() / ".cache") / "duet"


def _read_file() -> dict[str, Any]:
    """What the settings file says: the one named, else that of ``DUET_CONFIG``, else ``duet.toml`` where there is one.

    Raises:
        ConfigError: a file that was named is missing, or a file cannot be read or is no TOML.
    """
    variable = os.environ.get("DUET_CONFIG")
    named = _named_file.get() or (Path(variable).expanduser() if variable else None)
    file = named or Path("duet.toml")
    if named is None and not file.exists():
        return {}
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"the settings file {file} is no TOML: {error}") from error
    except FileNotFoundError as error:
        source = f"DUET_CONFIG names {file}" if _named_file.get() is None else f"the settings file is {file}"
        raise ConfigError(f"{source}, which does not exist") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the settings file {file} cannot be read: {type(error).__name__}") from error


def _warn_of_unknown_variables() -> None:
    """pydantic-settings passes over variables that match no field: a limit with a typo must not vanish in silence."""
    known = {f"{_PREFIX}{name.upper()}" for name in Settings.model_fields} | _OTHER_VARIABLES
    for name in os.environ:
        if name.startswith(_PREFIX) and name.partition("__")[0] not in known:
            _log.warning("the environment variable %s matches no setting and is passed over", name)


def _secret_option(options: Mapping[str, object]) -> str | None:
    for name, value in options.items():
        if _SECRET_OPTION.fullmatch(str(name)):
            return str(name)
        if isinstance(value, Mapping) and (inner := _secret_option(value)):
            return inner
    return None


def _explain(error: ValidationError) -> str:
    """One line for each problem: which key, what is wrong, and what was probably meant."""
    lines = []
    for problem in error.errors(include_input=False, include_url=False, include_context=False):
        where = ".".join(str(part) for part in problem["loc"] if part not in _TAGS)
        line = f"{where}: {problem['msg'].removeprefix('Value error, ')}".removeprefix(": ")
        if problem["type"] == "extra_forbidden":
            known = _known_keys(problem["loc"])
            close = get_close_matches(str(problem["loc"][-1]), known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(known)}"
            line = f"{where} is no setting; {hint}"
        lines.append(line)
    return "the settings cannot be used: " + "; ".join(lines)


def _known_keys(loc: tuple[int | str, ...]) -> list[str]:
    """The keys that can stand where an unknown one stands."""
    section: type[BaseModel] = Settings
    for part in loc[:-1]:
        if (field := section.model_fields.get(str(part))) is not None:
            section = _section_in(field.annotation) or section
    return list(section.model_fields)


def _section_in(annotation: object) -> type[BaseModel] | None:
    """The settings class inside a field's type, such as ``PriceSettings`` in ``dict[str, PriceSettings]``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := _section_in(part))), None)
