"""This service against the do-it-yourself one (`diy.py`), on the same pictures and clips.

    python deploy/bench/against_diy.py --weights CKPT --bundle BUNDLE [--int8 BUNDLE] \
        [--data FOLDER] [--clips N]

Clips/s: both with one model of full size (CKPT in torch, and BUNDLE, exported from it, as it is
and in int8), all warm, by turns, each from clients that send one clip after the other, of a short
clip and of a longer one: how much of a clip need not be decoded grows with its length. Accuracy:
both with the encoder of the default bundle, so that what differs is what is done with it; clips
filmed from photographs as `lpr demo` does. One JSON object on standard output.
"""

from __future__ import annotations

import argparse
import json
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import httpx

from service.bench import material
from service.bench.recognize import bench_clip
from service.bench.traffic import Prepared, closed_loop
from service.demo.layout import ShopItem, Take, read_shop, read_takes, spread
from service.demo.made import make_dataset
from service.demo.session import entries, film_all, index, recognise
from service.launch import running_service
from service.settings import DEFAULT_BUNDLE

SEED = 1000
MADE_PRODUCTS = 60
SHOP_PICTURES = 60
CLIENTS = 4
ROUNDS = 2
CLIPS_S = (10, 30)  # 720p
START_S = 120.0


@contextmanager
def running_diy(weights: Path) -> Iterator[httpx.Client]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    script = Path(__file__).with_name("diy.py")
    child = subprocess.Popen([sys.executable, str(script), str(weights), str(port)])  # noqa: S603
    try:
        with httpx.Client(
            base_url=f"http://127.0.0.1:{port}", timeout=120.0, trust_env=False
        ) as client:
            _wait(client, child)
            yield client
    finally:
        child.terminate()
        child.wait()


def _wait(client: httpx.Client, child: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and child.poll() is None:
        try:
            client.get("/ready")
        except httpx.TransportError:
            time.sleep(0.1)
        else:
            return
    raise RuntimeError("the do-it-yourself service did not start")


def clips_per_s(weights: Path, bundles: Mapping[str, Path], seconds: float) -> dict[str, Any]:
    """Of this service with each bundle and of the other, by the length of the clip, in seconds."""
    pictures = list(islice(cycle(material.jpegs()), SHOP_PICTURES))
    with ExitStack() as running:
        urls = {}
        for name, bundle in bundles.items():
            folder = Path(running.enter_context(tempfile.TemporaryDirectory()))
            ours = running.enter_context(
                running_service(folder, LPR_BUNDLE=bundle, LPR_DEADLINE_S=60)
            )
            for place, picture in enumerate(pictures):
                ours.put_product("bench", f"{place}", [picture])
            urls[name] = ours.base_url
        diy = running.enter_context(running_diy(weights))
        for place, picture in enumerate(pictures):
            _put_diy(diy, "bench", f"{place}", picture)
        urls["diy"] = str(diy.base_url).rstrip("/")
        return {f"{clip_s}": _by_turns(urls, _recognition(clip_s), seconds) for clip_s in CLIPS_S}


def _recognition(clip_s: float) -> Prepared:
    with tempfile.TemporaryDirectory() as folder:
        clip = bench_clip(Path(folder), clip_s).read_bytes()
    return Prepared.post(
        "/recognize", data={"shop_id": "bench"}, files={"clip": ("clip.mp4", clip)}
    )


def _by_turns(urls: Mapping[str, str], request: Prepared, seconds: float) -> dict[str, Any]:
    """Clips/s of each service, and how many requests of each were not answered."""
    turns = [
        {name: _reached(url, request, seconds) for name, url in urls.items()}
        for _ in range(1 + ROUNDS)
    ][1:]  # the first warms up
    return {
        **{name: statistics.median(turn[name][0] for turn in turns) for name in urls},
        "failed": {name: sum(turn[name][1] for turn in turns) for name in urls},
    }


def _reached(url: str, request: Prepared, seconds: float) -> tuple[float, int]:
    """Answers/s, and how many were none."""
    begun = time.perf_counter()
    samples = closed_loop(url, [request], lanes=CLIENTS, for_s=seconds)
    answered = len(samples.of(httpx.codes.OK))
    return answered / (time.perf_counter() - begun), len(samples) - answered


def accuracy(data: Path | None, clips: int) -> dict[str, Any]:
    """R@1 and R@5 of both services, and on how many they differ."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = data or _made(Path(scratch) / "made")
        shop = read_shop(folder)
        takes = spread(read_takes(folder, shop), clips)
        filmed = film_all(takes, Path(scratch) / "clips", SEED)
        ours = _ours(Path(scratch) / "service", shop, takes, filmed)
        diy = _diy(shop, takes, filmed)
    truth = [take.item.name for take in takes]
    return {
        "clips": len(takes),
        "products": len(shop),
        "data": "photographs" if data else "made products",
        "ours": _recall(ours, truth),
        "diy": _recall(diy, truth),
        "only_ours_right": _only(ours, diy, truth),
        "only_diy_right": _only(diy, ours, truth),
    }


def _made(folder: Path) -> Path:
    make_dataset(folder, products=MADE_PRODUCTS, photographs=5, seed=SEED, split="test", size=400)
    return folder


def _ours(
    data_dir: Path, shop: Sequence[ShopItem], takes: Sequence[Take], clips: Sequence[Path]
) -> list[list[str]]:
    with running_service(data_dir, LPR_BUNDLE=DEFAULT_BUNDLE) as client:
        index(client, entries(shop, []))
        return [list(row.ranking) for row in recognise(client, takes, clips)]


def _diy(shop: Sequence[ShopItem], takes: Sequence[Take], clips: Sequence[Path]) -> list[list[str]]:
    with running_diy(DEFAULT_BUNDLE) as client:
        for item in shop:
            _put_diy(client, "demo", item.name, item.picture.read_bytes())
        return [_recognize_diy(client, clip) for clip in clips]


def _put_diy(client: httpx.Client, shop_id: str, product_id: str, picture: bytes) -> None:
    fields = {"shop_id": shop_id, "product_id": product_id}
    client.post("/gallery", data=fields, files={"image": picture}).raise_for_status()


def _recognize_diy(client: httpx.Client, clip: Path) -> list[str]:
    files = {"clip": ("clip.mp4", clip.read_bytes())}
    answer = client.post("/recognize", data={"shop_id": "demo"}, files=files).raise_for_status()
    return [candidate["product_id"] for candidate in answer.json()["candidates"]]


def _recall(rankings: Sequence[Sequence[str]], truth: Sequence[str]) -> dict[str, float]:
    return {
        f"r{k}": statistics.mean(
            right in ranked[:k] for ranked, right in zip(rankings, truth, strict=True)
        )
        for k in (1, 5)
    }


def _only(
    rankings: Sequence[Sequence[str]], others: Sequence[Sequence[str]], truth: Sequence[str]
) -> int:
    """Clips that the first puts right and the second does not."""
    pairs = zip(rankings, others, truth, strict=True)
    return sum(mine[:1] == [right] != other[:1] for mine, other, right in pairs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=Path, required=True, help="a checkpoint of full size")
    parser.add_argument("--bundle", type=Path, required=True, help="exported from it")
    parser.add_argument("--int8", type=Path, help="the same in int8")
    parser.add_argument("--data", type=Path, help="photographs; without it made products")
    parser.add_argument("--clips", type=int, default=120, help="for the accuracy")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each turn")
    given = parser.parse_args()
    bundles = {"ours": given.bundle, **({"int8": given.int8} if given.int8 else {})}
    found = {
        "clips_per_s": clips_per_s(given.weights, bundles, given.seconds),
        "accuracy": accuracy(given.data, given.clips),
    }
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
