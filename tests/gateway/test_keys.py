"""Keys that are made, rotated and revoked while a gateway runs; their file, and how they are compared."""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import os
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from support.asgi import ask
from support.fault_server import FaultServer

from duet_sdk import AsyncDuetClient, ConfigError
from duet_sdk.backends.scripted import Scripted
from duet_sdk.budget import Limit, MemoryLedger
from duet_sdk.gateway import Gateway, app
from duet_sdk.gateway.errors import Refused
from duet_sdk.gateway.key_file import KeyFile
from duet_sdk.gateway.keys import LOOK_S, Keys
from duet_sdk.gateway_key import GatewayKey, Rights
from duet_sdk.gateway_policy import GatewayPolicy

NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)


class Clock:
    """Seconds and the time of day, which move together when told to."""

    def __init__(self) -> None:
        self.s = 0.0

    def seconds(self) -> float:
        return self.s

    def now(self) -> datetime:
        return NOW + timedelta(seconds=self.s)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def file(tmp_path: Path) -> KeyFile:
    return KeyFile(tmp_path / "keys.json")


def watched(file: KeyFile, clock: Clock) -> Keys:
    return Keys((), str(file.path), seconds=clock.seconds, now=clock.now)


def why_not(keys: Keys, value: str) -> str | None:
    """Why a key is refused; None where it is taken."""
    try:
        keys.caller({b"authorization": f"Bearer {value}".encode()})
    except Refused as error:
        return f"{error}" if error.status == 401 else repr(error.status)
    return None


def gateway(**policy: Any) -> Gateway:
    return app(AsyncDuetClient(Scripted("17."), Scripted("There are 17.")), policy=GatewayPolicy(**policy))


def test_a_key_says_who_it_is_for_and_is_kept_as_its_digest_alone(file: KeyFile, clock: Clock) -> None:
    key, value = file.create("team-a", Rights(models=("duet",)), now=NOW)
    assert value.startswith(f"duet-{key.id}-")
    assert len(value.rpartition(f"{key.id}-")[2]) == 43  # 32 bytes in base 64
    assert value not in file.path.read_text()
    assert value.rpartition("-")[2] not in repr(file.read())
    caller = watched(file, clock).caller({b"x-api-key": value.encode()})
    assert (caller.tenant, caller.name, caller.rights.models) == ("team-a", key.id, ("duet",))


@pytest.mark.skipif(os.name != "posix", reason="modes of files are POSIX's")
def test_only_the_owner_reads_the_file_and_one_that_others_can_write_is_refused(file: KeyFile) -> None:
    file.create("a", Rights())
    assert file.path.stat().st_mode & 0o777 == 0o600
    assert Path(f"{file.path}.lock").stat().st_mode & 0o777 == 0o600
    file.path.chmod(0o620)
    with pytest.raises(ConfigError, match="keys.json can be written by others: chmod 600"):
        file.read()


def test_a_key_that_is_revoked_ends_in_a_running_gateway(file: KeyFile, clock: Clock) -> None:
    key, value = file.create("a", Rights(), now=NOW)
    keys = watched(file, clock)
    file.revoke(key.id, now=NOW)
    clock.s = LOOK_S
    assert why_not(keys, value) == "this key was revoked"


def test_a_key_that_is_made_later_is_taken_without_a_restart(file: KeyFile, clock: Clock) -> None:
    file.create("a", Rights())
    keys = watched(file, clock)
    _, value = file.create("b", Rights())
    assert why_not(keys, value) == "this key is not known"  # the file is looked at once in a second
    clock.s = LOOK_S
    assert why_not(keys, value) is None


def test_a_rotated_key_keeps_its_old_value_for_the_grace_time(file: KeyFile, clock: Clock) -> None:
    key, first = file.create("a", Rights(), now=NOW)
    rotated, second = file.rotate(key.id, grace=timedelta(hours=1), now=NOW)
    assert rotated.id == key.id
    keys = watched(file, clock)
    assert (why_not(keys, first), why_not(keys, second)) == (None, None)
    clock.s = 3600
    assert (why_not(keys, first), why_not(keys, second)) == ("this key has expired", None)
    _, third = file.rotate(key.id, grace=timedelta(), now=NOW)
    clock.s = 3602
    assert (why_not(keys, second), why_not(keys, third)) == ("this key is not known", None)


def test_a_key_ends_at_its_time(file: KeyFile, clock: Clock) -> None:
    _, value = file.create("a", Rights(), expires=NOW + timedelta(minutes=1), now=NOW)
    keys = watched(file, clock)
    assert why_not(keys, value) is None
    clock.s = 60
    assert why_not(keys, value) == "this key has expired"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "damaged at its JSON"),
        (b"{", "damaged at its JSON"),
        (b"\xff\xfe", "damaged at its JSON"),
        (b"[]", "damaged at"),
        (b'{"version": 1}', "damaged at"),
        (b'{"version": 1, "salt": "duet-secret"}', "damaged at `\\$.salt`"),
        (b'{"version": 2, "salt": "' + b"0" * 64 + b'"}', "has format 2, this version knows 1"),
        (b"[" * 100_000, "damaged at"),
    ],
)
def test_a_damaged_file_is_named_and_not_shown(file: KeyFile, content: bytes, said: str) -> None:
    file.path.write_bytes(content)
    file.path.chmod(0o600)
    with pytest.raises(ConfigError, match=said) as error:
        gateway(key_file=str(file.path))
    assert str(file.path) in str(error.value)
    assert "duet-secret" not in str(error.value)
    with pytest.raises(ConfigError, match="keys.json"):
        file.create("a", Rights())
    assert file.path.read_bytes() == content


@pytest.mark.parametrize("field", ["priority", "requests_per_minute"])
def test_a_right_that_there_is_not_is_damage(file: KeyFile, field: str) -> None:
    file.create("a", Rights())
    stored = json.loads(file.path.read_text())
    stored["keys"][0]["rights"][field] = 0
    file.path.write_text(json.dumps(stored))
    with pytest.raises(ConfigError, match="keys.json is damaged"):
        file.read()


def test_a_file_that_breaks_while_it_is_read_leaves_the_keys_as_they_were(
    file: KeyFile, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    key, value = file.create("a", Rights(), now=NOW)
    whole = file.path.read_bytes()
    keys = watched(file, clock)
    for number, content in enumerate((b"{", None, whole)):
        clock.s += LOOK_S
        file.path.unlink(missing_ok=True)
        if content is not None:
            file.path.write_bytes(content)
            file.path.chmod(0o600)
        with caplog.at_level(logging.ERROR):
            assert why_not(keys, value) is None, number
    assert [record.getMessage().partition("; ")[2] for record in caplog.records] == [
        "the keys that were read before stay valid"
    ] * 2
    file.revoke(key.id, now=NOW)
    clock.s += LOOK_S
    assert why_not(keys, value) == "this key was revoked"


def test_a_file_that_is_missing_is_said_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no key file at .*none.json: duet keys create"):
        gateway(key_file=str(tmp_path / "none.json"))
    with pytest.raises(ConfigError, match="folder .* does not exist"):
        KeyFile(tmp_path / "none" / "keys.json").create("a", Rights())


def test_two_commands_at_once_lose_no_key(file: KeyFile) -> None:
    threads = [threading.Thread(target=file.create, args=(f"t{number}", Rights())) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(key.tenant for key in file.read().keys) == [f"t{number}" for number in range(8)]
    assert [path.name for path in file.path.parent.iterdir() if path.name.startswith(".")] == []


def test_every_digest_is_compared_in_constant_time(
    file: KeyFile, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first of them is right, and the others are compared all the same."""
    _, value = file.create("a", Rights())
    for _ in range(3):
        file.create("b", Rights())
    keys = Keys((GatewayKey("c", sha256="0" * 64),), str(file.path), seconds=clock.seconds, now=clock.now)
    compared: list[str] = []

    def compare(known: str, given: str) -> bool:
        compared.append(known)
        return hmac.compare_digest(known, given)

    monkeypatch.setattr("duet_sdk.gateway.keys.hmac", type("Counted", (), {"compare_digest": staticmethod(compare)}))
    assert why_not(keys, value) is None
    assert len(compared) == 5


async def test_modes_and_models_of_a_key_bound_what_it_sees_and_asks(file: KeyFile) -> None:
    _, value = file.create("a", Rights(modes=("generator",)))
    served = gateway(key_file=str(file.path), aliases={"gpt-4o": "duet", "small": "duet/generator"})
    headers = {"x-api-key": value}
    listed = (await ask(served, "/v1/models", headers=headers)).json["data"]
    assert [card["id"] for card in listed] == ["duet/generator", "small"]
    question = {"messages": [{"role": "user", "content": "?"}]}
    for name, status in (("duet", 404), ("gpt-4o", 404), ("small", 200)):
        reply = await ask(served, "/v1/chat/completions", question | {"model": name}, headers=headers)
        assert reply.status == status, name


async def test_a_key_file_alone_lets_other_hosts_in_and_needs_a_key(file: KeyFile) -> None:
    _, value = file.create("a", Rights())
    served = gateway(key_file=str(file.path))
    there = {"host": "gateway.example"}
    assert (await ask(served, "/v1/models", headers=there)).status == 401
    assert (await ask(served, "/v1/models", headers={**there, "x-api-key": value})).status == 200


async def test_the_ledger_charges_a_key_beside_its_tenant(file: KeyFile) -> None:
    key, value = file.create("a", Rights())
    ledger = MemoryLedger()
    await ledger.set_limit(f"caller:{key.id}", Limit(requests=1))
    client = AsyncDuetClient(Scripted("17."), Scripted("There are 17."), ledger=ledger)
    served = app(client, policy=GatewayPolicy(key_file=str(file.path)))
    question = {"model": "duet", "messages": [{"role": "user", "content": "?"}]}
    for status in (200, 402):
        reply = await ask(served, "/v1/chat/completions", question, headers={"x-api-key": value})
        assert reply.status == status
    assert (await ledger.balance("tenant:a")).spent.requests == 1


async def test_a_key_keeps_its_requests_within_its_boundaries(file: KeyFile) -> None:
    _, near = file.create("a", Rights(boundaries=("local",)))
    _, far = file.create("a", Rights(boundaries=("eu", "local")))
    there = Scripted("There are 17.", boundary="eu")
    served = app(AsyncDuetClient(Scripted("17."), there), policy=GatewayPolicy(key_file=str(file.path)))
    question = {"model": "duet", "messages": [{"role": "user", "content": "?"}]}
    for value, status in ((near, 403), (far, 200)):
        reply = await ask(served, "/v1/chat/completions", question, headers={"x-api-key": value})
        assert reply.status == status
    assert len(there.calls) == 1


@pytest.mark.parametrize("salted", [True, False])
async def test_tenants_share_no_prefix_cache_unless_the_operator_says_so(salted: bool) -> None:
    keys = tuple(GatewayKey(name, sha256=hashlib.sha256(name.encode()).hexdigest()) for name in ("a", "b"))
    policy = GatewayPolicy(keys=keys, cache_salt=salted)
    async with FaultServer() as server:
        models = [f"vllm/m@{server.url}" for _ in "ab"]
        async with AsyncDuetClient(*models) as duet:
            for _ in range(2):  # a worker more, or the same one later
                served = app(duet, policy=policy)
                for name in ("a", "b"):
                    body = {"model": "duet/generator", "messages": [{"role": "user", "content": "How many?"}]}
                    bearer = {"authorization": f"Bearer {name}"}
                    assert (await ask(served, "/v1/chat/completions", body, headers=bearer)).status == 200
    first, second, *again = [body.get("cache_salt") for body in server.calls]
    assert again == [first, second]
    assert (first != second) is salted
    assert (first is not None) is salted
