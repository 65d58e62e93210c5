"""Text-guided attention of SGMN: which patches of a clip the salesperson speaks of.

Source: "Spatiotemporal Graph Guided Multi-modal Network for Livestreaming Product Retrieval"
(ACM MM 2024). Patches attend to the *words* of the speech, and what each finds there decides how
salient it is. (The released code attends to one vector for the whole speech: a softmax over one
key, so that every patch gets the same.) Salience is shared out among the patches of all frames:
a frame that does not show what is spoken of has little, and counts for little in the clip's
embedding. Knows nothing of frames' boxes and of losses.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from training.models.text import Words

POOLING = 16.0  # of cosines: the words that a patch attends to, and the patches of a view
CONTRAST = 4.5  # its square scales the contrast's cosines at first
MOST_PAIRS = 2**26  # of a patch and a word, whose cosines are held at once


class TextGuidedAttention(nn.Module):
    """Patches and words in the space of the texts' embeddings. D is the patches' width."""

    def __init__(self, width: int, text_width: int, text_embedding: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.look = nn.Linear(width, text_embedding, bias=False)
        self.read = nn.Linear(text_width, text_embedding, bias=False)
        self.weigh = nn.Linear(text_width, 1)
        """Of a word, before any patch: most of what is said names nothing."""
        self.temperature = nn.Parameter(torch.tensor(CONTRAST))
        """Of the contrast that teaches the space (training.objective)."""

    def forward(self, patches: Tensor, patch_mask: Tensor, speech: Words) -> Tensor:
        """Patches [N,F,P,D], bool [N,F,P] and what is said in N clips -> how much each frame shows
        of it, [N,F]; 0 where nothing is said."""
        return pooled(self._relevance(patches, speech), or_all(patch_mask))

    def salience(self, patches: Tensor, patch_mask: Tensor, speech: Words) -> Tensor:
        """The same -> [N,F,P], each frame's share shared out among its patches."""
        relevance = self._relevance(patches, speech)
        within = relevance.masked_fill(~or_all(patch_mask), float("-inf")).softmax(dim=2)
        shown = self(patches, patch_mask, speech)
        return shares_of(shown, patch_mask.any(dim=2))[..., None] * within

    def _relevance(self, patches: Tensor, speech: Words) -> Tensor:
        """[N,F,P]; 0 where nothing is said."""
        keys, weight = self.keys(speech)
        cosines = self._looked(patches.flatten(1, 2)) @ keys.transpose(1, 2)
        found = attended(cosines, weight[:, None]).view(patches.shape[:3])
        return POOLING * found * speech.there[:, None, None]

    def keys(self, texts: Words) -> tuple[Tensor, Tensor]:
        """What patches attend to in M texts: their words, and each as a whole, which is as weighty
        as all its words -> [M,T+1,E], L2; logarithms of weights [M,T+1], -inf for padding."""
        read = F.normalize(self.read(texts.tokens).float(), dim=-1)
        weight = self.weigh(texts.tokens).float()[..., 0]
        weight = weight.masked_fill(~or_all(texts.mask), float("-inf")).log_softmax(dim=1)
        keys = torch.cat([read, texts.embedding.float()[:, None]], dim=1)
        return keys, F.pad(weight, (0, 1)) - math.log(2)

    def likeness(self, patches: Tensor, patch_mask: Tensor, keys: Tensor, weight: Tensor) -> Tensor:
        """Patches [N,L,D], bool [N,L] of N views, `keys` of M texts -> [N,M].

        A large batch is compared a few views at a time, and once more in the backward pass.
        """
        looked = self._looked(patches)
        pairs = keys[..., 0].numel() * patches.shape[1]  # of one view's patches with all keys
        views = max(1, MOST_PAIRS // pairs)
        if views >= len(patches):
            return _likeness(looked, patch_mask, keys, weight)
        parts = zip(looked.split(views), patch_mask.split(views), strict=True)
        return torch.cat(
            [checkpoint(_likeness, *part, keys, weight, use_reentrant=False) for part in parts]
        )

    def _looked(self, patches: Tensor) -> Tensor:
        """[...,D] -> [...,E], L2."""
        return F.normalize(self.look(self.norm(patches)).float(), dim=-1)


def shares_of(shown: Tensor, frame_mask: Tensor) -> Tensor:
    """What frames show of what is said [N,F], bool [N,F] -> their shares in their clip's salience,
    which sum to 1; frames are alike where nothing is said."""
    return shown.masked_fill(~or_all(frame_mask), float("-inf")).softmax(dim=1)


def _likeness(looked: Tensor, patch_mask: Tensor, keys: Tensor, weight: Tensor) -> Tensor:
    cosines = torch.einsum("nle,mte->nmlt", looked, keys)
    return pooled(attended(cosines, weight[:, None]), patch_mask[:, None], POOLING)


def attended(cosines: Tensor, weight: Tensor) -> Tensor:
    """How much patches find in keys, by cosines [...,T] and logarithms of the keys' weights."""
    return (POOLING * cosines + weight).logsumexp(dim=-1) / POOLING


def pooled(values: Tensor, mask: Tensor, sharpness: float = 1.0) -> Tensor:
    """[...,L], bool [...,L] -> [...]: between the mean and the largest of those that take part."""
    kept = (sharpness * values).masked_fill(~mask, float("-inf"))
    many = mask.sum(dim=-1).to(values.dtype).log()
    return (kept.logsumexp(dim=-1) - many) / sharpness


def or_all(mask: Tensor) -> Tensor:
    """Bool [...,L], with rows that keep nothing keeping all: a softmax needs something to weigh.
    What comes of such a row must not be used."""
    return mask | ~mask.any(dim=-1, keepdim=True)
