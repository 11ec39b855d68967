"""`Pair`: two models and how they work together."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from pydantic import ValidationError

from duet_sdk.errors import PairError
from duet_sdk.models import check_folder, find
from duet_sdk.pair.conformity import Conformity
from duet_sdk.pair.folder import check, open_folder, refuse_target, write
from duet_sdk.pair.hub import from_hub, is_hub_name
from duet_sdk.pair.manifest import Limits, Manifest, ModelEntry, flaw
from duet_sdk.policies import Budget, Prompts, Sampling
from duet_sdk.types import HandoffName, Stage

if TYPE_CHECKING:
    from collections.abc import Mapping

    from duet_sdk.options import ClientOptions

_LOCAL = "transformers/"


@dataclass(frozen=True, slots=True)
class Pair:
    """Two models and how they work together, on disk or not yet.

    >>> import tempfile
    >>> pair = Pair.of("scripted/17", "scripted/There are 17.", budget=Budget(signal_tokens=64))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     saved = pair.save(f"{folder}/primes")
    ...     Pair.load(f"{folder}/primes").reasoner_spec
    'scripted/17'
    """

    manifest: Manifest
    folder: Path | None = None
    """Where the pair is, absolute; None while it is not on disk."""

    @classmethod
    def load(cls, path_or_hub_id: str | Path) -> Self:
        """The pair in a folder or on the hub, every file of it read and checked; no model is loaded.

        Args:
            path_or_hub_id: a folder, or, where there is none, the text ``owner/name`` or ``owner/name@revision``: a
                pair on the hub, which is downloaded into DUET's cache and taken from there as long as it is complete.

        Raises:
            PairError: there is no such folder or repository, it is not a pair, or not what its manifest says.
            Authentication: the hub wants a token that may read it (``HF_TOKEN``).
            ConnectFailed: the hub does not answer.
            MissingExtra: the pair has to be downloaded, and the extra ``local`` is not installed.
        """
        folder = Path(path_or_hub_id).expanduser()
        if folder.is_dir():
            folder = folder.resolve()
            return cls(open_folder(folder), folder)
        if isinstance(path_or_hub_id, str) and is_hub_name(path_or_hub_id):
            return cls(*from_hub(path_or_hub_id))
        raise PairError(f"there is no folder {str(path_or_hub_id)!r}; `duet pair save` makes a pair there")

    @classmethod
    def of(
        cls,
        reasoner: str,
        generator: str,
        *,
        handoff: HandoffName = "instruct",
        budget: Budget | None = None,
        prompts: Prompts | None = None,
        reasoner_params: Sampling | None = None,
        generator_params: Sampling | None = None,
    ) -> Self:
        """A pair of two named models that is not on disk yet.

        Args:
            reasoner: the model that writes the signal, as ``backend/model``.
            generator: the model that answers.
            handoff: how the signal reaches the generator; ``think`` only for models trained together.
            budget: only ``signal_tokens`` and ``answer_tokens``: the other limits belong to a client or a request.
            prompts: system prompts in place of DUET's own.
            reasoner_params: how the reasoner samples.
            generator_params: how the generator samples.

        Raises:
            PairError: a value that a manifest cannot hold.
        """
        limits = {name: value for name, value in dataclasses.asdict(budget or Budget()).items() if value is not None}
        if foreign := sorted(set(limits) - set(Limits.model_fields)):
            raise PairError(f"a pair keeps signal_tokens and answer_tokens only: pass {foreign[0]} to the client")
        values = {
            "reasoner": {"model": reasoner},
            "generator": {"model": generator},
            "handoff": handoff,
            "limits": limits,
            "prompts": prompts,
            "reasoner_params": reasoner_params,
            "generator_params": generator_params,
        }
        try:
            return cls(Manifest.model_validate(values))
        except ValidationError as err:
            raise PairError(f"this is not a valid pair: {flaw(err)}") from err

    def save(self, folder: str | Path) -> Self:
        """Write the pair into a folder, its models as they are: bundled ones are copied, named ones stay names.

        The folder appears complete or not at all. A pair that is there is replaced.

        Raises:
            PairError: something else is in the folder, or it cannot be written.
        """
        bundled = {stage: self.model_folder(stage) for stage in self.manifest.stages}
        return self._write(folder, {stage: path for stage, path in bundled.items() if path is not None})

    def bundle(self, folder: str | Path) -> Self:
        """Write the pair into a folder with a copy of every model that is a local folder; the rest stay names.

        Copied is what a model is loaded from: safetensors, configuration, tokenizer, template, licence.

        Raises:
            PairError: as `save`.
            ModelNotFound: a model's folder is missing or incomplete.
            ConfigError: a model has pickled weights only, or needs its own code.
        """
        sources = {}
        for stage, entry in self.manifest.stages.items():
            path = self.model_folder(stage) or local_folder(entry)
            if path is not None:
                check_folder(path)
                sources[stage] = path
        return self._write(folder, sources)

    def verify(self) -> None:
        """Read every file of the pair and compare it with the manifest.

        Raises:
            PairError: the pair is not on disk, or not what its manifest says.
        """
        if self.folder is None:
            raise PairError("this pair is not on disk yet, so there are no files to check; save it first")
        check(self.folder, self.manifest)

    @property
    def reasoner_spec(self) -> str:
        """The reasoner as the client takes it.

        Raises:
            PairError: the manifest pins a revision that is not in the cache.
        """
        return self._spec("reasoner")

    @property
    def generator_spec(self) -> str:
        """The generator as the client takes it.

        Raises:
            PairError: the manifest pins a revision that is not in the cache.
        """
        return self._spec("generator")

    def client_options(self) -> ClientOptions:
        """What the manifest sets of a client's options."""
        facts = self.manifest
        options: ClientOptions = {"handoff": facts.handoff}
        if facts.limits != Limits():
            options["budget"] = Budget(
                signal_tokens=facts.limits.signal_tokens, answer_tokens=facts.limits.answer_tokens
            )
        if facts.prompts is not None:
            options["prompts"] = facts.prompts
        if facts.reasoner_params is not None:
            options["reasoner_params"] = facts.reasoner_params
        if facts.generator_params is not None:
            options["generator_params"] = facts.generator_params
        return options

    def conformity(self, *, strict: bool = False, elsewhere: Mapping[Stage, object] | None = None) -> Conformity:
        """What compares models and requests with the manifest.

        Args:
            strict: raise deviations instead of logging them.
            elsewhere: what serves a stage in place of the pair's own model, None if nothing does.
        """
        folders = {}
        for stage, entry in self.manifest.stages.items():
            path = self.model_folder(stage) or local_folder(entry)
            if path is not None and (elsewhere or {}).get(stage) is None:
                folders[stage] = path
        return Conformity(self.manifest, folders, strict)

    def tokenizer_folder(self, stage: Stage) -> Path | None:
        """The folder of this pair, or of a model named by its folder, that holds a model's tokenizer; None without one.

        Raises:
            PairError: it is in this pair, and this pair is not on disk.
        """
        return self.model_folder(stage) or self.adapter_folder(stage) or local_folder(self.manifest.stages[stage])

    def model_folder(self, stage: Stage) -> Path | None:
        """The folder of a bundled model, None for a named one.

        Raises:
            PairError: it is bundled, and this pair is not on disk.
        """
        return self._inside(stage, self.manifest.stages[stage].folder)

    def adapter_folder(self, stage: Stage) -> Path | None:
        """The folder of a model's adapter, None if it has none.

        Raises:
            PairError: it has one, and this pair is not on disk.
        """
        return self._inside(stage, self.manifest.stages[stage].adapter)

    def _inside(self, stage: Stage, relative: str | None) -> Path | None:
        if relative is None:
            return None
        if self.folder is None:
            raise PairError(f"the {stage} is a folder of the pair ({relative!r}), but this pair is not on disk")
        return self.folder / relative

    def _spec(self, stage: Stage) -> str:
        entry = self.manifest.stages[stage]
        if entry.adapter is not None:
            where = self.folder or "PAIR"
            raise PairError(
                f"the pair's {stage} is an adapter on {entry.model or entry.folder}, which must be merged first: run "
                f"`duet pair merge {where} {where}-merged` and use the resulting pair"
            )
        if (bundled := self.model_folder(stage)) is not None:
            return f"{_LOCAL}{bundled}"
        name = str(entry.model)
        if entry.revision is None or not name.startswith(_LOCAL) or local_folder(entry) is not None:
            return name
        hub_id = name.removeprefix(_LOCAL)
        cached = find(hub_id, revision=entry.revision)
        if cached is None:
            raise PairError(
                f"the pair's {stage} is {hub_id} at revision {entry.revision}, which is not in the cache; run "
                f"`duet models pull {hub_id} --revision {entry.revision}`"
            )
        return f"{_LOCAL}{cached}"

    def _write(self, folder: str | Path, sources: Mapping[Stage, Path]) -> Self:
        """The pair in ``folder``, with copies of the models in ``sources``."""
        target = Path(folder).expanduser().resolve()
        refuse_target(target)
        for stage, entry in self.manifest.stages.items():
            local = local_folder(entry)
            if stage not in sources and local is not None and local.resolve().is_relative_to(target):
                raise PairError(f"the {stage} lies in {target}, which would be overwritten; bundle the pair instead")
        adapters = {stage: self.adapter_folder(stage) for stage in self.manifest.stages}
        copied = {stage: path for stage, path in adapters.items() if path is not None}
        return dataclasses.replace(self, manifest=write(target, self.manifest, sources, copied), folder=target)


def local_folder(entry: ModelEntry) -> Path | None:
    """The folder that a named model is, None for a model of the hub or a server."""
    if entry.model is None or not entry.model.startswith(_LOCAL):
        return None
    text = entry.model.removeprefix(_LOCAL)
    path = Path(text).expanduser()
    if text != "embedded" and (text.startswith(("/", ".", "~")) or path.is_dir()):
        return path.absolute()
    return None
