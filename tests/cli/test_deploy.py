"""From training on the twin to the flight recording as a dataset.

Deploying runs in real time, which a busy machine may not keep up with: limits of lateness are wide
here, and no test asks how an episode ended that the machine may have broken.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from cli_runs import call

import embodied
from embodied import data, deploy, flights
from embodied.core.types import UserError

pytest.importorskip("mujoco")
pytest.importorskip("mcap")
pytest.importorskip("rosbags")

ID = "real/panda_twin"
TINY = (
    "method.hidden=[8,8]",
    "method.batch_size=8",
    "trainer.tensorboard=false",
    "report=false",
    f"env={ID}",
    "env_args.horizon=6",
    "evaluation.episodes=1",
)
WIDE = [f"limits.{name}=5.0" for name in ("observation_age", "command_age", "blind", "tracking")]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A directory with a dataset, a run of SAC that was interrupted and resumed, and one of BC."""
    place = tmp_path_factory.mktemp("arm")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setenv("EMBODIED_LATCH", str(place / "latch"))
        words = ["collect", f"env={ID}", "episodes=2", "out=demos", "env_args.horizon=6"]
        assert call(words) == 0
        yield place


@pytest.fixture
def here(place, monkeypatch):
    monkeypatch.chdir(place)
    monkeypatch.setenv("EMBODIED_LATCH", str(place / "latch"))
    return place


def test_sac_trains_on_the_twin_and_a_resume_begins_an_episode(here):
    words = [*TINY, "method=sac", "method.random_steps=4", "method.online_steps=16", "run=sac"]
    run = embodied.build(*words)
    for _ in range(9):
        run.trainer.step()
    run.trainer.save()
    run.trainer.close()
    again = embodied.build("resume=sac")
    collector = again.trainer.phase.collector
    assert collector.restarted and collector.state_dict()["envs"] is None
    again.trainer.run()
    assert again.trainer.counters.env_steps == 16
    again.trainer.close()


@pytest.mark.parametrize("method", ["bc", "rlpd"])
def test_collected_episodes_train(here, method):
    steps = {
        "bc": ["method.offline_updates=20"],
        "rlpd": ["method.random_steps=4", "method.online_steps=8", "method.utd=1"],
    }
    run = embodied.build(*TINY, f"method={method}", *steps[method], "data=demos", f"run={method}")
    run.trainer.run()
    assert run.trainer.counters.updates > 0
    run.trainer.close()


def test_what_an_operator_did_is_what_is_recorded():
    from embodied.core.collector import EnvCollector

    class Arm:
        num_envs = 1
        single_observation_space = None

        def reset(self, seed, options):
            return np.zeros((1, 2)), {}

        def step(self, action):
            info = {"action": np.full((1, 3), 0.5), "success": np.zeros(1, bool)}
            return np.zeros((1, 2)), np.zeros(1), np.zeros(1, bool), np.zeros(1, bool), info

    class Still:
        def act(self, observation):
            return np.zeros((1, 3), np.float32)

    rollout = EnvCollector(Arm(), np.random.default_rng(0)).collect(Still())
    np.testing.assert_array_equal(rollout.action, np.full((1, 1, 3), 0.5))


def test_a_policy_is_deployed_recorded_reported_and_converted(here, capsys):
    words = ["deploy", "policy=scripted", "episodes=2", "horizon=8", "record=flight", *WIDE]
    assert call(words) == 0
    out = capsys.readouterr().out
    assert "report: flight/report.html" in out and "success" in out
    flight = flights.read_flight("flight/run.mcap")
    assert {0, 1} == set(flight.episodes) and flight.meta["policy"]["name"] == "scripted"
    assert flight.meta["limits"]["tracking"] == 5.0 and flight.loop["steps"] > 0
    assert len(flight.states[0]) > 20 and len(flight.sent[0]) > 20
    page = Path("flight/report.html").read_text()
    assert page.count("data:image/svg") == 2 and "joint acceleration" in page
    assert "video.mp4" in page and Path("flight/video.mp4").stat().st_size > 1000
    assert call(["data", "info", "flight/run.mcap"]) == 0
    assert "episodes: 2 whole, 0 cut off" in capsys.readouterr().out
    assert call(["data", "convert", "flight/run.mcap", "out=converted"]) == 0
    dataset = data.open_dataset("converted")
    kept = [step for step in flight.steps if not step["broken"]]
    assert dataset.num_frames == len(kept) and dataset.env_id == ID
    columns = dataset.episode(0)
    first = [step for step in kept if step["episode"] == kept[0]["episode"]]
    np.testing.assert_array_equal(
        columns["observation.state"], np.array([s["observation"] for s in first], np.float32)
    )
    assert columns["next.done"].tolist() == [False] * (len(first) - 1) + [True]
    run = embodied.build(
        *TINY, "method=bc", "method.offline_updates=3", "data=converted", "run=again"
    )
    run.trainer.run()
    run.trainer.close()


def test_a_recording_is_not_overwritten(here):
    (here / "old").mkdir()
    (here / "old" / "run.mcap").write_bytes(b"")
    with pytest.raises(UserError, match="holds a recording"):
        deploy.deploy(deploy.parse(["policy=random", "record=old"]))


def test_a_policy_of_other_shapes_is_refused_by_both_names(here):
    run = embodied.build(
        *("method=sac", "env=maze/point-v0", "method.hidden=[8,8]", "method.online_steps=6"),
        *("method.random_steps=4", "report=false", "trainer.tensorboard=false", "run=maze"),
        "evaluation.episodes=1",
    )
    run.trainer.run()
    run.trainer.close()
    with pytest.raises(
        UserError, match=r"maze maps observations \(2,\) to actions \(2,\).*\(27,\)"
    ):
        deploy.deploy(deploy.parse(["policy=maze", "record=never"]))


def test_a_run_brings_its_own_rate_and_task(here):
    about = {"env": ID, "env_args": {"rate": 5, "horizon": 9, "reward": "sparse"}}
    (here / "fake").mkdir()
    (here / "fake" / "run.json").write_text(json.dumps(about))
    (here / "fake" / "config.json").write_text("{}")
    found = deploy.parse(["policy=fake", "horizon=7", "limits.velocity_share=0.3"])
    assert (found.rate, found.horizon, found.changes) == (5, 7, {"velocity_share": 0.3})


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["policy=random", "robott=x"], "did you mean robot"),
        (["robot=panda_twin"], "which policy"),
        (["policy=random", "episodes=many"], "a number"),
        (["policy=random", "robot=pandaa"], "no robot 'pandaa'"),
        (["policy=random", "rate=0"], "positive"),
        (["policy=random", "task=fly"], "tasks are reach"),
        (["policy=random", "obs=pixels"], "state or both"),
    ],
)
def test_mistakes_are_named(here, capsys, words, said):
    assert call(["deploy", *words]) == 2
    assert said in capsys.readouterr().err


def test_a_latched_stop_says_how_to_clear_it(here, capsys):
    from hardware.latch import Latch
    from hardware.types import Cause

    Latch("panda_twin").trip(Cause.OPERATOR, "a test")
    assert call(["deploy", "policy=random", "record=latched", "report=false"]) == 2
    assert "embodied hardware reset robot=panda_twin reason=" in capsys.readouterr().err
    assert call(["hardware", "reset", "robot=panda_twin"]) == 2
    assert "reason" in capsys.readouterr().err and Latch("panda_twin").tripped
    assert call(["hardware", "reset", "robot=panda_twin", "reason=test over"]) == 0
    assert Latch("panda_twin").tripped is None


def start(here, *words):
    """A deployment in a process of its own, once its first steps are on the disk."""
    code = "from embodied.cli import main; import sys; sys.exit(main(sys.argv[1:]))"
    process = subprocess.Popen(
        [sys.executable, "-c", code, "deploy", "policy=random", "report=false", *words, *WIDE],
        cwd=here,
        env={**os.environ, "PYTHONPATH": str(Path(embodied.__file__).parents[1])},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    record = next(word for word in words if word.startswith("record=")).removeprefix("record=")
    path, end = here / record / "run.mcap", time.monotonic() + 90
    while time.monotonic() < end and process.poll() is None:
        if path.exists() and path.stat().st_size > 10_000 and _steps(path) >= 3:
            return process, path
        time.sleep(0.2)
    process.kill()
    raise AssertionError(process.communicate())


def _steps(path):
    from hardware.recorder import read

    return sum(message.topic == "/step" for message in read(path))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_stops_the_arm_and_closes_the_recording(here, number):
    process, path = start(here, "episodes=99", f"record=stopped{number}")
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "the arm is at rest" in err
    assert flights.read_flight(path).loop["steps"] > 0  # the last note: the file was closed


def test_a_recording_cut_by_sigkill_converts(here):
    process, path = start(here, "episodes=99", "record=killed")
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    flight = flights.read_flight(path)
    assert not flight.loop and len(flight.steps) >= 3
    dataset = flights.convert(path, here / "from_killed")
    assert dataset.num_frames == sum(not step["broken"] for step in flight.steps)
    assert dataset.episode(dataset.num_episodes - 1)["next.done"][-1]


@pytest.mark.parametrize("transport", ["zenoh", "rosbridge"])
def test_it_goes_over_a_wire(here, capsys, transport):
    """The twin in a process of its own; a starved one may lose the link, which is then said."""
    pytest.importorskip({"zenoh": "zenoh", "rosbridge": "websockets"}[transport])
    for attempt in range(3):
        record = f"record={transport}{attempt}"
        words = ["deploy", "policy=scripted", "episodes=1", "horizon=4", f"transport={transport}"]
        status = call([*words, record, "report=false", *WIDE])
        assert status == 0 or "embodied: " in capsys.readouterr().err
        if status == 0:
            flight = flights.read_flight(f"{transport}{attempt}/run.mcap")
            assert flight.meta["driver"] == "ros" and len(flight.states[0])
            if len(flight.sent[0]) > 3 and flight.steps:
                return
    raise AssertionError("three attempts, and no step came through")
