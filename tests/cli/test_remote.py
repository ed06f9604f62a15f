"""A policy server on loopback: that of docs/remote.md, and some that misbehave."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from cli_runs import RUN

from embodied import actors, collection, evaluation
from embodied import serving as serving_module
from embodied.core.types import UserError
from embodied.settings import CollectSettings
from hardware import policy_client, policy_wire
from hardware.policy_client import RemotePolicy
from hardware.policy_server import PolicyServer
from hardware.policy_wire import Column, RemoteError
from tests import stub_libero

msgpack = pytest.importorskip("msgpack")
server = pytest.importorskip("websockets.sync.server")
DOCS = Path(__file__).parents[2] / "docs/remote.md"
MAZE = "maze/point-v0"
HELLO = {"schema": policy_wire.SCHEMA, "name": "test"}


@pytest.fixture(scope="module")
def documented(tmp_path_factory):
    """The example server, in a process of its own; yields its address."""
    script = tmp_path_factory.mktemp("server") / "server.py"
    script.write_text(re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL)[-1])
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with subprocess.Popen([sys.executable, script, str(port)]) as process:
        try:
            until = time.monotonic() + 60
            while True:
                assert process.poll() is None and time.monotonic() < until
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                    break
                time.sleep(0.05)
            yield f"ws://127.0.0.1:{port}"
        finally:
            process.terminate()


@contextlib.contextmanager
def serving(handle):
    """A server in a thread; `handle(socket)` speaks to one client."""

    def safely(client):
        with contextlib.suppress(Exception):
            handle(client)

    with server.serve(
        safely, "127.0.0.1", 0, compression=None, max_size=policy_wire.MAX_BYTES
    ) as found:
        thread = threading.Thread(target=found.serve_forever, daemon=True)
        thread.start()
        yield f"ws://127.0.0.1:{found.socket.getsockname()[1]}"
        found.shutdown()
        thread.join(10)


def answering(answer, rows_seen=None):
    """A handler that answers each request with answer(request), bytes or a map."""

    def handle(client):
        client.send(policy_wire.pack(HELLO))
        for frame in client:
            request = policy_wire.unpack(frame)
            if rows_seen is not None:
                rows_seen.append(request["rows"])
            reply = answer(request)
            client.send(reply if isinstance(reply, bytes | str) else policy_wire.pack(reply))

    return handle


def test_the_documented_server_is_evaluated(documented, tmp_path):
    """The same ledger for any workers and batch, and the same as of the same policy here."""
    found = {
        evaluation.evaluate(documented, 5, suite=MAZE, out=tmp_path, workers=workers, batch=batch)[
            1
        ].read_bytes()
        for workers, batch in ((1, 1), (1, 2), (1, 5), (2, 3))
    }
    assert len(found) == 1
    result, path = evaluation.evaluate(documented, 5, suite=MAZE, out=tmp_path, batch=2)
    assert (
        result.head["policy"]["name"] == "tanh" and "tanh" in path.with_suffix(".html").read_text()
    )
    env = stub_libero.make_env(MAZE, {})
    observation, _ = env.reset(seed=result.episodes[0].seed)
    for action in result.actions[0]:
        assert np.array_equal(action, np.tanh(observation).astype(np.float32))
        observation = env.step(action)[0]


def test_it_records_too(documented, tmp_path):
    pytest.importorskip("pyarrow")
    settings = CollectSettings(episodes=2, noise=0)
    dataset = collection.collect(tmp_path / "d", MAZE, {}, settings, policy=documented)
    columns = dataset.episode(1)
    assert np.array_equal(columns["action"], np.tanh(columns["observation.state"]))
    assert dataset.meta["policy"]["name"] == "tanh"


def test_dict_observations_and_chunks(tmp_path):
    """State, both cameras and the instruction arrive; a chunk is used up before the next."""
    rows = []
    chunk = np.full((4, 2), 0.25, np.float32)
    reply = lambda request: {"id": request["id"], "actions": [chunk] * len(request["rows"])}  # noqa: E731
    with serving(answering(reply, rows)) as address:
        result, _ = evaluation.evaluate(
            address,
            3,
            suite=MAZE,
            env_args={"obs": "both", "horizon": 6},
            batch=2,
            out=tmp_path,
            make=stub_libero.make,
        )
    assert [len(r) for r in rows] == [2, 2, 1, 1]
    assert [[row["step"] for row in r] for r in rows] == [[0, 0], [4, 4], [0], [4]]
    assert [[row["episode"] for row in r] for r in rows] == [[1, 2], [1, 2], [3], [3]]
    seen = rows[0][0]["observation"]
    names = ("state", "images.agentview", "images.wrist")
    assert set(seen) == {f"observation.{name}" for name in names}
    assert seen["observation.images.wrist"].shape == (8, 8, 3)
    assert seen["observation.images.wrist"].dtype == np.uint8
    assert rows[0][0]["task"] == stub_libero.StubLibero.instruction
    assert all(np.array_equal(actions, np.full((6, 2), 0.25)) for actions in result.actions)


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        ({"id": 1, "error": "out of memory"}, "says: out of memory"),
        ({"id": 2, "actions": [[0, 0]]}, "id 2 instead of 1"),
        ({"id": 1, "actions": []}, "not a list of 1 actions"),
        ({"id": 1, "actions": ["left"]}, "no array"),
        ({"id": 1, "actions": [[float("nan"), 0.0]]}, "not finite"),
        ({"id": 1, "actions": [np.zeros((1, 1, 2))]}, r"shape \(1, 1, 2\)"),
        ({"id": 1, "actions": [np.zeros(3)]}, "3 numbers.*takes 2"),
        ("Traceback: no such key", "text frame: 'Traceback"),
        (b"\xc1", "no msgpack"),
        (msgpack.packb([1]), "a list instead of a map"),
        (msgpack.packb({"id": 1, "actions": msgpack.ExtType(1, b"x")}), "0xd4 is an extension"),
        (b"\x80" * 1000, "no msgpack"),
    ],
)
def test_answers_that_cannot_be_used(reply, message):
    with (
        serving(answering(lambda request: reply)) as address,
        pytest.raises(RemoteError, match=message),
    ):
        evaluation.evaluate(address, 1, suite=MAZE)


def test_nobody_there():
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(RemoteError, match=r"no policy server.*docs/remote\.md"):
        RemotePolicy(f"ws://127.0.0.1:{port}")


def test_another_protocol():
    foreign = msgpack.packb({"action_horizon": 50})
    with (
        serving(lambda client: client.send(foreign)) as address,
        pytest.raises(RemoteError, match="speaks None, needed is"),
    ):
        RemotePolicy(address)


def test_silence_and_hanging_up(monkeypatch):
    def silent(client):
        client.send(policy_wire.pack(HELLO))
        client.recv(timeout=10)
        client.recv(timeout=10)  # never comes

    with serving(silent) as address:
        policy = RemotePolicy(address, timeout=0.2)
        with pytest.raises(RemoteError, match="is silent"):
            policy.act([{"episode": 1}])
        policy.close()
    monkeypatch.setattr(policy_client, "CONNECT_SECONDS", 0.3)
    with (
        socket.create_server(("127.0.0.1", 0)) as mute,  # accepts, and never says a word
        pytest.raises(RemoteError, match="no policy server"),
    ):
        RemotePolicy(f"ws://127.0.0.1:{mute.getsockname()[1]}")
    with serving(lambda client: client.send(policy_wire.pack(HELLO))) as address:
        policy = RemotePolicy(address)
        with pytest.raises(RemoteError, match="closed the connection"):
            policy.act([{"episode": 1}])


def test_a_server_that_dies_ends_an_evaluation_by_workers():
    def dying(client):
        client.send(policy_wire.pack(HELLO))
        client.recv()

    with serving(dying) as address, pytest.raises(UserError, match="closed the connection"):
        evaluation.evaluate(address, 2, suite=MAZE, workers=2)


def test_without_the_extra(monkeypatch):
    from embodied.cli import main

    monkeypatch.setitem(sys.modules, "websockets.sync.client", None)
    assert main(["eval", "policy=ws://127.0.0.1:1", f"suite={MAZE}"]) == 2


def test_the_client_needs_no_torch():
    code = "import sys, hardware.policy_client; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=DOCS.parents[1], timeout=60)
    assert actors.is_run("runs/x") and not actors.is_run("wss://host:1")


def test_a_served_run_is_evaluated_as_it_is_here(place):
    """The same episodes and returns through the server as without it, and what differs is said."""
    pytest.importorskip("torch")
    with serving_module.serve(RUN, port=0) as served:
        here, _ = evaluation.evaluate(RUN, 4, out="here")
        there, _ = evaluation.evaluate(served.url, 4, suite=MAZE, batch=2, out="there")
        assert [e.record() for e in here.episodes] == [e.record() for e in there.episodes]
        assert all(map(np.array_equal, here.actions, there.actions))
        assert there.head["policy"]["updates"] == here.head["policy"]["updates"]
        assert there.head["policy"]["columns"]["action"] == {"dtype": "float32", "shape": [2]}
        with pytest.raises(RemoteError, match=r"made for something else: .*observation\.images"):
            evaluation.evaluate(
                served.url, 1, suite=MAZE, env_args={"obs": "both"}, make=stub_libero.make
            )
        assert not served.counts["malformed"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_serving_ends_cleanly(place, number):
    command = [sys.executable, "-m", "embodied.cli", "serve", f"policy={RUN}", "port=0"]
    environment = {**os.environ, "PYTHONPATH": str(DOCS.parents[1]), policy_wire.TOKEN: "t" * 20}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        try:
            lines = [process.stdout.readline(), process.stdout.readline()]
            assert "maps observation.state float32[2] to action float32[2]" in lines[0]
            url = re.search(r"serving at (ws://127\.0\.0\.1:\d+) with a token", lines[1])[1]
            policy = RemotePolicy(url, token="t" * 20)
            process.send_signal(number)
            out, err = process.communicate(timeout=60)
            policy.close()
        finally:
            process.kill()
    assert process.returncode == 0 and "ended; 1 clients" in out and not err


def test_what_cannot_be_served(refused, tmp_path, monkeypatch):
    monkeypatch.delenv(policy_wire.TOKEN, raising=False)
    assert "scripted cannot be served: say which run" in refused("serve", "policy=scripted")
    assert "nothing cannot be served" in refused("serve")
    assert "not a run directory" in refused("serve", "policy=nowhere")
    assert "not 'hosts=x'" in refused("serve", "policy=nowhere", "hosts=x")
    assert "cannot read a token" in refused("serve", "policy=nowhere", "token_file=none")


def test_only_loopback_is_served_without_a_token(place, refused, monkeypatch):
    monkeypatch.delenv(policy_wire.TOKEN, raising=False)
    assert "without a token only" in refused("serve", f"policy={RUN}", "host=0.0.0.0")


def test_a_token_from_the_environment(monkeypatch):
    monkeypatch.setenv(policy_wire.TOKEN, "a-token-of-the-tests")
    columns = {
        "observation.state": Column("float32", (2,)),
        "action": Column("float32", (2,)),
    }
    act = lambda rows: [np.zeros(2)] * len(rows)  # noqa: E731
    with PolicyServer(act, columns, name="zero", port=0, token="a-token-of-the-tests") as served:
        evaluation.evaluate(served.url, 1, suite=MAZE)
        monkeypatch.delenv(policy_wire.TOKEN)
        with pytest.raises(RemoteError, match="refuses clients without a token"):
            evaluation.evaluate(served.url, 1, suite=MAZE)
