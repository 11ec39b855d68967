"""The command ``duet trust``, and the settings of all commands: those of a found file may need the user's consent."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from duet_sdk import consent
from duet_sdk.cli.terminal import Screen, in_a_line, reporting
from duet_sdk.consent import FILE_NAME, FoundFile
from duet_sdk.environment import variable
from duet_sdk.errors import ConfigError
from duet_sdk.settings import Settings, load_settings, parse_toml

ConfigFile = Annotated[
    Path | None, typer.Option("--config", help="Settings file, in place of duet.toml and DUET_CONFIG.")
]


def settings(config: Path | None) -> Settings:
    """The settings that a command works with; on a terminal, consent to a found file is asked for where it is needed.

    Raises:
        ConfigError: as `duet_sdk.settings.load_settings`.
    """
    if config is None and variable("DUET_CONFIG") is None and sys.stdin.isatty() and sys.stderr.isatty():
        _ask()
    return load_settings(config)


def trust(
    folder: Annotated[Path, typer.Argument(help="Folder of the duet.toml.")] = Path(),
    listed: Annotated[bool, typer.Option("--list", help="List the files that are trusted.")] = False,
    remove: Annotated[bool, typer.Option("--remove", help="Take the consent to a folder's file back.")] = False,
) -> None:
    """Consent to a folder's duet.toml: to hosts, keys and paths that it names, until it changes."""
    with reporting():
        if listed and remove:
            raise ConfigError("pass --list or --remove, not both")
        if folder.name == FILE_NAME and not folder.is_dir():
            folder = folder.parent
        if listed:
            for known in consent.trusted():
                sys.stdout.write(f"{in_a_line(known)}\n")
        elif remove:
            path = Path(os.path.realpath(folder)) / FILE_NAME
            if not consent.forget(path):
                raise ConfigError(f"{path} is not trusted")
        else:
            _trust(folder)


def _trust(folder: Path) -> None:
    found = FoundFile.in_folder(folder)
    if found is None:
        raise ConfigError(f"there is no {FILE_NAME} in {folder}")
    keys = consent.needing_consent(parse_toml(found.content, found.path))
    consent.trust(found)
    screen = Screen(stderr=True)
    screen.print(f"trusted until it changes: {in_a_line(str(found.path))}", soft_wrap=True)
    for key in keys:
        screen.print(f"  {in_a_line(key)}", soft_wrap=True)
    if not keys:
        screen.print("  it sets nothing that needs consent")


def _ask() -> None:
    found = FoundFile.in_folder(Path())
    if found is None or found.is_trusted():
        return
    keys = consent.needing_consent(parse_toml(found.content, found.path))
    if not keys:
        return
    screen = Screen(stderr=True)
    screen.print(f"{in_a_line(str(found.path))} was found here and sets what needs your consent:", soft_wrap=True)
    for key in keys:
        screen.print(f"  {in_a_line(key)}", soft_wrap=True)
    screen.print("trust this file until it changes? [y/N] ", end="")
    if sys.stdin.readline().strip().lower() in ("y", "yes"):
        consent.trust(found)
