#!/usr/bin/env bash
# Inspect's scorer `exact()`: "exact match" of an answer and a target.
#
# One would guess that the same text is correct, that a text with another meaning is not, and that whatever is forgiven
# (capitals, a full stop) is forgiven alike for each target.
# What happens: the answer "A" to the target "A" is incorrect, by exact() and by f1(), as "The" to "The" is; "B" to "B"
# is correct. A multiple-choice task with letters, balanced over A to D, gives 0.75 to a model that is always right. On
# the other side "-5" is exactly "5", "x < 5" is exactly "x > 5" and "not-known" is exactly "not known": minus signs
# separate words and comparison signs are punctuation. `match()` takes "+" for "-".
#
# Why: _normalize in inspect_ai/scorer/_classification.py splits at "-" before it looks for numbers, drops punctuation and
# the words a, an, the; max_exact_score skips a target of which nothing is left, so nothing can match it.
#
# inspect-ai 0.3.285, seen on 2026-11-30.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check "inspect-ai==0.3.285"
cat > "$folder/probe.py" <<'PY'
from importlib.metadata import version

from inspect_ai import Task, eval
from inspect_ai.dataset import Sample
from inspect_ai.model import ModelOutput, ModelUsage, get_model
from inspect_ai.scorer import exact, f1, match

print("inspect-ai", version("inspect-ai"))


def scored(pairs):
    """Run a task whose model gives the first text of each pair to a sample with the second as its target."""
    samples = [Sample(id=number, input="?", target=target) for number, (_, target) in enumerate(pairs, 1)]
    outputs = [ModelOutput.from_content("mockllm/model", answer) for answer, _ in pairs]
    for output in outputs:  # told, so that Inspect need not fetch a tokenizer to count them
        output.usage = ModelUsage(input_tokens=1, output_tokens=1, total_tokens=2)
    model = get_model("mockllm/model", custom_outputs=outputs)
    task = Task(dataset=samples, scorer=[exact(), f1(), match()])
    (log,) = eval(task, model=model, display="none", log_dir="logs", max_samples=1, max_connections=1)
    assert log.status == "success", log.error
    by_id = {sample.id: {name: score.value for name, score in sample.scores.items()} for sample in log.samples}
    means = {score.name: {name: metric.value for name, metric in score.metrics.items()} for score in log.results.scores}
    return [by_id[number] for number in range(1, len(pairs) + 1)], means["exact"]["mean"]


letters = [(letter, letter) for letter in "ABCD"]
same, mean = scored(letters)
for (answer, target), values in zip(letters, same, strict=True):
    print(f"answer {answer!r}, target {target!r}: {values}")
print("mean of exact() for a model that is always right:", mean)
assert [values["exact"] for values in same] == ["I", "C", "C", "C"]
assert [values["f1"] for values in same] == [0.0, 1.0, 1.0, 1.0]
assert mean == 0.75

others = [("-5", "5"), ("x < 5", "x > 5"), ("not-known", "not known"), ("6", "5"), ("+", "-")]
different, _ = scored(others)
for (answer, target), values in zip(others, different, strict=True):
    print(f"answer {answer!r}, target {target!r}: {values}")
assert [values["exact"] for values in different] == ["C", "C", "C", "I", "I"]
assert different[-1]["match"] == "C"
PY
cd "$folder" && venv/bin/python probe.py
