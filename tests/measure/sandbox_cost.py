"""What confinement costs: `python -m tests.measure.sandbox_cost`, on a quiet machine.

Prints, for each means of confinement, the median time of starting ffmpeg and of decoding a clip of
five seconds, as a ratio to the same command run bare. Rounds take turns, so that whatever else the
machine does meets all of them alike.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import imageio_ffmpeg

from service.media.sandbox import Sandbox, SandboxLimits
from tests.service.media.material import lavfi

ROUNDS = 40
FFMPEG = str(Path(imageio_ffmpeg.get_ffmpeg_exe()).resolve())
LIMITS = SandboxLimits(wall_s=60, cpu_s=60, memory_bytes=2_000_000_000)


def main() -> None:
    with tempfile.NamedTemporaryFile(suffix=".mp4") as clip:
        lavfi("testsrc2=s=640x360:d=5", Path(clip.name), "-c:v", "libx264", "-pix_fmt", "yuv420p")
        decode = ["-nostdin", "-v", "error", "-fd", str(clip.fileno()), "-i", "fd:"]
        decode += ["-vf", "fps=2,scale=224:224", "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
        for what, arguments in (("start", ["-version"]), ("decode", decode)):
            ratios = compare([FFMPEG, *arguments], clip.fileno())
            for name, (seconds, ratio) in ratios.items():
                sys.stdout.write(f"{what:8}{name:12}{1e3 * seconds:8.1f} ms  x{ratio:.2f}\n")


def compare(command: list[str], clip: int) -> dict[str, tuple[float, float]]:
    """Median seconds, and their ratio to the bare command's, by the means of confinement."""
    runs: dict[str, Callable[[], object]] = {"bare": lambda: bare(command, clip)}
    for sandbox in sandboxes():
        runs[str(sandbox.file_system)] = lambda sandbox=sandbox: sandbox.run(
            command, output_bytes=10_000_000, inherit=[clip]
        )
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(ROUNDS):
        for name, run in runs.items():
            os.lseek(clip, 0, os.SEEK_SET)
            began = time.perf_counter()
            run()
            taken[name].append(time.perf_counter() - began)
    medians = {name: statistics.median(seconds) for name, seconds in taken.items()}
    return {name: (seconds, seconds / medians["bare"]) for name, seconds in medians.items()}


def bare(command: list[str], clip: int) -> None:
    subprocess.run(command, pass_fds=[clip], capture_output=True, check=True)


def sandboxes() -> list[Sandbox]:
    """One for each means that this machine has."""
    preferred = Sandbox(LIMITS, readable=[FFMPEG])
    if preferred.file_system != "bubblewrap":
        return [preferred]
    which = shutil.which
    with mock.patch.object(shutil, "which", lambda name: None if name == "bwrap" else which(name)):
        return [preferred, Sandbox(LIMITS, readable=[FFMPEG])]


if __name__ == "__main__":
    main()
