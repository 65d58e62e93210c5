"""Every parser under atheris: no uncaught exception, no hang, no endless memory.

`FUZZ_RUNS` says how many inputs each gets; `make fuzz RUNS=1000000` is a long run. What a fuzzer or
a reader once found stays here as a test of its own.
"""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.fuzz.targets import TARGETS

RUNS = int(os.environ.get("FUZZ_RUNS", "3000"))

_LONG = b"9" * 5_000


def _archive_of(name: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(zipfile.ZipInfo(name), b"a")
    return file.getvalue()


FOUND = {
    "a time too large for a float": ("decoder-times", b"9" * 400 + b" 1/1\n"),
    "a time too long for an int": ("decoder-times", _LONG + b" 1/1\n"),
    "a duration too long for an int": (
        "decoder-words",
        b"[info]   Duration: " + _LONG + b":00:00.00\n",
    ),
    "errors too many for an int": (
        "decoder-words",
        b"1 frames decoded; " + _LONG + b" decode errors",
    ),
    "a name that is no text": (
        "form",
        b'\x01--b\r\nContent-Disposition: form-data; name="+2AA-"\r\n\r\nx\r\n--b--\r\n',
    ),
    "a text that is no text": ("json-body", b'{"shop_id": "\\ud800"}'),
    "a number that becomes infinite": ("metadata", b'{"price": 1e999}'),
    "an archive of a file without a name": ("batch", _archive_of(".")),
    "a line that is no text": ("batch", b'{"product_id": "a", "images": ["a"], "\\ud800": 1}\n'),
}


@pytest.mark.parametrize("case", FOUND)
def test_what_was_found_is_found_no_more(case: str) -> None:
    name, data = FOUND[case]
    TARGETS[name].run(data)


@pytest.mark.parametrize("name", TARGETS)
def test_good_inputs_are_let_through(name: str) -> None:
    for seed in TARGETS[name].seeds:
        TARGETS[name].run(seed)


@pytest.mark.timeout(600 + RUNS / 100)
@pytest.mark.parametrize("name", TARGETS)
def test_bad_bytes_never_crash(name: str, tmp_path: Path) -> None:
    pytest.importorskip("atheris", reason="atheris has wheels for Linux on x86-64 only")
    options = [f"-runs={RUNS}", "-max_len=4096", "-len_control=10", "-keep_seed=1", "-timeout=60"]
    options += ["-rss_limit_mb=1024"] + ([] if "FUZZ_RUNS" in os.environ else ["-seed=1"])
    command = [sys.executable, "-m", "tests.fuzz.run", name, str(tmp_path), *options]
    # Linux hands this process's peak of memory on to what it starts, but not to a grandchild.
    grandchild = ["sh", "-c", '"$@"; exit $?', "sh", *command]
    done = subprocess.run(grandchild, capture_output=True, check=False)
    said = done.stderr.decode(errors="replace")
    assert done.returncode == 0, said[-6_000:]
    ended = re.search(r"^#(\d+)\s+DONE", said, re.MULTILINE)
    assert ended is not None, said[-6_000:]
    assert int(ended[1]) >= RUNS
