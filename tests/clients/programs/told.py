"""What every program here shares: where the gateway is, what is asked, and how what was seen is told to the test.

A program runs in its client's own environment, where neither the SDK nor pytest is installed.
"""

import asyncio
import contextlib
import ipaddress
import json
import os
import re
import socket
import sys
import urllib.request
from collections import Counter

ROOT = os.environ["GATEWAY_URL"]
URL = ROOT + "/v1"
KEY = os.environ["GATEWAY_KEY"]
SPENT_KEY = os.environ["GATEWAY_SPENT_KEY"]
QUESTION = "How many primes are below 60?"
ERRAND = "How is the weather in Bern?"
_LOOP = asyncio.Runner()
"""One for all scenarios: some clients keep connections from one to the next."""
CALLED = []
"""Arguments of every call of the tool in the scenario that runs."""
STRANGERS = []
"""Hosts beyond loopback that something tried to reach."""


def look_up(town: str) -> str:
    """Look up the weather of a town.

    Args:
        town: the name of the town.
    """
    CALLED.append(town)
    return "rain"


def seen(text, usage, *, reasoning=None, pieces=None):
    """What a scenario saw.

    Args:
        text: the answer's.
        usage: input, output and reasoning tokens as the client tells them; None for what it does not tell.
        reasoning: what it shows of the signal.
        pieces: pieces of text in which a stream came.
    """
    return {"text": text, "usage": list(usage), "reasoning": reasoning or None, "pieces": pieces}


def tell(**wires):
    """Run the scenarios of each wire, and print what they saw as the last line.

    An error is told by its class and by the refusals that the gateway counted meanwhile, which is how often it was asked.
    """
    _stay_on_loopback()
    told = {wire: {name: _run(scenario) for name, scenario in scenarios.items()} for wire, scenarios in wires.items()}
    sys.stdout.write("\n" + json.dumps({"wires": told, "strangers": STRANGERS}) + "\n")
    sys.stdout.flush()
    os._exit(0)  # some clients leave threads behind, which wait for servers that are not there


def _run(scenario):
    CALLED.clear()
    before = _refusals()
    try:
        saw = scenario()
        if asyncio.iscoroutine(saw):
            saw = _LOOP.run(saw)
    except Exception as error:
        saw = {"error": type(error).__name__, "message": str(error)[:2000]}
    refusals = {status: n - before[status] for status, n in _refusals().items() if n > before[status]}
    return {**saw, "called": [*CALLED], "refusals": refusals}


def _refusals():
    """Requests that the gateway has refused so far, by status."""
    request = urllib.request.Request(ROOT + "/metrics", headers={"Authorization": f"Bearer {KEY}"})
    with urllib.request.urlopen(request) as answer:
        text = answer.read().decode()
    counted = re.findall(r'duet_gateway_requests_total\{[^}]*status="([45]\d\d)"[^}]*\} (\d+)', text)
    found = Counter()
    for status, n in counted:
        found[status] += int(n)
    return found


def _stay_on_loopback():
    """Refuse every connection to elsewhere, and note it: no client may tell anybody what it does here."""
    connect, getaddrinfo = socket.socket.connect, socket.getaddrinfo

    def looked_up(host, *args, **options):
        _check(host)
        return getaddrinfo(host, *args, **options)

    def connected(self, address):
        if self.family in (socket.AF_INET, socket.AF_INET6):
            _check(address[0])
        return connect(self, address)

    socket.socket.connect, socket.getaddrinfo = connected, looked_up


def _check(host):
    name = host.decode() if isinstance(host, bytes) else host
    with contextlib.suppress(ValueError):
        if ipaddress.ip_address(name).is_loopback:
            return
    if name not in (None, "localhost"):
        STRANGERS.append(name)
        raise OSError(f"{name} is not on loopback")
