"""From random weights to toy base models: a reasoner that writes traces, a generator that reads them.

This takes the place of what pre-training and a warm-up give to real models. How much of what the reasoner sees is terse
decides what joint training can find: it selects among what the reasoner already writes.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Literal

import torch
from transformers import AutoModelForCausalLM

from duet_sdk.trainer.build import quiet
from toy_pair import family, models
from toy_pair.muon import Muon

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from duet_sdk.trainer.prompts import PairPrompts


@dataclass(frozen=True, slots=True)
class Lesson:
    """What both are taught."""

    seed: int = 0
    lengths: tuple[int, ...] = (0, 1, 1, 2, 2, 2, 3, 3, 3, 3)
    """Lengths of chains to teach by: long ones are harder, so they come more often."""
    reasoner_steps: int = 1400
    generator_steps: int = 1400
    batch: int = 32
    learning_rate: float = 4e-3
    """Of Muon for matrices and of AdamW for the rest."""
    terse: float = 0.5
    """Share of the reasoner's traces that are terse, until both forms are learned."""
    settled_terse: float = 0.25
    """The same in the last fifth of the steps: what the reasoner is left with, verbose by preference."""
    mixed: float = 0.1
    """Share in which each step is one or the other."""
    silent: float = 0.15
    """Share of one-step questions at which the reasoner writes nothing."""
    brief: float = 0.1
    """Share of questions that ask to be brief, and whose traces are terse for that reason."""
    finished: float = 0.1
    """Share of the reasoner's rows in which it answers from a trace, as the generator does."""


def teach(
    stage: Literal["reasoner", "generator"],
    folder: Path,
    lesson: Lesson,
    *,
    course: int = 0,
    tell: Callable[[str], None] = lambda _text: None,
) -> Path:
    """Make one of the two models in ``folder`` and teach it; the two need nothing of each other.

    Args:
        stage: which.
        folder: where it lies.
        lesson: what it is taught.
        course: 0 for the first; a later one goes on with the model in ``folder``, for half as many steps.
        tell: given a line every hundred steps.
    """
    from duet_sdk.trainer.prompts import PairPrompts

    hidden, layers, seed = (64, 3, 2 * lesson.seed) if stage == "reasoner" else (48, 2, 2 * lesson.seed + 1)
    if course == 0:
        models.save(folder, hidden=hidden, layers=layers, seed=seed)
    prompts = PairPrompts.of(folder, folder)
    rng = random.Random(seed + 1000)
    # Chosen by the lesson's seed alone, so that two lessons that differ in style see the same questions.
    chains = family.chains(2000 + lesson.seed, 12_000, lengths=lesson.lengths)
    steps = lesson.reasoner_steps if stage == "reasoner" else lesson.generator_steps
    steps = steps if course == 0 else steps // 2
    shuffled = random.Random(lesson.seed + 1000 * course)
    if stage == "reasoner":
        parts = [
            [_reasoner_row(prompts, one, lesson, share, rng) for one in chains]
            for share in (lesson.terse, lesson.settled_terse)
        ]
        _fit(folder, parts[0], parts[1], lesson, steps, shuffled, "the reasoner", tell)
    else:
        rows = [_answer_row(prompts, _perhaps_brief(one, lesson, rng), rng) for one in chains]
        _fit(folder, rows, rows, lesson, steps, shuffled, "the generator", tell)
    return folder


def _reasoner_row(
    prompts: PairPrompts, chain: family.Chain, lesson: Lesson, terse: float, rng: random.Random
) -> tuple[Sequence[int], Sequence[int]]:
    chain = _perhaps_brief(chain, lesson, rng)
    if rng.random() < lesson.finished:
        return _answer_row(prompts, chain, rng)
    return _trace_row(prompts, chain, _style(rng, chain, lesson, 1.0 if chain.brief else terse))


def _perhaps_brief(chain: family.Chain, lesson: Lesson, rng: random.Random) -> family.Chain:
    return replace(chain, brief=rng.random() < lesson.brief)


def _style(rng: random.Random, chain: family.Chain, lesson: Lesson, terse: float) -> list[str]:
    """How the reasoner tells each step."""
    number = len(chain.steps)
    if number == 1 and rng.random() < lesson.silent:
        return ["none"]
    drawn = rng.random()
    if drawn < terse:
        return ["terse"] * number
    if drawn < terse + lesson.mixed:
        return [rng.choice(("verbose", "terse")) for _ in range(number)]
    return ["verbose"] * number


def _trace_row(prompts: PairPrompts, chain: family.Chain, style: Sequence[str]) -> tuple[Sequence[int], Sequence[int]]:
    return prompts.ask_ids(chain.question().messages), prompts.signal_ids(chain.trace(style=style))


def _answer_row(prompts: PairPrompts, chain: family.Chain, rng: random.Random) -> tuple[Sequence[int], Sequence[int]]:
    """The generator reads every style, and one time in five nothing; one in two where a question is short."""
    number = len(chain.steps)
    kind = rng.choice(("verbose", "terse", "mixed"))
    style = [kind if kind != "mixed" else rng.choice(("verbose", "terse")) for _ in chain.steps]
    text = "" if rng.random() < (0.5 if number <= 1 else 0.1) else chain.trace(style=style)
    end = prompts.generator.encode(models.END)
    return prompts.guided_ids(chain.question().messages, text), (*prompts.generator.encode(chain.answer), *end)


def _fit(
    folder: Path,
    rows: Sequence[tuple[Sequence[int], Sequence[int]]],
    settled: Sequence[tuple[Sequence[int], Sequence[int]]],
    lesson: Lesson,
    steps: int,
    rng: random.Random,
    name: str,
    tell: Callable[[str], None],
) -> None:
    """Plain supervised steps on completions, on rows drawn at random; the last fifth on the settled ones."""
    with quiet():
        model = AutoModelForCausalLM.from_pretrained(folder)
    hidden = [one for name, one in model.named_parameters() if one.ndim == 2 and "embed" not in name]
    others = [one for name, one in model.named_parameters() if one.ndim != 2 or "embed" in name]
    optimizers = [
        Muon(hidden, lr=lesson.learning_rate),
        torch.optim.AdamW(others, lr=lesson.learning_rate, betas=(0.9, 0.98), weight_decay=0.0),
    ]
    rates = [torch.optim.lr_scheduler.LambdaLR(one, partial(_rate, steps=steps)) for one in optimizers]
    for step in range(steps):
        source = rows if step < 0.8 * steps else settled
        loss = model(**_batch([source[rng.randrange(len(source))] for _ in range(lesson.batch)])).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, rate in zip(optimizers, rates, strict=True):
            optimizer.step()
            optimizer.zero_grad()
            rate.step()
        if step % 100 == 99:
            tell(f"teaching {name}: step {step + 1} of {steps}, loss {loss.item():.3f}")
    with quiet():
        model.save_pretrained(folder)


def _rate(step: int, *, steps: int) -> float:
    """Share of the learning rate: up in fifty steps, down over the second half."""
    return min(1.0, (step + 1) / 50, 2 * (steps - step) / steps)


def _batch(rows: Sequence[tuple[Sequence[int], Sequence[int]]]) -> dict[str, torch.Tensor]:
    width = max(len(prompt) + len(completion) for prompt, completion in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    labels, mask = torch.full_like(ids, -100), torch.zeros_like(ids)
    for at, (prompt, completion) in enumerate(rows):
        end = len(prompt) + len(completion)
        ids[at, :end] = torch.tensor([*prompt, *completion])
        labels[at, len(prompt) : end] = ids[at, len(prompt) : end]
        mask[at, :end] = 1
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}
