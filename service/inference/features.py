"""What the model gives for pictures and clips: arrays, and the shapes they have.

B pictures, F frames of S x S pixels, P patches of a frame, L tokens of a clip; E an embedding, D a
match state or the width of a key, Et a text's embedding.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class PictureFeatures:
    embedding: Floats  # [B,E], L2
    match_state: Floats  # [B,D]


@dataclass(frozen=True)
class ClipFeatures:
    """A clip of L = frames * (1 + patches) tokens; of a model that reads, one more at the end."""

    embedding: Floats  # [E], L2
    keys: Floats  # [L,D]
    values: Floats  # [L,D]
    token_mask: Mask  # [L], True takes part
    speech: Floats | None = None  # [Et], L2; None where nothing is said, or the model does not read
    kept: Mask | None = None
    """[F,1+P], the tokens of frames, class first, that these are, where the others were dropped;
    else None."""


@dataclass(frozen=True)
class Detections:
    """The intended product in each frame of a clip, and what the encoder is to see for it."""

    boxes: Floats  # [F,4], left, top, right, bottom, as shares of the frame that was looked at
    scores: Floats  # [F], 0 to 1
    found: Mask  # [F], False where the score is too low: the frame shows no product, or many
    patch_mask: Mask  # [F,P], the patches that take part; all of them where nothing was found
    views: Floats  # [F,4], what of each frame `pixels` show, as a box; all where nothing was found
    pixels: Pixels  # [F,S,S,3]

    @property
    def shown(self) -> Mask:
        """[F], the frames that the encoder is to see: where it is found; or all, if nowhere."""
        return self.found if self.found.any() else ~self.found
