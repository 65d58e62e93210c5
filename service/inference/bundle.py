"""The model bundle: a folder of graphs, weights and golden examples, described by `manifest.json`.

Proves a folder to be what its manifest says: every file there, none besides, every hash right,
every graph of the shape this service calls. Knows nothing of onnxruntime.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from service.errors import BundleError
from service.inference.manifest import MANIFEST, Graph, Manifest, fingerprint, read_manifest
from service.inference.signatures import signatures


@dataclass(frozen=True)
class Bundle:
    """A folder that was verified against its manifest."""

    path: Path
    manifest: Manifest

    @classmethod
    def load(cls, path: Path) -> Bundle:
        """Reads and verifies the bundle at `path`. Raises BundleError with what is wrong."""
        manifest = read_manifest(path)
        _check_consistency(manifest)
        _check_files(path, manifest)
        return cls(path, manifest)


def _check_consistency(manifest: Manifest) -> None:
    if manifest.preprocessing.size != manifest.dims.image_size:
        raise BundleError(
            f"pictures are resized to {manifest.preprocessing.size}, "
            f"the model takes {manifest.dims.image_size}"
        )
    if manifest.dims.frame_size is not None and manifest.graphs.detector is None:
        raise BundleError("frames have a size of their own where no detector looks at them")
    text = manifest.text
    parts = (manifest.graphs.text_encoder, manifest.fusion.text)
    if any((part is None) != (text is None) for part in parts):
        raise BundleError("text, its encoder and its weight in fusion come together or not at all")
    _check_graphs(manifest)
    _check_listed(manifest, manifest.golden)
    if text is not None:
        _check_listed(manifest, text.tokenizer)
    digest = fingerprint(manifest)
    if not manifest.bundle_id.endswith(f"-{digest}"):
        raise BundleError(
            f"the bundle's id {manifest.bundle_id} does not end in {digest}, its fingerprint"
        )


def _check_graphs(manifest: Manifest) -> None:
    weighs = manifest.graphs.clip_encoder.weighs_frames
    for name, signature in signatures(manifest.dims, manifest.text, weighs=weighs).items():
        graph: Graph | None = getattr(manifest.graphs, name)
        if graph is None:  # a part that this bundle does without
            continue
        if (graph.inputs, graph.outputs) != signature:
            raise BundleError(f"the graph {name} has other inputs or outputs than dims say")
        _check_listed(manifest, graph.file)


def _check_listed(manifest: Manifest, name: str) -> None:
    if name not in manifest.files:
        raise BundleError(f"{name} is used by the manifest and not among its files")


def _check_files(path: Path, manifest: Manifest) -> None:
    present = {
        file.relative_to(path).as_posix() for file in path.rglob("*") if not file.is_dir()
    } - {MANIFEST}
    if missing := sorted(manifest.files.keys() - present):
        raise BundleError(f"the bundle at {path} lacks {', '.join(missing)}")
    if extra := sorted(present - manifest.files.keys()):
        raise BundleError(f"the bundle at {path} has files not in its manifest: {', '.join(extra)}")
    for name, info in manifest.files.items():
        if _size(path / name) != info.bytes or _hash(path / name) != info.sha256:
            raise BundleError(
                f"{path / name} is not the file that was exported: its content differs"
            )


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError as error:
        raise BundleError(f"{file} cannot be read: {error.strerror}") from error


def _hash(file: Path) -> str:
    try:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise BundleError(f"{file} cannot be read: {error.strerror}") from error
