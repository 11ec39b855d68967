"""The `duet` command: one module for each family of commands."""

from duet_sdk.cli.ask import main

__all__ = ["main"]
