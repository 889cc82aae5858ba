"""Who computes which shard: this machine, ranks that torchrun or SLURM has started, or a Ray cluster.

A shard is idempotent and the same command resumes, so that nobody watches anybody: when something dies, what is
finished is kept, and a new pool, a restart, a retry or the same command again computes the rest.
"""

from fastcam.localization.engines.machines import localize
from fastcam.localization.engines.torchrun import Rank

__all__ = ["Rank", "localize"]
