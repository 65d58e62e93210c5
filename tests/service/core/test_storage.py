"""Both storages keep the same promises: a directory, and a real S3 server on loopback."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from service.errors import CatalogueUnavailableError, LPRError, StorageFullError
from service.gallery.storage import LocalStorage, S3Storage, Storage, open_storage
from service.settings import CatalogueSettings
from tests.service.lite_server import until


@pytest.fixture(params=["local", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    if request.param == "local":
        return LocalStorage(tmp_path / "root")
    return S3Storage(request.getfixturevalue("s3_settings"))


def test_what_was_put_is_got_until_it_is_deleted(storage: Storage) -> None:
    assert storage.get("a/b") is None
    for data in (b"first", b"", bytes(range(256)) * 1_000):
        storage.put("a/b", data)
        assert storage.get("a/b") == data
    storage.delete(["a/b", "a/not-there"])
    storage.delete([])
    assert storage.get("a/b") is None
    assert list(storage.keys("")) == []


def test_many_files_are_all_there(storage: Storage) -> None:
    files = {f"{folder}/{i}": f"{folder}{i}".encode() for folder in "ab" for i in range(12)}
    storage.put_many(files)
    assert {key: storage.get(key) for key in storage.keys("")} == files


def test_keys_come_in_order_from_any_place_on(storage: Storage) -> None:
    keys = sorted(["a/1", "a/x/1", "a/x-y/1", "a/x.json", "a/x/2/3", "a/y", "b", "ab/c"])
    for key in keys:
        storage.put(key, b"")
    assert list(storage.keys("")) == keys
    in_a = [key for key in keys if key.startswith("a/")]
    assert list(storage.keys("a")) == in_a
    assert list(storage.keys("a/x")) == ["a/x/1", "a/x/2/3"]
    assert list(storage.keys("nowhere")) == []
    for after in [*in_a, "a/x/~", "a/x", "a/x/1~", "a/"]:
        assert list(storage.keys("a", after)) == [key for key in in_a if key > after], after


def test_a_new_file_has_one_maker(storage: Storage) -> None:
    together = threading.Barrier(8)
    made: list[bytes] = []

    def make(i: int) -> None:
        together.wait()
        if storage.put_new("made", b"%d" % i):
            made.append(b"%d" % i)

    threads = [threading.Thread(target=make, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made == [storage.get("made")]
    assert list(storage.keys("")) == ["made"]


def test_a_folder_that_empties_while_it_fills_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An empty folder is removed; the next file of it may be on its way just then."""
    monkeypatch.setattr(os, "fsync", lambda _: None)  # what it waits for is not the point
    storage = LocalStorage(tmp_path)

    def work(lane: int) -> int:
        kept = 0
        for i in range(150):
            key = f"pending/shop/{lane}-{i}"
            storage.put(key, b"kept")
            kept += storage.get(key) == b"kept"
            storage.delete([key])
        return kept

    with ThreadPoolExecutor(4) as lanes:
        assert list(lanes.map(work, range(4))) == [150] * 4
    assert not (tmp_path / "pending").exists()


def test_files_that_go_with_their_folders_are_gone_after_one_sync(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = LocalStorage(tmp_path)
    storage.put_many({f"pending/shop/{name}/token": b"" for name in "abc"} | {"pending/x": b""})
    synced: list[str] = []
    fsync = os.fsync

    def noted(descriptor: int) -> None:
        synced.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    storage.delete(["pending/shop/a/token", "pending/shop/b/token"])
    assert synced == [str(tmp_path / "pending" / "shop")]
    storage.delete(["pending/shop/c/token"])
    assert synced[1:] == [str(tmp_path / "pending")], "the folder that stays"
    storage.delete(["pending/x", "pending/shop/c/token"])
    assert synced[2:] == [str(tmp_path)]


def test_what_a_crash_left_half_written_is_no_file(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    storage.put("a/b", b"1")
    (tmp_path / "a" / "0123.tmp").write_bytes(b"ha")
    assert list(storage.keys("")) == ["a/b"]
    storage.sweep()
    assert [path.name for path in tmp_path.rglob("*")] == ["a", "b"]


def test_the_settings_say_where(tmp_path: Path, s3_settings: CatalogueSettings) -> None:
    open_storage(CatalogueSettings(), tmp_path / "here").put("a", b"1")
    assert (tmp_path / "here" / "a").read_bytes() == b"1"
    open_storage(s3_settings, tmp_path / "there").put("a", b"2")
    assert not (tmp_path / "there").exists()
    assert open_storage(s3_settings, tmp_path / "there").get("a") == b"2"


def test_services_of_one_bucket_keep_to_their_folders(s3_settings: CatalogueSettings) -> None:
    mine = S3Storage(s3_settings)
    mine.put("a", b"1")
    other = S3Storage(s3_settings.model_copy(update={"url": f"{s3_settings.url}/below"}))
    assert list(other.keys("")) == []


def test_a_bucket_that_is_not_there_is_no_empty_one(s3_settings: CatalogueSettings) -> None:
    with pytest.raises(CatalogueUnavailableError):
        S3Storage(s3_settings.model_copy(update={"url": "s3://nowhere"}))


@contextmanager
def answering(status: int, body: bytes) -> Iterator[CatalogueSettings]:
    """A store that lists nothing and answers everything else like this; 0: not at all."""
    stop = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            listing = b"<ListBucketResult><Name>b</Name></ListBucketResult>"
            self._answer(200, listing) if "?" in self.path else self._fail()

        def do_PUT(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self._fail()

        def _fail(self) -> None:
            if status:
                self._answer(status, body)
            else:
                stop.wait(30)

        def _answer(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield CatalogueSettings(
            url="s3://b",
            endpoint=f"http://127.0.0.1:{server.server_port}",
            access_key_id="k",
            secret_access_key="hidden-secret",
            timeout_s=30 if status else 0.5,
        )
    finally:
        stop.set()
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize(
    ("status", "code", "ours"),
    [
        (507, "XMinioStorageFull", StorageFullError),
        (400, "XMinioAdminBucketQuotaExceeded", StorageFullError),
        (403, "QuotaExceeded", StorageFullError),
        (403, "AccessDenied", CatalogueUnavailableError),
        (500, "InternalError", CatalogueUnavailableError),
        (503, "SlowDown", CatalogueUnavailableError),
        (0, "silence", CatalogueUnavailableError),
    ],
)
def test_every_foreign_error_becomes_ours(
    status: int, code: str, ours: type[LPRError], caplog: pytest.LogCaptureFixture
) -> None:
    body = f"<Error><Code>{code}</Code></Error>".encode()
    with answering(status, body) as settings:
        storage = S3Storage(settings)
        calls = (
            lambda: storage.put("a", b"1"),
            lambda: storage.put_many({"a": b"1", "b": b"2"}),
            lambda: storage.put_new("a", b"1"),
            lambda: storage.get("a"),
        )
        for call in calls:
            with pytest.raises(ours) as caught:
                call()
            assert type(caught.value) is ours
    assert "hidden-secret" not in caplog.text + repr(settings)


def test_a_store_that_is_gone_is_said() -> None:
    with answering(500, b"") as settings:
        storage = S3Storage(settings)
    for call in (lambda: list(storage.keys("")), lambda: storage.delete(["a"])):
        with pytest.raises(CatalogueUnavailableError):
            call()
    with pytest.raises(CatalogueUnavailableError):
        S3Storage(settings)


def test_a_store_that_is_away_is_left_alone_until_it_answers(
    s3_settings: CatalogueSettings,
) -> None:
    """Each look at one that is silent takes a thread for seconds."""
    storage = S3Storage(s3_settings)
    storage.put("a", b"1")
    asked: list[str] = []

    class Away:
        def get(self, key: str) -> None:
            asked.append(key)
            raise OSError("no route to it")

        def list(self) -> None:
            raise OSError("no route to it")

    there, storage._store = storage._store, Away()
    for _ in range(9):
        with pytest.raises(CatalogueUnavailableError):
            storage.get("a")
    assert len(asked) == 3
    storage._store = there
    until(lambda: not storage._breaker.is_open)
    assert storage.get("a") == b"1"
