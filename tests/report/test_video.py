import av
import numpy as np
import pytest

import envs
from embodied.report.video import write_video
from embodied.videos import frames


@pytest.mark.parametrize(("shape", "size"), [((48, 64), (48, 64)), ((47, 63), (48, 64))])
def test_video_reads_back(tmp_path, shape, size):
    images = [np.full((*shape, 3), value, np.uint8) for value in range(0, 240, 20)]
    path = write_video(tmp_path / "new" / "clip.mp4", iter(images), 12.5)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        decoded = [f.to_ndarray(format="rgb24") for f in container.decode(stream)]
        assert stream.codec_context.name == "h264"
        assert stream.codec_context.pix_fmt == "yuv420p"
        assert float(stream.average_rate) == 12.5
    assert len(decoded) == len(images)
    for value, frame in zip(range(0, 240, 20), decoded, strict=True):
        assert frame.shape == (*size, 3)
        assert abs(frame.mean() - value) < 4
    data = path.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")  # plays while it loads
    assert [p.name for p in path.parent.iterdir()] == ["clip.mp4"]


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([], "no frames"),
        ([np.zeros((4, 4, 3))], "uint8"),
        ([np.zeros((4, 4), np.uint8)], "uint8"),
        ([np.zeros((16, 16, 3), np.uint8), np.zeros((8, 8, 3), np.uint8)], "frame 1 of"),
    ],
)
def test_bad_frames_leave_the_old_video(tmp_path, images, message):
    path = tmp_path / "clip.mp4"
    path.write_bytes(b"old")
    with pytest.raises(ValueError, match=message):
        write_video(path, images, 10)
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["clip.mp4"]


def test_a_replayed_episode_keeps_first_and_last_frame():
    env = envs.make("maze/point-v0", horizon=10, render_mode="rgb_array", render_size=(32, 32))
    still = np.zeros((10, 2), np.float32)
    seen = list(frames(env, 3, still, 1))
    assert len(seen) == 11 and seen[0].shape == (32, 32, 3)
    assert len(list(frames(env, 3, still, 4))) == 4  # steps 0, 4, 8 and 10
    env.reset(seed=3)
    np.testing.assert_array_equal(seen[0], env.render())
