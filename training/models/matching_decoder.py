"""PMD, the pairwise matching decoder of RICE (section "pairwise matching decoder").

Query = a picture's tokens, key and value = a clip's tokens: one pre-LayerNorm self-attention
block, then one cross-attention block in which only the query is normalised, then a pooler on
token 0. The score reads only token 0, and in the cross block token 0 depends on no other picture
token. Therefore, exactly:

- `match_state`: token 0 after the self block, [D]; depends on the picture alone;
- `keys_values`: the cross block's projections of the clip's tokens; depend on the clip alone;
- `match`: every clip against every picture for one row of attention and feed-forward each.

`forward` is the decoder as the paper states it, for all picture tokens; a test holds the two equal.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.models.encoder import Activation, Attention, Block, FeedForward

Head = Literal["cosine", "linear"]

LOGIT_SCALE: dict[Head, float] = {"cosine": 10.0, "linear": 100.0}  # released, paper-style


class Decoded(NamedTuple):
    logits: Tensor  # [B]
    attention: Tensor  # [B,heads,T,L], each row sums to 1 over the clip's tokens


class CrossBlock(nn.Module):
    """Pre-LayerNorm cross-attention block; the context is taken as it is.

    `attention_dropout` is the share of attention weights dropped in training.
    """

    def __init__(
        self, width: int, heads: int, *, activation: Activation, attention_dropout: float
    ) -> None:
        super().__init__()
        self.attention_dropout = attention_dropout
        self.norm_attention = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.norm_feedforward = nn.LayerNorm(width)
        self.feedforward = FeedForward(width, activation)

    def forward(self, tokens: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        """Tokens [B,T,D] over projected keys and values [B,L,D], `mask` bool [B,L]."""
        query = self.attention.query(self.norm_attention(tokens))
        tokens = tokens + self.attention.attend(query, key, value, mask, self.attention_dropout)
        return tokens + self.feedforward(self.norm_feedforward(tokens))

    def attention_map(self, tokens: Tensor, key: Tensor, mask: Tensor | None) -> Tensor:
        """Softmax weights [B,heads,T,L] of tokens [B,T,D] over projected keys [B,L,D]."""
        query = self.attention.split(self.attention.query(self.norm_attention(tokens)))
        scores = query @ self.attention.split(key).transpose(-1, -2) * query.shape[-1] ** -0.5
        if mask is not None:
            scores = scores.masked_fill(~mask[:, None, None, :], float("-inf"))
        return scores.softmax(dim=-1)


class PairwiseMatchingDecoder(nn.Module):
    """Scores how well a picture's product is the one in a clip.

    Logits are 10 cos(pooled, w) with the `cosine` head (released), 100 (w pooled + b) with the
    `linear` one (paper-style).

    In the released code w is one learned vector: telling same from different is left to the
    feed-forward, which starts from CLIP's last block. From nothing it did not learn that
    (docs/LOG.md); with `own_direction`, w is a projection of the product's match state, and the
    cosine compares the two.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        head: Head = "cosine",
        own_direction: bool = False,
        activation: Activation = "quick_gelu",
        attention_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.head = head
        self.self_block = Block(width, heads, activation=activation, eps=1e-12)
        self.cross_block = CrossBlock(
            width, heads, activation=activation, attention_dropout=attention_dropout
        )
        self.norm_pool = nn.LayerNorm(width)
        self.pool = nn.Linear(width, width, bias=False)
        self.direction: nn.Linear | nn.Parameter
        if head == "linear":
            self.direction = nn.Linear(width, 1)
        elif own_direction:
            self.direction = nn.Linear(width, width, bias=False)
        else:
            self.direction = nn.Parameter(width**-0.5 * torch.randn(width))

    def forward(
        self,
        picture_tokens: Tensor,
        clip_tokens: Tensor,
        token_mask: Tensor | None = None,
        picture_mask: Tensor | None = None,
    ) -> Decoded:
        """Pairs of pictures [B,T,D] and clips [B,L,D]; `token_mask` is bool [B,L], of the clips'
        tokens, `picture_mask` bool [B,T], of the pictures'."""
        tokens = self.self_block(picture_tokens, picture_mask)
        key, value = self.keys_values(clip_tokens)
        attention = self.cross_block.attention_map(tokens, key, token_mask)
        decoded = self.cross_block(tokens, key, value, token_mask)
        return Decoded(self.logit(decoded[:, 0], tokens[:, 0]), attention)

    def match_state(self, picture_tokens: Tensor, picture_mask: Tensor | None = None) -> Tensor:
        """Picture tokens [B,T,D] -> [B,D]; `picture_mask` is bool [B,T]."""
        state: Tensor = self.self_block.first_token(picture_tokens, picture_mask)
        return state

    def keys_values(self, clip_tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Clip tokens [N,L,D] -> keys, values [N,L,D]."""
        attention = self.cross_block.attention
        return attention.key(clip_tokens), attention.value(clip_tokens)

    def match(
        self, states: Tensor, key: Tensor, value: Tensor, token_mask: Tensor | None = None
    ) -> Tensor:
        """States [K,D] or [1,K,D] against N clips' keys and values [N,L,D] -> logits [N,K]."""
        states = states.expand(key.shape[0], -1, -1)
        return self.logit(self.cross_block(states, key, value, token_mask), states)

    def logit(self, decoded: Tensor, state: Tensor) -> Tensor:
        """Decoded token 0 and the match state it came from, [...,D] -> [...]."""
        pooled, scale = self.pooled(decoded), LOGIT_SCALE[self.head]
        direction = self.direction
        if not isinstance(direction, nn.Module):
            return scale * F.cosine_similarity(pooled, direction, dim=-1)
        if self.head == "linear":
            return scale * direction(pooled)[..., 0]
        return scale * F.cosine_similarity(pooled, direction(state), dim=-1)

    def pooled(self, decoded: Tensor) -> Tensor:
        """Decoded token 0, [...,D] -> [...,D]."""
        return F.relu(self.pool(self.norm_pool(decoded)))
