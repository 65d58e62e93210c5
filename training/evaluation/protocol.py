"""How a model is scored: each clip against the pictures of its shop; every clip counts.

Of a set of photographs, a clip is made of those that share a clip id, each held and moved a little
(HELD); the shop is all products. Of a set of queries, a clip is its frames as they are, spread
evenly, and the shop is that of its own livestream; it hits when any of its ground-truth pictures
is among the first k (LPR4M's protocol). Both see at most `frames` frames. Clips are the same for
every model: their randomness has a fixed seed.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import cycle, islice, takewhile
from statistics import mean
from typing import Literal, get_args

import numpy as np
import torch
from numpy.random import Generator, default_rng
from torch import Tensor

from training.configs import Layout
from training.data.errors import DataError
from training.data.frames import Frame
from training.data.photographs import PhotographSet
from training.data.queries import QuerySet
from training.data.records import Query, ShopPicture
from training.data.sets import JudgedSet
from training.data.spoken import spoken
from training.data.transforms import HELD, vary
from training.evaluation.calibration import OUT_OF_SHOP
from training.evaluation.evidence import DOUBTS, SCALES, evidence
from training.evaluation.fusion import Fusion
from training.evaluation.metrics import Accuracy, accuracy
from training.evaluation.scorers import Comparison, Scorer, Shop, TorchScorer
from training.models.rice import Rice

logger = logging.getLogger(__name__)

CLIP_SEED = 20_231
CHUNK = 128  # shop pictures encoded at once
GROUPS = ("scale", "duration", "products", "category")  # of clips: training.data.records
WEIGHTS = (0.0, *(2.0 ** (exponent / 2) for exponent in range(-18, 5)))  # that fusion may have
TOLD_APART = 0.005  # of mean reciprocal rank on val: less is chance
TEXT_COST = 0.0015  # the same, at most, where what is heard is wrong: of R@1 it may be twice that
MISHEARD = 8  # wrong speeches that each clip is judged with: what one of them costs is chance
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

Hearing = Literal["right", "wrong", "missing"]
"""What is heard of a clip: what the data says, what it says of other clips, or nothing."""

HEARINGS: tuple[Hearing, ...] = get_args(Hearing)
"""All of them, as they are joined."""


@dataclass(frozen=True)
class Scores:
    """Of N clips against P products, or pictures: as many as the largest shop has. A clip has as
    many rows, one after the other, as `speeches` are heard in it.

    Columns that a clip's own shop does not fill are OUT_OF_SHOP.
    """

    coarse: Tensor  # [N,P], cosine of the embeddings
    match: Tensor  # [N,P], logits of the matching decoder
    truth: Tensor  # int64 [N], the column of the right answer
    also: Tensor | None = None  # bool [N,P], further right answers
    groups: Mapping[str, list[str]] = field(default_factory=dict)
    """By what clips differ (scale, duration, products, category): each one's group, or ""."""
    text: Tensor | None = None
    """[N,P], cosines of speech and titles, 0 where one is missing; None: no text was read."""
    speeches: int = 1
    takes: int = 1
    """How often each clip was filmed: all of them once, then all of them again."""

    @property
    def clips(self) -> int:
        return len(self.truth) // (self.speeches * self.takes)

    @property
    def clip(self) -> Tensor:
        """Int64 [N], the same in each row of a clip."""
        return torch.arange(len(self.truth)) // self.speeches % self.clips

    def fused(self, fusion: Fusion) -> Tensor:
        scores = self.coarse + fusion.match * self.match
        if self.text is not None:
            scores = scores + fusion.text * evidence(self.text, fusion.scale, fusion.doubt)
        return self.judged(scores)

    def once(self) -> Scores:
        """Of each clip its first row."""
        first = slice(None, None, self.speeches)
        return Scores(
            self.coarse[first],
            self.match[first],
            self.truth[first],
            None if self.also is None else self.also[first],
            {name: groups[first] for name, groups in self.groups.items()},
            None if self.text is None else self.text[first],
            takes=self.takes,
        )

    def largest_shop(self) -> int:
        """Products, or pictures, of the largest shop."""
        return int((self.coarse > OUT_OF_SHOP).sum(dim=1).max())

    def judged(self, scores: Tensor) -> Tensor:
        """[N,P], in which the best of a clip's right answers stands at `truth` for all of them."""
        if self.also is None:
            return scores
        own = self.also.scatter(1, self.truth[:, None], value=True)
        best = scores.masked_fill(~own, -math.inf).max(dim=1, keepdim=True).values
        return scores.masked_fill(own, OUT_OF_SHOP).scatter(1, self.truth[:, None], best)


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
        frames = _filmed(data, clip, scorer.frames, scorer.frame_size, generator)
        product = int(data.product[clip[0]])
        said = {hearing: _said(product, titles, hearing, rng) for hearing, rng in rngs.items()}
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
    frames are all so is a miss. A picture that the shop lists twice is right in both places.
    """
    scorer = _scorer(model)
    said = {hearing: _speech(data.queries, hearing) for hearing in hearings}
    largest = max(len(data.galleries[live]) for live in data.by_shop())
    count, columns = len(data.queries), largest + 1  # the last column is never filled
    compared = {
        hearing: _unfilled(count, len(speeches[0]), columns) for hearing, speeches in said.items()
    }
    truth = torch.full((count,), largest)
    also = torch.zeros(count, columns, dtype=torch.bool)
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
            if frames:
                pixels = _stacked([frame.pixels for frame in frames])
                shown = boxes(frames) if boxes else None
                heard = {hearing: speeches[position] for hearing, speeches in said.items()}
                for hearing, found in _compared(scorer, shop, pixels, heard, shown).items():
                    for part, scores in zip(compared[hearing], found, strict=True):
                        part[position, :, : len(images)] = scores
            done()
    return {
        hearing: _of_queries(data.queries, found, truth, also)
        for hearing, found in compared.items()
    }


def _unfilled(clips: int, speeches: int, columns: int) -> Comparison:
    shape = (clips, speeches, columns)
    return Comparison(*(torch.full(shape, OUT_OF_SHOP) for _ in Comparison._fields))


def _of_queries(queries: list[Query], compared: Comparison, truth: Tensor, also: Tensor) -> Scores:
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


def _said(product: int, titles: Sequence[str], hearing: Hearing, rng: Generator) -> list[str]:
    """Of a photographed product, by its title; by others', if there are any, where those are
    heard."""
    if hearing == "wrong" and len(titles) == 1:
        return [""] * MISHEARD
    if hearing == "wrong":
        others = (product + 1 + rng.integers(len(titles) - 1, size=MISHEARD)) % len(titles)
        return [spoken(titles[other], titles, rng) for other in others]
    said = spoken(titles[product], titles, rng)
    return ["" if hearing == "missing" else said]


def _speech(queries: list[Query], hearing: Hearing) -> list[list[str]]:
    """Of each query; wrong ones are those of the next clips of the same shop that show other
    products, where there are any."""
    if hearing == "missing":
        return [[""] for _ in queries]
    if hearing == "right":
        return [[query.speech] for query in queries]
    of_shop: dict[str, list[Query]] = {}
    for query in queries:
        of_shop.setdefault(query.live_id, []).append(query)
    return [_of_others(query, of_shop[query.live_id]) for query in queries]


def _of_others(query: Query, shop: list[Query]) -> list[str]:
    place = next(i for i, other in enumerate(shop) if other is query)
    following = (*shop[place + 1 :], *shop[:place])
    others = [o.speech for o in following if o.speech and not set(o.truth) & set(query.truth)]
    return list(islice(cycle(others or [""]), MISHEARD))


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
    return _stacked([frame.pixels for frame in frames])


def sample_clips(data: JudgedSet, count: int, frames: int, size: int) -> list[Tensor]:
    """Clips, at most `count` and spread over the data, each uint8 [F,size,size,3] of at most so
    many frames. Raises DataError."""
    if isinstance(data, PhotographSet):
        generator, clips = torch.Generator().manual_seed(CLIP_SEED), data.clips()
        chosen = _spread(list(range(len(clips))), min(count, len(clips)))
        return [_filmed(data, clips[i], frames, size, generator) for i in chosen]
    chosen = _spread(list(range(len(data.queries))), min(count, len(data.queries)))
    read = (data.read_frames(data.queries[i], frames, size) for i in chosen)
    return [_stacked([frame.pixels for frame in shown]) for shown in read if shown]


def _filmed(
    data: PhotographSet, clip: list[int], frames: int, size: int, generator: torch.Generator
) -> Tensor:
    """Photographs of a clip as if a hand held what they show, uint8 [F,size,size,3]."""
    photographs = data.photographs[_spread(clip, frames)]
    return vary(photographs, size, HELD, generator).round_().byte()


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
    )


def _read_shop(scorer: Scorer, data: QuerySet, live: str) -> tuple[list[str], Shop]:
    """Image ids and what is compared of them, without the pictures that cannot be read."""

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
    pictures = [picture for picture, _ in found]
    pixels = [pixels for _, pixels in found]
    chunks = (_stacked(pixels[i : i + CHUNK]) for i in range(0, len(pixels), CHUNK))
    titles = [picture.title for picture in pictures]
    return [picture.image_id for picture in pictures], _shop(scorer, chunks, titles)


def _stacked(pictures: list[np.ndarray]) -> Tensor:
    return torch.from_numpy(np.stack(pictures))


def shrink(pictures: Tensor, size: int) -> Tensor:
    """Square pictures, uint8 [B,H,H,3] -> uint8 [B,size,size,3], bicubic and antialiased."""
    if pictures.shape[1:3] == (size, size):
        return pictures
    resized = torch.nn.functional.interpolate(
        pictures.movedim(-1, 1).float(), (size, size), mode="bicubic", antialias=True
    )
    return resized.round_().clamp_(0, 255).byte().movedim(1, -1)


def _spread(clip: list[int], frames: int) -> list[int]:
    """`frames` entries spread evenly over the photographs, in order."""
    return [clip[i * len(clip) // frames] for i in range(frames)]


def joined(of: Mapping[Hearing, Scores]) -> Scores:
    """All as if they were of different clips: what is ranked is neither always told nor never."""
    every = [one.once() for one in of.values()]
    also = [one.also for one in every if one.also is not None]
    text = [torch.zeros_like(one.match) if one.text is None else one.text for one in every]
    return Scores(
        torch.cat([one.coarse for one in every]),
        torch.cat([one.match for one in every]),
        torch.cat([one.truth for one in every]),
        torch.cat(also) if also else None,
        text=torch.cat(text) if "right" in of else None,
    )


def best_fusion(*sets: Mapping[Hearing, Scores]) -> Fusion:
    """The weights that rank the clips of these sets best, by the mean of their mean reciprocal
    ranks: of the match without any text; then of text's evidence, its scale and doubt, where what
    is heard is right, no heavier than what costs TEXT_COST in any set where it is wrong."""
    match = best_match_weight([scores["missing"] for scores in sets])
    told = [scores["right"] for scores in sets if "right" in scores]
    if not told:
        return Fusion(match)
    misled = [scores["wrong"] for scores in sets if "wrong" in scores]
    least = [_mrr(scores, Fusion(match)) - TEXT_COST for scores in misled]

    def is_borne(fusion: Fusion) -> bool:
        return all(_mrr(s, fusion) >= bound for s, bound in zip(misled, least, strict=True))

    borne = [
        fusion
        for scale in SCALES
        for doubt in DOUBTS
        for fusion in takewhile(is_borne, (Fusion(match, w, scale, doubt) for w in WEIGHTS))
    ]
    return max(borne, key=lambda fusion: mean(_mrr(scores, fusion) for scores in told))


def _mrr(scores: Scores, fusion: Fusion) -> float:
    return accuracy(scores.fused(fusion), scores.truth).mrr


def best_match_weight(sets: Sequence[Scores]) -> float:
    """The weight of the match logit that ranks the clips of all sets best by the mean of their mean
    reciprocal ranks: the middle of those that a few hundred clips cannot tell from the best."""
    reciprocal = [
        mean(accuracy(scores.fused(Fusion(weight)), scores.truth).mrr for scores in sets)
        for weight in WEIGHTS
    ]
    least = max(reciprocal) - TOLD_APART
    plateau = [w for w, r in zip(WEIGHTS, reciprocal, strict=True) if r >= least]
    return plateau[len(plateau) // 2]


def parts(scores: Scores, fusion: Fusion) -> dict[str, Tensor]:
    """Of the score, [N,P] each to be ranked alone, and all fused."""
    alone = {"coarse": scores.coarse, "match": scores.match}
    if scores.text is not None:
        alone["text"] = scores.text
    judged = {name: scores.judged(part) for name, part in alone.items()}
    return judged | {"fused": scores.fused(fusion)}


def summary(scores: Scores, fusion: Fusion) -> dict[str, Accuracy]:
    """Accuracy of the parts of the score alone, and of all fused."""
    return {name: accuracy(part, scores.truth) for name, part in parts(scores, fusion).items()}
