"""The gateways that run the ledger gauntlet, each on a Redis of its own: `duet serve`, and LiteLLM's proxy."""

import contextlib
import hashlib
import secrets
import shutil
import socket
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import redis
from gateways import Running, duet_serve, free_port, litellm_proxy

from duet_sdk.budget import Limit, connect_ledger

Stage = Literal["m", "n", "pair"]
"""Who is asked: the reasoner, the generator, or both."""
Models = Literal["own", "tiered", "unpriced"]
"""Behind the gateway: two at a server of one's own, with prices that its operator gave; a hosted one whose price rises
with the prompt; one whose price nobody knows."""
TIERED = "gpt-5.4"
"""The price list that comes with LiteLLM has it: beyond 272,000 tokens of prompt it costs twice as much."""
UNPRICED = "house-model"
DEADLINE_S = 5
"""Of a request, where a process or a store dies: its hold expires a minute later."""
WAIT_S = 30
KEY = "sk-gauntlet-{budget}"


class Store:
    """A Redis that keeps each write on disk, so that what it loses is nobody's fault."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        binary = shutil.which("redis-server")
        if binary is None:
            raise SystemExit("redis-server was not found: apt-get install redis-server")
        options = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--dir", str(self._folder)]
        durable = ["--appendonly", "yes", "--appendfsync", "always"]
        self._process = subprocess.Popen([binary, *options, *durable], stdout=subprocess.DEVNULL)
        for _ in range(500):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
                return
            time.sleep(0.02)
        raise RuntimeError("redis-server did not start")

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


class Contestant(ABC):
    """A gateway with its store, set up anew for each scenario.

    Attributes:
        waits: whether its holds wait for room that others give back.
        key: of the budget that was opened last.
    """

    name: str
    waits = False

    def __init__(self, upstream: str, models: Models, *, deadline: bool) -> None:
        self.upstream = upstream
        self.models = models
        self.deadline = deadline
        self.key = ""
        self._stack = ExitStack()
        self._gateway = ExitStack()
        self._running: Running | None = None
        self.store: Store

    @contextmanager
    def on(self) -> Iterator[None]:
        """While it runs."""
        with self._stack:
            folder = self._stack.enter_context(TemporaryDirectory(ignore_cleanup_errors=True))
            self.store = Store(Path(folder))
            self.store.start()
            self._stack.callback(self.store.kill)
            self._stack.enter_context(self._gateway)
            self.start()
            yield

    @property
    def url(self) -> str:
        assert self._running is not None
        return f"http://127.0.0.1:{self._running.port}"

    def log(self) -> str:
        assert self._running is not None
        return self._running.log.read_text(errors="replace")

    def kill(self) -> None:
        """The gateway alone, by SIGKILL."""
        assert self._running is not None
        self._running.kill()
        self._gateway.close()

    def start(self) -> None:
        """The gateway alone."""
        self._running = self._gateway.enter_context(self._start())

    @abstractmethod
    def _start(self) -> contextlib.AbstractContextManager[Running]:
        """Start the gateway on its store."""

    @abstractmethod
    async def open_budget(self, usd: Decimal) -> None:
        """Limit what `key` may spend."""

    @abstractmethod
    async def held_usd(self, spent_usd: Decimal) -> Decimal:
        """What its books keep back although nothing runs.

        Args:
            spent_usd: what was really spent.
        """

    @abstractmethod
    def calls(self, stage: Stage) -> list[str]:
        """The names to ask for, one after another, for one answer."""


class Duet(Contestant):
    """`duet serve` on its ledger in Redis."""

    name = "duet serve"
    waits = True
    scope = "tenant:gauntlet"

    def _start(self) -> contextlib.AbstractContextManager[Running]:
        self.key = "gauntlet-key"
        prices = {"vllm/m": (5, 25), "vllm/n": (3, 15)} if self.models == "own" else {}
        names = {"own": ("vllm/m", "vllm/n")}.get(self.models)
        if names is None:
            hosted = TIERED if self.models == "tiered" else UNPRICED
            names = (f"litellm/openai/{hosted}", f"litellm/openai/{hosted}")
        lines = ["[budget]", "answer_tokens = 16384"]
        if self.deadline:
            lines.append(f"deadline_s = {DEADLINE_S}")
        for stage, name in zip(("reasoner", "generator"), names, strict=True):
            lines += [f"[{stage}]", f'model = "{name}"', f'base_url = "{self.upstream}"', 'api_key = "none"']
            lines += ["context_tokens = 1000000"] if self.models != "own" else []
        for name, (first, second) in prices.items():
            lines += [f'[prices."{name}"]', f'input_usd = "{first}"', f'output_usd = "{second}"']
        digest = hashlib.sha256(self.key.encode()).hexdigest()
        lines += ["[ledger]", f'url = "{self.store.url}"']
        lines += ["[[gateway.keys]]", 'tenant = "gauntlet"', f'sha256 = "{digest}"']
        return duet_serve("\n".join([f"ledger_wait_s = {WAIT_S}", *lines, ""]))

    async def open_budget(self, usd: Decimal) -> None:
        async with connect_ledger(self.store.url) as ledger:
            await ledger.set_limit(self.scope, Limit(usd=usd))

    async def held_usd(self, spent_usd: Decimal) -> Decimal:
        async with connect_ledger(self.store.url) as ledger:
            return (await ledger.balance(self.scope)).held.usd or Decimal(0)

    def calls(self, stage: Stage) -> list[str]:
        return [{"m": "duet/reasoner", "n": "duet/generator", "pair": "duet"}[stage]]


AUTH = """
import hashlib
from litellm.proxy._types import UserAPIKeyAuth
from litellm.proxy.hooks.proxy_track_cost_callback import _ProxyDBLogger

costs = _ProxyDBLogger()

async def user_api_key_auth(request, api_key):
    budget = int(api_key.rpartition("-")[2]) / 1e6
    return UserAPIKeyAuth(api_key=api_key, token=hashlib.sha256(api_key.encode()).hexdigest(), max_budget=budget)
"""
"""Its keys live in a database whose client does not start here; this hook gives it keys with a budget without one. What
settles its holds is its own class, which the proxy registers only where there is a database: without it none is."""


class LiteLLM(Contestant):
    """Its proxy: keys with a budget, counters in Redis, no database."""

    name = "LiteLLM"
    strict = False

    def _start(self) -> contextlib.AbstractContextManager[Running]:
        deployed: dict[str, Any] = {"api_base": self.upstream, "api_key": "none"}
        if self.models == "own":
            rates = {"m": (5e-6, 25e-6), "n": (3e-6, 15e-6)}
            models = [
                {
                    "model_name": name,
                    "litellm_params": {"model": f"hosted_vllm/{name}", **deployed},
                    "model_info": {"input_cost_per_token": first, "output_cost_per_token": second},
                }
                for name, (first, second) in rates.items()
            ]
        else:
            hosted = TIERED if self.models == "tiered" else UNPRICED
            models = [{"model_name": "n", "litellm_params": {"model": f"openai/{hosted}", **deployed}}]
        config = {
            "model_list": models,
            "litellm_settings": {
                "callbacks": ["auth.costs"],
                "cache": True,
                # Its counters' store, without a cache of answers.
                "cache_params": {
                    "type": "redis",
                    "host": "127.0.0.1",
                    "port": self.store.port,
                    "supported_call_types": [],
                },
            },
            "general_settings": {
                "custom_auth": "auth.user_api_key_auth",
                "custom_auth_run_common_checks": True,
                "fail_closed_budget_enforcement": self.strict,
            },
        }
        # Without a master key it takes itself for one at its developer's, and checks no budget.
        return litellm_proxy(config, files={"auth.py": AUTH}, env={"LITELLM_MASTER_KEY": f"sk-{secrets.token_hex(16)}"})

    async def open_budget(self, usd: Decimal) -> None:
        self.key = KEY.format(budget=int(usd * 1_000_000))

    async def held_usd(self, spent_usd: Decimal) -> Decimal:
        counters = redis.Redis(port=self.store.port)
        booked = [Decimal((counters.get(name) or b"0").decode()) for name in counters.scan_iter("*spend:key*")]
        return max(Decimal(0), max(booked, default=Decimal(0)) - spent_usd)

    def calls(self, stage: Stage) -> list[str]:
        return {"m": ["m"], "n": ["n"], "pair": ["m", "n"]}[stage]


class StrictLiteLLM(LiteLLM):
    """The same with its strict mode."""

    name = "LiteLLM strict"
    strict = True


CONTESTANTS: tuple[type[Contestant], ...] = (Duet, LiteLLM, StrictLiteLLM)
