from __future__ import annotations

from types import SimpleNamespace

import pytest

from service.errors import ClientLeftError, DeadlineExceededError
from service.telemetry import Telemetry

STAGES = {"decode": 80.0, "total": 100.0}


def count(telemetry: Telemetry, name: str, **labels: str) -> float | None:
    return telemetry.registry.get_sample_value(name, labels)


def test_confidences_are_counted_by_the_first_group_that_fits_and_never_by_shop() -> None:
    telemetry = Telemetry({"beauty-*": "beauty", "*-outlet": "outlet"})
    for shop_id in ("beauty-1", "beauty-2-outlet", "shoes-outlet", "shoes", "Beauty-3"):
        telemetry.recognized(STAGES, [0.8, 0.1], decided=True, shop_id=shop_id, bundle_id="b")
    for group, expected in {"beauty": 2, "outlet": 1, "other": 2}.items():
        labels = {"bundle": "b", "shop_group": group}
        assert count(telemetry, "lpr_confidence_count", **labels) == expected
        assert count(telemetry, "lpr_margin_sum", **labels) == pytest.approx(0.7 * expected)
        assert count(telemetry, "lpr_decisions_total", outcome="product", **labels) == expected


def test_a_call_that_fails_is_timed_and_counted() -> None:
    telemetry = Telemetry()
    with telemetry.call("milvus", "search"):
        pass
    with pytest.raises(OSError, match="gone"), telemetry.call("milvus", "search"):
        raise OSError("gone")
    labels = {"dependency": "milvus", "call": "search"}
    assert count(telemetry, "lpr_dependency_seconds_count", **labels) == 2
    assert count(telemetry, "lpr_dependency_errors_total", **labels) == 1


def test_a_call_whose_request_was_over_is_no_failure_of_what_was_called() -> None:
    telemetry = Telemetry()
    for error in (DeadlineExceededError("too long"), ClientLeftError("gone")):
        with pytest.raises(type(error)), telemetry.call("milvus", "search"):
            raise error
    labels = {"dependency": "milvus", "call": "search"}
    assert count(telemetry, "lpr_dependency_errors_total", **labels) == 0


def test_stages_resolve_a_millisecond_and_ten_seconds() -> None:
    telemetry = Telemetry()
    telemetry.recognized(
        {"match": 0.9, "total": 9_000.0}, [], decided=False, shop_id="s", bundle_id="b"
    )
    assert count(telemetry, "lpr_stage_seconds_bucket", stage="match", le="0.001") == 1
    assert count(telemetry, "lpr_stage_seconds_bucket", stage="total", le="5.0") == 0
    assert count(telemetry, "lpr_stage_seconds_bucket", stage="total", le="10.0") == 1


def test_both_forms_are_given_as_asked_for() -> None:
    telemetry = Telemetry()
    _, plain = telemetry.exposition("text/plain")
    body, openmetrics = telemetry.exposition("application/openmetrics-text; version=1.0.0")
    assert plain.startswith("text/plain")
    assert openmetrics.startswith("application/openmetrics-text")
    assert body.endswith(b"# EOF\n")


def test_the_reference_of_a_bundle_stands_beside_the_buckets_it_is_compared_with() -> None:
    telemetry = Telemetry()
    manifest = SimpleNamespace(bundle_id="b", precision="fp32", metrics={"confidence": {"0.05": 1}})
    telemetry.serves(manifest, "CPUExecutionProvider")
    telemetry.recognized(STAGES, [0.01], decided=False, shop_id="s", bundle_id="b")
    edge = {"bundle": "b", "le": "0.05"}
    assert count(telemetry, "lpr_confidence_reference", **edge) == 1
    assert count(telemetry, "lpr_confidence_bucket", shop_group="other", **edge) == 1
