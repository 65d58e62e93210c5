"""RICE: one encoder for shop pictures and clip frames, and the matching decoder on their tokens.

Source: "Cross-view Semantic Alignment for Livestreaming Product Recognition" (ICCV 2023). Defaults
are the released code's variant; fields say what an older revision of it did ("paper-style").
Knows nothing of losses or data.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.models.encoder import (
    STRICT,
    EncoderConfig,
    ImageEncoder,
    check_heads,
    with_class_token,
)
from training.models.intended_product import kept_places
from training.models.locked_encoder import EncoderMemory
from training.models.matching_decoder import Head, PairwiseMatchingDecoder
from training.models.padding import padded
from training.models.patch_reconstruction import PatchReconstruction, Reconstruction
from training.models.text import TextConfig, Texts, TextTower, Words

LEARNED_SCALE, FIXED_SCALE = 4.0, 10.0  # ICL's s: where it starts, and where it stays
TEXT_SCALE = 4.0  # the same of speech against titles, always learned


@dataclass(frozen=True)
class RiceConfig:
    __pydantic_config__ = STRICT

    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    frames: int = 10
    """Frames a clip is looked at with, at most."""
    tokens: Literal["last_block", "projected"] = "last_block"
    """What the decoder reads. `last_block`: the encoder's last block before the final LayerNorm,
    D wide. `projected` (paper-style): LayerNormed and projected, E wide."""
    frame_pooling: Literal["mean", "mean_of_unit"] = "mean"
    """A clip's embedding: the mean of its frames' embeddings as they are, or (paper-style) each
    brought to unit length first."""
    icl_scale: Literal["learned", "fixed"] = "learned"
    """ICL's logits: s^2 cos with a learned s that starts at 4, or (paper-style) 100 cos."""
    matching_heads: int = 8
    matching_head: Head = "cosine"
    """PMD's logits: 10 cos(pooled, w), or (paper-style) 100 times a linear layer."""
    own_direction: bool = False
    """Compares the decoded token with the product's own state instead of one learned vector."""
    self_block_from: Literal["vision", "text"] = "vision"
    """The CLIP tower whose last blocks PMD's self block starts from; `text` is paper-style. The
    cross block starts from the vision tower's."""
    attention_dropout: float = 0.1
    """Share of the cross block's attention weights dropped in training."""
    reconstruction: Reconstruction | None = "softmax"
    """PFR's variant; `plain` is paper-style, None leaves PFR out."""
    text: TextConfig | None = None
    """The tower of titles and speech; None: the model sees pictures alone."""
    text_tokens: bool = True
    """Whether titles and speech are further tokens of PMD. Else it matches by sight alone, as one
    that reads nothing, and text is only a part of the score."""

    @property
    def token_width(self) -> int:
        """Width of the decoder's tokens: D or, projected, E."""
        return self.encoder.width if self.tokens == "last_block" else self.encoder.embedding

    def __post_init__(self) -> None:
        if self.frames < 1:
            raise ValueError(f"frames must be positive, not {self.frames}")
        check_heads(self.token_width, self.matching_heads, "matching_heads")
        if not 0 <= self.attention_dropout < 1:
            raise ValueError(f"attention_dropout is a share, not {self.attention_dropout}")
        if self.own_direction and self.matching_head != "cosine":
            raise ValueError("own_direction compares by a cosine: matching_head must be cosine")
        if self.self_block_from == "text" and self.tokens != "projected":
            raise ValueError(
                "CLIP's text tower is as wide as its embedding: self_block_from text needs "
                "projected tokens"
            )


Encode = Callable[[Tensor, Tensor | None], tuple[Tensor, Tensor]]
"""Normalised pixels [B,3,S,S], patch mask bool [B,P] or None -> embedding [B,E], tokens
[B,1+P,W]: `Rice.encode`, or a way around it."""


class Pictures(NamedTuple):
    embedding: Tensor  # [B,E], L2
    tokens: Tensor  # [B,1+P,W], and the title's token where titles were added
    token_mask: Tensor | None = None  # bool [B,1+P+1]; None: all take part


class Frames(NamedTuple):
    """Of N clips, encoded each by itself."""

    embedding: Tensor  # [N,F,E], as it is
    tokens: Tensor  # [N,F,1+P,W]
    mask: Tensor  # bool [N,F], True for real frames
    patch_mask: Tensor  # bool [N,F,P], True for patches that take part
    shares: Tensor  # [N,F], what each counts for in its clip's embedding; 0 for padding
    scores: Tensor  # [N,F], a detector's; 0 where it has found nothing, or none has looked


class Clips(NamedTuple):
    embedding: Tensor  # [N,E], L2
    tokens: Tensor  # [N,F*(1+P),W], and the speech's token where speech was added
    token_mask: Tensor  # bool [N,F*(1+P)], False for padded frames and masked patches
    shown: Tensor | None = None  # [N,F], logit that a frame shows the product, where one is told


class Text(nn.Module):
    """Speech and titles in RICE: their cosine is a part of the score, and each may become one
    further token of PMD."""

    def __init__(self, config: TextConfig, token_width: int, *, tokens: bool) -> None:
        super().__init__()
        self.tower = TextTower(config)
        self.title_token, self.speech_token = (
            nn.Linear(config.embedding, token_width) if tokens else None for _ in range(2)
        )
        self.temperature = nn.Parameter(torch.tensor(TEXT_SCALE))


class Rice(nn.Module):
    """The model that a bundle is exported from. W is `RiceConfig.token_width`."""

    family = "rice"

    def __init__(self, config: RiceConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = ImageEncoder(config.encoder)
        self.memory: EncoderMemory | None = None  # of an encoder that is locked
        self.decoder = PairwiseMatchingDecoder(
            config.token_width,
            config.matching_heads,
            head=config.matching_head,
            own_direction=config.own_direction,
            activation=config.encoder.activation,
            attention_dropout=config.attention_dropout,
        )
        self.reconstruction = (
            None
            if config.reconstruction is None
            else PatchReconstruction(
                config.token_width, config.matching_heads, config.reconstruction
            )
        )
        self.text = (
            None
            if config.text is None
            else Text(config.text, config.token_width, tokens=config.text_tokens)
        )
        self.temperature: Tensor  # ICL's s: logits are s^2 cos
        if config.icl_scale == "learned":
            self.temperature = nn.Parameter(torch.tensor(LEARNED_SCALE))
        else:
            self.register_buffer("temperature", torch.tensor(FIXED_SCALE))

    def encode_pictures(self, pixels: Tensor) -> Pictures:
        """Normalised pixels [B,3,S,S]."""
        embedding, tokens = self.encode(pixels)
        return Pictures(F.normalize(embedding, dim=-1), tokens)

    def encode_clips(
        self,
        frames: Tensor,
        frame_mask: Tensor,
        patch_mask: Tensor,
        speech: Words | None = None,
        scores: Tensor | None = None,
    ) -> Clips:
        """Normalised frames [N,F,3,S,S]; bool [N,F], True for real frames; bool [N,F,P]; a
        detector's scores [N,F], where one has looked."""
        return self.pool_frames(self.encode_frames(frames, frame_mask, patch_mask, scores), speech)

    def encode_frames(
        self, frames: Tensor, frame_mask: Tensor, patch_mask: Tensor, scores: Tensor | None = None
    ) -> Frames:
        """The same frames, each by itself: what is said has no part in them yet."""
        embedding, tokens = self.encode(frames.flatten(0, 1), patch_mask.flatten(0, 1))
        return _by_clip(embedding, tokens, frame_mask, patch_mask, scores)

    def encode_kept(
        self,
        frames: Tensor,
        frame_mask: Tensor,
        patch_mask: Tensor,
        speech: Words | None = None,
        scores: Tensor | None = None,
    ) -> Clips:
        """The same clips, with the tokens of masked patches dropped instead of masked: every frame
        has 1+K of them, K the patches of the frame that keeps most."""
        places, kept = kept_places((patch_mask & frame_mask[..., None]).flatten(0, 1))
        embedding, tokens = self.encode(frames.flatten(0, 1), kept, places)
        kept = kept.unflatten(0, frame_mask.shape)
        return self.pool_frames(_by_clip(embedding, tokens, frame_mask, kept, scores), speech)

    def read(self, texts: Texts | None) -> Words | None:
        """Titles or speech; None where there are none, or the model does not read."""
        if texts is None or self.text is None:
            return None
        words: Words = self.text.tower(*texts)
        return words

    def add_titles(self, pictures: Pictures, titles: Words | None) -> Pictures:
        """The pictures with one further, last token each; a picture without a title has none."""
        if titles is None or self.text is None or self.text.title_token is None:
            return pictures
        token = self.text.title_token(titles.embedding.to(pictures.tokens.dtype))
        mask = F.pad(titles.there[:, None], (pictures.tokens.shape[1], 0), value=True)
        return Pictures(
            pictures.embedding, torch.cat([pictures.tokens, token[:, None]], dim=1), mask
        )

    @property
    def decodes_speech(self) -> bool:
        """Whether speech is a token of PMD, so that logits differ by what is said."""
        return self.text is not None and self.text.speech_token is not None

    def add_speech(self, clips: Clips, speech: Words | None) -> Clips:
        """The clips with one further, last token each; a clip without speech has none."""
        if speech is None or self.text is None or self.text.speech_token is None:
            return clips
        token = self.text.speech_token(speech.embedding.to(clips.tokens.dtype))
        return clips._replace(
            tokens=torch.cat([clips.tokens, token[:, None]], dim=1),
            token_mask=torch.cat([clips.token_mask, speech.there[:, None]], dim=1),
        )

    def encode_together(
        self,
        pictures: Tensor,
        frames: Tensor,
        frame_mask: Tensor,
        patch_mask: Tensor | None = None,
        encode: Encode | None = None,
        *,
        titles: Words | None = None,
        speech: Words | None = None,
    ) -> tuple[Pictures, Clips]:
        """Both views in one pass of the encoder, so that they share batch statistics.

        Pictures [B,3,S,S], frames [N,F,3,S,S], frame_mask [N,F]; padded frames are not encoded.
        `patch_mask` is bool [N,F,P]; without it all patches take part. `encode` stands in for the
        model's own.
        """
        count, patches = len(pictures), self.config.encoder.patches
        attended = None
        if patch_mask is not None:
            attended = torch.cat([frame_mask.new_ones(count, patches), patch_mask[frame_mask]])
        else:
            patch_mask = frame_mask.new_ones(*frame_mask.shape, patches)
        encode = encode or self.encode
        embedding, tokens = encode(torch.cat([pictures, frames[frame_mask]]), attended)
        found = Pictures(F.normalize(embedding[:count], dim=-1), tokens[:count])
        each = Frames(
            padded(embedding[count:], frame_mask),
            padded(tokens[count:], frame_mask),
            frame_mask,
            patch_mask,
            evenly_shared(frame_mask),
            _unscored(frame_mask),
        )
        return self.add_titles(found, titles), self.pool_frames(each, speech)

    def encode(
        self, pixels: Tensor, patch_mask: Tensor | None = None, places: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Pixels [B,3,S,S], bool [B,P] -> embedding [B,E], tokens [B,1+P,W]; with `places`, as
        `ImageEncoder.forward` says."""
        if self.memory is None:
            embedding, tokens = self.encoder(pixels, patch_mask, places)
        else:
            embedding, tokens = self.memory.encode(self.encoder, pixels, patch_mask, places)
        if self.config.tokens == "projected":
            tokens = self.encoder.project(tokens)
        return embedding, tokens

    def pool_frames(self, frames: Frames, speech: Words | None = None) -> Clips:
        """Each clip as a whole, and what is said in it among its tokens."""
        token_mask = with_class_token(frames.patch_mask) & frames.mask[..., None]
        pooled = Clips(
            self.summed(frames.embedding, frames.shares),
            frames.tokens.flatten(1, 2),
            token_mask.flatten(1),
        )
        return self.add_speech(pooled, speech)

    def summed(self, embedding: Tensor, shares: Tensor) -> Tensor:
        """Embeddings of frames [N,F,E] and their shares [N,F] -> the clips' [N,E], L2."""
        if self.config.frame_pooling == "mean_of_unit":
            embedding = F.normalize(embedding, dim=-1)
        return F.normalize((embedding * shares.to(embedding.dtype)[..., None]).sum(dim=1), dim=-1)


def _by_clip(
    embedding: Tensor, tokens: Tensor, mask: Tensor, patch_mask: Tensor, scores: Tensor | None
) -> Frames:
    """Embeddings [N*F,E] and tokens [N*F,1+P,W], bool [N,F], bool [N,F,P]; [N,F] or None."""
    shape = mask.shape
    return Frames(
        embedding.unflatten(0, shape),
        tokens.unflatten(0, shape),
        mask,
        patch_mask,
        evenly_shared(mask),
        _unscored(mask) if scores is None else scores,
    )


def evenly_shared(mask: Tensor) -> Tensor:
    """Bool [N,F], real frames -> [N,F]: the mean, of which L2 leaves no more than the sum."""
    return mask.float()


def _unscored(mask: Tensor) -> Tensor:
    """[N,F] of a clip that no detector has looked at."""
    return torch.zeros_like(mask, dtype=torch.float32)
