"""Pictures of an episode as an mp4 file, through PyAV.

H.264 with a key frame at every second picture, as LeRobot asks of its videos: any picture is then
at most two decodings away. No B-frames, so that picture i of an episode is at i / fps exactly.
"""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from embodied.data.layout import DatasetError

CODEC = "libx264"
OPTIONS = {"crf": "18", "g": "2", "bf": "0", "preset": "fast", "threads": "1"}
# Between key frames this near there is nothing to look ahead to, and in pictures of 16x16 x264's
# look-ahead reads memory that it never wrote: the same pictures gave other bytes now and then.
OPTIONS["rc-lookahead"] = "0"
STATISTICS_FROM = 100  # pictures of an episode
Stats = dict[str, np.ndarray]


def pyav() -> Any:
    """The av package, imported on first use.

    Raises:
        ImportError: it is not installed.
    """
    try:
        import av
    except ImportError as error:
        raise ImportError(
            'videos need PyAV, which is missing: pip install "embodied[report]"', name="av"
        ) from error
    return av


def pixel_format(height: int, width: int) -> str:
    """4:2:0 colour as everywhere, 4:4:4 for odd sizes, which 4:2:0 cannot hold."""
    return "yuv420p" if height % 2 == 0 and width % 2 == 0 else "yuv444p"


def encode(frames: np.ndarray, fps: int) -> bytes:
    """An mp4 file of pictures [T, H, W, 3] uint8.

    Raises:
        DatasetError: the FFmpeg at hand has no H.264 encoder.
    """
    av = pyav()
    if CODEC not in av.codecs_available:
        raise DatasetError(f"PyAV has no {CODEC} encoder here; record without video features")
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream(CODEC, rate=fps, options=OPTIONS)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = pixel_format(*frames.shape[1:3])
        for picture in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return buffer.getvalue()


def count_frames(file: str | Path | io.BytesIO) -> int:
    """Pictures in a video, without decoding them.

    Raises:
        ValueError: it is no readable video.
    """
    av = pyav()
    try:
        with av.open(file if isinstance(file, io.BytesIO) else str(file)) as container:
            return sum(packet.size > 0 for packet in container.demux(video=0))
    except (av.FFmpegError, IndexError) as error:
        raise ValueError(f"not a readable video: {error}") from error


def decode(file: str | Path, start: float, count: int, fps: float) -> np.ndarray:
    """Consecutive pictures: [count, H, W, 3] uint8, the first at `start` seconds.

    Raises:
        ValueError: they are not all there.
    """
    return decode_at(file, [start + i / fps for i in range(count)], 0.5 / fps)


def decode_at(file: str | Path, timestamps: Sequence[float], tolerance: float) -> np.ndarray:
    """The pictures nearest to times in seconds: [N, H, W, 3] uint8.

    Raises:
        ValueError: a picture is further than `tolerance` from its time, or the video unreadable.
    """
    av = pyav()
    times = np.asarray(timestamps, np.float64)
    pictures: list[np.ndarray | None] = [None] * len(times)
    error = np.full(len(times), np.inf)
    try:
        with av.open(str(file)) as container:
            stream = container.streams.video[0]
            first = max(0.0, float(times.min()) - tolerance)
            container.seek(int(first / stream.time_base), stream=stream, backward=True)
            for frame in container.decode(stream):
                closer = np.abs(times - frame.time) < error
                if closer.any():
                    picture = frame.to_ndarray(format="rgb24")
                    for i in np.flatnonzero(closer):
                        pictures[i], error[i] = picture, abs(times[i] - frame.time)
                if frame.time > times.max() + tolerance:
                    break
    except (av.FFmpegError, IndexError) as failure:
        raise ValueError(f"not a readable video: {failure}") from failure
    if (error > tolerance).any():
        raise ValueError(f"no picture within {tolerance} s of {times[error > tolerance][0]:.4f} s")
    return np.stack(pictures)


def picture_stats(frames: np.ndarray) -> Stats:
    """Statistics per channel of values in [0, 1], each [3, 1, 1], as LeRobot keeps them."""
    step = max(1, len(frames) // STATISTICS_FROM)
    chosen = frames[::step]
    values = chosen.astype(np.float64).reshape(-1, 3) / 255
    stats = {"min": values.min(0), "max": values.max(0), "mean": values.mean(0)}
    stats["std"] = values.std(0)
    return {name: v.reshape(3, 1, 1) for name, v in stats.items()} | {
        "count": np.array([len(chosen)])
    }


def describe(shape: Sequence[int], fps: int) -> dict[str, Any]:
    """The `info` that LeRobot keeps of a video feature."""
    return {
        "video.height": shape[0],
        "video.width": shape[1],
        "video.codec": "h264",
        "video.pix_fmt": pixel_format(*shape[:2]),
        "video.is_depth_map": False,
        "video.fps": fps,
        "video.channels": 3,
        "has_audio": False,
    }
