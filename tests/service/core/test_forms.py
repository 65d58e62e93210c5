"""Bodies while they arrive: what is large lies in the folder that is named for it."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import Request

from service.api.forms import read_form
from service.api.recognize import RecognizeFields
from service.errors import NoRoomError

LARGE = 3_000_000  # more than is kept in memory
HEAD = b'--b\r\nContent-Disposition: form-data; name="%s"%s\r\n\r\n'


def read(folder: Path) -> int:
    """The size of a large clip that was taken in."""
    fields = HEAD % (b"shop_id", b"") + b"s\r\n"
    clip = HEAD % (b"clip", b'; filename="x"') + bytes(LARGE) + b"\r\n--b--\r\n"
    chunks = iter([(fields + clip, True), (b"", False)])
    scope: dict[str, Any] = {
        "type": "http",
        "method": "POST",
        "headers": [(b"content-type", b"multipart/form-data; boundary=b")],
    }

    async def receive() -> Any:
        body, more = next(chunks)
        return {"type": "http.request", "body": body, "more_body": more}

    form = asyncio.run(read_form(Request(scope, receive), RecognizeFields, {"clip": 1}, 9, folder))
    return len(form.files["clip"][0])


def test_a_large_clip_needs_no_room_in_the_temporary_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    assert read(tmp_path) == LARGE


def test_no_room_for_a_body_is_not_the_catalogues_storage(tmp_path: Path) -> None:
    with pytest.raises(NoRoomError, match="cannot be taken in") as refused:
        read(tmp_path / "nowhere")
    assert refused.value.status == 503
