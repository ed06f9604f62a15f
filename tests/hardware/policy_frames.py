"""What the tests of policy servers share: a served policy, questions, and frames that are none."""

import itertools

import numpy as np

from hardware.policy_server import PolicyServer
from hardware.policy_wire import Column, pack

COLUMNS = {
    "observation.state": Column("float32", (39,)),
    "observation.mask": Column("bool", (2,)),
    "action": Column("float32", (4,)),
}


def act(rows):
    return [np.tanh(row["observation"]["observation.state"][:4]) for row in rows]


def make(policy=act, columns=COLUMNS, **options):
    return PolicyServer(policy, columns, **{"name": "test", "port": 0, **options})


def observation(value=0.5, **changed):
    plain = {
        "observation.state": np.full(39, value, np.float32),
        "observation.mask": np.array([True, False]),
    }
    plain |= {f"observation.{name}": array for name, array in changed.items()}
    return {name: array for name, array in plain.items() if array is not None}


def row(**changed):
    return {"episode": 1, "step": 0, "task": "lift", "observation": observation(), **changed}


def question(number=1, **changed):
    return {"id": number, "rows": [row(**changed)]}


def raw_array(**changed):
    plain = {"__ndarray__": True, "data": bytes(156), "dtype": "<f4", "shape": [39]} | changed
    return {"observation.state": plain, "observation.mask": np.array([True, False])}


def nan_at(place):
    state = np.zeros(39, np.float32)
    state[place] = (np.nan, np.inf, -np.inf)[place % 3]
    return state


PICKLES = (
    b"cos\nmkdir\n(Vunpickled\ntR.",  # protocol 0: calls os.mkdir when it is loaded
    b"\x80\x04\x95\x1c\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94\x8c\x05mkdir\x94\x93\x94\x8c"
    b"\x09unpickled\x94\x85\x94R\x94.",
)
GOOD = pack(question())


def kinds(rng):
    """One frame of each kind, with something random in most; all of them are malformed."""
    state = np.zeros(39, np.float32)
    return {
        "cut off": GOOD[: rng.integers(len(GOOD))],
        "goes on": GOOD + rng.bytes(rng.integers(1, 50)),
        "begins late": GOOD[rng.integers(1, 20) :],
        "random bytes": b"\x92" + rng.bytes(rng.integers(1, 500)),
        "text": "x" * int(rng.integers(0, 500)),
        "pickled": PICKLES[rng.integers(2)],
        "pickled in a map": pack({"id": 1, "rows": [{"observation": PICKLES[0]}]}),
        "objects": pack(question(observation=raw_array(dtype="|O"))),
        "records": pack(question(observation=raw_array(dtype="<f4,<f4"))),
        "pickled in an array": pack(
            question(observation=raw_array(dtype="|O", data=PICKLES[0], shape=[1]))
        ),
        "1 GB list": b"\xdd\x40\x00\x00\x00" + rng.bytes(20),
        "1 GB map": b"\xdf\x40\x00\x00\x00" + rng.bytes(20),
        "1 GB bytes": b"\x81\xa2id\xc6\x40\x00\x00\x00" + rng.bytes(20),
        "1 GB array": pack(question(observation=raw_array(shape=[2**28]))),
        "empty lists of a gigabyte": b"\xdc\xfd\x00" * 21_800,
        "many empty maps": b"\xdc\x40\x00" + b"\x80" * 0x4000,
        "deep": b"\x91" * int(rng.integers(17, 60_000)) + b"\xc0",
        "extension": b"\x81\xa2id\xd4\x01x",
        "no id": pack({"rows": [row()]}),
        "id is text": pack(question("1")),
        "id is negative": pack(question(-1)),
        "rows are text": pack({"id": 1, "rows": "rows"}),
        "no rows": pack({"id": 1, "rows": []}),
        "many rows": pack({"id": 1, "rows": [0] * 300}),
        "row is a list": pack({"id": 1, "rows": [[1]]}),
        "episode is a number": pack(question(episode=0.5)),
        "step is true": pack(question(step=True)),
        "task is a list": pack(question(task=["lift"])),
        "observation is an array": pack(question(observation=state)),
        "state is a list": pack(question(observation=observation(state=[0.0] * 39))),
        "state is missing": pack(question(observation=observation(state=None))),
        "another column": pack(question(observation=observation(velocity=state))),
        "another shape": pack(question(observation=observation(state=state[1:]))),
        "another dtype": pack(question(observation=observation(state=state.astype(np.float64)))),
        "big-endian": pack(question(observation=raw_array(dtype=">f4"))),
        "negative shape": pack(question(observation=raw_array(shape=[-39]))),
        "wrong length": pack(question(observation=raw_array(data=bytes(155)))),
        "not finite": pack(question(observation=observation(state=nan_at(rng.integers(39))))),
    }


def frames(count, seed=0):
    """Malformed frames, all kinds in turn."""
    rng = np.random.default_rng(seed)
    endless = itertools.chain.from_iterable(kinds(rng).values() for _ in itertools.count())
    return itertools.islice(endless, count)
