"""One request as one trace, sent to Phoenix, MLflow or any other place that takes OTLP; scripted models.

    python examples/tracing.py http://127.0.0.1:6006
    python examples/tracing.py http://127.0.0.1:5000 x-mlflow-experiment-id=0

Without an address nothing is sent.
"""

import asyncio
import sys

from duet_sdk import AsyncDuetClient, Budget, TokenPrice, telemetry
from duet_sdk.backends.scripted import Script, Scripted
from duet_sdk.budget import MemoryLedger

PRICES = {"strong-1": TokenPrice("15", "75"), "light-1": TokenPrice("0.1", "0.4")}  # USD for a million tokens
SIGNAL = Script("17 of them: 2, 3, 5, 7 and thirteen more up to 59.", token_s=0.05, billed=411)
ANSWER = Script("There are 17 primes below 60, the largest of them is 59.", token_s=0.02, billed=186)


async def main() -> None:
    """Ask one question, and say where its trace is and what the ledger has booked for it."""
    ledger = MemoryLedger()
    async with AsyncDuetClient(
        Scripted(SIGNAL, model="strong-1"),
        Scripted(ANSWER, model="light-1"),
        prices=PRICES,
        ledger=ledger,
        trace_dialects=["openinference", "mlflow"],
    ) as duet:
        reply = await duet.chat("How many primes are below 60?", budget=Budget(signal_tokens=768), session="demo")
    for entry in await ledger.entries():
        facts = entry.facts
        print(f"{facts.stage}: {facts.input_tokens} + {facts.output_tokens} tokens, {entry.usd} USD")
    print(
        f"together: {reply.usage.total_tokens} tokens, {reply.cost.usd} USD, trace {facts.trace_id or 'not recorded'}"
    )


if len(sys.argv) > 1:
    address, *headers = sys.argv[1:]
    exporting = telemetry.configure(address, headers=dict(header.split("=", 1) for header in headers))
    asyncio.run(main())
    print(f"all sent: {exporting.flush()}")
else:
    asyncio.run(main())
