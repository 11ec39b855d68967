"""A DUET pair as a pydantic-ai `Model`."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from pydantic_ai import messages as pai
from pydantic_ai.models import Model, ModelRequestParameters, StreamedResponse, check_allow_model_requests
from pydantic_ai.profiles import ModelProfile, ModelProfileSpec
from pydantic_ai.settings import ModelSettings, ToolOrOutput
from pydantic_ai.tools import ToolDefinition

from duet_pydantic_ai.history import to_duet
from duet_pydantic_ai.response import DuetStreamedResponse, response_of, told_as_theirs
from duet_sdk import AsyncDuetClient, Budget, Sampling
from duet_sdk.gate import Gate
from duet_sdk.policies import SignalScope
from duet_sdk.types import Json, Mode


class DuetModelSettings(ModelSettings, total=False):
    """What a request to a pair can set in addition to ``max_tokens``, ``temperature``, ``tool_choice``, …."""

    duet_budget: Budget
    """Limits of the request; ``max_tokens`` is its ``answer_tokens`` where it names none."""
    duet_mode: Mode
    duet_gate: str | Gate
    duet_session: str
    duet_user: str
    duet_tenant: str
    duet_scopes: Sequence[str]
    duet_metadata: Json
    duet_boundary: str | Sequence[str]
    duet_signal_scope: SignalScope
    duet_reasoner_params: Sampling
    duet_generator_params: Sampling


class DuetModel(Model[AsyncDuetClient]):
    """A pair behind an `Agent`: its signal is a `ThinkingPart`, its ``provider_details`` are `Reply.summary`.

    Args:
        client: the pair; it stays the caller's to close.
        settings: defaults of every request.
        profile: what pydantic-ai is to know of the generator.
    """

    system, provider, model_name = "duet", None, ""
    _unsupported_file_inputs = frozenset({"document", "audio", "video"})
    _relocates_tool_files = True
    unsupported_settings = frozenset({"extra_body", "extra_headers", "frequency_penalty", "logit_bias", "max_retries"})
    unsupported_settings |= {"parallel_tool_calls", "presence_penalty", "service_tier", "timeout"}

    def __init__(
        self,
        client: AsyncDuetClient,
        *,
        settings: DuetModelSettings | None = None,
        profile: ModelProfileSpec | None = None,
    ) -> None:
        super().__init__(settings=settings, profile=profile)
        self.client, self.model_name = client, "+".join(client.models[stage] for stage in ("reasoner", "generator"))

    def _provider_model_profile(self) -> ModelProfile:
        return ModelProfile(supports_json_schema_output=True)

    async def request(
        self,
        messages: list[pai.ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
    ) -> pai.ModelResponse:
        """Answer in one piece.

        Raises:
            ModelAPIError: a model failed and nothing took over; of the kind that says how.
            DuetError: a limit is used up, or the request cannot be answered as it stands.
        """
        options, _ = self._options(messages, model_settings, model_request_parameters)
        with told_as_theirs(self.model_name):
            return response_of(await self.client.chat(**options), self.model_name)

    @asynccontextmanager
    async def request_stream(
        self,
        messages: list[pai.ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
        run_context: Any = None,
    ) -> AsyncGenerator[StreamedResponse]:
        """Answer piece by piece; leaving ends both stages. Raises as `request`, while it is read."""
        options, parameters = self._options(messages, model_settings, model_request_parameters)
        async with self.client.stream(**options) as run:
            yield DuetStreamedResponse(parameters, self.model_name, run)

    def _options(
        self, messages: list[pai.ModelMessage], settings: ModelSettings | None, parameters: ModelRequestParameters
    ) -> tuple[dict[str, Any], ModelRequestParameters]:
        check_allow_model_requests()
        merged, parameters = self.prepare_request(settings, parameters)
        given: dict[str, Any] = dict(merged or {})
        options = {key.removeprefix("duet_"): value for key, value in given.items() if key.startswith("duet_")}
        options |= {key: given.get(key) for key in ("temperature", "top_p", "top_k", "seed")}
        options |= {"stop": given.get("stop_sequences"), "response_format": _response_format(parameters)}
        options["budget"] = options.get("budget", Budget()).over(Budget(answer_tokens=given.get("max_tokens")))
        options["tools"], options["tool_choice"] = _tools(given.get("tool_choice"), parameters)
        options["messages"] = to_duet(messages, self._get_instruction_parts(messages, parameters))
        return options, parameters


def _tools(wanted: Any, parameters: ModelRequestParameters) -> tuple[list[Json], str | None]:
    """The tools that may be called, and whether one has to be."""
    output = {tool.name for tool in parameters.output_tools}
    names, choice = set(parameters.declared_tool_defs), "auto" if parameters.allow_text_output else "required"
    match wanted:
        case "required":
            choice = "required"
        case "none" | []:
            names = output
        case ToolOrOutput():
            names = {*wanted.function_tools, *output}
        case list():
            names, choice = set(wanted), "required"
    tools = [_function(tool) for name, tool in parameters.declared_tool_defs.items() if name in names]
    return tools, choice if tools else None


def _function(tool: ToolDefinition) -> Json:
    told = {"name": tool.name, "description": tool.description or "", "parameters": tool.parameters_json_schema}
    # A server holds a model to the schema where it is told so, and only there.
    return {"type": "function", "function": told if tool.strict is None else {**told, "strict": tool.strict}}


def _response_format(parameters: ModelRequestParameters) -> Json | None:
    if (output := parameters.output_object) is None or parameters.output_mode != "native":
        return None
    schema = {"name": output.name or "answer", "schema": output.json_schema, "strict": output.strict is not False}
    return {"type": "json_schema", "json_schema": schema}
