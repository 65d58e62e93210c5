"""Pictures and clips of several callers as the inputs of one run, and its outputs cut apart again.

Shorter clips and texts are padded, and masked there. Knows what graphs take and give, and runs
none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from service.inference.features import ClipFeatures, Floats, Mask, Pixels
from service.inference.manifest import FRAME_SCORES, Text
from service.inference.session import Array
from service.inference.texts import TextFeatures


class Pictures(NamedTuple):
    """Some of one caller's."""

    pixels: Pixels  # [B,S,S,3]
    titles: TextFeatures | None


class Clip(NamedTuple):
    """One, as it is to be encoded."""

    frames: Pixels  # [F,S,S,3]
    speech: TextFeatures | None
    patch_mask: Mask | None = None  # [F,P]
    scores: Floats | None = None  # [F], a detector's


def of_pictures(of_callers: Sequence[Pictures]) -> dict[str, Array]:
    """What the image encoder takes, of all callers together."""
    pixels = [part.pixels for part in of_callers]
    pictures = pixels[0] if len(pixels) == 1 else np.concatenate(pixels)
    return {"pictures": pictures, **of_titles([part.titles for part in of_callers])}


def of_frames(clips: Sequence[Pixels]) -> dict[str, Array]:
    """Clips [F,S,S,3] as a graph takes them together: the shorter ones padded, and masked there."""
    most = max(map(len, clips))
    frames = np.zeros((len(clips), most, *clips[0].shape[1:]), np.uint8)
    frame_mask = np.zeros((len(clips), most), np.bool_)
    for row, clip in enumerate(clips):
        frames[row, : len(clip)] = clip
        frame_mask[row, : len(clip)] = True
    return {"frames": frames, "frame_mask": frame_mask}


def of_clips(clips: Sequence[Clip], patches: int, *, weighs: bool) -> dict[str, Array]:
    """What the clip encoder takes; one that `weighs` frames by a detector's scores takes these,
    0 where none has looked."""
    batch = of_frames([clip.frames for clip in clips])
    patch_mask = np.ones((*batch["frame_mask"].shape, patches), np.bool_)
    for row, clip in enumerate(clips):
        if clip.patch_mask is not None:
            patch_mask[row, : len(clip.frames)] = clip.patch_mask
    batch |= {"patch_mask": patch_mask, **of_speech([clip.speech for clip in clips])}
    if not weighs:
        return batch
    scores = np.zeros(batch["frame_mask"].shape, np.float32)
    for row, clip in enumerate(clips):
        if clip.scores is not None:
            scores[row, : len(clip.frames)] = clip.scores
    return batch | {FRAME_SCORES: scores}


def of_titles(of_callers: Sequence[TextFeatures | None]) -> dict[str, Array]:
    """What graphs take of titles; nothing where the model does not read."""
    titles = [title for title in of_callers if title is not None]
    if not titles:
        return {}
    return {
        "title_embedding": np.concatenate([title.embedding for title in titles]),
        "has_title": np.concatenate([title.there for title in titles]),
    }


def of_speech(of_clips: Sequence[TextFeatures | None]) -> dict[str, Array]:
    """The same of speech, a text a clip, padded to the longest."""
    speech = [said for said in of_clips if said is not None]
    if not speech:
        return {}
    longest = max(said.mask.shape[1] for said in speech)
    tokens = np.zeros((len(speech), longest, speech[0].tokens.shape[2]), np.float32)
    mask = np.zeros((len(speech), longest), np.bool_)
    for row, said in enumerate(speech):
        words = said.mask.shape[1]
        tokens[row, :words], mask[row, :words] = said.tokens[0], said.mask[0]
    embedding = np.concatenate([said.embedding for said in speech])
    return {"speech_tokens": tokens, "speech_mask": mask, "speech_embedding": embedding}


def silence(text: Text) -> TextFeatures:
    return TextFeatures(
        np.zeros((1, 1, text.width), np.float32),
        np.zeros((1, 1), np.bool_),
        np.zeros((1, text.embedding), np.float32),
    )


def kept(clip: Clip, outputs: Sequence[Array], patches: int) -> ClipFeatures:
    """The clip encoder's for a clip, without the tokens that do not take part: matching need not
    look at them."""
    embedding, keys, values, mask = outputs
    speech = _said(clip.speech)
    tokens = np.ones((len(clip.frames), 1 + patches), np.bool_)
    if clip.patch_mask is not None:
        tokens[:, 1:] = clip.patch_mask
    if np.count_nonzero(mask) < np.count_nonzero(tokens):
        # The graph matches some frames only; one that does so drops no tokens by itself.
        tokens = mask[: tokens.size].reshape(tokens.shape)
    return ClipFeatures(embedding, keys[mask], values[mask], mask[mask], speech, tokens)


def unpadded(clip: Clip, outputs: Sequence[Array], padding: slice) -> ClipFeatures:
    """The same with all its tokens, but without those of frames that only the batch has."""
    embedding, *of_tokens = outputs
    keys, values, mask = (_without(tokens, padding) for tokens in of_tokens)
    return ClipFeatures(embedding, keys, values, mask, _said(clip.speech))


def on_all_tokens(attention: Floats, kept: Mask | None) -> Floats:
    """Attention [1+P,L] to the tokens that were kept, of frames [F,1+P] and of speech -> to all
    tokens, 0 to those dropped."""
    if kept is None:
        return attention
    of_speech = attention.shape[1] - np.count_nonzero(kept)
    whole = np.zeros((len(attention), kept.size + of_speech), np.float32)
    whole[:, np.pad(kept.ravel(), (0, of_speech), constant_values=True)] = attention
    return whole


def _said(speech: TextFeatures | None) -> Floats | None:
    return speech.embedding[0] if speech is not None and speech.mask.any() else None


def _without(of_tokens: Array, padding: slice) -> Array:
    """Tokens [L,...] but for padded frames'; what comes after these, of speech, stays."""
    if padding.stop == len(of_tokens):
        return of_tokens[: padding.start]
    return np.concatenate([of_tokens[: padding.start], of_tokens[padding.stop :]])
