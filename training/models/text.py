"""Text towers: token ids of a title or of speech in, token features and one embedding out.

Two kinds behind one face: a small transformer of our own for training from nothing, and the
text towers that Hugging Face's transformers builds (CLIP's, Chinese-CLIP's, BERT's and their
like), whose weights come from a local folder (training.models.pretrained_text). Knows nothing of
tokenizers, pictures or losses.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.models.encoder import STRICT, Block, check_heads

Family = Literal["own", "clip", "chinese_clip", "hugging_face"]


@dataclass(frozen=True)
class TextConfig:
    """Sizes of a text tower; the defaults are the small one's, for training from nothing."""

    __pydantic_config__ = STRICT

    family: Family = "own"
    """`clip` is pooled at its last token, `chinese_clip` at its first, `hugging_face`, any other
    that transformers' AutoModel builds, by the mean over its tokens; `own` learns to pool."""
    vocabulary: int = 4096
    """Different tokens, at most: a tokenizer trained on little text has fewer."""
    width: int = 192
    layers: int = 3
    heads: int = 3
    max_tokens: int = 64
    """Tokens of a text, its special ones included; the rest of a longer one is cut off."""
    embedding: int = 192
    backbone: str = ""
    """Of all families but `own`: the tower's config.json as transformers reads it."""

    def __post_init__(self) -> None:
        check_heads(self.width, self.heads)
        if min(self.vocabulary, self.layers, self.embedding) < 1 or self.max_tokens < 3:
            raise ValueError("a text tower has a vocabulary, layers, an embedding and tokens")
        if (self.family == "own") == bool(self.backbone):
            raise ValueError("backbone is what transformers builds; own is built without one")


class Texts(NamedTuple):
    """Token ids of B texts; a row without any is no text."""

    ids: Tensor  # int64 [B,T]
    mask: Tensor  # bool [B,T], True for tokens, from the left


class Words(NamedTuple):
    """What a tower makes of texts. Of a row that is no text all is masked, its embedding zeros."""

    tokens: Tensor  # [B,T,W]
    mask: Tensor  # bool [B,T]
    embedding: Tensor  # [B,E], L2

    @property
    def there(self) -> Tensor:
        """bool [B]"""
        return self.mask.any(dim=1)


class TextTower(nn.Module):
    """One tower for titles and speech alike."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone: nn.Module = (
            SmallText(config) if config.family == "own" else HuggingFaceText(config)
        )
        self.projection = nn.Linear(config.width, config.embedding, bias=False)

    def forward(self, ids: Tensor, mask: Tensor) -> Words:
        """int64 [B,T], bool [B,T]."""
        there = mask.any(dim=1, keepdim=True)
        # Attention over nothing is no number: what is no text looks at its padding, unheard.
        tokens, pooled = self.backbone(ids, mask | ~there)
        embedding = F.normalize(self.projection(pooled).float(), dim=-1)
        return Words(tokens, mask, embedding * there)


class SmallText(nn.Module):
    """Pre-LayerNorm transformer over ids [B,T] -> tokens [B,T,W], pooled [B,W].

    Speech names the product somewhere among other talk, so the pooling weighs tokens, by a
    learned direction.
    """

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        width = config.width
        self.words = nn.Embedding(config.vocabulary, width)
        self.positions = nn.Embedding(config.max_tokens, width)
        nn.init.normal_(self.words.weight, std=width**-0.5)
        nn.init.normal_(self.positions.weight, std=0.1 * width**-0.5)
        self.blocks = nn.ModuleList(
            Block(width, config.heads, activation="gelu") for _ in range(config.layers)
        )
        self.norm_after = nn.LayerNorm(width)
        self.weigh = nn.Linear(width, 1)

    def forward(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        place = torch.arange(ids.shape[1], device=ids.device)
        tokens = self.words(ids) + self.positions(place)
        for block in self.blocks:
            tokens = block(tokens, mask)
        tokens = self.norm_after(tokens)
        scores = self.weigh(tokens).float().masked_fill(~mask[..., None], float("-inf"))
        return tokens, (scores.softmax(dim=1) * tokens).sum(dim=1)


class HuggingFaceText(nn.Module):
    """A tower that transformers builds from its config, with random weights at first."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.family = config.family
        self.tower = _built(json.loads(config.backbone), config.family)

    def forward(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        found = self.tower(input_ids=ids, attention_mask=mask.long())
        tokens: Tensor = found.last_hidden_state
        return tokens, _pooled(tokens, mask, self.family)


def _pooled(tokens: Tensor, mask: Tensor, family: Family) -> Tensor:
    """[B,T,W], bool [B,T] -> [B,W]."""
    if family == "chinese_clip":
        return tokens[:, 0]
    if family == "clip":
        last = (mask.long().sum(dim=1) - 1)[:, None, None].expand(-1, 1, tokens.shape[-1])
        return tokens.gather(1, last)[:, 0]
    weight = mask[..., None].to(tokens.dtype)
    return (tokens * weight).sum(dim=1) / weight.sum(dim=1)


def _built(told: dict[str, Any], family: Family) -> nn.Module:
    """Its attention is spelt out: transformers' fused ones are not exported to ONNX."""
    import transformers as hf  # noqa: PLC0415  an extra that only these towers need

    told = dict(told)
    config: Any = hf.AutoConfig.for_model(told.pop("model_type"), **told)
    config._attn_implementation = "eager"
    if family == "clip":
        return hf.CLIPTextModel(config)
    if family == "chinese_clip":
        return hf.ChineseCLIPTextModel(config, add_pooling_layer=False)
    model: nn.Module = hf.AutoModel.from_config(config, attn_implementation="eager")
    if "pooler" in dict(model.named_children()):
        model.register_module("pooler", None)  # of no use here, and not in every file of weights
    return model
