"""Spoiling copies of a bundle, with or without making its hashes right again."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any


def copy_of(bundle: Path, folder: Path) -> Path:
    return Path(shutil.copytree(bundle, folder / "bundle"))


def read_manifest(bundle: Path) -> dict[str, Any]:
    manifest: dict[str, Any] = json.loads((bundle / "manifest.json").read_text())
    return manifest


def edit_json(file: Path, change: Callable[[dict[str, Any]], object]) -> None:
    document = json.loads(file.read_text())
    change(document)
    file.write_text(json.dumps(document))


def flip_byte(file: Path, offset: int) -> None:
    content = bytearray(file.read_bytes())
    content[offset] ^= 0xFF
    file.write_bytes(content)


def sign(bundle: Path) -> None:
    """Makes the manifest agree with the files again, as one who means to deceive would."""

    def update(manifest: dict[str, Any]) -> None:
        manifest["files"] = {
            name: {
                "sha256": hashlib.sha256((bundle / name).read_bytes()).hexdigest(),
                "bytes": (bundle / name).stat().st_size,
            }
            for name in manifest["files"]
        }
        manifest["bundle_id"] = f"rice-spoiled-{fingerprint(bundle, manifest)}"

    edit_json(bundle / "manifest.json", update)


def fingerprint(bundle: Path, manifest: dict[str, Any]) -> str:
    """As the contract words it: `sha256sum FILES | sort`, then the settings as compact JSON."""
    names = [name for name in manifest["files"] if (bundle / name).exists()]
    lines = [f"{hashlib.sha256((bundle / n).read_bytes()).hexdigest()}  {n}\n" for n in names]
    settings = {name: manifest[name] for name in ("calibration", "fusion", "preprocessing")}
    decides = json.dumps(settings, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(("".join(sorted(lines)) + decides).encode()).hexdigest()[:12]
