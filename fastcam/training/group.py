"""The processes that train one network together, as torchrun starts them; or one alone."""

import datetime
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

_PATIENCE = datetime.timedelta(hours=1)  # the others wait while the first tests localization


class Group(NamedTuple):
    """One process's place among those that train together. Every method must be called by all of them.

    Attributes:
        rank: number of this process; 0 writes the files.
        world: number of processes.
        device: where this one's network runs.
    """

    rank: int
    world: int
    device: torch.device

    def sum(self, values: Tensor) -> Tensor:
        """Add up tensors of one shape and dtype over all processes; the sums are on the device."""
        total = values.to(self.device, copy=True)
        if self.world > 1:
            dist.all_reduce(total)
        return total

    def gather(self, values: Tensor) -> list[Tensor]:
        """Collect a tensor of each process, by rank; they are on the CPU and of one shape and dtype."""
        if self.world == 1:
            return [values]
        parts = [torch.empty_like(values) for _ in range(self.world)]
        dist.all_gather(parts, values)
        return parts

    def gather_rows(self, values: Tensor) -> Tensor:
        """Put rows of all processes together, by rank: tensors on the CPU, of one dtype and one shape but for rows."""
        if self.world == 1:
            return values
        counts = [int(count) for count in self.gather(torch.tensor(len(values)))]
        padded = values.new_zeros((max(counts), *values.shape[1:]))
        padded[: len(values)] = values
        return torch.cat([part[:count] for part, count in zip(self.gather(padded), counts, strict=True)])

    def share(self, data: bytes) -> bytes:
        """Give the first process's bytes to all; what others pass is ignored."""
        if self.world == 1:
            return data
        size = torch.tensor(len(data))
        dist.broadcast(size, 0)
        if not size:
            return b""
        own = bytearray(data if self.rank == 0 else int(size))
        dist.broadcast(torch.frombuffer(own, dtype=torch.uint8), 0)
        return bytes(own)

    def share_buffers(self, module: nn.Module) -> None:
        """Give the first process's buffers to all: without SyncBatchNorm each has running statistics of its own."""
        if self.world > 1:
            for buffer in module.buffers():
                dist.broadcast(buffer, 0)

    def wait(self) -> None:
        """Wait for all."""
        if self.world > 1:
            self.gather(torch.zeros(1))


@contextmanager
def joined(device: str | torch.device | None) -> Iterator[Group]:
    """Take this process's place in the group that torchrun set up, for the time of a `with` block.

    Gloo connects CPUs, NCCL the tensors on GPUs. A group that the caller has opened already is used and left open.
    The network runs by default on a CUDA device if there is one, else on the CPU; "cuda" is the device of this
    process's number on its machine.

    Raises:
        RuntimeError: there is no such device, or the others cannot be reached.
    """
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", torch.cuda.current_device())))
    if device.type == "cuda":
        torch.cuda.set_device(device)
    opened = not dist.is_initialized() and "RANK" in os.environ and "WORLD_SIZE" in os.environ
    if opened:
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, timeout=_PATIENCE)
    try:
        if dist.is_initialized():
            yield Group(dist.get_rank(), dist.get_world_size(), device)
        else:
            yield Group(0, 1, device)
    finally:
        if opened:
            dist.destroy_process_group()
