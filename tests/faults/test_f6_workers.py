"""F6: an environment's worker dies, hangs, raises or returns NaN; the others do not notice."""

import functools
import os
import signal
import time

import numpy as np
import pytest

import envs
from embodied.core.collector import EnvCollector, UniformPolicy
from embodied.core.guards import bad_streams
from envs.vector import AsyncVector
from tests.faults.spoilt import MAZE, spoilt

N = 8


@pytest.fixture
def vec(tmp_path):
    made = AsyncVector(functools.partial(spoilt, tmp_path / "flag"), N, timeout=1.0)
    made.flag = tmp_path / "flag"
    yield made
    processes = made.workers.processes
    made.close()
    assert not any(p.is_alive() for p in processes)


def run(vec, steps, fault=None, every=0, victim=3):
    """Rollouts of a seeded random policy; at each `every`th step a fault hits one worker."""
    collector = EnvCollector(vec, np.random.default_rng(0))
    policy = UniformPolicy(2, np.random.default_rng(1))
    rollouts, waits = [], []
    for k in range(steps):
        if every and k % every == every // 2:
            process = vec.workers.processes[victim]
            if fault == "kill":
                os.kill(process.pid, signal.SIGKILL)
            else:
                vec.flag.write_text(f"{process.pid} {fault}")
            waits.append(k)
        begin = time.monotonic()
        rollouts.append(collector.collect(policy))
        rollouts[-1].meta["seconds"] = time.monotonic() - begin
    return rollouts, waits


def trajectory(rollouts, stream):
    """Everything a stream saw, as bytes."""
    columns = ("observation", "action", "reward", "next_observation", "terminated", "truncated")
    return [b"".join(getattr(r, c)[stream].tobytes() for c in columns) for r in rollouts]


@pytest.mark.parametrize("fault", ["kill", "hang", "raise"])
def test_one_worker_fails_and_the_others_are_untouched(vec, fault):
    steps, every = (1000, 200) if fault == "kill" else (120, 60)
    expected, _ = run(envs.make_vec(MAZE, N, horizon=40), steps)
    got, hit = run(vec, steps, fault, every)
    broken = [k for k, r in enumerate(got) if r.meta["broken"].any()]
    assert broken == hit  # seen in the very step, and flagged
    for k in broken:
        assert got[k].meta["broken"].tolist() == [i == 3 for i in range(N)]
        assert got[k].truncated[3, 0] and np.isfinite(got[k].next_observation).all()
        limit = 2.0 if fault != "hang" else vec.workers.timeout + 1.0
        assert got[k].meta["seconds"] < limit  # detection is part of the promise
    for stream in range(N):
        if stream != 3:
            assert trajectory(got, stream) == trajectory(expected, stream)
    assert len(vec.workers.faults) == len(hit)
    how = {"kill": "died", "hang": "gave no answer", "raise": "gave up"}[fault]
    assert all(how in got[k].meta["fault"] for k in broken)
    # the replaced worker goes on by itself
    assert not any(r.meta["broken"].any() for r in got[broken[-1] + 1 :])
    assert len({got[k].observation[3].tobytes() for k in range(broken[-1] + 1, steps)}) > 5


def test_nan_of_one_environment_is_seen_in_that_stream_alone(vec):
    rollouts, (hit,) = run(vec, 40, "nan", 40)
    bad = {k: np.flatnonzero(bad_streams(r)[0]).tolist() for k, r in enumerate(rollouts)}
    assert bad[hit] == [3]
    assert not any(stream != 3 for streams in bad.values() for stream in streams)


def test_replacements_are_the_same_every_time(tmp_path):
    """A caller that gives no seed after a failure gets a derived one."""

    def play():
        vec = AsyncVector(functools.partial(spoilt, tmp_path / "flag"), 2, timeout=20.0)
        try:
            vec.reset(seed=[7, 8])
            os.kill(vec.workers.processes[1].pid, signal.SIGKILL)
            *_, truncated, infos = vec.step(np.zeros((2, 2), np.float32))
            assert truncated.tolist() == [False, True] and infos["broken"].tolist() == [False, True]
            return vec.reset(seed=[None, None], options={"reset_mask": truncated})[0]
        finally:
            vec.close()

    assert np.array_equal(play(), play())


def test_too_many_failures_stop_with_their_own_exit_code(vec):
    vec.reset(seed=0)
    with pytest.raises(envs.WorkerError, match="6 workers failed within 1000 steps") as error:
        for _ in range(7):
            os.kill(vec.workers.processes[5].pid, signal.SIGKILL)
            vec.step(np.zeros((N, 2), np.float32))
            vec.reset(seed=[None] * N, options={"reset_mask": np.arange(N) == 5})
    assert error.value.exit_code == 12
    assert not any(p.is_alive() for p in vec.workers.processes)


def test_the_callers_mistakes_are_no_failures(vec):
    vec.reset(seed=0)
    with pytest.raises(ValueError, match="finite"):
        vec.step(np.full((N, 2), np.nan))
    for _ in range(40):
        vec.step(np.zeros((N, 2), np.float32))
    with pytest.raises(RuntimeError, match="over"):
        vec.step(np.zeros((N, 2), np.float32))
    assert vec.workers.faults == []
