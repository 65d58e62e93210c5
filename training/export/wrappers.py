"""The torch modules that become a bundle's graphs.

Each module takes pixels as they are decoded (uint8, height before width before RGB) or vectors as
another graph gave them, and is one part of `Rice`. The normalisation is made part of the first
convolution, whose numbers are the only ones that are changed here.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from training.models.detector import ClipDetector
from training.models.encoder import IMAGE_MEAN, IMAGE_STD, EncoderConfig
from training.models.looking import Looking
from training.models.rice import Rice
from training.models.text import Words


class RawPixelStem(nn.Module):
    """A stem that takes pixels as they are, float [B,3,S,S] from 0 to 255; it takes over `stem`.

    Its first convolution divides by the deviation, and subtracts the mean where it pads nothing:
    padding is zero after the normalisation, so where there is any, the mean goes before it.
    """

    mean: Tensor

    def __init__(self, stem: nn.Module) -> None:
        super().__init__()
        self.stem = stem
        first, mean = _first_convolution(stem), _of_pixels(IMAGE_MEAN)
        first.weight = nn.Parameter(first.weight.detach() / _of_pixels(IMAGE_STD))
        self.pads = any(first.padding)
        self.register_buffer("mean", mean)
        if not self.pads:
            first.bias = nn.Parameter(-(first.weight.detach() * mean).sum(dim=(1, 2, 3)))

    def normalised(self) -> nn.Module:
        """The stem as it was."""
        stem = copy.deepcopy(self.stem)
        first = _first_convolution(stem)
        first.weight = nn.Parameter(first.weight.detach() * _of_pixels(IMAGE_STD))
        if not self.pads:
            first.bias = None
        return stem

    def forward(self, pixels: Tensor) -> Tensor:
        stemmed: Tensor = self.stem(pixels - self.mean if self.pads else pixels)
        return stemmed


def _first_convolution(stem: nn.Module) -> nn.Conv2d:
    return next(module for module in stem.modules() if isinstance(module, nn.Conv2d))


def _of_pixels(channels: Sequence[float]) -> Tensor:
    """A channel's number each, [3,1,1], of pixels from 0 to 255 instead of 0 to 1."""
    return 255 * torch.tensor(channels).view(3, 1, 1)


def takes_raw_pixels(model: Rice) -> Rice:
    """A copy of `model` whose encoder needs no normalised pixels."""
    model = copy.deepcopy(model)
    model.encoder.stem = RawPixelStem(model.encoder.stem)
    return model


def takes_normalised_pixels(model: Rice) -> Rice:
    """The inverse: a copy of what `takes_raw_pixels` gave, whose encoder takes normalised ones."""
    model = copy.deepcopy(model)
    raw = model.encoder.stem
    if isinstance(raw, RawPixelStem):
        model.encoder.stem = raw.normalised()
    return model


def raw_pixels(pictures: Tensor) -> Tensor:
    """uint8 [...,S,S,3] -> float [...,3,S,S]; moved while a pixel is one byte."""
    return pictures.movedim(-1, -3).float()


class ImageEncoderGraph(nn.Module):
    def __init__(self, model: Rice) -> None:
        super().__init__()
        self.model = model

    def forward(
        self,
        pictures: Tensor,
        title_embedding: Tensor | None = None,
        has_title: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """uint8 [B,S,S,3] -> embedding [B,E], match_state [B,D].

        Of a model that reads also [B,Et] and bool [B]; the match state is then [B,D+Et], and the
        title's embedding its end: all that matching needs of a product.
        """
        encoded = self.model.encode_pictures(raw_pixels(pictures))
        if title_embedding is None or has_title is None:
            return encoded.embedding, self.model.decoder.match_state(encoded.tokens)
        words = _title(title_embedding, has_title)
        titled = self.model.add_titles(encoded, words)
        state = self.model.decoder.match_state(titled.tokens, titled.token_mask)
        return encoded.embedding, torch.cat([state, words.embedding], dim=-1)


def _title(embedding: Tensor, has_title: Tensor) -> Words:
    """Of [B,Et] and bool [B]: a title is known by its embedding alone."""
    embedding = embedding * has_title[:, None]
    return Words(embedding[:, None], has_title[:, None], embedding)


class ClipEncoderGraph(nn.Module):
    def __init__(self, model: Rice, *, drops: bool = False) -> None:
        """`drops`: masked patches are left out, and not only masked."""
        super().__init__()
        self.model = model
        self.encode = model.encode_kept if drops else model.encode_clips

    def forward(  # noqa: PLR0917 - as the graph's inputs are
        self,
        frames: Tensor,
        frame_mask: Tensor,
        patch_mask: Tensor,
        speech_tokens: Tensor | None = None,
        speech_mask: Tensor | None = None,
        speech_embedding: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """uint8 [N,F,S,S,3], bool [N,F], bool [N,F,P] -> embedding, keys, values, token_mask.

        Of a model that reads also what the text encoder gave: [N,T,Wt], bool [N,T], [N,Et]; the
        speech's key and value come last.
        """
        speech = _speech(speech_tokens, speech_mask, speech_embedding)
        return self.seen(frames, frame_mask, patch_mask, speech, None)

    def seen(
        self,
        frames: Tensor,
        frame_mask: Tensor,
        patch_mask: Tensor,
        speech: Words | None,
        scores: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        clips = self.encode(raw_pixels(frames), frame_mask, patch_mask, speech, scores)
        keys, values = self.model.decoder.keys_values(clips.tokens)
        return clips.embedding, keys, values, clips.token_mask


class WeighingClipEncoderGraph(ClipEncoderGraph):
    """The same of a model that weighs frames by a detector's scores."""

    def forward(  # type: ignore[override]  # noqa: PLR0917 - as the graph's inputs are
        self,
        frames: Tensor,
        frame_mask: Tensor,
        patch_mask: Tensor,
        frame_scores: Tensor,
        speech_tokens: Tensor | None = None,
        speech_mask: Tensor | None = None,
        speech_embedding: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """With these scores, [N,F], 0 where it has found nothing or has not looked."""
        speech = _speech(speech_tokens, speech_mask, speech_embedding)
        return self.seen(frames, frame_mask, patch_mask, speech, frame_scores)


def _speech(tokens: Tensor | None, mask: Tensor | None, embedding: Tensor | None) -> Words | None:
    """None of a model that does not read."""
    if tokens is None or mask is None or embedding is None:
        return None
    return Words(tokens, mask, embedding)


class MatcherGraph(nn.Module):
    def __init__(self, model: Rice) -> None:
        super().__init__()
        self.decoder = model.decoder
        self.width = model.config.token_width

    def forward(
        self, match_state: Tensor, keys: Tensor, values: Tensor, token_mask: Tensor
    ) -> Tensor:
        """Match states [K,D] against one clip, [L,D], [L,D], bool [L] -> logits [K].

        Of a model that reads, states are [K,D+Et]: their end, the title's embedding, is compared
        with the speech's outside.
        """
        states = match_state[None, :, : self.width]
        logits = self.decoder.match(states, keys[None], values[None], token_mask[None])
        return logits[0]


class TextEncoderGraph(nn.Module):
    def __init__(self, tower: nn.Module) -> None:
        super().__init__()
        self.tower = tower

    def forward(self, token_ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """int64 [B,T], bool [B,T] -> tokens [B,T,Wt], embedding [B,Et]."""
        words: Words = self.tower(token_ids, mask)
        return words.tokens, words.embedding


class ExplainerGraph(nn.Module):
    def __init__(self, model: Rice) -> None:
        super().__init__()
        self.model = model

    def forward(
        self,
        pictures: Tensor,
        keys: Tensor,
        token_mask: Tensor,
        title_embedding: Tensor | None = None,
        has_title: Tensor | None = None,
    ) -> Tensor:
        """uint8 [B,S,S,3] against one clip -> attention [B,1+P,L], the mean over heads."""
        decoder = self.model.decoder
        encoded = self.model.encode_pictures(raw_pixels(pictures))
        seen = encoded.tokens.shape[1]
        if title_embedding is not None and has_title is not None:
            encoded = self.model.add_titles(encoded, _title(title_embedding, has_title))
        tokens = decoder.self_block(encoded.tokens, encoded.token_mask)[:, :seen]
        return decoder.cross_block.attention_map(tokens, keys[None], token_mask[None]).mean(dim=1)


class Detector(NamedTuple):
    """What a bundle's detector is made of."""

    model: ClipDetector
    threshold: float
    """The score from which on a box is taken for the intended product's."""
    closer: bool
    """Whether the encoder looks closer at what is found, instead of at its patches alone."""
    int8: bool = False
    """Whether its graph is lowered, whatever the bundle's precision is."""
    clips: Sequence[npt.NDArray[np.uint8]] = ()
    """Frames [F,D,D,3] of clips of the kind that is served, D the `frame_size`, which show int8 the
    ranges of activations; without them drawn ones do."""

    def looking(self, encoder: EncoderConfig) -> Looking:
        """For that encoder."""
        return Looking(self.model, self.threshold, encoder, closer=self.closer)
