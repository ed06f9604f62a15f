import math

import numpy as np
import pytest
import torch

from embodied.core.checkpoint import (
    Checkpoints,
    CorruptCheckpoint,
    NoCheckpoint,
    digest,
    join_state,
    read_checkpoint,
    split_state,
)
from embodied.core.files import Files
from embodied.core.types import UserError

DTYPES = [
    torch.float32,
    torch.float64,
    torch.float16,
    torch.bfloat16,
    torch.uint8,
    torch.int8,
    torch.int16,
    torch.int32,
    torch.int64,
    torch.bool,
]


def same(a, b):
    if isinstance(a, torch.Tensor):
        return (
            isinstance(b, torch.Tensor)
            and a.dtype == b.dtype
            and a.shape == b.shape
            and torch.equal(a.reshape(-1).view(torch.uint8), b.reshape(-1).view(torch.uint8))
        )
    if isinstance(a, np.ndarray):
        return (
            isinstance(b, np.ndarray)
            and a.dtype == b.dtype
            and a.shape == b.shape
            and a.tobytes() == b.tobytes()
        )
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return isinstance(b, list) and len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, float) and math.isnan(a):
        return isinstance(b, float) and math.isnan(b)
    return type(a) is type(b) and a == b


def everything():
    tensors = {str(d): torch.arange(6).view(2, 3).to(d) for d in DTYPES}
    return {
        "tensors": tensors,
        "scalars": {str(d): torch.tensor(1).to(d) for d in DTYPES},
        "empty": [torch.empty(0), torch.empty(3, 0), torch.empty(0, dtype=torch.uint8)],
        "view": torch.arange(12.0).view(3, 4).t()[1:, ::2],
        "nan": torch.tensor([math.nan, math.inf, -math.inf, -0.0]),
        "arrays": [
            np.arange(4).astype(d) for d in ("f4", "f8", "f2", "u1", "i8", "u2", "u4", "u8", "?")
        ],
        "array0": np.array(2.5),
        "strided": np.arange(10)[::-2],
        "empty_array": np.empty((0, 3), np.float32),
        "rng": np.random.Generator(np.random.PCG64(5)).bit_generator.state,
        "torch_rng": torch.Generator().manual_seed(1).get_state(),
        "floats": [math.nan, math.inf, -math.inf, 0.1, 1e-320, 1.7976931348623157e308],
        "nested": [[1, [2, [torch.ones(2), {"x": [np.ones(1)]}]]], [], {}, (1, 2)],
        "json": {"none": None, "true": True, "text": 'Zürich \n"quoted"', "int": 2**200},
        "tensor": {"tensor": "not a reference"},
        "array": {"array": 3, "dict": {"dict": 1}},
    }


def test_round_trip_is_exact(tmp_path):
    state = everything()
    Checkpoints(tmp_path).save(7, {"all": state, "plain": {"a": 1}})
    step, parts = Checkpoints(tmp_path).load()
    assert step == 7
    assert parts["plain"] == {"a": 1}
    assert same(state, parts["all"])
    assert digest(parts["all"]) == digest(state)
    generator = np.random.Generator(np.random.PCG64(0))
    generator.bit_generator.state = parts["all"]["rng"]
    assert generator.random() == np.random.Generator(np.random.PCG64(5)).random()


def test_dotted_names_do_not_collide():
    state = {
        "a": {"b": torch.zeros(1)},
        "a.b": torch.ones(1),
        "c": [np.zeros(1)],
        "c.0": np.ones(1),
    }
    assert same(state, join_state(*split_state(state)))


def test_tensors_that_share_memory_are_saved(tmp_path):
    base = torch.arange(6.0)
    state = {"a": base, "b": base[2:], "c": base}
    Checkpoints(tmp_path).save(1, {"x": state})
    assert same(state, Checkpoints(tmp_path).load()[1]["x"])


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (object(), "'part.x' is a object"),
        ({1, 2}, "'part.x' is a set"),
        ({1: 2}, "keys that are not strings"),
        (np.array([None]), "array of objects"),
        (b"bytes", "'part.x' is a bytes"),
    ],
)
def test_what_cannot_be_saved_is_named(bad, message):
    with pytest.raises(TypeError, match=message):
        split_state({"part": {"x": bad}})


def test_digest_sees_every_change():
    base = {
        "t": torch.zeros(4),
        "i": 1,
        "f": 1.0,
        "s": "a",
        "l": [1, 2],
        "n": {"x": np.zeros(2)},
        "b": True,
    }
    tensor = torch.zeros(4)
    tensor[3] = 1e-45  # one bit
    changes = [
        {"t": tensor},
        {"t": torch.tensor([0.0, 0.0, 0.0, -0.0])},
        {"t": torch.zeros(4, dtype=torch.int32)},
        {"t": torch.zeros(2, 2)},
        {"t": np.zeros(4, np.float32)},
        {"i": 2},
        {"i": 1.0},
        {"b": 1},
        {"f": 1.0000000000000002},
        {"s": "b"},
        {"l": [2, 1]},
        {"n": {"y": np.zeros(2)}},
        {"n": {"x": np.zeros(2, np.float32)}},
        {"more": None},
    ]
    digests = [digest({**base, **change}) for change in [{}, *changes]]
    assert len(set(digests)) == len(digests)
    assert digest(dict(reversed(base.items()))) == digests[0]


def test_keep_and_latest(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=3)
    for step in range(1, 6):
        path = checkpoints.save(step, {"x": {"step": step}})
        assert (tmp_path / "LATEST").read_text() == path.name + "\n"
        assert checkpoints.steps() == list(range(max(1, step - 2), step + 1))
    assert checkpoints.load() == (5, {"x": {"step": 5}})
    assert read_checkpoint(checkpoints.path(4)) == {"x": {"step": 4}}
    with pytest.raises(ValueError, match="keep"):
        Checkpoints(tmp_path, keep=0)


def test_a_step_that_verifies_is_not_written_again_but_a_damaged_one_is(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    path = checkpoints.save(1, {"x": {"value": 1}})
    checkpoints.save(1, {"x": {"value": 2}})
    assert checkpoints.load()[1] == {"x": {"value": 1}}
    (path / "x.json").write_text("{}")
    checkpoints.save(1, {"x": {"value": 3}})
    assert checkpoints.load()[1] == {"x": {"value": 3}}


def test_latest_and_names_are_not_trusted(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, {"x": {}})
    (tmp_path / "LATEST").write_text("step_000000000009\n")
    (tmp_path / "step_9").mkdir()
    (tmp_path / "step_000000000008").write_text("a file")
    assert checkpoints.load()[0] == 1
    (tmp_path / "step_000000000009").mkdir()
    with pytest.raises(CorruptCheckpoint, match="MANIFEST"):
        checkpoints.load()
    assert checkpoints.load(fallback=True)[0] == 1


def test_nothing_to_load(tmp_path):
    for root in (tmp_path, tmp_path / "missing"):
        with pytest.raises(NoCheckpoint, match=str(root)):
            Checkpoints(root).load()
    assert issubclass(NoCheckpoint, UserError) and issubclass(CorruptCheckpoint, UserError)


def test_other_format_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr("embodied.core.checkpoint.FORMAT", 99)
    with pytest.raises(OSError, match="does not verify"):
        monkeypatch.setattr(Files, "rename", _older_format)
        Checkpoints(tmp_path).save(1, {"x": {}})


def _older_format(self, source, target):
    import embodied.core.checkpoint as module

    source.rename(target)
    module.FORMAT = 98


def test_an_error_of_the_caller_is_no_disk_error(tmp_path):
    with pytest.raises(TypeError):
        Checkpoints(tmp_path).save(1, {"x": {"y": object()}})
    assert Checkpoints(tmp_path).steps() == []
    Checkpoints(tmp_path).save(2, {"x": {}})
    assert not list(tmp_path.glob("*.tmp"))


def test_only_json_and_safetensors_are_written(tmp_path):
    path = Checkpoints(tmp_path).save(1, {"all": everything()})
    assert {p.suffix for p in path.iterdir()} == {".json", ".safetensors"}
