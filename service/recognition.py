"""The story of one clip: decoded, encoded, its candidates found and matched, scored, decided.

Blocking from end to end; the API gives it a thread. Knows nothing of HTTP.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import isqrt
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from service import deadlines
from service.confidence import confidences, decides
from service.errors import BadInputError, InferenceError
from service.evidence import evidence
from service.gallery.catalogue import Catalogue
from service.gallery.entries import Candidates, Picture, Vectors
from service.inference.features import ClipFeatures, Detections
from service.inference.manifest import Manifest
from service.inference.speech import Said
from service.listening import Listener
from service.media.clips import Frames
from service.media.images import decode_square
from service.settings import MediaSettings
from service.tracing import stage_span
from service.words import overlap

logger = logging.getLogger(__name__)

STAGES = ("queue", "decode", "detect", "encode", "search", "match")

Pixels = NDArray[np.uint8]


class ClipModel(Protocol):
    """What is asked of `service.inference.model.Model`."""

    @property
    def manifest(self) -> Manifest: ...

    def frame_size(self, *, detect: bool) -> int: ...

    def detect(self, frames: Pixels) -> Detections | None: ...

    def encode_clip(
        self,
        frames: Pixels,
        speech: str = "",
        patch_mask: NDArray[np.bool_] | None = None,
        scores: Vectors | None = None,
    ) -> ClipFeatures: ...

    def match(self, states: Vectors, clip: ClipFeatures) -> Vectors: ...

    def match_text(self, states: Vectors, clip: ClipFeatures) -> Vectors | None: ...

    def explain(self, picture: Pixels, clip: ClipFeatures, title: str = "") -> Vectors: ...


class Decoder(Protocol):
    """What is asked of `service.media.clips.ClipDecoder`."""

    def decode(self, clip: bytes, *, size: int, frames: int) -> Frames: ...


class Shops(Protocol):
    """What is asked of `service.gallery.shops.HotShops`."""

    def is_hot(self, shop_id: str) -> bool: ...

    def candidates(self, shop_id: str, embedding: Vectors) -> Candidates: ...


@dataclass(frozen=True)
class Query:
    """A clip as a file, or as pictures in the order they were filmed: one of the two."""

    shop_id: str
    clip: bytes | None = None
    pictures: tuple[bytes, ...] = ()
    explain: bool = False
    speech: str | None = None  # None: not told, so it may be listened to
    detect: bool = True  # look for the intended product's box first, where the bundle can


@dataclass(frozen=True)
class RankedProduct:
    """A product, scored by its best picture."""

    picture: Picture
    score: float
    coarse: float  # cosine of the clip's and the picture's embeddings
    match: float  # the matcher's logit
    text: float | None  # cosines of speech and title, 0 without a title; None without speech
    confidence: float


@dataclass(frozen=True)
class Explanation:
    """Where in the clip the score of the best product was read off.

    What is left of `attention` up to 1 lies on each frame's summary token, which has no place in
    the picture.
    """

    picture: Picture
    attention: NDArray[np.float64]  # [frames, rows, cols], of one query


@dataclass(frozen=True)
class Recognition:
    ranked: list[RankedProduct]  # every candidate product, best first
    decided: bool  # the first of them is the answer
    exact: bool
    frames: int
    detections: Detections | None  # None without a detector, or where none was asked for
    duration_s: float | None  # None for pictures
    partial: bool
    explanation: Explanation | None
    heard: list[Said] | None = None  # None: it was not listened to


@dataclass
class Stopwatch:
    """Milliseconds by stage; a stage that did not happen took none."""

    ms: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))
    asked: float = field(default_factory=time.perf_counter)

    def begin(self) -> None:
        """The work begins: until now it was in the queue."""
        self.ms["queue"] = 1e3 * (time.perf_counter() - self.asked)

    def end(self) -> None:
        """The answer is there."""
        self.ms["total"] = 1e3 * (time.perf_counter() - self.asked)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """What it waited for its turn is the queue's. Not begun once the request is over: raises as
        `deadlines.check` does.
        """
        deadlines.check()
        start, waited_s = time.perf_counter(), deadlines.waited_s()
        try:
            with stage_span(name):
                yield
        finally:
            waited_s = deadlines.waited_s() - waited_s
            self.ms["queue"] += 1e3 * waited_s
            self.ms[name] += 1e3 * (time.perf_counter() - start - waited_s)


class Recognizer:
    """Safe to share between threads."""

    def __init__(
        self,
        model: ClipModel,
        decoder: Decoder,
        shops: Shops,
        catalogue: Catalogue,
        limits: MediaSettings,
        *,
        listener: Listener | None = None,
    ) -> None:
        """Without `listener`, what is said in a clip is only known where the query tells it."""
        self._model = model
        self._listener = listener
        self._decoder = decoder
        self._shops = shops
        self._catalogue = catalogue
        self._limits = limits

    def recognize(self, query: Query, watch: Stopwatch) -> Recognition:
        """Which of the shop's products is shown.

        Raises ShopNotFoundError, ClipError, ImageError, UnavailableError.
        """
        if not self._shops.is_hot(query.shop_id):  # else it is there, and no catalogue is asked
            self._catalogue.check_shop(query.shop_id)
        with watch.stage("decode"):
            frames = self._frames(query)
        found = self._detect(query, frames.pixels, watch)
        with watch.stage("encode"):
            heard = self._heard(query)
            said = query.speech or " ".join(stretch.text for stretch in heard or ())
            clip = self._encoded(frames.pixels, said, found)
        with watch.stage("search"):
            candidates = self._shops.candidates(query.shop_id, clip.embedding)
        with watch.stage("match"):
            logits = self._model.match(candidates.states, clip)
            text = self._text(said, candidates, clip)
            ranked = rank(candidates, logits, self._model.manifest, text)
        explanation = None
        if query.explain and ranked:
            explanation = self._explain(query.shop_id, ranked[0].picture, clip, watch, found)
        return Recognition(
            ranked=ranked,
            decided=bool(ranked)
            and decides(ranked[0].confidence, self._model.manifest.calibration),
            exact=candidates.exact,
            frames=len(frames.pixels),
            detections=found,
            duration_s=frames.duration_s if query.clip is not None else None,
            partial=frames.partial,
            explanation=explanation,
            heard=heard,
        )

    def _text(self, said: str, candidates: Candidates, clip: ClipFeatures) -> Vectors | None:
        """[K], how near each candidate's title is to what is said, as a whole and word by word."""
        cosines = self._model.match_text(candidates.states, clip)
        if cosines is None:
            return None
        titles = [picture.title or "" for picture in candidates.pictures]
        return cosines + overlap(said, titles)

    def _heard(self, query: Query) -> list[Said] | None:
        """None where there is nothing to listen to, or no use for what is said."""
        if query.clip is None or query.speech is not None:
            return None
        if self._listener is None or self._model.manifest.text is None:
            return None
        return self._listener.listen(query.clip)

    def _detect(self, query: Query, frames: Pixels, watch: Stopwatch) -> Detections | None:
        if not query.detect or self._model.manifest.graphs.detector is None:
            return None
        with watch.stage("detect"):
            return self._model.detect(frames)

    def _encoded(self, frames: Pixels, said: str, found: Detections | None) -> ClipFeatures:
        """Of the frames in which the product is found, if it is in any."""
        if found is None:
            return self._model.encode_clip(frames, said)
        shown, scores = found.shown, found.scores * found.found
        return self._model.encode_clip(
            found.pixels[shown], said, found.patch_mask[shown], scores[shown]
        )

    def _frames(self, query: Query) -> Frames:
        most, size = self._model.manifest.dims.frames, self._model.frame_size(detect=query.detect)
        if query.clip is not None:
            return self._decoder.decode(query.clip, size=size, frames=most)
        chosen = evenly(len(query.pictures), most)
        pixels = [self._frame(query.pictures[place], place, size) for place in chosen]
        return Frames(np.stack(pixels), duration_s=0.0, partial=False)

    def _frame(self, data: bytes, place: int, size: int) -> Pixels:
        deadlines.check()
        try:
            return decode_square(data, size, self._limits).pixels
        except BadInputError as error:
            error.pointer = f"/frames/{place}"
            raise

    def _explain(
        self,
        shop_id: str,
        picture: Picture,
        clip: ClipFeatures,
        watch: Stopwatch,
        found: Detections | None,
    ) -> Explanation | None:
        """None where the picture was replaced or damaged since; the answer stands without it."""
        dims = self._model.manifest.dims
        try:
            with watch.stage("decode"):
                _, data = self._catalogue.picture(shop_id, picture.product_id, picture.image_id)
                pixels = decode_square(data, dims.image_size, self._limits).pixels
        except BadInputError as error:
            logger.warning("an answer goes without its explanation: %s", error)
            return None
        with watch.stage("encode"):
            attention = self._model.explain(pixels, clip, picture.title or "")[0]
        side = isqrt(dims.patches)
        frames = len(attention) // (1 + dims.patches)  # the rest is of speech
        patches = attention[: frames * (1 + dims.patches)].reshape(frames, -1)[:, 1:]
        seen = patches.reshape(-1, side, side).astype(np.float64)
        if found is not None:
            in_views, seen = seen, np.zeros((len(found.shown), side, side))
            seen[found.shown] = on_frames(in_views, found.views[found.shown])
        return Explanation(picture, seen)


def rank(
    candidates: Candidates, logits: Vectors, manifest: Manifest, text: Vectors | None = None
) -> list[RankedProduct]:
    """Products by their best picture's score, best first; logits [K] of the K candidates, and where
    something is said the cosines of speech and titles."""
    fusion = manifest.fusion
    scores = fusion.coarse * candidates.cosines.astype(np.float64) + fusion.match * logits
    if text is not None and fusion.text is not None:
        said = evidence(text.astype(np.float64), fusion.text.scale, fusion.text.doubt)
        scores += fusion.text.weight * said
    if not np.isfinite(scores).all():
        raise InferenceError("the model gave scores that are not finite numbers")
    best = _best_pictures(candidates.pictures, scores)
    sure = confidences(scores[best], manifest.calibration)
    return [
        RankedProduct(
            picture=candidates.pictures[row],
            score=float(scores[row]),
            coarse=float(candidates.cosines[row]),
            match=float(logits[row]),
            text=None if text is None else float(text[row]),
            confidence=float(confidence),
        )
        for row, confidence in zip(best, sure, strict=True)
    ]


def on_frames(attention: NDArray[np.float64], views: Vectors) -> NDArray[np.float64]:
    """Attention [F,G,G] to what views [F,4] show of frames -> to the frames, [F,G,G], of the same
    sum."""
    edges = np.linspace(0, 1, attention.shape[1] + 1)

    def shares(start: NDArray[np.float64], end: NDArray[np.float64]) -> NDArray[np.float64]:
        """[F,G,G]: how much of each part of a view lies in each part of the frame."""
        parts = start[:, None] + edges * (end - start)[:, None]
        low, high = parts[:, :-1, None], parts[:, 1:, None]
        inside: NDArray[np.float64] = np.minimum(high, edges[1:]) - np.maximum(low, edges[:-1])
        return inside.clip(0) / (high - low)

    left, top, right, bottom = views.astype(np.float64).T
    across, down = shares(left, right), shares(top, bottom)
    moved: NDArray[np.float64] = down.transpose(0, 2, 1) @ attention @ across
    return moved


def evenly(count: int, most: int) -> list[int]:
    """Up to `most` of `count` places, the middles of equal parts."""
    if count <= most:
        return list(range(count))
    return [int((part + 0.5) * count / most) for part in range(most)]


def _best_pictures(pictures: Sequence[Picture], scores: NDArray[np.float64]) -> list[int]:
    """The row of each product's best picture, best product first; ties by product id."""
    best: dict[str, int] = {}

    def place(row: int) -> tuple[float, str, str]:
        return -scores[row], pictures[row].product_id, pictures[row].image_id

    for row in sorted(range(len(pictures)), key=place):
        best.setdefault(pictures[row].product_id, row)
    return list(best.values())
