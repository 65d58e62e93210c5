"""Contrastive batches larger than memory: encoded chunk by chunk, their gradients cached.

Source: GradCache (Gao et al., 2021, "Scaling deep contrastive learning batch size under memory
limited setup"). Chunks are encoded without keeping a graph, the losses see the embeddings and
tokens of the whole batch, and each chunk is encoded once more when the gradient with respect to
its outputs is known. Plain accumulation would contrast within chunks only.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from training.models.rice import Encode


def in_chunks(encode: Encode, chunk: int) -> Encode:
    """`encode` for `chunk` pictures at a time; exact where pictures do not depend on each other.

    torch's checkpoint is what forgets a chunk's graph and builds it again, with the same random
    numbers and the same autocast; autograd goes through the chunks one after the other.
    """

    def encoded(pixels: Tensor, patch_mask: Tensor | None) -> tuple[Tensor, Tensor]:
        parts = pixels.split(chunk)
        masks = [None] * len(parts) if patch_mask is None else patch_mask.split(chunk)
        outputs = [
            checkpoint(encode, part, mask, use_reentrant=False)
            for part, mask in zip(parts, masks, strict=True)
        ]
        embedding, tokens = zip(*outputs, strict=True)
        return torch.cat(embedding), torch.cat(tokens)

    return encoded
