#!/usr/bin/env bash
# pip install "litellm[proxy]", with nothing pinned.
#
# One would guess that it installs the newest LiteLLM with what its proxy needs, as `pip install litellm` does without.
# What happens: since 1.108.8 or so each release's extra `proxy` pins companions to one exact version
# (litellm-enterprise==0.1.83.post1, litellm-proxy==1.110.2) that were never uploaded. pip goes back, release by
# release, to the last one whose companions exist, 1.108.7, and says nothing of it. `litellm[proxy]==1.110.2` is refused.
# The wheel of 1.110.2 itself holds the proxy: with the extra's other requirements installed by hand it starts and
# serves. Who tests "the current LiteLLM" through the extra tests a release that is weeks old.
#
# litellm 1.110.2 and 1.108.7, pip 23 to 25, seen on 2026-11-30. It stops being so once the companions are uploaded.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
pip=("$folder/venv/bin/pip" --disable-pip-version-check --no-input)

resolved() { # REQUIREMENT → the version of litellm that pip would install
  "${pip[@]}" install -q --dry-run --report "$folder/report.json" --no-deps "$1" 2>/dev/null
  python3 - "$folder/report.json" <<'PY'
import json
import sys

for item in json.load(open(sys.argv[1]))["install"]:
    if item["metadata"]["name"].lower() == "litellm":
        print(item["metadata"]["version"])
PY
}

echo "--- without the extra, at most 1.110.2"
plain=$(resolved "litellm<=1.110.2")
echo "litellm $plain"

echo "--- what the extra of 1.110.2 pins to one version, and whether the index has it"
python3 - "$folder/report.json" <<'PY' > "$folder/pins"
import json
import re
import sys

(item,) = json.load(open(sys.argv[1]))["install"]
for line in item["metadata"]["requires_dist"]:
    if "'proxy'" in line.replace('"', "'") and (pinned := re.match(r"(litellm[a-z-]*)==([^ ;]+)", line)):
        print(f"{pinned[1]}=={pinned[2]}")
PY
missing=0
while read -r pin; do
  if "${pip[@]}" download -q --no-deps -d "$folder/pins.d" "$pin" >/dev/null 2>&1; then
    echo "$pin: there"
  else
    echo "$pin: not there"
    missing=$((missing + 1))
  fi
done < "$folder/pins"

echo "--- with the extra, at most 1.110.2"
"${pip[@]}" install -q --dry-run --report "$folder/extra.json" "litellm[proxy]<=1.110.2" 2>/dev/null
extra=$(python3 - "$folder/extra.json" <<'PY'
import json
import sys

names = {item["metadata"]["name"].lower(): item["metadata"]["version"] for item in json.load(open(sys.argv[1]))["install"]}
print(names["litellm"])
PY
)
echo "litellm $extra"

test "$plain" = 1.110.2
test "$missing" -gt 0
test "$extra" != "$plain"
