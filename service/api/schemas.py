"""The bodies of answers, as the REST face promises them; OpenAPI is made from these.

Everything a caller reads is here, with its unit. Built from what `recognition` and `indexing` hand
back, and knowing nothing else of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal, Self
from urllib.parse import quote

from pydantic import BaseModel, Field

from service.gallery.catalogue import ProductRecord
from service.inference.features import Detections
from service.jobs.records import ItemResult, Job
from service.recognition import Explanation, RankedProduct, Recognition
from service.serving import BundleState, State


def image_url(shop_id: str, product_id: str, image_id: str) -> str:
    """Where a picture is served, relative to the service."""
    shop, product = quote(shop_id, safe=""), quote(product_id, safe="")
    return f"/gallery/{shop}/{product}/images/{image_id}"


class Decision(BaseModel):
    product_id: str
    confidence: float = Field(description="calibrated probability, 0 to 1")


class Scores(BaseModel):
    coarse: float = Field(description="cosine of the clip's and the picture's embeddings")
    match: float = Field(description="logit of the pairwise matcher")
    text: float | None = Field(
        description="cosine of speech and title and that of their words, added, -1 to 2; 0 without "
        "a title, null where nothing is said"
    )


class Candidate(BaseModel):
    product_id: str
    title: str | None
    confidence: float = Field(description="calibrated probability, 0 to 1")
    score: float = Field(description="the parts of `scores`, fused as the bundle says")
    scores: Scores
    image_id: str = Field(description="the product's picture that scored best")
    image_url: str = Field(description="where that picture is, relative to this service")

    @classmethod
    def of(cls, shop_id: str, ranked: RankedProduct) -> Self:
        picture = ranked.picture
        return cls(
            product_id=picture.product_id,
            title=picture.title,
            confidence=ranked.confidence,
            score=ranked.score,
            scores=Scores(coarse=ranked.coarse, match=ranked.match, text=ranked.text),
            image_id=picture.image_id,
            image_url=image_url(shop_id, picture.product_id, picture.image_id),
        )


class Stretch(BaseModel):
    start_s: float
    end_s: float
    text: str


class FrameBox(BaseModel):
    box: list[float] = Field(
        description="left, top, right, bottom, 0 to 1, in the frame's centre square: what the model"
        " sees, as wide as the frame's shorter side"
    )
    score: float = Field(description="how sure the detector is, 0 to 1")


class Clip(BaseModel):
    duration_s: float | None = Field(description="null where frames were sent as pictures")
    frames: int = Field(description="frames that were looked at")
    boxes: list[FrameBox | None] = Field(
        description="the intended product in each frame that was looked at; null: none was found,"
        " and the frame had no say, unless it was found in none. Empty without a detector in the"
        " bundle, and with detect=false"
    )

    speech: list[Stretch] | None = Field(
        default=None, description="as it was recognised; only where the service listened"
    )

    @classmethod
    def of(cls, recognition: Recognition) -> Self:
        found = recognition.detections
        return cls(
            duration_s=recognition.duration_s,
            frames=recognition.frames,
            boxes=[] if found is None else _boxes(found),
        )


def _boxes(found: Detections) -> list[FrameBox | None]:
    told = zip(found.boxes.tolist(), found.scores.tolist(), found.found, strict=True)
    return [
        FrameBox(box=[round(side, 4) for side in box], score=round(score, 4)) if sure else None
        for box, score, sure in told
    ]


class Attention(BaseModel):
    """Where in the clip the score of the best candidate was read off."""

    product_id: str
    image_id: str
    frames: list[int] = Field(description="places of the frames among those looked at")
    attention: list[list[list[float]]] = Field(
        description="[frames][rows][cols]: share of the score's query on each patch of each frame"
    )

    @classmethod
    def of(cls, explanation: Explanation) -> Self:
        return cls(
            product_id=explanation.picture.product_id,
            image_id=explanation.picture.image_id,
            frames=list(range(len(explanation.attention))),
            attention=explanation.attention.round(6).tolist(),
        )


class Timings(BaseModel):
    """Milliseconds."""

    queue: float = Field(description="from admission to the first work")
    decode: float
    detect: float
    encode: float
    search: float
    match: float
    total: float = Field(description="from the request's last byte to this answer")


class RecognizeAnswer(BaseModel):
    request_id: str
    shop_id: str
    bundle: str = Field(description="id of the model bundle that answered")
    decision: Decision | None = Field(description="null: the service is not sure enough")
    candidates: list[Candidate] = Field(description="best first; confidences and `none` sum to 1")
    clip: Clip
    explanation: Attention | None = Field(default=None, description="only with explain=true")
    partial: bool | None = Field(
        default=None, description="true where the clip was damaged or cut short"
    )
    search: Literal["exact", "ann"] = Field(
        description="exact: every picture of the shop was matched; ann: the nearest ones"
    )
    timings_ms: Timings

    @classmethod
    def of(
        cls,
        recognition: Recognition,
        *,
        request_id: str,
        shop_id: str,
        bundle_id: str,
        top_k: int,
        timings_ms: Mapping[str, float],
    ) -> Self:
        ranked = recognition.ranked
        answer = cls(
            request_id=request_id,
            shop_id=shop_id,
            bundle=bundle_id,
            decision=Decision(
                product_id=ranked[0].picture.product_id, confidence=ranked[0].confidence
            )
            if recognition.decided
            else None,
            candidates=[Candidate.of(shop_id, product) for product in ranked[:top_k]],
            clip=Clip.of(recognition),
            search="exact" if recognition.exact else "ann",
            timings_ms=Timings(**{stage: round(ms, 3) for stage, ms in timings_ms.items()}),
        )
        if recognition.heard is not None:
            answer.clip.speech = [Stretch(**said._asdict()) for said in recognition.heard]
        if recognition.explanation is not None:
            answer.explanation = Attention.of(recognition.explanation)
        if recognition.partial:
            answer.partial = True
        return answer

    def json_body(self) -> str:
        """Without `explanation` and `partial` where there are none; nulls with a meaning stay."""
        return self.model_dump_json(exclude_unset=True)


class ProductImage(BaseModel):
    image_id: str
    media_type: str
    bytes: int
    url: str


class Product(BaseModel):
    shop_id: str
    product_id: str
    title: str | None
    metadata: dict[str, Any] | None
    images: list[ProductImage]
    updated_at: datetime

    @classmethod
    def of(cls, record: ProductRecord) -> Self:
        return cls(
            shop_id=record.shop_id,
            product_id=record.product_id,
            title=record.title,
            metadata=record.metadata,
            images=[
                ProductImage(
                    **image.model_dump(),
                    url=image_url(record.shop_id, record.product_id, image.image_id),
                )
                for image in record.images
            ],
            updated_at=record.updated_at,
        )


class ProductPage(BaseModel):
    shop_id: str
    products: list[Product]
    next: str | None = Field(
        description="pass as `after` for the next page; null: this is the last"
    )


class JobAnswer(Job):
    summary: str = Field(examples=["9998 of 10000 searchable, 2 failed"])
    items: list[ItemResult] = Field(description="a page of them")
    next: int | None = Field(
        description="pass as `after` for the next page; null: this is the last"
    )

    @classmethod
    def of(cls, job: Job, items: list[ItemResult]) -> Self:
        last = items[-1].item if items else None
        counts = job.counts
        summary = f"{counts.done} of {counts.items} searchable, {counts.failed} failed"
        if counts.queued:
            summary += f", {counts.queued} still to be indexed"
        return cls(
            **dict(job),
            summary=summary,
            items=items,
            next=last if last is not None and last + 1 < counts.items else None,
        )


class JobPage(BaseModel):
    jobs: list[Job]


class Status(BaseModel):
    status: str


class Info(BaseModel):
    service: str = "lpr"
    version: str
    bundle: dict[str, Any] = Field(description="id, model, precision, dims, metrics of the export")
    inference: dict[str, Any] = Field(description="what the model really runs on")
    index: dict[str, Any]
    coordination: dict[str, Any]
    decoder: dict[str, Any] = Field(
        description="whether workers read clips, which decode only what the frames need, and why"
        " the last clip was decoded without one; layers of the decoder's sandbox, and which hold"
    )
    limits: dict[str, Any]


class Progress(BaseModel):
    done: int = Field(description="products")
    of: int


class BundleOnOffer(BaseModel):
    bundle: str = Field(description="id")
    role: Literal["active", "previous", "coming", "available"]
    model: dict[str, Any] | None = Field(description="null: it is not on this replica's shelf")
    progress: Progress | None = Field(description="of the coming one; null: not known just now")

    @classmethod
    def of(cls, state: BundleState) -> Self:
        manifest, progress = state.manifest, state.progress
        return cls(
            bundle=state.bundle_id,
            role=state.role,
            model=None if manifest is None else manifest.model.model_dump(),
            progress=None if progress is None else Progress(**progress._asdict()),
        )


class BundleList(BaseModel):
    serving: str = Field(description="the bundle that this replica answers with")
    bundles: list[BundleOnOffer]
    broken: dict[str, str] = Field(description="what is wrong with a folder, by its path")

    @classmethod
    def of(cls, state: State) -> Self:
        bundles = [BundleOnOffer.of(bundle) for bundle in state.bundles]
        return cls(serving=state.serving, bundles=bundles, broken=state.broken)
