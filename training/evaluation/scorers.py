"""What is scored: a model in torch, or the graphs of its bundle in onnxruntime, behind one face.

Both see uint8 pixels, as the service does. Knows nothing of shops, queries and metrics.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple, Protocol

import onnxruntime as ort
import torch
from torch import Tensor

from training.data.transforms import normalise
from training.models.rice import Rice

MANIFEST = "manifest.json"


class BundleError(Exception):
    """A folder is no bundle that can be scored; the message says which and why."""


class Shop(NamedTuple):
    embedding: Tensor  # [P,E], L2
    states: Tensor  # [P,D]


class Scorer(Protocol):
    size: int
    """Side of the pictures, pixels."""
    frames: int
    """Frames of a clip, at most."""

    def products(self, pictures: Tensor) -> Shop:
        """Pictures, uint8 [P,S,S,3]."""

    def compare(self, shop: Shop, frames: Tensor) -> tuple[Tensor, Tensor]:
        """One clip, uint8 [F,S,S,3] -> cosines [P], logits of the matcher [P], on the CPU."""


class TorchScorer:
    def __init__(self, model: Rice) -> None:
        self._model = model.eval()
        self._device = next(model.parameters()).device
        self.size = model.config.encoder.image_size
        self.frames = model.config.frames

    def products(self, pictures: Tensor) -> Shop:
        encoded = self._model.encode_pictures(normalise(pictures.to(self._device)))
        return Shop(encoded.embedding, self._model.decoder.match_state(encoded.tokens))

    def compare(self, shop: Shop, frames: Tensor) -> tuple[Tensor, Tensor]:
        model, pixels = self._model, normalise(frames.to(self._device))
        frame_mask = pixels.new_ones(1, len(pixels), dtype=torch.bool)
        patch_mask = frame_mask.new_ones(*frame_mask.shape, model.config.encoder.patches)
        encoded = model.encode_clips(pixels[None], frame_mask, patch_mask)
        key, value = model.decoder.keys_values(encoded.tokens)
        match = model.decoder.match(shop.states, key, value, encoded.token_mask)
        return (encoded.embedding @ shop.embedding.T)[0].cpu(), match[0].cpu()


class BundleScorer:
    """An exported bundle, as a service computes it. Raises BundleError."""

    def __init__(self, folder: Path) -> None:
        try:
            manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
            dims, graphs = manifest["dims"], manifest["graphs"]
            self.size, self.frames = int(dims["image_size"]), int(dims["frames"])
            self.recipe = str(manifest["model"]["recipe"])
            self.match_weight = float(manifest["fusion"]["match"])
            self._patches = int(dims["patches"])
            self._image, self._clip, self._match = (
                _session(folder / graphs[name]["file"])
                for name in ("image_encoder", "clip_encoder", "matcher")
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise BundleError(f"{folder} is no bundle: {error!r}") from error

    def products(self, pictures: Tensor) -> Shop:
        embedding, states = self._image.run(None, {"pictures": pictures.numpy()})
        return Shop(torch.from_numpy(embedding), torch.from_numpy(states))

    def compare(self, shop: Shop, frames: Tensor) -> tuple[Tensor, Tensor]:
        frame_mask = torch.ones(1, len(frames), dtype=torch.bool)
        patch_mask = torch.ones(1, len(frames), self._patches, dtype=torch.bool)
        embedding, keys, values, token_mask = self._clip.run(
            None,
            {
                "frames": frames[None].numpy(),
                "frame_mask": frame_mask.numpy(),
                "patch_mask": patch_mask.numpy(),
            },
        )
        clip = {"keys": keys[0], "values": values[0], "token_mask": token_mask[0]}
        [logits] = self._match.run(None, {"match_state": shop.states.numpy(), **clip})
        return (torch.from_numpy(embedding) @ shop.embedding.T)[0], torch.from_numpy(logits)


def _session(path: Path) -> ort.InferenceSession:
    try:
        return ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has one class of error for each status
        raise BundleError(f"onnxruntime cannot load {path}: {error}") from error
