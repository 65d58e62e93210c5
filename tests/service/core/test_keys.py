from __future__ import annotations

import json
import logging
import stat
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from service.cli import app
from service.errors import ForbiddenError, KeysError, ShopNotFoundError, UnauthorizedError
from service.keys import ANYONE, Key, KeyRing, Right, create_key, read_keys, revoke_key


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys" / "keys.json"


def made(file: Path, **given: Any) -> tuple[Key, str]:
    return create_key(
        file, **{"name": "somebody", "shops": "all", "rights": [Right.RECOGNIZE]} | given
    )


class TestSecrets:
    def test_the_secret_opens_and_is_kept_nowhere(self, file: Path) -> None:
        key, secret = made(file)
        assert KeyRing(file, expected=True).grant(secret) == key
        kept = file.read_text()
        assert secret not in kept
        assert secret.rsplit("_", 1)[1] not in kept

    def test_no_two_are_alike_and_each_has_256_random_bits(self, file: Path) -> None:
        secrets = {made(file)[1] for _ in range(20)}
        assert len(secrets) == 20
        assert {len(secret.removeprefix("lpr_")[13:]) for secret in secrets} == {43}

    def test_what_is_not_a_secret_opens_nothing(self, file: Path) -> None:
        key, secret = made(file)
        other, others_secret = made(file)
        ring = KeyRing(file, expected=True)
        wrong = [
            "",
            "x",
            key.sha256,
            secret[:-1],
            secret + "x",
            secret + "\n",
            secret.upper(),
            secret.replace(key.key_id, other.key_id),
            others_secret[:17] + secret[17:],
            secret.replace(key.key_id, "0" * 12),
            "lpr_é" + secret,
        ]
        for guess in wrong:
            with pytest.raises(UnauthorizedError, match="not known"):
                ring.grant(guess)
        with pytest.raises(UnauthorizedError, match="send a key"):
            ring.grant(None)

    def test_a_key_expires(self, file: Path) -> None:
        _, fresh = made(file, expires_at=datetime.now(UTC) + timedelta(hours=1))
        _, stale = made(file, expires_at=datetime.now(UTC) - timedelta(seconds=1))
        ring = KeyRing(file, expected=True)
        ring.grant(fresh)
        with pytest.raises(UnauthorizedError, match="expired"):
            ring.grant(stale)


class TestGrants:
    def test_a_right_is_one_of_those_asked_for(self, file: Path) -> None:
        key, _ = made(file, rights=[Right.INDEX])
        key.check_right(Right.RECOGNIZE, Right.INDEX)
        with pytest.raises(ForbiddenError, match="`recognize`"):
            key.check_right(Right.RECOGNIZE)

    def test_anothers_shop_looks_absent(self, file: Path) -> None:
        key, _ = made(file, shops=["a", "b"])
        key.check_shop("b")
        with pytest.raises(ShopNotFoundError) as caught:
            key.check_shop("c")
        assert caught.value.detail == ShopNotFoundError("c").detail

    def test_a_shop_called_all_is_a_shop(self, file: Path) -> None:
        key, _ = made(file, shops=["all"])
        key.check_shop("all")
        with pytest.raises(ShopNotFoundError):
            key.check_shop("a")

    @pytest.mark.parametrize(
        ("given", "said"),
        [
            ({"shops": ["a"], "rights": [Right.ADMIN]}, "admin"),
            ({"rights": []}, "at least 1"),
            ({"name": ""}, "at least 1"),
        ],
    )
    def test_a_key_that_makes_no_sense_is_not_made(
        self, file: Path, given: dict[str, Any], said: str
    ) -> None:
        with pytest.raises(KeysError, match=said):
            made(file, **given)
        assert not file.exists()


class TestTheFile:
    def test_without_it_nobody_needs_a_key_and_with_it_everybody_does(self, file: Path) -> None:
        ring = KeyRing(file, expected=False)
        assert ring.grant(None) is ANYONE
        key, secret = made(file)
        assert ring.required
        with pytest.raises(UnauthorizedError):
            ring.grant(None)
        assert ring.grant(secret) == key

    def test_keys_come_and_go_without_a_restart(self, file: Path) -> None:
        key, secret = made(file)
        ring = KeyRing(file, expected=True)
        another, anothers_secret = made(file)
        assert ring.grant(anothers_secret) == another
        revoke_key(file, key.key_id)
        with pytest.raises(UnauthorizedError):
            ring.grant(secret)
        revoke_key(file, another.key_id)
        assert ring.required, "the last key's going opens no door"
        with pytest.raises(UnauthorizedError):
            ring.grant(anothers_secret)

    @pytest.mark.parametrize("content", [None, "", "{", '{"keys": [{"key_id": "x"}]}', "[]"])
    def test_one_that_breaks_leaves_the_keys_as_they_were(
        self, file: Path, content: str | None, caplog: pytest.LogCaptureFixture
    ) -> None:
        key, secret = made(file)
        ring = KeyRing(file, expected=True)
        file.unlink()
        if content is not None:
            file.write_text(content)
        with caplog.at_level(logging.ERROR):
            for _ in range(3):
                assert ring.grant(secret) == key
                with pytest.raises(UnauthorizedError):
                    ring.grant(None)
        assert len(caplog.records) == 1, "told once, not at each request"
        assert str(file) in caplog.text

    def test_the_first_one_shuts_the_door_even_where_it_cannot_be_read(self, file: Path) -> None:
        ring = KeyRing(file, expected=False)
        assert ring.grant(None) is ANYONE
        file.parent.mkdir(exist_ok=True)
        file.write_text("{")
        assert ring.required
        with pytest.raises(UnauthorizedError):
            ring.grant(None)
        file.unlink()
        key, secret = made(file)
        assert ring.grant(secret) == key

    def test_one_that_is_broken_or_missing_lets_nothing_start(self, file: Path) -> None:
        with pytest.raises(KeysError, match="No such file"):
            KeyRing(file, expected=True)
        made(file)
        document = json.loads(file.read_text())
        document["keys"] *= 2
        file.write_text(json.dumps(document))
        with pytest.raises(KeysError, match="the same id"):
            KeyRing(file, expected=False)

    def test_changes_at_once_are_all_kept(self, file: Path) -> None:
        with ThreadPoolExecutor(8) as pool:
            keys = {key.key_id for key, _ in pool.map(lambda _: made(file), range(24))}
        assert {key.key_id for key in read_keys(file)} == keys
        assert [path.name for path in file.parent.iterdir()] == ["keys.json"]

    def test_it_is_the_owners_and_stays_for_whom_it_was(self, file: Path) -> None:
        made(file)
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        file.chmod(0o640)
        made(file)
        assert stat.S_IMODE(file.stat().st_mode) == 0o640

    def test_a_key_that_is_not_there_cannot_be_revoked(self, file: Path) -> None:
        made(file)
        with pytest.raises(KeysError, match="no key 'x'"):
            revoke_key(file, "x")


class TestCommands:
    def lpr(self, *arguments: object) -> Result:
        return CliRunner().invoke(app, ["keys", *map(str, arguments)])

    def test_a_key_is_made_listed_and_revoked(self, tmp_path: Path) -> None:
        where = ("--data-dir", tmp_path)
        done = self.lpr(
            *("create", "--name", "console [of a]", "--shop", "a", "--shop", "b", *where),
            *("--right", "index", "--right", "recognize", "--days", "30"),
        )
        assert done.exit_code == 0, done.output
        secret = done.stdout.strip()
        key = KeyRing(tmp_path / "keys.json", expected=True).grant(secret)
        assert (key.name, key.shops) == ("console [of a]", ("a", "b"))
        assert set(key.rights) == {Right.INDEX, Right.RECOGNIZE}
        listed = self.lpr("list", *where).stdout
        assert key.key_id in listed
        assert secret not in listed
        assert self.lpr("revoke", key.key_id, *where).exit_code == 0
        assert key.key_id not in self.lpr("list", *where).stdout

    @pytest.mark.parametrize("shops", [(), ("--shop", "a", "--all-shops")])
    def test_the_shops_are_said_on_purpose(self, tmp_path: Path, shops: tuple[str, ...]) -> None:
        done = self.lpr("create", "--name", "n", "--data-dir", tmp_path, *shops)
        assert done.exit_code == 1
        assert "which shops" in done.stderr

    def test_what_cannot_be_is_said_plainly(self, tmp_path: Path) -> None:
        done = self.lpr("revoke", "x", "--data-dir", tmp_path)
        assert done.exit_code == 1
        assert "Traceback" not in done.output

    def test_before_the_first_key_there_are_none(self, tmp_path: Path) -> None:
        done = self.lpr("list", "--data-dir", tmp_path)
        assert done.exit_code == 0
        assert "There are no keys yet" in done.stdout

    @pytest.mark.parametrize("shop_id", ["a/b", "", "..", "a\nb", "x" * 129])
    def test_no_key_is_made_for_a_shop_that_cannot_be(self, tmp_path: Path, shop_id: str) -> None:
        done = self.lpr("create", "--name", "n", "--data-dir", tmp_path, "--shop", shop_id)
        assert done.exit_code == 1
        assert f"{shop_id!r} is no shop's id: " in done.stderr
        assert not (tmp_path / "keys.json").exists()
