"""Keys: who may do what, in which shops, as a file of them says that is read anew when it changes.

A secret is 256 random bits and shown once, when it is made. Only its SHA-256 is kept: nobody can
guess such a secret, so a slow hash, as passwords need, would protect nothing more. Until the file
is there nobody needs a key; from then on everybody does, also if the file goes away again: a file
that cannot be read changes nothing.

Knows nothing of HTTP.
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import logging
import os
import re
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import (
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from service.errors import ForbiddenError, KeysError, ShopNotFoundError, UnauthorizedError
from service.fields import Identifier

logger = logging.getLogger(__name__)

_SECRET = re.compile(r"lpr_([0-9a-f]{12})_[A-Za-z0-9_-]{43}")
_NOBODYS_HASH = hashlib.sha256(secrets.token_bytes(32)).hexdigest()

_SHOP_ID: TypeAdapter[str] = TypeAdapter(Identifier)


class Right(StrEnum):
    RECOGNIZE = "recognize"  # clips, and look at the products that answers name
    INDEX = "index"  # write products, and look at them
    ADMIN = "admin"  # what concerns all shops


class Grant(BaseModel):
    """What somebody may do, and under which name it is told in the log."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    key_id: str
    name: Annotated[str, Field(min_length=1, max_length=100)]
    shops: tuple[str, ...] | Literal["all"]
    rights: Annotated[tuple[Right, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _admin_is_for_all_shops(self) -> Self:
        if Right.ADMIN in self.rights and self.shops != "all":
            raise ValueError("the right `admin` concerns all shops, so its key is for all of them")
        return self

    def check_right(self, *any_of: Right) -> None:
        """Raises ForbiddenError."""
        if not set(any_of) & set(self.rights):
            wanted = " or ".join(f"`{right}`" for right in any_of)
            raise ForbiddenError(f"this needs a key with the right {wanted}")

    def check_shop(self, shop_id: str) -> None:
        """Raises ShopNotFoundError: another's shop looks absent, whether it is there or not."""
        if self.shops != "all" and shop_id not in self.shops:
            raise ShopNotFoundError(shop_id)


class Key(Grant):
    """A key as it is kept: everything but its secret."""

    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    created_at: AwareDatetime
    expires_at: AwareDatetime | None = None

    @property
    def has_expired(self) -> bool:
        return self.expires_at is not None and self.expires_at <= datetime.now(UTC)


ANYONE = Grant(key_id="none", name="anonymous", shops="all", rights=tuple(Right))


class _KeyFile(BaseModel):
    model_config = ConfigDict(extra="forbid")

    keys: tuple[Key, ...] = ()

    @model_validator(mode="after")
    def _ids_are_unique(self) -> Self:
        if len({key.key_id for key in self.keys}) < len(self.keys):
            raise ValueError("two keys have the same id")
        return self


class KeyRing:
    """The keys that are valid now. One thread at a time."""

    def __init__(self, file: Path, *, expected: bool) -> None:
        """`expected`: the file must be there. Raises KeysError."""
        self._file = file
        self._stamp = _stamp(file)
        self._keys: dict[str, Key] | None = None
        if expected or self._stamp is not None:
            self._keys = _by_id(read_keys(file))

    @property
    def required(self) -> bool:
        """Whether a key is needed at all."""
        self._refresh()
        return self._keys is not None

    def grant(self, secret: str | None) -> Grant:
        """What who brings this secret may do. Raises UnauthorizedError."""
        self._refresh()
        if self._keys is None:
            return ANYONE
        if secret is None:
            raise UnauthorizedError("send a key, as `Authorization: Bearer lpr_...`")
        key = _find(self._keys, secret)
        if key is None:
            raise UnauthorizedError("this key is not known here; it may have been revoked")
        if key.has_expired:
            raise UnauthorizedError("this key has expired; ask for a new one")
        return key

    def _refresh(self) -> None:
        stamp = _stamp(self._file)
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._keys = _by_id(read_keys(self._file))
        except KeysError as error:
            # Where none were needed: whoever made the first believes that the door is shut.
            self._keys = self._keys or {}
            logger.error("no other keys than those known so far: %s", error)
        else:
            logger.info("keys", extra={"valid": len(self._keys)})


def read_keys(file: Path) -> tuple[Key, ...]:
    """The keys in the order they were made. Raises KeysError."""
    try:
        return _KeyFile.model_validate_json(file.read_bytes()).keys
    except OSError as error:
        raise KeysError(f"the keys' file {file} cannot be read: {error.strerror}") from error
    except ValidationError as error:
        raise KeysError(f"the keys' file {file} is not valid: {_finding(error)}") from error


def create_key(
    file: Path,
    *,
    name: str,
    shops: Sequence[str] | Literal["all"],
    rights: Sequence[Right],
    expires_at: datetime | None = None,
) -> tuple[Key, str]:
    """Make a key and add it to the file; the second is its secret, which is kept nowhere.

    Raises KeysError, also for a shop that cannot be.
    """
    if shops != "all":
        for shop_id in shops:
            _check_id(shop_id)
    key_id = secrets.token_hex(6)
    secret = f"lpr_{key_id}_{secrets.token_urlsafe(32)}"
    try:
        key = Key(
            key_id=key_id,
            name=name,
            shops=shops if shops == "all" else tuple(shops),
            rights=tuple(rights),
            sha256=_sha256(secret),
            created_at=datetime.now(UTC),
            expires_at=expires_at,
        )
    except ValidationError as error:
        raise KeysError(f"such a key cannot be: {_finding(error)}") from error
    with _changing(file) as keys:
        keys.append(key)
    return key, secret


def revoke_key(file: Path, key_id: str) -> Key:
    """Take a key out of the file. Raises KeysError, also where there is no such key."""
    with _changing(file) as keys:
        for key in keys:
            if key.key_id == key_id:
                keys.remove(key)
                return key
        raise KeysError(f"there is no key {key_id!r} in {file}")


@contextmanager
def _changing(file: Path) -> Iterator[list[Key]]:
    """The file's keys, to be changed; by one process at a time, and whole or not at all."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        folder = os.open(file.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            keys = list(read_keys(file)) if file.exists() else []
            yield keys
            _replace(file, _KeyFile(keys=tuple(keys)).model_dump_json(indent=2).encode())
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise KeysError(f"the keys' file {file} cannot be changed: {error.strerror}") from error


def _replace(file: Path, data: bytes) -> None:
    temporary = file.with_name(f".{file.name}.{secrets.token_hex(8)}")
    try:
        with os.fdopen(
            os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb"
        ) as new:
            if file.exists():
                _keep_readers(file, new.fileno())
            new.write(data)
            new.flush()
            os.fsync(new.fileno())
        temporary.replace(file)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def _keep_readers(file: Path, new: int) -> None:
    """Whoever could read the file can read the new one: the service may be another user."""
    status = file.stat()
    if (status.st_uid, status.st_gid) != (os.geteuid(), os.getegid()):
        os.fchown(new, status.st_uid, status.st_gid)
    os.fchmod(new, status.st_mode & 0o777)


def _check_id(shop_id: str) -> None:
    """Of keys to be made only: one bad id in the file must not shut everyone out."""
    try:
        _SHOP_ID.validate_python(shop_id)
    except ValidationError as error:
        raise KeysError(f"{shop_id!r} is no shop's id: {_finding(error)}") from error


def _finding(error: ValidationError) -> str:
    """The first of pydantic's, where and what, without the value."""
    finding = error.errors(include_url=False, include_input=False)[0]
    where = "/".join(str(part) for part in finding["loc"])
    message = finding["msg"].removeprefix("Value error, ")  # what pydantic puts before our words
    return f"{where}: {message}" if where else message


def _stamp(file: Path) -> tuple[int, ...] | None:
    """Something else as soon as the file is another; None while there is none."""
    try:
        status = file.stat()
    except FileNotFoundError:
        return None
    except OSError as error:
        return (error.errno or 0,)
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _by_id(keys: Sequence[Key]) -> dict[str, Key]:
    return {key.key_id: key for key in keys}


def _find(keys: dict[str, Key], secret: str) -> Key | None:
    """The key of this secret. Compared in constant time, also where there is nothing to compare."""
    shape = _SECRET.fullmatch(secret)
    key = keys.get(shape[1]) if shape else None
    kept = key.sha256 if key else _NOBODYS_HASH
    return key if hmac.compare_digest(_sha256(secret), kept) else None


def _sha256(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
