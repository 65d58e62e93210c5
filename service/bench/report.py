"""What a bench found: one JSON object, or tables to read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

JSON = dict[str, Any]


@dataclass(frozen=True)
class Report:
    """`ratio` is how many times as fast as the baseline: baseline_ms / ms, for all benches alike.

    A baseline that cannot run here is None, and then there is no ratio.
    """

    bench: str
    what: str  # what `ms` is the time of
    ms: float
    baseline: str | None
    baseline_ms: float | None
    setting: JSON
    machine: JSON
    others_ms: Mapping[str, float] = field(default_factory=dict)  # measured in the same rounds
    figures: JSON = field(default_factory=dict)  # what else this bench tells

    @property
    def ratio(self) -> float | None:
        return None if self.baseline_ms is None else self.baseline_ms / self.ms

    def to_json(self) -> JSON:
        return asdict(self) | {"ratio": self.ratio}

    def shown(self) -> Group:
        """The times, what else there is, and on what they were measured."""
        return Group(
            self._times(),
            *(part for name, value in self.figures.items() for part in _shown(name, value)),
            Text(f"setting: {_in_words(self.setting)}"),
            Text(f"machine: {_in_words(self.machine)}"),
        )

    def _times(self) -> Table:
        table = Table("", "ms", "times the first", title=f"lpr bench {self.bench}")
        rows = {self.what: self.ms}
        if self.baseline is not None and self.baseline_ms is not None:
            rows[f"baseline: {self.baseline}"] = self.baseline_ms
        for name, ms in (rows | dict(self.others_ms)).items():
            table.add_row(name, f"{ms:,.2f}", f"{ms / self.ms:,.2f}")
        return table


def _shown(name: str, value: Any) -> Iterator[RenderableType]:
    """A figure as a line, a list of points as a table."""
    if isinstance(value, list) and value:
        table = Table(title=name)
        for column in value[0]:
            table.add_column(column, overflow="fold")  # a figure cut short would be another one
        for point in value:
            table.add_row(*(_in_words(point.get(column)) for column in value[0]))
        yield table
    else:
        yield Text(f"{name}: {_in_words(value)}")


def _in_words(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_in_words(item)}" for key, item in value.items()) or "none"
    return f"{value:,.4g}" if isinstance(value, float) else str(value)
