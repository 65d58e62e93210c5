"""`lpr-train eager`: torch, operator by operator, at what a bundle does; the rival of `lpr bench`.

Asked line by line, so that two processes can take turns on one machine: a JSON object comes on
standard input, one goes back on standard output with the milliseconds of the computation alone.

- `{"do": "encode"}`: the clip through the encoder, to embedding, keys and values;
- `{"do": "match", "candidates": K}`: the decoder pair by pair, as the papers' code does it: the
  clip's tokens are repeated for every candidate and projected for each, and all of a picture's
  tokens go through the self and the cross block. `logits` are those of the first candidates.

The first line is its own: what it computes with.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from torch import Tensor

from training import checkpoint
from training.data.transforms import normalise
from training.models.commands import begun
from training.models.rice import Clips, Rice
from training.recipes import RECIPES
from training.terminal import CommandError

PAIRS_A_RUN = 64
"""Bounds the memory: so many repeated clips are there at once, with their keys and values."""


def eager(
    source: Annotated[
        str,
        typer.Argument(
            metavar="CHECKPOINT|RECIPE", help="A recipe has random weights, those of `init`."
        ),
    ],
    inputs: Annotated[
        Path, typer.Option(help="An .npz of `pictures` uint8 [B,S,S,3], `frames` uint8 [F,S,S,3].")
    ],
    threads: Annotated[int | None, typer.Option(min=1, help="Of torch.")] = None,
) -> None:
    """Answer how long torch takes for what a bundle does; `lpr bench` asks, line by line."""
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        torch_model = Eager(_model(source), *_inputs(inputs))
    except (checkpoint.CheckpointError, OSError, KeyError, ValueError) as error:
        raise CommandError(f"{source}, {inputs}: {error}") from error
    _tell({"torch": torch.__version__, "threads": torch.get_num_threads()})
    for line in sys.stdin:
        _tell(torch_model.answer(json.loads(line)))


class Eager:
    """A model with one clip and some pictures, of which any number of candidates is made."""

    def __init__(self, model: Rice, pictures: Tensor, frames: Tensor) -> None:
        """uint8 [B,S,S,3] and [F,S,S,3]; ValueError where they are not of the model's size."""
        size = model.config.encoder.image_size
        if pictures.shape[1:] != (size, size, 3) or frames.shape[1:] != (size, size, 3):
            raise ValueError(f"pictures and frames must be uint8 [.,{size},{size},3]")
        self._model = model
        self._frames = frames
        with torch.inference_mode():
            self._picture_tokens = model.encode_pictures(normalise(pictures)).tokens  # [B,T,W]
            self._clip = self._encode()

    @torch.inference_mode()
    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        begun = time.perf_counter()
        logits = None
        if request["do"] == "match":
            logits = self._match(int(request["candidates"]))
        else:
            clip = self._encode()
            self._model.decoder.keys_values(clip.tokens)
        answer: dict[str, Any] = {"ms": 1e3 * (time.perf_counter() - begun)}
        if logits is not None:
            answer["logits"] = logits[: len(self._picture_tokens)].tolist()
        return answer

    def _encode(self) -> Clips:
        count, patches = len(self._frames), self._model.config.encoder.patches
        return self._model.encode_clips(
            normalise(self._frames[None]),
            torch.ones(1, count, dtype=torch.bool),
            torch.ones(1, count, patches, dtype=torch.bool),
        )

    def _match(self, candidates: int) -> Tensor:
        """Logits [K] of the pictures, taken in turn, against the clip."""
        turns = torch.arange(candidates) % len(self._picture_tokens)
        parts = [self._pairs(self._picture_tokens[part]) for part in turns.split(PAIRS_A_RUN)]
        return torch.cat(parts)

    def _pairs(self, picture_tokens: Tensor) -> Tensor:
        """Picture tokens [K,T,W] -> logits [K], each with the clip's tokens to itself."""
        decoder, count = self._model.decoder, len(picture_tokens)
        clip_tokens = self._clip.tokens.repeat(count, 1, 1)
        mask = self._clip.token_mask.repeat(count, 1)
        tokens = decoder.self_block(picture_tokens)
        keys, values = decoder.keys_values(clip_tokens)
        decoded = decoder.cross_block(tokens, keys, values, mask)
        return decoder.logit(decoded[:, 0], tokens[:, 0])


def _model(source: str) -> Rice:
    if source not in RECIPES:
        return checkpoint.load(Path(source)).model()
    return begun(RECIPES[source], None).model()


def _inputs(path: Path) -> tuple[Tensor, Tensor]:
    with np.load(path, allow_pickle=False) as file:
        return torch.from_numpy(file["pictures"]), torch.from_numpy(file["frames"])


def _tell(answer: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()
