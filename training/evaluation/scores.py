"""Scores of clips against their shops, whatever gave them, and what they are worth."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from training.evaluation.calibration import OUT_OF_SHOP
from training.evaluation.evidence import evidence
from training.evaluation.fusion import Fusion
from training.evaluation.hearings import Hearing
from training.evaluation.metrics import Accuracy, accuracy


class Unanswerable(NamedTuple):
    """Clips that are misses whatever a model says; one may be so for both reasons."""

    no_frame: int = 0
    """None of its frames can be read."""
    no_picture: int = 0
    """Its shop has none of its right pictures, or none that can be read."""


@dataclass(frozen=True)
class Scores:
    """Of N clips against P products, or pictures: as many as the largest shop has. A clip has as
    many rows, one after the other, as `speeches` are heard in it.

    Columns that a clip's own shop does not fill are OUT_OF_SHOP.
    """

    coarse: Tensor  # [N,P], cosine of the embeddings
    match: Tensor  # [N,P], logits of the matching decoder
    truth: Tensor  # int64 [N], the column of the right answer
    also: Tensor | None = None  # bool [N,P], further right answers
    groups: Mapping[str, list[str]] = field(default_factory=dict)
    """By what clips differ (scale, duration, products, category): each one's group, or ""."""
    text: Tensor | None = None
    """[N,P], how near titles are to what is said (`scorers.Comparison`), 0 where one is missing;
    None: no text was read."""
    speeches: int = 1
    takes: int = 1
    """How often each clip was filmed: all of them once, then all of them again."""
    unanswerable: Unanswerable = field(default_factory=Unanswerable)

    @property
    def clips(self) -> int:
        return len(self.truth) // (self.speeches * self.takes)

    @property
    def clip(self) -> Tensor:
        """Int64 [N], the same in each row of a clip."""
        return torch.arange(len(self.truth)) // self.speeches % self.clips

    def fused(self, fusion: Fusion) -> Tensor:
        return self.judged(self.seen(fusion) + fusion.text * self.said(fusion))

    def seen(self, fusion: Fusion) -> Tensor:
        """[N,P], what speaks for a product by sight."""
        return self.coarse + fusion.match * self.match

    def said(self, fusion: Fusion) -> Tensor | float:
        """[N,P], what speaks for it by text, before its weight."""
        return 0.0 if self.text is None else evidence(self.text, fusion.scale, fusion.doubt)

    def once(self) -> Scores:
        """Of each clip its first row."""
        first = slice(None, None, self.speeches)
        return Scores(
            self.coarse[first],
            self.match[first],
            self.truth[first],
            None if self.also is None else self.also[first],
            {name: groups[first] for name, groups in self.groups.items()},
            None if self.text is None else self.text[first],
            takes=self.takes,
            unanswerable=self.unanswerable,
        )

    def largest_shop(self) -> int:
        """Products, or pictures, of the largest shop."""
        return int((self.coarse > OUT_OF_SHOP).sum(dim=1).max())

    def judged(self, scores: Tensor) -> Tensor:
        """[N,P], in which the best of a clip's right answers stands at `truth` for all of them."""
        if self.also is None:
            return scores
        own = self.also.scatter(1, self.truth[:, None], value=True)
        best = scores.masked_fill(~own, -math.inf).max(dim=1, keepdim=True).values
        return scores.masked_fill(own, OUT_OF_SHOP).scatter(1, self.truth[:, None], best)


def joined(of: Mapping[Hearing, Scores]) -> Scores:
    """All as if they were of different clips: what is ranked is neither always told nor never."""
    every = [one.once() for one in of.values()]
    also = [one.also for one in every if one.also is not None]
    text = [torch.zeros_like(one.match) if one.text is None else one.text for one in every]
    return Scores(
        torch.cat([one.coarse for one in every]),
        torch.cat([one.match for one in every]),
        torch.cat([one.truth for one in every]),
        torch.cat(also) if also else None,
        text=torch.cat(text) if "right" in of else None,
    )


def by_part(scores: Scores, fusion: Fusion) -> dict[str, Tensor]:
    """Of the score, [N,P] each to be ranked alone, and all fused."""
    alone = {"coarse": scores.coarse, "match": scores.match}
    if scores.text is not None:
        alone["text"] = scores.text
    judged = {name: scores.judged(part) for name, part in alone.items()}
    return judged | {"fused": scores.fused(fusion)}


def summary(scores: Scores, fusion: Fusion) -> dict[str, Accuracy]:
    """Accuracy of the parts of the score alone, and of all fused."""
    return {name: accuracy(part, scores.truth) for name, part in by_part(scores, fusion).items()}
