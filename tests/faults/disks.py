"""A small disk that fills up and grows: a tmpfs in a mount namespace that a service runs in."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Self

import pytest


class SmallDisk:
    """`folder` as those see it who run `inside`; it is there for as long as the `with` block."""

    def __init__(self, folder: Path, megabytes: int) -> None:
        folder.mkdir(parents=True)
        self._folder = folder
        mount = f'mount -t tmpfs -o size={megabytes}m none "$0" && echo mounted && exec sleep 3600'
        unshare = shutil.which("unshare")
        if unshare is None or shutil.which("nsenter") is None:
            pytest.skip("no unshare and nsenter here")
        self._holder = subprocess.Popen(
            [unshare, "--map-root-user", "--mount", "sh", "-c", mount, str(folder)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self._holder.stdout is not None
        if not self._holder.stdout.readline():
            self._holder.wait()
            pytest.skip("this machine lets nobody make a mount namespace of his own")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._holder.kill()
        self._holder.communicate()

    @property
    def inside(self) -> tuple[str, ...]:
        """What to put before a command, so that it sees this disk."""
        target = ("--target", str(self._holder.pid))
        where = ("--user", "--mount", "--preserve-credentials", f"--wd={Path.cwd()}")
        return ("nsenter", *target, *where, "--")

    @property
    def service(self) -> tuple[str, ...]:
        """The program of a service that runs inside."""
        return (*self.inside, sys.executable, "-m", "service")

    def resize(self, megabytes: int) -> None:
        options = f"remount,size={megabytes}m"
        subprocess.run([*self.inside, "mount", "-o", options, str(self._folder)], check=True)
