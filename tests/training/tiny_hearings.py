"""Clips in which something is said, and whether one pass scores them as a pass a hearing does."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tests.training.tiny_sgmn import TITLES
from training.data.frames import Frame
from training.data.queries import QuerySet
from training.data.records import Query, ShopPicture
from training.data.sets import JudgedSet
from training.evaluation.hearings import HEARINGS, Hearing
from training.evaluation.protocol import score
from training.evaluation.scorers import Scorer
from training.evaluation.scores import Scores


def spoken_queries() -> QuerySet:
    """Of two shops with five and three products; one clip is silent, one has no frames."""
    said = ["the red soap", "", "green tea", "so look at this", "bread and milk"]
    shops = {"one": TITLES, "other": TITLES[:3]}
    queries = [
        Query(
            f"{live}-{place}", live, (f"{live} {place}",), (f"{live}-{place}",), speech=said[place]
        )
        for live, titles in shops.items()
        for place in range(len(titles))
    ]
    galleries = {
        live: [
            ShopPicture(f"{live}-{i}", f"{live} {i}", title=title) for i, title in enumerate(titles)
        ]
        for live, titles in shops.items()
    }

    def picture(reference: str, size: int) -> np.ndarray:
        return drawn(reference, 1, size)[0]

    def frames(query: Query, most: int, size: int) -> list[Frame]:
        if query.clip_id == "other-2":
            return []
        return [Frame(pixels) for pixels in drawn(query.clip_id, most, size)]

    return QuerySet(queries, galleries, picture, frames, lambda reference: True)


def drawn(name: str, count: int, size: int) -> np.ndarray:
    """uint8 [count,size,size,3], others for each name."""
    rng = np.random.default_rng(list(name.encode()))
    return rng.integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def assert_one_pass_is_many(
    scorer: Scorer, data: JudgedSet, **options: Any
) -> dict[Hearing, Scores]:
    """Scores in one pass, which are exactly those of a pass a hearing."""
    together = score(scorer, data, hearings=HEARINGS, **options)
    assert tuple(together) == HEARINGS
    for hearing in HEARINGS:
        alone = score(scorer, data, hearings=[hearing], **options)
        assert list(alone) == [hearing]
        assert_same(together[hearing], alone[hearing])
    return together


def assert_same(one: Scores, other: Scores) -> None:
    for part in fields(Scores):
        ours, theirs = getattr(one, part.name), getattr(other, part.name)
        if isinstance(ours, Tensor):
            assert torch.equal(ours, theirs), part.name
        else:
            assert ours == theirs, part.name
