"""TensorBoard's log of a run."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from training.distributed import share


class Board:
    """Written by the process that leads."""

    def __init__(self, out: Path, taken: int = 0) -> None:
        """Of a run that has `taken` steps: what is told there of later ones counts no more."""
        self._writer = (
            SummaryWriter(out / "tensorboard", purge_step=taken + 1) if share().leads else None
        )
        self._before = time.monotonic()

    def __enter__(self) -> Board:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._writer is not None:
            self._writer.close()

    def step(self, step: int, losses: Mapping[str, float], rate: float, clips: int) -> None:
        """`rate` is the learning rates' share of their peaks."""
        now = time.monotonic()
        values = {f"loss/{name}": value for name, value in losses.items()}
        values |= {"rate": rate, "clips_per_second": clips / (now - self._before)}
        self.write(values, step)
        self._before = now

    def write(self, values: Mapping[str, float], step: int) -> None:
        if self._writer is not None:
            for name, value in values.items():
                self._writer.add_scalar(name, value, step)
