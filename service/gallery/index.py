"""The vector index: Milvus, through pymilvus, embedded (Milvus Lite) or a server alike.

One row a picture (`service.gallery.rows`), in a collection of the bundle's own.

Knows nothing of files or models. Every call has a deadline, every foreign error becomes
IndexUnavailableError.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import wraps
from itertools import islice
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # its own words are no JSON, and our log is

import grpc
import numpy as np
from pymilvus import DataType, MilvusClient
from pymilvus.exceptions import MilvusException

from service import deadlines
from service.breaker import Breaker
from service.errors import IndexUnavailableError, StartupError
from service.gallery import rows
from service.gallery.entries import Candidates, Entries, Vectors
from service.gallery.rows import Row
from service.settings import MilvusSettings
from service.telemetry import Telemetry

# pymilvus pings an idle connection every 10 s; Lite's server hangs up on more than one in 5 min.
_LITE_CHANNEL = {"grpc.keepalive_time_ms": 360_000}
_WRITE_ROWS = 500
_READ_ROWS = 1_000
_MOST_ROWS = 16_000  # of one answer; Milvus gives 16,384
_UNFLUSHED_ROWS = 32
_SLOW_S = 3.0  # a call to a server that takes longer hangs
_LONG_LOAD = 4_000  # rows; more of them may take longer than that
_KEYS = 500  # in one filter
_LOOKS = 2  # at Lite, before its writers have to wait for the next
_LOST = (100, 101)  # Milvus's codes: there is no such collection, it is not loaded

P = ParamSpec("P")
T = TypeVar("T")


class _MovedError(IndexUnavailableError):
    """The collection has another name now, or is another; the next call finds it."""


def _guarded(method: Callable[Concatenate[VectorIndex, P], T]) -> Callable[..., T]:
    """Refused at once with IndexUnavailableError while Milvus does not answer.

    What missed the collection because it was just renamed is done again, and may be done twice.
    """

    @wraps(method)
    def guarded(index: VectorIndex, *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            with index.breaker.call():
                return method(index, *args, **kwargs)
        except _MovedError:
            with index.breaker.call():
                return method(index, *args, **kwargs)

    return guarded


def _whole(method: Callable[Concatenate[VectorIndex, P], T]) -> Callable[..., T]:
    """Done again where Lite flushed meanwhile; at last while nobody writes.

    Lite's readers look at its files first and at its memory then: rows that go from memory to a
    file between the two looks are in neither, and those that were deleted are back.
    """

    @wraps(method)
    def whole(index: VectorIndex, *args: P.args, **kwargs: P.kwargs) -> T:
        for _ in range(_LOOKS):
            flushes = index._flushes
            found = method(index, *args, **kwargs)
            if flushes == index._flushes and flushes % 2 == 0:
                return found
        with index._writing:
            return method(index, *args, **kwargs)

    return whole


class WriteTime:
    """When this process last wrote to Milvus, by Milvus's clock. Safe to share between threads."""

    def __init__(self) -> None:
        self._latest = 0
        self._guard = threading.Lock()

    def latest(self) -> int | None:
        """None where there was none yet, or the clock cannot be read."""
        return self._latest or None

    def note(self, timestamp: int) -> None:
        with self._guard:
            self._latest = max(self._latest, timestamp)


class VectorIndex:
    """A catalogue's collection for one bundle.

    Safe to share between threads, and a server's between services.
    """

    def __init__(
        self,
        settings: MilvusSettings,
        lite_path: Path,
        *,
        catalogue_id: str,
        bundle_id: str,
        telemetry: Telemetry,
        written: WriteTime,
        embedding: int,
        match_state: int,
    ) -> None:
        """Connect, and load the collection; one that is missing `is_filling` until `complete`.

        `embedding` and `match_state` are the vectors' lengths; `written` is told of every write.
        Raises StartupError.
        """
        self.embedded = settings.uri is None
        # Of another catalogue's rows in the same Milvus it would be thought that nobody needs them.
        self.collection = _name("products", catalogue_id, bundle_id)
        self.alias = _name("products", catalogue_id)  # of the collection whose bundle is served
        self._longest_s = settings.timeout_s
        # Lite is no server: it does not hang, and its large reads take long.
        self.breaker = Breaker(
            "Milvus",
            self._reconnect,
            IndexUnavailableError,
            slow_s=None if self.embedded else _SLOW_S,
        )
        self._unflushed = 0
        self._flushes = 0  # of Lite, begun and ended: odd during one
        self._telemetry = telemetry
        self._written = written
        self._target = self.collection
        self._unfilled = f"{self.collection}_filling"
        self._is_dropped = False
        # Lite mixes up its writes when several threads write at once; a server does not.
        self._writing: AbstractContextManager[object] = (
            threading.Lock() if self.embedded else nullcontext()
        )
        self._embedding = embedding
        self._match_state = match_state
        try:
            with self._call("open"):
                self._client = MilvusClient(
                    uri=settings.uri or str(lite_path),
                    token=settings.token.get_secret_value() if settings.token else "",
                    timeout=settings.timeout_s,
                    grpc_options=_LITE_CHANNEL if self.embedded else {},
                )
                self._open()
        except IndexUnavailableError as error:
            where = settings.uri or lite_path
            raise StartupError(f"the vector index at {where} cannot be used: {error}") from error

    def close(self) -> None:
        self.breaker.close()
        with self._call("close"):
            self._client.close()

    @property
    def is_filling(self) -> bool:
        """Whether it takes writes only: what the catalogue has is not all there yet."""
        return self._target != self.collection

    @property
    def _timeout_s(self) -> float:
        """Of the next call: no longer than the request that it is made for may take."""
        return deadlines.timeout_s(self._longest_s)

    def drop(self) -> None:
        """Remove the collection, with all that is in it; nothing else can be asked afterwards."""
        self._is_dropped = True
        self.breaker.close()  # or it might make the collection again
        with self._call("drop"):
            for name in (self.collection, self._unfilled):
                if self._client.has_collection(name, timeout=self._timeout_s):
                    self._client.drop_collection(name, timeout=self._timeout_s)

    def take_alias(self) -> None:
        """Let the alias lead to this collection, for whoever looks at Milvus from outside."""
        with self._call("alias"):
            client = self._client
            if self.alias in client.list_aliases(timeout=self._timeout_s)["aliases"]:
                client.alter_alias(self.collection, self.alias, timeout=self._timeout_s)
            else:
                client.create_alias(self.collection, self.alias, timeout=self._timeout_s)

    @_guarded
    def upsert(self, entries: Entries) -> None:
        """Add or overwrite rows; searchable when this returns. Raises InferenceError on NaN."""
        batches = _batches(rows.written(entries), _WRITE_ROWS)
        with self._call("upsert"), self._writing:
            for batch in batches:
                self._client.upsert(self._target, batch, timeout=self._timeout_s)
                self.breaker.progress()
                self._flush_after(len(batch))
            self._note_write()

    @_guarded
    def delete(self, row_ids: Iterable[str]) -> None:
        with self._call("delete"), self._writing:
            for batch in _batches(row_ids, _WRITE_ROWS):
                self._client.delete(self._target, ids=batch, timeout=self._timeout_s)
                self.breaker.progress()
            self._note_write()

    def scan(self, shop_id: str | None = None) -> Iterator[Row]:
        """A shop's rows, in no order; or all, of which those may be missing that Lite just flushes.

        Who compares everything looks again at what differs, and a second scan would take long.
        """
        if shop_id is None:
            yield from self._query_rows("")
        else:
            yield from self._whole_query(rows.in_shop(shop_id))

    @_guarded
    def count(self) -> int:
        """How many rows there are; on a server, as of a moment ago."""
        with self._call("count"):
            [row] = self._client.query(
                self._target,
                filter="",
                output_fields=["count(*)"],
                consistency_level="Eventually",
                timeout=self._timeout_s,
            )
            return int(row["count(*)"])

    def rows_of(self, shop_id: str, product_ids: Iterable[str]) -> Iterator[Row]:
        """The rows of some products of a shop."""
        for batch in _batches(product_ids, _KEYS):
            filter_ = rows.of_products(shop_id, batch)
            few = self._first_rows(filter_)
            if len(few) == _MOST_ROWS:  # there may be more
                few = self._whole_query(filter_)
            yield from few

    @_whole
    @_guarded
    def _first_rows(self, filter_: str) -> list[Row]:
        """In one call; all pages of `_query_rows` are four."""
        with self._call("keys"):
            found = self._client.query(
                self._target,
                filter=filter_,
                output_fields=rows.OWNER,
                limit=_MOST_ROWS,
                timeout=self._timeout_s,
            )
        return [Row.of(row) for row in found]

    @_whole
    def _whole_query(self, filter_: str) -> list[Row]:
        return list(self._query_rows(filter_))

    @_guarded
    def _query_rows(self, filter_: str) -> list[Row]:
        found: list[Row] = []
        with self._call("keys"):
            pages = self._client.query_iterator(
                self._target,
                batch_size=_READ_ROWS,
                filter=filter_,
                output_fields=rows.OWNER,
                timeout=self._timeout_s,
            )
            while page := pages.next():
                found += map(Row.of, page)
                self.breaker.progress()
            pages.close()
        return found

    @_whole
    def load(self, shop_id: str, limit: int, since: int | None = None) -> Entries:
        """Up to `limit` pictures of a shop, in no order, in one query. `since`: as in `search`."""
        self._check_filled()
        with self.breaker.call(is_long=limit > _LONG_LOAD), self._call("load"):
            found = self._client.query(
                self._target,
                filter=rows.in_shop(shop_id),
                output_fields=[*rows.PICTURE, rows.EMBEDDING],
                limit=limit,
                timeout=self._timeout_s,
                **_consistency(since),
            )
            return Entries(
                shop_id,
                rows.pictures(found),
                rows.embeddings(found, self._embedding),
                rows.states(found, self._match_state),
            )

    @_whole
    def search(
        self, shop_id: str, embedding: Vectors, limit: int, since: int | None = None
    ) -> Candidates:
        """The shop's pictures nearest to a clip's embedding [E], best first.

        With all that was written by the time `since` of Milvus's clock; None: by now, for which a
        server waits 200 ms and more.
        """
        self._check_filled()
        with self.breaker.call(), self._call("search"):
            (hits,) = self._client.search(
                self._target,
                data=[embedding],
                anns_field=rows.EMBEDDING,
                filter=rows.in_shop(shop_id),
                limit=limit,
                output_fields=rows.PICTURE,
                # A graph search under a filter may end early: look wider than what is asked.
                search_params={"params": {} if self.embedded else {"ef": max(512, 4 * limit)}},
                timeout=self._timeout_s,
                **_consistency(since),
            )
            found = [hit["entity"] for hit in hits]
            return Candidates(
                rows.pictures(found),
                np.array([hit["distance"] for hit in hits], np.float32),
                rows.states(found, self._match_state),
                exact=False,
            )

    def complete(self) -> None:
        """All of the catalogue is in it: let it be read, by every replica."""
        if self.is_filling:
            with self._writing:
                with self._call("complete"), suppress(MilvusException):  # another has done it
                    self._client.rename_collection(
                        self._target, self.collection, timeout=self._timeout_s
                    )
                self._find()
        if self.is_filling:
            raise IndexUnavailableError("the index is being filled, by another replica too")

    @_guarded
    def _find(self) -> None:
        with self._call("open"):
            self._open()

    def _check_filled(self) -> None:
        """Raises IndexUnavailableError until it is; looked up outside what counts as a failure."""
        if self.is_filling:
            self._find()
        if self.is_filling:
            raise IndexUnavailableError("the index is being filled from the catalogue; ask again")

    def _reconnect(self) -> None:
        with self._call("open"):
            self._open()

    @contextmanager
    def _call(self, name: str) -> Iterator[None]:
        with self._telemetry.call("milvus", name), _index_errors():
            try:
                yield
            except MilvusException as error:
                if error.code in _LOST and name != "open" and not self._is_dropped:
                    self._open()
                    raise _MovedError(f"Milvus had lost the collection: {error}") from error
                raise

    def _open(self) -> None:
        """Load the collection: that of a server that was started again is there and not loaded.

        Where it is missing, for a new bundle or because Milvus has lost it, another name is taken
        until it is filled, so that no replica ever reads from half of it.
        """
        there = self._client.has_collection(self.collection, timeout=self._timeout_s)
        target = self.collection if there else self._unfilled
        if not there and not self._client.has_collection(target, timeout=self._timeout_s):
            self._create(target)
        self._client.load_collection(target, timeout=self._timeout_s)
        self._target = target

    def _create(self, name: str) -> None:
        schema = self._client.create_schema(auto_id=False, enable_dynamic_field=False)
        for field, length in rows.TEXTS.items():
            is_key = field == rows.KEY
            schema.add_field(field, DataType.VARCHAR, is_primary=is_key, max_length=length)
        schema.add_field(rows.EMBEDDING, DataType.FLOAT_VECTOR, dim=self._embedding)
        self._client.create_collection(
            name,
            schema=schema,
            index_params=self._index_params(),
            # A product is found as soon as its post was answered, by any replica; reads that know
            # how late it was written ask for that. Lite is always this way and would hide a weaker
            # choice.
            consistency_level="Strong",
            timeout=self._timeout_s,
        )

    def _index_params(self) -> Any:
        params = self._client.prepare_index_params()
        if self.embedded:  # at Lite's sizes its graph is no faster than looking at every row
            kind: dict[str, Any] = {"index_type": "FLAT"}
        else:
            kind = {"index_type": "HNSW", "params": {"M": 16, "efConstruction": 200}}
        params.add_index(rows.EMBEDDING, metric_type="IP", **kind)
        return params

    def _note_write(self) -> None:
        """Ask Milvus for the time: what a delete answers is earlier than its effect.

        Lite tells none, complains of being asked, and needs none: its reads see every write.
        """
        if self.embedded:
            return
        server = self._client._get_connection()  # the client itself has no word for it
        self._written.note(server.alloc_timestamp(timeout=self._timeout_s))

    def _flush_after(self, written: int) -> None:
        """Keep Lite's unflushed rows few: each costs a search 50 us, and a flush costs 20 ms.

        Durability is the catalogue's; and a server flushes by itself and minds being asked.
        """
        self._unflushed += written
        if self.embedded and self._unflushed >= _UNFLUSHED_ROWS:
            self._flushes += 1
            try:
                self._client.flush(self._target, timeout=self._timeout_s)
            finally:
                self._flushes += 1
            self._unflushed = 0


def _consistency(since: int | None) -> dict[str, Any]:
    """The collection's own is Strong; an exact time costs nothing once it has passed."""
    if since is None:
        return {}
    return {"consistency_level": "Customized", "guarantee_timestamp": since}


def _name(*parts: str) -> str:
    return re.sub(r"\W", "_", "_".join(parts), flags=re.ASCII)


def _batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    remaining = iter(items)
    while batch := list(islice(remaining, size)):
        yield batch


@contextmanager
def _index_errors() -> Iterator[None]:
    try:
        yield
    except (MilvusException, grpc.RpcError, grpc.FutureTimeoutError, OSError) as error:
        deadlines.check()  # a call that had no longer than its request says nothing of Milvus
        raise IndexUnavailableError(f"Milvus failed: {error or type(error).__name__}") from error
    except ValueError as error:  # grpc's word for a channel that was closed
        raise IndexUnavailableError(f"Milvus cannot be reached: {error}") from error
