"""What a full run showed: one row a promise, written to docs/RELIABILITY.md by the suite itself.

A run of the whole folder says which tests there are. From then on every test's rows are kept as
soon as it ends, in a file of JSON lines, and the page is written anew from all of them: a run that
is cut short leaves what it had, and a part that is run again replaces its own rows only.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "RELIABILITY.md"
KEPT = ROOT / "build" / "faults.jsonl"

_HEAD = """\
# What was promised, and what a run showed

Written by `make test-faults` (`tests/faults`), which runs the real service as a process beside real
servers and breaks them; do not edit. {ran} of {all} tests ran, from {first} to {last} UTC,
on a machine of {cores} CPU cores. A row says no where its test failed, whatever the figure; what
that test complained of stands below the table.

| promise or fault | asked | result | held | setting |
|---|---|---|---|---|
"""


@dataclass(frozen=True)
class Row:
    promise: str
    asked: str
    result: str
    setting: str


@dataclass
class Outcome:
    """Of one test; `word` is passed, failed, skipped, or not run."""

    test: str
    word: str = "not run"
    why: str = ""  # it was skipped or failed
    seconds: float = 0.0
    ended: str = ""
    rows: list[Row] = field(default_factory=list)


class Report:
    """The outcomes of all tests in the order of the suite, the last one of each."""

    def __init__(self, kept: Path = KEPT) -> None:
        self._kept = kept
        self._outcomes: dict[str, Outcome] = {}
        if kept.exists():
            for line in kept.read_text().splitlines():
                told = json.loads(line)
                told["rows"] = [Row(**row) for row in told["rows"]]
                self._outcomes[told["test"]] = Outcome(**told)

    def expect(self, tests: Iterable[str]) -> None:
        """These are the suite's: one that never runs is told too."""
        for test in tests:
            if test not in self._outcomes:
                self._keep(Outcome(test))

    def __contains__(self, test: str) -> bool:
        return test in self._outcomes

    def add(self, outcome: Outcome) -> None:
        outcome.ended = f"{datetime.now(UTC):%Y-%m-%d %H:%M}"
        self._keep(outcome)

    def write(self, page: Path = PAGE) -> None:
        ended = sorted(o.ended for o in self._outcomes.values() if o.ended)
        head = _HEAD.format(
            ran=sum(o.word in ("passed", "failed") for o in self._outcomes.values()),
            all=len(self._outcomes),
            first=ended[0] if ended else "",
            last=ended[-1] if ended else "",
            cores=len(os.sched_getaffinity(0)),
        )
        lines = [line for outcome in self._outcomes.values() for line in _lines(outcome)]
        complaints = [
            f"- {_title(o.test)}: {_cell(o.why)}\n"
            for o in self._outcomes.values()
            if o.word == "failed"
        ]
        page.write_text(head + "".join(lines) + "\n" * bool(complaints) + "".join(complaints))

    def _keep(self, outcome: Outcome) -> None:
        self._outcomes[outcome.test] = outcome
        self._kept.parent.mkdir(exist_ok=True)
        with self._kept.open("a") as kept:
            kept.write(json.dumps(asdict(outcome)) + "\n")


def _lines(outcome: Outcome) -> list[str]:
    held = {"passed": "yes", "failed": "no"}.get(outcome.word, "")
    rows = [(row.promise, row.asked, row.result, held, row.setting) for row in outcome.rows]
    if outcome.word == "failed" and not rows:
        rows = [(_title(outcome.test), "", "it failed before it had a figure", held, "")]
    elif not held:
        why = f": {outcome.why}" if outcome.why else ""
        rows = [(_title(outcome.test), "", f"not run{why}", "", "")]
    return [f"| {' | '.join(_cell(text) for text in row)} |\n" for row in rows]


def _title(test: str) -> str:
    return test.rsplit("::", 1)[-1].removeprefix("test_").replace("_", " ")


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
