"""One question to the embedded pair of models, on this machine: signal and answer as they are written, then figures."""

from duet_sdk import Budget, DuetClient
from duet_sdk.cli import print_figures, progress_bar, show
from duet_sdk.models import embedded

QUESTION = "Which city is the capital of France, and which river runs through it?"

with progress_bar() as tell:
    embedded(progress=tell)

with DuetClient(budget=Budget(signal_tokens=48, answer_tokens=96)) as duet:
    print(f"question  {QUESTION}\n", flush=True)
    show(duet.stream(QUESTION), print_figures)
