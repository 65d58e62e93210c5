"""Holds a model against the released code's own numbers: a fixture of its inputs and outputs.

The fixture (`.npz`) has normalised pixels, `image` [P,3,S,S] and `video` [N,F,3,S,S] with
`video_mask` [N,F], and what the released code computes from them, pairs as [N,P,...]. Here outputs
are put into its form: its attention maps are softmax times sqrt(head width), its reconstruction
gives padded frames weight, and its one matching vector is used both ways.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.errors import TrainingError
from training.models.matching_decoder import LOGIT_SCALE, PairwiseMatchingDecoder
from training.models.rice import Rice, RiceConfig

TOLERANCE = 1e-4
INPUTS = ("image", "video", "video_mask")
OUTPUTS = (
    "image_embedding",
    "video_embedding",
    "image_tokens",
    "video_tokens",
    "match_logit_linear",
    "match_logit_cosine",
    "cross_attention",
    "reconstruction",
)


class FixtureError(TrainingError):
    """A fixture cannot be read, or is for another model; the message says which and why."""


def differences(model: Rice, path: Path) -> dict[str, float]:
    """The largest absolute difference of each output from the fixture's. Raises FixtureError."""
    _check_variant(model.config)
    fixture = _read(path)
    try:
        found = released_outputs(model, *(fixture[name] for name in INPUTS))
    except RuntimeError as error:  # torch's for shapes that do not fit
        raise FixtureError(f"{path} is for a model of another size: {error}") from error
    for name in OUTPUTS:
        if found[name].shape != fixture[name].shape:
            raise FixtureError(
                f"{path}: {name} is {list(fixture[name].shape)}, here {list(found[name].shape)}"
            )
    return {name: (found[name] - fixture[name]).abs().max().item() for name in OUTPUTS}


@torch.inference_mode()
def released_outputs(
    model: Rice, image: Tensor, video: Tensor, video_mask: Tensor
) -> dict[str, Tensor]:
    """What the released code returns for the same inputs, by the names of OUTPUTS."""
    frame_mask = video_mask.bool()
    pictures = model.encode_pictures(image)
    every_patch = frame_mask.new_ones(*frame_mask.shape, model.config.encoder.patches)
    clips = model.encode_clips(video, frame_mask, every_patch)
    pairs = [
        _pairs(model, pictures.tokens, clips.tokens[row : row + 1], clips.token_mask[row : row + 1])
        for row in range(len(video))
    ]
    return {
        "image_embedding": pictures.embedding,
        "video_embedding": clips.embedding,
        "image_tokens": pictures.tokens,
        "video_tokens": clips.tokens.unflatten(1, (video.shape[1], -1)),
        **{name: torch.stack([pair[name] for pair in pairs]) for name in pairs[0]},
    }


def _pairs(
    model: Rice, picture_tokens: Tensor, clip_tokens: Tensor, token_mask: Tensor
) -> dict[str, Tensor]:
    """Every picture with one clip, tokens [1,L,D] and bool [1,L]."""
    assert model.reconstruction is not None  # noqa: S101  _check_variant
    decoder, count = model.decoder, len(picture_tokens)
    tokens = decoder.self_block(picture_tokens)
    key, value = (part.expand(count, -1, -1) for part in decoder.keys_values(clip_tokens))
    mask = token_mask.expand(count, -1)
    attention = decoder.cross_block.attention_map(tokens, key, mask)
    pooled = decoder.pooled(decoder.cross_block(tokens, key, value, mask)[:, 0])
    weight, bias = _matching(decoder)
    seen = clip_tokens * token_mask[..., None]  # padded tokens are zero, yet weighted
    return {
        "match_logit_linear": pooled @ weight + bias,
        "match_logit_cosine": LOGIT_SCALE["cosine"] * F.cosine_similarity(pooled, weight, dim=-1),
        "cross_attention": model.reconstruction.scale * attention,
        "reconstruction": model.reconstruction(attention, seen.expand(count, -1, -1)),
    }


def _matching(decoder: PairwiseMatchingDecoder) -> tuple[Tensor, Tensor]:
    """The matching vector [D] and the bias that goes with it."""
    direction = decoder.direction
    if isinstance(direction, nn.Module):
        return direction.weight[0], direction.bias
    return direction, direction.new_zeros(())


def _check_variant(config: RiceConfig) -> None:
    """Only the head may differ: the fixture has the numbers of both."""
    released = RiceConfig(
        encoder=config.encoder,
        frames=config.frames,
        matching_heads=config.matching_heads,
        matching_head=config.matching_head,
        attention_dropout=config.attention_dropout,
    )
    if config != released:
        raise FixtureError("the model is not the released variant, of which the fixture is")


def _read(path: Path) -> dict[str, Tensor]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            if unknown := set(arrays.files) - {*INPUTS, *OUTPUTS}:
                raise FixtureError(f"{path}: {', '.join(sorted(unknown))} is not known")
            return {name: torch.from_numpy(arrays[name]) for name in (*INPUTS, *OUTPUTS)}
    except OSError as error:
        raise FixtureError(f"{path}: {error.strerror or error}") from error
    except KeyError as error:
        raise FixtureError(f"{path}: {error.args[0]}") from error
    except (ValueError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        raise FixtureError(f"{path} is no .npz of numbers: {error}") from error
