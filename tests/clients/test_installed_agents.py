"""Coding agents as they are installed, each told to ask the gateway and nobody else.

Each has a home of its own, is told to send no statistics and look for no updates, and finds a closed port in place of a
proxy for whatever else it wants to reach.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import ClassVar

import pytest
from conftest import PYTHONS
from support.pair_server import KEY, PLAIN, RAIN, SPENT_KEY, PairServer, pair_server, says

COMMANDS = os.environ.get("DUET_CLIENT_AGENTS", "")
"""The folder that .ci/agents makes; empty where there is no npm."""
QUESTION = "How many primes are below 60?"
ERRAND = "What does note.txt say about Bern?"
NOTE = "The marmots of the town sleep."
_RUN_S = 120
"""Longest time of one run: an agent that asks without end is ended and shown."""
_NOWHERE = "http://127.0.0.1:9"
_LOOPBACK = "127.0.0.1,localhost"


class Agent:
    """One that runs in a folder, with a home of its own.

    Args:
        home: empty.
        url: of the gateway, without ``/v1``.
        key: for it.
    """

    tools: ClassVar[Mapping[str, Callable[[Path], dict[str, str]]]]
    """Its tool that reads a file → what it is called with."""
    spent: ClassVar[str] = "tenant:spent asks for 1 request"
    """What it says where the budget is spent."""
    asks: ClassVar[int] = 1
    """Requests that it sends where the budget is spent."""

    def __init__(self, home: Path, url: str, key: str) -> None:
        self.home, self.url, self.key = home, url, key

    def command(self, question: str) -> Sequence[str]:
        raise NotImplementedError

    def environment(self) -> Mapping[str, str]:
        return {}


class OpenCode(Agent):
    tools: ClassVar = {"read": lambda folder: {"filePath": str(folder / "note.txt")}}
    asks = 2  # the title, too

    def command(self, question: str) -> Sequence[str]:
        return [_installed("opencode"), "run", question]

    def environment(self) -> Mapping[str, str]:
        model = {"limit": {"context": 200_000, "output": 8_000}}
        provider = {
            "npm": "@ai-sdk/openai-compatible",
            "options": {"baseURL": f"{self.url}/v1", "apiKey": "{env:PAIR_KEY}"},
            "models": {"duet": model, "duet/generator": model},
        }
        settings = {"model": "duet/duet", "small_model": "duet/duet/generator", "provider": {"duet": provider}}
        file = self.home / "opencode.json"
        file.write_text(json.dumps({"autoupdate": False, "share": "disabled", **settings}), encoding="utf-8")
        off = ("OPENCODE_DISABLE_AUTOUPDATE", "OPENCODE_DISABLE_MODELS_FETCH", "OPENCODE_DISABLE_LSP_DOWNLOAD")
        return {"OPENCODE_CONFIG": str(file), "PAIR_KEY": self.key, **dict.fromkeys(off, "1")}


class ClaudeCode(Agent):
    tools: ClassVar = {"Read": lambda folder: {"file_path": str(folder / "note.txt")}}

    def command(self, question: str) -> Sequence[str]:
        return [_installed("claude"), "-p", question, "--model", "duet", "--allowedTools", "Read"]

    def environment(self) -> Mapping[str, str]:
        off = ("CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "DISABLE_TELEMETRY", "DISABLE_AUTOUPDATER")
        return {"ANTHROPIC_BASE_URL": self.url, "ANTHROPIC_API_KEY": self.key, **dict.fromkeys(off, "1")}


class Codex(Agent):
    tools: ClassVar = {"exec_command": lambda folder: {"cmd": f"cat {folder / 'note.txt'}"}}
    spent = "Quota exceeded"

    def command(self, question: str) -> Sequence[str]:
        return [_installed("codex"), "exec", "--skip-git-repo-check", question]

    def environment(self) -> Mapping[str, str]:
        folder = self.home / ".codex"
        folder.mkdir(exist_ok=True)
        (folder / "config.toml").write_text(
            f"""
model = "duet"
model_provider = "duet"
model_reasoning_summary = "auto"
check_for_update_on_startup = false
[analytics]
enabled = false
[model_providers.duet]
name = "duet"
base_url = "{self.url}/v1"
env_key = "PAIR_KEY"
wire_api = "responses"
""",
            encoding="utf-8",
        )
        return {"PAIR_KEY": self.key}


class Aider(Agent):
    """It has no tools: it is shown the files."""

    tools: ClassVar = {}

    def command(self, question: str) -> Sequence[str]:
        if not PYTHONS["client-aider"]:
            pytest.skip("needs the environment client-aider; run `make test-clients`")
        where = ["--openai-api-base", f"{self.url}/v1", "--openai-api-key", self.key]
        off = ["--analytics-disable", "--no-check-update", "--no-show-release-notes", "--no-show-model-warnings"]
        plain = ["--no-git", "--no-pretty", "--no-detect-urls", "--yes-always", "--edit-format", "diff"]
        asked = ["--model", "openai/duet", "--message", question, "note.txt"]
        return [str(Path(PYTHONS["client-aider"]).parent / "aider"), *where, *off, *plain, *asked]

    def environment(self) -> Mapping[str, str]:
        prices = self.home / ".aider" / "caches" / "model_prices_and_context_window.json"
        prices.parent.mkdir(parents=True, exist_ok=True)
        prices.write_text('{"openai/duet": {"mode": "chat"}}', encoding="utf-8")  # else it asks GitHub for them
        return {"LITELLM_LOCAL_MODEL_COST_MAP": "True"}


AGENTS = (OpenCode, ClaudeCode, Codex, Aider)


def _installed(name: str) -> str:
    if not COMMANDS:
        pytest.skip("needs npm and what .ci/agents installs; run `make test-clients`")
    return str(Path(COMMANDS) / name)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the agents work."""
    made = tmp_path_factory.mktemp("work")
    (made / "note.txt").write_text(NOTE + "\n", encoding="utf-8")
    return made


@pytest.fixture(scope="module")
def pair(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PairServer]:
    """A gateway whose generator calls what the agents have to read a file."""
    calls = {name: json.dumps(call(folder)) for agent in AGENTS for name, call in agent.tools.items()}
    with pair_server(tmp_path_factory.mktemp("gateway"), partial(says, arguments=calls)) as served:
        yield served


@pytest.fixture(params=AGENTS, ids=lambda agent: agent.__name__)
def kind(request: pytest.FixtureRequest) -> type[Agent]:
    return request.param


def asked(agent: Agent, question: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """What an agent printed, which has ended.

    Raises:
        TimeoutExpired: it did not come to an end by itself.
    """
    command, own = agent.command(question), agent.environment()
    basic = {"PATH": os.environ["PATH"], "HOME": str(agent.home), "TERM": "dumb", "DO_NOT_TRACK": "1"}
    closed = {"HTTP_PROXY": _NOWHERE, "HTTPS_PROXY": _NOWHERE, "NO_PROXY": _LOOPBACK}
    return subprocess.run(
        command,
        cwd=folder,
        env={**basic, **closed, **own},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=_RUN_S,
        check=False,
    )


def test_a_question_is_answered_by_both_stages(
    kind: type[Agent], folder: Path, pair: PairServer, tmp_path: Path
) -> None:
    before = len(pair.models.calls)
    done = asked(kind(tmp_path, pair.url, KEY), QUESTION, folder)
    assert PLAIN in done.stdout, done.stdout
    assert done.returncode == 0
    assert {call["model"] for call in pair.models.calls[before:]} == {"large", "light"}


def test_a_file_is_read_and_its_text_reaches_the_generator(
    kind: type[Agent], folder: Path, pair: PairServer, tmp_path: Path
) -> None:
    before = len(pair.models.calls)
    done = asked(kind(tmp_path, pair.url, KEY), ERRAND, folder)
    assert RAIN in done.stdout, done.stdout
    assert done.returncode == 0
    calls = pair.models.calls[before:]
    assert NOTE in json.dumps(calls[-1]["messages"])
    # The second turn of a run goes by the signal of the first.
    assert sum(call["model"] == "large" for call in calls) == 1


def test_a_spent_budget_ends_the_run_and_asks_no_model(
    kind: type[Agent], folder: Path, pair: PairServer, tmp_path: Path
) -> None:
    if kind is Aider:
        pytest.skip("aider 0.86.2 asks for minutes, whatever a spent budget is told by")
    before, refused = len(pair.models.calls), pair.refusals()
    done = asked(kind(tmp_path, pair.url, SPENT_KEY), QUESTION, folder)
    assert kind.spent in done.stdout, done.stdout
    assert pair.refusals() - refused == kind.asks
    assert len(pair.models.calls) == before


def test_what_is_left_of_an_agent_is_in_its_home(folder: Path) -> None:
    left = sorted(path.name for path in folder.iterdir() if not path.name.startswith(".aider"))
    assert left == ["note.txt"]
