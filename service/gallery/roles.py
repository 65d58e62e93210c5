"""Which bundle is served, and which others are kept: durably, and the same for all replicas.

Every change is a file of its own, `roles/<number>.json`, put only where there is none of that
number. So of two changes at the same moment one comes first and the other is made upon it, and to
see whether there was one costs one look for a file after the last known. Where replicas share the
record, the first one's `LPR_BUNDLE` opens it: with different ones each would feed an index that the
others do not read. Alone, nothing is written until a bundle is activated.

Knows nothing of what a bundle is.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import PurePosixPath

from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from service.errors import CatalogueUnavailableError
from service.gallery.storage import Storage

_FOLDER = "roles"


class Roles(BaseModel):
    """Bundles by what they are for. The index of each is kept in agreement with the catalogue."""

    model_config = ConfigDict(frozen=True)

    active: str
    previous: str | None = None  # ready to be gone back to
    coming: str | None = None  # takes over as soon as its index agrees
    changed_at: AwareDatetime

    @property
    def kept(self) -> list[str]:
        """Ids of all, the active one first."""
        return [role for role in (self.active, self.previous, self.coming) if role is not None]

    def activating(self, bundle_id: str) -> Roles:
        """On the way to `bundle_id`. Who was on the way gives up."""
        previous = None if bundle_id == self.previous else self.previous
        return self._with(previous=previous, coming=bundle_id)

    def taken_over(self, bundle_id: str) -> Roles:
        """With `bundle_id` active, and the one before kept beside it."""
        return self._with(active=bundle_id, previous=self.active, coming=None)

    def without(self, bundle_id: str) -> Roles:
        """With a bundle that is not the active one kept no longer."""
        previous = None if bundle_id == self.previous else self.previous
        coming = None if bundle_id == self.coming else self.coming
        return self._with(previous=previous, coming=coming)

    def _with(self, **changed: str | None) -> Roles:
        return self.model_copy(update={**changed, "changed_at": datetime.now(UTC)})


class RolesRecord:
    """Safe to share between threads and between services.

    Every method may raise StorageFullError or CatalogueUnavailableError.
    """

    def __init__(self, storage: Storage, default: str) -> None:
        """`default`: the bundle that is served until another is activated."""
        self.default = default
        self._storage = storage
        self._guard = threading.RLock()
        self._number = 0
        self._roles = Roles(active=default, changed_at=datetime.now(UTC))

    def read(self) -> Roles:
        """The roles now: whoever changed them before this was called is seen."""
        with self._guard:
            for key in self._storage.keys(_FOLDER, after=_key(self._number)):
                self._roles = self._load(key)
                self._number = int(PurePosixPath(key).stem)
            return self._roles

    def opened(self) -> Roles:
        """The roles now; where nothing was recorded yet, the default is, for all who share this."""
        with self._guard:
            roles = self.read()
            if self._number == 0:
                self._storage.put_new(_key(1), roles.model_dump_json().encode())
            return self.read()

    def change(self, change: Callable[[Roles], Roles]) -> tuple[Roles, Roles]:
        """The roles before and after a change to them; where `change` raises, they stay."""
        with self._guard:
            while True:
                before = self.read()
                after = change(before)
                data = after.model_dump_json().encode()
                if after == before or self._storage.put_new(_key(self._number + 1), data):
                    return before, after

    def _load(self, key: str) -> Roles:
        try:
            return Roles.model_validate_json(self._storage.get(key) or b"")
        except ValidationError as error:
            raise CatalogueUnavailableError(f"{key} of the catalogue is damaged") from error


def _key(number: int) -> str:
    return f"{_FOLDER}/{number:08d}.json"
