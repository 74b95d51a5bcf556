"""Fixtures of the tests of reading videos."""

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from inti_models.data import decoding
from support.numbered import Encode, numbered_frame


@pytest.fixture
def encode(tmp_path: Path) -> Callable[..., Path]:
    """Encodes frames (H,W,3 arrays, or numbers for `numbered_frame`) to a file in `tmp_path`."""

    def encode(
        name: str,
        frames: Sequence[np.ndarray] | Sequence[int],
        *,
        codec: str = "libx264",
        pix_fmt: str = "yuv420p",
        fps: int = 25,
        pts: Sequence[int] | None = None,
        options: dict[str, str] | None = None,
        matrix: Sequence[int] | None = None,
        source_format: str = "rgb24",
    ) -> Path:
        if codec not in av.codecs_available:
            pytest.skip(f"this FFmpeg has no {codec} encoder")
        images = [numbered_frame(f) if isinstance(f, int) else f for f in frames]
        path = tmp_path / name
        with av.open(f"file:{path}", "w") as container:
            stream = container.add_stream(codec, rate=fps, options=options or {})
            stream.height, stream.width = images[0].shape[:2]
            stream.pix_fmt = pix_fmt
            if matrix is not None:
                stream.set_display_matrix(matrix)
            for k, image in enumerate(images):
                frame = av.VideoFrame.from_ndarray(image, format=source_format)
                frame.pts, frame.time_base = k if pts is None else pts[k], Fraction(1, fps)
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
        return path

    return encode


@pytest.fixture
def retime(encode: Encode) -> Callable[[Sequence[int]], Path]:
    """Makes a Matroska file whose frames, numbered from 0, have these times in milliseconds."""

    def retime(times: Sequence[int]) -> Path:
        source = encode("source.mkv", range(len(times)), options={"bf": "0", "g": "10"})
        path = source.with_name("retimed.mkv")
        with av.open(str(source)) as container, av.open(str(path), "w") as output:
            stream = output.add_stream_from_template(container.streams.video[0])
            for k, packet in enumerate(p for p in container.demux(video=0) if p.size):
                packet.pts = packet.dts = times[k]
                packet.time_base, packet.stream = Fraction(1, 1000), stream
                output.mux(packet)
        return path

    return retime


@pytest.fixture
def counted_frames(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for each frame that comes out of a decoder."""
    decoded: list[int] = []
    decode = decoding._decode

    def spy(context: object, packet: object) -> list:
        frames = decode(context, packet)
        decoded.extend(frame.pts for frame in frames)
        return frames

    monkeypatch.setattr(decoding, "_decode", spy)
    return decoded
