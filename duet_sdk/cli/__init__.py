"""The `duet` command: one module for each family of commands."""


def main() -> None:
    """Run the command."""
    from duet_sdk.cli.app import main as run  # Typer and Rich are imported on use

    run()
