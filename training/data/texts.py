"""Titles and speech on their way into a batch: dropped at times, swapped at times, tokenized.

A model that always hears the truth believes all it hears. So in training some texts are missing,
and some clips have the speech of another product (`Recipe.text_dropout`, `Recipe.wrong_speech`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from numpy.random import Generator

from training.configs import Recipe
from training.data.clip_index import evenly
from training.data.drawn import Drawn
from training.data.photographs import PhotographSet
from training.data.sets import TrainingSet
from training.data.spoken import spoken
from training.data.talk import made_up_talk

CORPUS = 50_000  # clips of a set, at most, whose texts a tokenizer is trained on
CORPUS_TALK = 2_000  # made-up pairs that it is trained on, where a recipe has any


@dataclass(frozen=True)
class Heard:
    """Of one batch."""

    titles: list[str]  # [P]
    speech: list[str]  # [N]
    wrong: list[bool]  # [N], whether the speech is of another product


def heard(shares: list[Drawn], recipe: Recipe, rng: Generator) -> Heard:
    """Texts of a batch's sources in order, with the recipe's dropouts and swaps."""
    titles = [title for share in shares for title in share.titles]
    speech, wrong = [], []
    for share in shares:
        for row, said in zip(share.product, share.speech, strict=True):
            others = [
                other
                for of, other in zip(share.product, share.speech, strict=True)
                if other and of != row
            ]
            swapped = bool(said and others) and rng.random() < recipe.wrong_speech
            speech.append(others[int(rng.integers(len(others)))] if swapped else said)
            wrong.append(swapped)

    def dropped(text: str) -> str:
        return "" if rng.random() < recipe.text_dropout else text

    return Heard([dropped(title) for title in titles], [dropped(said) for said in speech], wrong)


def corpus(data: Mapping[str, TrainingSet], rng: Generator, *, talk: bool = False) -> Iterator[str]:
    """Titles and speech of the sources, and made-up ones with `talk`, for training a tokenizer."""
    if talk:
        for texts in made_up_talk(CORPUS_TALK, rng):
            yield from texts
    for source in data.values():
        if isinstance(source, PhotographSet):
            yield from source.titles
            for title in source.titles:
                yield from (spoken(title, source.titles, rng) for _ in range(20))
        else:
            for clip in evenly(len(source), CORPUS):
                yield from source.texts(clip)
