"""Models and ledgers with what a name or URL cannot say: where they are, with which key, at which price."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Self, TypeAlias

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    SecretStr,
    Tag,
    ValidationError,
    model_validator,
)
from typing_extensions import override

from duet_sdk._explained import explain
from duet_sdk.environment import variable
from duet_sdk.errors import ConfigError
from duet_sdk.pricing import PRICE_KEYS, GpuHour, TokenPrice

# Inputs may hold keys: a validation error must not quote them.
_TABLE = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)
_SECRET_OPTION = re.compile(
    r"(.*[_-])?(api[_-]?key|(access|api|auth|bearer|hf)[_-]?token|authorization|passw(or)?d|secret)|key|token",
    re.IGNORECASE,
)
_SECRET_IN_URL = re.compile(r"https?://([^/\s]*@|\S*\?)")
_SECRET_IN_LEDGER = re.compile(r"\w+://([^/\s]*:[^/\s]*@|\S*\?)")


def _price_of(given: object) -> object:
    """A price's table as its class reads it; one with unknown keys is left to the class to refuse.

    Raises:
        ValueError: it is half a price, or two.
    """
    if not isinstance(given, Mapping):
        return given
    table = {name: value for name, value in given.items() if value is not None}
    unknown = {name: value for name, value in table.items() if name not in PRICE_KEYS}
    if unknown:
        return unknown if "gpu_hour_usd" in table else table
    if set(table) == {"gpu_hour_usd"}:
        return GpuHour(table["gpu_hour_usd"])
    if "gpu_hour_usd" in table or not {"input_usd", "output_usd"} <= set(table):
        raise ValueError("a price needs input_usd and output_usd, or gpu_hour_usd alone")
    return table


PriceSetting: TypeAlias = Annotated[
    Annotated[TokenPrice, Tag("<tokens>")] | Annotated[GpuHour, Tag("<hour>")],
    Discriminator(lambda given: "<hour>" if isinstance(given, GpuHour) else "<tokens>"),
    BeforeValidator(_price_of),
]
"""A price, as an object or as a table: by tokens, or ``gpu_hour_usd`` by the hour of the hardware."""


def _without_secrets(text: str) -> str:
    """Refuse what is shown in traces and errors and holds a key; only ``api_key`` is kept from view.

    Raises:
        ValueError: there is a user, a password or a query in a URL.
    """
    if _SECRET_IN_URL.search(text):
        raise ValueError(
            "a URL must not contain a user, a password or a query, because it is shown in traces; give the key as "
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
            "a ledger's URL must not contain a password or a query, because it is shown in errors; name an environment "
            "variable with the password as password_env"
        )
    return url


def _with_hidden_headers(options: dict[str, Any]) -> dict[str, Any]:
    """The values of headers as secrets: which of them holds a key is up to the server (Cookie, X-Auth)."""
    return {name: _hidden(value) if "header" in str(name).lower() else value for name, value in options.items()}


def _hidden(headers: object) -> object:
    if not isinstance(headers, Mapping):
        return headers
    return {name: SecretStr(value) if isinstance(value, str) else value for name, value in headers.items()}


def _plain(headers: object) -> object:
    if not isinstance(headers, Mapping):
        return headers
    return {
        name: value.get_secret_value() if isinstance(value, SecretStr) else value for name, value in headers.items()
    }


class _Told(type(BaseModel)):  # type: ignore[misc]  # pydantic names its metaclass in private
    """Makes the errors of a table that code makes ours; within settings, these tell them."""

    def __call__(cls, *given: object, **fields: Any) -> Any:
        name, *_ = cls.model_fields
        if len(given) > 1 or (given and name in fields):
            raise ConfigError(f"{cls.__name__} takes its {name} by place, and all else by name")
        try:
            return super().__call__(**fields, **dict(zip((name,), given, strict=False)))
        except ValidationError as error:
            raise ConfigError(explain(error, f"the {cls.__name__}", cls)) from None


class LedgerStore(BaseModel, metaclass=_Told):
    """Where a ledger is kept, with what its URL may not say.

    >>> LedgerStore(url="redis://127.0.0.1:6379/0", password_env="REDIS_PASSWORD").url
    'redis://127.0.0.1:6379/0'
    """

    model_config = _TABLE

    url: Annotated[str, AfterValidator(_ledger_without_secrets)]
    """As `duet_sdk.budget.connect_ledger` reads it."""
    password_env: Annotated[str, AfterValidator(_name_of_variable)] | None = None
    """Name of the environment variable that holds the store's password, in capitals; read when it is connected."""

    def resolve_password(self) -> str | None:
        """The password, None if there is none.

        Raises:
            ConfigError: the named environment variable is not set.
        """
        if self.password_env is None:
            return None
        if not (value := variable(self.password_env)):
            raise ConfigError(f"the ledger's password is read from {self.password_env}, which is not set")
        return value


class Endpoint(BaseModel, metaclass=_Told):
    """A model with what its name cannot say: where it is served, with which key, at which price.

    >>> Endpoint(model="vllm/Qwen/Qwen3-4B", base_url="http://127.0.0.1:8101/v1", api_key="sk-1").api_key
    SecretStr('**********')
    """

    model_config = _TABLE

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
    price: PriceSetting | None = None
    """What a call costs; not set, other sources of prices are asked."""
    context_tokens: Annotated[int, Field(ge=1)] | None = None
    """The model's window in tokens, where it cannot be found out; not set, the backend asks the model."""
    options: Annotated[dict[str, Any], AfterValidator(_with_hidden_headers)] = Field(default={})
    """What else the backend takes, such as ``dtype``; no keys, as all but the values of ``headers`` is shown. Those
    are kept as `pydantic.SecretStr`."""

    @model_validator(mode="after")
    def _keys_are_safe(self) -> Self:
        if self.api_key is not None and self.api_key_env is not None:
            raise ValueError("pass api_key or api_key_env, not both")
        if secret := _secret_option(self.options):
            raise ValueError(f"the option {secret!r} looks like a key, but options are shown: use api_key_env")
        return self

    @override
    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        for name, value in super().__repr_args__():
            if name == "options" and isinstance(headers := value.get("headers"), Mapping):
                yield name, {**value, "headers": dict.fromkeys(headers, "**********")}
            else:
                yield name, value

    def resolve_key(self) -> SecretStr | None:
        """The key, from the named environment variable where it is there; None if there is none.

        Raises:
            ConfigError: the named environment variable is not set.
        """
        if self.api_key_env is None:
            return self.api_key
        if not (value := variable(self.api_key_env)):
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
            "price": self.price,
            "context_tokens": self.context_tokens,
            "api_key": self.resolve_key(),
        }
        options = {name: _plain(value) for name, value in self.options.items()}
        return {**options, **{name: value for name, value in named.items() if value is not None}}


def _secret_option(options: Mapping[str, object]) -> str | None:
    for name, value in options.items():
        if _SECRET_OPTION.fullmatch(str(name)):
            return str(name)
        if isinstance(value, Mapping) and (inner := _secret_option(value)):
            return inner
    return None


def _kind(value: object) -> str | None:
    """Which of a model's three forms this is, so that an error speaks of that one alone."""
    if isinstance(value, str):
        return "<name>"
    if isinstance(value, list | tuple):
        return "<chain>"
    return "<endpoint>" if isinstance(value, Mapping | Endpoint) else None


_by_kind = Discriminator(
    _kind,
    custom_error_type="model_form",
    custom_error_message="must be 'backend/model', a table with 'model' in it, or a list of these",
)
_Name: TypeAlias = Annotated[str, AfterValidator(_without_secrets), Tag("<name>")]
_One: TypeAlias = Annotated[_Name | Annotated[Endpoint, Tag("<endpoint>")], _by_kind]
LedgerSetting: TypeAlias = Annotated[
    Annotated[str, AfterValidator(_ledger_without_secrets), Tag("<url>")] | Annotated[LedgerStore, Tag("<store>")],
    Discriminator(lambda value: "<url>" if isinstance(value, str) else "<store>"),
]
"""A ledger's URL, or a `LedgerStore`."""
ModelSetting: TypeAlias = Annotated[
    _Name | Annotated[Endpoint, Tag("<endpoint>")] | Annotated[list[_One], Tag("<chain>")], _by_kind
]
"""A model's full name, an `Endpoint`, or a list of these in the order in which they are tried."""
