"""Who fills a bundle's index, and how far they are: a hint, for other replicas leave it to them.

Nothing depends on it: where Redis is away, several fill the same index, which is work done twice.
"""

from __future__ import annotations

import json
import logging
import secrets
from typing import NamedTuple

from service.coordination.store import Store
from service.errors import CoordinationError

logger = logging.getLogger(__name__)

_KEEP_S = 60  # longer than a batch takes; who says nothing for so long has died


class Progress(NamedTuple):
    done: int  # products
    of: int


class Filling:
    """Safe to share between threads."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._me = secrets.token_hex(8)

    def claim(self, bundle_id: str, progress: Progress) -> bool:
        """Say that this replica fills it and is so far; False where another one does."""
        told = json.dumps([self._me, *progress])
        try:
            held = self._store.call(lambda client: client.get(self._key(bundle_id)))
            if held is not None and json.loads(str(held))[0] != self._me:
                return False
            self._store.call(lambda client: client.set(self._key(bundle_id), told, ex=_KEEP_S))
        except CoordinationError as error:
            logger.warning("the progress of a bundle is not told: %s", error)
        return True

    def progress(self, bundle_id: str) -> Progress | None:
        """How far it is; None where nobody fills it, or it cannot be known now."""
        try:
            held = self._store.call(lambda client: client.get(self._key(bundle_id)))
        except CoordinationError:
            return None
        return None if held is None else Progress(*json.loads(str(held))[1:])

    def end(self, bundle_id: str) -> None:
        try:
            self._store.call(lambda client: client.delete(self._key(bundle_id)))
        except CoordinationError as error:
            logger.warning("a bundle's filling looks unfinished for a while: %s", error)

    def _key(self, bundle_id: str) -> str:
        return self._store.key("filling", bundle_id)
