"""Several processes that train one model: who they are, and gathering what their losses share.

`torchrun` starts the processes and tells each its rank. Each encodes its share of a batch; the
losses are those of the whole batch, on every process the same. A gathered tensor's gradient is
the sum over the processes, and DistributedDataParallel takes the mean of what they hold: together
that is the gradient of the loss, once. Knows nothing of models.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.functional import pad
from torch.nn.parallel import DistributedDataParallel

PATIENCE = timedelta(hours=2)  # with a process that computes; then it hangs
WAITING = timedelta(days=7)  # for one that indexes hundreds of millions of pictures, or validates


@dataclass(frozen=True)
class Share:
    """Which of the processes this is."""

    rank: int = 0
    ranks: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process validates, writes and tells."""
        return self.rank == 0


def share() -> Share:
    """This process among those that train together; alone where none have joined."""
    if not dist.is_initialized():
        return Share()
    return Share(dist.get_rank(), dist.get_world_size())


def started_rank() -> int | None:
    """The rank that torchrun has started this process with, joined or not."""
    return int(os.environ["RANK"]) if dist.is_torchelastic_launched() else None


@contextmanager
def joined(device: torch.device) -> Iterator[torch.device]:
    """Joins the processes that torchrun started, if it did; gives this process's device."""
    if not dist.is_torchelastic_launched():
        yield device
        return
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
    _waiting_room()
    try:
        yield device
    finally:
        _waiting_room.cache_clear()
        dist.destroy_process_group()


@contextmanager
def first_alone() -> Iterator[None]:
    """The first process does the block before the others: they find what it has written."""
    if not share().leads:
        wait()
    yield
    if share().leads:
        wait()


def wait() -> None:
    """Until every process is here, whatever keeps one of them."""
    if share().ranks > 1:
        dist.barrier(_waiting_room())


@cache
def _waiting_room() -> dist.ProcessGroup:
    """Of all processes, which make it together."""
    return dist.new_group(backend="gloo", timeout=WAITING)


def parallel(module: nn.Module, device: torch.device, *, unused: bool) -> nn.Module:
    """`module` with its gradients averaged over the processes, which share batch statistics where
    torch can (on GPUs). `unused`: not every parameter takes part in the losses."""
    if share().ranks == 1:
        return module
    if device.type == "cuda":
        module = nn.SyncBatchNorm.convert_sync_batchnorm(module)
    return DistributedDataParallel(module, find_unused_parameters=unused)


def gather(rows: Tensor) -> Tensor:
    """Rows [n,...] of this process -> those of all in the order of ranks, with gradient.

    Processes may have different numbers of rows.
    """
    if share().ranks == 1:
        return rows
    counts = _AllGather.apply(torch.tensor(len(rows), device=rows.device)).tolist()
    missing = max(counts) - len(rows)
    parts = _AllGather.apply(pad(rows, (0, 0) * (rows.ndim - 1) + (0, missing)))
    return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])


class _AllGather(torch.autograd.Function):
    """[...] -> [ranks,...]. torch has this only with a deprecation, and below a private name."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        parts = [torch.empty_like(tensor) for _ in range(share().ranks)]
        dist.all_gather(parts, tensor.contiguous())
        return torch.stack(parts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        gradient = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(gradient)
        return gradient[share().rank]


def mean_of_all(mean: Tensor, count: int) -> Tensor:
    """The mean over all processes' rows, a scalar, from that of this process's `count` rows;
    0 where there is none."""
    if share().ranks == 1:
        return mean
    sums = gather(torch.stack([mean * count, mean.new_tensor(count)])[None])
    return sums[:, 0].sum() / sums[:, 1].sum().clamp(min=1)


def first_of_each(identity: Tensor) -> tuple[Tensor, Tensor]:
    """Identities [P,K] -> bool [P], the first row of each; int64 [P], each row's place among
    those. Two processes may have drawn the same product."""
    same = (identity[:, None] == identity[None]).all(dim=-1)
    first = same.int().argmax(dim=1)
    kept = first == torch.arange(len(identity), device=identity.device)
    return kept, (kept.cumsum(0) - 1)[first]
