"""Who computes which shard: this machine, ranks that torchrun or SLURM has started, or a Ray cluster."""
