"""Archives of pictures, opened without trust: tar, tar.gz and zip, told apart by their first bytes.

Nothing is unpacked: an entry's name is a key to its bytes and never a path. An archive is refused
whole where it is a bomb (too many entries, too many bytes, too good a compression), where an entry
is anything but a plain file or a folder, is itself an archive, or has a name that leads out of the
archive, and where its sizes are lies. Memory stays small whatever is sent: headers of archives say
their own sizes, and their readers are kept from taking large ones.
"""

from __future__ import annotations

import gzip
import io
import math
import stat
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Literal

from service.errors import (
    ArchiveUnreadableError,
    ArchiveUnsafeError,
    BatchTooLargeError,
    LPRError,
    StorageFullError,
)

MAX_ENTRIES = 50_000
_MAX_RATIO = 200  # of unpacked to packed bytes; pictures hardly compress
_HARMLESS_BYTES = 1_000_000  # up to which nobody asks for the ratio
_MAX_NAME = 1_024
_LISTING_S = 30.0
_ZIP_DIRECTORY_BYTES = 8_000_000
_TAR_HEADERS_BYTES = 65_536  # of one entry: they say its name and little else
CHUNK = 16_384  # the most of a file that is read at once, and of a tar's extended header
_ARCHIVES = frozenset({".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".zst", ".7z", ".rar"})

Kind = Literal["zip", "gzip", "tar"]


@dataclass(frozen=True)
class Archive:
    """The plain files of a checked archive; one reader at a time."""

    sizes: dict[str, int]  # bytes by name, in the archive's order
    _open: Callable[[str], IO[bytes]]

    @contextmanager
    def open(self, name: str) -> Iterator[IO[bytes]]:
        """`name` is one of `sizes`. Raises ArchiveUnreadableError, also while it is read."""
        with _archive_errors(), self._open(name) as file:
            yield file

    def read(self, name: str) -> bytes:
        """`name` is one of `sizes`. Raises ArchiveUnreadableError, also where its size is a lie."""
        with self.open(name) as file:
            data = b"".join(iter(lambda: file.read(CHUNK), b""))
        if len(data) != self.sizes[name]:
            raise ArchiveUnreadableError(f"{_shown(name)} is not as long as the archive says")
        return data


def kind_of(file: IO[bytes]) -> Kind | None:
    """By its first bytes; None: it is no archive that can be read here."""
    file.seek(0)
    head = file.read(tarfile.BLOCKSIZE)
    file.seek(0)
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):  # the second: an empty one
        return "zip"
    if head.startswith(b"\x1f\x8b"):
        return "gzip"
    return "tar" if head[257:262] == b"ustar" else None


@contextmanager
def open_archive(file: IO[bytes], kind: Kind, max_bytes: int, spool: Path) -> Iterator[Archive]:
    """An archive that holds at most `max_bytes` once unpacked.

    Raises ArchiveUnsafeError, ArchiveUnreadableError, BatchTooLargeError, and StorageFullError for
    a tar.gz, which is unpacked to a file without a name in the folder `spool`.
    """
    if kind == "zip":
        yield _open_zip(file, max_bytes)
    elif kind == "tar":
        yield _open_tar(file, max_bytes)
    else:
        with _gunzipped(file, max_bytes, spool) as tar:
            if kind_of(tar) != "tar":
                raise ArchiveUnreadableError("there is no tar archive in the gzip file")
            yield _open_tar(tar, max_bytes)


class _Cautious(io.BufferedIOBase):
    """A file that hands out at most `most` bytes at once and, while `listing`, for a while only,
    and at most `left` in all."""

    def __init__(self, file: IO[bytes], most: int) -> None:
        self._file = file
        self._most = most
        self._deadline = time.monotonic() + _LISTING_S
        self.listing = True
        self.left = math.inf

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def read(self, size: int | None = -1) -> bytes:
        if self.listing and time.monotonic() > self._deadline:
            raise ArchiveUnsafeError("the archive's headers take too long to read")
        whole = size is None or size < 0
        data = self._file.read(self._most + 1 if whole else min(size or 0, self._most + 1))
        self.left -= len(data)
        if len(data) > self._most or (self.listing and self.left < 0):
            raise ArchiveUnsafeError("a header of the archive is far longer than it need be")
        return data


def _open_tar(file: IO[bytes], max_bytes: int) -> Archive:
    length = file.seek(0, 2)
    file.seek(0)
    cautious = _Cautious(file, CHUNK)
    members: dict[str, tarfile.TarInfo] = {}
    listing = _Listing(max_bytes)
    with _archive_errors():
        cautious.left = _TAR_HEADERS_BYTES
        tar = tarfile.open(fileobj=cautious, mode="r:", encoding="utf-8")  # noqa: SIM115
        while (member := tar.next()) is not None:
            plain = member.isreg() and not member.issparse()
            if member.size < 0 or (plain and member.offset_data + member.size > length):
                raise ArchiveUnreadableError("the archive is cut off, or lies about its sizes")
            name = listing.add(member.name, member.size, plain=plain, folder=member.isdir())
            if name is not None:
                members[name] = _plain_member(member)
            # Where it keeps every header that it has read; not all of it is in the stubs.
            tar.members, tar.pax_headers = [], {}  # type: ignore[attr-defined]
            cautious.left = _TAR_HEADERS_BYTES
        # The reader takes a damaged header for the archive's end; the real end is a block of zeros.
        file.seek(tar.offset)
        if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise ArchiveUnreadableError("the archive is cut off or damaged")
    cautious.listing = False

    def open_member(name: str) -> IO[bytes]:
        content = tar.extractfile(members[name])
        if content is None:  # never, for a plain file
            raise ArchiveUnreadableError(f"{_shown(name)} has no content")
        return content

    return Archive(listing.sizes, open_member)


def _plain_member(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """The same without what its headers said besides."""
    plain = tarfile.TarInfo(member.name)
    plain.size, plain.offset_data = member.size, member.offset_data
    return plain


def _open_zip(file: IO[bytes], max_bytes: int) -> Archive:
    cautious = _Cautious(file, _ZIP_DIRECTORY_BYTES)
    listing = _Listing(max_bytes)
    members: dict[str, zipfile.ZipInfo] = {}
    with _archive_errors():
        archive = zipfile.ZipFile(cautious)
        for member in archive.infolist():
            kind = stat.S_IFMT(member.external_attr >> 16)  # zero where it was not made on Unix
            name = listing.add(
                member.filename,
                member.file_size,
                plain=kind in (0, stat.S_IFREG),
                folder=member.is_dir(),
            )
            _check_packing(member)
            if name is not None:
                members[name] = member
    cautious.listing = False
    return Archive(listing.sizes, lambda name: archive.open(members[name]))


def _check_packing(member: zipfile.ZipInfo) -> None:
    if member.flag_bits & 0x1:
        raise ArchiveUnsafeError(f"{_shown(member.filename)} is encrypted")
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ArchiveUnsafeError(
            f"{_shown(member.filename)} is packed in an unusual way; use deflate, or none"
        )
    _check_ratio(member.file_size, member.compress_size)


class _Listing:
    """The archive's plain files as they are met, and what forbids to go on."""

    def __init__(self, max_bytes: int) -> None:
        self.sizes: dict[str, int] = {}
        self._max_bytes = max_bytes
        self._entries = 0
        self._bytes = 0

    def add(self, raw_name: str, size: int, *, plain: bool, folder: bool) -> str | None:
        """The name it is kept under; None for folders, and for what computers leave behind."""
        self._entries += 1
        self._bytes += size
        if self._entries > MAX_ENTRIES:
            raise ArchiveUnsafeError(f"an archive has at most {MAX_ENTRIES} entries")
        if self._bytes > self._max_bytes:
            raise BatchTooLargeError(
                f"a batch has at most {self._max_bytes} bytes, also once it is unpacked"
            )
        name = _checked_name(raw_name)
        if folder:
            return None
        if not plain:
            raise ArchiveUnsafeError(f"{_shown(raw_name)} is a link or a device, not a plain file")
        if _is_left_behind(name):
            return None
        if PurePosixPath(name).suffix.lower() in _ARCHIVES:
            raise ArchiveUnsafeError(f"{_shown(raw_name)} is an archive within the archive")
        if name in self.sizes:
            raise ArchiveUnsafeError(f"{_shown(raw_name)} is in the archive twice")
        self.sizes[name] = size
        return name


def _checked_name(name: str) -> str:
    path = PurePosixPath(name)
    leads_out = path.is_absolute() or ".." in path.parts or name[1:2] == ":"
    if leads_out or "\\" in name or not name.isprintable() or not 0 < len(name) <= _MAX_NAME:
        raise ArchiveUnsafeError(f"{_shown(name)} is no name for a file of an archive")
    return str(path)


def _is_left_behind(name: str) -> bool:
    """`.DS_Store`, `__MACOSX/._cola.jpg` and their like."""
    return any(part.startswith((".", "__MACOSX")) for part in PurePosixPath(name).parts)


def _check_ratio(unpacked: int, packed: int) -> None:
    if unpacked > _HARMLESS_BYTES and unpacked > _MAX_RATIO * packed:
        raise ArchiveUnsafeError("the archive unpacks to far more than pictures do")


@contextmanager
def _gunzipped(file: IO[bytes], max_bytes: int, spool: Path) -> Iterator[IO[bytes]]:
    unpacked = 0
    with _spooled(spool) as tar, gzip.GzipFile(fileobj=file, mode="rb") as packed:
        while True:
            with _archive_errors():
                chunk = packed.read(CHUNK)
            if not chunk:
                break
            unpacked += len(chunk)
            _check_ratio(unpacked, file.tell())
            if unpacked > 2 * max_bytes:  # a tar's headers are not its content
                raise BatchTooLargeError(
                    f"a batch has at most {max_bytes} bytes, also once it is unpacked"
                )
            with _disk_errors():
                tar.write(chunk)
        with _disk_errors():
            tar.flush()
        yield tar


def _spooled(folder: Path) -> IO[bytes]:
    with _disk_errors():
        return tempfile.TemporaryFile(dir=folder)


@contextmanager
def _disk_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageFullError(f"the archive cannot be unpacked: {error.strerror}") from error


def _shown(name: str) -> str:
    return repr(name[:100].encode("utf-8", "replace").decode())


@contextmanager
def _archive_errors() -> Iterator[None]:
    try:
        yield
    except (LPRError, MemoryError):
        raise
    except Exception as error:  # the readers raise nearly anything on damaged bytes
        raise ArchiveUnreadableError(
            "the archive is damaged or incomplete; make it again and send the whole file"
        ) from error
