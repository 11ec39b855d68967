"""Limits that hold and stages that fail, and what the reply says of it, on scripted models."""

from decimal import Decimal

from duet_sdk import (
    Budget,
    BudgetExceeded,
    ConnectFailed,
    DeadlineExceeded,
    DuetClient,
    FailurePolicy,
    Reply,
    Retry,
    StreamBroken,
    TokenPrice,
)
from duet_sdk.backends.scripted import Script, Scripted

SKETCH = "The result is 17. Sieve up to 60. Strike out the multiples of 2, 3, 5 and 7."
ANSWER = "There are 17 primes below 60."
PRICES = {"scripted/lines": TokenPrice(Decimal(100), Decimal(1000))}  # USD for a million tokens
DOWN = ConnectFailed("no answer", backend="scripted", model="lines")
PAIR = ("scripted/17", "scripted/There are 17.")
ONCE = Retry(attempts=1)  # by default a model that fails is called up to three times, after a wait


def tell(what: str, reply: Reply) -> None:
    """One line: what was tried, who answered, what the signal cost."""
    signal = reply.signal
    print(f"{what:52} {reply.served_by:20} signal {signal.tokens:3} of {signal.limit:3}  honoured={signal.honoured}")


with DuetClient(Scripted(SKETCH), Scripted(ANSWER)) as duet:
    tell("no limit is reached", duet.chat("How many?"))
    tell("the signal is cut at its last sentence", duet.chat("How many?", budget=Budget(signal_tokens=7)))
    tell("a small total is shared out", duet.chat("How many?", budget=Budget(total_tokens=130)))
    try:
        duet.chat("How many?", budget=Budget(total_tokens=30))
    except BudgetExceeded as error:
        print(f"{'a total that cannot hold the prompts':52} refused: spent {error.spent} of {error.limit}")

with DuetClient(Scripted(SKETCH), Scripted(ANSWER), prices=PRICES) as duet:
    reply = duet.chat("How many?", budget=Budget(cost_usd=Decimal("0.05")))
    tell(f"0.05 USD at most, {reply.cost.usd} spent", reply)

with DuetClient(Scripted(Script(SKETCH, billed=900)), Scripted(ANSWER)) as duet:
    tell("the reasoner bills more than it was allowed", duet.chat("How many?", budget=Budget(signal_tokens=64)))

with DuetClient(Scripted(Script(SKETCH, stall_after=6)), Scripted(ANSWER)) as duet:
    tell("the reasoner hangs, and time is short", duet.chat("How many?", budget=Budget(deadline_s=0.2)))

with DuetClient(Scripted(Script(error=DOWN), SKETCH), Scripted(ANSWER), retry=Retry(first_wait_s=0)) as duet:
    tell("the reasoner fails once and is called again", duet.chat("How many?"))

with DuetClient([Scripted(Script(error=DOWN)), Scripted(SKETCH)], Scripted(ANSWER), retry=ONCE) as duet:
    tell("the reasoner fails, the next of its chain is asked", duet.chat("How many?"))

OTHERS = FailurePolicy(retry=ONCE, fallback_pair=PAIR)
with DuetClient(Scripted(SKETCH), Scripted(Script(error=DOWN)), on_failure=OTHERS) as duet:
    tell("the pair fails and another takes over", duet.chat("How many?"))

with DuetClient(Scripted(Script(SKETCH, error=DOWN, fail_after=3)), Scripted(ANSWER), retry=ONCE) as duet:
    tell("the reasoner breaks off", duet.chat("How many?"))

BROKEN = Scripted(Script(ANSWER, error=DOWN, fail_after=3))
with DuetClient(Scripted(SKETCH, ANSWER), BROKEN, retry=ONCE) as duet:
    tell("the generator breaks off in chat()", duet.chat("How many?"))
with DuetClient(Scripted(SKETCH, ANSWER), BROKEN) as duet, duet.stream("How many?") as run:
    try:
        for _ in run:
            pass
    except StreamBroken as error:
        print(f"{'the generator breaks off in stream()':52} StreamBroken, partial {error.partial!r}")

with DuetClient(Scripted(SKETCH), Scripted(Script(ANSWER, stall_after=2))) as duet:
    try:
        duet.chat("How many?", budget=Budget(deadline_s=0.2))
    except DeadlineExceeded as late:
        written = late.reply.text if late.reply is not None else ""
        print(f"{'the generator hangs':52} DeadlineExceeded, written {written!r}")

with DuetClient(Scripted(Script(error=DOWN)), Scripted(ANSWER), on_failure="raise", retry=ONCE) as duet:
    try:
        duet.chat("How many?")
    except ConnectFailed as error:
        print(f"{'the reasoner fails, with on_failure=raise':52} {type(error).__name__}, retryable={error.retryable}")
