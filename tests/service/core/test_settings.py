from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError
from pydantic_settings import SettingsError

from service.settings import Settings, complaints


def complaint(monkeypatch: pytest.MonkeyPatch, **env: str) -> str:
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValidationError) as caught:
        Settings()
    return complaints(caught.value)


def test_the_environment_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LPR_PORT", "81")
    monkeypatch.setenv("LPR_MILVUS__URI", "http://milvus:19530")
    monkeypatch.setenv("LPRX", "not ours")
    settings = Settings()
    assert (settings.port, settings.milvus.uri) == (81, "http://milvus:19530")


NO_SETTINGS = ["LPR_HOTS", "LPR_MILVUS__URL", "LPR_MILVUS_URI", "LPR_PORT__X", "LPR_BUNDLES__X"]


@pytest.mark.parametrize("name", NO_SETTINGS)
def test_a_name_that_is_no_setting_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    assert complaint(monkeypatch, **{name: "x"}) == f"{name}: there is no such setting"


@pytest.mark.parametrize("name", NO_SETTINGS)
def test_so_is_a_file_of_that_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    (tmp_path / name).write_text("x")
    said = complaint(monkeypatch, LPR_SECRETS_DIR=str(tmp_path))
    assert said == f"{name}: there is no such setting"


def test_a_value_out_of_bounds_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    said = complaint(monkeypatch, LPR_SEARCH__CANDIDATES="4097")
    assert said.startswith("LPR_SEARCH__CANDIDATES: ")
    assert "4096" in said


@pytest.mark.parametrize(
    "name",
    ["LPR_IMAGE_URLS__HOSTS", "LPR_IMAGE_URLS__NETWORKS", "LPR_METRICS__SHOP_GROUPS", "LPR_JOBS"],
)
def test_a_list_or_group_that_is_no_json_is_told_by_name(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    said = complaint(monkeypatch, **{name: "a.b"})
    assert said.startswith(f'{name}: must be JSON: of a list ["a.b"]')


@pytest.mark.parametrize("url", ["garbage", "http://redis:6379", "redis://:hush@redis:port"])
def test_what_is_no_address_of_redis_is_refused(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    said = complaint(monkeypatch, LPR_REDIS__URL=url)
    assert said.startswith("LPR_REDIS__URL: must begin with redis://, rediss:// or unix://")
    assert "hush" not in said


def test_a_secret_may_lie_in_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "LPR_CATALOGUE__SECRET_ACCESS_KEY").write_text("hush\n")
    (tmp_path / "keys.json").write_text("{}")
    monkeypatch.setenv("LPR_SECRETS_DIR", str(tmp_path))
    monkeypatch.setenv("LPR_CATALOGUE__ACCESS_KEY_ID", "id")
    catalogue = Settings().catalogue
    assert catalogue.secret_access_key is not None
    assert catalogue.secret_access_key.get_secret_value() == "hush"
    assert catalogue.access_key_id == "id"
    assert "hush" not in repr(Settings())


def test_a_folder_of_secrets_that_is_missing_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("LPR_SECRETS_DIR", str(tmp_path / "gone"))
    with pytest.raises(SettingsError, match="gone"):
        Settings()
