"""Wrappers keep the contract and have an identity of their own."""

import numpy as np
import pytest

import envs
from envs import ActionChunk, ClassifierReward, FrameStack

MAZE = "maze/point-v0"
UP, RIGHT = np.array([0, 1], np.float32), np.array([1, 0], np.float32)


class Near:
    """Says how far to the right the point is, as a probability."""

    name = "right of the middle"

    def __call__(self, obs):
        state = obs["state"] if isinstance(obs, dict) else obs
        return float(np.clip((state.ravel()[-2] + 1) / 2, 0, 1))


WRAPPED = {
    "stack": lambda: FrameStack(envs.make(MAZE, horizon=9), 3),
    "stack of both": lambda: envs.make(MAZE, obs="both", image_size=8, frame_stack=2),
    "chunk": lambda: ActionChunk(envs.make(MAZE, horizon=9), 4),
    "classifier": lambda: ClassifierReward(envs.make(MAZE), Near(), threshold=0.6, terminate=True),
    "all": lambda: ClassifierReward(
        envs.make(MAZE, obs="both", image_size=8, horizon=11, frame_stack=2, action_chunk=3),
        Near(),
        threshold=0.6,
    ),
}


@pytest.mark.parametrize("make", WRAPPED.values(), ids=WRAPPED)
def test_contract(make):
    assert "save and restore: exact" in envs.check_env(make, steps=30, seed=3)


@pytest.mark.parametrize("make", WRAPPED.values(), ids=WRAPPED)
def test_vectors(make):
    """A vector of wrapped environments in this process does what each does alone."""
    from envs.vector import SyncVector

    vec, singles = SyncVector(make, 2), [make(), make()]
    vec.reset(seed=[4, 5])
    for env, seed in zip(singles, (4, 5), strict=True):
        env.reset(seed=seed)
    for _ in range(2):
        batch = vec.step(np.full(vec.action_space.shape, 0.3, np.float32))
        for i, env in enumerate(singles):
            one = env.step(np.full(env.action_space.shape, 0.3, np.float32))
            if isinstance(one[0], dict):
                assert all(np.array_equal(batch[0][key][i], one[0][key]) for key in one[0])
            else:
                assert np.array_equal(batch[0][i], one[0])
            assert batch[1][i] == one[1] and batch[2][i] == one[2] and batch[3][i] == one[3]
            assert batch[4]["success"][i] == one[4]["success"]


def test_worker_processes_take_chunks_of_stacks():
    options = {"obs": "both", "image_size": 8, "frame_stack": 2, "action_chunk": 3, "horizon": 7}
    both = [envs.make_vec(MAZE, 2, mode=mode, **options) for mode in ("sync", "async")]
    assert envs.describe(both[0]) == envs.describe(both[1])
    rng = np.random.default_rng(0)
    chunks = rng.uniform(-1, 1, (3, 2, 3, 2)).astype(np.float32)
    results = []
    for vec in both:
        vec.reset(seed=[1, 2])
        results.append([vec.step(chunk) for chunk in chunks])
    both[1].set_state(both[0].get_state())
    both[1].close()
    for a, b in zip(*results, strict=True):
        assert all(np.array_equal(a[0][key], b[0][key]) for key in a[0])
        assert np.array_equal(a[1], b[1]) and np.array_equal(a[4]["rewards"], b[4]["rewards"])
    assert results[0][-1][3].all() and results[0][-1][4]["steps"].tolist() == [1, 1]


def test_identity_tells_wrappers_and_their_arguments_apart():
    plain = envs.make(MAZE)
    made = [
        plain,
        FrameStack(envs.make(MAZE), 2),
        FrameStack(envs.make(MAZE), 3),
        ActionChunk(envs.make(MAZE), 3),
        ActionChunk(FrameStack(envs.make(MAZE), 2), 3),
        FrameStack(ActionChunk(envs.make(MAZE), 3), 2),
        ClassifierReward(envs.make(MAZE), Near()),
        ClassifierReward(envs.make(MAZE), Near(), name="retrained"),
        ClassifierReward(envs.make(MAZE), Near(), threshold=0.7),
        ClassifierReward(envs.make(MAZE), Near(), of="image"),
    ]
    assert len({envs.describe(env)["hash"] for env in made}) == len(made)
    assert envs.describe(plain) == envs.describe(made[1].unwrapped)
    assert envs.describe(made[4]) == envs.describe(envs.make(MAZE, frame_stack=2, action_chunk=3))
    assert made[4].instruction == plain.instruction and made[4].unwrapped is made[4].env.env


# ---------------------------------------------------------------- frame stack


def test_stack_is_the_last_observations_oldest_first():
    env, plain = FrameStack(envs.make(MAZE), 3), envs.make(MAZE)
    first = plain.reset(seed=0)[0]
    obs = env.reset(seed=0)[0]
    assert obs.shape == (3, 2) and env.observation_space.contains(obs)
    assert np.array_equal(obs, [first] * 3)
    second, third = plain.step(UP)[0], plain.step(UP)[0]
    env.step(UP)
    assert np.array_equal(env.step(UP)[0], [first, second, third])
    assert np.array_equal(env.state_observation(), third)


# ---------------------------------------------------------------- action chunk


def test_chunk_is_its_steps():
    env, plain = ActionChunk(envs.make("maze/point-v0", horizon=7), 3), envs.make(MAZE, horizon=7)
    assert env.horizon == 3 and env.action_space.shape == (3, 2)
    env.reset(seed=0)
    plain.reset(seed=0)
    rng = np.random.default_rng(0)
    for chunk, steps in zip(
        rng.uniform(-1, 1, (3, 3, 2)).astype(np.float32), (3, 3, 1), strict=True
    ):
        obs, reward, terminated, truncated, info = env.step(chunk)
        each = [plain.step(action) for action in chunk[:steps]]
        assert np.array_equal(obs, each[-1][0]) and info["steps"] == steps
        assert info["rewards"][:steps].tolist() == [step[1] for step in each]
        assert reward == sum(step[1] for step in each) and (terminated, truncated) == each[-1][2:4]
    assert truncated
    with pytest.raises(RuntimeError, match="call reset"):
        env.step(chunk)


def test_termination_inside_a_chunk():
    expert = envs.expert(envs.make(MAZE))
    plain = envs.make(MAZE)
    obs, _ = plain.reset(seed=0)
    taken, ended = [], False
    while not ended:
        taken.append(expert.act(obs))
        obs, _, ended, *_ = plain.step(taken[-1])
    env = ActionChunk(envs.make(MAZE), len(taken) + 4)
    env.reset(seed=0)
    last, reward, terminated, _, info = env.step(np.stack([*taken, *4 * [UP]]))
    assert terminated and reward == 1.0 and info["success"] is True
    assert info["steps"] == len(taken) and info["rewards"][len(taken) - 1 :].tolist() == [
        1,
        0,
        0,
        0,
        0,
    ]
    assert np.array_equal(last, obs)


def test_a_bad_chunk_carries_out_nothing():
    env = ActionChunk(envs.make(MAZE), 2)
    before = env.reset(seed=0)[0]
    with pytest.raises(ValueError, match="finite"):
        env.step(np.array([[1, 1], [np.nan, 0]], np.float32))
    with pytest.raises(ValueError, match=r"\(2, 2\)"):
        env.step(UP)
    assert np.array_equal(env.observation(), before)


# ---------------------------------------------------------------- classifier


def test_classifier_replaces_reward_and_success_and_keeps_the_true_ones():
    env = ClassifierReward(envs.make(MAZE, wall_height=0.0), Near(), threshold=0.5)
    env.reset(seed=0)
    for _ in range(5):
        obs, reward, terminated, _, info = env.step(RIGHT)
        assert info["success_probability"] == pytest.approx((obs[0] + 1) / 2)
        assert info["success"] is (info["success_probability"] >= 0.5) and reward == info["success"]
    assert reward == 1.0 and info["true_reward"] == 0.0 and info["true_success"] is False
    assert not terminated


def test_classifier_ends_the_episode_if_asked():
    env = ClassifierReward(envs.make(MAZE), lambda obs: 1, name="always", terminate=True)
    env.reset(seed=0)
    assert env.step(UP)[2] is True
    with pytest.raises(RuntimeError, match="call reset"):
        env.step(UP)
    state = env.get_state()
    env.reset(seed=1)
    env.set_state(state)
    with pytest.raises(RuntimeError, match="call reset"):
        env.step(UP)


def test_classifier_of_pictures():
    seen = []

    def classifier(picture):
        seen.append(picture)
        return 0.2

    env = ClassifierReward(envs.make(MAZE, render_size=(20, 30)), classifier, of="image")
    env.reset(seed=0)
    env.step(UP)
    assert seen[0].shape == (20, 30, 3) and np.array_equal(seen[0], env.render())
    with pytest.raises(ValueError, match="render_mode"):
        ClassifierReward(envs.make(MAZE, render_mode=None), classifier, of="image")


@pytest.mark.parametrize("answer", [float("nan"), float("inf"), -0.1, 1.5, [0.5, 0.5], "yes", None])
def test_what_is_no_probability_is_refused(answer):
    env = ClassifierReward(envs.make(MAZE), lambda obs: answer)
    env.reset(seed=0)
    with pytest.raises(ValueError, match="classifier"):
        env.step(UP)


def test_a_classifier_cannot_change_the_observation_and_needs_a_name():
    def spoil(obs):
        obs[:] = 9
        return 0.0

    env = ClassifierReward(envs.make(MAZE), spoil)
    env.reset(seed=0)
    assert (env.step(UP)[0] < 9).all()
    nameless = Near()
    nameless.name = None
    with pytest.raises(ValueError, match="name="):
        ClassifierReward(envs.make(MAZE), nameless)
    with pytest.raises(ValueError, match="threshold"):
        ClassifierReward(envs.make(MAZE), spoil, threshold=0.0)


def test_chunks_of_a_classifier_sum_the_true_rewards():
    inner = ClassifierReward(envs.make("maze/point-v0", wall_height=0.0), Near(), threshold=0.5)
    env = ActionChunk(inner, 30)
    env.reset(seed=0)
    _, reward, terminated, _, info = env.step(np.tile(RIGHT, (30, 1)))
    assert terminated and info["true_reward"] == 1.0 and info["true_success"] is True
    assert reward == info["rewards"].sum() > 1


@pytest.mark.parametrize(
    ("option", "words"),
    [({"frame_stack": 0}, "frame_stack"), ({"action_chunk": 0}, "action_chunk")],
)
def test_wrong_sizes_are_refused(option, words):
    with pytest.raises(ValueError, match=words):
        envs.make(MAZE, **option)


def test_the_state_of_other_wrappers_is_refused():
    state = envs.make(MAZE).get_state()
    with pytest.raises(ValueError, match="saved without"):
        FrameStack(envs.make(MAZE), 2).set_state(state)
    stacked = FrameStack(envs.make(MAZE), 2).get_state()
    with pytest.raises(ValueError, match="cannot be set"):
        envs.make(MAZE).set_state(stacked)
