"""`POST /recognize`: one clip in, one answer out."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from service.api.access import Recognizing
from service.api.forms import (
    MAX_FILES,
    Form,
    file_schema,
    files_schema,
    multipart_schema,
    read_form,
)
from service.api.problems import documented
from service.api.schemas import RecognizeAnswer
from service.api.state import service_of
from service.errors import BadInputError, TextUnsupportedError
from service.fields import Identifier
from service.recognition import Query, Recognition, Stopwatch

router = APIRouter(tags=["recognize"])


class RecognizeFields(BaseModel):
    model_config = ConfigDict(extra="forbid")

    shop_id: Identifier
    top_k: Annotated[int, Field(ge=1, le=100, description="candidates in the answer")] = 5
    detect: Annotated[
        bool,
        Field(description="look for the product's box first; only with a detector in the bundle"),
    ] = True
    explain: Annotated[bool, Field(description="also say where in the clip it was seen")] = False
    speech: Annotated[
        str | None,
        Field(
            description="what is being said, in any script; only with a text encoder in the bundle."
            " `/info` tells how much of it, from its beginning, is read"
        ),
    ] = None


_FILES = {
    "clip": file_schema("a video file; send this or `frames`"),
    "frames": files_schema("pictures in the order they were filmed; send these or `clip`"),
}


@router.post(
    "/recognize",
    summary="Recognise the product shown in a clip",
    response_model=RecognizeAnswer,
    responses=documented(400, 401, 403, 404, 408, 413, 415, 422, 429, 503, 504),
    openapi_extra={
        "requestBody": multipart_schema(
            RecognizeFields, _FILES, oneOf=[{"required": ["clip"]}, {"required": ["frames"]}]
        )
    },
)
async def recognize(request: Request, key: Recognizing) -> Response:
    """The decision names the best candidate if its calibrated confidence is high enough, else it
    is null. Scores and confidences of the best `top_k` candidates come with it in any case.

    The headers x-queue-time, x-inference-time and x-total-time are in milliseconds.
    """
    service = service_of(request)
    serving = service.parts.bundles.serving  # to the end, whatever takes its place meanwhile
    with service.recognitions.admit():
        form = await read_form(
            request,
            RecognizeFields,
            {"clip": 1, "frames": MAX_FILES},
            service.settings.body_timeout_s,
            service.settings.spool_dir,
        )
        key.check_shop(form.fields.shop_id)
        query = _query(form, reads=serving.model.manifest.text is not None)
        watch = Stopwatch()

        def work() -> Recognition:
            watch.begin()
            return serving.recognizer.recognize(query, watch)

        recognition = await service.recognitions.run(work)
    watch.end()
    bundle_id = serving.bundle_id
    service.telemetry.recognized(
        {"receive": 1e3 * (watch.asked - request.state.started), **watch.ms},
        [product.confidence for product in recognition.ranked],
        decided=recognition.decided,
        shop_id=query.shop_id,
        bundle_id=bundle_id,
    )
    answer = RecognizeAnswer.of(
        recognition,
        request_id=request.state.request_id,
        shop_id=query.shop_id,
        bundle_id=bundle_id,
        top_k=form.fields.top_k,
        timings_ms=watch.ms,
    )
    inference_ms = sum(watch.ms[stage] for stage in ("detect", "encode", "match"))
    headers = {
        "x-queue-time": f"{watch.ms['queue']:.3f}",
        "x-inference-time": f"{inference_ms:.3f}",
    }
    return Response(answer.json_body(), headers=headers, media_type="application/json")


def _query(form: Form[RecognizeFields], *, reads: bool) -> Query:
    if form.fields.speech is not None and not reads:
        raise TextUnsupportedError(
            "this bundle has no text encoder; send the clip without speech", pointer="/speech"
        )
    clips, pictures = form.files["clip"], form.files["frames"]
    if bool(clips) == bool(pictures):
        raise BadInputError(
            "/clip: send a video file as `clip`, or pictures as `frames`", pointer="/clip"
        )
    return Query(
        shop_id=form.fields.shop_id,
        clip=clips[0] if clips else None,
        pictures=pictures,
        explain=form.fields.explain,
        detect=form.fields.detect,
        speech=form.fields.speech,
    )
