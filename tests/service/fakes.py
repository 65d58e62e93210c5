"""Small stand-ins for the service's heavy parts, each with only what is asked of it."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
from PIL import Image

from service.coordination.locks import Locks
from service.encoding import Encoder
from service.errors import IndexUnavailableError
from service.gallery.catalogue import Catalogue
from service.gallery.entries import Candidates, Entries, Picture
from service.gallery.pending import Pending
from service.gallery.rows import Row, row_id
from service.gallery.storage import Storage
from service.indexing import Indexer
from service.inference.features import ClipFeatures, Detections, PictureFeatures
from service.jobs.records import Jobs
from service.media.clips import Frames
from service.settings import MediaSettings
from service.settling import Gallery, Kept, Projection, Settler

SIZE, PATCHES, FRAMES = 8, 4, 3


def png(colour: tuple[int, int, int], side: int = 32) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (side, side), colour).save(buffer, "PNG")
    return buffer.getvalue()


RED, GREEN, BLUE = png((220, 20, 20)), png((20, 220, 20)), png((20, 20, 220))


class FakeModel:
    """Sees the mean colour: its direction is the embedding, its values the match state."""

    def __init__(self) -> None:
        self.manifest = SimpleNamespace(
            bundle_id="fake-000000000000",
            dims=SimpleNamespace(
                image_size=SIZE, patches=PATCHES, frames=FRAMES, embedding=3, match_state=3
            ),
            fusion=SimpleNamespace(coarse=1.0, match=0.5, text=None),
            text=None,
            graphs=SimpleNamespace(detector=None),
            calibration=SimpleNamespace(temperature=0.1, none_logit=2.0, threshold=0.5),
        )

        self.seen: np.ndarray | None = None  # what the last clip was encoded of,
        self.patch_mask: np.ndarray | None = None  # and with,
        self.scores: np.ndarray | None = None  # these of a detector

    def encode_pictures(self, pictures: np.ndarray, titles: Sequence[str] = ()) -> PictureFeatures:
        means = pictures.reshape(len(pictures), -1, 3).mean(1).astype(np.float32) / 255
        return PictureFeatures(means / np.linalg.norm(means, axis=1, keepdims=True), means)

    def frame_size(self, *, detect: bool) -> int:
        return 2 * SIZE if detect and self.manifest.graphs.detector else SIZE

    def detect(self, frames: np.ndarray) -> Detections:
        """A box in the left half of every frame but the first; a view of the upper left quarter."""
        found = np.arange(len(frames)) > 0
        boxes = np.tile(np.array([0.0, 0.0, 0.5, 1.0], np.float32), (len(frames), 1))
        patch_mask = np.ones((len(frames), self.manifest.dims.patches), np.bool_)
        scores, views = np.full(len(frames), 0.75, np.float32), boxes * np.float32([1, 1, 1, 0.5])
        return Detections(boxes, scores, found, patch_mask, views, frames[:, :SIZE, :SIZE])

    def encode_clip(
        self,
        frames: np.ndarray,
        speech: str = "",
        patch_mask: np.ndarray | None = None,
        scores: np.ndarray | None = None,
    ) -> ClipFeatures:
        self.seen, self.patch_mask, self.scores = frames, patch_mask, scores
        features = self.encode_pictures(frames)
        mean = features.embedding.mean(0)
        tokens = np.repeat(features.match_state, 1 + PATCHES, 0)
        return ClipFeatures(
            mean / np.linalg.norm(mean), tokens, tokens, np.ones(len(tokens), np.bool_)
        )

    def match(self, states: np.ndarray, clip: ClipFeatures) -> np.ndarray:
        return -np.abs(states - clip.values.mean(0)).sum(1).astype(np.float32)

    def match_text(self, states: np.ndarray, clip: ClipFeatures) -> None:
        return None

    def explain(self, picture: np.ndarray, clip: ClipFeatures, title: str = "") -> np.ndarray:
        length = len(clip.keys)
        return np.arange((1 + PATCHES) * length, dtype=np.float32).reshape(1 + PATCHES, length)


class FakeDecoder:
    """A "clip" of three bytes is that colour, for two seconds."""

    def decode(self, clip: bytes, *, size: int, frames: int) -> Frames:
        pixels = np.empty((frames, size, size, 3), np.uint8)
        pixels[:] = np.frombuffer(clip, np.uint8)
        return Frames(pixels, duration_s=2.0, partial=False)


@dataclass
class FakeIndex:
    """A dictionary of rows; `down` makes it fail as Milvus does."""

    rows: dict[str, tuple[str, Picture, np.ndarray, np.ndarray]] = field(default_factory=dict)
    down: bool = False
    is_filling: bool = False
    loads: int = 0
    searches: int = 0

    def complete(self) -> None:
        self._check()
        self.is_filling = False

    def upsert(self, entries: Entries) -> None:
        self._check()
        for picture, embedding, state in zip(
            entries.pictures, entries.embeddings, entries.states, strict=True
        ):
            key = row_id(entries.shop_id, picture)
            self.rows[key] = (entries.shop_id, picture, embedding, state)

    def delete(self, row_ids: Iterable[str]) -> None:
        self._check()
        for key in row_ids:
            self.rows.pop(key, None)

    def scan(self, shop_id: str | None = None) -> Iterator[Row]:
        self._check()
        for key, row in list(self.rows.items()):
            if shop_id in (None, row[0]):
                yield Row(key, row[0], row[1].product_id)

    def rows_of(self, shop_id: str, product_ids: Iterable[str]) -> Iterator[Row]:
        wanted = set(product_ids)
        return (row for row in self.scan(shop_id) if row.product_id in wanted)

    def load(self, shop_id: str, limit: int, since: int | None = None) -> Entries:
        self._check()
        self.loads += 1
        return self._entries(shop_id, limit)

    def search(
        self, shop_id: str, embedding: np.ndarray, limit: int, since: int | None = None
    ) -> Candidates:
        self._check()
        self.searches += 1
        entries = self._entries(shop_id, len(self.rows))
        cosines = entries.embeddings @ embedding
        best = np.argsort(-cosines)[:limit]
        pictures = tuple(entries.pictures[row] for row in best)
        return Candidates(pictures, cosines[best], entries.states[best], exact=False)

    def _entries(self, shop_id: str, limit: int) -> Entries:
        rows = [row for row in self.rows.values() if row[0] == shop_id][:limit]
        return Entries(
            shop_id,
            tuple(row[1] for row in rows),
            np.array([row[2] for row in rows], np.float32).reshape(-1, 3),
            np.array([row[3] for row in rows], np.float32).reshape(-1, 3),
        )

    def pictures(self, shop_id: str) -> set[tuple[str, str]]:
        return {
            (row[1].product_id, row[1].image_id) for row in self.rows.values() if row[0] == shop_id
        }

    def _check(self) -> None:
        if self.down:
            raise IndexUnavailableError("down")


@dataclass
class FakeEpochs:
    """Counts; `down` is a Redis that is away."""

    counts: dict[str, int] = field(default_factory=dict)
    down: bool = False

    def read(self, shop_id: str) -> str | None:
        return None if self.down else str(self.counts.get(shop_id, 0))

    def renew(self, shop_id: str) -> bool:
        self.counts[shop_id] = self.counts.get(shop_id, 0) + (not self.down)
        return not self.down

    def catch_up(self) -> bool:
        return not self.down


@dataclass
class FakeProjections:
    """The active bundle's and others beside it; `away`: one more is kept, and not open here."""

    active: Projection
    others: list[Projection] = field(default_factory=list)
    away: bool = False

    def kept(self) -> Kept:
        return Kept([self.active, *self.others], complete=not self.away)


class FakeService:
    """The writing side of a service: real but for its model, its index and its epochs."""

    def __init__(
        self,
        storage: Storage,
        index: FakeIndex,
        epochs: FakeEpochs,
        locks: Locks | None = None,
    ) -> None:
        """Without locks it is the only one that writes."""
        self.catalogue = Catalogue(storage)
        self.pending = Pending(storage, alone=locks is None)
        locks = locks or Locks(None)
        encoder = Encoder(FakeModel(), self.catalogue, MediaSettings())
        self.projections = FakeProjections(Projection(encoder, index))
        gallery = Gallery(self.catalogue, self.projections, epochs, self.pending, locks)
        self.jobs = Jobs(storage, keep_s=3600)
        self.settler = Settler(gallery, self.jobs.are_under_way)
        self.indexer = Indexer(gallery, self.settler)
