"""Thresholds from your own questions: how one is found, and the file that keeps it.

>>> examples = [Scored(0.1, alone=1, pair=1), Scored(0.3, alone=1, pair=1), Scored(0.8, alone=0, pair=1)]
>>> found = find_threshold(examples)
>>> found.threshold, found.asked
(0.8, 0.3333333333333333)
>>> Calibration(policy="confidence", threshold=found.threshold, reasoner="big", generator="small",
...             measured=found.measured(on="my-questions.jsonl")).measured.accuracy
1.0
"""

from __future__ import annotations

import json
import logging
import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from duet_sdk._checks import share
from duet_sdk.errors import ConfigError
from duet_sdk.gate.heuristic import WEIGHTS

_log = logging.getLogger(__name__)
_Share = Annotated[float, Field(ge=0, le=1)]
SCHEMA_VERSION: Literal[1] = 1
"""Goes up when a key of the file changes its meaning."""


class Measured(BaseModel):
    """What a calibration rests on."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    on: str
    """Name of the questions, such as a file's; no question itself."""
    questions: Annotated[int, Field(ge=1)]
    accuracy: _Share
    """Mean grade of the gated pair on them, as computed from the grades of both ways."""
    always: _Share
    """Mean grade where the reasoner is always asked."""
    never: _Share
    """Mean grade of the generator alone."""
    asked: _Share
    """Share of the questions for which the reasoner is asked."""


class Calibration(BaseModel):
    """A gate's numbers for one pair of models, as a file holds them (JSON)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: Literal[1] = SCHEMA_VERSION
    """Of this file; others are refused."""
    policy: Literal["heuristic", "confidence", "race"]
    """The gate that it was made for; one for ``confidence`` holds for ``race``, and the other way round."""
    threshold: Annotated[float, Field(ge=0, le=math.nextafter(1, 2))]
    """The reasoner is asked at this score and above."""
    reasoner: str
    """Full name of the model, ``backend/model``; likewise the next. An address in it is not compared."""
    generator: str
    measured: Measured
    weights: dict[str, float] | None = None
    """``heuristic``: the weights that the scores were made with, None for the gate's own."""
    first_tokens: Annotated[int, Field(ge=1)] | None = None
    """``confidence``, ``race``: how many tokens the scores were made of, None for the gate's own number."""
    alone_output_tokens: Annotated[float, Field(ge=0)] | None = None
    """Mean output tokens of the reasoner answering alone, for the receipt's estimate; None where not measured."""

    @model_validator(mode="after")
    def _numbers_of_its_policy(self) -> Self:
        if self.weights is not None and self.policy != "heuristic":
            raise ValueError(f"weights are for the policy heuristic, not for {self.policy}")
        if self.first_tokens is not None and self.policy == "heuristic":
            raise ValueError("first_tokens is for the policies confidence and race")
        if unknown := set(self.weights or ()) - set(WEIGHTS):
            raise ValueError(f"the heuristic gate has no feature {min(unknown)!r}; it has {', '.join(WEIGHTS)}")
        return self

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a file.

        Raises:
            ConfigError: it is missing, cannot be read, or is not a calibration of this version.
        """
        try:
            found: Any = json.loads(Path(path).read_text(encoding="utf-8-sig"))
        except FileNotFoundError as error:
            raise ConfigError(f"the calibration file {path} does not exist") from error
        except (OSError, ValueError, RecursionError) as error:
            raise ConfigError(f"the calibration file {path} cannot be read: {type(error).__name__}") from error
        version = found.get("schema_version") if isinstance(found, Mapping) else None
        if version != SCHEMA_VERSION:
            raise ConfigError(
                f"the calibration file {path} has schema_version {version!r}, but this version of DUET "
                f"reads {SCHEMA_VERSION}; calibrate again"
            )
        try:
            return cls.model_validate(found)
        except ValidationError as error:
            raise ConfigError(f"the calibration file {path} cannot be used: {_explain(error)}") from error

    def save(self, path: str | Path) -> None:
        """Write the file, whole or not at all.

        Raises:
            ConfigError: it cannot be written.
        """
        file = Path(path)
        try:
            handle, name = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
            try:
                with os.fdopen(handle, "w", encoding="utf-8") as written:
                    written.write(self.model_dump_json(indent=2, exclude_none=True) + "\n")
                Path(name).replace(file)
            except BaseException:
                Path(name).unlink(missing_ok=True)
                raise
        except OSError as error:
            raise ConfigError(f"the calibration file {path} cannot be written: {type(error).__name__}") from error

    def holds_for(self, policy: str) -> bool:
        """Whether its threshold is that policy's."""
        return policy == self.policy or {policy, self.policy} == {"confidence", "race"}

    def warn_of_other_models(self, *, reasoner: str, generator: str) -> None:
        """Say so where the models are not those that it was made with: a threshold belongs to a pair."""
        for stage, used, meant in (("reasoner", reasoner, self.reasoner), ("generator", generator, self.generator)):
            if _without_address(used) != _without_address(meant):
                _log.warning(
                    "the calibration was made with the %s %s, but %s is in use: calibrate again", stage, meant, used
                )


@dataclass(frozen=True, slots=True)
class Scored:
    """One question of a calibration: the gate's score, and how both ways of answering were graded."""

    score: float
    """The gate's score: the higher, the more the reasoner is needed."""
    alone: float
    """Grade of the generator alone, in [0, 1]."""
    pair: float
    """Grade of the pair with the reasoner asked, in [0, 1]."""


@dataclass(frozen=True, slots=True)
class Threshold:
    """A threshold and what it does to the questions that it was found on."""

    threshold: float
    questions: int
    accuracy: float
    """Mean grade with this threshold."""
    always: float
    """Mean grade where the reasoner is always asked."""
    never: float
    """Mean grade of the generator alone."""
    asked: float
    """Share of the questions for which the reasoner is asked."""

    def measured(self, *, on: str) -> Measured:
        """The same for a calibration file; ``on`` names the questions."""
        return Measured(
            on=on,
            questions=self.questions,
            accuracy=self.accuracy,
            always=self.always,
            never=self.never,
            asked=self.asked,
        )


def find_threshold(examples: Sequence[Scored], *, keep: float = 0.98) -> Threshold:
    """The threshold that asks the reasoner least often and keeps the share ``keep`` of the accuracy of always asking.

    It is fitted to the examples: hold some back and look whether it does the same to them.

    Args:
        examples: at least one; a few hundred before the threshold means much.
        keep: in [0, 1].

    Raises:
        ConfigError: no examples, a score that is not a number, a grade outside [0, 1], or ``keep`` outside [0, 1].
    """
    _check(examples, keep)
    count = len(examples)
    always = math.fsum(example.pair for example in examples) / count
    never = math.fsum(example.alone for example in examples) / count
    ordered = sorted(examples, key=lambda example: example.score, reverse=True)
    # From no question asked to all of them: each step asks for all questions of the next lower score.
    threshold, accuracy, asked = math.nextafter(max(1.0, ordered[0].score), math.inf), never, 0
    total, at = never * count, 0
    while accuracy < keep * always - 1e-12 and at < count:
        score = ordered[at].score
        while at < count and ordered[at].score == score:
            total += ordered[at].pair - ordered[at].alone
            at += 1
        threshold, accuracy, asked = score, total / count, at
    return Threshold(threshold, count, min(1.0, max(0.0, accuracy)), always, never, asked / count)


def _check(examples: Sequence[Scored], keep: float) -> None:
    if not examples:
        raise ConfigError("a threshold needs scored examples, but there are none")
    share("keep", keep)
    for number, example in enumerate(examples, start=1):
        if not math.isfinite(example.score):
            raise ConfigError(f"the score of example {number} must be a finite number, got {example.score}")
        if not (0 <= example.alone <= 1 and 0 <= example.pair <= 1):
            raise ConfigError(f"the grades of example {number} must be between 0 and 1")


def _without_address(model: str) -> str:
    return model.partition("@http")[0]


def _explain(error: ValidationError) -> str:
    """One clause for each problem: which key, and what is wrong."""
    problems = error.errors(include_input=False, include_url=False, include_context=False)
    lines = (f"{'.'.join(map(str, at['loc']))}: {at['msg'].removeprefix('Value error, ')}" for at in problems)
    return "; ".join(line.removeprefix(": ") for line in lines)
