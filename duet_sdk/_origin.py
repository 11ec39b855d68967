"""Where this package came from, and the command that installs more of it from there."""

from __future__ import annotations

import sys
from pathlib import Path


def install_command(extra: str) -> str:
    """The command that adds an extra of this package to the environment that runs, from where the package came.

    Source: PEP 610. Only what came from an index has no origin on record; a checkout that is merely on the path is not
    installed at all.

    >>> install_command("litellm").endswith('[litellm]"')
    True
    """
    return f"{sys.executable} -m pip install {_requirement(extra)}"


def _requirement(extra: str) -> str:
    import json
    from importlib.metadata import PackageNotFoundError, distribution
    from urllib.parse import urlsplit
    from urllib.request import url2pathname

    try:
        recorded = distribution("duet-sdk").read_text("direct_url.json")
    except PackageNotFoundError:
        return f'"{Path(__file__).resolve().parent.parent}[{extra}]"'
    if recorded is None:
        return f'"duet-sdk[{extra}]"'
    origin = json.loads(recorded)
    url = origin["url"]
    if "dir_info" in origin:
        editable = "-e " if origin["dir_info"].get("editable") else ""
        return f'{editable}"{url2pathname(urlsplit(url).path)}[{extra}]"'
    if "vcs_info" in origin:
        url = f"{origin['vcs_info']['vcs']}+{url}@{origin['vcs_info']['commit_id']}"
    return f'"duet-sdk[{extra}] @ {url}"'
