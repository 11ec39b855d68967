"""Python's types and functions in a request: what goes on the wire, and what the reply holds."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypedDict, get_args

import pytest
from pydantic import BaseModel, Field

from duet_sdk import AsyncDuetClient, DegradedWarning, DuetClient, Event, InvalidRequest, Reply, ToolCall
from duet_sdk.backends.scripted import Script, Scripted
from duet_sdk.reply import Receipt


class Town(BaseModel):
    name: str
    people: int


class TownDict(TypedDict):
    name: str
    people: int


@dataclass
class TownClass:
    name: str
    people: int


SAID = '{"name": "Bergen", "people": 291000}'


def ask(form: Any, *said: str, **options: Any) -> tuple[Reply, Any]:
    """The reply, and the response format that the generator was called with."""
    generator = Scripted(*said)
    with DuetClient(Scripted("a signal"), generator) as duet:
        reply = duet.chat("Which town?", response_format=form, **options)
    return reply, generator.calls[0].response_format


@pytest.mark.parametrize(
    ("form", "parsed"),
    [
        (Town, Town(name="Bergen", people=291000)),
        (TownDict, {"name": "Bergen", "people": 291000}),
        (TownClass, TownClass("Bergen", 291000)),
        (dict, {"name": "Bergen", "people": 291000}),
        (dict[str, Any], {"name": "Bergen", "people": 291000}),
    ],
)
def test_a_type_is_a_format_and_the_reply_holds_an_instance(form: Any, parsed: object) -> None:
    reply, sent = ask(form, SAID)
    assert reply.parsed == parsed
    assert sent["type"] in ("json_schema", "json_object")
    assert "response_format" not in reply.why
    assert json.loads(json.dumps(reply.to_dict()))["parsed"] == {"name": "Bergen", "people": 291000}


def test_the_schema_is_the_types_own() -> None:
    _, sent = ask(Town, SAID)
    assert sent["json_schema"]["name"] == "Town"
    assert sent["json_schema"]["schema"]["required"] == ["name", "people"]


def test_openais_own_form_is_passed_on_and_nothing_is_parsed() -> None:
    form = {"type": "json_object"}
    reply, sent = ask(form, SAID)
    assert sent == form
    assert reply.parsed is None


def test_an_answer_of_another_form_is_asked_for_again_and_then_said() -> None:
    with pytest.warns(DegradedWarning, match="response_format cannot be had"):
        reply, _ = ask(Town, '{"name": "Bergen"}', '{"name": "Bergen", "people": "many"}')
    assert reply.parsed is None
    assert "does not match response_format (people: " in reply.why
    assert "many" not in reply.why


def test_the_winner_of_several_answers_is_parsed() -> None:
    with DuetClient(Scripted("a signal"), Scripted(SAID)) as duet:
        reply = duet.chat("Which town?", response_format=Town, n=2, vote=lambda answers: 1)
    assert len(reply.answers) == 2
    assert reply.parsed == Town(name="Bergen", people=291000)


@pytest.mark.parametrize("form", [5, "json", [Town], Town(name="a", people=1), type("Odd", (), {})])
def test_what_has_no_schema_is_refused(form: Any) -> None:
    with pytest.raises(InvalidRequest, match=r"response_format must be|has no JSON schema"):
        ask(form, SAID)


def weather(town: Annotated[str, Field(description="its name")], unit: Literal["C", "F"] = "C") -> str:
    """The weather of a town.

    Not part of the description.
    """
    raise AssertionError("the SDK never calls a tool")


async def test_a_function_is_a_tool_and_is_not_called() -> None:
    generator = Scripted(Script("", tool_calls=(ToolCall("c1", "weather", '{"town": "Oslo"}'),)))
    async with AsyncDuetClient(Scripted("a signal"), generator) as duet:
        reply = await duet.chat("How is it in Oslo?", tools=[weather])
    assert [call.name for call in reply.tool_calls] == ["weather"]
    (tool,) = generator.calls[0].tools
    told = tool["function"]
    assert told["name"] == "weather"
    assert told["description"] == "The weather of a town."
    assert told["parameters"]["required"] == ["town"]
    assert told["parameters"]["properties"]["town"]["description"] == "its name"


@pytest.mark.parametrize("tool", [print, lambda *parts: parts, object()])
async def test_what_cannot_be_a_tool_is_refused(tool: Any) -> None:
    async with AsyncDuetClient("scripted/s", "scripted/a") as duet:
        with pytest.raises(
            InvalidRequest, match=r"has no JSON schema|must be ones that are given by name|must look like"
        ):
            await duet.chat("q", tools=[tool])


async def test_a_stream_of_text_alone() -> None:
    async with AsyncDuetClient("scripted/s", "scripted/There are 17.") as duet, duet.stream("q") as run:
        assert "".join([text async for text in run.text_stream]) == "There are 17."
    assert run.reply.text == "There are 17."


def test_a_stream_of_text_alone_without_an_event_loop() -> None:
    with DuetClient("scripted/s", "scripted/There are 17.") as duet, duet.stream("q") as run:
        assert "".join(run.text_stream) == "There are 17."
    assert run.reply.text == "There are 17."


def test_a_reply_is_printed_on_one_line() -> None:
    reply = Reply("a\nb" * 100)
    assert str(reply).startswith("Reply('a\\nba")
    assert len(str(reply)) < 250


def test_notebooks_show_replies_and_receipts_with_all_text_escaped() -> None:
    with DuetClient("scripted/<b>s</b>", "scripted/<script>x</script>") as duet:
        reply = duet.chat("q")
    shown = reply._repr_html_()
    assert "&lt;script&gt;" in shown
    assert "<script>" not in shown
    assert "<b>s</b>" not in shown
    assert shown.count("<tr>") == 3
    assert Receipt()._repr_html_().count("<tr>") == 1


def test_notebooks_show_every_event_with_all_text_escaped() -> None:
    with DuetClient("scripted/<b>s</b>", "scripted/<script>x</script>") as duet, duet.stream("q") as run:
        events = list(run)
    shown = [event._repr_html_() for event in events]
    assert {type(event).__name__ for event in events} >= {"GateDecided", "SignalDone", "AnswerDelta", "Done"}
    assert all(type(event).__name__ in one for event, one in zip(events[:-1], shown, strict=False))
    assert not any("<script>" in one or "<b>s</b>" in one for one in shown)
    assert shown[-1] == run.reply._repr_html_()
    assert all(callable(getattr(kind, "_repr_html_", None)) for kind in get_args(Event))
