"""What is promised of the service's speed, and where in the benches' JSON it is found."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

JSON = dict[str, Any]
Results = Mapping[str, JSON]
"""What each bench said, by its name in `benches`; `{"failed": why}` where it said nothing."""

Read = Callable[[JSON], float | None]
Holds = Callable[[float], bool]


@dataclass(frozen=True)
class Floor:
    """A promise, and how it is read off what a bench said."""

    promise: str
    bench: str
    read: Read
    holds: Holds
    shown: str = "{:,.2f}"

    def measured(self, results: Results) -> float | None:
        """None where the bench did not run, or has nothing to compare with."""
        report = results.get(self.bench, {"failed": ""})
        return None if "failed" in report else self.read(report)


def at_least(bound: float) -> Holds:
    return lambda measured: measured >= bound


def at_most(bound: float) -> Holds:
    return lambda measured: measured <= bound


def figure(name: str) -> Read:
    return lambda report: report["figures"][name]


def ratio(report: JSON) -> float | None:
    """How many times as fast as the baseline."""
    told: float | None = report["ratio"]
    return told


def growth(report: JSON) -> float:
    """The largest size, hot, as many times the smallest."""
    hot = [point["hot"] for point in report["figures"]["points"]]
    return float(hot[-1] / hot[0])


def times_diy(clip_s: int, ours: str = "ours") -> Read:
    def read(report: JSON) -> float:
        rates = report["clips_per_s"][f"{clip_s}"]
        return float(rates[ours] / rates["diy"])

    return read


def points_above_diy(report: JSON) -> float:
    return float(100 * (report["accuracy"]["ours"]["r1"] - report["accuracy"]["diy"]["r1"]))


# A table.
# fmt: off
FLOORS = (
    Floor("matching 600 candidates: >= 160 times as fast as pair by pair",
          "match-600", ratio, at_least(160)),
    Floor("matching 600 candidates: <= 12 % of encoding the clip",
          "match-600", figure("share_of_encoding"), at_most(0.12), "{:.1%}"),
    Floor("matching 100 candidates: >= 88 times as fast as pair by pair",
          "match-100", ratio, at_least(88)),
    Floor("matching 10,000 candidates: <= 1.8 times encoding the clip",
          "match-10000", figure("share_of_encoding"), at_most(1.8)),
    Floor("`POST /recognize`, 10 s of 720p, hot shop of 600: <= 1.25 times bare decode and encoder",
          "recognize", figure("times_the_baseline"), at_most(1.25)),
    Floor("throughput at saturation: >= 90 % of the bare encoder's (clips sent as video)",
          "load", ratio, at_least(0.9), "{:.0%}"),
    Floor("the same, clips sent as frames",
          "load-frames", ratio, at_least(0.9), "{:.0%}"),
    Floor("at 80 % of saturation: p99 <= 3 times p50",
          "load", figure("p99_over_p50"), at_most(3)),
    Floor("no request lost",
          "load", figure("lost"), at_most(0), "{:.0f}"),
    Floor("indexing, durable and searchable: >= 90 % of the bare image encoder's batches",
          "index", ratio, at_least(0.9), "{:.0%}"),
    Floor("against the do-it-yourself service: >= 3 times the clips/s, clips of 10 s",
          "diy", times_diy(10), at_least(3)),
    Floor("the same, clips of 30 s",
          "diy", times_diy(30), at_least(3)),
    Floor("the same in int8, clips of 10 s",
          "diy", times_diy(10, "int8"), at_least(3)),
    Floor("the same in int8, clips of 30 s",
          "diy", times_diy(30, "int8"), at_least(3)),
    Floor("against the do-it-yourself service: more accurate (difference of R@1, in points)",
          "diy", points_above_diy, lambda points: points > 0, "{:+.1f}"),
    Floor("cost does not grow with the gallery (a hot shop of 600, largest over smallest)",
          "scale-gallery", growth, at_most(1.5)),
    Floor("cost does not grow with the number of shops (a hot shop, largest over smallest)",
          "scale-shops", growth, at_most(1.5)),
)
# fmt: on
