"""Rows of what is there -> rows of all places, zeros where there is nothing."""

from __future__ import annotations

from torch import Tensor


def padded(rows: Tensor, mask: Tensor) -> Tensor:
    """[M,...] of the M places where bool `mask` [N,F] is True, in their order -> [N,F,...]."""
    found = rows.new_zeros(*mask.shape, *rows.shape[1:])
    found[mask] = rows
    return found
