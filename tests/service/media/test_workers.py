"""Workers that have been taken over by their clip: they get nothing, and nobody else notices."""

from __future__ import annotations

import asyncio
import gc
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from service import deadlines
from service.deadlines import Deadline
from service.errors import ClientLeftError, ClipError, DeadlineExceededError
from service.media import workers
from service.media.clips import ClipDecoder
from service.settings import MediaSettings
from tests.service.media.material import Listener, stub

S = 32
# The zygote's program with another reader: the clip is Python, and whatever it leaves in `said` is
# written where the pixels should be. A clip that is none is read as ever.
TAKEN_OVER = workers._PROGRAM.replace(
    "main(socket",
    """
import json, os, signal, time
from service.media import frame_reader, zygote
read = frame_reader.read
def obey(task, clip, pixels):
    script = os.pread(clip, 100_000, 0)
    if not script.startswith(b"# taken over"):
        return read(task, clip, pixels)
    names = {"said": b"", "reader": frame_reader}
    exec(script, names)
    pixels[: len(names["said"])] = names["said"]
    return frame_reader.Found(1, 1.0, False)
frame_reader.read = obey
main(socket""",
)


@pytest.fixture(scope="module")
def taken_over(tmp_path_factory: pytest.TempPathFactory) -> ClipDecoder:
    """Its ffmpeg fails, so that what is answered was a worker's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workers, "_PROGRAM", TAKEN_OVER)
        broken = stub(tmp_path_factory.mktemp("stub"), "exit 1")
        return ClipDecoder(MediaSettings(decode_wall_s=5), executable=broken)


def clip_that(does: str) -> bytes:
    lines = [f"    {line}" for line in does.splitlines()]
    return "\n".join(
        [
            "# taken over",
            "import os, signal, socket, time",
            "try:",
            *lines,
            "except Exception as error:",
            "    said = type(error).__name__.encode()",
        ]
    ).encode()


def heard(decoder: ClipDecoder, does: str) -> str:
    pixels = decoder.decode(clip_that(does), size=S, frames=1).pixels
    return pixels.tobytes().rstrip(b"\0").decode()


def test_the_reader_was_taken_over(taken_over: ClipDecoder) -> None:
    assert heard(taken_over, "said = b'6 * 7 = %d' % (6 * 7)") == "6 * 7 = 42"


# --- what it cannot do ----------------------------------------------------------------------------


def test_it_opens_no_file(taken_over: ClipDecoder, tmp_path: Path) -> None:
    (tmp_path / "upload").write_text("of somebody else")
    needs_files(taken_over)
    zygote = family(process_of(taken_over))[-1]
    for does in (
        f"said = open({str(tmp_path / 'upload')!r}, 'rb').read()",
        "said = open('/etc/passwd', 'rb').read()",
        f"said = open({workers.__file__!r}, 'rb').read()",
        f"said = str(os.listdir({str(tmp_path)!r})).encode()",
        f"open({str(tmp_path / 'new')!r}, 'wb').write(b'x'); said = b'written'",
        f"said = open('/proc/{zygote}/environ', 'rb').read() + b'read'",
        f"said = open('/proc/{zygote}/mem', 'rb').read(1)",
        f"said = open('/proc/{os.getpid()}/mem', 'rb').read(1)",
    ):
        assert heard(taken_over, does) in ("PermissionError", "FileNotFoundError"), does
    assert [path.name for path in tmp_path.iterdir()] == ["upload"]


def test_it_makes_no_connection(taken_over: ClipDecoder) -> None:
    if not taken_over.sandbox()["no_network"]:
        pytest.skip("this machine has no user namespaces")
    with Listener() as listener:
        does = f"socket.create_connection(('127.0.0.1', {listener.port}), 2); said = b'connected'"
        assert heard(taken_over, does) in ("PermissionError", "OSError", "ConnectionRefusedError")
    assert listener.connections == 0


def test_it_holds_no_descriptor_of_another_worker(taken_over: ClipDecoder) -> None:
    """Its own: three standard ones, the clip, the pixels and their memory, socket, complaints."""
    does = """
def is_open(number):
    try:
        os.fstat(number)
    except OSError:
        return False
    return True
said = str(sum(map(is_open, range(1024)))).encode()
"""
    with ThreadPoolExecutor(4) as pool:
        counts = list(pool.map(lambda _: heard(taken_over, does), range(8)))
    assert set(counts) == {"8"}


def test_it_runs_no_program_and_gains_no_right(taken_over: ClipDecoder) -> None:
    needs_files(taken_over)
    assert heard(taken_over, "os.execv('/bin/sh', ['sh', '-c', 'true'])") == "PermissionError"
    libc = "import ctypes; said = str(ctypes.CDLL(None).prctl(39, 0, 0, 0, 0)).encode()"
    assert heard(taken_over, libc) == "1"  # PR_GET_NO_NEW_PRIVS


def needs_files(decoder: ClipDecoder) -> None:
    if decoder.file_system is None:
        pytest.skip("this machine has neither bubblewrap nor Landlock")


# --- how it ends ----------------------------------------------------------------------------------

MISBEHAVIOUR = {
    "a crash": ("os.kill(os.getpid(), signal.SIGSEGV)", "damaged"),
    "a silent end": ("os._exit(0)", "damaged"),
    "a hang": ("time.sleep(600)", "limit of time"),
    "a hang that ignores signals": (
        "for number in (1, 2, 15): signal.signal(number, signal.SIG_IGN)\ntime.sleep(600)",
        "limit of time",
    ),
    "an endless loop": ("while True: pass", "limit of time"),
    "endless words": (
        "for number in range(3, 64):\n"
        "    try:\n"
        "        while True: os.write(number, b'{' * 4096)\n"
        "    except OSError: pass",
        "damaged",
    ),
    "more frames than asked for": (
        "class Many: count, duration_s, partial = 1000, 1.0, False\nreader.Found = lambda *_: Many",
        "damaged",
    ),
    "a length that is no number": (
        "class Odd: count, duration_s, partial = 1, float('nan'), False\n"
        "reader.Found = lambda *_: Odd",
        "damaged",
    ),
}


@pytest.mark.parametrize("case", MISBEHAVIOUR)
def test_misbehaviour_is_an_undecodable_clip_and_the_next_one_is_none_the_worse(
    taken_over: ClipDecoder, good_mp4: bytes, case: str
) -> None:
    does, said = MISBEHAVIOUR[case]
    expected = taken_over.decode(good_mp4, size=S, frames=10).pixels
    before = descriptors()
    with pytest.raises(ClipError, match=said) as caught:
        taken_over.decode(clip_that(does), size=S, frames=1)
    assert type(caught.value) is ClipError
    wait_until(lambda: descriptors() <= before)
    assert np.array_equal(taken_over.decode(good_mp4, size=S, frames=10).pixels, expected)


def descriptors() -> set[Path]:
    gc.collect()  # earlier tests' frames hold some
    return set(Path("/proc/self/fd").iterdir())


def test_memory_beyond_the_limit_is_not_given(taken_over: ClipDecoder) -> None:
    if not taken_over.sandbox()["resource_limits"]:
        pytest.skip("this machine has no prlimit")
    assert heard(taken_over, "said = b'%d' % len(bytearray(3_000_000_000))") == "MemoryError"


def test_what_it_started_ends_with_it(taken_over: ClipDecoder) -> None:
    does = "child = os.fork()\nif not child: time.sleep(600)\nsaid = str(child).encode()"
    child = int(heard(taken_over, does))
    wait_until(lambda: not Path(f"/proc/{child}/stat").exists())


def test_frames_stay_when_their_worker_and_its_decoder_are_gone(good_mp4: bytes) -> None:
    decoder = ClipDecoder(MediaSettings())
    pixels = decoder.decode(good_mp4, size=S, frames=10).pixels
    kept = pixels.copy()
    del decoder
    assert np.array_equal(pixels, kept)


def test_when_the_zygote_is_killed_another_takes_its_place(good_mp4: bytes) -> None:
    decoder = ClipDecoder(MediaSettings())
    expected = decoder.decode(good_mp4, size=S, frames=10).pixels
    killed = family(process_of(decoder))
    for process in killed:
        with suppress(ProcessLookupError):  # a worker that has just ended by itself
            os.kill(process, signal.SIGKILL)
    # Meanwhile ffmpeg decodes, and takes other frames.
    wait_until(lambda: np.array_equal(decoder.decode(good_mp4, size=S, frames=10).pixels, expected))
    assert process_of(decoder) not in killed
    assert decoder.describe()["workers"], "as before"


def test_landlock_lets_them_come_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """From a checkout too, around which nothing may be listed."""
    which = shutil.which
    monkeypatch.setattr(shutil, "which", lambda name: None if name == "bwrap" else which(name))
    told = ClipDecoder(MediaSettings()).describe()
    if told["file_system"] != "landlock":
        pytest.skip("this machine has no Landlock")
    assert told["workers"], told["without_workers"]


def test_without_workers_ffmpeg_decodes(
    good_mp4: bytes, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(workers, "_PROGRAM", "raise SystemExit(1)")
    decoder = ClipDecoder(MediaSettings())
    assert "there are no workers" in caplog.text
    told = decoder.describe()
    assert not told["workers"] and told["without_workers"] in caplog.text
    assert len(decoder.decode(good_mp4, size=S, frames=10).pixels) == 10


# --- the request it works for ---------------------------------------------------------------------


def test_it_ends_with_the_request_that_nobody_waits_for(taken_over: ClipDecoder) -> None:
    deadline = Deadline(60, nobody_leaves)
    timer = threading.Timer(0.3, deadline.abandon)
    timer.start()
    with deadlines.working_under(deadline), pytest.raises(ClientLeftError):
        taken_over.decode(clip_that("time.sleep(600)"), size=S, frames=1)
    timer.join()


def test_it_ends_at_the_requests_deadline(taken_over: ClipDecoder) -> None:
    with (
        deadlines.working_under(Deadline(0.3, nobody_leaves)),
        pytest.raises(DeadlineExceededError),
    ):
        taken_over.decode(clip_that("time.sleep(600)"), size=S, frames=1)


async def nobody_leaves() -> None:
    await asyncio.Event().wait()


_DECODE_UNTIL_KILLED = """
import sys
from service.media import workers
from service.media.clips import ClipDecoder
from service.settings import MediaSettings
from tests.service.media import test_workers as t
workers._PROGRAM = t.TAKEN_OVER
decoder = ClipDecoder(MediaSettings(decode_wall_s=600))
print(decoder._workers._zygote._process.pid, flush=True)
decoder.decode(t.clip_that("time.sleep(600)"), size=32, frames=1)
"""


def test_a_killed_service_leaves_neither_zygote_nor_worker(decoder: ClipDecoder) -> None:
    idle = len(family(process_of(decoder)))
    command = [sys.executable, "-c", _DECODE_UNTIL_KILLED]
    service = subprocess.Popen(command, stdout=subprocess.PIPE)
    try:
        assert service.stdout is not None
        zygote = int(service.stdout.readline())
        wait_until(lambda: len(family(zygote)) > idle)
        everybody = family(zygote)
    finally:
        service.send_signal(signal.SIGKILL)
        service.wait()
        service.stdout.close()
    wait_until(lambda: not any(runs(process) for process in everybody))


def process_of(decoder: ClipDecoder) -> int:
    assert decoder._workers is not None
    return decoder._workers._zygote._process.pid


def family(process: int) -> list[int]:
    """It, its children and theirs, the youngest last."""
    try:
        own = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    except OSError:  # it has just ended
        own = []
    return [process, *(found for child in own for found in family(int(child)))]


def runs(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
