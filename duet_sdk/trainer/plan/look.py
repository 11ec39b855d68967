"""What is on this machine of a run's models: their shapes, and what would keep them from being trained."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from duet_sdk import models
from duet_sdk.errors import ConfigError, DuetError, MissingExtra, TrainingError
from duet_sdk.trainer.config import Model, TrainConfig
from duet_sdk.trainer.plan.shape import KNOWN, ModelShape, find_shape
from duet_sdk.trainer.prompts import PairPrompts, cannot_train, renderer_to_train


@dataclass(frozen=True, slots=True)
class Found:
    """A model as it is here."""

    shape: ModelShape | None = None
    """None if its sizes are not known here."""
    problems: tuple[str, ...] = ()
    """Why it cannot be trained."""
    notes: tuple[str, ...] = ()
    """What could not be looked at."""


def look_at(stage: str, part: Model) -> Found:
    """The model of a stage, with nothing downloaded and no weights read."""
    try:
        folder = _folder(part)
    except DuetError as err:
        return Found(problems=(f"{stage}.model: {err}",))
    if folder is None:
        return _elsewhere(stage, part)
    try:
        models.check_folder(folder)
    except DuetError as err:
        return Found(problems=(f"{stage}.model: {err}",))
    problem = _template_problem(stage, folder)
    try:
        return Found(find_shape(str(folder)), (problem,) if problem else ())
    except TrainingError as err:
        return Found(None, (problem,) if problem else (), (f"the memory of {part.model} is left out: {err}",))


def prompts_here(config: TrainConfig) -> PairPrompts | None:
    """The prompts of a run's models; None where one of these, or what reads them, is not here."""
    try:
        reasoner, generator = _folder(config.reasoner), _folder(config.generator)
        return None if reasoner is None or generator is None else PairPrompts.of(reasoner, generator)
    except DuetError:  # a plan names it by itself
        return None


def _folder(part: Model) -> Path | None:
    """Where its files are; None if they are to be fetched.

    Raises:
        DuetError: the name can be neither a folder nor a hub id.
    """
    path = Path(part.model).expanduser()
    if path.is_dir():
        return path
    if part.model.startswith(("/", ".", "~")):
        raise ConfigError(f"there is no folder {path.absolute()}; a model of the hub is named owner/model")
    return models.find(part.model, revision=part.revision)


def _elsewhere(stage: str, part: Model) -> Found:
    name = part.model
    if name in ("embedded", models.EMBEDDED):
        return Found(problems=(cannot_train(stage, "its chat template drops the thinking of an assistant's turn"),))
    if name in KNOWN:
        return Found(ModelShape.of(KNOWN[name]))
    if "/" not in name and (close := get_close_matches(name, [one.partition("/")[2] for one in KNOWN], n=1)):
        meant = next(one for one in KNOWN if one.endswith(f"/{close[0]}"))
        return Found(problems=(f"{stage}.model: {name!r} has no owner, as models of the hub have; write {meant!r}",))
    return Found(
        notes=(
            f"{name} is not here, neither as a folder nor in the cache: its memory is left out and its template was "
            f"not looked at; `duet models pull {name}` fetches it, if there is such a model",
        )
    )


def _template_problem(stage: str, folder: Path) -> str | None:
    try:
        renderer_to_train(stage, folder)
    except MissingExtra:  # the run says so itself
        return None
    except ConfigError as err:
        return str(err)
    return None
