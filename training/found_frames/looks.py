"""What a locked model sees of clips where a detector finds the intended product, computed once.

Source: LiT (Zhai et al., 2022, "LiT: Zero-shot transfer with locked-image text tuning"), section 3:
what a locked tower gives can be computed beforehand. A clip is twenty kilobytes then, and a dozen
passes over thousands of them are a matter of minutes. Knows nothing of losses.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from numpy.random import default_rng
from torch import Tensor

from training.data.clip_drawer import THREADS
from training.data.clip_index import evenly
from training.data.clip_sets import ClipSet
from training.data.errors import DataError
from training.data.frames import Frame, box_tensors
from training.data.photographs import PhotographSet
from training.data.sets import TrainingSet
from training.data.transforms import normalise
from training.distributed import Share
from training.evaluation.detection import iou
from training.evaluation.filming import shrink, stacked
from training.models.looking import Looking
from training.models.sgmn.model import Sgmn, shown_most
from training.seeds import seed_of

logger = logging.getLogger(__name__)

MET = 0.3  # IoU from which on a view around one box shows what is in the other
PICTURES_AT_ONCE = 64
READ_AHEAD = 2 * THREADS  # clips
LEFT_OUT = 0.3  # of a clip's frames in training, at most: clips of any length come to be known

Part = TypeVar("Part")
Track = Callable[[Sequence[int], str], Iterable[int]]
"""Gives what it is given, and tells how far along that is, in these words."""


class Look(NamedTuple):
    """Of one clip, the F frames in which the product is found."""

    embedding: Tensor  # [F,E], as it is
    most: Tensor  # [F,D], what the patches of each show most
    scores: Tensor  # [F], the detector's
    shown: Tensor  # bool [F], whether what was found is the intended product


@dataclass(frozen=True)
class LookBatch:
    """Of N clips of at most F frames, which come first."""

    embedding: Tensor  # [N,F,E]
    most: Tensor  # [N,F,D]
    scores: Tensor  # [N,F]
    shown: Tensor  # bool [N,F]
    mask: Tensor  # bool [N,F], frames that take part
    product: Tensor  # int64 [N], each clip's row in `pictures`
    pictures: Tensor  # [P,E], L2, of P different products


@dataclass(frozen=True)
class Looks:
    """Of N clips, and of the pictures of their P products."""

    clips: list[Look]
    product: Tensor  # int64 [N]
    pictures: Tensor  # [P,E], L2


class LookDrawer:
    """Batches of so many clips drawn at random, which depend on the seed and the step alone; of
    several processes each draws its share."""

    def __init__(self, looks: Looks, clips: int, frames: int, seed: int, share: Share) -> None:
        self._looks = looks
        self._clips, self._frames = clips // share.ranks, frames
        self._seed, self._share = seed, share

    def batches(self, steps: range) -> Iterator[LookBatch]:
        for step in steps:
            yield self._drawn(default_rng(seed_of(self._seed, step, self._share.rank)))

    def _drawn(self, rng: np.random.Generator) -> LookBatch:
        drawn = torch.from_numpy(rng.integers(len(self._looks.clips), size=self._clips))
        products, product = self._looks.product[drawn].unique(return_inverse=True)
        kept = [_thinned(self._looks.clips[clip], rng) for clip in drawn.tolist()]
        embedding, most, scores, shown = (
            torch.stack([_filled(part, self._frames) for part in parts])
            for parts in zip(*kept, strict=True)
        )
        lengths = torch.tensor([len(clip.scores) for clip in kept])
        mask = (torch.arange(self._frames) < lengths[:, None]).to(scores.device)
        return LookBatch(
            embedding, most, scores, shown, mask,
            product.to(scores.device), self._looks.pictures[products],
        )  # fmt: skip


def look_at(model: Sgmn, looking: Looking, data: Mapping[str, TrainingSet], track: Track) -> Looks:
    """At all clips of these sets, but for those in which nothing is found: there is nothing to tell
    apart. Raises DataError where that leaves none."""
    clips: list[Look] = []
    rows: list[int] = []
    products: dict[int, int] = {}
    pictures: list[np.ndarray] = []
    for clips_of in data.values():
        if isinstance(clips_of, PhotographSet):
            continue  # without boxes it can only be validated on
        for clip, look in _looks(model, looking, clips_of, track):
            product = int(clips_of.product[clip])
            if product not in products:
                picture = _read(clips_of, clip, clips_of.picture)
                if picture is None:
                    continue
                products[product] = len(products)
                pictures.append(picture)
            clips.append(look)
            rows.append(products[product])
    if not clips:
        raise DataError(f"no clip of {', '.join(data)} in which the detector finds anything")
    return Looks(clips, torch.tensor(rows), _embedded(model, pictures))


def _looks(
    model: Sgmn, looking: Looking, clips: ClipSet, track: Track
) -> Iterator[tuple[int, Look]]:
    wanted = partial(evenly, wanted=model.config.frames)

    def frames_of(clip: int) -> list[Frame] | None:
        return _read(clips, clip, partial(clips.frames, choose=wanted))

    with ThreadPoolExecutor(THREADS, thread_name_prefix="read-clip") as pool:
        for first in track(range(0, len(clips), READ_AHEAD), "looking at clips"):
            some = range(first, min(first + READ_AHEAD, len(clips)))
            for clip, frames in zip(some, pool.map(frames_of, some), strict=True):
                look = None if frames is None else _look(model, looking, frames)
                if look is not None:
                    yield clip, look


def _read(clips: ClipSet, clip: int, part: Callable[[int], Part]) -> Part | None:
    """None of a clip that cannot be read, which is told and counted."""
    try:
        return part(clip)
    except DataError as error:
        file, line = clips.place(clip)
        logger.warning("left out: %s:%d: %s", file, line, error)
        clips.wrong.add(file, line, str(error), drawn=len(clips))
        return None


@torch.no_grad()
def _look(model: Sgmn, looking: Looking, frames: list[Frame]) -> Look | None:
    """None where nothing is found, or nobody has said what frames show."""
    device = next(model.parameters()).device
    pixels = stacked([frame.pixels for frame in frames])[None].to(device)
    looked = looking(pixels, torch.ones(pixels.shape[:2], dtype=torch.bool, device=device))
    found = looked.found[0]
    if not found.any():
        return None
    boxes, annotated = box_tensors(frames)
    if not annotated.all():
        return None
    met = iou(looked.boxes[0][:, None], boxes.to(device)) >= MET
    patch_mask = looked.patch_mask[0][found]
    embedding, tokens = model.encode(normalise(looked.pixels[0][found]), patch_mask)
    most = shown_most(tokens[:, 1:], patch_mask)
    return Look(embedding, most, looked.scores[0][found], met.any(dim=1)[found])


@torch.no_grad()
def _embedded(model: Sgmn, pictures: list[np.ndarray]) -> Tensor:
    """uint8 [H,H,3] each -> [P,E], L2."""
    size, device = model.config.encoder.image_size, next(model.parameters()).device
    found = []
    for first in range(0, len(pictures), PICTURES_AT_ONCE):
        some = stacked(pictures[first : first + PICTURES_AT_ONCE]).to(device)
        found.append(model.encode_pictures(normalise(shrink(some, size))).embedding)
    return torch.cat(found)


def _thinned(look: Look, rng: np.random.Generator) -> Look:
    """Without some of the frames."""
    kept = torch.from_numpy(rng.random(len(look.scores)) >= LEFT_OUT * rng.random())
    return Look(*(part[kept.to(part.device)] for part in look)) if kept.any() else look


def _filled(part: Tensor, frames: int) -> Tensor:
    """[F,...] -> [frames,...], with zeros."""
    whole = part.new_zeros(frames, *part.shape[1:])
    whole[: len(part)] = part
    return whole
