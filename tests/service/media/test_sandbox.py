"""The sandbox by itself: ffmpeg is told to open everything, and still opens nothing."""

from __future__ import annotations

import asyncio
import functools
import http.server
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import imageio_ffmpeg
import pytest

from service import deadlines
from service.deadlines import Deadline
from service.errors import ClientLeftError, DeadlineExceededError
from service.media.clips import ClipDecoder
from service.media.sandbox import Finished, Sandbox, SandboxLimits, private_file
from service.settings import MediaSettings
from tests.service.media.material import clock, lavfi, stub

FFMPEG = str(Path(imageio_ffmpeg.get_ffmpeg_exe()).resolve())
LIMITS = SandboxLimits(wall_s=20, cpu_s=20, memory_bytes=2_000_000_000)
MEANS = {"bubblewrap": ("bwrap",), "landlock": ()}  # and the programs each stands on

_DASH = """<?xml version="1.0"?>
<MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" mediaPresentationDuration="PT1S"
 minBufferTime="PT1S" profiles="urn:mpeg:dash:profile:isoff-on-demand:2011"><Period duration="PT1S">
 <AdaptationSet mimeType="video/mp4" contentType="video">
  <Representation id="1" bandwidth="1" codecs="avc1.64000a" width="64" height="64">
   <BaseURL>{}.mp4</BaseURL></Representation></AdaptationSet></Period></MPD>"""
_HLS = """#EXTM3U
#EXT-X-VERSION:3
#EXT-X-TARGETDURATION:4
#EXTINF:1.0,
{}.ts
#EXT-X-ENDLIST
"""
# Playlists with a place for what they name, and ffmpeg's options that make it follow them.
PLAYLISTS = {
    "hls": (_HLS, ("-f", "hls", "-allowed_extensions", "ALL", "-extension_picky", "0")),
    "ffconcat": ("ffconcat version 1.0\nfile '{}.mp4'\n", ("-f", "concat", "-safe", "0")),
    "dash": (_DASH, ("-f", "dash", "-allowed_extensions", "ALL")),
}


@pytest.fixture(scope="module")
def secret(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another upload, as `secret.ts` and `secret.mp4`; its path without the ending."""
    path = tmp_path_factory.mktemp("uploads") / "secret"
    lavfi(clock(1, size="64x64"), path.with_suffix(".ts"), "-c:v", "libx264")
    fragmented = ("-movflags", "+frag_keyframe+empty_moov+default_base_moof")
    lavfi(clock(1, size="64x64"), path.with_suffix(".mp4"), "-c:v", "libx264", *fragmented)
    return path


@contextmanager
def internal_server(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """A web server on loopback that has the folder's files, and a list of who connected."""
    connections: list[str] = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def setup(self) -> None:
            connections.append(str(self.client_address))
            super().setup()

        def log_message(self, *_: object) -> None:
            pass

    handler = functools.partial(Handler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", connections
        finally:
            server.shutdown()
            thread.join()


def credulous(kind: str, source: int) -> list[str]:
    """A command that decodes whatever the playlist names, from wherever it can be had."""
    everything = ("-protocol_whitelist", "fd,file,http,tcp,crypto,data,concat")
    reads = (*everything, *PLAYLISTS[kind][1], "-fd", str(source), "-i", "fd:")
    writes = ("-f", "rawvideo", "-pix_fmt", "rgb24", "-")
    return [FFMPEG, "-nostdin", "-hide_banner", *reads, *writes]


def confined(means: str, monkeypatch: pytest.MonkeyPatch) -> Sandbox:
    which = shutil.which
    hidden = {program for needed in MEANS.values() for program in needed} - set(MEANS[means])
    monkeypatch.setattr(shutil, "which", lambda name: None if name in hidden else which(name))
    sandbox = Sandbox(LIMITS, readable=(FFMPEG,))
    if sandbox.file_system != means:
        pytest.skip(f"this machine has no {means}")
    return sandbox


@pytest.mark.parametrize("means", MEANS)
@pytest.mark.parametrize("kind", PLAYLISTS)
def test_with_the_white_lists_off_a_playlist_still_reads_no_other_file(
    kind: str, means: str, secret: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    playlist = PLAYLISTS[kind][0].format(f"file://{secret}").encode()
    sandbox = confined(means, monkeypatch)
    with private_file(playlist) as source:
        found = sandbox.run(
            credulous(kind, source), output_bytes=64 * 64 * 3 * 100, inherit=[source]
        )
    assert not found.output
    assert "secret" in found.log, "it was tried"
    with private_file(playlist) as source:
        free = subprocess.run(
            credulous(kind, source), pass_fds=[source], capture_output=True, check=False
        )
    assert free.stdout, "the test would not notice a file that was read"


@pytest.mark.parametrize("means", MEANS)
@pytest.mark.parametrize("kind", PLAYLISTS)
def test_with_the_white_lists_off_a_playlist_still_makes_no_connection(
    kind: str, means: str, secret: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sandbox = confined(means, monkeypatch)
    with internal_server(secret.parent) as (address, connections):
        playlist = PLAYLISTS[kind][0].format(f"{address}/secret").encode()
        with private_file(playlist) as source:
            found = sandbox.run(
                credulous(kind, source), output_bytes=64 * 64 * 3 * 100, inherit=[source]
            )
        assert (bytes(found.output), connections) == (b"", [])
        with private_file(playlist) as source:
            subprocess.run(
                credulous(kind, source), pass_fds=[source], capture_output=True, check=False
            )
        assert connections, "the test would not notice a connection"


@pytest.mark.parametrize("means", MEANS)
def test_of_the_file_system_only_programs_are_there(
    means: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sandbox = confined(means, monkeypatch)
    (tmp_path / "upload").write_text("another upload")

    def told(script: str) -> Finished:
        return sandbox.run(["/bin/sh", "-c", script], output_bytes=1_000)

    assert told("echo $((6 * 7))").output == b"42\n"
    for script in (
        f"cat {tmp_path}/upload",
        "cat /etc/passwd",
        "cat /proc/1/environ",
        f"ls {tmp_path}",
        f"echo written > {tmp_path}/new && cat {tmp_path}/new",
    ):
        assert not told(script).output, script
    assert [path.name for path in tmp_path.iterdir()] == ["upload"]


def test_a_machine_without_any_means_says_so_and_still_decodes(
    good_mp4: bytes, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def forbidden(**_: object) -> None:
        raise PermissionError(1, "Landlock")

    monkeypatch.setattr(shutil, "which", lambda _: None)
    monkeypatch.setattr("service.media.sandbox.confine_thread", forbidden)
    decoder = ClipDecoder(MediaSettings())
    assert decoder.file_system is None
    assert {layer for layer, holds in decoder.sandbox().items() if not holds} == {
        "own_file_system",
        "no_network",
        "resource_limits",
        "no_new_privileges",
    }
    assert "without these layers of confinement" in caplog.text
    assert len(decoder.decode(good_mp4, size=32, frames=10).pixels) == 10


def test_a_child_ends_with_the_request_that_nobody_waits_for(tmp_path: Path) -> None:
    decoder = ClipDecoder(MediaSettings(decode_wall_s=60), executable=stub(tmp_path, "sleep 600"))
    deadline = Deadline(60, nobody_leaves)
    timer = threading.Timer(0.3, deadline.abandon)
    timer.start()
    with deadlines.working_under(deadline), pytest.raises(ClientLeftError):
        decoder.decode(b"clip", size=32, frames=10)
    timer.join()
    _wait_until_none_runs(tmp_path)


def test_a_child_ends_at_the_requests_deadline(tmp_path: Path) -> None:
    decoder = ClipDecoder(MediaSettings(decode_wall_s=60), executable=stub(tmp_path, "sleep 600"))
    began = time.monotonic()
    with (
        deadlines.working_under(Deadline(0.3, nobody_leaves)),
        pytest.raises(DeadlineExceededError),
    ):
        decoder.decode(b"clip", size=32, frames=10)
    assert time.monotonic() - began < 50, "not at the decoder's own limit"
    _wait_until_none_runs(tmp_path)


async def nobody_leaves() -> None:
    await asyncio.Event().wait()


def _wait_until_none_runs(folder: Path) -> None:
    """The kernel takes a moment to end what was killed; none of it would end by itself."""
    deadline = time.monotonic() + 60
    while _running(folder):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _running(folder: Path) -> list[str]:
    return [
        line
        for path in Path("/proc").glob("[0-9]*/cmdline")
        if str(folder) in (line := _read(path))
    ]


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
