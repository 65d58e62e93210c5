"""Wrong lines of annotation files: counted and told with file and line, until there are too many.

Four million lines collected from the web hold some that are broken, and some whose pictures have
gone since. A run should not die of one, and must not shrink silently either.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path

from training.data.errors import DataError

DEFAULT_LIMIT = 1000
NO_LIMIT = sys.maxsize
BORNE = 0.05  # of the clips that were drawn may lack what they show
EXAMPLES = 20  # kept to be shown


@dataclass
class WrongLines:
    """Counts lines that were left out, each once however often it is met; `add` raises DataError
    once there are more than `limit`, and than BORNE of the clips that were drawn where any were."""

    limit: int = DEFAULT_LIMIT
    count: int = 0
    examples: list[str] = field(default_factory=list)
    """The first wrong lines: "file:line: what is wrong"."""
    _met: set[tuple[Path, int]] = field(default_factory=set)

    def add(self, file: Path, line: int, reason: str, *, drawn: int = 0) -> None:
        if (file, line) in self._met:
            return
        self._met.add((file, line))
        self.count += 1
        told = f"{file}:{line}: {reason}"
        if len(self.examples) < EXAMPLES:
            self.examples.append(told)
        limit = max(self.limit, int(BORNE * drawn))
        if self.count > limit:
            raise DataError(
                f"more than {limit} wrong lines; this was the last: {told}; the first: "
                f"{self.examples[0]}"
            )
