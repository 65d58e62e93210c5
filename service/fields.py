"""What a caller may write in a field, and how one that is wrong is told.

For forms, addresses and batches alike; knows nothing of how a field came here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field

from service.errors import BadInputError, MetadataTooLargeError

MAX_IMAGES = 64  # of a product
MAX_METADATA_BYTES = 16_384
MAX_METADATA_LEVELS = 32  # what reads a record again gives up on deep ones long before Python does

# For readers of the documentation, as regular expressions of JSON Schema: no other characters, no
# separators but the space. What is checked is said below in words.
_PRINTABLE = r"^(?:[^\p{C}\p{Z}]| )*$"
_ADDRESSABLE = r"^(?!\.{1,2}$)(?:[^/\p{C}\p{Z}]| )+$"


def _plain(text: str) -> str:
    if not text.isprintable():
        raise ValueError("must have no control characters")
    return text


def _addressable(identifier: str) -> str:
    if "/" in identifier or identifier in (".", ".."):
        raise ValueError('must not be "." or ".." and have no "/", for it is part of addresses')
    return identifier


def parse_json(text: str | bytes | bytearray) -> object:
    """As the standard has it: NaN and Infinity are Python's, not JSON's.

    Raises ValueError, and RecursionError for what is nested too deeply to read.
    """
    return json.loads(text, parse_constant=_no_constant)


def check_writable(value: object) -> int:
    """Bytes of `value` as JSON.

    Raises ValueError for what can be read but not written again: a number that became infinite, a
    lone surrogate; and RecursionError.
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return len(text.encode())


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _from_text(text: object) -> object:
    if not isinstance(text, str):
        return text
    try:
        return parse_json(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"must be a JSON object ({error})") from error


def _keepable(metadata: object) -> object:
    try:
        length = check_writable(metadata)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"must be a JSON object ({error})") from error
    if _is_deeper(metadata, MAX_METADATA_LEVELS):
        raise ValueError(f"has more than {MAX_METADATA_LEVELS} levels of objects and lists")
    if length > MAX_METADATA_BYTES:
        raise MetadataTooLargeError(
            f"metadata has at most {MAX_METADATA_BYTES} bytes", pointer="/metadata"
        )
    return metadata


def _is_deeper(value: object, levels: int) -> bool:
    if not isinstance(value, dict | list):
        return False
    inner = value.values() if isinstance(value, dict) else value
    return levels == 0 or any(_is_deeper(one, levels - 1) for one in inner)


Identifier = Annotated[
    str,
    Field(
        min_length=1,
        max_length=128,
        description="printable characters, no slash",
        json_schema_extra={"pattern": _ADDRESSABLE},
    ),
    AfterValidator(_plain),
    AfterValidator(_addressable),
]
Title = Annotated[
    str, Field(max_length=500, json_schema_extra={"pattern": _PRINTABLE}), AfterValidator(_plain)
]
Metadata = Annotated[
    dict[str, Any],
    BeforeValidator(_keepable),  # before, for pydantic points at keys, and a key may be at fault
    Field(
        description=f"a JSON object of at most {MAX_METADATA_BYTES} bytes, "
        f"{MAX_METADATA_LEVELS} levels deep"
    ),
]
MetadataText = Annotated[Metadata, BeforeValidator(_from_text)]  # as a form has it


_PLAINER = {"missing": "is required", "extra_forbidden": "there is no such field"}


def validation_error(errors: Sequence[Mapping[str, Any]]) -> BadInputError:
    """Pydantic's findings as one of ours; the first one is pointed at."""
    detail = "; ".join(f"{_pointer(error['loc']) or '/'}: {_message(error)}" for error in errors)
    return BadInputError(detail, pointer=_pointer(errors[0]["loc"]) if errors else None)


def _message(error: Mapping[str, Any]) -> str:
    message = str(error["msg"]).removeprefix("Value error, ")  # what pydantic puts before our words
    return _PLAINER.get(error["type"], message)


def _pointer(location: Sequence[int | str]) -> str:
    escaped = (str(part).replace("~", "~0").replace("/", "~1") for part in location)
    return "".join(f"/{part}" for part in escaped)
