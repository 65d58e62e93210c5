"""What a full run showed: one row a promise, written to docs/RELIABILITY.md by the suite itself."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

PATH = Path(__file__).parents[2] / "docs" / "RELIABILITY.md"

_HEAD = """\
# What was promised, and what a run showed

Written by `make test-faults` (`tests/faults`), which runs the real service as a process beside real
servers and breaks them; do not edit. Run on {date} on a machine of {cores} CPU cores, in
{minutes:.0f} minutes. A row says no where its test failed, whatever the figure.

| promise or fault | asked | result | held | setting |
|---|---|---|---|---|
"""


@dataclass(frozen=True)
class Row:
    test: str
    promise: str
    asked: str
    result: str
    setting: str


class Report:
    """The rows of one run, and whether the test of each held."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.failed: set[str] = set()
        self.skipped: dict[str, str] = {}
        self._started = datetime.now(UTC)

    def write(self, path: Path = PATH) -> None:
        now = datetime.now(UTC)
        head = _HEAD.format(
            date=f"{now:%Y-%m-%d}",
            cores=len(os.sched_getaffinity(0)),
            minutes=(now - self._started).total_seconds() / 60,
        )
        path.write_text(head + "".join(self._lines()))

    def _lines(self) -> list[str]:
        rows = [
            (row.promise, row.asked, row.result, self._held(row.test), row.setting)
            for row in self.rows
        ]
        untold = sorted(self.failed - {row.test for row in self.rows})
        rows += [
            (_title(test), "", "the test failed before it had a figure", "no", "")
            for test in untold
        ]
        rows += [
            (_title(test), "", f"not run: {why}", "", "")
            for test, why in sorted(self.skipped.items())
        ]
        return [f"| {' | '.join(_cell(text) for text in row)} |\n" for row in rows]

    def _held(self, test: str) -> str:
        return "no" if test in self.failed else "yes"


def _title(test: str) -> str:
    return test.rsplit("::", 1)[-1].removeprefix("test_").replace("_", " ")


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
