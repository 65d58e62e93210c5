from __future__ import annotations

import pytest
from pydantic import ValidationError

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


@pytest.mark.parametrize("name", ["LPR_HOTS", "LPR_MILVUS__URL", "LPR_MILVUS_URI"])
def test_a_name_that_is_no_setting_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    assert complaint(monkeypatch, **{name: "x"}) == f"{name}: there is no such setting"


def test_a_value_out_of_bounds_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    said = complaint(monkeypatch, LPR_SEARCH__CANDIDATES="4097")
    assert said.startswith("LPR_SEARCH__CANDIDATES: ")
    assert "4096" in said
