"""The tables of ``duet.toml`` that say how DUET works: prices, limits, prompts, sampling.

Each checks its values as the class that it stands for does, so that an error names the place in the file.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Any, Self, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, model_validator

from duet_sdk.errors import ConfigError, InvalidRequest
from duet_sdk.policies import TRIGGERS, Budget, GateConfig, Progressive, Prompts, RunScope, Sampling, Trigger
from duet_sdk.pricing import GpuHour, Price, TokenPrice
from duet_sdk.types import GateName


class Section(BaseModel):
    """A table: unknown keys are refused, and errors do not quote values."""

    # Inputs may hold keys: a validation error must not quote them.
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


_Usd: TypeAlias = Annotated[Decimal, Field(ge=0)]


class PriceSettings(Section):
    """A price: by tokens, or by the hour of the hardware.

    >>> PriceSettings(gpu_hour_usd="2.50").to_price()
    GpuHour(usd=Decimal('2.50'))
    """

    input_usd: _Usd | None = None
    """USD for a million input tokens; needed for a price by tokens."""
    output_usd: _Usd | None = None
    """USD for a million output tokens; needed for a price by tokens."""
    cached_usd: _Usd | None = None
    """USD for a million cached input tokens; not set, they cost what other input costs, which is never too little."""
    gpu_hour_usd: _Usd | None = None
    """USD for an hour of the hardware, in place of the three above."""

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        self.to_price()
        return self

    def to_price(self) -> Price:
        """The price as the price book takes it."""
        tokens = (self.input_usd, self.output_usd, self.cached_usd)
        if self.gpu_hour_usd is not None and tokens == (None, None, None):
            return GpuHour(self.gpu_hour_usd)
        if self.gpu_hour_usd is None and self.input_usd is not None and self.output_usd is not None:
            return TokenPrice(self.input_usd, self.output_usd, self.cached_usd)
        raise ValueError("a price needs input_usd and output_usd, or gpu_hour_usd alone")


class BudgetSettings(Section):
    """Limits of every request; a request's own go over them. Fields, units and defaults are `duet_sdk.Budget`'s."""

    signal_tokens: int | None = None
    """Output tokens of the reasoner; 512 when not set, enough for a sketch of a hard question."""
    answer_tokens: int | None = None
    """Output tokens of an answer; 1024 when not set."""
    total_tokens: int | None = None
    """Input and output tokens of both stages; unlimited when not set, as the two above bound the output."""
    cost_usd: Decimal | None = None
    """USD of a request; unlimited when not set, as many prices are unknown."""
    deadline_s: float | None = None
    """Seconds of a request; unlimited when not set, as models differ too much."""
    signal_deadline_s: float | None = None
    """Seconds of its signal; 60 % of ``deadline_s`` when not set, so that the generator keeps its time."""

    @model_validator(mode="after")
    def _possible(self) -> Self:
        self.to_budget()
        return self

    def to_budget(self) -> Budget:
        """The limits as the client takes them."""
        try:
            return Budget(**self.model_dump())
        except InvalidRequest as error:
            raise ValueError(str(error)) from None


class RetrySettings(Section):
    """When a model that failed is called again; see `duet_sdk.backends.resilience.Retry`."""

    attempts: Annotated[int, Field(ge=1)] = 3
    """Calls of one model in all; three ride out a restart, 1 never tries again."""
    first_wait_s: Annotated[float, Field(ge=0)] = 0.5
    """Longest wait in seconds before the second call; it doubles with each further one."""
    longest_wait_s: Annotated[float, Field(ge=0)] = 20.0
    """Longest wait in seconds of our own choosing; a server may ask for more."""


class ScopeSettings(Section):
    """When the reasoner is asked again within an agent's run. Fields and defaults are those of `RunScope`.

    >>> ScopeSettings(most_calls=2).to_scope().most_calls
    2
    """

    ask_again_on: tuple[Trigger, ...] = TRIGGERS
    """``tool_error``, ``repeated_call``, ``invalid_call``, ``low_confidence``; all of them when not set."""
    after_tool_turns: Annotated[int, Field(ge=1)] | None = 8
    """Tool turns after which a signal counts as old; 8, so that a long run is planned anew now and then."""
    most_calls: Annotated[int, Field(ge=1)] = 4
    """How often the reasoner is asked in one run; 4, as a plan that fails so often needs somebody else."""

    def to_scope(self) -> RunScope:
        """The rules as the client takes them."""
        return RunScope(**self.model_dump())


class GateSettings(Section):
    """A gate with numbers of its own; see `duet_sdk.policies.GateConfig`."""

    policy: GateName
    """Which of the shipped gates."""
    threshold: float | None = None
    """The reasoner is asked at this score and above; not set, the calibration's or the gate's default."""
    first_tokens: int | None = None
    """``confidence``, ``race``: tokens of the generator's answer that are judged; likewise."""

    @model_validator(mode="after")
    def _possible(self) -> Self:
        self.to_gate()
        return self

    def to_gate(self) -> GateConfig:
        """The gate as the client takes it."""
        try:
            return GateConfig(self.policy, self.threshold, self.first_tokens)
        except ConfigError as error:
            raise ValueError(str(error)) from None


class ProgressiveSettings(Section):
    """Probes of the growing signal; fields, units and defaults are `duet_sdk.policies.Progressive`'s."""

    slice_tokens: int = 64
    """Tokens that the reasoner writes from one probe to the next; 64, as a probe costs a quarter of that."""
    threshold: float = 0.2
    """The signal suffices below this doubt of the generator; set your own, the default is not calibrated."""
    probe_tokens: int = 16
    """Tokens of the answer that a probe judges; 16 come past the opening words."""
    share: float = 0.5
    """Most output tokens of all probes, as a share of the reasoner's; half, as the generator's are the cheap ones."""
    most_probes: int = 8
    """Probes of one signal; 8, as each also reads the prompt."""

    @model_validator(mode="after")
    def _possible(self) -> Self:
        self.to_progressive()
        return self

    def to_progressive(self) -> Progressive:
        """The probes as the client takes them."""
        try:
            return Progressive(**self.model_dump())
        except ConfigError as error:
            raise ValueError(str(error)) from None


class PromptSettings(Section):
    """System prompts by stage, in place of DUET's own."""

    reasoner: str | None = None
    """``{signal_tokens}`` stands for the limit; DUET's own when not set."""
    generator: str | None = None
    """DUET's own when not set."""

    def to_prompts(self) -> Prompts:
        """The prompts as the client takes them."""
        return Prompts(self.reasoner, self.generator)


class SamplingSettings(Section):
    """How a stage samples; what is not set is the model's own default, as its makers know it best."""

    temperature: float | None = None
    """0 is greedy; at least 0."""
    top_p: float | None = None
    """In (0, 1]."""
    top_k: int | None = None
    """At least 1."""
    min_p: float | None = None
    """In [0, 1]."""
    seed: int | None = None
    """The same for every request."""
    stop: tuple[str, ...] | str = ()
    """Texts that end the output; they are not part of it."""
    logprobs: int | None = None
    """How many alternatives to report for each token, up to 20."""
    extra_body: dict[str, Any] | None = None
    """Passed on to a server as it is."""

    @model_validator(mode="after")
    def _possible(self) -> Self:
        self.to_sampling()
        return self

    def to_sampling(self) -> Sampling:
        """The values as the client takes them."""
        try:
            return Sampling(**self.model_dump())
        except InvalidRequest as error:
            raise ValueError(str(error)) from None
