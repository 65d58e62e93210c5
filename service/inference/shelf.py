"""The shelf: the bundles there are to choose from, by id.

One is where `LPR_BUNDLE` says, the others are the folders in `LPR_BUNDLES`, whatever they are
called. For a list their manifests are believed; one that is taken down is verified.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from service.errors import BundleError, BundleNotFoundError
from service.inference.bundle import Bundle
from service.inference.manifest import Manifest, read_manifest


@dataclass
class Shelved:
    """What lies on the shelf just now."""

    bundles: dict[str, tuple[Path, Manifest]] = field(default_factory=dict)  # by bundle id
    broken: dict[str, str] = field(default_factory=dict)  # what is wrong, by folder


class Shelf:
    def __init__(self, default: Path, folder: Path) -> None:
        self.folder = folder
        self._default = default

    def look(self) -> Shelved:
        """Everything on it; of two folders with the same bundle, the first by name."""
        found = Shelved()
        for path in [self._default, *self._folders()]:
            try:
                manifest = read_manifest(path)
            except BundleError as error:
                found.broken[str(path)] = error.detail
            else:
                found.bundles.setdefault(manifest.bundle_id, (path, manifest))
        return found

    def load(self, bundle_id: str) -> Bundle:
        """A bundle, verified. Raises BundleNotFoundError, BundleError."""
        bundles = self.look().bundles
        if bundle_id not in bundles:
            raise BundleNotFoundError(
                f"there is no bundle {bundle_id!r} among those here ({', '.join(bundles)}); "
                f"put its folder into {self.folder}"
            )
        path, _ = bundles[bundle_id]
        return Bundle.load(path)

    def _folders(self) -> list[Path]:
        try:
            return sorted(path for path in self.folder.iterdir() if path.is_dir())
        except FileNotFoundError:
            return []
        except OSError as error:
            raise BundleError(f"{self.folder} cannot be read: {error.strerror}") from error
