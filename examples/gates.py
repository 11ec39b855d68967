"""Gates and a progressive signal: when the reasoner is asked, and when it is stopped, on scripted models."""

from pathlib import Path
from tempfile import TemporaryDirectory

from duet_sdk import DuetClient, GateConfig, Progressive, Reply
from duet_sdk.backends import Call
from duet_sdk.backends.scripted import Script, Scripted
from duet_sdk.gate.calibration import Calibration, Scored, find_threshold

PLAN = "We sieve the numbers first. There are 17 of them. " + "Here is one more remark. " * 30


def answer(call: Call) -> Script:
    """Sure of capitals, and of primes only with notes that hold the number."""
    text = call.messages[-1].text
    if "capital" in text:
        return Script("The capital is Paris.", logprob=-0.02)
    return Script("There are 17 primes.", logprob=-0.02 if "17" in text else -1.5)


def pair() -> tuple[Scripted, Scripted]:
    """A reasoner of 200 tokens a second, and a generator that needs it for some questions."""
    return Scripted(Script(PLAN, token_s=0.005), model="big"), Scripted(answer, model="small")


def show(what: str, reply: Reply) -> None:
    """One line: who answered, and what the reasoner cost."""
    used = reply.usage.reasoner.output_tokens
    why = reply.gate.reason if reply.gate is not None else ""
    print(f"{what:34}{reply.served_by:12}{used:4} tokens of the reasoner  {why}")


EASY, HARD = "What is the capital of France?", "How many primes are below 60?"

with DuetClient(*pair()) as duet:
    for gate in ("always", "never", "heuristic", "confidence", "race"):
        show(f"{gate}, easy", duet.chat(EASY, gate=gate))
        show(f"{gate}, hard", duet.chat(HARD, gate=gate))
    # A request can have a threshold of its own.
    assert duet.chat(HARD, gate=GateConfig("confidence", threshold=0.9)).served_by == "generator"

# The reasoner is stopped as soon as its signal suffices.
with DuetClient(*pair(), progressive=Progressive(slice_tokens=8, probe_tokens=4)) as duet:
    stopped = duet.chat(HARD)
show("progressive, hard", stopped)
assert stopped.text == "There are 17 primes."
assert stopped.usage.reasoner.output_tokens < len(PLAN.split())

# Thresholds come from your own questions: the gate's score of each, and how both ways of answering were graded.
graded = [Scored(0.02, alone=1, pair=1), Scored(0.05, 1, 1), Scored(0.4, 1, 1), Scored(0.7, 0, 1), Scored(0.78, 0, 1)]
found = find_threshold(graded)
with TemporaryDirectory() as folder:
    file = Path(folder) / "pair.json"
    Calibration(
        policy="confidence",
        threshold=found.threshold,
        reasoner="scripted/big",
        generator="scripted/small",
        measured=found.measured(on="five questions of an example"),
    ).save(file)
    with DuetClient(*pair(), calibration=file) as duet:
        show(f"calibrated at {found.threshold}, hard", duet.chat(HARD))
