"""The instance level of SGMN's spatiotemporal graph, in training only.

The clips and pictures of a batch are nodes of one graph; its edges say how alike they are, and one
transformer layer lets each node learn of those most like it. Losses tie the nodes after it to
those before (`training.sgmn_losses`), so that the encoder learns what the neighbourhood knows.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.models.encoder import Activation, Attention, FeedForward, set_to_zero


class Nodes(NamedTuple):
    clips: Tensor  # [N,E], L2
    pictures: Tensor  # [P,E], L2


class InstanceGraph(nn.Module):
    """Pre-LayerNorm transformer layer whose attention has the edges added to its scores."""

    def __init__(self, width: int, heads: int, *, activation: Activation) -> None:
        super().__init__()
        self.norm_attention = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.norm_feedforward = nn.LayerNorm(width)
        self.feedforward = FeedForward(width, activation)

    def begin_silent(self) -> None:
        """Nodes are at first after the graph what they were before."""
        set_to_zero(self.attention.out, self.feedforward[-1])

    def forward(self, nodes: Nodes, across: Tensor) -> Nodes:
        """`across` [N,P] is how alike clips and pictures are (`fine_grained_similarity`)."""
        tokens = torch.cat(nodes)
        edges = strongest_half(graph_edges(nodes, across)).to(tokens.dtype)
        normed = self.norm_attention(tokens)
        split, attention = self.attention.split, self.attention
        attended = F.scaled_dot_product_attention(
            split(attention.query(normed))[None],
            split(attention.key(normed))[None],
            split(attention.value(normed))[None],
            attn_mask=edges,
        )[0]
        tokens = tokens + attention.out(attended.transpose(0, 1).flatten(1))
        tokens = tokens + self.feedforward(self.norm_feedforward(tokens))
        clips, pictures = F.normalize(tokens, dim=-1).split([len(part) for part in nodes])
        return Nodes(clips, pictures)


@torch.no_grad()
def graph_edges(nodes: Nodes, across: Tensor) -> Tensor:
    """[N+P,N+P]: clips first. Within a view exp(-L2 distance) of that view's own nodes (the
    released code takes these from the similarity across); across views `across`."""
    clips, pictures = (torch.exp(-distances(view, view)) for view in nodes)
    return torch.cat([torch.cat([clips, across], dim=1), torch.cat([across.T, pictures], dim=1)])


def strongest_half(edges: Tensor) -> Tensor:
    """[M,M], with each row's weaker half at -inf. A node's edge to itself is always kept."""
    kept = edges.topk((len(edges) + 1) // 2, dim=1).indices
    return torch.full_like(edges, float("-inf")).scatter(1, kept, edges.gather(1, kept))


def distances(left: Tensor, right: Tensor) -> Tensor:
    """L2 distances [N,P] of unit vectors [N,E] and [P,E]; no gradient where they are equal."""
    return (2 - 2 * left @ right.T).clamp(min=1e-6).sqrt()


@torch.no_grad()
def fine_grained_similarity(clips: Tensor, token_mask: Tensor, pictures: Tensor) -> Tensor:
    """Tokens [N,L,E] of clips, bool [N,L], tokens [P,T,E] of pictures -> [N,P].

    Each picture token's largest cosine with a token of the clip, the mean over the picture. Tokens
    are in the space of the embeddings. Clip by clip: all at once would not fit a large batch.
    """
    flat = F.normalize(pictures.flatten(0, 1), dim=-1)
    rows = [
        (flat @ F.normalize(tokens[mask], dim=-1).T).amax(dim=1).unflatten(0, pictures.shape[:2])
        for tokens, mask in zip(clips, token_mask, strict=True)
    ]
    return torch.stack(rows).mean(dim=-1)
