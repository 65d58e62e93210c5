"""Small data sets in LPR4M's layouts, written by hand: three clips of two livestreams."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

from PIL import Image

LIVES = ("aaaaaaaa-1111-2222-3333-444444444444", "bbbbbbbb-1111-2222-3333-444444444444")
CLIPS = (f"{LIVES[0]}-1000-5000", f"{LIVES[0]}-6000-9000", f"{LIVES[1]}-0-4000")
IMAGES = ("11111111-aaaa-bbbb-cccc-dddddddddddd", "22222222-aaaa-bbbb-cccc-dddddddddddd")
SHOWN = (IMAGES[0], IMAGES[0], IMAGES[1])  # by clip
PER_SHARD = 5
COLOURS = {IMAGES[0]: (250, 0, 0), IMAGES[1]: (0, 0, 250)}


def frames_of(clip: str, count: int = 4) -> list[str]:
    return [f"{clip}-{second:04d}" for second in range(count)]


def jpeg(colour: tuple[int, int, int], size: tuple[int, int] = (48, 64)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, "JPEG", quality=95)
    return file.getvalue()


def every_picture() -> dict[str, bytes]:
    """Frames of all clips in their product's colour, and the products' pictures."""
    pictures = {image: jpeg(COLOURS[image], (64, 64)) for image in IMAGES}
    for clip, image in zip(CLIPS, SHOWN, strict=True):
        pictures |= {frame: jpeg(COLOURS[image]) for frame in frames_of(clip)}
    return pictures


def sidecar(identity: str, key: str) -> bytes:
    told = {
        "url": f"https://pictures.example/{identity}.jpg", "key": key, "status": "success",
        "width": 48, "height": 64, "original_width": 540, "original_height": 720,
    }  # fmt: skip
    return json.dumps(told).encode()


def write_shards(
    folder: Path, pictures: dict[str, bytes], *, tar: bool, per_shard: int = 5
) -> None:
    """img2dataset's output, as tar files or as folders."""
    names = list(pictures)
    for shard, start in enumerate(range(0, len(names), PER_SHARD)):
        files = {}
        for place, name in enumerate(names[start : start + PER_SHARD]):
            key = f"{shard:05d}{place:04d}"
            files |= {f"{key}.jpg": pictures[name], f"{key}.json": sidecar(name, key)}
        place_of = folder / f"{shard:05d}"
        if tar:
            _write_tar(place_of.with_suffix(".tar"), files)
            continue
        place_of.mkdir(parents=True)
        for file, data in files.items():
            (place_of / file).write_bytes(data)


def _write_tar(path: Path, files: dict[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


def full_line(clip: str, image: str, boxes: str | None = None) -> str:
    frames = frames_of(clip)
    boxes = boxes or str([[0, 0, 270, 360]] * len(frames))  # pixels of 540 x 720
    fields = [clip, str(frames), boxes, image, "A title", "7", "Mugs", "look at this", "medium",
              "long", "few"]  # fmt: skip
    return "\t".join(fields)


def write_lpr4m(root: Path, *, tar: bool = True, lines: list[str] | None = None) -> Path:
    annotations = root / "annotations"
    annotations.mkdir(parents=True)
    lines = lines or [full_line(clip, image) for clip, image in zip(CLIPS, SHOWN, strict=True)]
    for part in range(2):
        text = "".join(f"{line}\n" for line in lines[part::2])
        (annotations / f"training_videoinfo_full_part_{part:02d}.txt").write_text(text)
    write_shards(root / "shards", every_picture(), tar=tar)
    _write_test(annotations)
    return root


def _write_test(annotations: Path) -> None:
    def write(name: str, told: object) -> None:
        (annotations / name).write_text(json.dumps(told))

    write("test_videoid_to_gtimage_2.json", {CLIPS[0]: [IMAGES[0]], CLIPS[2]: [IMAGES[1]]})
    write("test_liveid_to_gallery_2.json", {live: list(IMAGES) for live in LIVES})
    write("test_frameid2gtbox_2_2.json", {frames_of(CLIPS[0])[1]: [[0.1, 0.1, 0.6, 0.6]]})
    (annotations / "test_videoid_asr_2.txt").write_text(f"{CLIPS[0]}\tthis red one\n{CLIPS[2]}\t\n")
    (annotations / "test_image_title_1.txt").write_text(f"{IMAGES[0]}\tRed\u2028thing\n")
    urls = [f"https://pictures.example/{f}.jpg" for c in (CLIPS[0], CLIPS[2]) for f in frames_of(c)]
    (annotations / "test_frame_url_8.txt").write_text("\n".join(urls))


def write_lpr750k(root: Path) -> Path:
    annotations = root / "annotations"
    annotations.mkdir(parents=True)
    lines, queries = [], {}
    for name, data in every_picture().items():
        _write(root / _path_750k(name), data)
        if name not in IMAGES:
            _write(root / "query" / _query_750k(name), data)
    for clip, image in zip(CLIPS, SHOWN, strict=True):
        frames = [_path_750k(frame) for frame in frames_of(clip)]
        lines.append("\t".join([clip, str(frames), "-", image, _path_750k(image), "A title", "7",
                                "Mugs", f"spu-{image[0]}", "look at this"]))  # fmt: skip
        shown = [_query_750k(frame) for frame in frames_of(clip)]
        queries[clip] = {"frames": shown, "gt": [image]}
    (annotations / "training_videoinfo_750k.txt").write_text("\n".join(lines))
    (annotations / "testset_query_3.json").write_text(json.dumps(queries))
    gallery = [f"{live}/{image}-0.jpg" for live in LIVES for image in IMAGES]
    (annotations / "testset_gallery_4.txt").write_text("\n".join(gallery))
    for line in gallery:
        _write(root / "gallery" / line, jpeg(COLOURS[Path(line).stem.removesuffix("-0")]))
    return root


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def _query_750k(frame: str) -> str:
    return f"{frame.rpartition('-')[0]}/{frame}.jpg"


def _path_750k(name: str) -> str:
    if name in IMAGES:
        return f"training_image/{name}.jpg"
    return f"training_video_00/{_query_750k(name)}"
