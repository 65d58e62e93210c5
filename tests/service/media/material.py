"""Clips and pictures for the tests: good ones made by ffmpeg and Pillow, bad ones by hand."""

from __future__ import annotations

import shutil
import socket
import struct
import subprocess
import threading
import zlib
from io import BytesIO
from pathlib import Path

import imageio_ffmpeg
import numpy as np
from PIL import Image

DARKEST, LIGHTEST = 40.0, 200.0  # luma at the beginning and at the end of a clock clip


def ffmpeg(*arguments: str) -> None:
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-nostdin", "-v", "error", "-y", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


def lavfi(source: str, path: Path, *arguments: str) -> bytes:
    """A clip of an ffmpeg test source."""
    ffmpeg("-f", "lavfi", "-i", source, *arguments, str(path))
    return path.read_bytes()


def clock(seconds: float, *, fps: float = 25, size: str = "96x64") -> str:
    """A source that grows brighter in proportion to time, so that a frame tells when it was."""
    slope = (LIGHTEST - DARKEST) / seconds
    return f"nullsrc=s={size}:r={fps}:d={seconds},geq=lum='{DARKEST}+T*{slope}':cb=128:cr=128"


def times_shown(pixels: np.ndarray, seconds: float) -> np.ndarray:
    """When each frame of a clock clip was, in seconds, read off its brightness."""
    luma = pixels.mean(axis=(1, 2, 3)) * 219 / 255 + 16
    return (luma - DARKEST) / (LIGHTEST - DARKEST) * seconds


def mkv_with_duration(mkv: bytes, seconds: float) -> bytes:
    """A Matroska file whose header claims to last `seconds`."""
    element = b"\x44\x89\x88"  # Duration, a float of 8 bytes, in milliseconds
    at = mkv.index(element) + len(element)
    return mkv[:at] + struct.pack(">d", seconds * 1000) + mkv[at + 8 :]


def mp4_with_duration(mp4: bytes, factor: float) -> bytes:
    """An MP4 whose headers claim `factor` times its duration; its sample tables stay true."""
    changed = bytearray(mp4)
    for box, offset in ((b"mvhd", 20), (b"mdhd", 20), (b"tkhd", 24)):
        at = mp4.index(box) + offset
        (duration,) = struct.unpack_from(">I", mp4, at)
        struct.pack_into(">I", changed, at, round(duration * factor))
    return bytes(changed).replace(b"edts", b"free")  # an edit list would really cut the clip


def stub(folder: Path, body: str) -> str:
    """A shell script that passes for ffmpeg when asked for its protocols, and then does `body`."""
    path = folder / "stub"
    lines = ["#!/bin/sh", f'[ "$2" = -protocols ] && echo fd && exit 0\n{body}']
    path.write_text("\n".join(lines) + "\n")
    path.chmod(0o755)
    assert shutil.which("sh")
    return str(path)


def picture(width: int = 64, height: int = 48, mode: str = "RGB") -> Image.Image:
    """A picture whose quarters differ: red, green / blue, white."""
    pixels = np.full((height, width, 3), 255, np.uint8)
    pixels[: height // 2, : width // 2] = (255, 0, 0)
    pixels[: height // 2, width // 2 :] = (0, 255, 0)
    pixels[height // 2 :, : width // 2] = (0, 0, 255)
    return Image.fromarray(pixels).convert(mode)


def encoded(image: Image.Image, format_name: str, **options: object) -> bytes:
    buffer = BytesIO()
    image.save(buffer, format_name, **options)
    return buffer.getvalue()


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_with(chunk: bytes, image: Image.Image | None = None) -> bytes:
    """A PNG with one more chunk behind its header."""
    data = encoded(image or picture(), "PNG")
    return data[:33] + chunk + data[33:]


def png_bomb(side: int) -> bytes:
    """A black one-bit PNG of side x side pixels."""
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    deflate = zlib.compressobj(9)
    row = bytes(1 + (side + 7) // 8)
    packed = b"".join(deflate.compress(row * 500) for _ in range(side // 500)) + deflate.flush()
    chunks = [(b"IHDR", header), (b"IDAT", packed), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*chunk) for chunk in chunks)


def animated_png(frames: int) -> bytes:
    """A PNG that says it has `frames` frames, and has them: the same picture again and again."""
    still = encoded(picture(), "PNG")
    head, pixels = still[:33], still[33:-12]
    length = struct.unpack(">I", pixels[:4])[0]
    data = pixels[8 : 8 + length]
    control = struct.Struct(">IIIIIHHBB")

    def frame(number: int) -> bytes:
        said = control.pack(2 * number - 1, 64, 48, 0, 0, 1, 25, 0, 0)
        return png_chunk(b"fcTL", said) + png_chunk(b"fdAT", struct.pack(">I", 2 * number) + data)

    first = png_chunk(b"acTL", struct.pack(">II", frames, 0))
    first += png_chunk(b"fcTL", control.pack(0, 64, 48, 0, 0, 1, 25, 0, 0)) + pixels
    return head + first + b"".join(frame(number) for number in range(1, frames)) + still[-12:]


def jpeg_with_segments(marker: int, count: int) -> bytes:
    """A JPEG with `count` application segments of 65,533 bytes each."""
    data = encoded(picture(), "JPEG")
    segment = bytes([0xFF, marker]) + struct.pack(">H", 65_535) + b"Exif\0\0" + bytes(65_527)
    return data[:2] + segment * count + data[2:]


class Listener:
    """Counts the connections made to a loopback port."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._socket.settimeout(0.05)
        self.port = self._socket.getsockname()[1]
        self.connections = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._accept)

    def __enter__(self) -> Listener:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._socket.close()

    def _accept(self) -> None:
        while not self._stop.is_set():
            try:
                self._socket.accept()[0].close()
            except TimeoutError:
                continue
            self.connections += 1


def playlists(target: str) -> dict[str, bytes]:
    """Files that name another file or address to be played in their place."""
    texts = {
        "hls": f"#EXTM3U\n#EXT-X-TARGETDURATION:4\n#EXTINF:4,\n{target}\n#EXT-X-ENDLIST\n",
        "hls key": "#EXTM3U\n#EXT-X-TARGETDURATION:4\n"
        f'#EXT-X-KEY:METHOD=AES-128,URI="{target}"\n#EXTINF:4,\n{target}\n#EXT-X-ENDLIST\n',
        "ffconcat": f"ffconcat version 1.0\nfile '{target}'\n",
        "dash": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
        'mediaPresentationDuration="PT4S"><Period><AdaptationSet mimeType="video/mp4">'
        f'<Representation id="1" bandwidth="1"><BaseURL>{target}</BaseURL><SegmentList>'
        f'<SegmentURL media="{target}"/></SegmentList></Representation></AdaptationSet></Period>'
        "</MPD>",
        "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\n"
        "m=video 5004 RTP/AVP 96\na=rtpmap:96 H264/90000\n",
    }
    return {name: text.encode() for name, text in texts.items()}
