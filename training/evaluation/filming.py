"""What a model is shown when it is judged: photographs as if they had been filmed, and samples of a
data set. The same for every model: the randomness of clips has a fixed seed.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from training.data.photographs import PhotographSet
from training.data.sets import JudgedSet
from training.data.transforms import HELD, vary

CLIP_SEED = 20_231


def filmed(
    data: PhotographSet, clip: list[int], frames: int, size: int, generator: torch.Generator
) -> Tensor:
    """Photographs of a clip as if a hand held what they show, uint8 [F,size,size,3]."""
    photographs = data.photographs[_spread(clip, frames)]
    return vary(photographs, size, HELD, generator).round_().byte()


def sample_pictures(data: JudgedSet, count: int, size: int) -> Tensor:
    """Photographs or frames, at most `count` and spread over the data, uint8 [?,size,size,3].

    Raises DataError.
    """
    if isinstance(data, PhotographSet):
        every = list(range(len(data.photographs)))
        return shrink(data.photographs[_spread(every, min(count, len(every)))], size)
    queries = list(range(len(data.queries)))
    chosen = [data.queries[i] for i in _spread(queries, min(count, len(queries)))]
    frames = [frame for query in chosen for frame in data.read_frames(query, 1, size)]
    return stacked([frame.pixels for frame in frames])


def sample_clips(data: JudgedSet, count: int, frames: int, size: int) -> list[Tensor]:
    """Clips, at most `count` and spread over the data, each uint8 [F,size,size,3] of at most so
    many frames. Raises DataError."""
    if isinstance(data, PhotographSet):
        generator, clips = torch.Generator().manual_seed(CLIP_SEED), data.clips()
        chosen = _spread(list(range(len(clips))), min(count, len(clips)))
        return [filmed(data, clips[i], frames, size, generator) for i in chosen]
    chosen = _spread(list(range(len(data.queries))), min(count, len(data.queries)))
    read = (data.read_frames(data.queries[i], frames, size) for i in chosen)
    return [stacked([frame.pixels for frame in shown]) for shown in read if shown]


def shrink(pictures: Tensor, size: int) -> Tensor:
    """Square pictures, uint8 [B,H,H,3] -> uint8 [B,size,size,3], bicubic and antialiased."""
    if pictures.shape[1:3] == (size, size):
        return pictures
    resized = torch.nn.functional.interpolate(
        pictures.movedim(-1, 1).float(), (size, size), mode="bicubic", antialias=True
    )
    return resized.round_().clamp_(0, 255).byte().movedim(1, -1)


def stacked(pictures: list[np.ndarray]) -> Tensor:
    return torch.from_numpy(np.stack(pictures))


def _spread(clip: list[int], frames: int) -> list[int]:
    """`frames` entries spread evenly over the photographs, in order."""
    return [clip[i * len(clip) // frames] for i in range(frames)]
