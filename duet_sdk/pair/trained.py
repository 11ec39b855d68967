"""What training leaves behind, as a pair's folder."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError

from duet_sdk.errors import PairError
from duet_sdk.models import check_folder
from duet_sdk.pair.fingerprint import fingerprint_of_folder
from duet_sdk.pair.folder import check_adapter, is_adapter, refuse_target, write
from duet_sdk.pair.manifest import Limits, Manifest, ModelEntry, flaw
from duet_sdk.pair.pair import Pair
from duet_sdk.types import HandoffName, Stage

if TYPE_CHECKING:
    from duet_sdk.policies import Prompts, Sampling


@dataclass(frozen=True, slots=True)
class TrainedModel:
    """One model that training left in a folder: all weights, or a LoRA adapter (``adapter_config.json``)."""

    folder: str | Path
    base: str | None = None
    """Hub id or folder of the model it started from; needed for an adapter."""
    revision: str | None = None
    """Revision of that model."""
    licence: str | None = None
    """Licence of that model, as an SPDX name where there is one."""

    @property
    def place(self) -> Path:
        """The folder as a path."""
        return Path(self.folder).expanduser()


class TrainingFacts(BaseModel):
    """What the manifest keeps of a training.

    >>> TrainingFacts(language="en").tools
    False
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    signal_tokens: int | None = None
    """Limit of the signal, chosen on validation (`limit_for`)."""
    answer_tokens: int | None = None
    """Limit of an answer."""
    training: dict[str, JsonValue] = {}
    """The run's configuration."""
    data: dict[str, JsonValue] = {}
    """How many questions, their ``fingerprint``, ``rights``, and ``datasets``: their names on the hub."""
    metrics: dict[str, JsonValue] = {}
    """Measured on validation: ``guided``, ``alone``, ``utility``, ``tokens_mean``, …"""
    data_licence: str | None = None
    """Licence of the questions and answers."""
    tasks: tuple[str, ...] = ()
    language: str | None = None
    """Language of the questions, as a BCP 47 tag."""
    tools: bool = False
    """Whether the pair was trained to use tools."""
    toy: bool = False
    """A pair that shows that training works and answers nothing else."""


def save_trained(
    target: str | Path,
    *,
    reasoner: TrainedModel,
    generator: TrainedModel,
    facts: TrainingFacts,
    handoff: HandoffName = "think",
    prompts: Prompts | None = None,
    reasoner_params: Sampling | None = None,
    generator_params: Sampling | None = None,
) -> Pair:
    """Write a trained pair: both models or adapters copied, pinned and described, with a model card.

    The folder appears complete or not at all. A pair that is there is replaced.

    Raises:
        PairError: an adapter names no base, something else is in the folder, or it cannot be written.
        ModelNotFound: a model's folder is missing or incomplete.
        ConfigError: a model has pickled weights only, or needs its own code.
    """
    models: dict[Stage, TrainedModel] = {"reasoner": reasoner, "generator": generator}
    licences: dict[str, JsonValue] = {
        stage: model.licence for stage, model in models.items() if model.licence is not None
    }
    if facts.data_licence is not None:
        licences["data"] = facts.data_licence
    training = {**facts.training, "toy": True} if facts.toy else facts.training
    try:
        manifest = Manifest(
            reasoner=_entry("reasoner", reasoner),
            generator=_entry("generator", generator),
            handoff=handoff,
            trained=True,
            limits=Limits(signal_tokens=facts.signal_tokens, answer_tokens=facts.answer_tokens),
            prompts=prompts,
            reasoner_params=reasoner_params,
            generator_params=generator_params,
            metrics=facts.metrics,
            training=training,
            data=facts.data,
            licences=licences,
            tasks=list(facts.tasks),
            language=facts.language,
            tools=facts.tools,
        )
    except ValidationError as err:
        raise PairError(f"this is not a valid pair: {flaw(err)}") from err
    folder = Path(target).expanduser().resolve()
    refuse_target(folder)
    sources = {stage: model.place for stage, model in models.items() if not is_adapter(model.place)}
    adapters = {stage: model.place for stage, model in models.items() if is_adapter(model.place)}
    return Pair(write(folder, manifest, sources, adapters), folder)


def limit_for(lengths: Sequence[int], *, cut: float = 0.01, step: int = 8) -> int:
    """A limit in tokens that cuts at most a share of signals as long as these: chosen on validation.

    >>> limit_for([10] * 99 + [500]), limit_for([10] * 50 + [500] * 50)
    (16, 504)

    Args:
        lengths: tokens of validation's signals, uncut.
        cut: share of them that the limit may cut, in [0, 1).
        step: the limit is a multiple of this.

    Raises:
        PairError: there are no lengths.
    """
    if not lengths:
        raise PairError("no signal was validated, so no limit can be chosen; validate at least one question")
    ordered = sorted(lengths)
    longest = ordered[max(0, math.ceil(len(ordered) * (1 - cut)) - 1)]
    # One token over it: at the limit itself a signal counts as cut.
    return math.ceil((longest + 1) / step) * step


def _entry(stage: str, model: TrainedModel) -> ModelEntry:
    """What the manifest says of a model; the folder's name is put in when it is written."""
    sums = fingerprint_of_folder(model.place)
    pins: Mapping[str, str | None] = {
        "tokenizer": sums.tokenizer,
        "chat_template": sums.chat_template,
        "quantisation": sums.quantisation,
        "conversation": sums.conversation,
        "base": model.base,
        "base_revision": model.revision,
    }
    if not is_adapter(model.place):
        check_folder(model.place)
        return ModelEntry(folder=stage, **pins)
    check_adapter(model.place)
    if model.base is None:
        raise PairError(f"the {stage} in {model.folder} is an adapter of an unknown base; name it with base=")
    base = {**pins, "base": None, "base_revision": None}
    return ModelEntry(model=f"transformers/{model.base}", revision=model.revision, adapter=f"{stage}-adapter", **base)
