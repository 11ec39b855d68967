"""The instruments of one meter, and what is recorded when an attempt or a request is over."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from duet_sdk.telemetry import names

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.metrics import Meter
    from opentelemetry.util.types import AttributeValue

    from duet_sdk.pipeline.draft import Draft
    from duet_sdk.reply import Attempt, Signal

    Facts = dict[str, AttributeValue]

# The conventions' buckets.
SECONDS: Final = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
TOKENS: Final = tuple(4**power for power in range(14))
WORKFLOW_SECONDS: Final = (1, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200)
# Our own.
SIGNAL_TOKENS: Final = (16, 32, 64, 128, 192, 256, 384, 512, 768, 1024, 2048, 4096)
SHARES: Final = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.99, 1.0)


class Instruments:
    """Every instrument of DUET, on one meter."""

    def __init__(self, meter: Meter) -> None:
        self._token_usage = meter.create_histogram(
            names.TOKEN_USAGE_METRIC,
            "{token}",
            "Number of input and output tokens used by GenAI clients",
            explicit_bucket_boundaries_advisory=TOKENS,
        )
        self._operation_s = meter.create_histogram(
            names.OPERATION_DURATION_METRIC,
            "s",
            "Duration of GenAI client operation",
            explicit_bucket_boundaries_advisory=SECONDS,
        )
        self._first_chunk_s = meter.create_histogram(
            names.TIME_TO_FIRST_CHUNK_METRIC,
            "s",
            "Time to receive the first chunk",
            explicit_bucket_boundaries_advisory=SECONDS,
        )
        self._workflow_s = meter.create_histogram(
            names.WORKFLOW_DURATION_METRIC,
            "s",
            "Measures the duration of a workflow execution.",
            explicit_bucket_boundaries_advisory=WORKFLOW_SECONDS,
        )
        self._signal_tokens = meter.create_histogram(
            names.SIGNAL_TOKENS_METRIC,
            "{token}",
            "Tokens that a signal was billed for",
            explicit_bucket_boundaries_advisory=SIGNAL_TOKENS,
        )
        self._signal_share = meter.create_histogram(
            names.SIGNAL_SHARE_METRIC,
            "1",
            "Share of its limit that a signal used",
            explicit_bucket_boundaries_advisory=SHARES,
        )
        self._first_answer_s = meter.create_histogram(
            names.FIRST_ANSWER_METRIC,
            "s",
            "Time from the start of a request to the first token of its answer",
            explicit_bucket_boundaries_advisory=SECONDS,
        )
        self._signals_cut = meter.create_counter(names.SIGNALS_CUT_METRIC, "{signal}", "Signals cut off by a limit")
        self._decisions = meter.create_counter(names.GATE_DECISIONS_METRIC, "{decision}", "Decisions of gates")
        self._fallbacks = meter.create_counter(names.FALLBACKS_METRIC, "{fallback}", "Stages taken over by another")
        self._retries = meter.create_counter(names.RETRIES_METRIC, "{retry}", "Stages that started over")
        self._refusals = meter.create_counter(names.REFUSALS_METRIC, "{request}", "Requests ended by a limit")
        self._cost = meter.create_counter(names.COST_METRIC, "USD", "Money spent on attempts of known price")
        self._discarded = meter.create_counter(names.DISCARDED_METRIC, "{token}", "Tokens that are in no reply")
        self._overlap = meter.create_counter(names.OVERLAP_METRIC, "{token}", "Output tokens no longer needed")

    def attempt_ended(self, record: Attempt, call: Facts, context: Context | None) -> None:
        """Tokens, time and money of one attempt; unreported tokens are left out, as the conventions require.

        Args:
            record: the attempt.
            call: operation, provider, model and server.
            context: of the attempt's span, for exemplars.
        """
        facts: Facts = {**call, names.STAGE: record.stage}
        if record.usage.total_tokens and not record.usage.estimated:
            used = self._token_usage
            used.record(record.usage.input_tokens, {**facts, names.TOKEN_TYPE: "input"}, context)
            used.record(record.usage.output_tokens, {**facts, names.TOKEN_TYPE: "output"}, context)
        if record.first_token_s is not None:
            self._first_chunk_s.record(record.first_token_s, facts, context)
        if record.usd:
            spent: Facts = {
                names.STAGE: record.stage,
                names.REQUEST_MODEL: call[names.REQUEST_MODEL],
                names.COST_ESTIMATED: record.usage.estimated,
            }
            self._cost.add(float(record.usd), spent, context)
        if record.overlap_tokens:
            self._overlap.add(record.overlap_tokens, {names.STAGE: record.stage}, context)
        if record.error_type is not None:
            facts[names.ERROR_TYPE] = record.error_type
        self._operation_s.record(record.duration_s, facts, context)

    def decided(self, facts: Facts) -> None:
        """A gate said whether the reasoner is asked."""
        self._decisions.add(1, facts)

    def signalled(self, signal: Signal) -> None:
        """A signal is complete."""
        self._signal_tokens.record(signal.tokens)
        if signal.limit:
            self._signal_share.record(signal.tokens / signal.limit)
        if signal.truncated:
            self._signals_cut.add(1)

    def retried(self, facts: Facts) -> None:
        """A stage starts over."""
        self._retries.add(1, facts)

    def fell_back(self, facts: Facts) -> None:
        """Another rung of the ladder takes over."""
        self._fallbacks.add(1, facts)

    def refused(self, facts: Facts) -> None:
        """A limit ended a request."""
        self._refusals.add(1, facts)

    def request_ended(self, draft: Draft, facts: Facts, context: Context | None) -> None:
        """A request is over; ``facts`` are mode, who served it, and how it ended."""
        self._workflow_s.record(draft.budget.elapsed_s(), facts, context)
        if draft.account.first_answer_s is not None:
            self._first_answer_s.record(draft.account.first_answer_s, facts, context)
        for attempt in draft.account.attempts:
            if attempt.discarded and attempt.usage.total_tokens:
                self._discarded.add(attempt.usage.total_tokens, {names.STAGE: attempt.stage}, context)
