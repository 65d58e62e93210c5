"""What is scored: a model in torch, or the graphs of its bundle in onnxruntime, behind one face.

Both see uint8 pixels, as the service does. Knows nothing of shops, queries and metrics.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from math import isqrt
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import onnx
import onnxruntime as ort
import torch
from torch import Tensor

from training.data.tokenizing import TextTokenizer
from training.data.transforms import normalise
from training.errors import TrainingError
from training.evaluation.fusion import fusion_of
from training.evaluation.words import overlap
from training.models.intended_product import patch_mask
from training.models.looking import Looking, taking_part
from training.models.rice import Clips, Rice
from training.models.text import Texts, Words

MANIFEST = "manifest.json"
FRAME_SCORES = "frame_scores"  # input of one that weighs frames by a detector's scores
HEARD = ("speech_tokens", "speech_mask", "speech_embedding")  # inputs of a clip encoder that reads


class BundleError(TrainingError):
    """A folder is no bundle that can be scored; the message says which and why."""


class Shop(NamedTuple):
    embedding: Tensor  # [P,E], L2
    states: Tensor  # [P,D]
    titles: Tensor | None = None  # [P,Et], L2, zeros where there is none
    named: tuple[str, ...] = ()  # the P titles themselves, where the model reads


class Comparison(NamedTuple):
    """Of one clip with P pictures, or of N clips, then [N,P]; on the CPU."""

    coarse: Tensor  # [P], cosines
    match: Tensor  # [P], logits of the matcher
    text: Tensor
    """[P], how near titles are to what is said: the cosine of both as a whole, and of their words;
    0 where one of them is missing."""


class Scorer(Protocol):
    size: int
    """Side of the pictures, pixels."""
    frame_size: int
    """The same of a clip's frames."""
    frames: int
    """Frames of a clip, at most."""
    reads: bool
    """Whether it reads titles and speech."""

    def products(self, pictures: Tensor, titles: Sequence[str] = ()) -> Shop:
        """Pictures, uint8 [P,S,S,3], and their products' titles, "" where there is none."""

    def compare(
        self,
        shop: Shop,
        frames: Tensor,
        speeches: Sequence[str] = ("",),
        boxes: Tensor | None = None,
    ) -> list[Comparison]:
        """One clip, uint8 [F,D,D,3], D the `frame_size`, with each speech that may be heard in it.

        With boxes of the intended product, [F,K,4], only its patches take part: what a detector
        does by itself, where there is one.
        """

    def hears(self, shop: Shop, speeches: Sequence[str]) -> Tensor:
        """[N,P], `Comparison.text` of N speeches."""


class TorchScorer:
    def __init__(
        self,
        model: Rice,
        tokenizer: TextTokenizer | None = None,
        looking: Looking | None = None,
    ) -> None:
        """Without `tokenizer` no text is read, without `looking` frames are seen as they are."""
        self._model = model.eval()
        self._tokenizer = tokenizer
        self._looking = looking
        self._device = next(model.parameters()).device
        self.size = self.frame_size = model.config.encoder.image_size
        if looking is not None:
            self.frame_size = looking.frame_size
        self.frames = model.config.frames
        self.reads = tokenizer is not None

    def products(self, pictures: Tensor, titles: Sequence[str] = ()) -> Shop:
        model = self._model
        encoded = model.encode_pictures(normalise(pictures.to(self._device)))
        words = self._read(titles)
        encoded = model.add_titles(encoded, words)
        states = model.decoder.match_state(encoded.tokens, encoded.token_mask)
        if words is None:
            return Shop(encoded.embedding, states)
        return Shop(encoded.embedding, states, words.embedding, tuple(titles))

    def compare(
        self,
        shop: Shop,
        frames: Tensor,
        speeches: Sequence[str] = ("",),
        boxes: Tensor | None = None,
    ) -> list[Comparison]:
        model, seen, scores = self._model, frames[None].to(self._device), None
        kept = _kept(boxes, len(frames), model.config.encoder.patches)[None].to(self._device)
        if boxes is None and self._looking is not None:
            looked = self._looking(seen, _all_of(seen))
            part = taking_part(looked.found)[0]  # a service encodes no other frames
            seen, kept = looked.pixels[:, part], looked.patch_mask[:, part]
            scores = (looked.scores * looked.found)[:, part]
        each = model.encode_frames(normalise(seen), _all_of(seen), kept, scores)
        match: Tensor | None = None
        found: dict[str, Comparison] = {}
        for speech in dict.fromkeys(speeches):
            words = self._read([speech])
            clip = model.pool_frames(each, words)
            if match is None or (self.reads and model.decodes_speech):
                match = self._match(shop, clip)
            coarse = (clip.embedding @ shop.embedding.T)[0]
            text = _nearness([speech], None if words is None else words.embedding, shop)
            found[speech] = Comparison(coarse.cpu(), match, text[0])
        return [found[speech] for speech in speeches]

    def hears(self, shop: Shop, speeches: Sequence[str]) -> Tensor:
        words = self._read(speeches)
        return _nearness(speeches, None if words is None else words.embedding, shop)

    def _match(self, shop: Shop, clip: Clips) -> Tensor:
        """[P], on the CPU."""
        decoder = self._model.decoder
        key, value = decoder.keys_values(clip.tokens)
        return decoder.match(shop.states, key, value, clip.token_mask)[0].cpu()

    def _read(self, texts: Sequence[str]) -> Words | None:
        if self._tokenizer is None or not texts:
            return None
        ids, mask = self._tokenizer(texts)
        return self._model.read(Texts(ids.to(self._device), mask.to(self._device)))


class BundleScorer:
    """An exported bundle, as a service computes it. Raises BundleError."""

    def __init__(self, folder: Path) -> None:
        try:
            manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
            dims, graphs = manifest["dims"], manifest["graphs"]
            self.size, self.frames = int(dims["image_size"]), int(dims["frames"])
            self.frame_size = int(dims.get("frame_size", self.size))
            self.recipe = str(manifest["model"]["recipe"])
            self.fusion = fusion_of(manifest["fusion"])
            self._patches = int(dims["patches"])
            self.reads = "text" in manifest
            self._reader = _Reader(folder, manifest) if self.reads else None
            self._image, self._clip, self._match = (
                _session(folder / graphs[name]["file"])
                for name in ("image_encoder", "clip_encoder", "matcher")
            )
            self._detector = (
                _session(folder / graphs["detector"]["file"]) if "detector" in graphs else None
            )
            taken = [each["name"] for each in graphs["clip_encoder"]["inputs"]]
            self._weighs = FRAME_SCORES in taken
            self._listens = _listens(folder / graphs["clip_encoder"]["file"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise BundleError(f"{folder} is no bundle: {error!r}") from error

    def products(self, pictures: Tensor, titles: Sequence[str] = ()) -> Shop:
        inputs = {"pictures": pictures.numpy()}
        titles = titles or [""] * len(pictures)
        if self._reader is not None:
            _, mask, embedding = self._reader(titles)
            inputs |= {"title_embedding": embedding, "has_title": np.asarray(mask.any(axis=1))}
        found, states = self._image.run(None, inputs)
        shop = Shop(torch.from_numpy(found), torch.from_numpy(states))
        if self._reader is None:
            return shop
        return shop._replace(titles=torch.from_numpy(embedding), named=tuple(titles))

    def compare(
        self,
        shop: Shop,
        frames: Tensor,
        speeches: Sequence[str] = ("",),
        boxes: Tensor | None = None,
    ) -> list[Comparison]:
        seen, scores = frames[None], torch.zeros(1, len(frames))
        kept = _kept(boxes, len(frames), self._patches)[None]
        if boxes is None and self._detector is not None:
            shown = {"frames": seen.numpy(), "frame_mask": _all_of(seen).numpy()}
            looked = self._detector.run(["pixels", "patch_mask", "found", "scores"], shown)
            seen, kept, found, scores = map(torch.from_numpy, looked)
            part = taking_part(found)[0]  # a service encodes no other frames
            seen, kept, scores = seen[:, part], kept[:, part], (scores * found)[:, part]
        clip = {
            "frames": seen.numpy(),
            "frame_mask": _all_of(seen).numpy(),
            "patch_mask": kept.numpy(),
            **({FRAME_SCORES: scores.numpy()} if self._weighs else {}),
        }
        told: tuple[Tensor, Tensor] | None = None
        answers: dict[str, Comparison] = {}
        for speech in dict.fromkeys(speeches):
            heard, said = self._hear(speech)
            if told is None or self._listens:
                told = self._look(shop, clip | heard)
            answers[speech] = Comparison(*told, _nearness([speech], said, shop)[0])
        return [answers[speech] for speech in speeches]

    def hears(self, shop: Shop, speeches: Sequence[str]) -> Tensor:
        said = None
        if self._reader is not None and speeches:
            said = torch.from_numpy(self._reader(speeches)[2])
        return _nearness(speeches, said, shop)

    def _hear(self, speech: str) -> tuple[dict[str, np.ndarray], Tensor | None]:
        """What the clip encoder is given of one speech, and its embedding [1,Et]; of a bundle that
        reads nothing, nothing."""
        if self._reader is None:
            return {}, None
        heard = dict(zip(HEARD, self._reader([speech]), strict=True))
        return heard, torch.from_numpy(heard["speech_embedding"])

    def _look(self, shop: Shop, clip: dict[str, np.ndarray]) -> tuple[Tensor, Tensor]:
        """Inputs of the clip encoder -> cosines and logits, [P]."""
        embedding, keys, values, token_mask = self._clip.run(None, clip)
        encoded = {"keys": keys[0], "values": values[0], "token_mask": token_mask[0]}
        [logits] = self._match.run(None, {"match_state": shop.states.numpy(), **encoded})
        coarse = (torch.from_numpy(embedding) @ shop.embedding.T)[0]
        return coarse, torch.from_numpy(logits)


class _Reader:
    """Texts -> tokens [B,T,Wt], mask [B,T], embedding [B,Et] of a bundle's text encoder."""

    def __init__(self, folder: Path, manifest: dict[str, Any]) -> None:
        told = manifest["text"]
        definition = (folder / told["tokenizer"]).read_text(encoding="utf-8")
        self._tokenize = TextTokenizer(definition, int(told["max_tokens"]))
        self._session = _session(folder / manifest["graphs"]["text_encoder"]["file"])

    def __call__(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        ids, mask = (part.numpy() for part in self._tokenize(texts))
        tokens, embedding = self._session.run(None, {"token_ids": ids, "mask": mask})
        return tokens, mask, embedding


def _nearness(speeches: Sequence[str], embedding: Tensor | None, shop: Shop) -> Tensor:
    """[N,P] of N speeches, whose embeddings are [N,Et], on the CPU; 0 without them or titles."""
    if embedding is None or shop.titles is None:
        return torch.zeros(len(speeches), len(shop.embedding))
    shared = [torch.from_numpy(overlap(speech, shop.named)) for speech in speeches]
    return (embedding @ shop.titles.T).cpu() + torch.stack(shared)


def _all_of(frames: Tensor) -> Tensor:
    """Of [N,F,...] bool [N,F], all of which are real frames."""
    return torch.ones(frames.shape[:2], dtype=torch.bool, device=frames.device)


def _kept(boxes: Tensor | None, frames: int, patches: int) -> Tensor:
    """Bool [F,P], the patches that take part."""
    if boxes is None:
        return torch.ones(frames, patches, dtype=torch.bool)
    return patch_mask(boxes, isqrt(patches))


def _listens(clip_encoder: Path) -> bool:
    """Whether anything of what is said reaches the graph's outputs: a graph that asks an input for
    its shape alone only counts its clips by it."""
    graph = onnx.load(clip_encoder, load_external_data=False).graph
    return any(
        name in HEARD and node.op_type != "Shape" for node in graph.node for name in node.input
    )


def _session(path: Path) -> ort.InferenceSession:
    try:
        return ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has one class of error for each status
        raise BundleError(f"onnxruntime cannot load {path}: {error}") from error
