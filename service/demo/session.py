"""The demo's conversation with a running service: the shop goes in, the clips are recognised.

Speaks HTTP through `service.client` only, as any user would; knows nothing of the service's inside.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from service.client import Client, ProblemError
from service.demo.figures import Row, row_of
from service.demo.film import film
from service.demo.layout import ShopItem, Take
from service.demo.work import Progress, each
from service.errors import DemoError

SHOP = "demo"
CANDIDATES = 100
"""Asked for with each clip, the most the API gives: the coarse ranking is read off the same answer,
so in a larger shop it is a ranking of the 100 best by the final score."""

_SENDERS = 4


@dataclass(frozen=True)
class Entry:
    """A product as it is sent to the service."""

    product_id: str
    title: str
    picture: Path


def entries(shop: Sequence[ShopItem], distractors: Sequence[Path]) -> list[Entry]:
    """The shop's products, then one further product for each distracting picture."""
    real = [Entry(item.name, item.title, item.picture) for item in shop]
    return real + [
        Entry(f"distractor-{number:05d}", f"distractor {path.parent.name}", path)
        for number, path in enumerate(distractors)
    ]


def index(client: Client, shop: Sequence[Entry], progress: Progress | None = None) -> None:
    """Fills the demo's shop anew, several products at a time. Raises DemoError, ClientError."""
    _forget(client)

    def send(entry: Entry) -> None:
        try:
            client.put_product(SHOP, entry.product_id, [entry.picture], title=entry.title)
        except ProblemError as problem:
            raise DemoError(f"{entry.picture} was refused: {problem}") from problem

    with ThreadPoolExecutor(_SENDERS) as pool:
        try:
            for done, _ in enumerate(pool.map(send, shop), start=1):
                if progress:
                    progress(done, len(shop))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _forget(client: Client) -> None:
    try:
        client.delete_shop(SHOP)
    except ProblemError as problem:
        if problem.status != 404:
            raise


def _film(folder: Path, seed: int, take: Take) -> Path:
    # Of the clip's name, so that a clip is the same whichever others are filmed with it.
    own_seed = zlib.crc32(f"{seed}/{take.clip_id}".encode())
    return film(take.photographs, folder / f"{take.clip_id}.mp4", seed=own_seed)


def film_all(
    takes: Sequence[Take], folder: Path, seed: int, progress: Progress | None = None
) -> list[Path]:
    """A clip of each take, on all cores. Raises DemoError."""
    folder.mkdir(parents=True, exist_ok=True)
    return each(partial(_film, folder, seed), takes, progress)


def recognise(
    client: Client,
    takes: Sequence[Take],
    clips: Sequence[Path],
    progress: Progress | None = None,
    *,
    detect: bool = True,
) -> list[Row]:
    """Sends the clips one at a time and notes every answer. Raises ClientError."""
    rows = []
    for done, (take, clip) in enumerate(zip(takes, clips, strict=True), start=1):
        data = clip.read_bytes()
        start = time.perf_counter()
        answer = client.recognize(SHOP, data, top_k=CANDIDATES, detect=detect)
        wall_ms = 1e3 * (time.perf_counter() - start)
        rows.append(row_of(take.clip_id, take.item.name, answer, wall_ms))
        if progress:
            progress(done, len(takes))
    return rows
