"""Taking work in: products made durable now, and a job that tells when they are searchable.

Knows batches, the catalogue's side of `service.indexing`, and jobs; nothing of HTTP.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import IO, Protocol

from service.errors import (
    BadInputError,
    BusyError,
    CoordinationError,
    IndexUnavailableError,
    ShopNotFoundError,
    StorageFullError,
    UnavailableError,
)
from service.gallery.catalogue import ProductRecord
from service.indexing import NewProduct
from service.jobs.batch import BatchLimits, Item, check_batch, items, open_batch
from service.jobs.queue import Work, WorkQueue
from service.jobs.records import ItemResult, ItemStatus, Job, Jobs, NewJob

logger = logging.getLogger(__name__)

_WRITERS = 4  # of all batches together; a write is mostly waiting for the disk
_ITEMS_A_STEP = 16
_BYTES_A_STEP = 16_000_000


class Accepter(Protocol):
    """What is asked of `service.indexing.Indexer`."""

    def accept(self, product: NewProduct) -> ProductRecord: ...

    def backlog(self) -> int: ...


@dataclass(frozen=True)
class _Read:
    """An item that is here: with its product, or what is wrong with it."""

    result: ItemResult
    product: NewProduct | BadInputError


class Acceptance:
    """Safe to share between threads.

    Every method may raise StorageFullError or UnavailableError.
    """

    def __init__(
        self, jobs: Jobs, queue: WorkQueue, indexer: Accepter, limits: BatchLimits, max_backlog: int
    ) -> None:
        self._jobs = jobs
        self._queue = queue
        self._indexer = indexer
        self._limits = limits
        self._max_backlog = max_backlog
        self._writers = ThreadPoolExecutor(_WRITERS, thread_name_prefix="lpr-acceptance")

    def check_backlog(self, more: int = 1) -> None:
        """Raises IndexUnavailableError if so many more products are too many."""
        waiting = self._indexer.backlog()
        if waiting + more > self._max_backlog:
            raise IndexUnavailableError(
                f"{waiting} products wait for the index already; send this again later"
            )

    def one(self, product: NewProduct) -> Job:
        """Make a product durable. Raises as `Indexer.accept`, and IndexUnavailableError."""
        self.check_backlog()
        self._indexer.accept(product)
        return self.stored(product.shop_id, product.product_id)

    def stored(self, shop_id: str, product_id: str) -> Job:
        """The job of a product that is durable, and shall become searchable."""
        item = ItemResult(item=0, shop_id=shop_id, product_id=product_id, status=ItemStatus.QUEUED)
        job = self._jobs.begin()
        job.add([item])
        return self._complete(job)

    def batch(
        self, file: IO[bytes], shop_id: str | None, check_shop: Callable[[str], None]
    ) -> Generator[Job | None]:
        """Make the products of a batch durable, a few with each step, and yield their job last.
        They are made searchable from then on, while the others are still on their way.

        `shop_id` is of the items that name none, `check_shop` raises BadInputError for shops that
        are not the caller's. Raises BatchError, UnsupportedMediaTypeError, IndexUnavailableError.
        """
        with open_batch(file, self._limits) as batch:
            self.check_backlog(check_batch(batch, shop_id, self._limits.batch_bytes))
            job = self._jobs.begin()
            try:
                for place, few in enumerate(_few(items(batch, shop_id), check_shop)):
                    if place:  # so that a small batch is one step, and waits for one turn only
                        yield None
                    self._hand_out(job.job_id, job.add(self._writers.map(self._accepted, few)))
                done = self._complete(job)
            except BaseException:
                with suppress(StorageFullError, UnavailableError):  # then it is removed later
                    job.discard()
                raise
        yield done

    def close(self) -> None:
        self._writers.shutdown(cancel_futures=True)

    def _accepted(self, read: _Read) -> ItemResult:
        if isinstance(read.product, BadInputError):
            return read.result.turned(ItemStatus.FAILED, read.product)
        try:
            self._indexer.accept(read.product)
        except (BadInputError, BusyError) as error:
            return read.result.turned(ItemStatus.FAILED, error)
        return read.result

    def _complete(self, new: NewJob) -> Job:
        job = new.complete()
        if job.ended_at is None:
            self._hand_out(job.job_id, job.pieces[-1:])
        return job

    def _hand_out(self, job_id: str, pieces: Sequence[int]) -> None:
        try:
            self._queue.add(Work(job_id, number) for number in pieces)
        except CoordinationError as error:
            logger.warning("a job is found by the next look for unfinished ones: %s", error)


def _few(batch: Iterator[Item], check_shop: Callable[[str], None]) -> Iterator[list[_Read]]:
    """The items of a batch, with their pictures: a few at a time, and of large ones fewer."""
    few: list[_Read] = []
    size = 0
    for item in batch:
        read = _read(item, check_shop)
        few.append(read)
        if isinstance(read.product, NewProduct):
            size += sum(map(len, read.product.images))
        if len(few) == _ITEMS_A_STEP or size >= _BYTES_A_STEP:
            yield few
            few, size = [], 0
    if few:
        yield few


def _read(item: Item, check_shop: Callable[[str], None]) -> _Read:
    result = ItemResult(
        item=item.place,
        shop_id=item.shop_id,
        product_id=item.product_id,
        status=ItemStatus.QUEUED,
    )
    try:
        if item.shop_id is not None:
            check_shop(item.shop_id)
        return _Read(result, item.product())
    except ShopNotFoundError as error:  # another's, whose the job is not
        return _Read(result.model_copy(update={"shop_id": None}), error)
    except BadInputError as error:
        return _Read(result, error)
