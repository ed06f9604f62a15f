"""Vector environments: both modes agree, nothing is aliased, dead workers are found."""

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

import envs

MAZE = "maze/point-v0"


def play(vec, steps=40, seed=0):
    """Steps with random actions, resetting finished copies; every second reset has no seed."""
    rng = np.random.default_rng(seed)
    records = [vec.reset(seed=[5, 6])]
    resets = 0
    for _ in range(steps):
        records.append(vec.step(rng.uniform(-1, 1, (2, vec.single_action_space.shape[0]))))
        done = records[-1][2] | records[-1][3]
        if done.any():
            resets += 1
            seeds = [None if resets % 2 else 100 + resets] * 2
            records.append(vec.reset(seed=seeds, options={"reset_mask": done}))
    return records


def same(a, b):
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, tuple | list):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return a.dtype == b.dtype and np.array_equal(a, b)


@pytest.fixture(scope="module")
def both():
    made = [envs.make_vec(MAZE, 2, mode=mode, horizon=9) for mode in ("sync", "async")]
    yield made
    for vec in made:
        vec.close()


def test_sync_equals_async(both):
    sync, workers = both
    records = play(sync)
    assert len(records) > 41  # some were reset
    assert same(records, play(workers))
    assert sync.metadata["autoreset_mode"] is workers.metadata["autoreset_mode"]
    assert sync.metadata["autoreset_mode"] is AutoresetMode.DISABLED
    assert records[1][4]["success"].dtype == bool
    assert envs.describe(sync) == envs.describe(workers)


def test_states_move_between_modes(both):
    sync, workers = both
    play(sync, steps=4)
    workers.set_state(sync.get_state())
    actions = np.full((2, 2), 0.3, np.float32)
    assert same(sync.step(actions), workers.step(actions))
    assert np.array_equal(sync.state_observation(), workers.state_observation())
    sync.set_state(workers.get_state())
    assert same(sync.step(actions), workers.step(actions))


def test_vector_equals_single():
    vec = envs.make_vec(MAZE, 2)
    singles = [envs.make(MAZE) for _ in range(2)]
    vec.reset(seed=3)
    for i, env in enumerate(singles):
        env.reset(seed=3 + i)
    for _ in range(5):
        batch = vec.step(np.full((2, 2), 0.5, np.float32))
        for i, env in enumerate(singles):
            one = env.step(np.full(2, 0.5, np.float32))
            assert all(np.array_equal(batch[k][i], one[k]) for k in range(4))


def test_each_flag_reaches_its_place(monkeypatch):
    vec = envs.make_vec(MAZE, 3)
    vec.reset(seed=0)
    flags = {0: (False, True, False, False), 1: (False,) * 4, 2: (True, False, True, True)}
    outcomes = {vec.envs[i]: (0.5 * i, *flags[i]) for i in range(3)}
    monkeypatch.setattr(envs.SimEnv, "advance", lambda env, command: outcomes[env])
    _, rewards, terminated, truncated, infos = vec.step(np.zeros((3, 2)))
    assert rewards.tolist() == [0.0, 0.5, 1.0]
    assert terminated.tolist() == infos["success"].tolist() == [False, False, True]
    assert infos["diverged"].tolist() == [False, False, True]
    assert truncated.tolist() == [True, False, False]
    assert infos["_success"].all() and infos["_diverged"].all()
    infos["_success"][:] = infos["success"][:] = True  # the caller's own, and not the next step's
    assert vec.step(np.zeros((3, 2)))[4]["success"].tolist() == [False, False, True]


def test_mask_resets_only_the_masked(both):
    for vec in both:
        vec.reset(seed=[1, 2])
        before = vec.step(np.ones((2, 2), np.float32))[0]
        after, infos = vec.reset(seed=[None, 9], options={"reset_mask": np.array([False, True])})
        assert np.array_equal(after[0], before[0]) and not np.array_equal(after[1], before[1])
        assert infos["episode_seed"][1] == 9
        assert infos["_episode_seed"].tolist() == [False, True]


def test_returned_arrays_are_never_reused(both):
    for vec in both:
        first = vec.reset(seed=0)[0]
        kept = first.copy()
        results = [vec.step(np.full((2, 2), 0.2, np.float32)) for _ in range(3)]
        copies = [[part.copy() for part in result[:4]] for result in results]
        vec.step(np.ones((2, 2), np.float32))
        vec.reset(seed=[7, 8], options={"reset_mask": np.array([True, False])})
        assert np.array_equal(first, kept)
        for result, copied in zip(results, copies, strict=True):
            assert all(np.array_equal(a, b) for a, b in zip(result[:4], copied, strict=True))


def test_wrong_arguments():
    with pytest.raises(ValueError, match="num"):
        envs.make_vec(MAZE, 0)
    with pytest.raises(ValueError, match="mode"):
        envs.make_vec(MAZE, 1, mode="threads")
    vec = envs.make_vec(MAZE, 2)
    with pytest.raises(ValueError, match="seeds"):
        vec.reset(seed=[1])
    with pytest.raises(ValueError, match="reset_mask"):
        vec.reset(options={"reset_mask": np.array([False, False])})
    vec.reset(seed=0)
    with pytest.raises(ValueError, match="actions"):
        vec.step(np.zeros((3, 2)))


ORPHANS = """
import os, signal, envs
if __name__ == "__main__":
    vec = envs.make_vec("maze/point-v0", 2, mode="async")
    vec.reset(seed=0)
    print(*[p.pid for p in vec.workers.processes], flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_killed_parent_leaves_no_worker(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(ORPHANS)
    out = subprocess.run(
        [sys.executable, script],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(Path(envs.__file__).parent.parent)},
    )
    workers = [int(pid) for pid in out.stdout.split()]
    assert len(workers) == 2, out.stderr
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and any(map(alive, workers)):
        time.sleep(0.05)
    assert not any(map(alive, workers))


def alive(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return stat.rsplit(")", 1)[1].split()[0] not in "ZX"
