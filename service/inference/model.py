"""The model as the service calls it: pictures and clips in, vectors and match logits out.

Knows the four graphs of a bundle and how they belong together; not where pixels come from, nor
what is done with scores.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from service.inference.batcher import Batcher, Kind
from service.inference.bundle import Bundle, Manifest
from service.inference.golden import verify_golden
from service.inference.graphs import Graphs
from service.inference.session import Session
from service.settings import InferenceSettings
from service.telemetry import Telemetry

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

PICTURES_A_RUN = 16  # bounds the memory of one run, whatever the size of a product
STATES_A_RUN = 1024
WARM_BATCHES = (1, 8)


@dataclass(frozen=True)
class PictureFeatures:
    embedding: Floats  # [B,E], L2
    match_state: Floats  # [B,D]


@dataclass(frozen=True)
class ClipFeatures:
    """A clip of L = frames * (1 + patches) tokens."""

    embedding: Floats  # [E], L2
    keys: Floats  # [L,D]
    values: Floats  # [L,D]
    token_mask: Mask  # [L], True takes part


class Model:
    """A bundle's graphs in sessions. Safe to call from several threads, whose clips and pictures
    are then encoded together.

    Every method raises InferenceError when onnxruntime fails, and ValueError when it is called
    with arrays of another shape or type than stated.
    """

    def __init__(
        self, bundle: Bundle, settings: InferenceSettings, batcher: Batcher | None = None
    ) -> None:
        """Makes the sessions, and trusts them; see `open`.

        `batcher`: that of the device, where other models run on it too.
        """
        self.manifest: Manifest = bundle.manifest
        self._graphs = Graphs(partial(_open_sessions, bundle, settings), self._try)
        self.providers: list[str] = self._graphs.providers
        self._batcher = batcher or Batcher(Telemetry(), wait_s=settings.batch_wait_ms / 1e3)
        self._pictures = Kind("image_encoder", PICTURES_A_RUN, self._encode_pictures)
        self._clips = Kind("clip_encoder", settings.clips_a_run, self._encode_clips)

    @property
    def runs(self) -> bool:
        """False while the sessions are opened again, because they failed."""
        return self._graphs.are_open

    @classmethod
    def open(
        cls, bundle: Bundle, settings: InferenceSettings, batcher: Batcher | None = None
    ) -> Model:
        """A model that gave the bundle's golden answers on this machine, warmed.

        Raises BundleError when graphs or golden answers are not what the manifest promises,
        StartupError when the provider asked for is not the one that runs.
        """
        model = cls(bundle, settings, batcher)
        verify_golden(model, bundle)
        model.warm_up()
        return model

    def warm_up(self) -> None:
        """Runs every graph once in the shapes that serving uses: first runs are slow."""
        size, frames = self.manifest.dims.image_size, self.manifest.dims.frames
        for batch in WARM_BATCHES:
            pictures = self.encode_pictures(np.zeros((batch, size, size, 3), np.uint8))
        for clips in range(1, self._clips.most_rows + 1):
            [clip, *_] = self._encode_clips([np.zeros((frames, size, size, 3), np.uint8)] * clips)
        self.match(pictures.match_state, clip)
        self.explain(np.zeros((size, size, 3), np.uint8), clip)

    def encode_pictures(self, pictures: Pixels) -> PictureFeatures:
        """uint8 [B,S,S,3], any B -> embeddings and match states."""
        size, dims = self.manifest.dims.image_size, self.manifest.dims
        _check("pictures", pictures, np.uint8, (None, size, size, 3))
        embedding = np.empty((len(pictures), dims.embedding), np.float32)
        match_state = np.empty((len(pictures), dims.match_state), np.float32)
        for part in _parts(len(pictures), PICTURES_A_RUN):
            features = self._batcher.run(self._pictures, pictures[part], len(pictures[part]))
            embedding[part], match_state[part] = features.embedding, features.match_state
        return PictureFeatures(embedding, match_state)

    def encode_clip(self, frames: Pixels) -> ClipFeatures:
        """uint8 [F,S,S,3], 1 <= F <= dims.frames -> one clip's embedding, keys and values."""
        dims = self.manifest.dims
        _check("frames", frames, np.uint8, (None, dims.image_size, dims.image_size, 3))
        if not 1 <= len(frames) <= dims.frames:
            raise ValueError(f"a clip has 1 to {dims.frames} frames, not {len(frames)}")
        return self._batcher.run(self._clips, frames)

    def match(self, states: Floats, clip: ClipFeatures) -> Floats:
        """Match states [K,D], any K, against one clip -> logits [K]."""
        _check("states", states, np.float32, (None, self.manifest.dims.match_state))
        logits = np.empty(len(states), np.float32)
        for part in _parts(len(states), STATES_A_RUN):
            [logits[part]] = self._graphs.run_batch(
                "matcher",
                {"match_state": states[part]},
                {"keys": clip.keys, "values": clip.values, "token_mask": clip.token_mask},
            )
        return logits

    def explain(self, picture: Pixels, clip: ClipFeatures) -> Floats:
        """uint8 [S,S,3] -> where each picture token looks in the clip, [1+patches, L].

        Row 0 is the class token's, the one that the match logit is made of; rows sum to 1.
        """
        size = self.manifest.dims.image_size
        _check("picture", picture, np.uint8, (size, size, 3))
        [attention] = self._graphs.run(
            "explainer", pictures=picture[None], keys=clip.keys, token_mask=clip.token_mask
        )
        explanation: Floats = attention[0]
        return explanation

    def _encode_pictures(self, of_callers: Sequence[Pixels]) -> list[PictureFeatures]:
        """What each of them asked for, [B,S,S,3], run as one batch."""
        pictures = of_callers[0] if len(of_callers) == 1 else np.concatenate(of_callers)
        outputs = self._graphs.run_batch("image_encoder", {"pictures": pictures})
        ends = np.cumsum([len(part) for part in of_callers])[:-1]
        parts = (np.split(output, ends) for output in outputs)
        return [PictureFeatures(*features) for features in zip(*parts, strict=True)]

    def _encode_clips(self, clips: Sequence[Pixels]) -> list[ClipFeatures]:
        """Clips [F,S,S,3] run as one batch: the shorter ones are padded, and masked there."""
        lengths = [len(clip) for clip in clips]
        frames = np.zeros((len(clips), max(lengths), *clips[0].shape[1:]), np.uint8)
        frame_mask = np.zeros(frames.shape[:2], np.bool_)
        for row, clip in enumerate(clips):
            frames[row, : len(clip)] = clip
            frame_mask[row, : len(clip)] = True
        patches = self.manifest.dims.patches
        batch = {
            "frames": frames,
            "frame_mask": frame_mask,
            "patch_mask": np.ones((*frame_mask.shape, patches), np.bool_),
        }
        outputs = zip(*self._graphs.run_batch("clip_encoder", batch), strict=True)
        return [
            ClipFeatures(embedding, *(of_tokens[: length * (1 + patches)] for of_tokens in rest))
            for length, (embedding, *rest) in zip(lengths, outputs, strict=True)
        ]

    def _try(self, sessions: Mapping[str, Session]) -> None:
        """The largest run that serving is made of, and the one that indexing is made of."""
        dims = self.manifest.dims
        size, frames = dims.image_size, dims.frames
        sessions["image_encoder"].run(pictures=np.zeros((1, size, size, 3), np.uint8))
        sessions["clip_encoder"].run(
            frames=np.zeros((1, frames, size, size, 3), np.uint8),
            frame_mask=np.ones((1, frames), np.bool_),
            patch_mask=np.ones((1, frames, dims.patches), np.bool_),
        )


def _open_sessions(bundle: Bundle, settings: InferenceSettings) -> dict[str, Session]:
    graphs = bundle.manifest.graphs
    sharing = ("image_encoder", "clip_encoder", "explainer")  # one network, one weights file
    alone = ("matcher",)
    return {
        name: Session(bundle.path, getattr(graphs, name), settings, shares_weights=name in sharing)
        for name in (*sharing, *alone)
    }


def _parts(count: int, size: int) -> Iterator[slice]:
    return (slice(start, start + size) for start in range(0, count, size))


def _check(
    name: str,
    array: npt.NDArray[np.generic],
    dtype: type[np.generic],
    shape: tuple[int | None, ...],
) -> None:
    fits = len(array.shape) == len(shape) and all(
        wanted in (None, length) for wanted, length in zip(shape, array.shape, strict=True)
    )
    if array.dtype != dtype or not fits:
        raise ValueError(
            f"{name} must be {dtype.__name__} {list(shape)}, got {array.dtype} {list(array.shape)}"
        )
