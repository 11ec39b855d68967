"""The machines that a run is planned for."""

from __future__ import annotations

import os
from dataclasses import dataclass

from duet_sdk.errors import ConfigError

_FILL_GPU, _FILL_MACHINE = 0.9, 0.5
"""Shares of a GPU, as the plan is an estimate, and of a machine, which runs other programs too."""
_MEMORY_GB = 8.0
"""Of a machine that does not tell: what the smallest that are in use have."""


@dataclass(frozen=True, slots=True)
class Hardware:
    """Machines with the same number of the same GPU each.

    >>> Hardware(gpus=4, server_gpus=2).processes
    2
    """

    gpus: int = 1
    """GPUs of a machine; 0 trains on the CPU, with one process."""
    nodes: int = 1
    """Machines."""
    gpu_gb: float = 80.0
    """Memory of a GPU, in 10⁹ bytes; 80 as an H100 has. Without GPUs, that of the machine."""
    server_gpus: int = 0
    """GPUs of all machines that vLLM servers have for themselves."""
    sharded: bool = False
    """Whether weights, gradients and optimizer are sharded over the processes (FSDP2) or complete on each (DDP)."""

    def __post_init__(self) -> None:
        if self.gpus < 0 or self.nodes < 1 or self.gpu_gb <= 0 or self.server_gpus < 0:
            raise ConfigError(
                f"impossible hardware: {self.nodes} machines with {self.gpus} GPUs of {self.gpu_gb:g} GB each, "
                f"{self.server_gpus} of them for servers"
            )
        if self.server_gpus >= max(1, self.gpus * self.nodes):
            raise ConfigError(
                f"servers take {self.server_gpus} of {self.gpus * self.nodes} GPUs, and training needs one itself"
            )

    @classmethod
    def this_cpu(cls) -> Hardware:
        """This machine without its GPUs."""
        return cls(gpus=0, gpu_gb=_memory_gb())

    @property
    def to_fill_gb(self) -> float:
        """Memory that batches left to ``auto`` may fill, in 10⁹ bytes: an estimate should not end at the brim."""
        return self.gpu_gb * (_FILL_GPU if self.gpus else _FILL_MACHINE)

    @property
    def most_gb(self) -> float:
        """Memory that a plan takes without a word, in 10⁹ bytes: nine tenths of a GPU, all of a machine without."""
        return self.to_fill_gb if self.gpus else self.gpu_gb

    @property
    def processes(self) -> int:
        """Training processes: one for each GPU that no server has."""
        return max(1, self.gpus * self.nodes - self.server_gpus)


def _memory_gb() -> float:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    except (AttributeError, ValueError, OSError):  # Windows has none of it
        return _MEMORY_GB
