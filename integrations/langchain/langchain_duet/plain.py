"""Options → plain values, of which the same options can be made again. Keys are left out."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from decimal import Decimal

from pydantic import BaseModel, SecretStr

from duet_sdk import policies, pricing

_DIALS = (policies.__name__, pricing.__name__)
"""The modules whose dataclasses are options: each is made again of its fields. A gate or a cache is not one."""


def plain(value: object) -> object:
    """The value as text, numbers, lists and dicts; an object that has no such form (a gate, a ledger) as it is."""
    match value:
        case BaseModel():
            given = ((name, getattr(value, name)) for name in sorted(value.model_fields_set))
            return {name: plain(item) for name, item in given if not isinstance(item, SecretStr)}
        case pricing.GpuHour():
            return {"gpu_hour_usd": plain(value.usd)}  # as a settings file has it
        case _ if dataclasses.is_dataclass(value) and any(one.__module__ in _DIALS for one in type(value).__mro__):
            fields = dataclasses.fields(value)
            return {
                field.name: plain(item) for field in fields if (item := getattr(value, field.name)) != field.default
            }
        case Mapping():
            return {str(key): plain(item) for key, item in value.items()}
        case list() | tuple():
            return [plain(item) for item in value]
        case Decimal():
            return format(value, "f")
        case _:
            return value
