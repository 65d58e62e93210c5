"""The only reader of the environment: `LPR_*`, nested with `__` (`LPR_MILVUS__URI`).

Everything else receives the part of the settings it needs as an argument.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, Field
from pydantic_settings import BaseSettings, SettingsConfigDict

DEFAULT_BUNDLE = Path(__file__).parent / "bundles" / "default"


class MediaSettings(BaseModel):
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
    decode_wall_s: float = Field(default=10.0, gt=0, description="wall time of one ffmpeg child")
    decode_memory_bytes: int = Field(default=2_000_000_000, gt=0, description="its address space")
    decode_threads: int = Field(default=2, gt=0, description="its decoding threads")


class MilvusSettings(BaseModel):
    uri: str | None = Field(default=None, description="None: Milvus Lite in the data directory")
    token: str | None = Field(default=None, description="credentials of a Milvus server")
    timeout_s: float = Field(default=5.0, gt=0, description="of every call")


class RedisSettings(BaseModel):
    url: str | None = Field(
        default=None, description="None: a private server in the data directory"
    )
    timeout_s: float = Field(default=1.0, gt=0, description="of every call")


class SearchSettings(BaseModel):
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
        default=200, gt=0, description="nearest pictures of a larger shop that are matched"
    )
    hot_shops_bytes: int = Field(default=256_000_000, gt=0, description="memory for shops kept hot")


class InferenceSettings(BaseModel):
    provider: Literal["cpu", "cuda", "tensorrt"] = "cpu"
    threads: int | None = Field(default=None, gt=0, description="None: one for each core")


class Settings(BaseSettings):
    """The whole configuration. See the README for the settings an operator meets first."""

    model_config = SettingsConfigDict(env_prefix="LPR_", env_nested_delimiter="__")

    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535, description="0 takes a free one")
    data_dir: Path = Field(default=Path("data"), description="catalogue, index and Redis live here")
    bundle: Path = Field(default=DEFAULT_BUNDLE, description="the model bundle's folder")
    max_body_bytes: int = Field(default=64_000_000, gt=0, description="of one request")
    max_in_flight: int = Field(
        default=16, gt=0, description="recognitions admitted at once, and as many posts of products"
    )
    drain_s: float = Field(
        default=1.0,
        ge=0,
        description="seconds of being unready before a stopping service stops listening",
    )

    media: MediaSettings = Field(default_factory=MediaSettings)
    milvus: MilvusSettings = Field(default_factory=MilvusSettings)
    redis: RedisSettings = Field(default_factory=RedisSettings)
    search: SearchSettings = Field(default_factory=SearchSettings)
    inference: InferenceSettings = Field(default_factory=InferenceSettings)
