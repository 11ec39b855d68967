"""The report of a run: what it shows, that it stands alone, and that nothing in a run can get out of its text."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path

import pytest

from duet_sdk.errors import TrainingError
from duet_sdk.trainer.report import render_report, write_report

HOSTILE = "</td><script>alert(1)</script><img src=x onerror=alert(1)>\"'&]]>\x00"


def lines(path: Path, rows: list[dict[str, object]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def measures(rounds: int) -> list[dict[str, object]]:
    train = [
        {
            "round": at, "phase": "train", "guided": 0.9, "alone": None, "utility": None, "tokens_mean": 41.0 - at / 10,
            "tokens_p50": 40.0, "tokens_p95": 50.0, "empty": 0.0, "cut": 0.0, "leak_rate": 0.5, "reward": 0.8,
            "zero_variance": 0.25, "lam": 0.0, "alpha": 0.3, "entropy": 0.4, "kl": 0.001, "loss_reasoner": 0.01,
        }
        for at in range(1, rounds + 1)
    ]  # fmt: skip
    validation = [
        {"round": 0, "phase": "validation", "guided": 0.95, "alone": 0.125, "utility": 0.825, "tokens_mean": 40.0},
        {
            "round": rounds,
            "phase": "validation",
            "guided": 0.96,
            "alone": 0.25,
            "utility": 0.71,
            "tokens_mean": 10.0,
            "unread": 0.5,
            "faults": 0.0,
        },
    ]
    return [*train, *validation]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "first run"
    folder.mkdir()
    lines(folder / "metrics.jsonl", measures(100))
    lines(folder / "decisions.jsonl", [{"kind": "warning", "what": "entropy is 0.01", "round": 17}])
    lines(folder / "samples.jsonl", [{"round": 3, "question": "2 + 2?", "signal": "sum: 4", "tokens": 5, "grade": 1.0}])
    (folder / "config.json").write_text('{"seed": 7}')
    return folder


class Elements(HTMLParser):
    """Collects elements and attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.names: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        self.attributes += attrs


def test_a_page_has_curves_figures_decisions_samples_and_configuration(run):
    page = write_report(run).read_text(encoding="utf-8")
    assert (run / "report.html").is_file()
    for words in (
        "<h1>first run</h1>",
        "100 rounds",
        "First and last validation",
        "Answers that could not be read or graded",
        "-75.0%",
        "entropy is 0.01",
        "sum: 4",
    ):
        assert words in page
    # First and last value, and the change of accuracy without a signal.
    assert "<td>0.125</td><td>0.25</td><td>+0.125</td>" in page
    assert "&quot;seed&quot;: 7" in page
    for title in ("Accuracy", "Signal tokens", "Utility", "Groups without variance", "Entropy of the reasoner"):
        assert f"<figcaption>{title}</figcaption>" in page


def test_curves_follow_the_measures(run):
    lines(run / "metrics.jsonl", [{"round": 1, "tokens_mean": 40.0}, {"round": 3, "tokens_mean": 0.0}])
    page = render_report(run)
    assert page.count("<figure>") == 1
    # From the top of the axis (40) on its left end to the bottom (0) on its right.
    assert 'points="48.0,8.0 412.0,186.0"' in page
    assert "<b>0</b>" in page


def test_a_page_fetches_and_runs_nothing(run):
    found = Elements(render_report(run))
    assert not {"script", "link", "img", "iframe", "object", "embed", "form", "base"} & set(found.names)
    assert not [
        name for name, _ in found.attributes if name in ("src", "href", "srcset", "style") or name.startswith("on")
    ]
    assert "default-src 'none'" in dict(found.attributes)["content"] or "default-src 'none'" in render_report(run)


def test_hostile_text_stays_text(run):
    lines(run / "decisions.jsonl", [{"kind": HOSTILE, "what": HOSTILE, "round": HOSTILE}])
    lines(run / "samples.jsonl", [{"round": 1, "question": HOSTILE, "signal": [HOSTILE], "answer": {HOSTILE: HOSTILE}}])
    (run / "config.json").write_text(json.dumps({HOSTILE: HOSTILE}))
    hostile_name = run.rename(run.with_name("<script>run&"))
    page = render_report(hostile_name)
    found = Elements(page)
    assert "script" not in found.names
    assert "img" not in found.names
    assert "alert(1)" in page


def test_odd_measures_are_left_out(run):
    odd = [None, "many", True, {"a": 1}, float("inf")]
    rows = [{"round": at, "tokens_mean": value} for at, value in enumerate(odd)]
    lines(
        run / "metrics.jsonl",
        [*rows, {"round": "x", "tokens_mean": 1.0}, {"tokens_mean": 2.0}, {"round": 9, "tokens_mean": 5}],
    )
    page = render_report(run)
    assert page.count("<circle") == 1
    assert "round 9: 5" in page


def test_a_half_written_last_line_is_passed_over(run):
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"round": 101, "tok')
    assert "100 rounds" in render_report(run)


def test_long_runs_and_long_texts_make_a_page_of_bounded_size(run):
    lines(run / "metrics.jsonl", measures(20_000))
    lines(run / "samples.jsonl", [{"round": at, "question": "word " * 20_000} for at in range(100)])
    page = render_report(run)
    assert len(page) < 1_000_000
    assert "The latest 40 of 100" in page
    assert "more characters" in page


@pytest.mark.parametrize("content", [None, "", "not json\n"])
def test_a_folder_without_measures_is_refused(tmp_path, content):
    if content is not None:
        (tmp_path / "metrics.jsonl").write_text(content)
    with pytest.raises(TrainingError, match="holds no measures yet"):
        render_report(tmp_path)


def test_a_run_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(TrainingError, match="there is no folder .*; name the output folder"):
        render_report(tmp_path / "nothing")


def test_a_page_that_cannot_be_written_says_so(run, tmp_path):
    with pytest.raises(TrainingError, match="cannot be written to"):
        write_report(run, tmp_path / "no" / "such" / "folder.html")
