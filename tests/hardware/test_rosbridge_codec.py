"""Frames of rosbridge to operations and back, byte for byte."""

import base64
import collections
import io
import json
import math

import numpy as np
import pytest

from hardware.rosbridge_codec import (
    OPEN,
    PARTS,
    Assembler,
    Malformed,
    canonical,
    decode,
    encode,
    from_png,
    split,
    to_png,
    typed,
)
from tests.hardware.rosbridge_support import MALFORMED, fragment, publish

# RFC 8746: d8 is "a tag follows", then the tag, then a byte string of that length.
TYPED = {
    "<u2": "d845 44 0100 0200",
    "<u4": "d846 48 01000000 02000000",
    "<u8": "d847 50 0100000000000000 0200000000000000",
    "<i1": "d848 42 01 02",
    "<i2": "d84d 44 0100 0200",
    "<i4": "d84e 48 01000000 02000000",
    "<i8": "d84f 50 0100000000000000 0200000000000000",
    "<f4": "d855 48 0000803f 00000040",
    "<f8": "d856 50 000000000000f03f 0000000000000040",
}


@pytest.mark.parametrize("dtype", TYPED)
def test_arrays_are_tagged_as_the_standard_says(dtype):
    array = np.array([1, 2], dtype)
    expected = "a1 61 61" + TYPED[dtype]  # {"a": array}
    for given in (array, array.astype(array.dtype.newbyteorder(">")), array.repeat(2)[::2]):
        assert encode({"a": given}, "cbor") == bytes.fromhex(expected)
    back = decode(encode(publish({"a": array}), "cbor"))["msg"]["a"]
    assert back.dtype == array.dtype
    np.testing.assert_array_equal(back, array)


def test_bytes_and_scalars_of_numpy():
    msg = {
        "data": np.array([1, 255], np.uint8),
        "raw": b"\x00\xff",
        "flag": np.bool_(True),
        "number": np.int32(7),
        "real": np.float32(0.5),
        "flags": np.array([True, False]),
    }
    plain = {"flag": True, "number": 7, "real": 0.5, "flags": [True, False]}
    assert decode(encode(publish(msg), "cbor"))["msg"] == {
        "data": b"\x01\xff",
        "raw": b"\x00\xff",
        **plain,
    }
    assert json.loads(encode(publish(msg)))["msg"] == {"data": "Af8=", "raw": "AP8=", **plain}


def test_json_is_what_rosbridge_writes():
    msg = {"header": {"stamp": {"sec": 1, "nanosec": 2}}, "position": np.array([0.1, -2.0])}
    assert encode(publish(msg)) == (
        '{"op":"publish","topic":"/t","msg":'
        '{"header":{"stamp":{"sec":1,"nanosec":2}},"position":[0.1,-2.0]}}'
    )


def test_not_a_number_is_null_in_json_and_itself_in_cbor():
    msg = {"a": np.array([1.0, np.nan]), "b": math.inf, "c": [math.nan], "d": np.float32("nan")}
    assert json.loads(encode(publish(msg)))["msg"] == {
        "a": [1.0, None],
        "b": None,
        "c": [None],
        "d": None,
    }
    back = decode(encode(publish(msg)))["msg"]
    np.testing.assert_array_equal(back["a"], [1.0, np.nan])
    assert math.isnan(back["b"]) and np.isnan(back["c"]).all() and math.isnan(back["d"])
    back = decode(encode(publish(msg), "cbor"))["msg"]
    np.testing.assert_array_equal(back["a"], [1.0, np.nan])
    assert back["b"] == math.inf
    bare = decode('{"op":"publish","topic":"/t","msg":{"a":NaN,"b":[1,-Infinity]}}')["msg"]
    assert math.isnan(bare["a"]) and bare["b"].tolist() == [1.0, -math.inf]


def test_lists_of_numbers_become_float64():
    back = decode('{"op":"publish","topic":"/t","msg":{"a":[1,2],"b":["x"],"c":[],"d":[[1],[2]]}}')
    assert back["msg"]["a"].dtype == np.float64
    assert back["msg"]["b"] == ["x"] and back["msg"]["c"] == []
    assert [each.tolist() for each in back["msg"]["d"]] == [[1.0], [2.0]]


@pytest.mark.parametrize("data", ["AQI=", [1, 2], b"\x01\x02", np.array([1, 2], np.uint8)])
@pytest.mark.parametrize("kind", ["sensor_msgs/msg/Image", "sensor_msgs/CompressedImage"])
def test_uint8_fields_are_bytes(kind, data):
    assert typed({"data": data, "width": 1}, kind) == {"data": b"\x01\x02", "width": 1}


@pytest.mark.parametrize("data", ["AQI", "*", [256], [-1], [math.nan], {"a": 1}, ["x"]])
def test_uint8_fields_that_are_not(data):
    with pytest.raises(Malformed, match="`data`"):
        typed({"data": data}, "sensor_msgs/msg/Image")


def test_names_of_types():
    assert canonical("sensor_msgs/msg/JointState") == canonical("sensor_msgs/JointState")
    assert canonical("std_srvs/srv/Trigger") == "std_srvs/Trigger"


@pytest.mark.parametrize("form", ["json", "cbor"])
def test_what_no_message_holds_is_not_sent(form):
    with pytest.raises(Malformed, match="cannot send publish"):
        encode(publish({"a": object()}), form)


def test_large_messages_pass():
    image = np.arange(600_000, dtype=np.uint8)
    for frame in (encode(publish({"data": image}), "cbor"), encode(publish({"data": image}))):
        assert typed(decode(frame)["msg"], "sensor_msgs/Image")["data"] == image.tobytes()
    numbers = decode(encode(publish({"data": image.tolist()})))["msg"]
    assert typed(numbers, "sensor_msgs/Image")["data"] == image.tobytes()


@pytest.mark.parametrize("frame", MALFORMED.values(), ids=MALFORMED)
def test_malformed_frames_are_refused(frame):
    with pytest.raises(Malformed):
        decode(frame)


TEXT = encode(publish({"data": "x" * 1000, "ä": "ö"}))


@pytest.mark.parametrize("order", [1, -1])
def test_fragments_come_together(order):
    pieces = list(split(TEXT, 100, "one"))
    assert len(pieces) == -(-len(TEXT) // 100)
    assert json.loads(pieces[0])["total"] == len(pieces)
    assembler = Assembler()
    first, *rest = pieces[::order]
    assert [assembler.take(piece) for piece in (first, first, *rest[:-1])] == [None] * len(pieces)
    assert assembler.take(rest[-1]) == decode(TEXT)


def test_a_fractional_total_as_rosbridge_sends_it():
    pieces = [json.loads(piece) for piece in split(TEXT, 100, "one")]
    total = (len(TEXT) - 1) / 100 + 1  # rosbridge_library/capabilities/fragmentation.py
    assert total != int(total)
    assembler = Assembler()
    ops = [assembler.take(json.dumps({**piece, "id": 7, "total": total})) for piece in pieces]
    assert ops[-1] == decode(TEXT)


def test_there_is_a_limit_to_cutting():
    assert len(list(split("x" * 100_000, 1, "one"))) == PARTS


def test_pictures_hold_operations():
    op = json.loads(to_png(TEXT))
    assert op["op"] == "png" and base64.b64decode(op["data"])[:4] == b"\x89PNG"
    assert Assembler().take(to_png(TEXT)) == decode(TEXT)
    for text in ("{}", "{ }", "x" * 9):  # fewer bytes than a pixel, and exactly some
        assert from_png(json.loads(to_png(text))["data"], 1000) == text
    data, assembler = op["data"], Assembler()
    halves = [{"op": "png", "id": "p", "num": i, "total": 2} for i in range(2)]
    assert assembler.take(json.dumps({**halves[0], "data": data[:99]})) is None
    assert assembler.take(json.dumps({**halves[1], "data": data[99:]})) == decode(TEXT)


def picture(width, height):
    image = pytest.importorskip("PIL.Image")
    buffer = io.BytesIO()
    image.new("RGB", (width, height)).save(buffer, "png")
    return base64.b64encode(buffer.getvalue()).decode()


@pytest.mark.parametrize("data", ["", "!", "AAAA", picture(4000, 4000), picture(3, 3)])
def test_pictures_that_hold_none(data):
    with pytest.raises(Malformed):
        Assembler(limit=1_000_000).take(json.dumps({"op": "png", "data": data}))


@pytest.mark.parametrize(("number", "total"), [(2, 2), (-1, 2), (0, 0), (0, -5), (0, 1e18 + 1)])
def test_fragments_that_do_not_fit(number, total):
    assembler = Assembler()
    if total > 1e9:  # costs nothing until it comes
        assert assembler.take(fragment("a", number, total)) is None
        return
    with pytest.raises(Malformed, match="does not fit"):
        assembler.take(fragment("a", number, total))


def test_fragments_are_bounded_and_expire():
    now, counts = [0.0], collections.Counter()
    assembler = Assembler(limit=10_000, timeout=10.0, counts=counts, clock=lambda: now[0])
    for i in range(OPEN):
        assert assembler.take(fragment(i)) is None
    with pytest.raises(Malformed, match="incomplete already"):
        assembler.take(fragment("more"))
    now[0] = 11.0
    assert assembler.take(fragment("more")) is None
    assert counts["abandoned"] == OPEN
    with pytest.raises(Malformed, match="over the limit"):
        for i in range(1000):
            assembler.take(fragment("large", i, 1000, "x" * 5000))
    with pytest.raises(Malformed, match="over the limit"):  # empty ones cost memory too
        for i in range(1000):
            assembler.take(fragment("empty", i, 1000, ""))
    with pytest.raises(Malformed, match="the limit is"):
        assembler.take(json.dumps(publish({"a": "x" * 10_001})))


def test_fragments_in_fragments_end():
    text = TEXT
    for _ in range(5):
        (text,) = split(text, 10**9, "one")
    with pytest.raises(Malformed, match="fragments within"):
        Assembler().take(text)
