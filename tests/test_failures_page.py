"""The page on failures: every label of its table is one that replies have, and each is made to happen."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, get_args
from xml.etree import ElementTree

import pytest

from duet_sdk import ConnectFailed, DuetClient, FailurePolicy, Retry
from duet_sdk.backends.scripted import Script, Scripted
from duet_sdk.cache import MemorySignalCache
from duet_sdk.types import ServedBy

DOCS = Path(__file__).parents[1] / "docs"
PAGE = (DOCS / "failures.md").read_text(encoding="utf-8")
ONCE = Retry(attempts=1)
WHOLE = ("scripted/17", "scripted/There are 17.")


def down() -> Scripted:
    return Scripted(Script(error=ConnectFailed("no connection", backend="scripted", model="lines")))


CASES: dict[str, tuple[tuple[Any, Any], dict[str, Any], dict[str, Any], str]] = {
    "pair": (WHOLE, {}, {}, "from the reasoner's signal"),
    "pair_cut": (("scripted/17. By sieving", WHOLE[1]), {}, {"budget": {"signal_tokens": 2}}, "limit was 2 tokens"),
    "cache": (WHOLE, {"signal_cache": MemorySignalCache()}, {}, "the cache had kept"),
    "generator": (WHOLE, {"gate": "heuristic"}, {}, "the gate 'heuristic' did not ask"),
    "reasoner": (WHOLE, {}, {"mode": "reasoner"}, "only the reasoner was asked"),
    "generator_fallback": ((down(), WHOLE[1]), {"retry": ONCE}, {}, "no signal, .*: no connection"),
    "reasoner_fallback": ((WHOLE[0], down()), {"retry": ONCE}, {}, "no generator answered, .*: no connection"),
    "fallback_pair": (
        (down(), WHOLE[1]),
        {"on_failure": FailurePolicy(retry=ONCE, fallback_pair=WHOLE)},
        {},
        "fallback pair answered: .*: no connection",
    ),
}


def section(heading: str) -> str:
    return PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]


def test_the_table_has_every_label_once() -> None:
    listed = re.findall(r"^\| `(\w+)` \|", section("Who answered"), re.M)
    assert listed.pop(0) == "served_by"
    assert sorted(listed) == sorted(get_args(ServedBy)) == sorted(CASES)


@pytest.mark.parametrize("label", CASES)
def test_each_label_is_a_replys_and_its_reason_is_told(label: str) -> None:
    pair, client, call, words = CASES[label]
    with DuetClient(*pair, **client) as duet:
        if label == "cache":
            duet.chat("How many?")
        reply = duet.chat("How many?", **call)
    assert reply.served_by == label
    assert re.search(words, reply.why)


def test_the_picture_is_there_and_says_in_words_what_it_shows() -> None:
    (name,) = re.findall(r"^!\[.+\]\((.+\.svg)\)$", PAGE, re.M)
    picture = ElementTree.fromstring((DOCS / name).read_text(encoding="utf-8"))
    told = picture.findtext("{http://www.w3.org/2000/svg}desc") or ""
    assert {label for label in get_args(ServedBy) if "fallback" in label} <= set(re.findall(r"\w+", told))
