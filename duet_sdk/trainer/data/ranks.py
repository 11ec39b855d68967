"""All processes of a run must see the same questions in the same order, or two policies learn from different ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from duet_sdk.errors import TrainingError


def check_same_on_all_ranks(fingerprint: str, gather: Callable[[str], Sequence[str]]) -> None:
    """Compare the fingerprint of this process with those of the others.

    >>> check_same_on_all_ranks("ab", lambda own: [own, "ab"])

    Args:
        fingerprint: of the questions in their order, see `duet_sdk.evaluation.rows.fingerprint`.
        gather: gives the values of all processes, in order of rank, for this one's.

    Raises:
        TrainingError: they differ; on all processes, so that none waits for another.
    """
    everywhere = list(gather(fingerprint))
    others = [rank for rank, other in enumerate(everywhere) if other != everywhere[0]]
    if others:
        listed = ", ".join(f"rank {rank} {everywhere[rank][:12]}" for rank in [0, *others[:3]])
        raise TrainingError(
            f"the processes of this run see different questions ({listed}); copy the same data files to all nodes, and "
            "pin data.revision of a hub data set"
        )
