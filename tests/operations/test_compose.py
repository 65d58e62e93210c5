"""docker-compose.yml: fits the official schema, names only what is there, and publishes little.

Nothing is started here; `test_topology.py` starts the same parts without an engine.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from service.settings import Settings
from tests.operations.compose import FILE, ROOT, SECRETS, compose, secret_files

SERVICES: dict[str, dict[str, Any]] = compose()["services"]
OURS = ("lpr", "lpr-gpu")
ONE_SHOT = ("bucket",)


def test_it_fits_the_official_schema() -> None:
    """The schema of the Compose specification, as check-jsonschema brings it."""
    check = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    done = subprocess.run([*check, FILE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_compose_itself_reads_it() -> None:
    plugin = ["docker", "compose"]
    if not shutil.which("docker") or subprocess.run([*plugin, "version"], check=False).returncode:
        pytest.skip("docker compose is not installed")
    subprocess.run([*plugin, "-f", FILE, "--profile", "*", "config", "-q"], check=True)


@pytest.mark.parametrize("name", OURS)
def test_every_setting_is_one_of_ours(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert SERVICES[name]["environment"]["LPR_SECRETS_DIR"] == SECRETS
    for variable, value in SERVICES[name]["environment"].items():
        monkeypatch.setenv(variable, value)
    for file, secret in secret_files(SERVICES[name]).items():
        (tmp_path / file).write_text(f"the {secret}")
    monkeypatch.setenv("LPR_SECRETS_DIR", str(tmp_path))
    settings = Settings()
    assert settings.inference.provider == ("cuda" if name == "lpr-gpu" else "cpu")
    assert settings.catalogue.access_key_id == "the catalogue_user"
    assert settings.catalogue.secret_access_key is not None
    assert settings.catalogue.secret_access_key.get_secret_value() == "the catalogue_password"


def test_every_host_that_is_named_is_a_service() -> None:
    text = str([service.get("environment", {}) for service in SERVICES.values()])
    text += str([service.get("command", "") for service in SERVICES.values()])
    named = set(re.findall(r"(?:http|redis)://([\w-]+):", text))
    assert {"milvus", "redis", "minio"} <= named <= {*SERVICES, "localhost"}


def test_the_bucket_that_is_made_is_the_catalogues() -> None:
    [command] = SERVICES["bucket"]["command"]
    for name in OURS:
        bucket = urlsplit(SERVICES[name]["environment"]["LPR_CATALOGUE__URL"]).netloc
        assert f" store/{bucket} " in command


@pytest.mark.parametrize("name", OURS)
def test_the_service_reaches_its_catalogue_and_nothing_else_in_the_object_store(name: str) -> None:
    """A user of its own: neither Milvus's rows nor the store's administration."""
    files = secret_files(SERVICES[name])
    assert not set(files.values()) & set(SERVICES["milvus"]["secrets"])
    [command] = SERVICES["bucket"]["command"]
    [policy] = re.findall(r"policy create store (\w+) /policies/(\w+\.json)", command)
    assert f"policy attach store {policy[0]} --user" in command
    url = urlsplit(SERVICES[name]["environment"]["LPR_CATALOGUE__URL"])
    places = {f"arn:aws:s3:::{url.netloc}", f"arn:aws:s3:::{url.netloc}{url.path}/*"}
    statements = json.loads((ROOT / "deploy" / "minio" / policy[1]).read_text())["Statement"]
    assert {place for each in statements for place in each["Resource"]} == places
    assert {action for each in statements for action in each["Action"]} >= {
        *("s3:ListBucket", "s3:GetObject", "s3:PutObject", "s3:DeleteObject")
    }
    assert not [action for each in statements for action in each["Action"] if "*" in action]


def test_what_makes_the_bucket_is_a_program_of_a_shell() -> None:
    [command] = SERVICES["bucket"]["command"]
    subprocess.run(["sh", "-n", "-c", command.replace("$$", "$")], check=True)


def test_only_the_service_and_grafana_are_published_and_only_on_this_machine() -> None:
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert set(published) == {*OURS, "grafana"}
    assert all(port.startswith("127.0.0.1:") for ports in published.values() for port in ports)


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_everything_is_pinned_bounded_watched_and_started_again(name: str) -> None:
    service = SERVICES[name]
    repository, tag = service["image"].rsplit(":", 1)
    assert repository == "lpr" or re.search(r"\d+[.\d-]*\d", tag), "not one release"
    assert service["cpus"]
    assert service["mem_limit"]
    assert service["restart"] == ("on-failure" if name in ONE_SHOT else "unless-stopped")
    assert name in (*OURS, *ONE_SHOT) or service["healthcheck"]["test"]


def test_our_healthcheck_is_the_images_own() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()
    assert "HEALTHCHECK" in dockerfile
    for name in OURS:
        assert f" AS {SERVICES[name]['build']['target']}\n" in dockerfile
        assert SERVICES[name]["read_only"]


def test_every_file_it_mounts_is_here() -> None:
    for service in SERVICES.values():
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            if source.startswith("."):
                assert (ROOT / source).exists(), source
            else:
                assert source in compose()["volumes"]


def test_secrets_are_files_that_the_script_makes_up_once(tmp_path: Path) -> None:
    script = ["sh", ROOT / "deploy" / "secrets.sh", tmp_path / "secrets"]
    subprocess.run(script, check=True)
    made = {file.name: file.read_text() for file in (tmp_path / "secrets").iterdir()}
    subprocess.run(script, check=True)
    again = {file.name: file.read_text() for file in (tmp_path / "secrets").iterdir()}
    assert made == again
    assert len(set(made.values())) == len(made)
    assert all(re.fullmatch(r"[0-9a-f]{48}", secret) for secret in made.values())
    assert (tmp_path / "secrets").stat().st_mode & 0o777 == 0o700
    assert {Path(secret["file"]).name for secret in compose()["secrets"].values()} == set(made)
