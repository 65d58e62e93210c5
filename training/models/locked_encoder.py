"""What a locked encoder gives is computed once.

Source: LiT (Zhai et al., 2022, "LiT: Zero-shot transfer with locked-image text tuning"), section 3:
what a locked tower gives can be computed beforehand. Here it is kept as it comes, by the pixels: a
recipe's cycle of batches, a validation's clips and all runs of an ablation cost the encoder one
pass.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache

import torch
from torch import Tensor

from training.models.encoder import ImageEncoder

MOST_BYTES = 6 * 10**9


class EncoderMemory:
    """Of one encoder's weights. Once full it takes in nothing new: what comes round would else be
    forgotten just before it is asked for again."""

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self._kept: dict[bytes, tuple[Tensor, Tensor]] = {}
        self._room = most_bytes

    def encode(
        self,
        encoder: ImageEncoder,
        pixels: Tensor,
        patch_mask: Tensor | None = None,
        places: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """As `ImageEncoder.forward`, for the same pixels as a whole."""
        key = _key(pixels, patch_mask, places)
        if key in self._kept:
            return self._kept[key]
        found = encoder(pixels, patch_mask, places)
        size = sum(part.numel() * part.element_size() for part in found)
        if size <= self._room:
            self._kept[key], self._room = found, self._room - size
        return found


def memory_of(encoder: ImageEncoder) -> EncoderMemory:
    """The one of its weights, which must not change any more; models that have the same weights
    share it."""
    told = hashlib.blake2b(repr(encoder.config).encode())
    for value in encoder.state_dict().values():
        _add(told, value)
    return _memory(told.hexdigest())


@lru_cache(maxsize=1)
def _memory(weights: str) -> EncoderMemory:
    return EncoderMemory()


def _key(*inputs: Tensor | None) -> bytes:
    told = hashlib.blake2b(f"{torch.is_autocast_enabled('cpu')}".encode())
    told.update(f"{torch.is_inference_mode_enabled()}".encode())  # backward takes no such tensors
    for each in inputs:
        if each is not None:
            told.update(str(tuple(each.shape)).encode())
            _add(told, each)
    return told.digest()


def _add(told: hashlib.blake2b, value: Tensor) -> None:
    told.update(value.detach().cpu().contiguous().numpy().data)
