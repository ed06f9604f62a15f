"""Episodes as H.264 video."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from embodied.core.types import UserError
from embodied.report.files import extra, replacing

# Every browser plays H.264; VP9 is for builds of FFmpeg without an H.264 encoder.
ENCODERS = (
    ("libx264", {"crf": "20"}),
    ("libopenh264", {"b": "2M"}),
    ("libvpx-vp9", {"crf": "24", "b": "0"}),
)


def write_video(path: str | Path, frames: Iterable[np.ndarray], fps: float) -> Path:
    """Write frames as an mp4 that starts playing before it is fully loaded; atomic.

    Odd heights and widths, which 4:2:0 colour cannot hold, are extended by one pixel.

    Args:
        path: the file; its folder is made if missing.
        frames: uint8 [H, W, 3], all of one shape; at least one.
        fps: frames per second.

    Raises:
        ValueError: no frames, or a frame of another shape or type.
        UserError: PyAV is not installed or has no encoder that browsers play.
    """
    av = extra("av")
    path = Path(path)
    codec, options = _encoder(av)
    shape, count = None, 0
    with (
        replacing(path) as temporary,
        av.open(str(temporary), "w", format="mp4", options={"movflags": "faststart"}) as container,
    ):
        stream = container.add_stream(codec, rate=Fraction(fps).limit_denominator(1001))
        stream.pix_fmt, stream.options = "yuv420p", options
        for frame in frames:
            frame = np.asarray(frame)
            if shape is None:
                _check_frame(frame)
                shape = frame.shape
                stream.height, stream.width = (n + n % 2 for n in shape[:2])
            if frame.shape != shape or frame.dtype != np.uint8:
                raise ValueError(
                    f"frame {count} of {path} is {frame.dtype}{list(frame.shape)}, "
                    f"the first was uint8{list(shape)}"
                )
            image = av.VideoFrame.from_ndarray(_even(frame), format="rgb24")
            container.mux(stream.encode(image))
            count += 1
        if not count:
            raise ValueError(f"no frames for {path}")
        container.mux(stream.encode())
    return path


def _encoder(av: Any) -> tuple[str, dict[str, str]]:
    for codec, options in ENCODERS:
        if codec in av.codecs_available:
            return codec, dict(options)
    names = ", ".join(name for name, _ in ENCODERS)
    raise UserError(
        f'this PyAV has none of the encoders {names}; its wheels do: pip install "embodied[report]"'
    )


def _check_frame(frame: np.ndarray) -> None:
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
        raise ValueError(f"a frame must be uint8 [H, W, 3], got {frame.dtype}{list(frame.shape)}")


def _even(frame: np.ndarray) -> np.ndarray:
    height, width = frame.shape[:2]
    padding = ((0, height % 2), (0, width % 2), (0, 0))
    return np.ascontiguousarray(np.pad(frame, padding, mode="edge"))
