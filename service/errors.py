"""Every error the service answers with: one tree, each leaf with its problem type and status.

Knows nothing of HTTP frameworks: `service.api` turns these into RFC 9457 problem documents.
Every foreign exception (pymilvus, redis, onnxruntime, Pillow, ffmpeg) is mapped to one of these
where it is caught.
"""

from __future__ import annotations


class LPRError(Exception):
    """Base of all errors with a meaning to the caller.

    `detail` says what happened and what to do about it; `pointer` is the JSON pointer of the
    offending field, where there is one.
    """

    slug = "internal"
    status = 500
    title = "Internal error"
    retry_after_s: int | None = None

    def __init__(self, detail: str, *, pointer: str | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.pointer = pointer


class BadInputError(LPRError):
    """The request itself is at fault; sending it again unchanged cannot succeed."""

    slug, status, title = "validation", 422, "Invalid request"


class ClipError(BadInputError):
    slug, title = "clip-undecodable", "The clip could not be decoded"


class ClipEmptyError(ClipError):
    slug, title = "clip-empty", "The clip is empty"


class ClipFormatError(ClipError):
    slug, title = "clip-format-unsupported", "The clip's container is not supported"


class ClipCodecError(ClipError):
    slug, title = "clip-codec-unsupported", "The clip's video codec is not supported"


class ClipTooLargeError(ClipError):
    slug, title = "clip-dimensions-too-large", "The clip's frames are too large"


class ClipNoVideoError(ClipError):
    slug, title = "clip-no-video", "The clip has no video stream"


class ClipTooManyStreamsError(ClipError):
    slug, title = "clip-too-many-streams", "The clip has too many streams"


class ClipEncryptedError(ClipError):
    slug, title = "clip-encrypted", "The clip is encrypted"


class ImageError(BadInputError):
    slug, title = "image-undecodable", "The image could not be decoded"


class ImageFormatError(ImageError):
    slug, status, title = "image-format-unsupported", 415, "The image's format is not supported"


class ImageTooLargeError(ImageError):
    slug, title = "image-dimensions-too-large", "The image has too many pixels"


class ImageTooSmallError(ImageError):
    slug, title = "image-too-small", "The image is too small to show a product"


class ImageAnimatedError(ImageError):
    slug, title = "image-animated", "Animated images are not supported"


class ImageMetadataError(ImageError):
    slug, title = "image-metadata-too-large", "The image's metadata is too large"


class MetadataTooLargeError(BadInputError):
    slug, title = "metadata-too-large", "The metadata is too large"


class UrlNotAllowedError(BadInputError):
    slug, title = "url-not-allowed", "This address is not fetched"


class UrlFetchError(BadInputError):
    slug, title = "url-not-fetched", "The address gave no picture"


class TextUnsupportedError(BadInputError):
    slug, title = "text-unsupported-by-bundle", "The bundle has no text encoder"


class MalformedRequestError(BadInputError):
    slug, status, title = "malformed-request", 400, "The request could not be read"


class MalformedJsonError(MalformedRequestError):
    slug, title = "malformed-json", "The JSON body could not be read"


class MalformedMultipartError(MalformedRequestError):
    slug, title = "malformed-multipart", "The multipart body could not be read"


class TooManyPartsError(MalformedRequestError):
    slug, title = "too-many-parts", "The multipart body has too many parts"


class RequestTimeoutError(MalformedRequestError):
    slug, status, title = "request-timeout", 408, "The request body took too long to arrive"


class ClientLeftError(MalformedRequestError):
    """Nobody reads this answer; it tells the metrics that the service was not at fault."""

    slug, status, title = "client-left", 499, "The client left while its request was read"


class UnsupportedMediaTypeError(BadInputError):
    slug, status, title = "unsupported-media-type", 415, "Unsupported content type"


class EncodingUnsupportedError(BadInputError):
    slug, status, title = "encoding-unsupported", 415, "Content encodings are not supported"


class BodyTooLargeError(BadInputError):
    slug, status, title = "body-too-large", 413, "The request body is too large"


class UnauthorizedError(BadInputError):
    slug, status, title = "unauthorized", 401, "No valid key"


class ForbiddenError(BadInputError):
    slug, status, title = "forbidden", 403, "The key does not allow this"


class BatchError(BadInputError):
    slug, title = "batch-unreadable", "The batch could not be read"


class BatchEmptyError(BatchError):
    slug, title = "batch-empty", "The batch is empty"


class BatchTooLargeError(BatchError):
    slug, status, title = "batch-too-large", 413, "The batch is too large"


class DuplicateInBatchError(BatchError):
    slug, title = "duplicate-in-batch", "The batch has a product twice"


class ArchiveUnreadableError(BatchError):
    slug, title = "archive-unreadable", "The archive could not be read"


class ArchiveUnsafeError(BatchError):
    slug, title = "archive-unsafe", "The archive is not what a batch of pictures looks like"


class NotFoundError(BadInputError):
    slug, status, title = "not-found", 404, "Not found"


class ProductNotFoundError(NotFoundError):
    slug, title = "product-not-found", "No such product"


class ShopNotFoundError(NotFoundError):
    """The same words whether the shop is absent or another's: nobody can tell which."""

    slug, title = "shop-not-found", "No such shop"

    def __init__(self, shop_id: str) -> None:
        super().__init__(
            f"there is no shop {shop_id!r}; POST /gallery of a first product makes one"
        )


class JobNotFoundError(NotFoundError):
    """The same words whether the job is absent or another's."""

    slug, title = "job-not-found", "No such job"

    def __init__(self, job_id: str) -> None:
        super().__init__(f"there is no job {job_id[:100]!r}; jobs are not kept for ever")


class BundleNotFoundError(NotFoundError):
    slug, title = "bundle-not-found", "No such bundle"


class BundleRefusedError(BadInputError):
    """`BundleError` as an answer: somebody asked for this bundle."""

    slug, title = "bundle-invalid", "The model bundle cannot be trusted"


class BundleInUseError(BadInputError):
    slug, status, title = "bundle-in-use", 409, "The bundle is being served"


class NoPreviousBundleError(BadInputError):
    slug, status, title = "no-previous-bundle", 409, "There is no bundle to go back to"


class IdempotencyKeyInvalidError(BadInputError):
    slug, status, title = "idempotency-key-invalid", 400, "The Idempotency-Key is not valid"


class IdempotencyInProgressError(BadInputError):
    slug, status, title = "idempotency-in-progress", 409, "A request with this key is in progress"
    retry_after_s = 1


class IdempotencyKeyReusedError(BadInputError):
    slug, status, title = "idempotency-key-reused", 422, "This Idempotency-Key had another body"


class OverloadedError(LPRError):
    slug, status, title = "overloaded", 429, "Too many requests in flight"
    retry_after_s = 1


class DeadlineExceededError(LPRError):
    slug, status, title = "deadline-exceeded", 504, "The request took too long"
    retry_after_s = 2


class UnavailableError(LPRError):
    """A part the service stands on does not answer; the same request may succeed later."""

    slug, status, title = "unavailable", 503, "Temporarily unavailable"
    retry_after_s = 2


class NotReadyError(UnavailableError):
    slug, title = "not-ready", "The service is starting or stopping"


class CatalogueUnavailableError(UnavailableError):
    slug, title = "catalogue-unavailable", "The catalogue's storage does not answer"


class CoordinationError(UnavailableError):
    """Redis does not answer; never shown to a caller, for the API works on without it."""

    slug, title = "coordination-unavailable", "Redis does not answer"


class IndexUnavailableError(UnavailableError):
    slug, title = "index-unavailable", "The vector index does not answer"


class NotIndexedYetError(IndexUnavailableError):
    """The product is durable; its rows follow as soon as the index takes them."""


class BusyError(UnavailableError):
    slug, title = "busy", "Another write of the same product is in progress"
    retry_after_s = 1


class NoRoomError(UnavailableError):
    slug, title = "no-room", "There is no room for the body while it arrives"
    retry_after_s = 30


class InferenceError(UnavailableError):
    slug, title = "inference-failed", "The model could not be run"


class GivenUpError(LPRError):
    """Told of an item of a job, never a request's answer."""

    slug, title = "given-up", "Given up after several attempts"


class StorageFullError(LPRError):
    slug, status, title = "storage-full", 507, "The catalogue's storage is full"
    retry_after_s = 30


class StartupError(LPRError):
    """The service cannot start as configured; shown to the operator, never to a caller."""

    slug, title = "startup", "The service cannot start"


class KeysError(StartupError):
    slug, title = "keys-invalid", "The file of keys cannot be used"


class BundleError(StartupError):
    slug, title = "bundle-invalid", "The model bundle cannot be trusted"


class DemoError(LPRError):
    """The demo cannot show what it was asked for; never an answer of the service."""

    slug, title = "demo", "The demo cannot go on"


class BenchError(LPRError):
    """A figure cannot be taken as it was asked for; never an answer of the service."""

    slug, title = "bench", "The bench cannot go on"


class RivalMissingError(BenchError):
    """torch cannot be asked on this machine, or not for this bundle."""
