"""From a URL, settings or an object to the ledger."""

import pytest

from duet_sdk.budget import Limit, MemoryLedger, OpenOnFailure, RedisLedger, SqliteLedger, connect_ledger
from duet_sdk.endpoints import LedgerStore
from duet_sdk.errors import ConfigError


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("memory:", MemoryLedger),
        ("memory://", MemoryLedger),
        ("sqlite:///ledger.db", SqliteLedger),
        ("redis://127.0.0.1:1/0", RedisLedger),
        ("rediss://127.0.0.1:1/0#second", RedisLedger),
    ],
)
def test_a_url_names_a_ledger(url, kind):
    assert type(connect_ledger(url)) is kind


def test_a_path_is_taken_from_the_working_directory_or_the_root():
    assert str(connect_ledger("sqlite:///ledger.db").path) == "ledger.db"
    assert str(connect_ledger("sqlite:////var/ledger.db").path) == "/var/ledger.db"


def test_a_ledger_is_taken_as_it_is():
    for ledger in (MemoryLedger(), OpenOnFailure(MemoryLedger(), local=Limit(requests=1))):
        assert connect_ledger(ledger) is ledger


def test_settings_name_a_ledger_and_the_variable_with_its_password(monkeypatch):
    store = LedgerStore(url="redis://127.0.0.1:1/0", password_env="LEDGER_PASSWORD")
    with pytest.raises(ConfigError, match="read from LEDGER_PASSWORD, which is not set"):
        connect_ledger(store)
    monkeypatch.setenv("LEDGER_PASSWORD", "opensesame")
    assert type(connect_ledger(store)) is RedisLedger


@pytest.mark.parametrize("url", ["", "ledger.db", "sqlite:ledger.db", "sqlite:///", "postgres://user:opensesame@db/x"])
def test_a_url_of_no_ledger_is_refused_and_not_quoted(url):
    with pytest.raises(ConfigError, match="unknown ledger URL; use sqlite:///ledger.db, ") as caught:
        connect_ledger(url)
    assert "opensesame" not in str(caught.value)


class Pretender:
    """Has what settings have, and what a ledger has, but is neither."""

    url = "memory:"

    def resolve_password(self):
        return None

    async def hold(self, *given, **named):
        raise AssertionError


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        (Pretender(), "an object of type Pretender"),
        (MemoryLedger, "the class MemoryLedger"),
        (None, "an object of type NoneType"),
        (7, "an object of type int"),
    ],
)
def test_an_object_that_is_no_ledger_is_refused_by_its_type(given, kind):
    with pytest.raises(ConfigError, match=f"a URL, a LedgerStore or an instance of a BaseLedger, got {kind}$"):
        connect_ledger(given)
