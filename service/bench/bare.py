"""The limit: onnxruntime and ffmpeg with nothing of the service around them.

onnxruntime as it comes, with all cores; so this is the one place beside `service.inference.session`
that speaks to it.
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from service.cores import cores
from service.errors import BenchError
from service.inference.bundle import Bundle
from service.inference.manifest import Graph

Pixels = npt.NDArray[np.uint8]

ONNXRUNTIME = str(ort.__version__)

_DECODE_S = 120.0


class BareSession:
    """One graph of a bundle in a session of its own, without any option but the threads."""

    def __init__(self, bundle: Bundle, name: str, providers: list[str]) -> None:
        self._graph: Graph = getattr(bundle.manifest.graphs, name)
        options = ort.SessionOptions()
        options.intra_op_num_threads = cores()
        self._session = ort.InferenceSession(
            bundle.path / self._graph.file, sess_options=options, providers=providers
        )

    def run(self, pixels: Pixels) -> list[Any]:
        """Pixels as the graph's first input wants them; masks let everything take part, and one
        word is said where the model reads."""
        first, *others = self._graph.inputs
        lengths = {"words": 1} | dict(zip(first.shape, pixels.shape, strict=True))
        feeds: dict[str, npt.NDArray[Any]] = {first.name: pixels}
        for other in others:
            feeds[other.name] = np.ones(_shape(other.shape, lengths), other.dtype)
        outputs: list[Any] = self._session.run(None, feeds)
        return outputs


def decode_all(ffmpeg: str, clip: Path, *flags: str) -> None:
    """Every frame of a clip decoded and thrown away. `flags` come before the input."""
    command = [ffmpeg, "-nostdin", "-loglevel", "error", *flags, "-i", str(clip)]
    try:
        subprocess.run(  # noqa: S603 - our own command, no shell
            [*command, "-an", "-f", "null", "-"],
            check=True,
            capture_output=True,
            timeout=_DECODE_S,
        )
    except (subprocess.SubprocessError, OSError) as error:
        raise BenchError(f"ffmpeg could not decode {clip}: {error}") from error


def _shape(shape: tuple[int | str, ...], lengths: Mapping[int | str, int]) -> list[int]:
    return [axis if isinstance(axis, int) else lengths[axis] for axis in shape]
