"""All configuration: constructor, then environment ``DUET_*``, then ``duet.toml``, then defaults.

Tables are the dials of `duet_sdk.policies` themselves, which check their own values. ``duet.toml`` is looked for in the
working directory, or where ``DUET_CONFIG`` says; what a found file may not set without consent is in
`duet_sdk.consent`. Nested settings are written with two underscores:
``DUET_BUDGET__SIGNAL_TOKENS=256``; lists and tables as a whole in JSON.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import tomllib
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Self, TypeAlias, cast, get_args, get_origin, get_type_hints

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    InstanceOf,
    Tag,
    ValidationError,
    create_model,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from duet_sdk._explained import explain, fields_of, table_in
from duet_sdk.consent import FoundFile
from duet_sdk.endpoints import LedgerSetting, ModelSetting, PriceSetting
from duet_sdk.environment import PREFIX, own_variables, variable
from duet_sdk.errors import ConfigError, InvalidRequest
from duet_sdk.gateway_policy import GatewayPolicy
from duet_sdk.options import ClientOptions
from duet_sdk.policies import (
    Budget,
    FailurePolicy,
    GateConfig,
    Ladder,
    Progressive,
    Prompts,
    Retry,
    RunScope,
    Sampling,
    failure_policy,
)
from duet_sdk.types import GateName, HandoffName, TraceDialect

_log = logging.getLogger(__name__)
_STRANGERS_REFUSED = ConfigDict(extra="forbid", hide_input_in_errors=True, arbitrary_types_allowed=True)
_OTHER_VARIABLES = {"DUET_API_KEY", "DUET_CONFIG", "DUET_CACHE_DIR", "DUET_CI_CACHE"}
_TOO_DEEP = "{} cannot be used: a list or a table in them is nested too deeply"
_WORD_AND_TABLE = (
    "on_failure is a word or a table, not both: beside [on_failure.retry] write the word as ladder in [on_failure]"
)
_named_file: ContextVar[Path | None] = ContextVar("settings file of this load", default=None)
_found_file: ContextVar[tuple[FoundFile, dict[str, Any]] | None] = ContextVar("file found by this load", default=None)

# Which form a value has, so that an error speaks of that one alone.
_name_or_table = Discriminator(lambda given: "<name>" if isinstance(given, str) else "<table>")
GateSetting: TypeAlias = Annotated[
    Annotated[GateName, Tag("<name>")] | Annotated[GateConfig, Tag("<table>")], _name_or_table
]
"""A gate's name, or its name with numbers."""
ScopeSetting: TypeAlias = Annotated[
    Annotated[Literal["turn", "run"], Tag("<name>")] | Annotated[RunScope, Tag("<table>")], _name_or_table
]
"""A scope's name, or the rules of a run."""


def _ladder_of_word(given: object) -> object:
    """The ladder that ``answer`` or ``raise`` stands for; anything else as it is."""
    return failure_policy(given).ladder if given in ("answer", "raise") else given


@dataclass(frozen=True, slots=True)
class _FailureTable(FailurePolicy):
    """A failure policy as a file writes it: models of the fallback pair by names and tables, the ladder also a word."""

    fallback_pair: tuple[ModelSetting, ModelSetting] | None = None
    ladder: Annotated[Ladder, BeforeValidator(_ladder_of_word)] = Ladder()

    def policy(self) -> FailurePolicy:
        """The policy as the client takes it."""
        return FailurePolicy(**{field.name: getattr(self, field.name) for field in dataclasses.fields(self)})


def _form_of_failure(given: object) -> str:
    if isinstance(given, FailurePolicy | Ladder):
        return "<object>"
    return "<table>" if isinstance(given, Mapping) else "<name>"


FailureSetting: TypeAlias = Annotated[
    Annotated[Literal["answer", "raise"], Tag("<name>")]
    | Annotated[_FailureTable, AfterValidator(_FailureTable.policy), Tag("<table>")]
    | Annotated[InstanceOf[FailurePolicy] | InstanceOf[Ladder], AfterValidator(failure_policy), Tag("<object>")],
    Discriminator(_form_of_failure),
]
"""``answer``, ``raise``, or a `FailurePolicy` as a table or an object."""


def _with_stops(given: object) -> object:
    """A table whose ``stop`` is one text, as `Sampling` takes it, with a list of one."""
    if isinstance(given, Mapping) and isinstance(given.get("stop"), str):
        return {**given, "stop": [given["stop"]]}
    return given


SamplingSetting: TypeAlias = Annotated[Sampling, BeforeValidator(_with_stops)]


class Settings(BaseSettings):
    """Everything that can be configured; `load_settings` makes one with errors of DUET's own.

    >>> Settings(reasoner="scripted/17", generator="scripted/There are 17.").gate
    'always'
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
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
    budget: Budget = Budget()
    """Limits of every request."""
    gate: GateSetting = "always"
    """Whether the reasoner is asked: a gate's name, or a table with its ``policy``, ``threshold`` and ``first_tokens``;
    the calibration's gate where there is a calibration, else ``always``, as skipping the reasoner needs thresholds
    from your own questions."""
    calibration: str | None = None
    """Path of a calibration file: thresholds measured on your own questions."""
    gate_deadline_s: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 2.0
    """Seconds that a gate's own code may take to decide; two, as it must not be what a user waits for."""
    progressive: Progressive | None = None
    """Stops the reasoner as soon as what it has written suffices the generator; off when not set, as its threshold
    needs your own questions."""
    handoff: HandoffName | None = None
    """When not set what the pair was trained with, else ``instruct``, which works with any two models."""
    on_cut: Literal["sentence", "keep", "wrap_up", "error"] = "sentence"
    """What a signal that its limit cut off becomes; ``sentence`` costs no further tokens."""
    on_failure: FailureSetting = "answer"
    """Whether a request continues with the stage that works; ``answer``, and the reply says so. Or a table, which says
    what follows a failure step by step."""
    context: Literal["all", "last_turn"] = "all"
    """What each stage sees of a long conversation; ``all``, as anything less can miss what the question means."""
    signal_scope: ScopeSetting = "run"
    """How long a signal holds while tools are called; ``run``, as a plan for the whole task is paid for once."""
    retry: Retry | None = None
    """Short for the retry of ``on_failure``; up to three calls of a model when not set."""
    trace_dialects: tuple[TraceDialect, ...] = ()
    """Further names that spans carry, for tools that do not read the standard's; none, as each costs time and space.
    Where traces go is set by the standard's own variables, ``OTEL_…``."""
    prices: dict[str, PriceSetting] = {}
    """Prices by model name; they override every other source."""
    ledger: LedgerSetting | None = None
    """Where spending over many requests is kept: a URL, or a table with ``url`` and ``password_env``; nowhere when not
    set."""
    ledger_wait_s: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    """Longest wait in seconds for room in the ledger that only others' holds take; none when not set, as callers
    notice a refusal sooner than a queue."""
    prompts: Prompts = Prompts()
    """System prompts by stage."""
    reasoner_params: SamplingSetting = Sampling()
    """How the reasoner samples."""
    generator_params: SamplingSetting = Sampling()
    """How the generator samples."""
    gateway: GatewayPolicy = GatewayPolicy()
    """What `duet serve` serves and to whom."""

    def __init__(self, **values: Any) -> None:
        """Read all sources.

        Raises:
            ConfigError: a file cannot be used, or was found and sets what needs consent.
            ValidationError: a value cannot be used.
        """
        before = _found_file.set(None)
        try:
            super().__init__(**values)
            # After the values were checked: a misspelt key is reported as one, not as in need of consent.
            if (found := _found_file.get()) is not None:
                found[0].require_consent(found[1])
        finally:
            _found_file.reset(before)

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
        environment = InitSettingsSource(settings_cls, _with_json(env_settings()))
        return init_settings, environment, InitSettingsSource(settings_cls, _read_file())

    def client_options(self) -> ClientOptions:
        """What a client is made with, models left out: only what some source sets, so that a pair's own stands."""
        names = self.model_fields_set & set(ClientOptions.__annotations__)
        return cast("ClientOptions", {name: getattr(self, name) for name in sorted(names)})


def load_settings(path: str | Path | None = None, **overrides: Any) -> Settings:
    """Read the settings, with errors of ours.

    Args:
        path: a settings file in place of ``duet.toml`` and ``DUET_CONFIG``; the environment overrides it all the same.
        overrides: values that override all sources.

    Raises:
        ConfigError: a file that is missing or not TOML, an unknown key, or a value of the wrong kind; names the key
            and never quotes a value that may be secret.
    """
    _warn_of_unknown_variables()
    named = _named_file.set(None if path is None else Path(path))
    try:
        return Settings(**overrides)
    except ValidationError as error:
        raise ConfigError(explain(error, "the settings", Settings)) from None
    except RecursionError:
        raise ConfigError(_TOO_DEEP.format("the settings")) from None
    except SettingsError as error:
        raise ConfigError(
            f"the settings cannot be used: {error}: a list or a table in the environment must be JSON; or set its "
            f"parts, such as {PREFIX}BUDGET__SIGNAL_TOKENS"
        ) from None
    finally:
        _named_file.reset(named)


def from_tables(
    given: Mapping[str, object], *, error: type[ConfigError | InvalidRequest] = ConfigError
) -> dict[str, Any]:
    """Options written as in a settings file, as the objects that a client takes.

    Args:
        given: fields of `Settings` by name, each a table, a name, or already an object.
        error: what is raised.

    Raises:
        ConfigError: or the ``error`` given instead: an unknown key, or a value of the wrong kind.
    """
    kinds = get_type_hints(Settings, include_extras=True)
    fields: dict[str, Any] = {name: (kinds[name], ...) for name in given}
    try:
        made = create_model("Options", __config__=_STRANGERS_REFUSED, **fields).model_validate(given)
    except ValidationError as problem:
        raise error(explain(problem, "the options", Settings)) from None
    except RecursionError:
        raise error(_TOO_DEEP.format("the options")) from None
    return {name: getattr(made, name) for name in given}


def _read_file() -> dict[str, Any]:
    """What the settings file says: the one named, else that of ``DUET_CONFIG``, else ``duet.toml`` where there is one.

    Raises:
        ConfigError: a file that was named is missing, or a file cannot be read or is not TOML.
    """
    config = variable("DUET_CONFIG")
    named = _named_file.get() or (Path(config) if config else None)
    if named is None:
        found = FoundFile.in_folder(Path())
        if found is None:
            return {}
        values = parse_toml(found.content, found.path)
        _found_file.set((found, values))
        return values
    try:
        content = named.expanduser().read_bytes()
    except FileNotFoundError as error:
        source = f"DUET_CONFIG names {named}" if _named_file.get() is None else f"the settings file is {named}"
        raise ConfigError(f"{source}, which does not exist") from error
    except (OSError, RuntimeError, ValueError) as error:  # no such user, or a NUL in the name
        raise ConfigError(f"the settings file {named} cannot be read: {type(error).__name__}") from error
    return parse_toml(content, named)


def parse_toml(content: bytes, file: Path) -> dict[str, Any]:
    """The values of a settings file, a byte order mark in front of it read over.

    Raises:
        ConfigError: it is not TOML.
    """
    try:
        return tomllib.loads(content.decode("utf-8-sig"))
    except tomllib.TOMLDecodeError as error:
        twice = "overwrite a value" in str(error) or "namespace" in str(error)
        hint = f"; {_WORD_AND_TABLE}" if twice and b"on_failure" in content else ""
        raise ConfigError(f"the settings file {file} is not TOML: {error}{hint}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"the settings file {file} is not UTF-8 text (byte {error.start})") from error
    except ValueError:  # Python reads no number of more than 4300 digits
        raise ConfigError(f"the settings file {file} cannot be used: a number in it is too long") from None
    except RecursionError:
        raise ConfigError(f"the settings file {file} is not TOML: its lists are too deep") from None


def _with_json(values: Mapping[str, Any]) -> dict[str, Any]:
    """What the environment says, with lists and tables in a dial's fields read as JSON.

    pydantic-settings does so only within models of pydantic. What is not JSON stays a text, for the field to refuse.
    """
    return {name: _dial_with_json(Settings.model_fields[name].annotation, value) for name, value in values.items()}


def _dial_with_json(annotation: object, given: object) -> object:
    table = table_in(annotation)
    if not isinstance(given, Mapping) or table is None or issubclass(table, BaseModel):
        return given
    kinds = fields_of(table)
    return {name: _json_for(kinds.get(name), value) for name, value in given.items()}


def _json_for(annotation: object, given: object) -> object:
    takes_text = annotation is str or (get_origin(annotation) is UnionType and str in get_args(annotation))
    if not isinstance(given, str) or takes_text or not given.startswith(("[", "{")):
        return given
    try:
        return json.loads(given)
    except (ValueError, RecursionError):
        return given


def _warn_of_unknown_variables() -> None:
    """pydantic-settings ignores variables that match no field: a limit with a typo must not vanish in silence."""
    known = {f"{PREFIX}{name.upper()}" for name in Settings.model_fields} | _OTHER_VARIABLES
    for name in own_variables():
        if name.partition("__")[0] not in known:
            _log.warning("the environment variable %s matches no setting and is ignored", name)
