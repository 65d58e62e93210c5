"""What a shop must hold after faults: every acknowledged write, and of the unanswered ones either.

Each lane writes products of its own, so that the order of a product's writes is known.
"""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

import httpx

from service.client import Client
from tests.integration.material import picture

PICTURES = [picture(seed) for seed in range(12)]
_A_LANE = 10  # products, so that all are among the 100 candidates of an answer
_TAKEN = (200, 201, 202, 204)

Title = str | None  # None: the product is not there


class Written(NamedTuple):
    method: str
    status: int
    seconds: float


class Ledger:
    """Of one shop. Lanes may write side by side."""

    def __init__(self, shop_id: str) -> None:
        self.shop_id = shop_id
        self.acknowledged = 0
        self._known: dict[str, Title] = {}
        self._unsure: dict[str, set[Title]] = {}
        self._words = itertools.count()

    def write(self, http: httpx.Client, lane: int, number: int) -> httpx.Response:
        """The lane's write `number`: mostly posts, replacements, and one delete in five.

        Raises httpx.TransportError, after which the product may be as before or as written.
        """
        product_id = f"{lane}-{number % _A_LANE}"
        goes = number % 5 == 4 and self._known.get(product_id) is not None
        title = None if goes else f"word {next(self._words)}"
        states = self._unsure.setdefault(product_id, {self._known.get(product_id)})
        states.add(title)
        response = self._send(http, product_id, title, number)
        if response.status_code in _TAKEN:
            self._known[product_id] = title
            del self._unsure[product_id]
            self.acknowledged += 1
        return response

    def write_until(self, url: str, lane: int, stop: Callable[[], bool]) -> None:
        """Writes one after the other until `stop`, or until the service is gone."""
        with httpx.Client(base_url=url, timeout=60, trust_env=False) as http:
            try:
                for number in itertools.count():
                    if stop():
                        return
                    self.write(http, lane, number)
            except httpx.TransportError:
                return

    def write_some(self, http: httpx.Client, lane: int, numbers: range) -> list[Written]:
        answers = []
        for number in numbers:
            started = time.monotonic()
            response = self.write(http, lane, number)
            seconds = time.monotonic() - started
            answers.append(Written(response.request.method, response.status_code, seconds))
        return answers

    def check(self, client: Client) -> tuple[list[str], list[str]]:
        """Products that were lost or are stale, and those that the index has wrong.

        Afterwards what is there is what is known.
        """
        present = self._present(client)
        lost = [
            f"{product_id}: {present.get(product_id)} is none of {allowed}"
            for product_id in sorted({*self._known, *self._unsure, *present})
            if present.get(product_id)
            not in (allowed := self._unsure.get(product_id, {self._known.get(product_id)}))
        ]
        self._known, self._unsure = dict(present), {}
        return lost, self._wrong(client, present)

    def agrees(self, client: Client) -> bool:
        """Whether the index has just what is there."""
        return not self._wrong(client, self._present(client))

    def _present(self, client: Client) -> dict[str, Title]:
        """What the catalogue says, by product."""
        if not (self._known or self._unsure):
            return {}
        listed = list(client.products(self.shop_id))
        present: dict[str, Title] = {product["product_id"]: product["title"] for product in listed}
        assert len(present) == len(listed), "a product is listed twice"
        return present

    def _wrong(self, client: Client, present: dict[str, Title]) -> list[str]:
        if not present:
            return []
        answer = client.recognize_frames(self.shop_id, [PICTURES[0]], top_k=100)
        found = {c["product_id"]: c["title"] for c in answer["candidates"]}
        return [
            f"{product_id}: {found.get(product_id)} is found, {present.get(product_id)} is there"
            for product_id in sorted({*found, *present})
            if found.get(product_id) != present.get(product_id)
        ]

    def _send(
        self, http: httpx.Client, product_id: str, title: Title, number: int
    ) -> httpx.Response:
        if title is None:
            return http.delete(f"/gallery/{self.shop_id}/{product_id}")
        return http.post(
            "/gallery",
            data={"shop_id": self.shop_id, "product_id": product_id, "title": title},
            files={"images": PICTURES[number % len(PICTURES)]},
        )


def told(written: Sequence[Written]) -> str:
    """How often each method got which status, and the longest it took."""
    counts = Counter(f"{write.method} {write.status}" for write in written)
    slowest = max(write.seconds for write in written)
    return (
        f"{', '.join(f'{count} x {what}' for what, count in counts.items())} in <= {slowest:.2f} s"
    )
