"""One local model in memory and generations with it: what the transformers backend needs torch for.

Import it on use only; it pulls in torch and transformers.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from threading import Lock, local
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

import torch
from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream
from transformers import (
    AutoModelForCausalLM,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    MinPLogitsWarper,
    StoppingCriteria,
    StoppingCriteriaList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from duet_sdk.backends.base import Call, Chunk
from duet_sdk.errors import ConfigError
from duet_sdk.models.sources import no_bars
from duet_sdk.policies import Sampling
from duet_sdk.rendering import Renderer, TokenizerFiles
from duet_sdk.reply import StageUsage
from duet_sdk.think_tags import overlap
from duet_sdk.types import TokenLogprob

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path
    from threading import Event

_GREEDY_BELOW = 1e-5
"""Temperatures under this are greedy: logits divided by less overflow."""
_SEEDS = 2**63
"""torch takes seeds of 63 bits; larger ones wrap around."""


@dataclass(frozen=True, eq=False, slots=True, weakref_slot=True)
class LoadedModel:
    """Weights in memory with all that belongs to them; shared by every backend that names the same."""

    model: Any
    tokenizer: Tokenizer
    files: TokenizerFiles
    renderer: Renderer
    defaults: Sampling
    """What ``generation_config.json`` says; temperature 0 where it does not sample."""
    stop_ids: frozenset[int]
    context_tokens: int | None


_loaded: WeakValueDictionary[tuple[Path, str, str], LoadedModel] = WeakValueDictionary()
_loading = Lock()
_here = local()
"""Of each worker thread: ``stopped``, the event that ends the generation it runs."""


def load(folder: Path, *, dtype: str | None, device: str | None) -> LoadedModel:
    """The model in a checked folder, loaded once for all who hold it.

    Args:
        folder: a folder that `duet_sdk.models.check_folder` accepts.
        dtype: ``bfloat16``, ``float16``, ``float32``, or ``auto`` for the checkpoint's own. By default
            bfloat16 on a CPU (there it is faster than float32, and half its size), else ``auto``.
        device: a torch device; by default the GPU where there is one.

    Raises:
        ConfigError: a dtype or device that torch does not have here.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    dtype = dtype or ("bfloat16" if device == "cpu" else "auto")
    if dtype not in ("auto", "bfloat16", "float16", "float32"):
        raise ConfigError(f"dtype must be auto, bfloat16, float16 or float32, got {dtype!r}")
    try:
        place = torch.device(device)
    except RuntimeError as err:
        raise ConfigError(f"torch has no device {device!r}; name cpu, cuda or cuda:0") from err
    if place.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"device {device!r} was requested, but torch sees no GPU; omit it to use the CPU")
    key = (folder.resolve(), dtype, str(place))
    with _loading:
        if (loaded := _loaded.get(key)) is None:
            loaded = _loaded[key] = _load(folder, dtype, place)
    return loaded


def _load(folder: Path, dtype: str, device: torch.device) -> LoadedModel:
    files = TokenizerFiles.from_folder(folder)
    tokenizer = Tokenizer.from_str(files.tokenizer_json)
    with no_bars():
        model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, use_safetensors=True, trust_remote_code=False, local_files_only=True
        )
    model = model.to(device).eval()  # type: ignore[arg-type]
    _let_stop(model)
    given = model.generation_config
    eos = given.eos_token_id if given.eos_token_id is not None else model.config.eos_token_id
    stop_ids = set(eos) if isinstance(eos, list | tuple) else {eos}
    # A chat model's tokenizer often knows the end of a turn where generation_config has the end of text only.
    stop_ids.add(tokenizer.token_to_id(files.special_tokens.get("eos_token", "")))
    stop_ids.discard(None)
    # Kept apart from ours, which generate() would otherwise fill up with the model's sampling options.
    model.generation_config = GenerationConfig(  # type: ignore[no-untyped-call]
        do_sample=False,
        eos_token_id=sorted(stop_ids) or None,
        pad_token_id=given.pad_token_id if given.pad_token_id is not None else min(stop_ids, default=0),
        bos_token_id=given.bos_token_id,
        repetition_penalty=given.repetition_penalty,
        suppress_tokens=given.suppress_tokens,
    )
    return LoadedModel(
        model=model,
        tokenizer=tokenizer,
        files=files,
        renderer=Renderer(files),
        defaults=_defaults(given),
        stop_ids=frozenset(stop_ids),
        context_tokens=getattr(model.config.get_text_config(), "max_position_embeddings", None),
    )


class _Stopped(Exception):
    """The caller wants no more."""


def _let_stop(model: torch.nn.Module) -> None:
    """Have the model look at its thread's ``stopped`` before each layer.

    Between tokens is too rare: the first one comes after the whole prompt, which can take a CPU many seconds.
    """

    def look_up(_module: object, _inputs: object) -> None:
        stopped = getattr(_here, "stopped", None)
        if stopped is not None and stopped.is_set():
            raise _Stopped

    model.register_forward_pre_hook(look_up)
    for module in model.modules():
        if isinstance(module, torch.nn.ModuleList):
            for layer in module:
                layer.register_forward_pre_hook(look_up)


def _defaults(given: Any) -> Sampling:
    temperature = given.temperature if given.temperature is not None else 1.0
    return Sampling(
        temperature=temperature if given.do_sample else 0.0,
        top_p=given.top_p or None,
        top_k=given.top_k or None,
        min_p=given.min_p,
    )


def generate(
    loaded: LoadedModel, prompt: Sequence[int], call: Call, emit: Callable[[Chunk], None], stopped: Event
) -> None:
    """Run a call to its end, or until ``stopped`` is set, and ``emit`` each token as it is sampled.

    Blocks; safe to run in several threads at once with one model. The usage of each chunk counts every token
    sampled so far, end tokens included; the prompt is counted once.
    """
    sampling = call.sampling.over(loaded.defaults)
    usage = StageUsage(input_tokens=len(prompt))
    device = loaded.model.device
    ids = torch.tensor([list(prompt)], dtype=torch.long, device=device)
    limits = GenerationConfig(  # type: ignore[no-untyped-call]
        max_new_tokens=call.max_tokens, do_sample=False
    )
    _here.stopped = stopped
    try:
        for index in range(call.n):
            recorder = _Recorder(loaded.tokenizer, sampling.logprobs) if sampling.logprobs is not None else None
            output = _Output(loaded, call.max_tokens, sampling.stop, recorder, usage, index, emit)
            recorders = [] if recorder is None else [recorder]
            with torch.inference_mode():
                loaded.model.generate(
                    ids,
                    attention_mask=torch.ones_like(ids),
                    generation_config=limits,
                    logits_processor=LogitsProcessorList([*recorders, *_samplers(sampling, index, device)]),
                    stopping_criteria=StoppingCriteriaList([output]),
                )
            usage = output.usage
    except _Stopped:
        pass
    finally:
        _here.stopped = None


def _samplers(sampling: Sampling, index: int, device: torch.device) -> list[Any]:
    """The warpers that transformers itself uses, then the draw; none when greedy."""
    temperature = 1.0 if sampling.temperature is None else sampling.temperature
    if temperature < _GREEDY_BELOW:
        return []
    found: list[Any] = []
    if temperature != 1.0:
        found.append(TemperatureLogitsWarper(temperature))
    if sampling.top_k is not None:
        found.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p is not None and sampling.top_p < 1.0:
        found.append(TopPLogitsWarper(sampling.top_p))
    if sampling.min_p:
        found.append(MinPLogitsWarper(sampling.min_p))
    seed = None if sampling.seed is None else (sampling.seed + index) % _SEEDS
    return [*found, _Draw(seed, device)]


class _Draw(LogitsProcessor):
    """Adds Gumbel noise, so that the greedy choice after it is an exact sample of the softmax before it.

    The generator is private: torch's global one is shared by all threads, so that a seed would not hold.
    """

    def __init__(self, seed: int | None, device: torch.device) -> None:
        self._generator = torch.Generator(device=device)
        if seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(seed)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        return scores - torch.empty_like(scores).exponential_(generator=self._generator).log_()


class _Recorder(LogitsProcessor):
    """Remembers what the model itself says of the next token, before temperature and cuts."""

    def __init__(self, tokenizer: Tokenizer, top: int) -> None:
        self._tokenizer = tokenizer
        self._top = top
        self._logprobs = torch.empty(0)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self._logprobs = torch.log_softmax(scores[0].float(), dim=-1)
        return scores

    def of(self, token: int) -> TokenLogprob:
        """The record of the token that was sampled."""
        values, ids = torch.topk(self._logprobs, self._top)
        best = zip(ids.tolist(), values.tolist(), strict=True)
        top = tuple((self._text(other), value) for other, value in best)
        return TokenLogprob(self._text(token), float(self._logprobs[token]), top)

    def _text(self, token: int) -> str:
        return str(self._tokenizer.decode([token], skip_special_tokens=False))


class _Output(StoppingCriteria):
    """Follows one output token by token: decodes, matches stop texts, emits, and says when to end.

    A stopping criterion and no streamer, since generate() asks the criteria first: with a streamer every stop
    text would cost one more forward pass.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        max_tokens: int,
        stop: Sequence[str],
        recorder: _Recorder | None,
        usage: StageUsage,
        index: int,
        emit: Callable[[Chunk], None],
    ) -> None:
        self.usage = usage
        self._tokenizer = loaded.tokenizer
        self._stop_ids = loaded.stop_ids | _as_special(loaded.tokenizer, stop)
        self._left = max_tokens
        self._text = _Text(loaded.tokenizer, stop)
        self._recorder = recorder
        self._index = index
        self._emit = emit
        self._finished = False

    def __call__(self, input_ids: torch.Tensor, scores: object, **_unused: object) -> torch.Tensor:
        # On some devices generate() reads the answer one step late and asks once more.
        if not self._finished:
            self._follow(int(input_ids[0, -1]))
        return torch.full((input_ids.shape[0],), self._finished, dtype=torch.bool, device=input_ids.device)

    def _follow(self, token: int) -> None:
        self._left -= 1
        self.usage = replace(self.usage, output_tokens=self.usage.output_tokens + 1)
        ended = token in self._stop_ids
        text = "" if ended else self._text.feed(token)
        reason = "stop" if ended or self._text.stopped else "length" if self._left <= 0 else None
        self._finished = reason is not None
        self._emit(
            Chunk(
                text=text + self._text.rest() if self._finished else text,
                token_ids=(token,),
                logprobs=() if self._recorder is None else (self._recorder.of(token),),
                usage=self.usage,
                finish_reason=reason,
                index=self._index,
            )
        )


class _Text:
    """Tokens → text that may be shown: whole characters, and nothing that may be the start of a stop text."""

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str]) -> None:
        self.stopped = False
        self._tokenizer = tokenizer
        self._decoder = DecodeStream(skip_special_tokens=True)
        self._stop = stop
        self._held = ""

    def feed(self, token: int) -> str:
        """What this token lets go; sets ``stopped`` when a stop text is complete."""
        self._held += self._decoder.step(self._tokenizer, token) or ""
        found = [at for stop in self._stop if (at := self._held.find(stop)) >= 0]
        if found:
            self.stopped = True
            shown, self._held = self._held[: min(found)], ""
            return shown
        kept = max((overlap(self._held, stop) for stop in self._stop), default=0)
        at = len(self._held) - kept
        shown, self._held = self._held[:at], self._held[at:]
        return shown

    def rest(self) -> str:
        """What is still held back, once no stop text can follow; half a character is dropped."""
        held, self._held = self._held, ""
        return held


def _as_special(tokenizer: Tokenizer, stop: Sequence[str]) -> set[int]:
    """Ids of stop texts that are special tokens, which never show up in the text."""
    added = tokenizer.get_added_tokens_decoder()
    return {at for at, token in added.items() if token.special and token.content in stop}
