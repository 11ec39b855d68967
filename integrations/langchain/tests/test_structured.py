"""Answers of one form: three methods, on servers with a grammar and without."""

from __future__ import annotations

import json

import pytest
from langchain_core.exceptions import OutputParserException
from pairs import calls, pair
from pydantic import BaseModel, ValidationError
from typing_extensions import TypedDict

from duet_sdk import Budget, InvalidRequest, Retry


class City(BaseModel):
    """A city."""

    name: str
    people: int


class CityDict(TypedDict):
    """A city."""

    name: str
    people: int


PARIS = '{"name": "Paris", "people": 2}'


def test_a_schema_goes_to_the_generators_server_alone():
    model, reasoner, generator = pair("notes", PARIS)
    assert model.with_structured_output(City).invoke("q") == City(name="Paris", people=2)
    asked = generator.calls[0].response_format
    assert (asked["type"], asked["json_schema"]["name"]) == ("json_schema", "City")
    assert asked["json_schema"]["schema"]["required"] == ["name", "people"]
    assert reasoner.calls[0].response_format is None


def test_a_tool_can_carry_the_answer():
    model, _, generator = pair("notes", calls("City", PARIS))
    assert model.with_structured_output(City, method="function_calling").invoke("q") == City(name="Paris", people=2)
    assert generator.calls[0].tool_choice == {"type": "function", "function": {"name": "City"}}
    assert generator.calls[0].sampling.extra_body == {"parallel_tool_calls": False}


def test_json_mode_leaves_the_keys_to_the_prompt():
    model, _, generator = pair("notes", PARIS)
    assert model.with_structured_output(City, method="json_mode").invoke("q") == City(name="Paris", people=2)
    assert generator.calls[0].response_format == {"type": "json_object"}


@pytest.mark.parametrize("method", ["json_schema", "function_calling", "json_mode"])
@pytest.mark.parametrize("schema", [CityDict, City.model_json_schema()])
def test_a_schema_without_a_class_gives_a_dict(method, schema):
    answer = calls("CityDict" if schema is CityDict else "City", PARIS) if method == "function_calling" else PARIS
    model, *_ = pair("notes", answer)
    assert model.with_structured_output(schema, method=method).invoke("q") == json.loads(PARIS)


def test_strict_goes_to_servers_that_know_it():
    model, _, generator = pair("notes", PARIS)
    model.with_structured_output(City, strict=True).invoke("q")
    asked = generator.calls[0].response_format["json_schema"]
    assert (asked["strict"], asked["schema"]["additionalProperties"]) == (True, False)


def test_an_answer_that_no_grammar_held_is_asked_for_once_more():
    model, _, generator = pair("notes", "It is Paris.", PARIS)
    assert model.with_structured_output(City).invoke("q") == City(name="Paris", people=2)
    assert len(generator.calls) == 2


@pytest.mark.filterwarnings("ignore::duet_sdk.errors.DegradedWarning")
def test_a_tool_that_was_not_called_is_asked_for_once_more():
    model, _, generator = pair("notes", "It is Paris.", calls("City", '{"name": "Paris"}'), calls("City", PARIS))
    message = model.bind_tools([City], tool_choice="any").invoke("q")
    assert [call["args"] for call in message.tool_calls] == [{"name": "Paris"}]
    assert len(generator.calls) == 2


@pytest.mark.filterwarnings("ignore::duet_sdk.errors.DegradedWarning")
@pytest.mark.parametrize(
    ("method", "error"), [("json_schema", OutputParserException), ("json_mode", OutputParserException)]
)
def test_a_second_answer_that_is_no_better_is_the_parsers_error(method, error):
    model, *_ = pair("notes", "no", "no")
    with pytest.raises(error):
        model.with_structured_output(City, method=method).invoke("q")


@pytest.mark.filterwarnings("ignore::duet_sdk.errors.DegradedWarning")
def test_a_second_call_that_is_no_better_is_the_parsers_error():
    model, *_ = pair("notes", calls("City", '{"name": "Paris"}'))
    with pytest.raises(ValidationError, match="people"):
        model.with_structured_output(City, method="function_calling").invoke("q")


@pytest.mark.filterwarnings("ignore::duet_sdk.errors.DegradedWarning")
def test_the_raw_message_comes_along():
    model, *_ = pair("notes", PARIS)
    both = model.with_structured_output(City, include_raw=True).invoke("q")
    assert (both["raw"].text, both["parsed"], both["parsing_error"]) == (PARIS, City(name="Paris", people=2), None)
    model, *_ = pair("notes", "no")
    both = model.with_structured_output(City, include_raw=True).invoke("q")
    assert (both["raw"].text, both["parsed"]) == ("no", None)
    assert isinstance(both["parsing_error"], OutputParserException)


def test_options_of_the_calls_can_be_given_along():
    model, reasoner, _ = pair("notes", PARIS)
    model.with_structured_output(City, budget=Budget(signal_tokens=5)).invoke("q")
    assert reasoner.calls[0].max_tokens == 5


def test_structured_output_streams_as_it_grows():
    model, *_ = pair("notes", '{"name": "Paris", "people": 2}')
    parts = list(model.with_structured_output(City.model_json_schema()).stream("q"))
    assert parts[0] == {}
    assert parts[-1] == {"name": "Paris", "people": 2}


@pytest.mark.parametrize(
    ("choice", "sent"),
    [
        ("any", "required"),
        (True, "required"),
        ("required", "required"),
        ("auto", "auto"),
        ("none", "none"),
        (None, None),
        (False, None),
        ("City", {"type": "function", "function": {"name": "City"}}),
        (
            {"type": "function", "function": {"name": "City"}},
            {"type": "function", "function": {"name": "City"}},
        ),
    ],
)
def test_every_way_to_choose_a_tool(choice, sent):
    model, _, generator = pair("notes", calls("City", PARIS), retry=Retry(attempts=1))
    model.bind_tools([City], tool_choice=choice).invoke("q")
    assert generator.calls[0].tool_choice == sent


def test_a_choice_of_no_tool_is_refused():
    model, *_ = pair()
    with pytest.raises(InvalidRequest, match="tool_choice names 'Town'; the tools are City"):
        model.bind_tools([City], tool_choice="Town")


def test_the_reasoner_is_told_which_tools_there_are():
    model, reasoner, generator = pair("notes", "x")
    model.bind_tools([City]).invoke("q")
    assert "City(name, people): A city." in reasoner.calls[0].messages[0].text
    assert (reasoner.calls[0].tools, len(generator.calls[0].tools)) == ((), 1)
