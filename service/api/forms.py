"""Reads multipart forms: every part is expected, of its kind, and within bounds, or refused.

Nothing is ignored silently: an unknown part is an error. Fields are validated by a pydantic model,
files are handed on as bytes; their names and content types are the client's and not believed.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import IO, Any, Generic, TypeVar

from pydantic import BaseModel, ValidationError
from python_multipart.exceptions import FormParserError
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from service.api.bodies import arriving, media_type
from service.errors import (
    BadInputError,
    MalformedMultipartError,
    NoRoomError,
    TooManyPartsError,
    UnsupportedMediaTypeError,
    UrlNotAllowedError,
)
from service.fields import MAX_IMAGES, validation_error

MAX_FILES = MAX_IMAGES
MAX_FIELDS = 16
MAX_FIELD_BYTES = 65_536

FieldsT = TypeVar("FieldsT", bound=BaseModel)


@dataclass(frozen=True)
class Form(Generic[FieldsT]):
    fields: FieldsT
    files: dict[str, tuple[bytes, ...]]  # by part name; a name without a file is there, and empty


async def read_form(
    request: Request,
    fields: type[FieldsT],
    files: Mapping[str, int],
    within_s: float,
    folder: Path,
) -> Form[FieldsT]:
    """The request's form; `files` names the file parts and how many of each there may be. What is
    large lies in a `folder` on disk while it arrives.

    Raises UnsupportedMediaTypeError, MalformedMultipartError, TooManyPartsError, BadInputError,
    RequestTimeoutError where the body takes longer than `within_s`, ClientLeftError, NoRoomError.
    """
    async with arriving(within_s):
        form = await _parse(request, sum(files.values()), folder)
    try:
        return Form(_fields(form, fields, files), await _files(form, files))
    finally:
        await form.close()


@dataclass(frozen=True)
class Upload(Generic[FieldsT]):
    fields: FieldsT
    file: IO[bytes]  # on disk, without a name: nobody else can open it, and no kill leaves it there


@asynccontextmanager
async def read_upload(
    request: Request, fields: type[FieldsT], name: str, within_s: float, folder: Path
) -> AsyncIterator[Upload[FieldsT]]:
    """The request's form with one file part, `name`, which may be larger than memory: it lies in a
    `folder` on disk meanwhile.

    Raises as `read_form`.
    """
    async with arriving(within_s):
        form = await _parse(request, 1, folder, at_once=True)
    try:
        values = _fields(form, fields, {name: 1})
        parts = form.getlist(name)
        if len(parts) != 1:
            raise BadInputError(f"/{name}: send it once, as a file", pointer=f"/{name}")
        (part,) = parts
        if isinstance(part, str):
            raise _no_file(name, part)
        yield Upload(values, part.file)
    finally:
        await form.close()


async def _parse(
    request: Request, most_files: int, folder: Path, *, at_once: bool = False
) -> FormData:
    if media_type(request) != "multipart/form-data":
        raise UnsupportedMediaTypeError("send the body as multipart/form-data")
    # The parser itself, for `Request.form` tells all its errors apart by prose alone.
    parser = _Parser(
        request.headers,
        request.stream(),
        max_files=most_files,
        max_fields=MAX_FIELDS,
    )
    parser.folder, parser.at_once = folder, at_once
    try:
        form = await parser.parse()
    except MultiPartException as error:
        if parser.has_too_many_parts:
            raise TooManyPartsError(
                f"this form has at most {most_files} files and {MAX_FIELDS} fields"
            ) from error
        raise MalformedMultipartError(
            f"the multipart body is malformed: {error.message}"
        ) from error
    except OSError as error:
        raise NoRoomError(f"the body cannot be taken in: {error.strerror}") from error
    except (FormParserError, UnicodeError, LookupError, ValueError) as error:
        raise MalformedMultipartError(f"the multipart body is malformed: {error}") from error
    if not parser.ended:
        await form.close()
        raise MalformedMultipartError("the multipart body ends before its last boundary")
    return form


class _Parser(MultiPartParser):
    ended = False
    folder: Path  # where files go: at once, or those that are large; /tmp may be memory
    at_once = False

    def on_headers_finished(self) -> None:
        super().on_headers_finished()
        part = self._current_part.file
        if part is not None:
            # Closed with the form.
            file = SpooledTemporaryFile(self.spool_max_size, dir=str(self.folder))  # noqa: SIM115
            if self.at_once:
                file.rollover()
            self._files_to_close_on_error.append(file)
            part.file.close()
            part.file = file  # type: ignore[assignment]

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        part = self._current_part
        if part.file is None and len(part.data) + end - start > MAX_FIELD_BYTES:
            pointer = f"/{part.field_name}"
            raise BadInputError(
                f"{pointer}: a field has at most {MAX_FIELD_BYTES} bytes; files are sent with a "
                "filename, by curl -F NAME=@FILE",
                pointer=pointer,
            )
        super().on_part_data(data, start, end)

    def on_part_end(self) -> None:
        part = self._current_part
        if part.file is None:
            _check_text(part.field_name, part.data, self._charset)
        super().on_part_end()

    def on_end(self) -> None:
        self.ended = True

    @property
    def has_too_many_parts(self) -> bool:
        return self._current_files > self.max_files or self._current_fields > self.max_fields


def _check_text(name: str, data: bytearray, charset: str) -> None:
    """The parser would take what cannot be decoded for Latin-1, and so make another text of it."""
    try:
        data.decode(charset)
    except UnicodeDecodeError as error:
        pointer = f"/{name}"
        raise MalformedMultipartError(
            f"{pointer}: is not {charset.upper()}: {error.reason}", pointer=pointer
        ) from error


def _fields(form: FormData, fields: type[FieldsT], files: Mapping[str, int]) -> FieldsT:
    values: dict[str, object] = {}
    for name, value in form.multi_items():
        if name in files:
            continue
        pointer = f"/{name}"
        if isinstance(value, UploadFile):
            raise BadInputError(
                f"{pointer}: no file is expected here, but as {' or '.join(files)}", pointer=pointer
            )
        if name in values:
            raise BadInputError(f"{pointer}: was sent twice", pointer=pointer)
        values[name] = value
    try:
        return fields.model_validate(values)
    except ValidationError as error:
        raise validation_error(error.errors(include_url=False, include_input=False)) from error


async def _files(form: FormData, files: Mapping[str, int]) -> dict[str, tuple[bytes, ...]]:
    return {name: await _read_files(name, form.getlist(name), most) for name, most in files.items()}


async def _read_files(name: str, parts: Sequence[UploadFile | str], most: int) -> tuple[bytes, ...]:
    if len(parts) > most:
        raise BadInputError(f"/{name}: at most {most} of it", pointer=f"/{name}")
    contents = []
    for part in parts:
        if isinstance(part, str):
            raise _no_file(name, part)
        contents.append(await part.read())
    return tuple(contents)


def _no_file(name: str, text: str) -> BadInputError:
    pointer = f"/{name}"
    if "://" in text:
        return UrlNotAllowedError(
            f"{pointer}: an address is not fetched here; send the file", pointer=pointer
        )
    return BadInputError(
        f"{pointer}: must be sent as a file, with a filename; by curl -F {name}=@FILE",
        pointer=pointer,
    )


def multipart_schema(
    fields: type[BaseModel], files: Mapping[str, dict[str, Any]], **rules: Any
) -> dict[str, Any]:
    """OpenAPI's `requestBody` of a form: its fields, `files` as properties by name, and `rules` of
    JSON Schema about both.
    """
    schema = fields.model_json_schema()
    properties = {name: _without_null(field) for name, field in schema["properties"].items()}
    required = [*schema.get("required", ()), *rules.pop("required", ())]
    schema |= {"properties": properties | dict(files), "required": required} | rules
    return {"required": True, "content": {"multipart/form-data": {"schema": schema}}}


def _without_null(field: dict[str, Any]) -> dict[str, Any]:
    """What may be left out of a form cannot be null there: that would be the text "null"."""
    if "anyOf" not in field:
        return field
    [kind] = [option for option in field["anyOf"] if option != {"type": "null"}]
    rest = {key: value for key, value in field.items() if key not in ("anyOf", "default")}
    return {**kind, **rest}


def file_schema(description: str) -> dict[str, Any]:
    return {"type": "string", "format": "binary", "description": description}


def files_schema(description: str) -> dict[str, Any]:
    return {
        "type": "array",
        "items": {"type": "string", "format": "binary"},
        "minItems": 1,
        "maxItems": MAX_FILES,
        "description": description,
    }
