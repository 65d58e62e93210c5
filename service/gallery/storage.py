"""Where the catalogue's bytes lie: a few whole files by key, in a directory or in an object store.

A key is a path of plain ASCII names (`shops/tea-1f…/record.json`). Nobody ever sees half a file:
one is there as it was put, or it is not there; and what a call did is durable when it returns.

Knows nothing of what the files mean. A local directory is written under a temporary name, synced
and renamed, then its folder is synced; an object store does the like by itself. obstore speaks to
S3 because it is typed, needs no other package, lets go of the GIL, and bounds a whole call in time
where boto3 bounds only the silence between two bytes.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import threading
import uuid
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Protocol
from urllib.parse import urlsplit

from obstore import exceptions as s3
from obstore.store import S3Store

from service.breaker import Breaker
from service.errors import CatalogueUnavailableError, StorageFullError
from service.settings import CatalogueSettings

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig, S3Config

logger = logging.getLogger(__name__)

_TEMPORARY = ".tmp"
_TRIES = 3  # of a call to an object store
_PARALLEL = 8  # files on their way to an object store at once
# By status as AWS and MinIO say it, by code as MinIO and Ceph say it of a bucket's quota.
_FULL = re.compile(r"status code: 507|<Code>\w*(StorageFull|QuotaExceeded)</Code>")


class Storage(Protocol):
    """Safe to share between threads and, where its place is shared, between services.

    Every method may raise StorageFullError or CatalogueUnavailableError.
    """

    def put(self, key: str, data: bytes) -> None:
        """Store a file, in the place of one that is there."""

    def put_many(self, files: Mapping[str, bytes]) -> None:
        """Store several in no order; where this raises, some of them may be there."""

    def put_new(self, key: str, data: bytes) -> bool:
        """Store a file unless there is one. Returns whether there was none."""

    def get(self, key: str) -> bytes | None:
        """A file as it was put; None where there is none."""

    def delete(self, keys: Iterable[str]) -> None:
        """Remove files; one that is not there is as good as removed."""

    def keys(self, folder: str, after: str | None = None) -> Iterator[str]:
        """Keys of all files in a folder and those below it, in order, from the first > `after`."""


class LocalStorage:
    """A directory of this machine."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._folders = threading.Lock()  # no folder goes between its making and its first file
        with _disk_errors():
            _make_folder(root)

    def put(self, key: str, data: bytes) -> None:
        self.put_many({key: data})

    def put_many(self, files: Mapping[str, bytes]) -> None:
        with _disk_errors():
            for key, data in files.items():
                self._write(self._root / key, data)
            for folder in {(self._root / key).parent for key in files}:
                self._sync(folder)

    def put_new(self, key: str, data: bytes) -> bool:
        path = self._root / key
        with _disk_errors():
            temporary = self._write_temporary(path, data)
            try:
                path.hardlink_to(temporary)
                self._sync(path.parent)
            except FileExistsError:
                return False
            finally:
                temporary.unlink(missing_ok=True)
            return True

    def get(self, key: str) -> bytes | None:
        with _disk_errors():
            try:
                return (self._root / key).read_bytes()
            except FileNotFoundError:
                return None

    def delete(self, keys: Iterable[str]) -> None:
        with _disk_errors():
            folders = set()
            for key in keys:
                path = self._root / key
                with suppress(FileNotFoundError):
                    path.unlink()
                    folders.add(path.parent)
            # What goes with its folder is gone for good once that is: one sync for all of them.
            for folder in {self._remove_empty(folder) for folder in folders}:
                self._sync(folder)

    def keys(self, folder: str, after: str | None = None) -> Iterator[str]:
        with _disk_errors():
            yield from self._walk(folder, after)

    def sweep(self) -> None:
        """Remove temporary files of crashes; only while nobody writes."""
        with _disk_errors():
            for path in list(self._root.rglob(f"*{_TEMPORARY}")):
                path.unlink(missing_ok=True)
                self._remove_empty(path.parent)

    def _walk(self, folder: str, after: str | None) -> Iterator[str]:
        """In the order that an object store lists in: that of the whole keys."""
        try:
            with os.scandir(self._root / folder) as entries:
                names = sorted(
                    f"{entry.name}/" if entry.is_dir() else entry.name for entry in entries
                )
        except (FileNotFoundError, NotADirectoryError):
            return
        for name in names:
            key = f"{folder}/{name}" if folder else name
            if key.endswith("/"):
                if after is None or key > after or after.startswith(key):
                    yield from self._walk(key.removesuffix("/"), after)
            elif not key.endswith(_TEMPORARY) and (after is None or key > after):
                yield key

    def _write(self, path: Path, data: bytes) -> None:
        """Durable once its folder is synced."""
        temporary = self._write_temporary(path, data)
        try:
            temporary.replace(path)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise

    def _write_temporary(self, path: Path, data: bytes) -> Path:
        """The data, synced, under a name of its own beside `path`."""
        temporary = path.with_name(f"{uuid.uuid4().hex}{_TEMPORARY}")
        with self._folders:
            _make_folder(path.parent)
            file = temporary.open("xb")
        try:
            with file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
        return temporary

    def _sync(self, folder: Path) -> None:
        """A folder; or, where another thread just removed it as empty, the one that it was in."""
        try:
            _sync_folder(folder)
        except FileNotFoundError:
            if folder == self._root:
                raise
            self._sync(folder.parent)

    def _remove_empty(self, folder: Path) -> Path:
        """A folder, if nothing is in it any more, and then those around it likewise; the first one
        that stays."""
        with self._folders, suppress(OSError):  # the usual case: something is
            while folder != self._root:
                with suppress(FileNotFoundError):  # another thread has removed it as empty
                    folder.rmdir()
                folder = folder.parent
        return folder


class S3Storage:
    """A bucket, or a folder of one, of S3 or of a store that speaks like it.

    One that is away is left alone until it answers again: each call would take the timeout's length
    of a thread.
    """

    def __init__(self, settings: CatalogueSettings) -> None:
        """Connect to `settings.url`, s3://bucket/folder. Raises CatalogueUnavailableError."""
        url = urlsplit(settings.url or "")
        config: S3Config = {
            "region": settings.region,
            "virtual_hosted_style_request": settings.endpoint is None,
        }
        if settings.endpoint is not None:
            config["endpoint"] = settings.endpoint
        if settings.access_key_id is not None and settings.secret_access_key is not None:
            config["access_key_id"] = settings.access_key_id
            config["secret_access_key"] = settings.secret_access_key.get_secret_value()
        limit = timedelta(seconds=settings.timeout_s)
        client: ClientConfig = {"allow_http": True, "timeout": limit, "connect_timeout": limit}
        retry: RetryConfig = {"max_retries": _TRIES - 1, "retry_timeout": 2 * limit}
        with _s3_errors():
            self._store = S3Store(
                url.netloc,
                prefix=url.path.strip("/") or None,
                config=config,
                client_options=client,
                retry_config=retry,
            )
        self._breaker = Breaker(
            "the object store", self._look, CatalogueUnavailableError, slow_s=None
        )
        self._senders = ThreadPoolExecutor(_PARALLEL, thread_name_prefix="lpr-storage")
        next(self.keys(""), None)  # a bucket that is not there would look empty

    def put(self, key: str, data: bytes) -> None:
        with self._call():
            self._store.put(key, data)

    def put_many(self, files: Mapping[str, bytes]) -> None:
        list(self._senders.map(self.put, files.keys(), files.values()))

    def put_new(self, key: str, data: bytes) -> bool:
        with self._call():
            try:
                self._store.put(key, data, mode="create")
            except s3.AlreadyExistsError:
                return False
            return True

    def get(self, key: str) -> bytes | None:
        with self._call():
            try:
                return bytes(self._store.get(key).bytes())
            except FileNotFoundError as error:
                if "NoSuchBucket" in str(error):
                    raise CatalogueUnavailableError("the catalogue's bucket is gone") from error
                return None

    def delete(self, keys: Iterable[str]) -> None:
        gone = list(keys)
        if gone:
            with self._call():
                self._store.delete(gone)

    def keys(self, folder: str, after: str | None = None) -> Iterator[str]:
        with self._call():
            for page in self._store.list(folder or None, offset=after):
                yield from (entry["path"] for entry in page)

    @contextmanager
    def _call(self) -> Iterator[None]:
        with self._breaker.call(), _s3_errors():
            yield

    def _look(self) -> None:
        """Whether it answers: raises CatalogueUnavailableError, and tells no log of each time."""
        try:
            next(iter(self._store.list()), None)
        except (s3.BaseError, OSError, ValueError) as error:
            raise CatalogueUnavailableError("the catalogue's object store is away") from error


def open_storage(settings: CatalogueSettings, folder: Path) -> Storage:
    """What the settings ask for, a local directory `folder` by default.

    Raises StorageFullError, CatalogueUnavailableError.
    """
    return LocalStorage(folder) if settings.url is None else S3Storage(settings)


def _make_folder(folder: Path) -> None:
    """Durable with all the folders around it that were not there either."""
    if not folder.is_dir():
        _make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        _sync_folder(folder.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _disk_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageFullError(
                "no space is left for the catalogue; free some and send this again"
            ) from error
        raise CatalogueUnavailableError(
            f"the catalogue cannot be used: {error.strerror or error}"
        ) from error


@contextmanager
def _s3_errors() -> Iterator[None]:
    try:
        yield
    except (s3.BaseError, OSError, ValueError) as error:
        reason = str(error).partition("\n")[0]  # the rest of it are Rust's structures
        logger.error("the catalogue's object store failed: %s", reason)
        if _FULL.search(reason):
            raise StorageFullError(
                "the catalogue's object store is full; make room and send this again"
            ) from error
        raise CatalogueUnavailableError("the catalogue's object store failed") from error
