"""One question to the embedded pair of models, on this machine, and one to a toy pair that was trained together.

Signal and answer as they are written, then figures, and at the end two lines to try next.
"""

import shlex
import sys
from pathlib import Path

from duet_sdk import AnswerDelta, Budget, DuetClient, SignalDelta, SignalDone
from duet_sdk.models import embedded

QUESTION = "Which city is the capital of France, and which river runs through it?"
TOY_QUESTION = "dial at four . add three monday , double tuesday . now ?"


def progress(text: str, share: float) -> None:
    """Show on standard error how far a download is; nothing is shown where the model is in the cache already."""
    print(f"\r{text}: {share:4.0%}", end="\n" if share >= 1 else "", file=sys.stderr, flush=True)


def show(duet: DuetClient, question: str) -> None:
    """Ask, and print what is written while it is written."""
    print(f"question  {question}\n\nsignal    ", end="")
    with duet.stream(question) as run:
        for event in run:
            match event:
                case SignalDelta(text) | AnswerDelta(text):
                    print(text, end="", flush=True)
                case SignalDone(signal):
                    cut = f" (cut at {signal.limit} tokens)" if signal.truncated else ""
                    print(f"{cut}\n\nanswer    ", end="")
                case _:
                    pass
    print("\n")
    for attempt in run.reply.receipt.attempts:
        usage = attempt.usage
        tokens = f"{usage.input_tokens} tokens read, {usage.output_tokens} written"
        print(f"{attempt.stage:9} {tokens}, {attempt.duration_s:.2f} s")


def from_here(path: Path) -> str:
    """A path as it is typed in a shell: relative where it is below the current folder."""
    here = Path.cwd()
    return shlex.quote(str(path.relative_to(here) if path.is_relative_to(here) else path))


embedded(progress=progress)

with DuetClient(budget=Budget(signal_tokens=48, answer_tokens=96)) as duet:
    show(duet, QUESTION)

print("\nA toy pair, trained together by examples/train_demo.py: it knows a dial of ten marks and nothing else.\n")
with DuetClient.from_pair(Path(__file__).parent / "toy_pair" / "pair") as duet:
    show(duet, TOY_QUESTION)

python, examples = Path(sys.executable), Path(__file__).resolve().parent
print("\nTry next:\n")
print(f'    {from_here(python.with_name("duet"))} ask "Which ocean is the largest?"')
print(f"    {from_here(python)} {from_here(examples / 'first.py')}")
