"""Where local models come from: a GGUF file that is converted, or the hub."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from io import StringIO
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from duet_sdk.errors import Authentication, ConnectFailed, MissingExtra
from duet_sdk.models.folder import WANTED, check_names, not_found, refuse_own_code

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType

Progress: TypeAlias = Callable[[str, float], None]
"""Told what is being done and which share of it is done, in [0, 1]; called from the thread that does it."""

_UNWANTED = ["*/*", "consolidated*"]
"""Other formats of the same weights, which many repositories keep next to the ones that transformers reads."""


def local_library(name: str) -> ModuleType:
    """A library of the extra ``local``, imported now.

    Raises:
        MissingExtra: it is not installed.
    """
    try:
        return import_module(name)
    except ModuleNotFoundError as err:
        raise MissingExtra(f"running models in this process ({err.name} is missing)", extra="local") from err


def convert_gguf(gguf_file: Path, target: Path, *, progress: Progress | None = None) -> None:
    """Write a GGUF model into the folder ``target`` as bfloat16 safetensors with tokenizer and chat template.

    transformers reads GGUF but cannot save what it read, so the weights go into a plain model first.

    Raises:
        ModelNotFound: there is no such file.
        MissingExtra: torch, transformers, accelerate or gguf is not installed.
    """
    if not gguf_file.is_file():
        raise not_found(gguf_file.name, f"there is no file {gguf_file}")
    tell = progress or silent
    text = f"converting {gguf_file.name}"
    torch, transformers, gguf = (local_library(name) for name in ("torch", "transformers", "gguf"))
    local_library("accelerate")
    tell(text, 0.0)
    with no_bars(lambda share: tell(text, 0.4 + 0.3 * share)):
        quantised = transformers.AutoModelForCausalLM.from_pretrained(
            gguf_file.parent, gguf_file=gguf_file.name, trust_remote_code=False
        )
        plain = {k: v for k, v in quantised.config.to_dict().items() if k != "quantization_config"}
        model = type(quantised)(type(quantised.config).from_dict(plain))
        model.load_state_dict(quantised.state_dict())
        model.generation_config = quantised.generation_config
        tell(text, 0.75)
        tokenizer = transformers.AutoTokenizer.from_pretrained(
            gguf_file.parent, gguf_file=gguf_file.name, trust_remote_code=False
        )
        target.mkdir(parents=True, exist_ok=True)
        model.to(torch.bfloat16).save_pretrained(target)
        tokenizer.save_pretrained(target)
    tell(text, 0.9)
    pre_tokenizer = gguf.GGUFReader(gguf_file).fields.get("tokenizer.ggml.pre")
    if pre_tokenizer is not None and pre_tokenizer.contents() == "smollm":
        _split_digits(target / "tokenizer.json")
    tell(text, 1.0)


def download(hub_id: str, revision: str | None, target: Path, tell: Progress, endpoint: str | None) -> str:
    """Fetch a hub model's safetensors, configuration and tokenizer into ``target``; returns their source.

    Raises:
        ConfigError: the repository has pickled weights only, or needs its own code.
        ModelNotFound: the hub has no such model or revision.
        Authentication: the hub wants a token that may read it.
        ConnectFailed: the hub does not answer.
        MissingExtra: huggingface_hub is not installed.
    """
    repository = Repository(hub_id, revision, endpoint=endpoint)
    check_names(repository.names, model=hub_id)
    # The small file first: a model that is refused costs no gigabytes.
    repository.fetch(target, ["config.json"], tell=tell)
    refuse_own_code(target)
    repository.fetch(target, WANTED, unwanted=_UNWANTED, tell=tell)
    return f"hub {hub_id}@{repository.commit}"


def silent(_text: str, _share: float) -> None:
    """Progress that is not reported."""


class Repository:
    """A model's or pair's repository on the hub, at the commit that a revision names now.

    Args:
        hub_id: ``owner/name``.
        revision: branch, tag or commit; None for the default branch.
        kind: what error messages call it.
        endpoint: URL of another hub; None for the one that ``HF_ENDPOINT`` names, or the public one.

    Raises:
        ModelNotFound: the hub has no such repository or revision.
        Authentication: the hub wants a token that may read it.
        ConnectFailed: the hub does not answer.
        MissingExtra: huggingface_hub is not installed.
    """

    commit: str
    names: Sequence[str]
    """The paths of all its files."""

    def __init__(
        self,
        hub_id: str,
        revision: str | None,
        *,
        kind: Literal["model", "pair"] = "model",
        endpoint: str | None = None,
    ) -> None:
        self._hub = local_library("huggingface_hub")
        self._hub_id, self._revision, self._kind, self._endpoint = hub_id, revision, kind, endpoint
        with self._errors():
            info = self._hub.HfApi(endpoint=endpoint).model_info(hub_id, revision=revision)
        self.commit, self.names = info.sha, [file.rfilename for file in info.siblings]

    def fetch(
        self, target: Path, wanted: Sequence[str], *, unwanted: Sequence[str] = (), tell: Progress | None = None
    ) -> None:
        """Download the files whose path matches a pattern (where ``*`` matches ``/`` as well) into ``target``.

        Raises:
            Authentication: the hub wants a token that may read them.
            ConnectFailed: the hub does not answer.
        """
        bar = _bar_class(f"downloading {self._hub_id}", tell or silent)
        with self._errors():
            self._hub.snapshot_download(
                self._hub_id,
                revision=self.commit,
                local_dir=target,
                endpoint=self._endpoint,
                allow_patterns=list(wanted),
                ignore_patterns=list(unwanted),
                tqdm_class=bar,
            )
        shutil.rmtree(target / ".cache", ignore_errors=True)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        errors = local_library("huggingface_hub.errors")
        hub_id, kind = self._hub_id, self._kind
        facts: dict[str, Any] = {"backend": "transformers", "model": hub_id}
        try:
            yield
        except errors.GatedRepoError as err:
            raise Authentication(
                f"access to {hub_id!r} on the hub is restricted; request it on the {kind}'s page and set HF_TOKEN",
                status=403,
                **facts,
            ) from err
        except errors.RepositoryNotFoundError as err:
            raise not_found(hub_id, f"the hub has no public {kind} {hub_id!r}; a private one needs HF_TOKEN") from err
        except errors.RevisionNotFoundError as err:
            raise not_found(hub_id, f"the {kind} {hub_id!r} has no revision {self._revision!r}") from err
        except (OSError, errors.HTTPError) as err:
            status = getattr(getattr(err, "response", None), "status_code", None)
            if status in (401, 403):
                raise Authentication(f"the hub rejected the token for {hub_id!r}", status=status, **facts) from err
            raise ConnectFailed(
                f"fetching {hub_id!r} from the hub failed ({type(err).__name__}); check the connection, or copy "
                f"the {kind}'s folder to this machine and name its path",
                status=status,
                **facts,
            ) from err


def _split_digits(tokenizer_file: Path) -> None:
    """Put back what transformers drops of SmolLM2's pre-tokenizer: each digit is a piece of its own."""
    values = json.loads(tokenizer_file.read_text(encoding="utf-8"))
    digits = {"type": "Digits", "individual_digits": True}
    values["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [digits, values["pre_tokenizer"]]}
    tokenizer_file.write_text(json.dumps(values, ensure_ascii=False), encoding="utf-8")


@contextmanager
def no_bars(tell: Callable[[float], None] | None = None) -> Iterator[None]:
    """Keep transformers from drawing on stderr; ``tell`` learns the share of GGUF tensors converted."""
    logging = local_library("transformers.utils.logging")
    reader = local_library("transformers.modeling_gguf_pytorch_utils")

    def counted(items: Iterable[Any], **_drawing: object) -> Iterator[Any]:
        listed = list(items)
        for done, item in enumerate(listed):
            if tell is not None:
                tell(done / len(listed))
            yield item

    shown, drawn = logging.is_progress_bar_enabled(), vars(reader).get("tqdm")
    logging.disable_progress_bar()
    # This one bar has no switch of its own (transformers 5.23).
    vars(reader)["tqdm"] = counted
    try:
        yield
    finally:
        vars(reader)["tqdm"] = drawn
        if shown:
            logging.enable_progress_bar()


def _bar_class(text: str, tell: Progress) -> type[Any]:
    """A tqdm class that reports instead of drawing; the hub counts bytes and files, only bytes are reported."""
    tqdm: type[Any] = local_library("tqdm").tqdm

    class Bar(tqdm):  # type: ignore[misc, unused-ignore]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            kwargs.pop("name", None)
            super().__init__(*args, **{**kwargs, "disable": False, "file": StringIO()})

        def update(self, n: float | None = 1) -> bool | None:
            drawn: bool | None = super().update(n)
            if self.unit == "B" and self.total:
                tell(text, min(self.n / self.total, 1.0))
            return drawn

    return Bar
