"""Two training loops in one thread that take turns.

The generator's loop runs as a greenlet: it parks where it needs signals, and goes on when the reasoner's loop has
some. One thread, so that collective operations come in the same order on every process.
"""

from __future__ import annotations

import contextlib
import copy
from typing import TYPE_CHECKING

import greenlet
from accelerate.state import GradientState

from duet_sdk.errors import TrainingError

if TYPE_CHECKING:
    from collections.abc import Callable

    from transformers import Trainer


class _Ended(Exception):
    """The reasoner's loop is over: the generator's, parked, leaves too."""


class Turns:
    """The two loops and whose turn it is. Used by the thread that trains, for one run of both loops."""

    def __init__(self) -> None:
        self._reasoner: greenlet.greenlet | None = None
        self._generator: greenlet.greenlet | None = None

    def run(self, *, reasoner: Callable[[], object], generator: Callable[[], object]) -> None:
        """Run both loops to the end of the reasoner's; an error in either is raised here.

        Args:
            reasoner: trains the reasoner; calls `advance` once it has signals.
            generator: trains the generator; calls `park` whenever it needs signals. It starts first.
        """
        self._reasoner = greenlet.getcurrent()
        self._generator = greenlet.greenlet(lambda: _until_ended(generator))
        try:
            self.advance()  # up to its first rollout
            reasoner()
        finally:
            self._end()

    def advance(self) -> None:
        """In the reasoner's loop: let the generator's go on until it parks or ends; an error in it is raised here."""
        if self._generator is None or self._generator.dead:
            raise TrainingError(
                "the generator's loop ended before the reasoner's: the two count their steps differently; "
                "give both the same rounds and mini-batches"
            )
        _keeping_gradient_state(self._generator.switch)

    def park(self) -> None:
        """In the generator's loop: give the turn back to the reasoner's."""
        if self._reasoner is None:
            raise TrainingError("the generator's loop was started outside `Turns.run`, so nothing writes its signals")
        _keeping_gradient_state(self._reasoner.switch)

    def _end(self) -> None:
        """Have a parked generator's loop leave; without effect where it is over."""
        loop, self._generator, self._reasoner = self._generator, None, None
        if loop is not None and loop and not loop.dead:
            _keeping_gradient_state(lambda: loop.throw(_Ended))


def _until_ended(loop: Callable[[], object]) -> None:
    with contextlib.suppress(_Ended):
        loop()


def _keeping_gradient_state(switch: Callable[[], object]) -> None:
    """Switch loops, and come back to the gradient state that was left.

    accelerate keeps one GradientState for a process. Without this one of the two loops silently takes fewer optimizer
    steps than it should, as soon as the other is at another place of its gradient accumulation.
    """
    shared = GradientState._shared_state  # noqa: SLF001 - there is no public way to have two
    mine = {key: copy.copy(value) for key, value in shared.items()}
    try:
        switch()
    finally:
        shared.clear()
        shared.update(mine)


def check_precision(*trainers: Trainer) -> None:
    """Refuse trainers whose arithmetic is not the one that they were configured for.

    accelerate keeps one AcceleratorState for a process, so of two trainers the one built last wins.

    Raises:
        TrainingError: it is not.
    """
    for trainer in trainers:
        wanted = "bf16" if trainer.args.bf16 else "fp16" if trainer.args.fp16 else "no"
        found = trainer.accelerator.mixed_precision
        if found != wanted:
            raise TrainingError(
                f"a policy is configured for mixed precision {wanted!r} and gets {found!r}: both policies share one "
                "setting in a process; give both the same, and unset ACCELERATE_MIXED_PRECISION"
            )
