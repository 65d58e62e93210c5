"""What 10, 1,000 and 100,000 shops need, from what one recognition costs here: `make sizing`.

Runs the real service on made products and clips, takes the CPU seconds of the service and of all
that it began from the kernel, and writes docs/SIZING.md with the arithmetic. CPU seconds, not wall
time: they hardly change when the machine is busy with something else.
"""

from __future__ import annotations

import math
import os
import re
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import httpx

from service.bench.recognize import bench_clip
from service.client import Client
from service.demo.layout import read_shop, read_takes
from service.demo.made import make_dataset
from service.demo.session import SHOP, entries, film_all, index
from service.inference.bundle import Bundle
from service.launch import ServiceProcess
from service.settings import DEFAULT_BUNDLE

PRODUCTS = 60
PHOTOGRAPHED = 20
RECOGNITIONS = 100  # of each kind of clip, with and without the detector
SEED = 3000

PICTURES_A_SHOP = 600  # LPR4M's livestreams have about as many
LIVE_SHARE = 0.1  # of the shops at once
CLIP_EVERY_S = 5.0
BUSY = 0.6  # of a core, so that bursts find room
CORES = 8  # of an instance
SIZES = (10, 1_000, 100_000)


@dataclass(frozen=True)
class Recognition:
    """CPU of one, decoding included."""

    seconds: float
    undetected_s: float  # without the detector

    @property
    def share(self) -> float:
        """The detector's."""
        return 1 - self.undetected_s / self.seconds


@dataclass(frozen=True)
class Cost:
    """Of one unit, as measured."""

    short: Recognition  # of a made clip, 5 s of 480p
    long: Recognition  # of 10 s of 720p
    indexing_s: float  # CPU, a picture
    resident_bytes: float  # of a service with nothing hot
    hot_bytes: float  # a picture
    stored_bytes: float  # a picture and its share of the record
    row_bytes: float  # in Milvus


def measure(folder: Path) -> Cost:
    make_dataset(folder / "data", products=PRODUCTS, photographs=5, seed=SEED, split="test")
    shop = read_shop(folder / "data")
    takes = read_takes(folder / "data", shop, "test")[:PHOTOGRAPHED]
    clips = film_all(takes, folder / "clips", SEED)
    process = ServiceProcess(folder / "service", LPR_DRAIN_S=0)
    try:
        with Client(process.wait_address()) as client:
            process.wait_ready(client)
            resident = _resident(process.process.pid)
            before = _cpu_s(process.process.pid)
            index(client, entries(shop, []))
            indexed = _cpu_s(process.process.pid)
            client.recognize(SHOP, clips[0])  # the shop is hot from here on
            short = _recognition(client, process.process.pid, clips)
            long = _recognition(client, process.process.pid, [bench_clip(folder)])
            hot = _metric(client.base_url, "lpr_hot_shops_bytes")
    finally:
        process.stop()
    dims = Bundle.load(DEFAULT_BUNDLE).manifest.dims
    return Cost(
        short=short,
        long=long,
        indexing_s=(indexed - before) / PRODUCTS,
        resident_bytes=resident,
        hot_bytes=hot / PRODUCTS,
        stored_bytes=_size(folder / "service" / "catalogue") / PRODUCTS,
        row_bytes=4 * dims.embedding + math.ceil(2 * dims.match_state * 4 / 3) + 200,
    )


def _recognition(client: Client, pid: int, clips: Sequence[Path]) -> Recognition:
    """With and without the detector by turns."""
    spent = dict.fromkeys((True, False), 0.0)
    rounds = math.ceil(RECOGNITIONS / len(clips))
    for _, detect in product(range(rounds), spent):
        before = _cpu_s(pid)
        for clip in clips:
            client.recognize(SHOP, clip, detect=detect)
        spent[detect] += _cpu_s(pid) - before
    return Recognition(*(each / (rounds * len(clips)) for each in spent.values()))


def page(cost: Cost) -> str:
    lines = [
        "# How large",
        "",
        f"Written by `make sizing` on {os.cpu_count()} cores, with the default bundle.",
        "",
        "| measured | |",
        "|---|---|",
        _recognition_row("10 s of 720p", cost.long),
        _recognition_row("a made clip, 5 s of 480p", cost.short),
        f"| indexing a picture | {1e3 * cost.indexing_s:.0f} ms of one core |",
        f"| the service with nothing hot | {cost.resident_bytes / 1e6:.0f} MB |",
        f"| a picture of a hot shop | {cost.hot_bytes / 1e3:.1f} kB of memory |",
        f"| a picture in the catalogue | {cost.stored_bytes / 1e3:.0f} kB of made pictures |",
        f"| a picture in Milvus | {cost.row_bytes / 1e3:.1f} kB (computed from its fields) |",
        "",
        f"Assumed: {PICTURES_A_SHOP} pictures a shop, {LIVE_SHARE:.0%} of the shops live at once, "
        f"10 s of 720p every {CLIP_EVERY_S:.0f} s from each, cores {BUSY:.0%} busy, instances of "
        f"{CORES} cores and never fewer than two. Requests of a shop may go to any instance, so "
        "each keeps all live shops hot (`LPR_SEARCH__HOT_SHOPS_BYTES`, 256 MB unless it is set); "
        "where that is too much, send a shop's requests to the same few.",
        "",
        "| shops | clips/s | cores | instances | hot memory, each | catalogue | Milvus | "
        "indexing all anew |",
        "|---|---|---|---|---|---|---|---|",
        *(_row(shops, cost) for shops in SIZES),
        "",
        "cores = clips/s x CPU of a recognition / busy; hot memory = live shops x pictures x bytes "
        "of a hot picture; indexing anew = pictures x CPU of a picture / cores.",
        "",
    ]
    return "\n".join(lines)


def _recognition_row(clip: str, cost: Recognition) -> str:
    return (
        f"| a recognition of {clip}, decoding included | {1e3 * cost.seconds:.0f} ms of one core, "
        f"{cost.share:.0%} of it the detector's |"
    )


def _row(shops: int, cost: Cost) -> str:
    live = max(1.0, LIVE_SHARE * shops)
    pictures = shops * PICTURES_A_SHOP
    clips = live / CLIP_EVERY_S
    cores = clips * cost.long.seconds / BUSY
    instances = max(2, math.ceil(cores / CORES))
    hot = live * PICTURES_A_SHOP * cost.hot_bytes
    anew_s = pictures * cost.indexing_s / (instances * CORES)
    cells = (
        f"{shops:,}",
        f"{clips:,.1f}",
        f"{cores:,.1f}",
        f"{instances}",
        _bytes(hot),
        _bytes(pictures * cost.stored_bytes),
        _bytes(pictures * cost.row_bytes),
        f"{anew_s / 3600:,.2f} h",
    )
    return f"| {' | '.join(cells)} |"


def _bytes(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} PB"


def _cpu_s(pid: int) -> float:
    """Of a process and of all that it began: clips are decoded in children of a child."""
    process = Path(f"/proc/{pid}")
    fields = (process / "stat").read_text().rsplit(")", 1)[1].split()
    own_and_ended = sum(int(ticks) for ticks in fields[11:15]) / os.sysconf("SC_CLK_TCK")
    children = (
        child
        for thread in (process / "task").iterdir()
        for child in (thread / "children").read_text().split()
    )
    return own_and_ended + sum(_cpu_s(int(child)) for child in children)


def _resident(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return float(pages * os.sysconf("SC_PAGE_SIZE"))


def _metric(url: str, name: str) -> float:
    text = httpx.get(f"{url}/metrics", trust_env=False).text
    found = re.search(rf"^{name} (\S+)$", text, re.MULTILINE)
    return float(found[1]) if found else math.nan


def _size(folder: Path) -> float:
    return float(sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        Path(sys.argv[1]).write_text(page(measure(Path(scratch))))
