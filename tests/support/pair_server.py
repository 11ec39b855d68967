"""``duet serve`` in a process of its own, in front of a scripted server whose models can call the tools of many clients.

The reasoner says `SIGNAL`. The generator says `PLAIN`; where a user asks about Bern and the request has a tool that it
knows, it calls that, and says `RAIN` once it has the result.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from support import server_process
from support.fault_server import Answer, FaultServer, running
from support.fault_server.words import said

from duet_sdk.types import ToolCall

SIGNAL: Final = "17, by sieve."
PLAIN: Final = "There are 17 primes."
RAIN: Final = "It rains in Bern."
KEY: Final = "key-of-the-team"
SPENT_KEY: Final = "key-of-those-who-have-spent-all"
ARGUMENTS: Final[Mapping[str, str]] = {"look_up": '{"town": "Bern"}'}
"""Tool → what it is called with; which one is called goes by the order here."""
_ROOM: Final = 400_000
"""Tokens of the models' windows; coding agents send ten to fifty thousand."""


@dataclass(frozen=True, slots=True)
class PairServer:
    """A gateway that serves, and the server behind it."""

    url: str
    """Without ``/v1``."""
    models: FaultServer
    log: Path

    def refusals(self) -> int:
        """Requests that it has refused so far."""
        request = urllib.request.Request(f"{self.url}/metrics", headers={"Authorization": f"Bearer {KEY}"})
        with urllib.request.urlopen(request) as answer:
            text = answer.read().decode()
        return sum(map(int, re.findall(r'duet_gateway_requests_total\{[^}]*status="[45]\d\d"[^}]*\} (\d+)', text)))


def says(body: dict[str, Any], arguments: Mapping[str, str] = ARGUMENTS) -> Answer:
    """What a request to either model gets."""
    if body["model"] == "large":
        return Answer(SIGNAL)
    asked = " ".join(said(message) for message in body["messages"] if message["role"] == "user")
    if "[[ ## " in asked:
        return Answer(_fields(asked))
    if "Bern" not in asked:
        return Answer(PLAIN)
    offered = {tool["function"]["name"] for tool in body.get("tools", ())}
    if any(message["role"] == "tool" for message in body["messages"]) or "Observation" in asked:
        # An agent that takes plain text for a mistake ends by this call.
        done = (ToolCall("c2", "final_answer", f'{{"answer": "{RAIN}"}}'),) if "final_answer" in offered else ()
        return Answer("" if done else RAIN, tool_calls=done)
    name = next((name for name in arguments if name in offered), None)
    return Answer("", tool_calls=(ToolCall("c1", name, arguments[name]),)) if name else Answer(RAIN)


def _fields(asked: str) -> str:
    """An answer in DSPy's form, which asks for its fields by name."""
    if "next_tool_name" in asked and "[[ ## observation_0 ## ]]" not in asked:
        values = {"next_thought": "Look it up.", "next_tool_name": "look_up", "next_tool_args": ARGUMENTS["look_up"]}
    elif "next_tool_name" in asked:
        values = {"next_thought": "That is all.", "next_tool_name": "finish", "next_tool_args": "{}"}
    else:
        values = {"reasoning": "I looked it up.", "answer": RAIN if "Bern" in asked else PLAIN}
    wanted = {name: value for name, value in values.items() if f"[[ ## {name} ## ]]" in asked}
    return "\n\n".join([*(f"[[ ## {name} ## ]]\n{value}" for name, value in wanted.items()), "[[ ## completed ## ]]"])


@contextmanager
def pair_server(folder: Path, answer: Any = says, *, more: str = "") -> Iterator[PairServer]:
    """Serve until the block ends.

    Args:
        folder: for its settings, ledger and log.
        answer: of the models (`FaultServer`).
        more: further lines of ``[gateway]``.

    Raises:
        RuntimeError: it does not start or does not end; the text has the end of its log.
    """
    command = (sys.executable, "-m", "duet_sdk")
    kept = {name: value for name, value in os.environ.items() if not name.startswith("DUET_")}
    environment = {**kept, "PYTHONPATH": os.pathsep.join(sys.path), "DUET_CONFIG": str(folder / "duet.toml")}
    with running(answer, models=("large", "light"), context_tokens=_ROOM) as models:
        (folder / "duet.toml").write_text(_settings(models.url, folder, more), encoding="utf-8")
        limit = ("ledger", "set-limit", "tenant:spent", "--requests", "0")
        subprocess.run([*command, *limit], env=environment, check=True, stdout=subprocess.DEVNULL)
        port, log = server_process.free_port(), folder / "gateway.log"
        server = server_process.start(
            "duet serve", [*command, "serve", "--port", str(port)], port=port, log=log, environment=environment
        )
        try:
            server_process.wait_until_healthy(server, "/ready", within_s=60)
            yield PairServer(server.root, models, log)
        finally:
            server_process.stop([server])


def _settings(url: str, folder: Path, more: str) -> str:
    keys = "\n".join(
        f'[[gateway.keys]]\ntenant = "{tenant}"\nsha256 = "{hashlib.sha256(key.encode()).hexdigest()}"\n'
        "sees_signal = true"
        for tenant, key in (("team", KEY), ("spent", SPENT_KEY))
    )
    return f"""
ledger = "sqlite:///{folder / "ledger.db"}"

[reasoner]
model = "vllm/large"
base_url = "{url}"

[generator]
model = "vllm/light"
base_url = "{url}"

[gateway]
signal_field = "both"
{more}

{keys}
"""
