"""What the service says of products and clips it was given."""

from __future__ import annotations

import json
import re
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from service.client import Client, ProblemError
from service.inference.model import Model
from service.launch import running_service
from service.media.clips import ClipDecoder
from service.media.images import decode_square
from service.settings import MediaSettings
from tests.integration.material import Shop, clip, picture

ANSWER = {
    "request_id",
    "shop_id",
    "bundle",
    "decision",
    "candidates",
    "clip",
    "search",
    "timings_ms",
}


@pytest.fixture
def shop_id(client: Client, shop: Shop) -> str:
    """A shop of its own with all made products."""
    name = f"shop {uuid.uuid4().hex}"
    for product_id, jpeg in shop.pictures.items():
        client.put_product(name, product_id, [jpeg], title=f"Title of {product_id}")
    return name


def expected_scores(model: Model, shop: Shop, mp4: bytes) -> dict[str, float]:
    """By the model alone, without the service's way of storing and finding."""
    dims = model.manifest.dims
    frames = ClipDecoder(MediaSettings()).decode(mp4, size=dims.image_size, frames=dims.frames)
    clip = model.encode_clip(frames.pixels)
    pixels = [
        decode_square(jpeg, dims.image_size, MediaSettings()).pixels
        for jpeg in shop.pictures.values()
    ]
    features = model.encode_pictures(np.stack(pixels))
    coarse, match = features.embedding @ clip.embedding, model.match(features.match_state, clip)
    return dict(zip(shop.pictures, (1.0 * coarse + 0.1 * match).tolist(), strict=True))


def test_every_clip_is_scored_as_the_model_alone_scores_it(
    client: Client, model: Model, shop: Shop, shop_id: str
) -> None:
    for mp4 in shop.clips.values():
        expected = expected_scores(model, shop, mp4)
        candidates = client.recognize(shop_id, mp4, top_k=100)["candidates"]
        assert {c["product_id"]: c["score"] for c in candidates} == pytest.approx(
            expected,
            abs=1e-3,  # match states are kept in half precision
        )
        assert {c["title"] for c in candidates} == {f"Title of {name}" for name in shop.pictures}


def test_the_answer_has_exactly_the_promised_form(
    client: Client, shop: Shop, shop_id: str, tiny_bundle: Path
) -> None:
    answer = client.recognize(shop_id, shop.clips["product-1"], top_k=3)
    assert answer.keys() == ANSWER
    assert answer["shop_id"] == shop_id
    assert answer["bundle"] == json.loads((tiny_bundle / "manifest.json").read_text())["bundle_id"]
    assert answer["search"] == "exact"
    assert answer["clip"] == {"duration_s": pytest.approx(1, abs=0.11), "frames": 10, "boxes": []}
    assert answer["decision"] is None or answer["decision"].keys() == {"product_id", "confidence"}
    assert len(answer["candidates"]) == 3
    for candidate in answer["candidates"]:
        assert candidate.keys() == {
            "product_id",
            "title",
            "confidence",
            "score",
            "scores",
            "image_id",
            "image_url",
        }
        assert candidate["scores"].keys() == {"coarse", "match", "text"}
        assert candidate["scores"]["text"] is None
        fused = 1.0 * candidate["scores"]["coarse"] + 0.1 * candidate["scores"]["match"]
        assert candidate["score"] == pytest.approx(fused)
    scores = [candidate["score"] for candidate in answer["candidates"]]
    assert scores == sorted(scores, reverse=True)
    timings = answer["timings_ms"]
    assert list(timings) == ["queue", "decode", "detect", "encode", "search", "match", "total"]
    assert sum(timings.values()) - timings["total"] <= timings["total"]


def test_confidences_with_none_sum_to_one(client: Client, shop: Shop, shop_id: str) -> None:
    answer = client.recognize(shop_id, shop.clips["product-0"], top_k=100)
    scores = np.array([candidate["score"] for candidate in answer["candidates"]])
    weights = np.exp(scores / 0.1)  # the tiny bundle's calibration
    expected = weights / (weights.sum() + np.exp(5.0))
    assert [c["confidence"] for c in answer["candidates"]] == pytest.approx(expected.tolist())
    sure = expected[0] >= 0.5
    assert (answer["decision"] is not None) == sure


def test_times_are_in_the_headers(http: httpx.Client, shop: Shop, shop_id: str) -> None:
    response = http.post(
        "/recognize", data={"shop_id": shop_id}, files={"clip": shop.clips["product-0"]}
    )
    timings = response.json()["timings_ms"]
    assert float(response.headers["x-total-time"]) >= timings["total"]
    assert float(response.headers["x-queue-time"]) == pytest.approx(timings["queue"], abs=0.01)
    inference = timings["detect"] + timings["encode"] + timings["match"]
    assert float(response.headers["x-inference-time"]) == pytest.approx(inference, abs=0.01)
    assert response.headers["x-request-id"] == response.json()["request_id"]


def test_a_slow_upload_is_no_time_of_the_services(
    http: httpx.Client, shop: Shop, shop_id: str
) -> None:
    whole = http.build_request(
        "POST", "/recognize", data={"shop_id": shop_id}, files={"clip": shop.clips["product-0"]}
    )
    body = whole.read()

    def slowly() -> Iterator[bytes]:
        yield body[:100]
        time.sleep(0.5)
        yield body[100:]

    before = _received_s(http)
    response = http.post("/recognize", content=slowly(), headers=whole.headers)
    total_ms = response.json()["timings_ms"]["total"]
    assert float(response.headers["x-total-time"]) - total_ms > 450
    assert _received_s(http) - before > 0.45


def _received_s(http: httpx.Client) -> float:
    metrics = http.get("/metrics").text
    found = re.findall(r'^lpr_stage_seconds_sum\{stage="receive"\} (.*)$', metrics, re.MULTILINE)
    return sum(map(float, found))


def most_alike(answer: dict[str, Any]) -> dict[str, Any]:
    """A random model's matcher is of no use, but the same picture has the same embedding."""
    return max(answer["candidates"], key=lambda candidate: candidate["scores"]["coarse"])


def test_frames_as_pictures(client: Client, shop: Shop, shop_id: str) -> None:
    answer = client.recognize_frames(shop_id, [shop.pictures["product-2"]] * 3, top_k=100)
    assert most_alike(answer)["product_id"] == "product-2"
    assert most_alike(answer)["scores"]["coarse"] == pytest.approx(1, abs=1e-3)
    assert answer["clip"] == {"duration_s": None, "frames": 3, "boxes": []}


def test_more_frames_than_the_model_sees(client: Client, shop: Shop, shop_id: str) -> None:
    answer = client.recognize_frames(shop_id, [shop.pictures["product-2"]] * 25)
    assert answer["clip"]["frames"] == 10


def test_an_explanation_points_into_every_frame(client: Client, shop: Shop, shop_id: str) -> None:
    answer = client.recognize(shop_id, shop.clips["product-3"], explain=True)
    explanation = answer["explanation"]
    best = answer["candidates"][0]
    assert (explanation["product_id"], explanation["image_id"]) == (
        best["product_id"],
        best["image_id"],
    )
    attention = np.array(explanation["attention"])
    assert attention.shape == (answer["clip"]["frames"], 4, 4)
    assert explanation["frames"] == list(range(answer["clip"]["frames"]))
    assert (attention >= 0).all()
    assert 0 < attention.sum() <= 1 + 1e-6


def test_a_damaged_clip_is_answered_as_partial(client: Client, shop_id: str) -> None:
    whole = clip(picture(1), seconds=8)
    answer = client.recognize(shop_id, whole[: len(whole) * 2 // 3])
    assert answer["partial"] is True


def test_the_winning_picture_is_served_as_it_was_posted(
    client: Client, http: httpx.Client, shop: Shop, shop_id: str
) -> None:
    best = client.recognize(shop_id, shop.clips["product-4"])["candidates"][0]
    response = http.get(best["image_url"])
    assert response.content == shop.pictures[best["product_id"]]
    assert response.headers["content-type"] == "image/jpeg"
    assert response.headers["x-content-type-options"] == "nosniff"


def test_a_product_is_as_good_as_its_best_picture(client: Client, model: Model, shop: Shop) -> None:
    shop_id = uuid.uuid4().hex
    several = [f"product-{i}" for i in (0, 1, 2)]
    images = client.put_product(shop_id, "many", [shop.pictures[name] for name in several])
    client.put_product(shop_id, "one", [shop.pictures["product-3"]])
    mp4 = shop.clips["product-1"]
    expected = expected_scores(model, shop, mp4)
    best = max(several, key=expected.__getitem__)
    answer = client.recognize(shop_id, mp4)
    scores = {c["product_id"]: (c["score"], c["image_id"]) for c in answer["candidates"]}
    assert len(answer["candidates"]) == 2
    assert scores["many"] == (
        pytest.approx(expected[best], abs=1e-3),
        images["images"][several.index(best)]["image_id"],
    )


def test_a_replaced_product_is_the_new_one_alone(
    client: Client, http: httpx.Client, shop: Shop
) -> None:
    shop_id = uuid.uuid4().hex
    old = client.put_product(shop_id, "p", [shop.pictures["product-0"]], title="old")
    client.put_product(shop_id, "q", [shop.pictures["product-5"]])
    client.recognize(shop_id, shop.clips["product-0"])  # the shop is hot now
    client.put_product(shop_id, "p", [shop.pictures["product-1"]], title="new")
    answer = client.recognize_frames(shop_id, [shop.pictures["product-1"]])
    assert {c["product_id"]: c["title"] for c in answer["candidates"]} == {"p": "new", "q": None}
    assert most_alike(answer)["product_id"] == "p"
    assert most_alike(answer)["scores"]["coarse"] == pytest.approx(1, abs=1e-3)
    assert http.get(old["images"][0]["url"]).status_code == 404


def test_a_deleted_product_is_found_no_more(client: Client, shop: Shop) -> None:
    shop_id = uuid.uuid4().hex
    for name in ("product-0", "product-1"):
        client.put_product(shop_id, name, [shop.pictures[name]])
    client.recognize(shop_id, shop.clips["product-0"])
    client.delete_product(shop_id, "product-0")
    answer = client.recognize(shop_id, shop.clips["product-0"])
    assert [c["product_id"] for c in answer["candidates"]] == ["product-1"]
    client.delete_product(shop_id, "product-1")
    empty = client.recognize(shop_id, shop.clips["product-0"], explain=True)
    assert (empty["decision"], empty["candidates"]) == (None, [])
    client.delete_shop(shop_id)
    with pytest.raises(ProblemError) as caught:
        client.recognize(shop_id, shop.clips["product-0"])
    assert (caught.value.status, caught.value.slug) == (404, "shop-not-found")


def test_products_are_listed_page_by_page(client: Client, shop: Shop, shop_id: str) -> None:
    listed = list(client.products(shop_id, page_size=4))
    assert {product["product_id"] for product in listed} == set(shop.pictures)
    assert len(listed) == len(shop.pictures)
    assert listed[0] == client.product(shop_id, listed[0]["product_id"])


def test_metadata_comes_back_as_it_was_sent(client: Client, shop: Shop) -> None:
    metadata = {"price": 3.5, "tags": ["a", "é"], "nested": {"null": None}}
    shop_id = uuid.uuid4().hex
    client.put_product(shop_id, "p", [shop.pictures["product-0"]], metadata=metadata)
    assert client.product(shop_id, "p")["metadata"] == metadata


def test_shops_are_apart(client: Client, shop: Shop) -> None:
    mine, other = 'x" or shop_key != "', uuid.uuid4().hex
    client.put_product(mine, "mine", [shop.pictures["product-0"]])
    client.put_product(other, "other", [shop.pictures["product-1"]])
    answer = client.recognize(mine, shop.clips["product-1"])
    assert [c["product_id"] for c in answer["candidates"]] == ["mine"]
    client.delete_shop(mine)
    assert client.product(other, "other")["product_id"] == "other"


def test_a_large_shop_gets_the_same_answer_from_the_index(
    tiny_bundle: Path, tmp_path: Path, shop: Shop
) -> None:
    with running_service(
        tmp_path, LPR_BUNDLE=tiny_bundle, LPR_SEARCH__EXACT_LIMIT=3, LPR_DRAIN_S=0
    ) as client:
        for product_id, jpeg in shop.pictures.items():
            client.put_product("large", product_id, [jpeg])
            if int(product_id[-1]) < 3:
                client.put_product("small", product_id, [jpeg])
        for product_id in ("product-0", "product-2"):
            large = client.recognize("large", shop.clips[product_id], top_k=100)
            small = client.recognize("small", shop.clips[product_id], top_k=100)
            assert (large["search"], small["search"]) == ("ann", "exact")
            scores = {c["product_id"]: c["score"] for c in large["candidates"]}
            assert len(scores) == len(shop.pictures)
            for candidate in small["candidates"]:
                # float16 match states on the way through the index, in both
                assert scores[candidate["product_id"]] == pytest.approx(
                    candidate["score"], abs=1e-5
                )
        client.delete_product("large", "product-0")
        after = client.recognize("large", shop.clips["product-0"], top_k=100)
        assert "product-0" not in {c["product_id"] for c in after["candidates"]}


def test_info_says_what_really_runs(client: Client) -> None:
    info = client.info()
    assert info["inference"]["providers"] == ["CPUExecutionProvider"]
    assert info["coordination"] == {"embedded": True, "up": True}
    assert info["limits"]["max_body_bytes"] == 2_000_000
    assert all(isinstance(layer, bool) for layer in info["decoder"]["sandbox"].values())
    assert info["bundle"]["id"].split("-")[-1] in info["index"]["collection"]


def test_metrics_count_what_happened(
    client: Client, http: httpx.Client, shop: Shop, shop_id: str
) -> None:
    def value(line: str) -> float:
        for sample in http.get("/metrics").text.splitlines():
            if sample.startswith(line + " "):
                return float(sample.rsplit(" ", 1)[1])
        return 0.0

    recognized = 'lpr_requests_total{method="POST",route="/recognize",status="200"}'
    lost = 'lpr_failures_total{reason="shop-not-found"}'
    stage = 'lpr_stage_seconds_count{stage="encode"}'
    before = value(recognized), value(lost), value(stage)
    client.recognize(shop_id, shop.clips["product-0"])
    http.get("/gallery/nowhere")
    assert (value(recognized), value(lost), value(stage)) == tuple(b + 1 for b in before)
    assert value("lpr_ready") == 1
    assert value('lpr_in_flight{kind="recognize"}') == 0
    assert value("lpr_redis_up") == 1
    assert value('lpr_hot_shop_lookups_total{result="miss"}') > 0
    assert "lpr_hot_shops_bytes" in http.get("/metrics").text


@pytest.mark.parametrize(
    ("path", "fields", "files", "advice"),
    [
        ("/gallery", {"product_id": "p"}, ["images"], "/shop_id: is required"),
        ("/gallery", {"product_id": "p", "shop": "s"}, ["images"], "/shop: there is no such field"),
        ("/gallery", {"shop_id": "s", "product_id": "p"}, ["image"], "but as images"),
        ("/gallery", {"shop_id": "s", "product_id": "p", "images": "a.jpg"}, [], "images=@FILE"),
        ("/recognize", {"shop_id": "s"}, ["frame"], "but as clip or frames"),
        ("/recognise", {"shop_id": "s"}, ["clip"], "/docs lists those there are"),
    ],
    ids=["shop", "field", "image", "path", "frame", "address"],
)
def test_a_mistake_is_told_with_what_to_do(
    http: httpx.Client, path: str, fields: dict[str, str], files: list[str], advice: str
) -> None:
    sent = [(name, ("a.jpg", picture(1))) for name in files] or [("title", (None, b"a"))]
    answer = http.post(path, data=fields, files=sent)
    assert answer.is_client_error
    assert advice in answer.json()["detail"]


def test_a_picture_sent_as_a_clip_is_told_where_it_goes(client: Client, shop_id: str) -> None:
    with pytest.raises(ProblemError, match="pictures as `frames`"):
        client.recognize(shop_id, picture(1))


def test_info_tells_how_clips_are_decoded(http: httpx.Client) -> None:
    told = http.get("/info").json()["decoder"]
    assert told == ClipDecoder(MediaSettings()).describe()
    assert told["workers"] == (told["without_workers"] is None)


def test_the_documentation_names_every_field_and_problem(http: httpx.Client) -> None:
    document = http.get("/openapi.json").json()
    post = document["paths"]["/recognize"]["post"]
    form = post["requestBody"]["content"]["multipart/form-data"]["schema"]["properties"]
    assert form.keys() == {"shop_id", "top_k", "detect", "explain", "speech", "clip", "frames"}
    assert "application/problem+json" in post["responses"]["422"]["content"]
    page = http.get("/docs")
    assert page.status_code == 200
    named = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert len(named) >= 2, "script and style"
    for address in named:
        assert address.startswith("/"), "nothing of the page comes from elsewhere"
        assert http.get(address).status_code == 200
    references = json.dumps(document).split('"$ref": "#/components/schemas/')[1:]
    schemas = document["components"]["schemas"]
    assert {reference.split('"')[0] for reference in references} <= schemas.keys()
