"""From settings to a gateway at an address, at the start and whenever the settings are read anew."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from duet_sdk.budget import MemoryLedger
from duet_sdk.errors import ConfigError, MissingExtra
from duet_sdk.gateway.guards import is_loopback
from duet_sdk.gateway.routing import Gateway

if TYPE_CHECKING:
    import uvicorn

    from duet_sdk.client import AsyncDuetClient
    from duet_sdk.gateway.reloading import Reloading
    from duet_sdk.gateway.worker_metrics import WorkerMetrics
    from duet_sdk.settings import Settings


@dataclass(frozen=True, slots=True)
class Source:
    """Where the settings come from and what is made of them; both are asked again when a gateway reloads.

    Attributes:
        read: reads the settings.
        connect: makes the client of the pair from them.
    """

    read: Callable[[], Settings]
    connect: Callable[[Settings], AsyncDuetClient]


@dataclass(frozen=True, slots=True)
class Address:
    """Where a gateway is reached, and by how many processes; none of it changes while it serves."""

    host: str
    port: int
    workers: int = 1
    without_keys: bool = False
    """Whether to bind to more than loopback although anybody may ask then."""


class Making:
    """Makes gateways: of the settings given, then of those that the source has by then.

    Args:
        source: of the settings.
        address: where the gateway is reached.
        settings: the first, where they have been read already.
        beside: where the counts of several workers meet.
    """

    def __init__(
        self, source: Source, address: Address, settings: Settings | None = None, beside: WorkerMetrics | None = None
    ) -> None:
        self._source = source
        self._address = address
        self._settings = settings
        self._beside = beside

    def __call__(self, before: Gateway | None) -> Gateway:
        """A gateway that goes on counting where ``before`` stands.

        Raises:
            DuetError: the settings cannot be used, or not at this address.
        """
        settings, self._settings = self._settings or self._source.read(), None
        client = self._source.connect(settings)
        policy, address = settings.gateway, self._address
        if address.workers > 1 and settings.ledger is not None and isinstance(client.ledger, MemoryLedger):
            raise ConfigError(
                f"{address.workers} workers cannot share a ledger in memory: give the ledger a URL such as "
                "redis://host:6379/0 or sqlite:///ledger.db, or serve with one worker"
            )
        if not policy.has_keys and not is_loopback(address.host):
            if not address.without_keys:
                raise ConfigError(
                    f"without keys a gateway binds to loopback only, and {address.host} is reached by others: make "
                    "some with duet keys create, or pass --without-keys"
                )
            policy = policy if policy.hosts else replace(policy, hosts=("*",))
        return Gateway({"duet": client}, policy, owned=(client,), before=before, beside=self._beside)


def uvicorn_config(app: Gateway | Reloading, *, host: str, port: int) -> uvicorn.Config:
    """How uvicorn serves a gateway.

    Raises:
        MissingExtra: it is not installed.
    """
    try:
        import uvicorn

        from duet_sdk.gateway.connection import Connection
    except ImportError as error:
        raise MissingExtra("duet serve", extra="serve") from error
    return uvicorn.Config(
        app,
        host=host,
        port=port,
        loop="asyncio",  # uvloop measured the same, as most of the time is spent in the pipeline
        http=Connection,
        ws="none",
        access_log=False,
        log_level="warning",
        server_header=False,
    )
