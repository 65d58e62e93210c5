"""How much of a title is said, word by word.

One vector of all that is said in a clip is also of the greetings, prices and other products between
which the product is named; words that are said are said all the same. Source: TF-IDF's cosine
(Spärck Jones, 1972, "A statistical interpretation of term specificity"). The service has the same
(tests/contract/test_scores.py).
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from itertools import chain
from unicodedata import normalize

import numpy as np
from numpy.typing import NDArray

from training.data.tokenizing import MOST_CHARACTERS

_UNSPACED = r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W_{_UNSPACED}]+")


def words(text: str) -> frozenset[str]:
    """Of its first 4,000 characters, in one case and form; of scripts without spaces between words,
    each character is one."""
    return frozenset(_WORD.findall(normalize("NFKC", text[:MOST_CHARACTERS]).casefold()))


_of_title = lru_cache(maxsize=1 << 13)(words)  # titles come again with every clip; speech does not


def overlap(speech: str, titles: Sequence[str]) -> NDArray[np.float32]:
    """[P], from 0 to 1: cosine of the words of what is said and of each of P titles, a word as
    heavy as it is rare among the titles; 0 where they share none."""
    said, named = words(speech), [_of_title(title) for title in titles]
    count = Counter(chain.from_iterable(named))
    square = {word: math.log1p(len(titles) / titled) ** 2 for word, titled in count.items()}
    heard = sum(square.get(word, 0.0) for word in said)
    found = np.zeros(len(titles), np.float32)
    for place, title in enumerate(named):
        if shared := title & said:
            length = math.sqrt(heard * sum(square[word] for word in title))
            found[place] = sum(square[word] for word in shared) / length
    return found
