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
        lines = sorted(f"{info['sha256']}  {name}\n" for name, info in manifest["files"].items())
        digest = hashlib.sha256("".join(lines).encode()).hexdigest()[:12]
        manifest["bundle_id"] = f"rice-spoiled-{digest}"

    edit_json(bundle / "manifest.json", update)
