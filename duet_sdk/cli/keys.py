"""The commands ``duet keys …``: who may use a gateway, from now on and until when."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer
from rich.table import Column, Table

from duet_sdk.cli.spans import span
from duet_sdk.cli.terminal import AsJson, Screen, in_a_line, print_json, reporting
from duet_sdk.cli.trust import ConfigFile, settings
from duet_sdk.errors import ConfigError
from duet_sdk.gateway_key import Priority, Rights, ServedMode

if TYPE_CHECKING:
    from duet_sdk.gateway.key_file import KeyFile, StoredKey

keys_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Keys of a gateway, in its key file.")

InFile = Annotated[Path | None, typer.Option("--key-file", help="Key file; else gateway.key_file of the settings.")]
KeyId = Annotated[str, typer.Argument(help="The key's id, as duet keys list shows it.")]


@keys_app.command("create", epilog="Example: duet keys create team-a --model duet --expires 90d")
def create_command(
    tenant: Annotated[str, typer.Argument(help="Who pays in the ledger, as tenant:TENANT.")],
    model: Annotated[list[str] | None, typer.Option(help="Name that it may ask for; repeat it for several.")] = None,
    mode: Annotated[list[str] | None, typer.Option(help="What these names may stand for; likewise.")] = None,
    boundary: Annotated[list[str] | None, typer.Option(help="How far its requests may go; likewise.")] = None,
    priority: Annotated[Priority, typer.Option(help="Its class where requests wait.")] = "normal",
    requests_per_minute: Annotated[int | None, typer.Option(help="Most requests in 60 s.")] = None,
    tokens_per_minute: Annotated[int | None, typer.Option(help="Most tokens of both stages in a minute.")] = None,
    session_requests_per_minute: Annotated[int | None, typer.Option(help="Most requests of a session in 60 s.")] = None,
    sees_signal: Annotated[bool, typer.Option("--sees-signal", help="Show it the signal.")] = False,
    expires: Annotated[str | None, typer.Option(help="It ends then: 2027-01-31, or in 90d, 12h, 30m.")] = None,
    key_file: InFile = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Make a key and print it, once: the file keeps its digest alone."""
    with reporting():
        rights = Rights(
            models=tuple(model or ()),
            modes=tuple(cast("list[ServedMode]", mode or ())),
            boundaries=tuple(boundary or ()),
            priority=priority,
            requests_per_minute=requests_per_minute,
            tokens_per_minute=tokens_per_minute,
            session_requests_per_minute=session_requests_per_minute,
            sees_signal=sees_signal,
        )
        key, value = _file(key_file, config).create(tenant, rights, expires=_end(expires))
        _show_once(key, value, as_json=as_json)


@keys_app.command("list", epilog="Example: duet keys list --json")
def list_command(key_file: InFile = None, config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Show all keys by their ids, those that have ended among them."""
    with reporting():
        keys = _file(key_file, config).read().keys
        if as_json:
            print_json([_plain(key) for key in keys])
            return
        table = Table(
            Column("id", no_wrap=True), Column("tenant", overflow="fold"), "state", "until", "models", "limits"
        )
        for key in keys:
            row = (key.id, key.tenant, key.state(datetime.now(UTC)), _until(key), " ".join(key.rights.models) or "all")
            table.add_row(*map(in_a_line, row), _limits(key.rights))
        Screen().print(table)


@keys_app.command("revoke", epilog="Example: duet keys revoke 3fa9c1d2")
def revoke_command(key_id: KeyId, key_file: InFile = None, config: ConfigFile = None) -> None:
    """Stop taking a key, in running gateways within a second."""
    with reporting():
        key = _file(key_file, config).revoke(key_id)
        _say(f"key {key.id} of tenant {key.tenant} is revoked")


@keys_app.command("rotate", epilog="Example: duet keys rotate 3fa9c1d2 --grace 1d")
def rotate_command(
    key_id: KeyId,
    grace: Annotated[str, typer.Option(help="How long the present value is still taken: 1d, 12h, 30m, or 0m.")] = "1d",
    key_file: InFile = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Give a key a new value and print it, once; id, rights and what it has spent stay."""
    with reporting():
        if (kept := span(grace)) is None:
            raise ConfigError(f"--grace must be a length of time such as 1d, 12h, 30m or 0m, got {grace!r}")
        key, value = _file(key_file, config).rotate(key_id, grace=kept)
        _show_once(key, value, as_json=as_json)


def _file(given: Path | None, config: Path | None) -> KeyFile:
    """The key file.

    Raises:
        ConfigError: neither the command nor the settings name one.
    """
    from duet_sdk.gateway.key_file import KeyFile  # the gateway is not needed by most commands

    named = given or settings(config).gateway.key_file
    if named is None:
        raise ConfigError("no key file given: pass --key-file keys.json, or set gateway.key_file in duet.toml")
    return KeyFile(Path(named))


def _end(given: str | None) -> datetime | None:
    if given is None:
        return None
    now = datetime.now(UTC).replace(microsecond=0)
    try:
        in_time = span(given)
        end = datetime.fromisoformat(given) if in_time is None else now + in_time
    except (ValueError, OverflowError):
        raise ConfigError(
            f"--expires must be a date such as 2027-01-31, or a time such as 90d, got {given!r}"
        ) from None
    end = end if end.tzinfo else end.replace(tzinfo=UTC)
    if end <= now:
        raise ConfigError(f"--expires {given} is past: name a time to come")
    return end


def _until(key: StoredKey) -> str:
    end = key.revoked or key.expires
    return "" if end is None else f"{end:%Y-%m-%d %H:%M}"


def _limits(rights: Rights) -> str:
    counts = ((rights.requests_per_minute, "requests/min"), (rights.tokens_per_minute, "tokens/min"))
    return ", ".join([rights.priority, *(f"{count} {unit}" for count, unit in counts if count is not None)])


def _show_once(key: StoredKey, value: str, *, as_json: bool) -> None:
    if as_json:
        print_json({**_plain(key), "key": value})
        return
    _say(f"key {key.id} of tenant {key.tenant}; it is shown only now:")
    sys.stdout.write(f"{value}\n")


def _say(text: str) -> None:
    Screen(stderr=True).print(in_a_line(text), soft_wrap=True)


def _plain(key: StoredKey) -> dict[str, Any]:
    """A key for programs; without its digests, which nobody else needs."""
    rights = {name: getattr(key.rights, name) for name in Rights.__dataclass_fields__}
    dates = {
        name: None if at is None else at.isoformat()
        for name, at in (("created", key.created), ("expires", key.expires), ("revoked", key.revoked))
    }
    old_until = max((old.until for old in key.digests if old.until is not None), default=None)
    return {
        "id": key.id,
        "tenant": key.tenant,
        "state": key.state(datetime.now(UTC)),
        **dates,
        "old_value_until": None if old_until is None else old_until.isoformat(),
        **{name: list(value) if isinstance(value, tuple) else value for name, value in rights.items()},
    }
