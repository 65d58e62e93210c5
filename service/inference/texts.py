"""Titles and speech: from text to token features and an embedding, by the bundle's own rule.

Of a text the first `max_characters` are tokenized with the bundle's tokenizer.json, and the first
`max_tokens` tokens are kept. Text that is empty, or nothing but white space, is no text: it is not
run, its embedding is zeros. Knows nothing of pictures, clips or scores.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from service.errors import BundleError, InferenceError
from service.inference.bundle import Bundle
from service.inference.manifest import Text, read_text

MAX_TOKENIZER_BYTES = 20_000_000

Array = npt.NDArray[np.generic]
Run = Callable[[str, Mapping[str, Array]], list[Array]]
"""`service.inference.graphs.Graphs.run_batch`."""


@dataclass(frozen=True)
class TextFeatures:
    """Of B texts; all zeros where there is none."""

    tokens: npt.NDArray[np.float32]  # [B,T,Wt]
    mask: npt.NDArray[np.bool_]  # [B,T]
    embedding: npt.NDArray[np.float32]  # [B,Et], L2

    @property
    def there(self) -> npt.NDArray[np.bool_]:
        """[B]"""
        return np.asarray(self.mask.any(axis=1))


class TextReader:
    """Safe to share between threads."""

    def __init__(self, bundle: Bundle, text: Text, run: Run) -> None:
        """Raises BundleError where the tokenizer is none."""
        definition = read_text(bundle.path, text.tokenizer, MAX_TOKENIZER_BYTES)
        try:
            self._tokenizer = Tokenizer.from_str(definition)
        except Exception as error:  # the library raises nothing more special
            raise BundleError(f"{bundle.path / text.tokenizer} is no tokenizer: {error}") from error
        self._tokenizer.enable_truncation(text.max_tokens, direction="right")
        self._tokenizer.no_padding()
        self._text = text
        self._run = run

    def read(self, texts: Sequence[str]) -> TextFeatures:
        """B texts; the same text is run once, and none at all where all are empty.

        Raises InferenceError.
        """
        ids = {text: self._ids(text) for text in dict.fromkeys(texts)}
        said = [text for text, of_text in ids.items() if of_text]
        place = {text: row for row, text in enumerate(said)}
        rows = np.array([place.get(text, len(said)) for text in texts], np.intp)
        of_each = self._encode([ids[text] for text in said])
        return TextFeatures(of_each.tokens[rows], of_each.mask[rows], of_each.embedding[rows])

    def _encode(self, ids: Sequence[Sequence[int]]) -> TextFeatures:
        """Of texts by their token ids, with one row of nothing at the end."""
        longest = max([1, *map(len, ids)])
        token_ids = np.zeros((len(ids), longest), np.int64)
        mask = np.zeros((len(ids) + 1, longest), np.bool_)
        for row, of_text in enumerate(ids):
            token_ids[row, : len(of_text)] = of_text
            mask[row, : len(of_text)] = True
        tokens = np.zeros((len(ids) + 1, longest, self._text.width), np.float32)
        embedding = np.zeros((len(ids) + 1, self._text.embedding), np.float32)
        if ids:
            inputs = {"token_ids": token_ids, "mask": mask[:-1]}
            tokens[:-1], embedding[:-1] = self._run("text_encoder", inputs)
        return TextFeatures(tokens, mask, embedding)

    def _ids(self, text: str) -> list[int]:
        text = text[: self._text.max_characters]
        if not text.strip():
            return []
        try:
            ids: list[int] = self._tokenizer.encode(text).ids
        except Exception as error:  # the library raises nothing more special
            raise InferenceError("a text could not be tokenized") from error
        return ids
