"""The model as the service calls it: pictures and clips in, vectors and match logits out.

Knows the graphs of a bundle and how they belong together; not where pixels come from, nor
what is done with scores.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial

import numpy as np
import numpy.typing as npt

from service.inference import tensors
from service.inference.batcher import Batcher, Kind
from service.inference.bundle import Bundle
from service.inference.features import (
    ClipFeatures,
    Detections,
    Floats,
    Mask,
    PictureFeatures,
    Pixels,
)
from service.inference.golden import verify_golden
from service.inference.graphs import Graphs
from service.inference.manifest import Manifest
from service.inference.session import Array, Session
from service.inference.tensors import Clip, Pictures
from service.inference.texts import TextFeatures, TextReader
from service.settings import InferenceSettings
from service.telemetry import Telemetry

PICTURES_A_RUN = 16  # bounds the memory of one run, whatever the size of a product
STATES_A_RUN = 1024
WARM_BATCHES = (1, 8)


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
        text = bundle.manifest.text
        self._reader = None if text is None else TextReader(bundle, text, self._graphs.run_batch)
        self._batcher = batcher or Batcher(Telemetry(), wait_s=settings.batch_wait_ms / 1e3)
        self._pictures = Kind("image_encoder", PICTURES_A_RUN, self._encode_pictures)
        self._clips = Kind("clip_encoder", settings.clips_a_run, self._encode_clips)
        self._finds = bundle.manifest.graphs.detector is not None
        self._frames = Kind("detector", settings.clips_a_run, self._detect)

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
        side = self.frame_size(detect=True)
        for batch in WARM_BATCHES:
            pictures = self.encode_pictures(np.zeros((batch, size, size, 3), np.uint8))
        for clips in range(1, self._clips.most_rows + 1):
            blank = Clip(np.zeros((frames, size, size, 3), np.uint8), self._read(["warm"]))
            [clip, *_] = self._encode_clips([blank] * clips)
            if self._finds:
                self._detect([np.zeros((frames, side, side, 3), np.uint8)] * clips)
        self.match(pictures.match_state, clip)
        self.explain(np.zeros((size, size, 3), np.uint8), clip)

    def encode_pictures(self, pictures: Pixels, titles: Sequence[str] = ()) -> PictureFeatures:
        """uint8 [B,S,S,3], any B, and their products' titles -> embeddings and match states.

        A title that is "" is none; a model that does not read takes no notice of them.
        """
        size, dims = self.manifest.dims.image_size, self.manifest.dims
        _check("pictures", pictures, np.uint8, (None, size, size, 3))
        embedding = np.empty((len(pictures), dims.embedding), np.float32)
        match_state = np.empty((len(pictures), dims.match_state), np.float32)
        for part in _parts(len(pictures), PICTURES_A_RUN):
            item = Pictures(pictures[part], self._read((titles or [""] * len(pictures))[part]))
            features = self._batcher.run(self._pictures, item, len(item.pixels))
            embedding[part], match_state[part] = features.embedding, features.match_state
        return PictureFeatures(embedding, match_state)

    def frame_size(self, *, detect: bool) -> int:
        """Side of the frames that `detect` takes, or else `encode_clip`."""
        dims = self.manifest.dims
        return dims.frame_size or dims.image_size if detect else dims.image_size

    def detect(self, frames: Pixels) -> Detections | None:
        """uint8 [F,D,D,3], D the `frame_size` -> where the intended product is in each, and what
        `encode_clip` is to see; None where the bundle has no detector."""
        self._check_frames(frames, self.frame_size(detect=True))
        return self._batcher.run(self._frames, frames) if self._finds else None

    def encode_clip(
        self,
        frames: Pixels,
        speech: str = "",
        patch_mask: Mask | None = None,
        scores: Floats | None = None,
    ) -> ClipFeatures:
        """uint8 [F,S,S,3], 1 <= F <= dims.frames, and what is said -> one clip's embedding, keys
        and values. A model that does not read takes no notice of speech. Of `patch_mask`, bool
        [F,P], only patches that are True take part, without it all. `scores`, float32 [F], are the
        detector's, 0 where it has found nothing; a model that weighs all frames alike takes no
        notice of them."""
        self._check_frames(frames, self.manifest.dims.image_size)
        if patch_mask is not None:
            _check("patch_mask", patch_mask, np.bool_, (len(frames), self.manifest.dims.patches))
        if scores is not None:
            _check("scores", scores, np.float32, (len(frames),))
        clip = Clip(frames, self._read([speech]), patch_mask, scores)
        return self._batcher.run(self._clips, clip)

    def _check_frames(self, frames: Pixels, size: int) -> None:
        dims = self.manifest.dims
        _check("frames", frames, np.uint8, (None, size, size, 3))
        if not 1 <= len(frames) <= dims.frames:
            raise ValueError(f"a clip has 1 to {dims.frames} frames, not {len(frames)}")

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

    def match_text(self, states: Floats, clip: ClipFeatures) -> Floats | None:
        """Cosines [K] of speech and titles, 0 where there is no title; None without speech."""
        if clip.speech is None:
            return None
        cosines: Floats = states[:, -len(clip.speech) :] @ clip.speech
        return cosines

    def explain(self, picture: Pixels, clip: ClipFeatures, title: str = "") -> Floats:
        """uint8 [S,S,3] -> where each picture token looks in the clip, [1+patches, L].

        Row 0 is the class token's, the one that the match logit is made of; rows sum to 1.
        """
        size = self.manifest.dims.image_size
        _check("picture", picture, np.uint8, (size, size, 3))
        [attention] = self._graphs.run(
            "explainer",
            pictures=picture[None],
            keys=clip.keys,
            token_mask=clip.token_mask,
            **tensors.of_titles([self._read([title])]),
        )
        return tensors.on_all_tokens(attention[0], clip.kept)

    def _read(self, texts: Sequence[str]) -> TextFeatures | None:
        return None if self._reader is None else self._reader.read(texts)

    def _encode_pictures(self, of_callers: Sequence[Pictures]) -> list[PictureFeatures]:
        """What each of them asked for, run as one batch."""
        outputs = self._graphs.run_batch("image_encoder", tensors.of_pictures(of_callers))
        ends = np.cumsum([len(part.pixels) for part in of_callers])[:-1]
        parts = (np.split(output, ends) for output in outputs)
        return [PictureFeatures(*features) for features in zip(*parts, strict=True)]

    def _encode_clips(self, clips: Sequence[Clip]) -> list[ClipFeatures]:
        """Clips run as one batch."""
        patches = self.manifest.dims.patches
        batch = self._batch_of(clips)
        outputs = zip(*self._graphs.run_batch("clip_encoder", batch), strict=True)
        if self._finds:
            return [
                tensors.kept(clip, features, patches)
                for clip, features in zip(clips, outputs, strict=True)
            ]
        tokens = [len(clip.frames) * (1 + patches) for clip in clips]
        return [
            tensors.unpadded(clip, features, slice(own, max(tokens)))
            for clip, own, features in zip(clips, tokens, outputs, strict=True)
        ]

    def _batch_of(self, clips: Sequence[Clip]) -> dict[str, Array]:
        graph = self.manifest.graphs.clip_encoder
        return tensors.of_clips(clips, self.manifest.dims.patches, weighs=graph.weighs_frames)

    def _detect(self, clips: Sequence[Pixels]) -> list[Detections]:
        """Clips run as one batch, as they are encoded."""
        outputs = zip(*self._graphs.run_batch("detector", tensors.of_frames(clips)), strict=True)
        return [
            Detections(*(of_frames[: len(frames)] for of_frames in of_clip))
            for frames, of_clip in zip(clips, outputs, strict=True)
        ]

    def _try(self, sessions: Mapping[str, Session]) -> None:
        """The largest run that serving is made of, and the one that indexing is made of."""
        dims, text = self.manifest.dims, self.manifest.text
        blank = np.zeros((dims.frames, dims.image_size, dims.image_size, 3), np.uint8)
        silence = None if text is None else tensors.silence(text)
        sessions["image_encoder"].run(**tensors.of_pictures([Pictures(blank[:1], silence)]))
        if self._finds:
            side = self.frame_size(detect=True)
            frames = np.zeros((dims.frames, side, side, 3), np.uint8)
            sessions["detector"].run(**tensors.of_frames([frames]))
        sessions["clip_encoder"].run(**self._batch_of([Clip(blank, silence)]))


def _open_sessions(bundle: Bundle, settings: InferenceSettings) -> dict[str, Session]:
    graphs = bundle.manifest.graphs
    optional = ("text_encoder", "detector")
    there = [name for name in optional if getattr(graphs, name) is not None]
    return {
        # The encoders repack their weights, a copy each, for speed; explanations are few.
        name: Session(
            bundle.path, getattr(graphs, name), settings, shares_weights=name == "explainer"
        )
        for name in ("image_encoder", "clip_encoder", "explainer", "matcher", *there)
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
