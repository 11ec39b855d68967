"""From nothing to a trained pair of toy models in minutes on two cores; needs the extra train.

    python examples/train_demo.py [--folder build/train-demo] [--seed 0] [--short]

Two tiny models are taught a toy task from random weights, then trained together. It measures whether
the reasoner's signals become short while the pair's accuracy holds, and fails where they do not. Its warm-up has shown
the reasoner terse traces as well as verbose ones: joint training selects among what it writes.
It says nothing about language models.
"""

import argparse
import shutil
import sys
import time
from pathlib import Path

from toy_pair import family
from toy_pair.demo import Scale, Shown, demonstrate
from toy_pair.teach import Lesson

from duet_sdk import DuetClient
from duet_sdk.trainer.report import write_report


def main() -> int:
    """Run it; the exit code says whether tokens fell as promised at held accuracy."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--folder", type=Path, default=Path("build/train-demo"))
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--short", action="store_true", help="fewer rounds and questions, lower aims")
    given = options.parse_args()
    shutil.rmtree(given.folder, ignore_errors=True)
    lesson, wanted, most_lost = Lesson(seed=given.seed), 0.6, 0.02
    scale = Scale(lesson=lesson)
    if given.short:
        scale, wanted, most_lost = Scale(lesson=lesson, rounds=60, questions=300), 0.4, 0.03
    began = time.monotonic()
    shown = demonstrate(given.folder, scale, tell=lambda text: print(text, file=sys.stderr, flush=True))
    table(shown)
    print(f"report: {write_report(given.folder / 'run')}")
    ask(given.folder / "run" / "pair")
    stages = ", ".join(f"{name} {spent:.0f} s" for name, spent in shown.seconds.items())
    print(f"{time.monotonic() - began:.0f} s in all: {stages}")
    held = shown.held(most_lost)
    print(f"the reasoner's tokens: {-shown.saved:+.0%} (wanted: {-wanted:+.0%})")
    low, high = shown.change.low, shown.change.high
    print(f"accuracy: {shown.change.value:+.3f} [{low:+.3f}, {high:+.3f}] (wanted: {-most_lost:+.2f} at least): {held}")
    return 0 if shown.saved >= wanted and held else 1


def table(shown: Shown) -> None:
    """Print tokens and accuracy before and after, with intervals."""
    line = "{:>12} {:>9} {:>15} {:>24} {:>24} {:>6}"
    print(line.format("operations", "questions", "tokens", "accuracy before", "accuracy after", "alone"))
    rows = [(str(key) if key is not None else "all seen", shown.before[key], shown.after[key]) for key in shown.before]
    for name, one, two in [*sorted(rows), ("longer", *shown.longer)]:
        accuracies = [f"{e.guided:.3f} [{e.guided_interval[0]:.3f}, {e.guided_interval[1]:.3f}]" for e in (one, two)]
        tokens = f"{one.tokens_mean:.1f} → {two.tokens_mean:.1f}"
        print(line.format(name, one.questions, tokens, *accuracies, f"{two.alone:.3f}"))


def ask(pair: Path) -> None:
    """Ask the trained pair as any application would."""
    with DuetClient.from_pair(pair) as duet:
        for chain in family.chains(1, 3, lengths=[0, 1, 2], held_out=True):
            reply = duet.chat(chain.text)
            print(
                f"{chain.text}  →  signal {reply.signal.text!r} ({reply.signal.tokens} tokens), answer {reply.text!r}"
            )


if __name__ == "__main__":
    sys.exit(main())
