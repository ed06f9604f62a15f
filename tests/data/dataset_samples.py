import numpy as np

from embodied.data import DatasetWriter, transition_features

FEATURES = transition_features((5,), (2,))
SETTINGS = {"env_id": "test/reach", "fps": 50, "features": FEATURES, "meta": {"seed": 3}}
LENGTHS = [3, 7, 1, 12]


def make_episode(index: int, length: int) -> dict[str, np.ndarray]:
    """Columns of a random episode; the same for the same index."""
    rng = np.random.default_rng(index)
    states = rng.normal(size=(length + 1, 5)).astype(np.float32)
    last = np.arange(length) == length - 1
    return {
        "observation.state": states[:-1],
        "action": rng.uniform(-1, 1, (length, 2)).astype(np.float32),
        "next.observation.state": states[1:],
        "next.reward": rng.normal(size=length).astype(np.float32),
        "next.terminated": last & (index % 2 == 0),
        "next.truncated": last & (index % 2 == 1),
        "next.success": last & (index % 2 == 0),
        "next.done": last,
    }


def add_frames(writer: DatasetWriter, columns: dict[str, np.ndarray]) -> None:
    for row in range(len(columns["action"])):
        writer.add_frame({name: values[row] for name, values in columns.items()})


def record(writer: DatasetWriter, first: int, lengths: list[int]) -> None:
    for index, length in enumerate(lengths, start=first):
        add_frames(writer, make_episode(index, length))
        assert writer.save_episode(f"task {index % 2}") == index


def assert_same(actual: dict, expected: dict) -> None:
    for name, values in expected.items():
        assert actual[name].dtype == values.dtype, name
        assert actual[name].shape == values.shape, name
        assert actual[name].tobytes() == values.tobytes(), name


def snapshot(root) -> dict[str, bytes]:
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }
