"""Pictures and cameras as ROS 2 messages; see `hardware.messages`."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hardware.messages import MessageError, field, header
from hardware.types import Camera
from hardware.wire import Message

IMAGE = "sensor_msgs/msg/Image"
COMPRESSED_IMAGE = "sensor_msgs/msg/CompressedImage"
CAMERA_INFO = "sensor_msgs/msg/CameraInfo"

CHANNELS = {"rgb8": 3, "bgr8": 3, "rgba8": 4, "bgra8": 4, "mono8": 1, "8UC1": 1, "8UC3": 3}
_BYTES = bytes | bytearray | memoryview
_PIXELS = 1 << 26
"""A picture of more pixels than this is refused before it is unpacked."""


def image(pixels: np.ndarray, *, stamp: float, frame: str = "", encoding: str = "rgb8") -> Message:
    """Returns an Image of uint8 pixels, [height, width, channels] or [height, width].

    The pixels are taken as they are: `encoding` says what their channels mean.
    """
    pixels = np.ascontiguousarray(pixels)
    channels = _channels(encoding)
    shape = pixels.shape if pixels.ndim == 3 else (*pixels.shape, 1)
    if pixels.dtype != np.uint8 or len(shape) != 3 or shape[2] != channels:
        raise MessageError(f"image: {encoding} does not fit {pixels.dtype} {pixels.shape}")
    return {
        "header": header(stamp, frame),
        "height": shape[0],
        "width": shape[1],
        "encoding": encoding,
        "is_bigendian": 0,
        "step": shape[1] * channels,
        "data": pixels.reshape(-1),
    }


def read_image(message: Mapping[str, Any]) -> np.ndarray:
    """Returns RGB of an Image, uint8 [height, width, 3]; padding of rows is dropped.

    Raises:
        MessageError: an encoding that is none of `CHANNELS`, or too little data for the size.
    """
    encoding, data = field(message, "encoding", "image"), field(message, "data", "image")
    channels = _channels(encoding)
    try:
        height, width, step = (int(field(message, k, "image")) for k in ("height", "width", "step"))
        flat = np.frombuffer(data, np.uint8) if isinstance(data, _BYTES) else _bytes(data)
    except (TypeError, ValueError, OverflowError) as error:
        raise MessageError(f"image: {error}") from error
    if height < 1 or width < 1 or step < width * channels or flat.size < height * step:
        raise MessageError(
            f"image: {width} x {height} {encoding} with rows of {step} bytes does not fit into "
            f"{flat.size} bytes"
        )
    rows = flat[: height * step].reshape(height, step)[:, : width * channels]
    pixels = rows.reshape(height, width, channels)
    if channels == 1:
        return np.repeat(pixels, 3, axis=2)
    return pixels[..., 2::-1] if encoding.startswith("bgr") else pixels[..., :3]


def compressed_image(pixels: np.ndarray, *, stamp: float, frame: str = "") -> Message:
    """Returns a CompressedImage, JPEG, of RGB pixels, uint8 [height, width, 3]."""
    packed = io.BytesIO()
    _pillow().fromarray(pixels).save(packed, "JPEG", quality=90)
    return {"header": header(stamp, frame), "format": "jpeg", "data": packed.getvalue()}


def read_compressed_image(message: Mapping[str, Any]) -> np.ndarray:
    """Returns RGB of a JPEG or PNG in a CompressedImage, uint8 [height, width, 3]."""
    packed = io.BytesIO(bytes(field(message, "data", "compressed image")))
    try:
        with _pillow().open(packed, formats=("JPEG", "PNG")) as picture:
            if picture.width * picture.height > _PIXELS:
                raise MessageError(f"compressed image: {picture.width} x {picture.height} pixels")
            return np.array(picture.convert("RGB"))
    except MessageError:
        raise
    except (OSError, SyntaxError, ValueError, _pillow().DecompressionBombError) as error:
        raise MessageError(f"compressed image: neither JPEG nor PNG: {error}") from error


def camera_info(
    camera: Camera, focal: float, *, stamp: float, frame: str = "", distortion: Sequence[float] = ()
) -> Message:
    """Returns the CameraInfo of a camera with square pixels and a centred axis.

    Args:
        camera: gives the size.
        focal: length in pixels.
        stamp: s since 1970.
        frame: of the header.
        distortion: of the plumb_bob model, [5].
    """
    x, y = camera.width / 2, camera.height / 2
    return {
        "header": header(stamp, frame),
        "height": camera.height,
        "width": camera.width,
        "distortion_model": "plumb_bob",
        "d": np.array(distortion or [0.0] * 5),
        "k": np.array([focal, 0, x, 0, focal, y, 0, 0, 1.0]),
        "r": np.eye(3).reshape(-1),
        "p": np.array([focal, 0, x, 0, 0, focal, y, 0, 0, 0, 1.0, 0]),
    }


def _bytes(data: Any) -> np.ndarray:
    return np.ascontiguousarray(data, np.uint8).reshape(-1)


def _channels(encoding: str) -> int:
    if encoding not in CHANNELS:
        raise MessageError(f"image: encoding {encoding!r}; known are {', '.join(CHANNELS)}")
    return CHANNELS[encoding]


def _pillow() -> Any:
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError(
            "compressed images need Pillow: pip install 'embodied[hardware]'"
        ) from error
    return Image
