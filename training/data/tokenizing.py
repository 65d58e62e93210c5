"""Text to token ids and back to nothing else: a tokenizer.json, run by the `tokenizers` library.

The file is the whole rule: normalisation, subwords, special tokens, and where a long text is cut,
at the right, so that its beginning stays. A service runs the same file. Text that is empty, or
holds nothing but white space, is no text: it has no tokens, special ones included.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.normalizers import NFKC, Lowercase
from tokenizers.normalizers import Sequence as Normalizers
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.processors import TemplateProcessing
from tokenizers.trainers import BpeTrainer

from training.data.errors import DataError
from training.models.text import Texts

PAD, BEGIN = "[PAD]", "[BEGIN]"
MOST_CHARACTERS = 4_000  # of a text; more cannot matter, as so few tokens are kept


class TextTokenizer:
    """Safe to share between threads."""

    def __init__(self, definition: str, max_tokens: int) -> None:
        """`definition` is a tokenizer.json's text. Raises DataError."""
        try:
            self._tokenizer = Tokenizer.from_str(definition)
        except Exception as error:  # the library raises nothing more special
            raise DataError(f"no tokenizer of the `tokenizers` library: {error}") from error
        self._tokenizer.enable_truncation(max_tokens, direction="right")
        self._tokenizer.no_padding()

    @property
    def definition(self) -> str:
        """The tokenizer.json of a bundle: with the length at which texts are cut."""
        return str(self._tokenizer.to_str())

    @property
    def vocabulary(self) -> int:
        return int(self._tokenizer.get_vocab_size())

    def __call__(self, texts: Sequence[str]) -> Texts:
        """B texts -> ids and mask [B,T], as long as the longest, at least one."""
        found = self._tokenizer.encode_batch([text[:MOST_CHARACTERS] for text in texts])
        rows = [one.ids if text.strip() else [] for text, one in zip(texts, found, strict=True)]
        longest = max([1, *map(len, rows)])
        ids = torch.zeros(len(rows), longest, dtype=torch.long)
        lengths = torch.tensor([len(row) for row in rows])
        for place, row in enumerate(rows):
            ids[place, : len(row)] = torch.tensor(row, dtype=torch.long)
        return Texts(ids, torch.arange(longest) < lengths[:, None])


def train_tokenizer(texts: Iterable[str], vocabulary: int) -> str:
    """tokenizer.json of byte-level subwords (BPE): any script, no unknown characters.

    Case and compatibility forms are folded: speech recognition knows neither. Raises DataError
    where there is no text.
    """
    tokenizer = Tokenizer(BPE())
    tokenizer.normalizer = Normalizers([NFKC(), Lowercase()])
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=True)
    tokenizer.decoder = ByteLevelDecoder()
    trainer = BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[PAD, BEGIN],
        initial_alphabet=ByteLevel.alphabet(),
        show_progress=False,
    )
    some = [text for text in texts if text.strip()]
    if not some:
        raise DataError("a tokenizer is trained on titles and speech, and there are none")
    tokenizer.train_from_iterator(some, trainer)
    tokenizer.post_processor = TemplateProcessing(
        single=f"{BEGIN} $A", special_tokens=[(BEGIN, tokenizer.token_to_id(BEGIN))]
    )
    return str(tokenizer.to_str())
