"""What is only read has threads of its own, and a bound."""

from __future__ import annotations

import asyncio
import threading
from types import SimpleNamespace
from typing import Any

import pytest

from service.admission import Admission, House
from service.api.jobs import get_job, list_jobs
from service.api.state import looked_up
from service.errors import OverloadedError
from service.telemetry import Telemetry


@pytest.fixture
def request_() -> Any:
    """Of a service that lets one be read at a time."""
    reads = Admission("read", Telemetry(), House(1), most=1, threads=1, waiting=0)
    state = SimpleNamespace(service=SimpleNamespace(reads=reads, parts=SimpleNamespace()))
    return SimpleNamespace(app=SimpleNamespace(state=state))


def test_it_is_read_on_a_thread_of_the_readers(request_: Any) -> None:
    name = asyncio.run(looked_up(request_, lambda _: threading.current_thread().name))
    assert name.startswith("lpr-read")


def test_jobs_count_among_what_is_read(request_: Any) -> None:
    """A job of 10,000 items is hundreds of looks at an object store."""
    with request_.app.state.service.reads.admit():
        with pytest.raises(OverloadedError):
            asyncio.run(get_job(request_, SimpleNamespace(), "a job"))  # type: ignore[arg-type]
        with pytest.raises(OverloadedError):
            asyncio.run(list_jobs(request_, SimpleNamespace(), "dead"))  # type: ignore[arg-type]
