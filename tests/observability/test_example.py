"""The program of the documentation, run as it stands: what it prints is what the tool has."""

from __future__ import annotations

import re
from decimal import Decimal

from program import run_example, trace_of
from tools import Tool, read_back


def test_the_example_s_figures_are_those_of_the_tool(tool: Tool) -> None:
    printed = run_example(tool)
    reasoner, generator, together, sent = printed

    found = read_back(tool, trace_of(printed), lambda trace: len(trace.spans) == 4 and trace.all_priced)

    said = [
        re.fullmatch(r"(\w+): (\d+) \+ (\d+) tokens, ([\d.]+) USD", line).groups() for line in (reasoner, generator)
    ]
    assert [(stage, int(prompt), int(output), Decimal(usd)) for stage, prompt, output, usd in said] == [
        (span.stage, span.input_tokens, span.output_tokens, span.usd) for span in found.spans[2:]
    ]
    assert together.startswith(f"together: {found.total_tokens} tokens, {found.usd} USD")
    assert sent == "all sent: True"
