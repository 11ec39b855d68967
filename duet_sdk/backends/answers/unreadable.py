"""What reading an answer raises, and nothing else."""

from __future__ import annotations


class Unreadable(ValueError):
    """An answer is none, or goes beyond what any answer holds; the text is ours and quotes nothing."""


class OutputFailed(Unreadable):
    """The server gave up an output.

    Attributes:
        error: what it says of it, None where its finish reason is all.
    """

    def __init__(self, message: str, error: object = None) -> None:
        super().__init__(message)
        self.error = error
