"""One question to the embedded pair of models, on this machine, and one to a toy pair that was trained together.

Signal and answer as they are written, then figures.
"""

from pathlib import Path

from duet_sdk import Budget, DuetClient
from duet_sdk.cli.ask import print_figures, progress_bar, show
from duet_sdk.models import embedded

QUESTION = "Which city is the capital of France, and which river runs through it?"
TOY_QUESTION = "dial at four . add three monday , double tuesday . now ?"

with progress_bar() as tell:
    embedded(progress=tell)

with DuetClient(budget=Budget(signal_tokens=48, answer_tokens=96)) as duet:
    print(f"question  {QUESTION}\n", flush=True)
    show(duet.stream(QUESTION), print_figures)

print("\nA toy pair, trained together by examples/train_demo.py: it knows a dial of ten marks and nothing else.\n")
with DuetClient.from_pair(Path(__file__).parent / "toy_pair" / "pair") as duet:
    print(f"question  {TOY_QUESTION}\n", flush=True)
    show(duet.stream(TOY_QUESTION), print_figures)
