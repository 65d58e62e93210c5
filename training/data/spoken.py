"""Speech for products that nobody has filmed: made from their descriptions, misheard at times.

Photographs of groceries come with a description a product and no sound. What a salesperson might
say of one is a few of its words, among talk, and some words about another product; speech
recognition mishears, drops and splits words as in LPR-Synth (training.data.synthetic.speech).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from numpy.random import Generator

from training.data.synthetic.chance import pick
from training.data.synthetic.speech import SILENT, TALK, misheard

SAID = (3, 9)  # words in a row of a description that are said at once
TIMES = (1, 4)
ASIDE = 0.3  # clips that mention another product too


def spoken(title: str, others: Sequence[str], rng: Generator) -> str:
    """Recognised speech about the product of a title, "" where it has none; now and then of
    nothing at all. `others` are titles of the shop."""
    if not title or rng.random() < SILENT:
        return ""
    lines = [pick(TALK, rng) for _ in range(int(rng.integers(1, 4)))]
    lines += [_part(title, rng) for _ in range(int(rng.integers(*TIMES)))]
    if others and rng.random() < ASIDE:
        lines.append(_part(pick(others, rng), rng))
    words = " ".join(lines[i] for i in rng.permutation(len(lines))).split()
    return " ".join(word for said in words if (word := misheard(said, rng)))


def _part(text: str, rng: Generator) -> str:
    """Some words in a row, without punctuation."""
    words = re.findall(r"\w+", text.lower())
    count = int(rng.integers(*SAID))
    start = int(rng.integers(max(1, len(words) - count + 1)))
    return " ".join(words[start : start + count])
