"""The toy's questions, its optimizer, and what its lessons look like."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import torch
from toy_pair import family, models, teach
from toy_pair.muon import Muon, orthogonal

from duet_sdk.trainer.prompts import PairPrompts


def test_questions_of_the_evaluation_are_never_trained_on() -> None:
    trained = {chain.text for chain in family.chains(1, 3000)}
    held = family.chains(2, 500, held_out=True)
    assert not trained & {chain.text for chain in held}
    assert {len(chain.steps) for chain in held} == set(family.SEEN_LENGTHS)


def test_a_trace_holds_every_value_on_the_way_and_the_answer_last() -> None:
    for chain in family.chains(3, 200, lengths=[1, 2, 3]):
        values = [family.NUMBERS[step.after] for step in chain.steps]
        terse = chain.trace(style=["terse"] * len(values)).split()
        assert terse[1::2] == values
        assert chain.trace(style=["verbose"] * len(values)).split()[-2] == chain.answer == values[-1]


def test_every_word_of_every_question_and_trace_has_a_token() -> None:
    words = models.tokenizer()
    for chain in family.chains(4, 300, lengths=range(7)):
        for text in (replace(chain, brief=True).text, chain.trace(style=["verbose"] * len(chain.steps))):
            assert models.UNKNOWN not in words.encode(text).tokens


def test_asked_to_be_brief_the_reasoner_is_shown_a_terse_trace(tmp_path: Path) -> None:
    models.save(tmp_path, hidden=16, layers=1, seed=0)
    prompts, lesson = PairPrompts.of(tmp_path, tmp_path), teach.Lesson(brief=1.0, finished=0.0, silent=0.0)
    for chain in family.chains(5, 50, lengths=[1, 2, 3]):
        asked, shown = teach._reasoner_row(prompts, chain, lesson, 0.0, random.Random(0))
        assert family.BRIEFLY in prompts.reasoner.decode_shown(asked)
        assert tuple(shown) == prompts.signal_ids(chain.trace(style=["terse"] * len(chain.steps)))


def test_orthogonal_brings_singular_values_to_one_and_keeps_the_vectors() -> None:
    for shape in ((6, 6), (4, 9), (9, 4)):
        torch.manual_seed(sum(shape))
        left, _, right = torch.linalg.svd(torch.randn(*shape), full_matrices=False)
        made = orthogonal(left @ torch.diag(torch.linspace(0.5, 1.0, min(shape))) @ right)
        values = torch.diag(left.T @ made @ right.T)
        assert values.min() > 0.6
        assert values.max() < 1.3
        assert torch.allclose(made, left @ torch.diag(values) @ right, atol=1e-4)


def test_muon_follows_torchs_own_to_its_precision() -> None:
    torch.manual_seed(0)
    ours, theirs = (torch.nn.Parameter(torch.ones(8, 4)) for _ in range(2))
    optimizers = [Muon([ours], lr=0.1), torch.optim.Muon([theirs], lr=0.1, weight_decay=0.0)]
    for _ in range(5):
        gradient = torch.randn(8, 4)
        for parameter, optimizer in zip((ours, theirs), optimizers, strict=True):
            parameter.grad = gradient.clone()
            optimizer.step()
    assert torch.allclose(ours, theirs, atol=0.05)
    assert not torch.allclose(ours, torch.ones(8, 4), atol=0.2)


def test_a_lesson_lowers_the_loss_and_is_the_same_every_time(tmp_path: Path) -> None:
    lesson, told = teach.Lesson(generator_steps=100, batch=8), []
    one, two = (teach.teach("generator", tmp_path / name, lesson, tell=told.append) for name in "ab")
    assert (one / "model.safetensors").read_bytes() == (two / "model.safetensors").read_bytes()
    assert float(told[0].split()[-1]) < 1.5  # of 3.8 for a guess among all words


def test_a_further_course_goes_on_with_what_the_first_has_taught(tmp_path: Path) -> None:
    lesson, told = teach.Lesson(generator_steps=200, batch=16), []
    teach.teach("generator", tmp_path, lesson, tell=told.append)
    teach.teach("generator", tmp_path, lesson, course=1, tell=told.append)
    assert [line.split(",")[0] for line in told] == [
        "teaching the generator: step 100 of 200",
        "teaching the generator: step 200 of 200",
        "teaching the generator: step 100 of 100",
    ]
    first, last = (float(line.split()[-1]) for line in (told[0], told[2]))
    assert last < first
