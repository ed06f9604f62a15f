"""Messages of policy servers: what comes back, and what is refused."""

import numpy as np
import pytest

from hardware import policy_wire as wire
from hardware.errors import HardwareError
from hardware.policy_wire import Column, WireError, pack, unpack

msgpack = pytest.importorskip("msgpack")


@pytest.mark.parametrize(
    ("array", "message"),
    [
        ({"dtype": "|O"}, "an array of .O; allowed"),
        ({"dtype": "<f4,<f4"}, "allowed are .*<f4"),
        ({"dtype": "nonsense"}, "an array of nonsense"),
        ({"shape": [10**9]}, "in 8 bytes"),
        ({"shape": [-1, 2]}, "its shape is none"),
        ({"shape": [True, 2]}, "its shape is none"),
        ({"shape": [1] * 17}, "its shape is none"),
        ({"dtype": ">f4"}, "an array of >f4"),
        ({"dtype": 4}, "damaged array"),
        ({"data": "text"}, "damaged array"),
        ({"data": b""}, "in 0 bytes"),
        ({"shape": "no"}, "damaged array"),
    ],
)
def test_arrays_that_are_none(array, message):
    plain = {b"__ndarray__": True, b"data": b"\0" * 8, b"dtype": "<f4", b"shape": [2]}
    sound = unpack(msgpack.packb({"a": plain}))["a"]
    assert np.array_equal(sound, np.zeros(2, np.float32)) and sound.dtype == np.float32
    plain |= {key.encode(): value for key, value in array.items()}
    with pytest.raises(WireError, match=message):
        unpack(msgpack.packb({"a": plain}))


def test_the_wire_keeps_arrays_to_the_bit():
    rng = np.random.default_rng(0)
    sent = {
        "image": rng.integers(0, 255, (4, 6, 3), np.uint8)[:, ::-1],
        "state": rng.normal(size=5).astype(np.float32),
        "flag": np.array(True),
        "empty": np.zeros((0, 3), np.int64),
    }
    found = unpack(pack({**sent, "text": "pick up", "n": np.float64(0.5)}))
    for name, value in sent.items():
        assert found[name].dtype == value.dtype and np.array_equal(found[name], value)
    assert found["text"] == "pick up" and found["n"] == 0.5
    for bad in (np.array([None]), object(), {1, 2}):
        with pytest.raises(WireError, match="cannot be sent"):
            pack({"x": bad})


def nested(depth):
    return b"\x91" * depth + b"\x90"


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "cut off after 0 bytes"),
        (pack({"id": 7})[:-1], "cut off"),
        (pack({"id": 7}) + b"\0", "1 bytes after its end"),
        (b"\xc1", "0xc1 is an extension or nothing"),
        (msgpack.packb(msgpack.Timestamp(1)), "is an extension"),
        (b"\xdd\x40\x00\x00\x00", "cut off"),  # a list of 1 G entries
        (b"\xdf\xff\xff\xff\xff", "cut off"),
        (b"\xc6\x40\x00\x00\x00x", "cut off"),  # 1 GB of bytes
        (b"\xdc\xfd\x00" * 21_800, "more than 100000 parts"),  # asks for 500 MB in 65 kB
        (nested(17), "16 levels"),
        (b"\x91" * 100_000, "16 levels"),
        (b"\x93" + 3 * (b"\xdc\xff\xff" + b"\xc0" * 65535), "more than 100000 parts"),
        (msgpack.packb([1]), "a list instead of a map"),
        (b"\x81\xa1\xff\x01", "no msgpack"),  # not UTF-8
        (b"\x81\x91\x01\x01", "no msgpack"),  # a list as a name
        (b"\x80\x04\x95\x05" + bytes(7) + b"K\x01K\x02\x86\x94.", "after its end"),
        ("{}", "a text frame"),
    ],
)
def test_bytes_that_are_no_message(raw, message):
    with pytest.raises(WireError, match=message):
        unpack(raw)


@pytest.mark.parametrize("seed", range(3))
def test_the_walk_agrees_with_msgpack(seed):
    """Values of every kind and size pass, and no cut of them does."""
    rng = np.random.default_rng(seed)
    sizes = (0, 1, 15, 16, 31, 32, 255, 256, 65535, 65536)
    value = {
        "numbers": [int(s * 2 ** int(rng.integers(0, 63))) for s in (-1, 0, 1) for _ in range(20)],
        "more": [0, -1, -32, -33, 127, 128, 2**64 - 1, -(2**63), 0.5, True, False, None],
        "texts": ["x" * n for n in sizes],
        "bytes": [b"x" * n for n in sizes],
        "lists": [[0] * n for n in sizes[:8]],
        "maps": [dict.fromkeys(map(str, range(n)), 1) for n in sizes[:8]],
    }
    raw = msgpack.packb(value)
    assert unpack(raw) == value
    for end in rng.integers(0, len(raw), 20):
        with pytest.raises(WireError, match="cut off"):
            unpack(raw[:end])


def test_arrays_of_other_machines_are_turned():
    value = np.arange(3, dtype=">f4")
    assert np.array_equal(unpack(pack({"x": value}))["x"], value)


def test_sizes_are_capped(monkeypatch):
    raw = msgpack.packb({"x": b"0" * 2000})
    monkeypatch.setattr(wire, "MAX_BYTES", 1000)
    for act in (lambda: pack({"x": b"0" * 2000}), lambda: unpack(raw)):
        with pytest.raises(WireError, match="at most 1,000"):
            act()


def test_columns_there_and_back():
    columns = {"observation.state": Column("float32", (39,)), "action": Column("float32", (4,))}
    assert wire.read_columns(unpack(pack(wire.describe(columns)))) == columns
    assert wire.differences(columns, columns) == ""
    other = {"observation.state": Column("float64", (39,)), "observation.x": Column("bool", ())}
    said = wire.differences(columns, other)
    assert said == (
        "action is missing, it is float32[4]; observation.state is float64[39] instead of "
        "float32[39]; 'observation.x' is not known"
    )


@pytest.mark.parametrize(
    "told",
    [
        3,
        {"a": 3},
        {"a": {"dtype": "object", "shape": []}},
        {"a": {"dtype": "float32", "shape": [-1]}},
        {"a": {"dtype": "float32", "shape": [0.5]}},
        {"a": {"dtype": ["float32"], "shape": []}},
        {"a": {"dtype": "float32"}},
    ],
)
def test_columns_that_are_none(told):
    with pytest.raises(WireError, match="columns that are none"):
        wire.read_columns(told)


def test_tokens(tmp_path, monkeypatch):
    monkeypatch.delenv(wire.TOKEN, raising=False)
    assert wire.read_token() is None
    monkeypatch.setenv(wire.TOKEN, "from-the-environment")
    assert wire.read_token() == "from-the-environment"
    path = tmp_path / "token"
    path.write_text("from-the-file-itself\n")
    assert wire.read_token(path) == "from-the-file-itself"
    for bad in ("", "short", "with a space inside", "x" * 600):
        path.write_text(bad)
        with pytest.raises(HardwareError, match="16 to 512 signs"):
            wire.read_token(path)
    with pytest.raises(HardwareError, match="cannot read a token"):
        wire.read_token(tmp_path / "none")
