"""The journal of writes under way, durable beside the catalogue: what the index may not have yet.

A write puts a marker before it touches the product's record, and removes it once the index agrees
with the catalogue about the product. So whatever dies, and whenever, a marker says where to look:

    pending/<shop>/<product>/<token>       one a write
    pending/<shop>/shop/<token>            of the deletion of a whole shop

Each write has a marker of its own, so none is removed by another's success. A marker says which
record its write is to leave in the catalogue: when that is there, anybody may finish the rest;
until then it is the writer's own, for as long as a write may take.

Knows nothing of records or rows, nor of how they are brought into agreement.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Iterable
from datetime import datetime
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict

from service.gallery.catalogue import product_folder, shop_folder
from service.gallery.storage import Storage

logger = logging.getLogger(__name__)

_PENDING = "pending"
_SHOP = "shop"  # no product's folder is named so
_YOUNG_S = 30.0  # a marker is left to whoever works on it for so long,
_JOB_S = 3_600.0  # of a job that is under way, for so long,
_ABANDONED_S = 120.0  # and if its record never comes, for longer than any write takes
_FIRST_REST_S = 60.0  # of one that could not be settled; doubled each time,
_LONGEST_REST_S = 3_600.0  # up to this


class Marker(BaseModel):
    model_config = ConfigDict(frozen=True)

    key: str
    shop_id: str
    product_id: str | None  # None: the whole shop
    updated_at: datetime | None  # of the record that its write leaves; None: it leaves none
    of_job: bool = False  # the write ends with its record, and a job does the rest


class _Rest(NamedTuple):
    seconds: float
    until: float  # by this process's clock


class Pending:
    """Safe to share between threads.

    Every method that touches the storage may raise StorageFullError, CatalogueUnavailableError.
    """

    def __init__(self, storage: Storage, *, alone: bool) -> None:
        """`alone`: no other service writes there."""
        self._storage = storage
        self._alone = alone
        self._known: dict[str, Marker | None] = {}  # None: it cannot be read
        self._seen: dict[str, float] = {}  # since when, by this process's clock
        self._mine: set[str] = set()  # this process is at work on them
        self._failed: dict[str, Marker] = {}  # this process has given up on them
        self._resting: dict[str, _Rest] = {}
        self._guard = threading.Lock()  # of the five above

    @property
    def count(self) -> int:
        """Markers there are: as of the last look, with this process's own writes since."""
        with self._guard:
            return len(self._known)

    @property
    def lag_s(self) -> float:
        """Since the oldest of them was first seen here."""
        now = time.monotonic()
        with self._guard:
            return now - min(self._seen.values(), default=now)

    def open(
        self,
        shop_id: str,
        product_id: str | None,
        updated_at: datetime | None,
        *,
        of_job: bool = False,
    ) -> Marker:
        """A durable marker of a write that begins now; this process is at work on it."""
        marker = Marker(
            key=f"{_folder(shop_id, product_id)}/{uuid.uuid4().hex}",
            shop_id=shop_id,
            product_id=product_id,
            updated_at=updated_at,
            of_job=of_job,
        )
        key = marker.key
        with self._guard:
            self._mine.add(key)
            self._known[key] = marker
            self._seen[key] = time.monotonic()
        try:
            self._storage.put(key, marker.model_dump_json().encode())
        except BaseException:
            self._forget([key])
            raise
        return marker

    def leave(self, marker: Marker, *, failed: bool) -> None:
        """Leave a marker to others; to this process's next look if its write has failed."""
        with self._guard:
            self._mine.discard(marker.key)
            if failed:
                self._failed[marker.key] = marker

    def put_off(self, markers: Iterable[Marker]) -> None:
        """These could not be settled: they are due again later, and later each time."""
        with self._guard:
            for marker in markers:
                last = self._resting.get(marker.key)
                rest_s = min(2 * last.seconds, _LONGEST_REST_S) if last else _FIRST_REST_S
                self._resting[marker.key] = _Rest(rest_s, time.monotonic() + rest_s)

    def close(self, markers: Iterable[Marker]) -> None:
        """The index agrees with the catalogue about these."""
        keys = [marker.key for marker in markers]
        self._storage.delete(keys)
        self._forget(keys)

    def of(self, shop_id: str, product_id: str | None) -> list[Marker]:
        """A product's markers, or a shop's own; of writes under way too."""
        return self._read(self._storage.keys(_folder(shop_id, product_id)))

    def failed(self, shop_id: str) -> list[Marker]:
        """Those in the shop that this process has given up on."""
        with self._guard:
            return [marker for marker in self._failed.values() if marker.shop_id == shop_id]

    def all(self) -> list[Marker]:
        """Every marker, of writes under way too."""
        markers = self._read(self._storage.keys(_PENDING))
        with self._guard:
            there = {marker.key for marker in markers} | self._mine
            for key in self._known.keys() - there:
                self._drop(key)
        return markers

    def due(self) -> list[Marker]:
        """Those that are nobody's work just now, as far as this process can know."""
        markers = self.all()
        now = time.monotonic()
        with self._guard:
            return [
                marker
                for marker in markers
                if marker.key not in self._mine
                and (marker.key not in self._resting or self._resting[marker.key].until <= now)
                and (marker.key in self._failed or self._age_s(marker) >= _YOUNG_S)
            ]

    def waits_for_a_job(self, marker: Marker) -> bool:
        """Whether it is a job's to settle, as long as jobs are under way."""
        with self._guard:
            is_young = self._age_s(marker) < _JOB_S
            return marker.of_job and marker.key not in self._failed and is_young

    def is_abandoned(self, marker: Marker) -> bool:
        """Whether its writer has surely ended."""
        with self._guard:
            if marker.key in self._mine:
                return False
            return self._alone or marker.key in self._failed or self._age_s(marker) >= _ABANDONED_S

    def _age_s(self, marker: Marker) -> float:
        """Since it was first seen here: clocks of other machines are not asked."""
        return time.monotonic() - self._seen.get(marker.key, time.monotonic())

    def _read(self, keys: Iterable[str]) -> list[Marker]:
        found = []
        for key in keys:
            marker = self._marker(key)
            if marker is not None:
                found.append(marker)
        return found

    def _marker(self, key: str) -> Marker | None:
        """What never changes is read once."""
        with self._guard:
            self._seen.setdefault(key, time.monotonic())
            if key in self._known:
                return self._known[key]
        data = self._storage.get(key)
        if data is None:  # removed since it was listed
            self._forget([key])
            return None
        try:
            marker = Marker.model_validate_json(data)
        except ValueError as error:
            logger.error("a marker of the catalogue is damaged: %s: %s", key, error)
            marker = None
        with self._guard:
            self._known[key] = marker
        return marker

    def _forget(self, keys: Iterable[str]) -> None:
        with self._guard:
            for key in keys:
                self._drop(key)

    def _drop(self, key: str) -> None:
        self._known.pop(key, None)
        self._seen.pop(key, None)
        self._failed.pop(key, None)
        self._resting.pop(key, None)
        self._mine.discard(key)


def _folder(shop_id: str, product_id: str | None) -> str:
    if product_id is None:
        shop = shop_folder(shop_id).partition("/")[2]
        return f"{_PENDING}/{shop}/{_SHOP}"
    return f"{_PENDING}/{product_folder(shop_id, product_id).partition('/')[2]}"
