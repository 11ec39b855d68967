"""A pair on disk: a folder with ``pair.json``, which names both models and says how they work together.

The models are named, or bundled as sub-folders. Everything in the folder is checked before it is used: nothing that
the manifest does not list lies in a model's folder, every listed file has its size and SHA-256, the weights are
safetensors, and no path or link leaves the folder. That tells damage and leftovers, not a forger: who can write the
manifest can write its checksums, and chooses the servers that questions go to.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, JsonValue, ValidationError, model_validator

from duet_sdk.errors import BackendError, ConfigError, InvalidRequest, PairError
from duet_sdk.models import check_folder, find
from duet_sdk.models.folder import read_json
from duet_sdk.types import Budget, HandoffName, Prompts, Sampling, Stage

if TYPE_CHECKING:
    from duet_sdk.client import ClientOptions

MANIFEST = "pair.json"
FORMAT = 1

_STAGES: tuple[Stage, Stage] = ("reasoner", "generator")
_LOCAL = "transformers/"
_PICKLED = {".bin", ".ckpt", ".pickle", ".pkl", ".pt", ".pth"}
_BUNDLED = {".jinja", ".json", ".model", ".safetensors", ".txt"}
"""What a model is loaded from; other files beside it (other formats, notes) are not copied."""
_MODEL_NAME = re.compile(r"[\w-]+/.+", re.DOTALL)
_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*", re.ASCII)
_SECRET_KEY = re.compile(
    r"(^|.*[_-])(api[_-]?key|authorization|passw(or)?d|secret|(access|auth|hf)[_-]token)", re.IGNORECASE
)
_URL_WITH_PASSWORD = re.compile(r"://[^/\s]*@")


def _only_fields_of(cls: type[Prompts | Sampling]) -> BeforeValidator:
    """Refuse keys that the dataclass does not have; pydantic would leave them out silently."""
    known = {field.name for field in dataclasses.fields(cls)}

    def check(value: object) -> object:
        if isinstance(value, Mapping) and (unknown := sorted(set(value) - known)):
            raise ValueError(f"unknown key {unknown[0]!r} (known are {', '.join(sorted(known))})")
        return value

    return BeforeValidator(check)


_Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
_Tokens = Annotated[int, Field(strict=True, ge=1)]
_Prompts = Annotated[Prompts, _only_fields_of(Prompts)]
_Sampling = Annotated[Sampling, _only_fields_of(Sampling)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class ModelEntry(_Part):
    """One model of a pair: a name, or a folder inside the pair's.

    >>> ModelEntry(model="transformers/Qwen/Qwen3-0.6B", revision="main").model
    'transformers/Qwen/Qwen3-0.6B'
    """

    model: str | None = None
    """Name as the client takes it (``backend/model``); a relative path in it is one from where the pair is used."""
    folder: str | None = None
    """Folder of a bundled model, relative to the pair's, with ``/`` between its parts."""
    revision: str | None = None
    """Branch, tag or commit. A model of the hub that runs in this process is used at it; a server has its own."""
    tokenizer: _Hash | None = None
    """SHA-256 of ``tokenizer.json`` at training; this and the next two are kept, not checked at load."""
    chat_template: _Hash | None = None
    """SHA-256 of the chat template's text at training."""
    quantisation: _Hash | None = None
    """SHA-256 of the quantisation's configuration at training."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.model is None) == (self.folder is None):
            raise ValueError("needs exactly one of 'model' and 'folder'")
        if self.folder is not None:
            _check_relative(self.folder)
        if self.model is not None:
            if _MODEL_NAME.fullmatch(self.model) is None:
                raise ValueError("'model' must be written as 'backend/model', such as 'transformers/embedded'")
            url = self.model.partition("@http")[2]
            if "@" in url or "?" in url:
                raise ValueError(
                    "'model' has a user, a password or a query in its URL, and a pair keeps no secrets: leave them "
                    "out, and give the key to the client"
                )
        return self


class Limits(_Part):
    """Limits that the pair is meant to be used with; a client's own and a request's go over them.

    >>> Limits(signal_tokens=256).signal_tokens
    256
    """

    signal_tokens: _Tokens | None = None
    """Output tokens of the reasoner; None leaves the client's default."""
    answer_tokens: _Tokens | None = None
    """Output tokens of one answer; None leaves the client's default."""


class FileFacts(_Part):
    """What a file of the pair must be.

    >>> FileFacts(sha256="0" * 64, size=3).size
    3
    """

    sha256: _Hash
    size: Annotated[int, Field(strict=True, ge=0)]
    """Bytes."""


class Manifest(_Part):
    """What ``pair.json`` says.

    >>> both = ModelEntry(model="transformers/embedded")
    >>> Manifest(reasoner=both, generator=both).handoff
    'instruct'
    """

    format: Literal[1] = 1
    reasoner: ModelEntry
    generator: ModelEntry
    handoff: HandoffName = "instruct"
    """``think`` only for models trained together."""
    trained: bool = False
    """Whether the two were trained together."""
    limits: Limits = Limits()
    prompts: _Prompts | None = None
    """System prompts by stage, in place of DUET's own."""
    reasoner_params: _Sampling | None = None
    generator_params: _Sampling | None = None
    tags: tuple[str, str] | None = None
    """What opens and closes a signal, where training chose its own."""
    metrics: JsonValue = None
    """This and the next five are kept as they are."""
    training: JsonValue = None
    data: JsonValue = None
    licences: JsonValue = None
    tasks: JsonValue = None
    language: JsonValue = None
    tools: bool | None = None
    """Whether the pair was trained to use tools; None where nobody knows."""
    files: dict[str, FileFacts] = {}
    """Every file of the pair but ``pair.json``, by its path relative to the pair's folder."""

    @model_validator(mode="after")
    def _safe(self) -> Self:
        for name in self.files:
            _check_relative(name)
        for where in _secrets(self.model_dump(mode="json", exclude={"files", "prompts"})):
            raise ValueError(f"{where} looks like a key or password, and a pair keeps no secrets: leave it out")
        return self


@dataclass(frozen=True, slots=True)
class Pair:
    """Two models and how they work together, on disk or not yet.

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
        """The pair in a folder, every file of it read and checked; no model is loaded.

        Raises:
            PairError: there is no such folder, it is no pair, or not what its manifest says.
        """
        folder = Path(path_or_hub_id).expanduser()
        if not folder.is_dir():
            raise PairError(_no_folder(path_or_hub_id))
        folder = folder.resolve()
        pair = cls(_read_manifest(folder / MANIFEST), folder)
        pair.verify()
        return pair

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
            raise PairError(f"a pair keeps signal_tokens and answer_tokens, no {foreign[0]}: give that to the client")
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
            raise PairError(f"this cannot be a pair: {_flaw(err)}") from err

    def save(self, folder: str | Path) -> Self:
        """Write the pair into a folder, its models as they are: bundled ones are copied, named ones stay names.

        The folder appears whole or not at all. A pair that is there is replaced.

        Raises:
            PairError: something else is in the folder, or it cannot be written.
        """
        return self._write(folder, {stage: path for stage in _STAGES if (path := self._bundled(stage)) is not None})

    def bundle(self, folder: str | Path) -> Self:
        """Write the pair into a folder with a copy of every model that is a local folder; the rest stay names.

        Copied is what a model is loaded from: safetensors, configuration, tokenizer, template, licence.

        Raises:
            PairError: as `save`.
            ModelNotFound: a model's folder is missing or incomplete.
            ConfigError: a model has pickled weights only, or code of its own.
        """
        sources = {}
        for stage in _STAGES:
            path = self._bundled(stage) or _local_folder(self._entry(stage))
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
        folders = sorted({entry.folder for stage in _STAGES if (entry := self._entry(stage)).folder is not None})
        try:
            _check_files(self.folder, self.manifest.files, folders)
        except OSError as err:
            raise PairError(f"the pair in {self.folder} cannot be read: {err}") from err
        for relative in folders:
            try:
                check_folder(self.folder / relative)
            except (ConfigError, BackendError) as err:
                raise PairError(f"the pair in {self.folder} cannot be used: {err}") from err

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

    def _entry(self, stage: Stage) -> ModelEntry:
        return self.manifest.reasoner if stage == "reasoner" else self.manifest.generator

    def _bundled(self, stage: Stage) -> Path | None:
        """The folder of a bundled model, None for a named one."""
        relative = self._entry(stage).folder
        if relative is None:
            return None
        if self.folder is None:
            raise PairError(f"the {stage} is a folder of the pair ({relative!r}), but this pair is not on disk")
        return self.folder / relative

    def _spec(self, stage: Stage) -> str:
        entry = self._entry(stage)
        if (bundled := self._bundled(stage)) is not None:
            return f"{_LOCAL}{bundled}"
        name = str(entry.model)
        if entry.revision is None or not name.startswith(_LOCAL) or _local_folder(entry) is not None:
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
        _refuse_target(target)
        for stage in set(_STAGES) - set(sources):
            local = _local_folder(self._entry(stage))
            if local is not None and local.resolve().is_relative_to(target):
                raise PairError(f"the {stage} lies in {target}, which would be replaced; bundle the pair instead")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            # A sibling, because a rename is atomic only within one file system.
            with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as staging:
                fresh = Path(staging, "fresh")
                fresh.mkdir()
                manifest = self._fill(fresh, sources)
                _swap(fresh, target, Path(staging, "replaced"))
        except OSError as err:
            raise PairError(f"cannot write the pair to {target}: {err}") from err
        return dataclasses.replace(self, manifest=manifest, folder=target)

    def _fill(self, fresh: Path, sources: Mapping[Stage, Path]) -> Manifest:
        """Copy the models and write the manifest; one copy where both stages are one model."""
        places: dict[Path, str] = {}
        entries: dict[str, ModelEntry] = {}
        for stage, source in sources.items():
            real = source.resolve()
            if real not in places:
                places[real] = stage
                _copy_model(real, fresh / stage)
            entries[stage] = self._entry(stage).model_copy(update={"model": None, "folder": places[real]})
        files = {
            name: FileFacts(sha256=_sha256(fresh / name), size=(fresh / name).stat().st_size)
            for name in sorted(_present(fresh))
        }
        manifest = self.manifest.model_copy(update={**entries, "files": files})
        values = manifest.model_dump(mode="json", exclude_none=True)
        (fresh / MANIFEST).write_text(json.dumps(values, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
        # Read back, so that nothing is written that cannot be loaded.
        return _read_manifest(fresh / MANIFEST)


def _read_manifest(file: Path) -> Manifest:
    if file.is_symlink() or not file.is_file():
        raise PairError(f"{file.parent} is no pair: it holds no {MANIFEST}; `duet pair save` makes one")
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as err:
        raise PairError(f"{file} cannot be read as JSON ({type(err).__name__}); copy or save the pair again") from err
    number = values.get("format") if isinstance(values, dict) else None
    if type(number) is not int or number < 1:
        raise PairError(f"{file} is no manifest of a pair: it has no whole number 'format'; save the pair again")
    if number > FORMAT:
        raise PairError(
            f"{file} has format {number}, and this version reads up to {FORMAT}; upgrade it: "
            "pip install --upgrade duet-sdk"
        )
    try:
        return Manifest.model_validate(values)
    except ValidationError as err:
        raise PairError(f"{file} is not valid: {_flaw(err)}; correct it, or upgrade duet-sdk if it is newer") from err
    except InvalidRequest as err:
        raise PairError(f"{file} is not valid: {err}; correct it") from err


def _flaw(err: ValidationError) -> str:
    """The first thing wrong, by place and reason; values stay out, as they may be secret."""
    first = err.errors(include_url=False, include_input=False, include_context=False)[0]
    place = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return f"unknown key {place!r}"
    reason = first["msg"].removeprefix("Value error, ")
    return f"{place}: {reason}" if place else reason


def _no_folder(given: str | Path) -> str:
    text = f"there is no folder {str(given)!r}"
    if isinstance(given, str) and _HUB_ID.fullmatch(given):
        return (
            f"{text}; to use the pair of that name on the hub run `hf download {given} --local-dir my-pair` and name "
            "that folder"
        )
    return f"{text}; `duet pair save` makes a pair there"


def _check_relative(name: str) -> None:
    """Refuse a path that could lead out of the pair's folder on any system.

    Raises:
        ValueError: it could.
    """
    parts = name.split("/")
    if any(part in ("", ".", "..") for part in parts) or re.search(r"[\\:\0]", name):
        raise ValueError(f"the path {name!r} must stay in the pair's folder: names with '/' between them, no '..'")


def _secrets(value: JsonValue, where: str = "") -> Iterator[str]:
    """Places whose key or text looks like a secret."""
    if isinstance(value, dict):
        for key, inner in value.items():
            place = f"{where}.{key}".lstrip(".")
            if _SECRET_KEY.fullmatch(key) and inner not in (None, ""):
                yield place
            else:
                yield from _secrets(inner, place)
    elif isinstance(value, list):
        for at, inner in enumerate(value):
            yield from _secrets(inner, f"{where}.{at}")
    elif isinstance(value, str) and _URL_WITH_PASSWORD.search(value):
        yield where


def _check_files(folder: Path, listed: Mapping[str, FileFacts], models: Sequence[str]) -> None:
    """Compare a pair's files with the manifest: names and sizes first, as hashing takes long."""
    present = set(_present(folder))
    for name in sorted(present - set(listed)):
        if any(name.startswith(f"{model}/") for model in models):
            raise PairError(f"{folder / name} is not listed in {MANIFEST}; remove it, or save the pair again")
    for name, facts in listed.items():
        if name not in present:
            raise PairError(f"{folder / name} is listed in {MANIFEST} but missing; copy the pair again")
        if (size := (folder / name).stat().st_size) != facts.size:
            raise PairError(f"{folder / name} has {size} bytes where {MANIFEST} says {facts.size}; copy the pair again")
    for name, facts in listed.items():
        if _sha256(folder / name) != facts.sha256:
            raise PairError(
                f"{folder / name} has not the SHA-256 that {MANIFEST} says: it was changed or damaged; "
                "copy the pair again"
            )


def _present(folder: Path) -> Iterator[str]:
    """Every file of the pair but its manifest, relative to the folder.

    Raises:
        PairError: there is a link, something that is no file, or a pickled file.
    """
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            raise PairError(f"{path} is a link, which could lead out of the pair; put the file itself there")
        if path.is_dir():
            continue
        if not path.is_file():
            raise PairError(f"{path} is neither a file nor a folder; remove it")
        if path.suffix.lower() in _PICKLED:
            raise PairError(
                f"{path} may be pickled, which can run code when it is read: a pair holds safetensors only; remove it, "
                "or convert it where you trust it"
            )
        if name != MANIFEST:
            yield name


def _local_folder(entry: ModelEntry) -> Path | None:
    """The folder that a named model is, None for a model of the hub or a server."""
    if entry.model is None or not entry.model.startswith(_LOCAL):
        return None
    text = entry.model.removeprefix(_LOCAL)
    path = Path(text).expanduser()
    if text != "embedded" and (text.startswith(("/", ".", "~")) or path.is_dir()):
        return path.absolute()
    return None


def _copy_model(source: Path, target: Path) -> None:
    target.mkdir()
    for file in sorted(source.iterdir()):
        wanted = file.suffix in _BUNDLED or file.name.startswith("LICENSE")
        # The cache's own list of files would be wrong for a part of them.
        if wanted and file.is_file() and not file.name.startswith(".") and file.name != "duet.json":
            shutil.copyfile(file, target / file.name)


def _refuse_target(target: Path) -> None:
    """Refuse to replace anything but a pair and what belongs to it."""
    if not target.exists():
        return
    if not target.is_dir():
        raise PairError(f"{target} is a file, so no pair can be saved there; choose another folder")
    found = sorted(path.relative_to(target).as_posix() for path in target.rglob("*") if not path.is_dir())
    if not found:
        return
    manifest = read_json(target / MANIFEST) or {}
    listed = manifest.get("files")
    if type(manifest.get("format")) is not int or not isinstance(listed, dict):
        raise PairError(f"{target} holds files but no pair, so it is not overwritten; choose another folder")
    for name in found:
        if name != MANIFEST and name not in listed:
            raise PairError(
                f"{target} holds {name}, which does not belong to the pair there and would be lost; move it away, or "
                "choose another folder"
            )


def _swap(fresh: Path, target: Path, replaced: Path) -> None:
    """Put ``fresh`` in place of ``target``, which goes to ``replaced``, and comes back if that fails."""
    if not target.exists():
        fresh.replace(target)
        return
    target.replace(replaced)
    try:
        fresh.replace(target)
    except BaseException:
        replaced.replace(target)
        raise


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
