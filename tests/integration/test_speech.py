"""What is said in a clip, over HTTP: it finds a product that is not to be seen."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from service.client import Client, ProblemError
from service.launch import running_service
from tests.integration.material import picture

TITLES = {"tea": "green tea", "juice": "Красный сок 1 л", "milk": "香蕉牛奶", "none": None}
MOST = {"characters": 4000, "tokens": 12, "kept": "the beginning"}


@pytest.fixture(scope="module")
def client(reading_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    data_dir = tmp_path_factory.mktemp("reading")
    with running_service(data_dir, LPR_BUNDLE=reading_bundle, LPR_DRAIN_S=0) as client:
        for product_id, title in TITLES.items():
            client.put_product("shop", product_id, [picture(1)], title=title)
        yield client


def recognized(client: Client, speech: str | None) -> list[dict[str, object]]:
    blocked = picture(2)
    fields = {"shop_id": "shop"} | ({} if speech is None else {"speech": speech})
    with httpx.Client(base_url=client.base_url, trust_env=False, timeout=60) as http:
        answer = http.post("/recognize", data=fields, files={"frames": ("f.jpg", blocked)})
    assert answer.status_code == 200, answer.text
    candidates: list[dict[str, object]] = answer.json()["candidates"]
    return candidates


@pytest.mark.parametrize("product_id", ["tea", "juice", "milk"])
def test_a_product_out_of_sight_is_found_by_what_is_said(client: Client, product_id: str) -> None:
    title = TITLES[product_id]
    assert title is not None
    first, *rest = recognized(client, title.upper())
    assert first["product_id"] == product_id
    assert first["scores"]["text"] == pytest.approx(2.0, abs=1e-3), "as a whole, and each word"
    [untitled] = [one for one in rest if one["product_id"] == "none"]
    assert untitled["scores"]["text"] == 0


@pytest.mark.parametrize("speech", [None, "", " \n "])
def test_nothing_said_scores_nothing(client: Client, speech: str | None) -> None:
    silent = recognized(client, None)
    assert all(one["scores"]["text"] is None for one in silent)
    assert recognized(client, speech) == silent


def test_speech_of_any_length_is_answered(client: Client) -> None:
    assert recognized(client, "green tea " * 5_000)[0]["product_id"] is not None


def test_a_new_title_is_heard_at_once(client: Client) -> None:
    client.put_product("shop", "none", [picture(1)], title="salted bread")
    assert recognized(client, "salted bread")[0]["product_id"] == "none"
    client.put_product("shop", "none", [picture(1)], title=None)


def test_info_tells_how_much_is_read(client: Client) -> None:
    with httpx.Client(base_url=client.base_url, trust_env=False, timeout=60) as http:
        assert http.get("/info").json()["bundle"]["text"] == MOST


def test_a_bundle_that_reads_nothing_refuses_speech(
    client: Client, tiny_bundle: Path, tmp_path: Path
) -> None:
    with running_service(tmp_path, LPR_BUNDLE=tiny_bundle, LPR_DRAIN_S=0) as other:
        with pytest.raises(ProblemError, match="text encoder"):
            other.recognize("shop", picture(2), speech="tea")
        assert other.info()["bundle"]["text"] is None
