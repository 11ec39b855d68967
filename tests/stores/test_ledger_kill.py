"""The kill test of benchmarks/ledger_kill.py, shortened."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from support.redis_server import BINARY, WHY_NOT

ROOT = Path(__file__).resolve().parent.parent.parent


def run(store):
    """What the script says of the kill test, and of 64 concurrent requests without and with waiting."""
    sizes = ["--holds", "6000", "--processes", "4", "--concurrent", "16", "--kill-every", "0.4"]
    script = [sys.executable, ROOT / "benchmarks" / "ledger_kill.py", "--store", store, "--json", *sizes]
    done = subprocess.run(script, cwd=ROOT, capture_output=True, text=True, timeout=270, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("store", ["sqlite", "redis"])
def test_nothing_is_overspent_or_lost_while_processes_are_killed(store):
    if store == "redis" and BINARY is None:
        pytest.skip(WHY_NOT)
    killed, refusing, waiting = run(store)

    assert killed["processes_killed"] >= 2
    assert killed["settles_acknowledged"] >= 2000
    assert killed["entries_expired"] > 0  # what the killed ones held
    assert killed["overspent_nano_usd"] == 0
    assert killed["moments_above_limit"] == 0
    assert killed["sum_of_entries_minus_balance"] == 0
    assert killed["lost_settles"] == 0
    assert killed["booked_above_hold"] == 0
    assert killed["held_at_end"] == 0

    assert refusing["share_of_limit_spent"] >= 0.95
    assert waiting["share_of_limit_spent"] >= 0.95
    assert waiting["refused_by_held_alone"] == 0
