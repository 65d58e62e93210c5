"""`manifest.json`: what a bundle says of itself.

The service reads it first, and refuses a bundle whose files are others than it tells. Its JSON
Schema is in tests/contract.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from training.data.tokenizing import MOST_CHARACTERS
from training.export.golden import GOLDEN_FILE
from training.export.precision import Precision
from training.export.specs import GraphSpec, frame_size, state_length
from training.models.rice import Rice

SCHEMA_VERSION = 1
MANIFEST, TOKENIZER = "manifest.json", "tokenizer.json"


def write_manifest(
    folder: Path,
    specs: Sequence[GraphSpec],
    model: Rice,
    *,
    name: str,
    recipe: str,
    parameters: int,
    precision: Precision,
    fusion: Mapping[str, Any],
    calibration: Mapping[str, float],
    metrics: Mapping[str, Any],
) -> None:
    """Of a folder that has all other files; on the disk when this returns."""
    files = _describe_files(folder)
    settings = _settings(model, fusion, calibration)
    manifest = {
        "schema_version": SCHEMA_VERSION,
        "bundle_id": f"{name}-{_fingerprint(files, settings)}",
        "model": {"family": model.family, "recipe": recipe, "parameters": parameters},
        "precision": precision,
        "dims": _dims(model, frame_size(specs, model.config)),
        "files": files,
        "graphs": {spec.name: _describe_graph(spec) for spec in specs},
        **settings,
        "metrics": dict(metrics),
        "golden": GOLDEN_FILE,
    }
    _write(folder, manifest)


def rewrite_manifest(
    folder: Path,
    *,
    fusion: Mapping[str, Any],
    calibration: Mapping[str, float],
    metrics: Mapping[str, Any],
) -> None:
    """Of a bundle whose graphs stay as they are; its id changes with what it decides by. On the
    disk when this returns."""
    manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    kept = {name: manifest[name] for name in ("preprocessing", "text") if name in manifest}
    settings = kept | _decisions(fusion, calibration)
    name = manifest["bundle_id"].rpartition("-")[0]
    fingerprint = _fingerprint(manifest["files"], settings)
    told = {"bundle_id": f"{name}-{fingerprint}", **settings, "metrics": dict(metrics)}
    _write(folder, manifest | told)


def _write(folder: Path, manifest: Mapping[str, Any]) -> None:
    with (folder / MANIFEST).open("w", encoding="utf-8") as stream:
        stream.write(json.dumps(manifest, indent=2, allow_nan=False) + "\n")
        stream.flush()
        os.fsync(stream.fileno())


def _settings(
    model: Rice, fusion: Mapping[str, Any], calibration: Mapping[str, float]
) -> dict[str, Any]:
    """What scores depend on beside the files."""
    return {
        "preprocessing": {
            "resize": "shorter-side",
            "size": model.config.encoder.image_size,
            "filter": "bicubic",
            "crop": "centre",
        },
        **_decisions(fusion, calibration),
        **_text(model),
    }


def _decisions(fusion: Mapping[str, Any], calibration: Mapping[str, float]) -> dict[str, Any]:
    return {
        "fusion": {part: _floats(weight) for part, weight in fusion.items()},
        "calibration": {part: float(value) for part, value in calibration.items()},
    }


def _floats(value: Any) -> Any:
    """Numbers as floats, whose JSON the fingerprint is of."""
    return {k: float(v) for k, v in value.items()} if isinstance(value, Mapping) else float(value)


def _describe_files(folder: Path) -> dict[str, dict[str, Any]]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        path.relative_to(folder).as_posix(): {
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "bytes": path.stat().st_size,
        }
        for path in paths
    }


def _fingerprint(files: Mapping[str, Mapping[str, Any]], settings: Mapping[str, Any]) -> str:
    """The 12 hex digits that end a bundle's id: of its files, and of what is decided with them.

    sha256 over the sorted lines of `sha256sum FILES`, then `settings` as compact, sorted JSON.
    """
    lines = sorted(f"{info['sha256']}  {name}\n" for name, info in files.items())
    decides = json.dumps(settings, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256("".join([*lines, decides]).encode()).hexdigest()[:12]


def _dims(model: Rice, frame_side: int) -> dict[str, int]:
    encoder = model.config.encoder
    return {
        "image_size": encoder.image_size,
        **({"frame_size": frame_side} if frame_side != encoder.image_size else {}),
        "frames": model.config.frames,
        "patches": encoder.patches,
        "embedding": encoder.embedding,
        "match_state": state_length(model.config),
    }


def _text(model: Rice) -> dict[str, Any]:
    text = model.config.text
    if text is None:
        return {}
    return {
        "text": {
            "tokenizer": TOKENIZER,
            "max_characters": MOST_CHARACTERS,
            "max_tokens": text.max_tokens,
            "width": text.width,
            "embedding": text.embedding,
        }
    }


def _describe_graph(spec: GraphSpec) -> dict[str, Any]:
    return {
        "file": spec.file,
        "inputs": [asdict(tensor) for tensor in spec.inputs],
        "outputs": [asdict(tensor) for tensor in spec.outputs],
    }
