"""What an answer lacks of the form that its request demands."""

import pytest

from duet_sdk.answer_form import strict_tools, unmet
from duet_sdk.request import Request
from duet_sdk.types import Message, ToolCall

ADD = {
    "type": "function",
    "function": {
        "name": "add",
        "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]},
    },
}
SHAPE = {
    "type": "json_schema",
    "json_schema": {
        "name": "city",
        "schema": {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]},
    },
}
NAMED = {"type": "function", "function": {"name": "add"}}


def request(**demands):
    return Request(messages=(Message("user", "q"),), **demands)


@pytest.mark.parametrize(
    ("choice", "calls", "problem"),
    [
        ("required", (), "no tool was called"),
        (NAMED, (), "the tool add was not called"),
        ("required", (ToolCall("1", "sub", "{}"),), "sub was called; the tools are add"),
        (NAMED, (ToolCall("1", "sub", "{}"),), "sub was called; call add"),
        ("required", (ToolCall("1", "add", '{"a": '),), "the arguments of add are not JSON"),
        (
            "required",
            (ToolCall("1", "add", '{"a": "x"}'),),
            "the arguments of add do not match its schema: $.a: 'x' is not of type",
        ),
        (
            "required",
            (ToolCall("1", "add", ""),),
            "the arguments of add do not match its schema: $: 'a' is a required property",
        ),
    ],
)
def test_a_demanded_tool_call_must_be_there_and_fit(choice, calls, problem):
    assert (unmet(request(tools=(ADD,), tool_choice=choice), "text", calls) or "").startswith(problem)


@pytest.mark.parametrize("choice", ["required", NAMED])
def test_a_call_that_fits_lacks_nothing(choice):
    assert unmet(request(tools=(ADD,), tool_choice=choice), "", (ToolCall("1", "add", '{"a": 1}'),)) is None


@pytest.mark.parametrize("choice", [None, "auto", "none"])
def test_where_no_call_is_demanded_text_will_do(choice):
    assert unmet(request(tools=(ADD,), tool_choice=choice), "text", ()) is None


@pytest.mark.parametrize(
    ("shape", "text", "problem"),
    [
        (SHAPE, "Paris", "the answer must be JSON, with nothing before or after it"),
        (SHAPE, '```json\n{"name": "Paris"}\n```', "the answer must be JSON, with nothing before or after it"),
        (SHAPE, '{"name": 1}', "$.name: 1 is not of type 'string'"),
        (SHAPE, "{}", "$: 'name' is a required property"),
        ({"type": "json_object"}, "[1]", "$: [1] is not of type 'object'"),
    ],
)
def test_a_demanded_form_must_be_kept(shape, text, problem):
    assert unmet(request(response_format=shape), text, ()) == problem


@pytest.mark.parametrize(
    ("shape", "text"),
    [
        (SHAPE, '{"name": "Paris"}'),
        ({"type": "json_object"}, "{}"),
        ({"type": "text"}, "anything"),
        ({"type": "json_schema", "json_schema": {"name": "odd", "schema": {"type": "nothing known"}}}, "1"),
        (None, "anything"),
    ],
)
def test_an_answer_of_the_demanded_form_lacks_nothing(shape, text):
    assert unmet(request(response_format=shape), text, ()) is None


def test_a_reference_in_a_schema_fetches_nothing():
    schema = {"$ref": "http://127.0.0.1:9/schema.json"}
    shape = {"type": "json_schema", "json_schema": {"name": "far", "schema": schema}}
    assert unmet(request(response_format=shape), "1", ()) is None


@pytest.mark.parametrize("choice", ["required", NAMED])
def test_tools_of_which_one_must_be_called_say_strict(choice):
    (tool,) = strict_tools(request(tools=(ADD,), tool_choice=choice))
    assert tool == {"type": "function", "function": {**ADD["function"], "strict": True}}
    assert "strict" not in ADD["function"]


@pytest.mark.parametrize("choice", [None, "auto", "none"])
def test_tools_that_may_be_called_stay_as_they_are(choice):
    assert strict_tools(request(tools=(ADD,), tool_choice=choice)) == (ADD,)


def test_a_tool_that_says_not_strict_stays_so():
    loose = {"type": "function", "function": {**ADD["function"], "strict": False}}
    assert strict_tools(request(tools=(loose,), tool_choice="required")) == (loose,)


def wanted(schema):
    return request(response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": schema}})


def test_a_pattern_takes_an_answer_linear_time():
    slow = wanted({"type": "string", "pattern": "^(a+)+$"})
    assert "does not match" in unmet(slow, '"' + "a" * 5000 + '!"', ())
    assert unmet(slow, '"aaa"', ()) is None
    names = wanted({"patternProperties": {"^(a+)+$": {"type": "integer"}}, "additionalProperties": False})
    assert "has other properties than allowed: aaaa" in unmet(names, '{"' + "a" * 60 + '!": 1}', ())
    assert "is not of type 'integer'" in unmet(names, '{"aa": "x"}', ())
    assert unmet(names, '{"aa": 1}', ()) is None
    others = wanted({"properties": {"a": {}}, "additionalProperties": {"type": "integer"}})
    assert "$.b" in unmet(others, '{"a": "x", "b": "x"}', ())


@pytest.mark.parametrize(
    "schema", [{"pattern": "("}, {"pattern": "(?=x)"}, {"type": "nothing"}, {"enum": 3}, {"$schema": []}, None, "x"]
)
def test_what_is_no_schema_forbids_nothing(schema):
    assert unmet(wanted(schema), '"a"', ()) is None


@pytest.mark.parametrize("form", [None, "x", {}])
def test_a_form_without_a_schema_asks_for_json(form):
    bare = request(response_format={"type": "json_schema", "json_schema": form})
    assert (unmet(bare, "1", ()), bool(unmet(bare, "x", ()))) == (None, True)


@pytest.mark.parametrize("choice", [{"type": "function"}, {"function": None}, {"function": "add"}])
def test_a_choice_that_names_no_tool_is_any_tool(choice):
    asked = request(tools=(ADD,), tool_choice=choice)
    assert unmet(asked, "", (ToolCall("1", "add", '{"a": 1}'),)) is None
    assert unmet(asked, "", ()) == "no tool was called"
