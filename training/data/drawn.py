"""What one source gives to a batch, before pictures are varied; and small draws by a generator."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor


@dataclass(frozen=True)
class Drawn:
    """P products and N clips of them, M frames in all."""

    pictures: Tensor  # uint8 [P,S,S,3], or none of them, [0,S,S,3]
    frames: Tensor  # uint8 [M,S,S,3], clip after clip
    lengths: list[int]  # [N], frames of each clip
    product: list[int]  # [N], each clip's row in `pictures`
    identity: list[int]  # [P], which of the source's products each is, as int64
    titles: list[str]  # [P], "" where there is none
    speech: list[str]  # [N], the same
    boxes: Tensor  # float [M,K,4], shares of the frame; all zeros: none
    annotated: Tensor  # bool [M], False where nobody has said what the frame shows


def below(limit: int, generator: Generator) -> int:
    return int(torch.randint(limit, (), generator=generator))


def cut_length(frames: int, tail_cut: float, generator: Generator) -> int:
    """With probability `tail_cut` a clip keeps only its first frames, one at least (RICE)."""
    if torch.rand((), generator=generator) < tail_cut:
        return 1 + below(frames, generator)
    return frames
