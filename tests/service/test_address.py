from __future__ import annotations

import pytest

from service.server import address


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:8000"),
        ("0.0.0.0", "http://127.0.0.1:8000"),
        ("::", "http://[::1]:8000"),
        ("fe80::1", "http://[fe80::1]:8000"),
        ("shop.example", "http://shop.example:8000"),
    ],
)
def test_where_a_service_is_reached_from_its_own_machine(host: str, url: str) -> None:
    assert address(host, 8000) == url
