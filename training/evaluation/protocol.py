"""How a model is scored: each clip against the pictures of its shop; every clip counts.

Of a set of photographs, a clip is made of those that share a clip id, each held and moved a little
(HELD); the shop is all products. Of a set of queries, a clip is its frames as they are, spread
evenly, and the shop is that of its own livestream; it hits when any of its ground-truth pictures
is among the first k (LPR4M's protocol). Both see at most `frames` frames. Clips are the same for
every model: their randomness has a fixed seed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numpy.random import default_rng
from torch import Tensor

from training.configs import Layout
from training.data.errors import DataError
from training.data.frames import Frame
from training.data.photographs import PhotographSet
from training.data.queries import QuerySet
from training.data.records import Query, ShopPicture
from training.data.sets import JudgedSet
from training.evaluation.calibration import OUT_OF_SHOP
from training.evaluation.filming import CLIP_SEED, filmed, shrink, stacked
from training.evaluation.hearings import HEARINGS, Hearing, said_in, said_of_product
from training.evaluation.scorers import Comparison, Scorer, Shop, TorchScorer
from training.evaluation.scores import Scores, Unanswerable
from training.models.rice import Rice

logger = logging.getLogger(__name__)

CHUNK = 128  # shop pictures encoded at once
GROUPS = ("scale", "duration", "products", "category")  # of clips: training.data.records
VAL_TAKES = 5  # the few val clips are filmed often, to choose on more than their accidents
TOLD: dict[Layout, str] = {
    "photographs": "photographs of each clip, moved as if filmed, against all products",
    "lpr4m": "each clip against the pictures of its own livestream's shop",
    "lpr750k": "each clip against the pictures of its own livestream's shop",
    "movingfashion": "each video against all products",
}
"""The protocol in words, by the layout of the data."""

Boxes = Callable[[Sequence[Frame]], Tensor]
"""A clip's frames -> boxes of the intended product [F,K,4], all zeros where there are fewer."""


def score(
    model: Rice | Scorer,
    data: JudgedSet,
    *,
    takes: int = 1,
    boxes: Boxes | None = None,
    hearings: Sequence[Hearing] = ("right",),
    done: Callable[[], None] = lambda: None,
) -> dict[Hearing, Scores]:
    """Scores each clip by all that is to be heard of it, in one pass; photographs `takes` times,
    every take with another hand. With `boxes`, only patches of the intended product take part in
    queries (IPD). Calls `done` a clip. Raises DataError."""
    if isinstance(data, QuerySet):
        return score_queries(model, data, boxes=boxes, hearings=hearings, done=done)
    return score_clips(model, data, takes=takes, boxes=boxes, hearings=hearings, done=done)


def score_heard(
    scorer: Scorer,
    data: JudgedSet,
    *,
    takes: int = 1,
    boxes: Boxes | None = None,
    done: Callable[[], None] = lambda: None,
) -> dict[Hearing, Scores]:
    """Scores each clip by all that may be heard of it; where no text is read, nothing was. Calls
    `done` a clip. Raises DataError."""
    hearings: Sequence[Hearing] = HEARINGS if scorer.reads else ("right",)
    found = score(scorer, data, takes=takes, boxes=boxes, hearings=hearings, done=done)
    return {"missing": found["right"]} if found["right"].text is None else found


@torch.inference_mode()
def score_clips(
    model: Rice | Scorer,
    data: PhotographSet,
    *,
    takes: int = 1,
    boxes: Boxes | None = None,
    hearings: Sequence[Hearing] = ("right",),
    done: Callable[[], None] = lambda: None,
) -> dict[Hearing, Scores]:
    """Scores each clip `takes` times, every take with another hand; calls `done` a clip."""
    scorer = _scorer(model)
    titles = data.titles or [""] * len(data.names)
    shop = _shop(scorer, data.pictures.split(CHUNK), titles)
    generator = torch.Generator().manual_seed(CLIP_SEED)
    rngs = {hearing: default_rng(CLIP_SEED) for hearing in hearings}
    compared: dict[Hearing, list[Comparison]] = {hearing: [] for hearing in hearings}
    truth = []
    for clip in data.clips() * takes:
        frames = filmed(data, clip, scorer.frames, scorer.frame_size, generator)
        product = int(data.product[clip[0]])
        said = {
            hearing: said_of_product(product, titles, hearing, rng) for hearing, rng in rngs.items()
        }
        shown = boxes([Frame(pixels) for pixels in frames.numpy()]) if boxes else None
        for hearing, found in _compared(scorer, shop, frames, said, shown).items():
            compared[hearing].append(found)
        truth.append(product)
        done()
    return {
        hearing: _of_photographs(data, found, truth, takes) for hearing, found in compared.items()
    }


def _of_photographs(
    data: PhotographSet, compared: list[Comparison], truth: list[int], takes: int
) -> Scores:
    """Of clips of these products, with one hearing."""
    coarse, match, text = (torch.cat(part) for part in zip(*compared, strict=True))
    speeches = len(coarse) // len(truth)
    products = torch.tensor(truth).repeat_interleave(speeches)
    groups = {}
    if data.categories:
        groups["category"] = [data.categories[product] for product in products.tolist()]
    return Scores(
        coarse, match, products, groups=groups, text=_any(text), speeches=speeches, takes=takes
    )


@torch.inference_mode()
def score_queries(
    model: Rice | Scorer,
    data: QuerySet,
    *,
    boxes: Boxes | None = None,
    hearings: Sequence[Hearing] = ("right",),
    done: Callable[[], None] = lambda: None,
) -> dict[Hearing, Scores]:
    """Scores each query against its own shop. Calls `done` a query.

    A picture of the shop that is missing or broken is no candidate. A query whose right pictures or
    frames are all so is a miss; how many are is told once. A picture that the shop lists twice is
    right in both places.
    """
    scorer = _scorer(model)
    if scorer.reads:
        _tell_untitled(data)
    said = {hearing: said_in(data.queries, hearing) for hearing in hearings}
    largest = max(len(data.galleries[live]) for live in data.by_shop())
    count, columns = len(data.queries), largest + 1  # the last column is never filled
    compared = {
        hearing: _unfilled(count, len(speeches[0]), columns) for hearing, speeches in said.items()
    }
    truth = torch.full((count,), largest)
    also = torch.zeros(count, columns, dtype=torch.bool)
    no_frame = 0
    for live, positions in data.by_shop().items():
        images, shop = _read_shop(scorer, data, live)
        places: dict[str, list[int]] = {}
        for place, image in enumerate(images):
            places.setdefault(image, []).append(place)
        for position in positions:
            query = data.queries[position]
            own = [place for image in query.truth for place in places.get(image, [])]
            if own:
                truth[position] = own[0]
                also[position, own[1:]] = True
            frames = data.read_frames(query, scorer.frames, scorer.frame_size)
            no_frame += not frames
            if frames and shop is not None:
                pixels = stacked([frame.pixels for frame in frames])
                shown = boxes(frames) if boxes else None
                heard = {hearing: speeches[position] for hearing, speeches in said.items()}
                for hearing, found in _compared(scorer, shop, pixels, heard, shown).items():
                    for part, scores in zip(compared[hearing], found, strict=True):
                        part[position, :, : len(images)] = scores
            done()
    lost = Unanswerable(no_frame, int((truth == largest).sum()))
    if any(lost):
        logger.warning(
            "of %d clips, %d have no frame that can be read and %d no right picture in their shop: "
            "they are misses", count, *lost,
        )  # fmt: skip
    return {
        hearing: _of_queries(data.queries, found, truth, also, lost)
        for hearing, found in compared.items()
    }


def _tell_untitled(data: QuerySet) -> None:
    """Speech is compared with titles alone, so those of the right answers alone give them away."""
    pictures = [picture for live in data.by_shop() for picture in data.there(live)]
    titled = sum(bool(picture.title) for picture in pictures)
    if 0 < titled < len(pictures):
        logger.warning(
            "of %d pictures in the shops %d have a title: what is said finds only among those",
            len(pictures), titled,
        )  # fmt: skip


def _unfilled(clips: int, speeches: int, columns: int) -> Comparison:
    shape = (clips, speeches, columns)
    return Comparison(*(torch.full(shape, OUT_OF_SHOP) for _ in Comparison._fields))


def _of_queries(
    queries: list[Query], compared: Comparison, truth: Tensor, also: Tensor, lost: Unanswerable
) -> Scores:
    """Of scores [N,speeches,P] with one hearing; int64 [N] and bool [N,P] of right answers."""
    speeches = compared.match.shape[1]
    coarse, match, text = (part.flatten(0, 1) for part in compared)
    return Scores(
        coarse,
        match,
        truth.repeat_interleave(speeches),
        also.repeat_interleave(speeches, dim=0),
        _groups(queries, speeches),
        _any(text),
        speeches,
        unanswerable=lost,
    )


def _compared(
    scorer: Scorer,
    shop: Shop,
    frames: Tensor,
    said: Mapping[Hearing, Sequence[str]],
    shown: Tensor | None,
) -> dict[Hearing, Comparison]:
    """One clip with each of the N speeches of a hearing, [N,P]; a decoder that reads speech hears
    the first of them."""
    firsts = [speeches[0] for speeches in said.values()]
    compared = scorer.compare(shop, frames, firsts, shown)
    return {
        hearing: _with_others(found, scorer.hears(shop, speeches[1:]))
        for (hearing, speeches), found in zip(said.items(), compared, strict=True)
    }


def _with_others(first: Comparison, others: Tensor) -> Comparison:
    """One clip with a first speech, [P], and its text with others [N-1,P] -> [N,P]."""
    text = torch.cat([first.text[None], others])
    return Comparison(first.coarse.expand(len(text), -1), first.match.expand(len(text), -1), text)


def _scorer(model: Rice | Scorer) -> Scorer:
    return TorchScorer(model) if isinstance(model, Rice) else model


def _groups(queries: list[Query], rows: int) -> dict[str, list[str]]:
    """What the data tells of its clips, of so many rows each, where it tells it of any."""
    told = {name: [getattr(q, name) for q in queries for _ in range(rows)] for name in GROUPS}
    return {name: groups for name, groups in told.items() if any(groups)}


def _any(text: Tensor) -> Tensor | None:
    """None where no clip has speech, or no product a title."""
    return text if ((text > OUT_OF_SHOP) & (text != 0)).any() else None


def _shop(scorer: Scorer, chunks: Iterable[Tensor], titles: Sequence[str]) -> Shop:
    """Of the shop's pictures, uint8 [?,H,H,3] each chunk, and their products' titles."""
    parts, first = [], 0
    for chunk in chunks:
        parts.append(
            scorer.products(shrink(chunk, scorer.size), titles[first : first + len(chunk)])
        )
        first += len(chunk)
    return Shop(
        torch.cat([part.embedding for part in parts]),
        torch.cat([part.states for part in parts]),
        None
        if parts[0].titles is None
        else torch.cat([part.titles for part in parts if part.titles is not None]),
        tuple(title for part in parts for title in part.named),
    )


def _read_shop(scorer: Scorer, data: QuerySet, live: str) -> tuple[list[str], Shop | None]:
    """Image ids and what is compared of them, without the pictures that cannot be read; None where
    that leaves none."""

    def read(picture: ShopPicture) -> np.ndarray | None:
        try:
            return data.read_picture(picture.reference, scorer.size)
        except DataError as error:
            logger.warning("left out: %s", error)
            return None

    there = data.there(live)
    with ThreadPoolExecutor() as pool:
        found = [
            (picture, pixels)
            for picture, pixels in zip(there, pool.map(read, there), strict=True)
            if pixels is not None
        ]
    if not found:
        return [], None
    pictures = [picture for picture, _ in found]
    pixels = [pixels for _, pixels in found]
    chunks = (stacked(pixels[i : i + CHUNK]) for i in range(0, len(pixels), CHUNK))
    titles = [picture.title for picture in pictures]
    return [picture.image_id for picture in pictures], _shop(scorer, chunks, titles)
