"""The service as seen from Python: a small synchronous HTTP client.

Knows the REST face and its problem documents; knows nothing of the service's inside. `lpr index`,
`lpr recognize`, the demo and the tests speak to the service through it.
"""

from __future__ import annotations

import ipaddress
import json
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

import httpx

JSON = dict[str, Any]

_BUNDLE_S = 300.0  # to verify and load one
_BUSY = {
    httpx.codes.TOO_MANY_REQUESTS,
    httpx.codes.SERVICE_UNAVAILABLE,
    httpx.codes.GATEWAY_TIMEOUT,
}


class ClientError(Exception):
    """Base of what can go wrong between here and the service."""


class ServiceUnreachableError(ClientError):
    """Nothing answers HTTP at the address."""


class ServiceNotReadyError(ClientError):
    """The service answers, but did not become ready in time."""


class JobUnfinishedError(ClientError):
    """What was asked for is stored, and will be searchable; but not in the time there was."""


class ProblemError(ClientError):
    """The service answered with a problem document (RFC 9457)."""

    def __init__(self, status: int, problem: JSON) -> None:
        self.status = status
        self.slug = str(problem.get("type", "about:blank")).rsplit("/", 1)[-1]
        self.detail = str(problem.get("detail") or problem.get("title") or f"status {status}")
        self.problem = problem
        super().__init__(f"{self.detail} [{status} {self.slug}]")


class KeyRefusedError(ProblemError):
    """No key was sent, or one that does not allow what was asked."""


class Client:
    """One service; safe to share between threads.

    A service that is busy (429, 503, 504) is asked again as its `Retry-After` says, for
    `patience_s` in all.
    """

    def __init__(
        self,
        base_url: str,
        *,
        key: str | None = None,
        timeout_s: float = 60.0,
        patience_s: float = 30.0,
    ) -> None:
        """`base_url`: http where it says nothing else; `key`: the secret of a key, where the
        service asks for one. Raises ClientError for a key that cannot be sent."""
        if key and not (key.isascii() and key.isprintable() and " " not in key):
            raise ClientError("a key is visible ASCII characters only, and this one has others")
        self.base_url = (base_url if "://" in base_url else f"http://{base_url}").rstrip("/")
        self._patience_s = patience_s
        self._http = httpx.Client(
            base_url=self.base_url,
            headers={"authorization": f"Bearer {key}"} if key else {},
            timeout=httpx.Timeout(timeout_s, connect=5.0),
            # A proxy of the environment never leads to this machine itself.
            trust_env=not _is_loopback(httpx.URL(self.base_url).host),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def put_product(
        self,
        shop_id: str,
        product_id: str,
        images: Sequence[bytes | Path],
        title: str | None = None,
        metadata: JSON | None = None,
    ) -> JSON:
        """Store or replace a product; when this returns, it is durable and searchable.

        Also where the service says that it will be so later: its job is waited for, for
        `patience_s`. Raises JobUnfinishedError if that is not enough.
        """
        fields = {"shop_id": shop_id, "product_id": product_id}
        if title is not None:
            fields["title"] = title
        if metadata is not None:
            fields["metadata"] = json.dumps(metadata)
        answer = self._json("POST", "/gallery", data=fields, files=_parts("images", images))
        if "job_id" not in answer:
            return answer
        (item,) = self.wait_job(answer["job_id"], self._patience_s)["items"]
        if item["error"] is not None:
            raise ProblemError(httpx.codes.ACCEPTED, item["error"])
        return self.product(shop_id, product_id)

    def job(self, job_id: str) -> JSON:
        """A job, with the first of its items."""
        return self._json("GET", _path("jobs", job_id))

    def wait_job(self, job_id: str, timeout_s: float) -> JSON:
        """The job once it has ended. Raises JobUnfinishedError after `timeout_s`."""
        deadline, pause_s = time.monotonic() + timeout_s, 0.1
        while True:
            job = self.job(job_id)
            if job["ended_at"] is not None:
                return job
            if time.monotonic() >= deadline:
                raise JobUnfinishedError(f"job {job_id} is not done yet: {job['summary']}")
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, 1.0)  # a long job is read often enough

    def recognize(
        self,
        shop_id: str,
        clip: bytes | Path,
        top_k: int = 5,
        explain: bool = False,
        speech: str | None = None,
        *,
        detect: bool = True,
    ) -> JSON:
        """The answer of `POST /recognize` for a video file, and what is said in it."""
        fields = _recognize_fields(shop_id, top_k, explain, detect)
        said = {} if speech is None else {"speech": speech}
        return self._recognize("clip", [clip], fields | said)

    def recognize_frames(
        self,
        shop_id: str,
        frames: Sequence[bytes | Path],
        top_k: int = 5,
        explain: bool = False,
        *,
        detect: bool = True,
    ) -> JSON:
        """The answer of `POST /recognize` for pictures in the order they were filmed."""
        fields = _recognize_fields(shop_id, top_k, explain, detect)
        return self._recognize("frames", frames, fields)

    def products(self, shop_id: str, *, page_size: int = 100) -> Iterable[JSON]:
        """All products of a shop, page by page."""
        cursor: str | None = None
        while True:
            params = {"limit": str(page_size)} | ({"after": cursor} if cursor else {})
            page = self._json("GET", _path("gallery", shop_id), params=params)
            yield from page["products"]
            cursor = page["next"]
            if cursor is None:
                return

    def product(self, shop_id: str, product_id: str) -> JSON:
        return self._json("GET", _path("gallery", shop_id, product_id))

    def delete_product(self, shop_id: str, product_id: str) -> None:
        self._send("DELETE", _path("gallery", shop_id, product_id))

    def delete_shop(self, shop_id: str) -> None:
        self._send("DELETE", _path("gallery", shop_id))

    def bundles(self) -> JSON:
        """The answer of `GET /bundles`: which there are, and what each is for."""
        return self._json("GET", "/bundles")

    def activate_bundle(self, bundle_id: str) -> JSON:
        """Begin to serve another bundle; `bundles` tells when it does."""
        return self._json("POST", _path("bundles", bundle_id, "activate"), timeout=_BUNDLE_S)

    def go_back_a_bundle(self) -> JSON:
        return self._json("POST", "/bundles/back", timeout=_BUNDLE_S)

    def drop_bundle(self, bundle_id: str) -> None:
        self._send("DELETE", _path("bundles", bundle_id))

    def info(self) -> JSON:
        return self._json("GET", "/info")

    def is_ready(self) -> bool:
        """Whether `/readyz` says yes now; False also where nothing answers."""
        try:
            return self._http.get("/readyz").is_success
        except httpx.TransportError:
            return False

    def wait_ready(self, timeout_s: float) -> None:
        """Return once the service is ready.

        Raises ServiceUnreachableError if nothing answered within `timeout_s`, ServiceNotReadyError
        if something did but was not ready.
        """
        deadline = time.monotonic() + timeout_s
        failure: ClientError = ServiceUnreachableError(self._unreachable())
        while True:
            try:
                response = self._http.get("/readyz")
                if response.is_success:
                    return
                failure = ServiceNotReadyError(
                    f"{self.base_url} is not ready: {_problem(response).detail}"
                )
            except httpx.TransportError:
                failure = ServiceUnreachableError(self._unreachable())
            if time.monotonic() >= deadline:
                raise failure
            time.sleep(0.1)

    def _recognize(self, field: str, files: Sequence[bytes | Path], fields: dict[str, str]) -> JSON:
        return self._json("POST", "/recognize", data=fields, files=_parts(field, files))

    def _json(self, method: str, path: str, **request: Any) -> JSON:
        body: JSON = self._send(method, path, **request).json()
        return body

    def _send(self, method: str, path: str, **request: Any) -> httpx.Response:
        deadline = time.monotonic() + self._patience_s
        repeated = False
        while True:
            try:
                response = self._http.request(method, path, **request)
            except httpx.ConnectError as error:
                raise ServiceUnreachableError(self._unreachable()) from error
            except httpx.TransportError as error:
                raise ServiceUnreachableError(
                    f"{self.base_url} did not finish its answer: {error or type(error).__name__}"
                ) from error
            # A delete that failed half way is done in the end: what it asked for is not there.
            done = repeated and method == "DELETE" and response.status_code == httpx.codes.NOT_FOUND
            if response.is_success or done:
                return response
            pause_s = _retry_after_s(response)
            if response.status_code not in _BUSY or time.monotonic() + pause_s > deadline:
                raise _problem(response)
            time.sleep(pause_s)
            repeated = True

    def _unreachable(self) -> str:
        return f"no service answers at {self.base_url}; is `lpr serve` running there?"


def _parts(field: str, files: Sequence[bytes | Path]) -> list[tuple[str, tuple[str, bytes]]]:
    """Multipart file parts; the bytes are kept, so that a busy service can be asked again."""
    return [
        (field, (file.name, file.read_bytes()) if isinstance(file, Path) else (f"{i}", file))
        for i, file in enumerate(files)
    ]


def _recognize_fields(shop_id: str, top_k: int, explain: bool, detect: bool) -> dict[str, str]:
    return {
        "shop_id": shop_id,
        "top_k": str(top_k),
        "explain": "true" if explain else "false",
        "detect": "true" if detect else "false",
    }


def _path(*segments: str) -> str:
    return "/" + "/".join(quote(segment, safe="") for segment in segments)


def _retry_after_s(response: httpx.Response) -> float:
    try:
        return max(0.1, float(response.headers.get("retry-after", "1")))
    except ValueError:
        return 1.0


def _problem(response: httpx.Response) -> ProblemError:
    try:
        problem = response.json()
    except ValueError:
        problem = {}
    key = response.status_code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN)
    kind = KeyRefusedError if key else ProblemError
    return kind(response.status_code, problem if isinstance(problem, dict) else {})


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
