"""The do-it-yourself service: what one writes in an afternoon, as a rival to measure against.

A CLIP-like encoder, the frames of a clip pooled by their mean, Milvus for the search, FastAPI in
front. Frames by OpenCV, which decodes the whole clip. Written as well as such a thing is: the
pictures are encoded in one batch, nothing is loaded twice, only the chosen frames are converted.

    python deploy/bench/diy.py WEIGHTS PORT

WEIGHTS is a checkpoint, which torch runs, or a bundle, whose image encoder onnxruntime runs.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import cv2
import numpy as np
import numpy.typing as npt
import onnxruntime as ort
import torch
import uvicorn
from fastapi import FastAPI, Form, UploadFile
from PIL import Image, ImageOps
from pymilvus import MilvusClient

from training import checkpoint
from training.data.transforms import normalise

FRAMES = 10
TOP_K = 5
DTYPES = {"tensor(float)": np.float32, "tensor(bool)": np.bool_}  # of titles' inputs

Pixels = npt.NDArray[np.uint8]
Vectors = npt.NDArray[np.float32]


def open_encoder(weights: Path) -> tuple[Callable[[Pixels], Vectors], int]:
    """Pictures uint8 [B,S,S,3] -> embeddings [B,E], not normalised where torch runs them; and S."""
    if weights.is_dir():
        session = ort.InferenceSession(weights / "image_encoder.onnx")
        first, *titles = session.get_inputs()

        def encode_untitled(pictures: Pixels) -> Vectors:
            none = {
                each.name: np.zeros((len(pictures), *each.shape[1:]), DTYPES[each.type])
                for each in titles
            }
            embeddings: Vectors = session.run(["embedding"], {first.name: pictures, **none})[0]
            return embeddings

        return encode_untitled, int(first.shape[1])
    model = checkpoint.load(weights).model()

    @torch.inference_mode()
    def encode(pictures: Pixels) -> Vectors:
        embeddings: Vectors = model.encode(normalise(torch.tensor(pictures)))[0].numpy()
        return embeddings

    return encode, model.config.encoder.image_size


def create_app(weights: Path, folder: Path) -> FastAPI:
    encode, size = open_encoder(weights)
    milvus = MilvusClient(str(folder / "diy.db"))
    width = encode(np.zeros((1, size, size, 3), np.uint8)).shape[1]
    milvus.create_collection("products", dimension=width, metric_type="COSINE", auto_id=True)
    app = FastAPI()

    def fitted(picture: Image.Image) -> Pixels:
        square = ImageOps.fit(picture.convert("RGB"), (size, size), Image.Resampling.BICUBIC)
        return np.asarray(square)

    @app.get("/ready")
    def ready() -> dict[str, bool]:
        return {"ready": True}

    @app.post("/gallery")
    def put(
        shop_id: Annotated[str, Form()], product_id: Annotated[str, Form()], image: UploadFile
    ) -> dict[str, str]:
        embedding = encode(fitted(Image.open(image.file))[None])[0]
        row = {"vector": embedding.tolist(), "shop_id": shop_id, "product_id": product_id}
        milvus.insert("products", [row])
        return {"product_id": product_id}

    @app.post("/recognize")
    def recognize(shop_id: Annotated[str, Form()], clip: UploadFile) -> dict[str, Any]:
        with tempfile.NamedTemporaryFile(suffix=".mp4") as file:
            file.write(clip.file.read())
            file.flush()
            frames = [fitted(Image.fromarray(frame)) for frame in read_frames(file.name)]
        pooled = encode(np.stack(frames)).mean(axis=0)
        [hits] = milvus.search(
            "products",
            [pooled.tolist()],
            filter=f'shop_id == "{shop_id}"',
            limit=TOP_K,
            output_fields=["product_id"],
        )
        found = [{"product_id": h["entity"]["product_id"], "score": h["distance"]} for h in hits]
        return {"candidates": found}

    return app


def read_frames(path: str) -> list[Pixels]:
    """The middles of `FRAMES` equal parts, RGB [H,W,3]."""
    video = cv2.VideoCapture(path)
    try:
        count = int(video.get(cv2.CAP_PROP_FRAME_COUNT))
        wanted = {int((part + 0.5) * count / FRAMES) for part in range(FRAMES)}
        frames, place = [], 0
        while video.grab():
            if place in wanted:
                _, frame = video.retrieve()
                frames.append(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB))
            place += 1
        return frames
    finally:
        video.release()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        rival = create_app(Path(sys.argv[1]), Path(scratch))
        uvicorn.run(rival, host="127.0.0.1", port=int(sys.argv[2]), log_level="warning")
