"""The only reader of the environment: `LPR_*`, nested with `__` (`LPR_MILVUS__URI`).

A secret may lie in a file instead, of the variable's name, in the folder `LPR_SECRETS_DIR`.

Everything else receives the part of the settings it needs as an argument.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    DirectoryPath,
    Field,
    IPvAnyNetwork,
    SecretStr,
    ValidationError,
)
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    NestedSecretsSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)
from redis.connection import parse_url

DEFAULT_BUNDLE = Path(__file__).parent / "bundles" / "default"


SECRETS_DIR = "LPR_SECRETS_DIR"  # a folder with a file for each secret, named as its variable


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid")


class MediaSettings(_Part):
    """Bounds on what is decoded; anything beyond them is refused or cut, never attempted."""

    max_image_pixels: int = Field(default=40_000_000, gt=0, description="pixels of a shop picture")
    min_image_side: int = Field(default=16, gt=0, description="pixels of a picture's shorter side")
    max_image_metadata_bytes: int = Field(
        default=4_000_000, gt=0, description="EXIF, ICC and text chunks"
    )
    max_frame_pixels: int = Field(default=16_777_216, gt=0, description="pixels of one video frame")
    max_clip_s: float = Field(
        default=60.0, gt=0, description="seconds of a clip that are looked at"
    )
    max_streams: int = Field(default=8, gt=0, description="streams in a clip's container")
    frame_tolerance: float = Field(
        default=0.5,
        ge=0,
        le=0.5,
        description="how far a frame may lie from its evenly spread place, in parts of the "
        "distance of two, where that is cheaper to decode; 0: always the nearest frame",
    )
    decode_wall_s: float = Field(default=10.0, gt=0, description="wall time of one clip's decoder")
    decode_memory_bytes: int = Field(default=2_000_000_000, gt=0, description="its address space")
    decode_threads: int = Field(default=2, gt=0, description="its decoding threads")


class SpeechSettings(_Part):
    """What is said in clips that come without `speech`, for bundles that read."""

    model: DirectoryPath | None = Field(
        default=None,
        description="folder of a faster-whisper model (pip install '.[speech]'); None: not heard",
    )


class CatalogueSettings(_Part):
    url: str | None = Field(
        default=None,
        pattern=r"^s3://[^/]+(/.*)?$",
        description="s3://bucket/folder, for several services; None: in the data directory",
    )
    endpoint: str | None = Field(
        default=None, description="http://minio:9000, of a store that speaks S3; None: AWS itself"
    )
    region: str = "us-east-1"
    access_key_id: str | None = Field(default=None, description="None: as AWS's own tools find it")
    secret_access_key: SecretStr | None = None
    timeout_s: float = Field(default=4.0, gt=0, description="of every call")


class ImageUrlSettings(_Part):
    """Which addresses of pictures are fetched: none, unless their hosts are listed."""

    hosts: frozenset[str] = Field(
        default=frozenset(),
        description="`images.example.com`, or with a port of its own: `images.example.com:8443`",
    )
    networks: tuple[IPvAnyNetwork, ...] = Field(
        default=(), description="private networks that listed hosts may lie in, besides public ones"
    )
    timeout_s: float = Field(default=10.0, gt=0, description="for all pictures of one post")
    max_bytes: int = Field(default=64_000_000, gt=0, description="of all pictures of one post")


class MilvusSettings(_Part):
    uri: str | None = Field(default=None, description="None: Milvus Lite in the data directory")
    token: SecretStr | None = Field(default=None, description="credentials of a Milvus server")
    timeout_s: float = Field(default=4.0, gt=0, description="of every call")


def _redis_address(url: SecretStr) -> SecretStr:
    try:
        parse_url(url.get_secret_value())  # type: ignore[no-untyped-call]
    except ValueError:
        raise ValueError(
            "must begin with redis://, rediss:// or unix://, its port and database be numbers"
        ) from None  # which might quote a password
    return url


class RedisSettings(_Part):
    url: Annotated[SecretStr, AfterValidator(_redis_address)] | None = Field(
        default=None,
        description="redis://, rediss:// or unix://; None: a private server in the data directory",
    )
    timeout_s: float = Field(default=1.0, gt=0, description="of every call")


class SearchSettings(_Part):
    exact_limit: int = Field(
        default=2_000,
        ge=0,
        le=16_000,
        description="pictures; a shop up to this size is matched whole, from memory",
    )
    hot_limit: int = Field(
        default=16_000,
        ge=0,
        le=16_000,
        description="pictures; a larger shop is not kept in memory but left to Milvus",
    )
    candidates: int = Field(
        default=200, gt=0, le=4_096, description="nearest pictures of a larger shop: those matched"
    )
    hot_shops_bytes: int = Field(default=256_000_000, gt=0, description="memory for shops kept hot")


class KeySettings(_Part):
    file: Path | None = Field(default=None, description="None: keys.json in the data directory")


class JobSettings(_Part):
    """Bounds on batches, and on products that are stored and not yet searchable."""

    max_batch_bytes: int = Field(
        default=512_000_000, gt=0, description="of a batch's body, and of its pictures unpacked"
    )
    body_timeout_s: float = Field(default=300.0, gt=0, description="for a batch's body to arrive")
    deadline_s: float = Field(default=900.0, gt=0, description="for a batch to be stored")
    max_backlog: int = Field(
        default=50_000, gt=0, description="products that wait for the index; beyond, posts get 503"
    )
    takeover_s: float = Field(
        default=30.0, gt=0, description="of a worker's silence until another does its work"
    )
    keep_s: float = Field(default=86_400.0, gt=0, description="for which a job can be asked for")


class InferenceSettings(_Part):
    provider: Literal["cpu", "cuda", "tensorrt"] = "cpu"
    threads: int | None = Field(default=None, gt=0, description="None: one for each core")
    batch_size: int | None = Field(
        default=None,
        gt=0,
        le=64,
        description="clips that are encoded together at most; None: 8 on a GPU, and 1 on a CPU, "
        "whose cores one clip's frames keep busy",
    )
    batch_wait_ms: float = Field(
        default=0.0,
        ge=0,
        le=1_000,
        description="that the first of a batch may wait for others; what came during the run "
        "before goes together in any case",
    )

    @property
    def clips_a_run(self) -> int:
        return self.batch_size or (1 if self.provider == "cpu" else 8)


class MetricsSettings(_Part):
    shop_groups: dict[str, str] = Field(
        default_factory=dict,
        max_length=50,
        description='a group\'s name by the pattern of its shops\' ids (`{"beauty-*": "beauty"}`): '
        "confidences are counted by group, and by `other` for the shops of none",
    )


class TracingSettings(_Part):
    otlp_endpoint: str | None = Field(
        default=None, description="http://collector:4318/v1/traces; None: no traces are sent"
    )
    sampled_share: float = Field(
        default=1.0, ge=0, le=1, description="of requests whose caller has not decided it"
    )


class _Environment(EnvSettingsSource):
    """Hands on all of our names, for one that is no setting is a mistake to be told of; and what is
    no JSON where it must be, for only validation knows the variable's whole name."""

    def decode_complex_value(self, field_name: str, field: FieldInfo, value: Any) -> Any:
        try:
            return super().decode_complex_value(field_name, field, value)
        except ValueError:
            return value

    def __call__(self) -> dict[str, Any]:
        names = (name.removeprefix("lpr_") for name in self.env_vars if name.startswith("lpr_"))
        return super().__call__() | dict.fromkeys(name for name in names if not _is_known(name))


class _Secrets(_Environment, NestedSecretsSettingsSource):
    """The same of the files in the folder of secrets."""


def _is_known(name: str) -> bool:
    """Whether there is such a setting, or such a group of them."""
    if name == SECRETS_DIR.removeprefix("LPR_").lower():
        return True
    first, nested, _ = name.partition("__")
    if first not in Settings.model_fields or not nested:
        return first in Settings.model_fields
    kind = Settings.model_fields[first].annotation
    return isinstance(kind, type) and issubclass(kind, _Part)


class Settings(BaseSettings):
    """The whole configuration. See the README for the settings an operator meets first.

    Raises ValidationError, also for a variable `LPR_*` that is none of these.
    """

    model_config = SettingsConfigDict(env_prefix="LPR_", env_nested_delimiter="__")

    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535, description="0 takes a free one")
    data_dir: Path = Field(default=Path("data"), description="catalogue, index and Redis live here")
    bundle: Path = Field(
        default=DEFAULT_BUNDLE,
        description="folder of the model bundle that is served until another is activated",
    )
    bundles: Path | None = Field(
        default=None,
        description="folder of the bundles that can be activated; None: in the data directory",
    )
    max_body_bytes: int = Field(default=64_000_000, gt=0, description="of one request")
    max_in_flight: int = Field(
        default=16, gt=0, description="recognitions admitted at once, and as many posts of products"
    )
    max_waiting: int = Field(
        default=8, ge=0, description="of those, how many may wait for a thread to work on them"
    )
    head_timeout_s: float = Field(default=8.0, gt=0, description="for a request's head to arrive")
    body_timeout_s: float = Field(default=30.0, gt=0, description="for a request's body to arrive")
    answer_timeout_s: float = Field(
        default=30.0, gt=0, description="for an answer to be taken by its client"
    )
    deadline_s: float = Field(
        default=15.0, gt=0, description="for the answer, once a request's body has arrived"
    )
    drain_s: float = Field(
        default=1.0,
        ge=0,
        description="seconds of being unready before a stopping service stops listening",
    )

    allow_anonymous: bool = Field(
        default=False,
        description="listen beyond this machine without keys: whoever reaches it may do everything",
    )
    key: SecretStr | None = Field(
        default=None, description="the key that `lpr index`, `lpr recognize` and others send"
    )

    keys: KeySettings = Field(default_factory=KeySettings)
    media: MediaSettings = Field(default_factory=MediaSettings)
    catalogue: CatalogueSettings = Field(default_factory=CatalogueSettings)
    image_urls: ImageUrlSettings = Field(default_factory=ImageUrlSettings)
    milvus: MilvusSettings = Field(default_factory=MilvusSettings)
    redis: RedisSettings = Field(default_factory=RedisSettings)
    search: SearchSettings = Field(default_factory=SearchSettings)
    jobs: JobSettings = Field(default_factory=JobSettings)
    inference: InferenceSettings = Field(default_factory=InferenceSettings)
    speech: SpeechSettings = Field(default_factory=SpeechSettings)
    metrics: MetricsSettings = Field(default_factory=MetricsSettings)
    tracing: TracingSettings = Field(default_factory=TracingSettings)

    @property
    def spool_dir(self) -> Path:
        """Where bodies lie while they are taken in: on disk, for /tmp may be memory."""
        return self.data_dir / "spool"

    @property
    def bundles_folder(self) -> Path:
        return self.bundles or self.data_dir / "bundles"

    @property
    def keys_file(self) -> Path:
        return self.keys.file or self.data_dir / "keys.json"

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        secrets = _Secrets(
            file_secret_settings,
            secrets_dir=os.environ.get(SECRETS_DIR),
            secrets_dir_missing="error",
            secrets_nested_delimiter="__",
        )
        return init_settings, _Environment(settings_cls), secrets


_OF_JSON = {"frozen_set_type", "tuple_type", "dict_type", "model_type"}


def complaints(error: ValidationError) -> str:
    """What is wrong with which variable, in one line."""
    return "; ".join(
        f"LPR_{'__'.join(str(part) for part in finding['loc']).upper()}: {_message(finding)}"
        for finding in error.errors()
    )


def _message(finding: Mapping[str, Any]) -> str:
    if finding["type"] == "extra_forbidden":
        return "there is no such setting"
    if finding["type"] in _OF_JSON:
        return 'must be JSON: of a list ["a.b"], of a group {"name": "value"}'
    return str(finding["msg"]).removeprefix("Value error, ")  # what pydantic puts before our words
