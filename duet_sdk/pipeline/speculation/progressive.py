"""While the reasoner writes, the generator probes what there is of the signal; the reasoner stops once it suffices.

This is marginal utility at serving time: the next slice of the signal is bought only as long as the generator, with
the slices it has, is not sure enough to do without it.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace

from duet_sdk.errors import BackendError
from duet_sdk.events import Event, FellBack, Retried, SignalDelta, SignalDone
from duet_sdk.gate import Confidence
from duet_sdk.pipeline.flow import Flow
from duet_sdk.pipeline.signal_stage import Asking, Signalling
from duet_sdk.pipeline.speculation.room import room_for_probe
from duet_sdk.pipeline.speculation.tasks import Beside, Work
from duet_sdk.pipeline.speculation.trial import Tentative, check_logprobs
from duet_sdk.policies import Progressive
from duet_sdk.signal import Sentence


async def progressive_signal(flow: Flow, options: Progressive) -> AsyncGenerator[Event, None]:
    """The reasoner's stage with probes beside it; a probe that is sure is left as ``flow.adopted``.

    Raises:
        ConfigError: the generator reports no logprobs; nothing was spent.
        DuetError: as the reasoner's stage.
    """
    signalling = Signalling(flow)
    try:
        await flow.in_time(check_logprobs(flow))
    except BackendError:  # the stages find out for themselves, and say so
        async with aclosing(signalling.events()) as asking:
            async for event in asking:
                yield event
        return
    probing: _Probing | None = None
    try:
        async with Beside() as beside:
            probing = _Probing(flow, options, signalling, beside)
            async with aclosing(probing.events()) as events:
                async for event in events:
                    yield event
    finally:
        if probing is not None:
            await probing.aclose()


class _Probing:
    """What is known while the reasoner writes and the generator probes."""

    def __init__(self, flow: Flow, options: Progressive, signalling: Signalling, beside: Beside) -> None:
        self._flow = flow
        self._options = options
        self._signalling = signalling
        self._beside = beside
        self._gate = Confidence(options.threshold, options.probe_tokens, name="progressive")
        self._asking = beside.start(signalling.events())
        self._trying: Work | None = None
        self._probe: Tentative | None = None
        self._seen_tokens = 0
        self._next_at = options.slice_tokens
        self._left = options.most_probes
        self._tried = ""
        self._signal_done = False
        self._over = False

    async def events(self) -> AsyncGenerator[Event, None]:
        """Until there is a signal, whole or as much of it as suffices.

        Raises:
            BaseException: what ended the reasoner's stage or a probe; the other has been stopped.
        """
        while not self._over:
            work, event = await self._beside.next()
            if event is not None:
                async with aclosing(self._told(event)) as told:
                    async for one in told:
                        yield one
                continue
            if work.error is not None:
                for event in [*await self._stop_asking(0), *await self._drop()]:
                    yield event
                raise work.error
            for event in await (self._asked() if work is self._asking else self._judged()):
                yield event

    async def _told(self, event: Event) -> AsyncGenerator[Event, None]:
        """Pass an event on, and probe where the signal has grown by a slice."""
        match event:
            case SignalDelta():
                self._probe_if_due()
                if self._flow.request.whole:
                    return  # `chat` shows no deltas
            case Retried(discard=True) | FellBack():
                # What was written is void: so is a probe of it.
                for ended in await self._drop():
                    yield ended
                self._next_at, self._tried = self._options.slice_tokens, ""
        yield event

    def _probe_if_due(self) -> None:
        asking, options = self._signalling.asking, self._options
        if asking is None or self._flow.judged or not self._left or asking.tokens < self._next_at:
            return
        probes = options.most_probes - self._left + 1
        text = _usable(asking)
        if not text or text == self._tried or probes * options.probe_tokens > options.share * asking.tokens:
            return
        self._left -= 1
        self._tried, self._seen_tokens = text, asking.tokens
        self._next_at = asking.tokens + options.slice_tokens
        self._probe = Tentative(self._flow, self._gate, signal=text)
        self._trying = self._beside.start(self._judging(asking, self._probe))

    async def _judging(self, asking: Asking, probe: Tentative) -> AsyncGenerator[Event, None]:
        if not await self._flow.in_time(room_for_probe(self._flow, asking)):
            self._left = 0  # there will be less later
            return
        async with aclosing(probe.judging()) as judging:
            async for event in judging:
                yield event

    async def _judged(self) -> list[Event]:
        """A verdict is there."""
        probe = self._probe
        if probe is None:
            return []
        if not probe.runs:
            self._left = 0  # a generator that fails is not tried with every slice
        if not probe.runs or (probe.decision.ask and not self._signal_done):
            self._over = self._signal_done
            return await self._drop()
        self._over = True
        probe.adopt()
        if self._signal_done:
            return []  # it was the whole signal after all
        told = await self._stop_asking(self._seen_tokens)
        return [*told, self._hand_over(probe.signal)]

    def _hand_over(self, text: str) -> SignalDone:
        """The signal is what the probe saw."""
        draft, asking = self._flow.draft, self._signalling.asking
        if asking is not None:
            draft.signal = replace(asking.signal(text), truncated=False)
            draft.handoff = asking.handoff.name
        draft.served_by = "pair"
        return SignalDone(draft.signal, draft.handoff or "instruct")

    async def _asked(self) -> list[Event]:
        """The reasoner is done, with a signal or without one."""
        self._signal_done = True
        probed = self._flow.judged and self._probe is not None
        if probed and self._probe is not None and self._probe.signal == self._flow.draft.signal.text:
            return []  # what is probed turned out to be the whole signal: its answer goes on
        self._over = True
        return await self._drop()

    async def _drop(self) -> list[Event]:
        """Stop the probe that runs, if one does."""
        if self._trying is None or self._probe is None:
            return []
        told = [*await self._beside.stop(self._trying), *await self._probe.drop()]
        self._trying = self._probe = None
        return told

    async def _stop_asking(self, needed: int) -> list[Event]:
        """Stop the reasoner; of all that it wrote for this signal, ``needed`` tokens were of use."""
        asking = self._signalling.asking
        if asking is not None and asking.runs:
            asking.runs[-1].not_needed(max(0, needed - sum(run.tokens for run in asking.runs[:-1])))
        return await self._beside.stop(self._asking)

    async def aclose(self) -> None:
        """Settle a probe that is neither adopted nor dropped, once nothing runs any more."""
        if self._probe is not None and self._flow.adopted is not self._probe:
            await self._probe.drop()


def _usable(asking: Asking) -> str:
    """What there is of a signal, in the form in which it could be handed on."""
    text = asking.extractor.text
    return text if asking.handoff.name == "think" else Sentence().cut(text, limit=asking.limit)
