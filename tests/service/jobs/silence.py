"""Makes a worker look as if nothing had been heard of it for long, without waiting for that."""

from __future__ import annotations

import redis

from service.coordination.store import Store
from service.jobs.queue import _GROUP, _STREAM, Claim


def fall_silent(store: Store, seconds: float, *claims: Claim | None) -> None:
    """Of who has these pieces in hand, nothing was heard for so long; without claims: of all."""
    wanted = {claim.entry for claim in claims if claim is not None}
    assert len(wanted) == len(claims)

    stream = store.key(*_STREAM)

    def age(client: redis.Redis) -> None:
        for held in client.xpending_range(stream, _GROUP, "-", "+", 1_000):
            entry, holder = held["message_id"], held["consumer"]
            if entry in wanted or not wanted:
                client.xclaim(
                    stream, _GROUP, holder, 0, [entry], idle=int(1e3 * seconds), justid=True
                )

    store.call(age)
