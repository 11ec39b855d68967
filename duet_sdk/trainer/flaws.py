"""What is wrong with a run's configuration, in words: where, what was given, and what to write instead."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, get_args

from pydantic import BaseModel

from duet_sdk.trainer.config import Section, TrainConfig

_MOST = 3
"""Flaws that one error names."""

_ELSEWHERE: Mapping[str, str] = {
    "accuracy": "data: {grading: {grader: math}}",
    "alone": "rollout: {unguided: …}",
    "batch_size": "rollout: {questions: …}; sequences of a pass follow from the model's gradient_accumulation",
    "beta": "the model's kl: …",
    "bf16": "training: {precision: bf16}",
    "dataset": "data: {train: …}",
    "fp16": "training: {precision: fp16}",
    "gradient_accumulation_steps": "the model's gradient_accumulation: …, or auto",
    "logging_steps": "nothing: every round is logged",
    "lora_alpha": "the model's lora: {alpha: …}",
    "lora_r": "the model's lora: {r: …}",
    "lr": "the model's learning_rate: …",
    "max_completion_length": "the model's max_new_tokens: …",
    "max_length": "the model's max_new_tokens: …, and data: {max_prompt_tokens: …}",
    "max_prompt_length": "data: {max_prompt_tokens: …}",
    "max_steps": "training: {rounds: …}",
    "max_tokens": "the model's max_new_tokens: …",
    "model_name_or_path": "model: …",
    "num_generations": "rollout: {signals: …, answers: …}",
    "num_train_epochs": "training: {epochs: …}",
    "output_dir": "output: …",
    "per_device_train_batch_size": "the model's gradient_accumulation: …, or auto: passes of an update",
    "rank": "the model's lora: {r: …}",
    "report_to": "training: {log_to: [tensorboard]}",
    "reward": "objective: {reward: gated}; what counts as right is data: {grading: {grader: …}}",
    "save_steps": "training: {save_every: …}, in rounds",
    "use_vllm": "the model's vllm: {}",
}
"""What other trainers call it, and what to write here."""

_WANTED: Mapping[str, str] = {
    "int_type": "a whole number", "int_parsing": "a whole number", "int_from_float": "a whole number",
    "float_type": "a number", "float_parsing": "a number", "finite_number": "a number",
    "bool_type": "true or false", "bool_parsing": "true or false",
    "string_type": "a text", "path_type": "a path",
    "tuple_type": "a list, in square brackets",
}  # fmt: skip
"""By pydantic's type of a flaw."""

_BOUNDS: Mapping[str, str] = {
    "greater_than": "more than {gt:g}",
    "greater_than_equal": "at least {ge:g}",
    "less_than": "less than {lt:g}",
    "less_than_equal": "at most {le:g}",
}

_EXAMPLES: Mapping[str, str] = {
    "output": "output: runs/first",
    "reasoner": "reasoner: {model: Qwen/Qwen3-1.7B}",
    "generator": "generator: {model: Qwen/Qwen3-0.6B}",
    "reasoner.model": "a hub id or a folder, as in reasoner: {model: Qwen/Qwen3-1.7B}",
    "generator.model": "a hub id or a folder, as in generator: {model: Qwen/Qwen3-0.6B}",
    "data": "data: {train: questions.jsonl}",
    "data.train": "a JSONL file or a data set of the hub, as in data: {train: questions.jsonl}",
    "lora": "lora: {r: 32}, or lora: {} for the defaults",
    "vllm": "vllm: {gpu_memory_utilization: 0.3}, or vllm: {} for the defaults",
    "grading": "grading: {grader: math}",
}
"""By place, or by its last part."""


def in_words(flaws: Sequence[Mapping[str, Any]]) -> str:
    """The first three flaws that pydantic found, one clause each."""
    misspelt = {flaw["loc"][:-1] for flaw in flaws if flaw["type"] == "extra_forbidden"}
    told = [
        _clause(flaw)
        for flaw in flaws
        # Most likely the key that is misspelt.
        if not (flaw["type"] == "missing" and flaw["loc"][:-1] in misspelt)
    ]
    more = f" (and {len(told) - _MOST} more)" if len(told) > _MOST else ""
    return "; ".join(told[:_MOST]) + more


def _clause(flaw: Mapping[str, Any]) -> str:
    parts = tuple(str(part) for part in flaw["loc"])
    place, given = ".".join(parts), flaw["input"]
    got = "" if isinstance(given, dict) else " (it is empty)" if given is None else f" (got {given!r})"
    match kind := flaw["type"]:
        case "extra_forbidden":
            return f"unknown key {place!r}: {_meant(parts)}"
        case "missing":
            return f"{place} is missing; write {_example(place)}"
        case "model_type" | "model_attributes_type" | "dict_type":
            return f"{place} is a section{got}; write {_example(place)}"
        case "literal_error":
            return f"{place} must be {flaw['ctx']['expected']}{got}{_near(str(given), flaw['ctx']['expected'])}"
        case _ if kind in _BOUNDS:
            return f"{place} must be {_BOUNDS[kind].format(**flaw['ctx'])}{got}"
        case _ if kind in _WANTED:
            return f"{place} must be {_WANTED[kind]}{_or_auto(parts)}{got}"
    reason = str(flaw["msg"]).removeprefix("Value error, ")
    return f"{place}: {reason}{got}" if place else reason


def _meant(parts: tuple[str, ...]) -> str:
    """What was probably meant by a key that does not exist."""
    name = parts[-1]
    if ":" in name:
        return "write a space after the colon"
    if name in _ELSEWHERE:
        return f"write {_ELSEWHERE[name]}"
    known, everywhere = list(_section_of(parts[:-1]).model_fields), dict(reversed([*_places()]))
    if name in everywhere:
        return f"it belongs to another section: {everywhere[name]}"
    if close := get_close_matches(name, known, n=1):
        return f"did you mean {close[0]!r}?"
    if close := get_close_matches(name, everywhere, n=1, cutoff=0.75):
        return f"did you mean {everywhere[close[0]]}?"
    return f"known here: {', '.join(known)}"


def _section_of(parts: tuple[str, ...]) -> type[BaseModel]:
    """The section that a place names."""
    found: type[BaseModel] = TrainConfig
    for part in parts:
        field = found.model_fields.get(part)
        found = (_inner(field.annotation) if field else None) or found
    return found


def _inner(annotation: object) -> type[Section] | None:
    """The section that a field holds, also where it may be None."""
    for kind in (annotation, *get_args(annotation)):
        if isinstance(kind, type) and issubclass(kind, Section):
            return kind
    return None


def _places(section: type[BaseModel] = TrainConfig, place: str = "") -> Iterator[tuple[str, str]]:
    """All keys and where they stand, in the order of sections."""
    for name, field in section.model_fields.items():
        inner = _inner(field.annotation)
        if inner is not None:
            yield from _places(inner, f"{place}{name}.")
        elif place:
            yield name, f"{place}{name}"


def _example(place: str) -> str:
    if found := _EXAMPLES.get(place) or _EXAMPLES.get(place.rpartition(".")[2]):
        return found
    first = next(iter(_section_of(tuple(place.split("."))).model_fields))
    return f"{place.rpartition('.')[2]}: {{{first}: …}}"


def _or_auto(parts: tuple[str, ...]) -> str:
    return ", or auto" if parts[-1] in ("gradient_accumulation", "sampled_at_once") else ""


def _near(given: str, expected: str) -> str:
    names = [name.strip(" '") for name in expected.replace(" or ", ",").split(",")]
    close = get_close_matches(given, names, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
