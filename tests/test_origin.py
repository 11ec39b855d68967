"""An error that misses an extra says how to install it from where this package came: never a name that nobody released."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from duet_sdk.errors import MissingExtra

PIP = f"{sys.executable} -m pip install"


def message(folder: Path, origin: dict[str, Any] | None) -> str:
    """What the error says where the installed package has this origin on record (PEP 610)."""
    found = folder / "duet_sdk-0.1.0.dist-info"
    found.mkdir()
    (found / "METADATA").write_text("Metadata-Version: 2.4\nName: duet-sdk\nVersion: 0.1.0\n")
    if origin is not None:
        (found / "direct_url.json").write_text(json.dumps(origin))
    return str(MissingExtra("the backend", extra="litellm"))


@pytest.mark.parametrize(
    ("origin", "command"),
    [
        ({"url": "file:///home/me/my%20duet", "dir_info": {}}, '"/home/me/my duet[litellm]"'),
        ({"url": "file:///home/me/duet", "dir_info": {"editable": True}}, '-e "/home/me/duet[litellm]"'),
        (
            {
                "url": "https://host/duet.git",
                "vcs_info": {"vcs": "git", "requested_revision": "main", "commit_id": "1f"},
            },
            '"duet-sdk[litellm] @ git+https://host/duet.git@1f"',
        ),
        (
            {"url": "file:///dist/duet_sdk-0.1.0-py3-none-any.whl", "archive_info": {"hash": "sha256=1f"}},
            '"duet-sdk[litellm] @ file:///dist/duet_sdk-0.1.0-py3-none-any.whl"',
        ),
        (None, '"duet-sdk[litellm]"'),  # an index: only a release is there
    ],
    ids=["folder", "editable", "git", "wheel", "index"],
)
def test_a_missing_extra_is_installed_from_where_the_package_came(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, origin: dict[str, Any] | None, command: str
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    said = message(tmp_path, origin)
    assert said == f"the backend needs an extra that is not installed: {PIP} {command}"


def test_a_checkout_on_the_path_is_installed_as_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    root = Path(__file__).resolve().parent.parent
    assert str(MissingExtra("the backend", extra="litellm")).endswith(f'{PIP} "{root}[litellm]"')
