"""Fetches pictures by their URLs, from listed hosts only, and never from inside the network.

A listed name proves nothing: it may resolve to this machine or its neighbours, today or on the
second look. So the address is resolved once, judged, and that very address is connected to; a
redirect is judged like the first URL.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import anyio.to_thread
import httpx

from service import deadlines
from service.errors import BadInputError, UrlFetchError, UrlNotAllowedError
from service.settings import ImageUrlSettings

_MOST_REDIRECTS = 3
# IPv6 addresses that stand for IPv4 ones, private ones among them: NAT64, 6to4, Teredo.
_TRANSLATED = tuple(map(ip_network, ("64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "2001::/32")))

_Address = IPv4Address | IPv6Address


class RemoteImages:
    """Safe to share between threads."""

    def __init__(self, settings: ImageUrlSettings) -> None:
        self._settings = settings

    def fetch(self, urls: Sequence[str]) -> tuple[bytes, ...]:
        """The bytes behind each of `urls`, in their order; blocking.

        Raises UrlNotAllowedError and UrlFetchError that point at `/images/<place>`, and what
        `deadlines.check` raises.
        """
        return asyncio.run(self._fetch(urls))

    async def _fetch(self, urls: Sequence[str]) -> tuple[bytes, ...]:
        timeout_s = deadlines.timeout_s(self._settings.timeout_s)
        pictures: list[bytes] = []
        room = self._settings.max_bytes
        try:
            # One bound on all of it, for a timeout of httpx begins anew with each byte.
            async with asyncio.timeout(timeout_s), _client() as client:
                for url in urls:
                    pictures.append(await self._follow(client, url, room))
                    room -= len(pictures[-1])
        except TimeoutError as error:
            deadlines.check()
            raise UrlFetchError(
                f"the pictures did not arrive within {timeout_s:g} s",
                pointer=f"/images/{len(pictures)}",
            ) from error
        except BadInputError as error:
            error.pointer = f"/images/{len(pictures)}"
            raise
        return tuple(pictures)

    async def _follow(self, client: httpx.AsyncClient, address: str, room: int) -> bytes:
        url = _parsed(address)
        for _ in range(1 + _MOST_REDIRECTS):
            request = self._pinned(client, url, await self._resolve(url))
            try:
                response = await client.send(request, stream=True)
                try:
                    if not response.has_redirect_location:
                        return await _body(response, room)
                finally:
                    await response.aclose()
            except httpx.HTTPError as error:
                raise UrlFetchError(f"the picture could not be fetched: {error}") from error
            url = _parsed(response.headers["location"], url)
        raise UrlFetchError(f"the address redirects more than {_MOST_REDIRECTS} times")

    async def _resolve(self, url: httpx.URL) -> _Address:
        """The one address to connect to; every address of the host must be allowed."""
        if url.scheme not in ("http", "https") or url.userinfo:
            raise UrlNotAllowedError("only plain http and https addresses are fetched")
        if url.netloc.decode() not in self._settings.hosts:
            raise UrlNotAllowedError(
                f"pictures are not fetched from {url.netloc.decode()!r}: send the files, or "
                "have the operator list that host"
            )
        try:
            # Given up in time: a loop's own resolver is waited for when the loop ends.
            addresses = await anyio.to_thread.run_sync(_addresses, url, abandon_on_cancel=True)
        except OSError as error:
            raise UrlFetchError(f"{url.host!r} has no address") from error
        if not all(self._is_allowed(address) for address in addresses):
            raise UrlNotAllowedError(f"{url.host!r} lies in a network that is not fetched from")
        return addresses[0]

    def _is_allowed(self, address: _Address) -> bool:
        if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
            return self._is_allowed(address.ipv4_mapped)
        if any(address in network for network in self._settings.networks):
            return True
        translated = any(address in network for network in _TRANSLATED)
        return address.is_global and not address.is_multicast and not translated

    def _pinned(
        self, client: httpx.AsyncClient, url: httpx.URL, address: _Address
    ) -> httpx.Request:
        """A request to that very address; the certificate is still asked for the host's name."""
        return client.build_request(
            "GET",
            url.copy_with(host=str(address)),
            headers={"host": url.netloc.decode(), "accept-encoding": "identity"},
            extensions={"sni_hostname": url.host},
        )


def _client() -> httpx.AsyncClient:
    # Two listed hosts may share an address, but not a connection that one of them proved itself on.
    limits = httpx.Limits(max_keepalive_connections=0)
    return httpx.AsyncClient(trust_env=False, follow_redirects=False, limits=limits)


def _parsed(address: str, base: httpx.URL | None = None) -> httpx.URL:
    try:
        return httpx.URL(address) if base is None else base.join(address)
    except httpx.InvalidURL as error:
        raise UrlNotAllowedError(f"the address cannot be read: {error}") from error


def _addresses(url: httpx.URL) -> list[_Address]:
    found = socket.getaddrinfo(url.host, url.port, type=socket.SOCK_STREAM)
    return [ip_address(entry[4][0]) for entry in found]


async def _body(response: httpx.Response, room: int) -> bytes:
    if response.status_code != httpx.codes.OK:
        raise UrlFetchError(f"the picture's host answered with status {response.status_code}")
    body = bytearray()
    async for chunk in response.aiter_raw():
        body += chunk
        if len(body) > room:
            raise UrlFetchError("the pictures are too large together")
    return bytes(body)
