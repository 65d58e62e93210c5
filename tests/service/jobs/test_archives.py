from __future__ import annotations

import contextlib
import gzip
import io
import struct
import tarfile
import tempfile
import tracemalloc
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.errors import (
    ArchiveUnreadableError,
    ArchiveUnsafeError,
    BatchError,
    BatchTooLargeError,
    StorageFullError,
)
from service.jobs import archives
from service.jobs.archives import kind_of, open_archive
from tests.service.jobs.material import gzipped, tarred, zipped

MOST = 10_000_000
FILES = {"cola.jpg": b"cola" * 500, "drinks/tea.png": b"tea" * 300, "empty.webp": b""}
Packer = Callable[[Mapping[str, bytes]], bytes]
PACKERS = pytest.mark.parametrize("pack", [zipped, tarred, gzipped])


def unpack(data: bytes | IO[bytes], max_bytes: int = MOST) -> dict[str, bytes]:
    file = io.BytesIO(data) if isinstance(data, bytes) else data
    kind = kind_of(file)
    assert kind is not None
    with open_archive(file, kind, max_bytes, Path(tempfile.gettempdir())) as archive:
        files = {name: archive.read(name) for name in archive.sizes}
        assert {name: len(data) for name, data in files.items()} == archive.sizes
    return files


def peak_of(data: bytes, error: type[BatchError] | None = None) -> int:
    """Bytes of memory that it takes at most to unpack this, or to refuse it."""
    file = io.BytesIO(data)
    tracemalloc.start()
    with pytest.raises(error) if error else contextlib.nullcontext():
        unpack(file)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def special(kind: bytes, **fields: object) -> bytes:
    """A tar with one entry of this type."""
    member = tarfile.TarInfo("cola.jpg")
    member.type = kind
    for name, value in fields.items():
        setattr(member, name, value)
    return member.tobuf(tarfile.GNU_FORMAT) + bytes(1_024)


@PACKERS
def test_what_was_packed_is_read(pack: Packer) -> None:
    assert unpack(pack(FILES)) == FILES


@PACKERS
def test_folders_and_what_computers_leave_behind_are_no_files(pack: Packer) -> None:
    left = {".DS_Store": b"x", "__MACOSX/._cola.jpg": b"x", "drinks/.hidden.jpg": b"x"}
    assert unpack(pack({**FILES, **left})) == FILES
    assert unpack(special(tarfile.DIRTYPE, name="drinks")) == {}


def test_a_leading_dot_and_slash_says_nothing() -> None:
    assert unpack(tarred({"./cola.jpg": b"cola"})) == {"cola.jpg": b"cola"}


@pytest.mark.parametrize("data", [b"", b"{}", b"PK", b"Rar!\x1a\x07\x00", bytes(1_024)])
def test_what_is_no_archive_is_told(data: bytes) -> None:
    assert kind_of(io.BytesIO(data)) is None


@PACKERS
@pytest.mark.parametrize(
    "name",
    ["/etc/passwd.jpg", "../cola.jpg", "a/../../cola.jpg", "C:/cola.jpg", "a\\b.jpg", "a\nb.jpg"],
)
def test_a_name_that_leads_out_is_refused(pack: Packer, name: str) -> None:
    with pytest.raises(ArchiveUnsafeError, match="no name"):
        unpack(pack({name: b"x"}))


@PACKERS
@pytest.mark.parametrize("name", ["more.zip", "more.TAR", "more.tar.gz", "a/more.7z"])
def test_an_archive_within_the_archive_is_refused(pack: Packer, name: str) -> None:
    with pytest.raises(ArchiveUnsafeError, match="archive within"):
        unpack(pack({"cola.jpg": b"x", name: zipped(FILES)}))


@pytest.mark.parametrize(
    "data",
    [
        special(tarfile.SYMTYPE, linkname="/etc/passwd"),
        special(tarfile.LNKTYPE, linkname="other.jpg"),
        special(tarfile.CHRTYPE, devmajor=1, devminor=5),
        special(tarfile.FIFOTYPE),
        special(tarfile.GNUTYPE_SPARSE),
    ],
)
def test_a_link_or_a_device_is_refused_in_a_tar(data: bytes) -> None:
    with pytest.raises(ArchiveUnsafeError, match="not a plain file"):
        unpack(data)


def test_a_link_is_refused_in_a_zip() -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        link = zipfile.ZipInfo("cola.jpg")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(ArchiveUnsafeError, match="not a plain file"):
        unpack(buffer.getvalue())


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_twice_is_refused() -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("cola.jpg", b"one")
        archive.writestr("cola.jpg", b"two")
    with pytest.raises(ArchiveUnsafeError, match="twice"):
        unpack(buffer.getvalue())
    with pytest.raises(ArchiveUnsafeError, match="twice"):
        unpack(tarred({"cola.jpg": b"one", "./cola.jpg": b"two"}))


@PACKERS
def test_too_many_entries_are_refused(pack: Packer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "MAX_ENTRIES", 5)
    unpack(pack({f"{i}.jpg": b"" for i in range(5)}))
    with pytest.raises(ArchiveUnsafeError, match="at most 5 entries"):
        unpack(pack({f"{i}.jpg": b"" for i in range(6)}))


@PACKERS
def test_too_many_bytes_are_refused(pack: Packer) -> None:
    files = {f"{i}.jpg": bytes(range(256)) * 40 for i in range(10)}
    assert unpack(pack(files), 102_400) == files
    with pytest.raises(BatchTooLargeError, match="102399"):
        unpack(pack(files), 102_399)


@pytest.mark.parametrize("pack", [zipped, gzipped])
def test_a_bomb_is_refused(pack: Packer) -> None:
    with pytest.raises(ArchiveUnsafeError, match="unpacks to far more"):
        unpack(pack({"cola.jpg": bytes(9_000_000)}))


def test_a_bomb_in_gzip_is_refused_before_much_of_it_is_unpacked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(archives, "_MAX_RATIO", 10_000)
    packed = gzip.compress(bytes(50_000_000))
    tracemalloc.start()
    with pytest.raises(BatchTooLargeError):
        unpack(packed, 1_000_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2_000_000


def test_a_gzip_of_anything_but_a_tar_is_refused() -> None:
    for content in (b"not a tar", gzipped(FILES), zipped(FILES)):
        with pytest.raises(ArchiveUnreadableError, match="no tar"):
            unpack(gzip.compress(content))


def test_a_folder_that_takes_nothing_is_told(tmp_path: Path) -> None:
    file = io.BytesIO(gzipped(FILES))
    with (
        pytest.raises(StorageFullError),
        open_archive(file, "gzip", MOST, tmp_path / "nowhere"),
    ):
        pass


def test_an_encrypted_or_unusually_packed_zip_is_refused() -> None:
    data = bytearray(zipped(FILES))
    central = data.rindex(b"PK\x01\x02")
    data[central + 8] |= 1
    with pytest.raises(ArchiveUnsafeError, match="encrypted"):
        unpack(bytes(data))
    with pytest.raises(ArchiveUnsafeError, match="unusual"):
        unpack(zipped(FILES, zipfile.ZIP_LZMA))


def test_a_zip_that_lies_about_a_size_is_refused() -> None:
    for lie in (10, 3_000):
        data = bytearray(zipped({"cola.jpg": b"cola" * 500}))
        for signature, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
            struct.pack_into("<I", data, data.index(signature) + offset, lie)
        with pytest.raises(ArchiveUnreadableError):
            unpack(bytes(data))


def test_a_tar_that_lies_about_a_size_is_refused() -> None:
    for size in (5_000, 1 << 40, -512):
        with pytest.raises((ArchiveUnreadableError, BatchTooLargeError)):
            unpack(special(tarfile.REGTYPE, size=size))


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME])
def test_a_huge_header_is_not_taken_into_memory(kind: bytes) -> None:
    header = special(kind, size=40_000_000)[:512]
    assert peak_of(header + bytes(40_000_000) + bytes(1_024), BatchError) < 2_000_000


def test_a_chain_of_headers_is_refused() -> None:
    header = special(tarfile.XHDTYPE, size=0)[:512]
    with pytest.raises(ArchiveUnsafeError, match="far longer"):
        unpack(header * 20_000)


def _with_checksum(header: bytearray) -> bytes:
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header)


def _sparse(blocks: int) -> bytes:
    """An entry that says in so many blocks where it has no holes."""
    header = bytearray(special(tarfile.GNUTYPE_SPARSE)[:512])
    header[482] = 1  # blocks follow
    block = (b"%011o\0" % 1) * 42 + b"\1" + bytes(7)
    return _with_checksum(header) + block * (blocks - 1) + block[:504] + bytes(8 + 1_024)


def _with_remarks(entries: int, kind: bytes) -> bytes:
    """Empty pictures, each after 15,000 bytes of what nobody asks for, named anew each time."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for number in range(entries):
            remark = b"%d comment%d=%s\n" % (0, number, b"x" * 15_000)
            length = len(remark) + 4
            remark = b"%05d comment%d=%s\n" % (length, number, b"x" * 15_000)
            header = tarfile.TarInfo("remark")
            header.type, header.size = kind, len(remark)
            tar.addfile(header, io.BytesIO(remark))
            tar.addfile(tarfile.TarInfo(f"{number}.jpg"))
    return packed.getvalue()


def test_where_an_entry_has_holes_is_not_taken_into_memory() -> None:
    assert peak_of(_sparse(20_000), ArchiveUnsafeError) < 2_000_000


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE])
def test_what_headers_say_besides_is_not_kept(kind: bytes) -> None:
    assert peak_of(_with_remarks(600, kind)) < 2_000_000


def test_a_huge_zip_directory_is_not_taken_into_memory() -> None:
    entry = b"PK\x01\x02" + bytes(42)
    directory = entry * 400_000
    end = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, 1, 1, len(directory), 4, 0)
    assert peak_of(b"PK\x03\x04" + directory + end, BatchError) < 20_000_000


def test_headers_that_take_too_long_are_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "_LISTING_S", -1.0)
    for data in (tarred(FILES), zipped(FILES)):
        with pytest.raises(ArchiveUnsafeError, match="too long"):
            unpack(data)


@PACKERS
def test_a_cut_off_archive_is_refused(pack: Packer) -> None:
    data = pack({f"{i}.jpg": bytes([i]) * 700 for i in range(5)})
    end = len(data.rstrip(b"\0")) if pack is tarred else len(data)
    for length in range(600, end, 97):
        with pytest.raises(BatchError):
            unpack(data[:length])


@PACKERS
@settings(max_examples=150)
@given(data=st.data())
def test_damage_is_always_our_error(pack: Packer, data: st.DataObject) -> None:
    """Flipped, cut and repeated bytes: read as an archive, or refused; nothing else."""
    packed = bytearray(pack(FILES))
    for _ in range(data.draw(st.integers(1, 6))):
        place = data.draw(st.integers(0, len(packed) - 1))
        match data.draw(st.sampled_from(["set", "cut", "repeat"])):
            case "set":
                packed[place] = data.draw(st.integers(0, 255))
            case "cut":
                del packed[place : place + data.draw(st.integers(1, 64))]
            case _:
                packed[place:place] = packed[place : place + 64]
        if not packed:
            return
    if kind_of(io.BytesIO(packed)) is None:
        return
    with contextlib.suppress(BatchError):
        unpack(bytes(packed))
