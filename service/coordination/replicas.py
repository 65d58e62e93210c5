"""Which replicas there are, and which bundles each has open: hints that end by themselves."""

from __future__ import annotations

import json
import logging
import secrets
from collections.abc import Iterable

import redis

from service.coordination.store import Store
from service.errors import CoordinationError

logger = logging.getLogger(__name__)

_KEEP_S = 60  # longer than between two words of a replica, one that opens a bundle included


class Replicas:
    """Safe to share between threads."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._key = store.key("replica", secrets.token_hex(8))
        self._all = store.key("replica", "*")

    def tell(self, bundle_ids: Iterable[str]) -> None:
        """Say what this replica has open; again and again, or it counts as gone."""
        told = json.dumps(sorted(bundle_ids))
        try:
            self._store.call(lambda client: client.set(self._key, told, ex=_KEEP_S))
        except CoordinationError as error:
            logger.warning("other replicas do not know which bundles are open here: %s", error)

    def all_have(self, bundle_id: str) -> bool:
        """Whether every replica has the bundle open; False also where that cannot be known."""
        try:
            return all(bundle_id in bundles for bundles in self._store.call(self._read))
        except CoordinationError:
            return False

    def _read(self, client: redis.Redis) -> list[list[str]]:
        told = client.mget(keys) if (keys := list(client.scan_iter(match=self._all))) else []
        return [json.loads(bundles) for bundles in told if bundles is not None]
