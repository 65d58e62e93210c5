"""The manifests as kustomize builds them, against Kubernetes's published schemas. No cluster."""

from __future__ import annotations

import shutil
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from service.settings import Settings
from tests.operations.prometheus import DEPLOY

OVERLAYS = ("cpu", "gpu")
WITHOUT_SCHEMA = {"ServiceMonitor"}  # the Prometheus operator's own
ROOT = DEPLOY.parent


@pytest.fixture(scope="module", params=OVERLAYS)
def objects(request: pytest.FixtureRequest) -> dict[str, Any]:
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed: it has kustomize in it")
    built = subprocess.run(
        ["kubectl", "kustomize", str(DEPLOY / "kubernetes" / "overlays" / request.param)],
        capture_output=True,
        text=True,
        check=True,
    )
    return {one["kind"]: one for one in yaml.safe_load_all(built.stdout)}


def container(objects: dict[str, Any]) -> dict[str, Any]:
    [one] = objects["Deployment"]["spec"]["template"]["spec"]["containers"]
    return one


def test_every_object_fits_its_schema(objects: dict[str, Any]) -> None:
    for kind, one in objects.items():
        if kind not in WITHOUT_SCHEMA:
            kubernetes_validate.validate(one, "1.33", strict=True)


def test_every_setting_is_one_of_ours(
    objects: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    values = {entry["name"]: entry["value"] for entry in container(objects)["env"]}
    values |= objects["ConfigMap"]["data"]
    values["LPR_SECRETS_DIR"] = str(tmp_path)
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    settings = Settings()
    assert settings.milvus.uri
    assert settings.redis.url


def test_probes_and_ports_are_the_services_own(objects: dict[str, Any]) -> None:
    one = container(objects)
    assert one["readinessProbe"]["httpGet"]["path"] == "/readyz"
    assert one["livenessProbe"]["httpGet"]["path"] == "/healthz"
    assert one["securityContext"]["readOnlyRootFilesystem"]
    grace = objects["Deployment"]["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
    drain = float(objects["ConfigMap"]["data"]["LPR_DRAIN_S"])
    assert grace >= one["lifecycle"]["preStop"]["sleep"]["seconds"] + drain + 25


def test_a_service_named_like_our_settings_adds_none(objects: dict[str, Any]) -> None:
    """Else it is told to every pod of the namespace as LPR_PORT and LPR_SERVICE_HOST."""
    assert objects["Service"]["metadata"]["name"] == "lpr"
    assert objects["Deployment"]["spec"]["template"]["spec"]["enableServiceLinks"] is False


def test_the_autoscaler_alone_says_how_many_there_are(objects: dict[str, Any]) -> None:
    """Else each apply of the manifests sets its number back."""
    assert "replicas" not in objects["Deployment"]["spec"]
    asked = {
        one["pods"]["metric"]["name"]
        for one in objects["HorizontalPodAutoscaler"]["spec"]["metrics"]
    }
    rules = yaml.safe_load((DEPLOY / "kubernetes" / "prometheus-adapter.yaml").read_text())["rules"]
    assert asked == {one["name"]["as"] for one in rules["custom"]}


def test_the_image_is_of_the_version_that_is_here(objects: dict[str, Any]) -> None:
    tag = container(objects)["image"].removeprefix("lpr:")
    assert tag in {f"{version('lpr')}-cpu", f"{version('lpr')}-gpu"}
