"""What is heard of a clip that is scored: its own speech, other clips', or nothing."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle, islice
from typing import Literal, get_args

from numpy.random import Generator

from training.data.records import Query
from training.data.spoken import spoken

Hearing = Literal["right", "wrong", "missing"]
"""What is heard of a clip: what the data says, what it says of other clips, or nothing."""

HEARINGS: tuple[Hearing, ...] = get_args(Hearing)
"""All of them, as they are joined."""

MISHEARD = 8  # wrong speeches that each clip is judged with: what one of them costs is chance


def said_of_product(
    product: int, titles: Sequence[str], hearing: Hearing, rng: Generator
) -> list[str]:
    """Of a photographed product, by its title; by others', if there are any, where those are
    heard."""
    if hearing == "wrong" and len(titles) == 1:
        return [""] * MISHEARD
    if hearing == "wrong":
        others = (product + 1 + rng.integers(len(titles) - 1, size=MISHEARD)) % len(titles)
        return [spoken(titles[other], titles, rng) for other in others]
    said = spoken(titles[product], titles, rng)
    return ["" if hearing == "missing" else said]


def said_in(queries: list[Query], hearing: Hearing) -> list[list[str]]:
    """Of each query; wrong ones are those of the next clips of the same shop that show other
    products, where there are any."""
    if hearing == "missing":
        return [[""] for _ in queries]
    if hearing == "right":
        return [[query.speech] for query in queries]
    of_shop: dict[str, list[Query]] = {}
    for query in queries:
        of_shop.setdefault(query.live_id, []).append(query)
    return [_of_others(query, of_shop[query.live_id]) for query in queries]


def _of_others(query: Query, shop: list[Query]) -> list[str]:
    place = next(i for i, other in enumerate(shop) if other is query)
    following = (*shop[place + 1 :], *shop[:place])
    others = [o.speech for o in following if o.speech and not set(o.truth) & set(query.truth)]
    return list(islice(cycle(others or [""]), MISHEARD))
