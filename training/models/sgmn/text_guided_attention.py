"""Text-guided attention of SGMN: which patches of a frame the salesperson speaks of.

Source: "Spatiotemporal Graph Guided Multi-modal Network for Livestreaming Product Retrieval"
(ACM MM 2024). Patches attend to the *words* of the speech, and what each finds there decides how
salient it is. (The released code attends to one vector for the whole speech: a softmax over one
key, so that every patch gets the same.) Knows nothing of where the words come from.
"""

from __future__ import annotations

from torch import Tensor, nn

from training.models.encoder import Attention, set_to_zero


class TextGuidedAttention(nn.Module):
    """Frames looked at with the speech in mind. D is the patches' width, W the words'."""

    def __init__(self, width: int, heads: int, text_width: int, embedding: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.read = nn.Linear(text_width, width)
        self.attention = Attention(width, heads)
        self.projection = nn.Linear(width, embedding, bias=False)

    def begin_silent(self) -> None:
        """At first nothing is added."""
        set_to_zero(self.projection)

    def forward(self, patches: Tensor, patch_mask: Tensor, words: Tensor, mask: Tensor) -> Tensor:
        """Patches [N,F,P,D], bool [N,F,P]; words [N,T,W], bool [N,T] -> [N,F,E].

        To be added to the frames' embeddings; zero for clips without a word.
        """
        salience = self.salience(patches, patch_mask, words, mask)
        spoken_of = (salience[..., None] * self.norm(patches)).sum(dim=2)
        there = mask.any(dim=1)[:, None, None]
        return self.projection(spoken_of) * there

    def salience(self, patches: Tensor, patch_mask: Tensor, words: Tensor, mask: Tensor) -> Tensor:
        """The same -> [N,F,P], each frame's sum to 1 over its patches that take part."""
        normed = self.norm(patches)
        found = self.attention(normed.flatten(1, 2), self.read(words), or_all(mask))
        score = (normed * found.view_as(normed)).sum(dim=-1) * normed.shape[-1] ** -0.5
        return score.masked_fill(~or_all(patch_mask), float("-inf")).softmax(dim=-1)


def or_all(mask: Tensor) -> Tensor:
    """Bool [...,L], with rows that keep nothing keeping all: a softmax needs something to weigh.
    What comes of such a row must not be used."""
    return mask | ~mask.any(dim=-1, keepdim=True)
