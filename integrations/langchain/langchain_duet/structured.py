"""Tools and schemas → what a request carries, and what reads the answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Any, Literal, TypeAlias

from langchain_core.messages import AIMessage
from langchain_core.output_parsers import JsonOutputParser, PydanticOutputParser
from langchain_core.output_parsers.openai_tools import JsonOutputKeyToolsParser, PydanticToolsParser
from langchain_core.runnables import Runnable, RunnableMap, RunnablePassthrough
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_json_schema, convert_to_openai_tool
from langchain_core.utils.pydantic import TypeBaseModel, is_basemodel_subclass

from duet_sdk import InvalidRequest

Tool: TypeAlias = "dict[str, Any] | type | Callable[..., Any] | BaseTool"
ToolChoice: TypeAlias = "dict[str, Any] | str | bool | None"
Schema: TypeAlias = "dict[str, Any] | type"
Method: TypeAlias = Literal["json_schema", "function_calling", "json_mode"]


def tool_options(
    tools: Sequence[Tool], *, choice: ToolChoice, strict: bool | None, parallel: bool | None
) -> dict[str, Any]:
    """What a call carries so that it can use the tools.

    Args:
        tools: functions, classes, LangChain's tools, or schemas of OpenAI's or Anthropic's form.
        choice: a tool's name, ``"any"`` or True for whichever, ``"auto"``, ``"none"``, or OpenAI's own form.
        strict: whether servers that know it hold arguments to their schema.
        parallel: False for one call in a turn, where the server knows how.

    Raises:
        InvalidRequest: the choice names none of the tools.
    """
    formatted = [convert_to_openai_tool(tool, strict=strict) for tool in tools]
    options: dict[str, Any] = {"tools": formatted}
    if (chosen := _choice(choice, [tool["function"]["name"] for tool in formatted])) is not None:
        options["tool_choice"] = chosen
    if parallel is not None:
        options["parallel_tool_calls"] = parallel
    return options


def _choice(choice: ToolChoice, names: Sequence[str]) -> dict[str, Any] | str | None:
    if choice is None or choice is False or isinstance(choice, dict):
        return choice or None
    if choice is True or choice in ("any", "required"):
        return "required"
    if choice in ("auto", "none"):
        return choice
    if choice not in names:
        raise InvalidRequest(f"tool_choice names {choice!r}; the tools are {', '.join(names)}")
    return {"type": "function", "function": {"name": choice}}


def structured_options(schema: Schema, *, method: Method, strict: bool | None) -> dict[str, Any]:
    """What a call carries so that its answer has that form."""
    traced: dict[str, Any] = {"kwargs": {"method": method, "strict": strict}, "schema": schema_of(schema)}
    if method == "function_calling":
        tools = tool_options([schema], choice=True, strict=strict, parallel=False)
        name = tools["tools"][0]["function"]["name"]
        named = {"type": "function", "function": {"name": name}}
        return {**tools, "tool_choice": named, "ls_structured_output_format": traced}
    if method == "json_mode":
        return {"response_format": {"type": "json_object"}, "ls_structured_output_format": traced}
    function = convert_to_openai_tool(schema, strict=strict)["function"]
    wanted: dict[str, Any] = {"name": function["name"], "schema": function["parameters"]}
    if strict is not None:
        wanted["strict"] = strict
    return {
        "response_format": {"type": "json_schema", "json_schema": wanted},
        "ls_structured_output_format": traced,
    }


def schema_of(schema: Schema) -> dict[str, Any]:
    """The JSON schema, as traces show it."""
    return convert_to_json_schema(schema)


def structured_parser(schema: Schema, *, method: Method) -> Runnable[AIMessage, Any]:
    """What reads the answer: an instance where the schema is a pydantic class, else a dict."""
    model: TypeBaseModel | None = schema if isinstance(schema, type) and is_basemodel_subclass(schema) else None
    if method == "function_calling":
        if model is not None:
            return PydanticToolsParser(tools=[model], first_tool_only=True)
        name = convert_to_openai_tool(schema)["function"]["name"]
        return JsonOutputKeyToolsParser(key_name=name, first_tool_only=True)
    return PydanticOutputParser(pydantic_object=model) if model is not None else JsonOutputParser()


def with_raw(answering: Runnable[Any, AIMessage], parser: Runnable[AIMessage, Any]) -> Runnable[Any, dict[str, Any]]:
    """Message, parsed value and the error that stopped the parsing, if one did, in one dict."""
    parsed = RunnablePassthrough.assign(parsed=itemgetter("raw") | parser, parsing_error=lambda _: None)
    failed = RunnablePassthrough.assign(parsed=lambda _: None)
    return RunnableMap(raw=answering) | parsed.with_fallbacks([failed], exception_key="parsing_error")
