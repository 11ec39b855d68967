"""All configuration: constructor, then environment ``DUET_*``, then ``duet.toml``, then defaults.

This module is the package's one reader of the environment. ``duet.toml`` is looked for in the working directory, or
where ``DUET_CONFIG`` says. Nested settings are written with two underscores: ``DUET_BUDGET__SIGNAL_TOKENS=256``.
"""

from __future__ import annotations

import logging
import os
import tomllib
from decimal import Decimal
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from duet_sdk.errors import ConfigError
from duet_sdk.pricing import GpuHour, Price, TokenPrice
from duet_sdk.types import Budget, HandoffName, Prompts, Sampling

if TYPE_CHECKING:
    from duet_sdk.client import ClientOptions


_log = logging.getLogger(__name__)
_PREFIX = "DUET_"
_OTHER_VARIABLES = {"DUET_CONFIG", "DUET_CACHE_DIR", "DUET_CI_CACHE"}


class _Section(BaseModel):
    # Inputs may hold keys: a validation error must not quote them.
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class PriceSettings(_Section):
    """A price: by tokens, or by the hour of the hardware."""

    input_usd: Decimal | None = None
    """USD for a million input tokens."""
    output_usd: Decimal | None = None
    """USD for a million output tokens."""
    cached_usd: Decimal | None = None
    """USD for a million cached input tokens; like other input when not set."""
    gpu_hour_usd: Decimal | None = None
    """USD for an hour of the hardware, in place of the three above."""

    def to_price(self) -> Price:
        """The price as the price book takes it.

        Raises:
            ConfigError: neither kind is complete, or both are given.
        """
        if self.gpu_hour_usd is not None and self.input_usd is None and self.output_usd is None:
            return GpuHour(self.gpu_hour_usd)
        if self.gpu_hour_usd is None and self.input_usd is not None and self.output_usd is not None:
            return TokenPrice(self.input_usd, self.output_usd, self.cached_usd)
        raise ConfigError("a price needs input_usd and output_usd, or gpu_hour_usd alone")


class Endpoint(_Section):
    """A model with what its name cannot say: where it is served, with which key, at which price."""

    model: str
    """Full name, ``backend/model``."""
    base_url: str | None = None
    """Where it is served, such as ``http://127.0.0.1:8000/v1``."""
    api_key: SecretStr | None = None
    """The key itself; never shown."""
    api_key_env: str | None = None
    """Name of the environment variable that holds the key."""
    boundary: str | None = None
    """``local``, a named region, or ``any``; the backend's own when not set."""
    price: PriceSettings | None = None
    context_tokens: int | None = Field(default=None, ge=1)
    """The model's window where it cannot be found out."""
    options: dict[str, Any] = {}
    """What else the backend takes."""

    def connect_options(self) -> dict[str, object]:
        """What the backend is made with; the key is read here, at the last moment.

        Raises:
            ConfigError: the named environment variable is not set.
        """
        options: dict[str, object] = dict(self.options)
        if self.base_url is not None:
            options["base_url"] = self.base_url
        if self.boundary is not None:
            options["boundary"] = self.boundary
        if self.price is not None:
            options["price"] = self.price.to_price()
        if self.context_tokens is not None:
            options["context_tokens"] = self.context_tokens
        if (key := self._key()) is not None:
            options["api_key"] = key
        return options

    def _key(self) -> SecretStr | None:
        if self.api_key is not None or self.api_key_env is None:
            return self.api_key
        if not (value := os.environ.get(self.api_key_env)):
            raise ConfigError(f"the key of {self.model} is read from {self.api_key_env}, which is not set")
        return SecretStr(value)


class BudgetSettings(_Section):
    """Limits of every request; see `duet_sdk.Budget` for units and defaults."""

    signal_tokens: int | None = None
    """Output tokens of the reasoner."""
    answer_tokens: int | None = None
    """Output tokens of an answer."""
    total_tokens: int | None = None
    """Input and output tokens of both stages."""
    cost_usd: Decimal | None = None
    """USD of a request."""
    deadline_s: float | None = None
    """Seconds of a request."""
    signal_deadline_s: float | None = None
    """Seconds of its signal."""


class PromptSettings(_Section):
    """System prompts by stage, in place of DUET's own."""

    reasoner: str | None = None
    """``{signal_tokens}`` stands for the limit."""
    generator: str | None = None


class SamplingSettings(_Section):
    """How a stage samples; see `duet_sdk.Sampling`."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    logprobs: int | None = None
    extra_body: dict[str, Any] | None = None


ModelSetting = str | Endpoint | list[str | Endpoint]


class Settings(BaseSettings):
    """Everything that can be configured.

    >>> Settings(reasoner="scripted/17", generator="scripted/There are 17.").gate
    'always'
    """

    model_config = SettingsConfigDict(
        env_prefix=_PREFIX,
        env_nested_delimiter="__",
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
    )

    reasoner: ModelSetting | None = None
    """The model that writes the signal; the embedded one when neither is named."""
    generator: ModelSetting | None = None
    """The model that answers."""
    pair: str | None = None
    """Folder or hub id of a pair, in place of the two above."""
    budget: BudgetSettings = BudgetSettings()
    gate: Literal["always", "never"] = "always"
    """Whether the reasoner is asked."""
    handoff: HandoffName | None = None
    """``instruct`` when not set, or what the pair was trained with."""
    on_cut: Literal["sentence", "keep", "wrap_up", "error"] = "sentence"
    """What a signal that its limit cut off becomes."""
    on_failure: Literal["answer", "raise"] = "answer"
    """Whether a request goes on with the stage that works."""
    context: Literal["all", "last_turn"] = "all"
    """What each stage sees of a long conversation."""
    prices: dict[str, PriceSettings] = {}
    """Prices by model name; they go before every other source."""
    prompts: PromptSettings = PromptSettings()
    reasoner_params: SamplingSettings = SamplingSettings()
    generator_params: SamplingSettings = SamplingSettings()

    @classmethod
    def settings_customise_sources(  # the signature is pydantic-settings'
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Constructor, environment, ``duet.toml``."""
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls, _config_file())

    def client_options(self) -> ClientOptions:
        """What a client is made with, models left out: only what some source sets, so that a pair's own stands."""
        every: ClientOptions = {
            "budget": Budget(**self.budget.model_dump()),
            "gate": self.gate,
            "handoff": self.handoff,
            "on_cut": self.on_cut,
            "on_failure": self.on_failure,
            "context": self.context,
            "prices": {name: price.to_price() for name, price in self.prices.items()},
            "prompts": Prompts(**self.prompts.model_dump()),
            "reasoner_params": Sampling(**self.reasoner_params.model_dump()),
            "generator_params": Sampling(**self.generator_params.model_dump()),
        }
        return cast("ClientOptions", {name: value for name, value in every.items() if name in self.model_fields_set})


def load_settings(path: Path | None = None, **overrides: Any) -> Settings:
    """Read the settings, with errors of ours.

    Args:
        path: a settings file in place of ``duet.toml``.
        overrides: values that go before all sources.

    Raises:
        ConfigError: a file that is missing or no TOML, an unknown key, or a value of the wrong kind; names the key
            and never quotes its value.
    """
    file = path or _config_file()
    _warn_of_unknown_variables()
    try:
        if path is not None:
            overrides = {**_read_toml(path), **overrides}
        elif file.is_file():
            _read_toml(file)
        elif os.environ.get("DUET_CONFIG"):
            raise ConfigError(f"DUET_CONFIG names {file}, which does not exist")
        return Settings(**overrides)
    except ValidationError as error:
        raise ConfigError(_explain(error)) from None


def default_cache_dir() -> Path:
    """DUET's cache folder: ``DUET_CACHE_DIR``, else ``duet`` in ``XDG_CACHE_HOME``, else ``~/.cache/duet``."""
    if own := os.environ.get("DUET_CACHE_DIR"):
        return Path(own).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "duet"


def _config_file() -> Path:
    return Path(os.environ.get("DUET_CONFIG") or "duet.toml")


def _read_toml(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the settings file {file} cannot be read: {type(error).__name__}") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"the settings file {file} is no TOML: {error}") from error


def _warn_of_unknown_variables() -> None:
    """pydantic-settings passes over variables that match no field: a limit with a typo must not vanish in silence."""
    known = {f"{_PREFIX}{name.upper()}" for name in Settings.model_fields} | _OTHER_VARIABLES
    for name in os.environ:
        if name.startswith(_PREFIX) and name.partition("__")[0] not in known:
            _log.warning("the environment variable %s matches no setting and is passed over", name)


def _explain(error: ValidationError) -> str:
    """One line for each problem: which key, what is wrong, and what was probably meant."""
    lines = []
    for problem in error.errors(include_input=False, include_url=False, include_context=False):
        where = ".".join(str(part) for part in problem["loc"])
        line = f"{where}: {problem['msg']}"
        if problem["type"] == "extra_forbidden":
            known = _known_keys(problem["loc"])
            close = get_close_matches(str(problem["loc"][-1]), known, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else f"; known are {', '.join(known)}"
            line = f"{where} is no setting{hint if known else ''}"
        lines.append(line)
    return "the settings cannot be used: " + "; ".join(lines)


def _known_keys(loc: tuple[int | str, ...]) -> list[str]:
    fields = Settings.model_fields
    for part in loc[:-1]:
        section = fields[part].default if isinstance(part, str) and part in fields else None
        if not isinstance(section, BaseModel):
            return []
        fields = type(section).model_fields
    return list(fields)
