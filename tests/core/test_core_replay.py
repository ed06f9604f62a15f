import numpy as np
import pytest
import torch

from embodied.core.checkpoint import Checkpoints, digest
from embodied.core.replay import ReturnSpec, RewardTransform, transition_columns
from embodied.core.returns import monte_carlo_returns
from embodied.core.types import Rollout, UserError
from tests.support import make_replay


def step(number, *, terminated=False, truncated=False, streams=1, reward=None, **meta):
    """One transition per stream, recognisable by `number + 1000 * stream`."""
    names = number + 1000.0 * np.arange(streams)
    observation = np.repeat(names[:, None, None], 2, axis=2).astype(np.float32)

    def flag(value):
        return np.broadcast_to(np.asarray(value, bool).reshape(-1, 1), (streams, 1))

    return Rollout(
        observation=observation,
        next_observation=observation + 0.5,
        action=np.zeros((streams, 1, 2), np.float32),
        reward=(names if reward is None else np.full(streams, reward))[:, None].astype(np.float32),
        terminated=flag(terminated),
        truncated=flag(truncated),
        meta=meta,
    )


def add_episode(replay, numbers, *, terminated=False):
    numbers = list(numbers)
    for n in numbers:
        last = n == numbers[-1]
        replay.add(step(n, terminated=last and terminated, truncated=last and not terminated))


def stored(replay):
    return sorted(replay.rows.view(0, len(replay))["observation"][:, 0].tolist())


def sampled(replay, draws=2000):
    batch = replay.next(draws)
    assert torch.equal(batch["next_observation"], batch["observation"] + 0.5)
    return sorted(set(batch["observation"][:, 0].tolist()))


def test_ring_overwrites_the_oldest():
    replay = make_replay(5)
    for n in range(8):
        replay.add(step(n))
    assert len(replay) == 5
    assert stored(replay) == sampled(replay) == [3, 4, 5, 6, 7]


def test_sampling_is_uniform_over_valid_rows_only():
    replay = make_replay(100)
    for n in range(10):
        replay.add(step(n))
    numbers = replay.next(20_000)["observation"][:, 0].long()
    counts = torch.bincount(numbers, minlength=10)
    assert len(counts) == 10
    assert ((counts - 2000).abs() < 250).all()  # 6 standard deviations


def test_empty_replay_says_so():
    with pytest.raises(UserError, match="no transition yet"):
        make_replay().next(1)
    with pytest.raises(UserError, match="no finished episode"):
        make_replay(whole_episodes=True).next(1)
    with pytest.raises(ValueError, match="capacity"):
        make_replay(0)


def test_padding_is_not_stored_and_masks_mean_termination():
    rollout = step(1, streams=2, terminated=[True, False], truncated=[False, True])
    rollout.mask = np.array([[True], [False]])
    replay = make_replay()
    replay.add(rollout)
    assert stored(replay) == [1]
    replay.add(step(2, truncated=True))
    assert replay.rows.view(0, 2)["mask"].tolist() == [0.0, 1.0]


def test_rewards_are_transformed_on_the_way_in():
    replay = make_replay(reward=RewardTransform(10.0, -5.0))
    replay.add(step(0, reward=1.0))
    assert replay.rows.view(0, 1)["reward"].tolist() == [5.0]


def test_images_keep_their_dtype():
    columns = transition_columns((2, 2, 3), (2,), observation_dtype=torch.uint8)
    replay = make_replay(4)
    replay.rows = type(replay.rows)(columns, 4)
    image = np.arange(12, dtype=np.uint8).reshape(1, 1, 2, 2, 3) + 240
    rollout = step(0)
    rollout.observation = rollout.next_observation = image
    replay.add(rollout)
    batch = replay.next(3)
    assert batch["observation"].dtype == torch.uint8
    assert np.array_equal(batch["observation"][2].numpy(), image[0, 0])


@pytest.mark.parametrize("whole", [False, True])
def test_save_and_restore_is_exact(tmp_path, whole):
    def fill(replay, numbers):
        for n in numbers:
            replay.add(step(n, streams=2, truncated=n % 5 == 4))

    def build(capacity=17):
        return make_replay(capacity, returns=ReturnSpec(0.9) if whole else None)

    replay = build()
    fill(replay, range(23))  # wrapped, and in the middle of an episode
    replay.next(4)
    Checkpoints(tmp_path).save(1, {"replay": replay.state_dict()})
    copy = build()
    copy.load_state_dict(Checkpoints(tmp_path).load()[1]["replay"])
    assert digest(copy.state_dict()) == digest(replay.state_dict())
    for r in (replay, copy):
        fill(r, range(23, 40))
        r.drop_episode(1)
    for _ in range(3):
        ours, theirs = replay.next(6), copy.next(6)
        assert all(torch.equal(ours[k], theirs[k]) for k in ours)
    assert digest(copy.state_dict()) == digest(replay.state_dict())
    with pytest.raises(UserError, match="capacity"):
        build(3).load_state_dict(replay.state_dict())


def test_empty_replay_is_restored(tmp_path):
    Checkpoints(tmp_path).save(1, {"replay": make_replay().state_dict()})
    copy = make_replay()
    copy.load_state_dict(Checkpoints(tmp_path).load()[1]["replay"])
    assert len(copy) == 0


# ------------------------------------------------------------------ returns


RAW = np.array([0.0, 0.0, 1.0])


@pytest.mark.parametrize(
    ("transform", "expected"),
    [
        (RewardTransform(1.0, -1.0), [-1.99, -1.0, 0.0]),
        (RewardTransform(10.0, -5.0), [-5.0495, -0.05, 5.0]),
    ],
)
def test_returns_come_from_transformed_rewards(transform, expected):
    replay = make_replay(reward=transform, returns=ReturnSpec(0.99, transform.bias))
    for n, reward in enumerate(RAW):
        replay.add(step(n, reward=reward, terminated=n == 2))
    assert replay.rows.view(0, 3)["mc_return"].tolist() == pytest.approx(expected, abs=1e-5)
    assert replay.rows.view(0, 3)["mask"].tolist() == [1.0, 1.0, 0.0]


@pytest.mark.parametrize(("failure", "value"), [(-1.0, -100.0), (-5.0, -500.0), (-4.0, -400.0)])
def test_failure_is_taken_to_go_on_for_ever(failure, value):
    rewards, masks = np.full(4, failure), np.ones(4)
    returns = monte_carlo_returns(rewards, masks, 0.99, failure_reward=failure)
    assert returns == pytest.approx(np.full(4, value), rel=1e-6)


def test_dense_returns_end_with_the_episode():
    returns = monte_carlo_returns(np.array([1.0, 2.0, 4.0]), np.array([1, 0, 1.0]), 0.5)
    assert returns.tolist() == [2.0, 2.0, 4.0]


def test_return_of_failure_that_terminates_is_no_endless_failure():
    returns = monte_carlo_returns(
        np.array([-1.0, -1.0]), np.array([1.0, 0.0]), 0.5, failure_reward=-1.0
    )
    assert returns.tolist() == [-1.5, -1.0]


# ------------------------------------------------------------------ whole episodes and windows


def test_whole_episodes_are_held_back_until_they_end():
    replay = make_replay(whole_episodes=True)
    replay.add(step(0, streams=2))
    replay.add(step(1, streams=2, truncated=[False, True]))
    assert stored(replay) == [1000, 1001]
    replay.add(step(2, streams=2, truncated=[True, False]))
    assert stored(replay) == [0, 1, 2, 1000, 1001]


def test_held_back_steps_do_not_alias_the_environment():
    replay = make_replay(whole_episodes=True)
    rollout = step(0)
    replay.add(rollout)
    rollout.observation[:] = -1
    replay.add(step(1, truncated=True))
    assert stored(replay) == [0, 1]


def test_windows_never_cross_episodes():
    replay = make_replay(20, whole_episodes=True)
    generator = np.random.default_rng(0)
    begin, seen = 0, 0
    episode_of = {}
    for e in range(60):  # several times around the ring, with rows skipped at its end
        n = int(generator.integers(1, 8))
        episode_of.update(dict.fromkeys(range(begin, begin + n), e))
        add_episode(replay, range(begin, begin + n))
        begin += n
        for length in (1, 2, 3):
            starts = replay.window_starts(length)
            valid = replay.rows.gather_windows(starts, length)["observation"][..., 0]
            for window in valid.long().tolist():
                assert window == list(range(window[0], window[0] + length))
                assert len({episode_of[i] for i in window}) == 1
            found = set(valid[:, 0].tolist())
            assert len(found) == len(valid)
            newest = range(begin - n, begin - length + 1)
            assert found >= {float(i) for i in newest}
            if len(starts):
                drawn = replay.windows(30, length)["observation"][..., 0]
                assert set(drawn[:, 0].tolist()) <= found
                seen += 1
        assert set(stored(replay)) <= {float(i) for i in range(begin)}
        assert len(set(stored(replay))) == len(replay)
    assert seen > 100


def test_windows_need_whole_and_long_enough_episodes():
    with pytest.raises(ValueError, match="whole episodes"):
        make_replay().window_starts(2)
    replay = make_replay(whole_episodes=True)
    add_episode(replay, range(3))
    with pytest.raises(UserError, match="4 steps"):
        replay.windows(1, 4)
    with pytest.raises(ValueError, match="does not fit"):
        add_episode(make_replay(4, whole_episodes=True), range(5))


# ------------------------------------------------------------------ dropping episodes


def test_drop_takes_exactly_the_unfinished_episode():
    replay = make_replay(50)
    replay.add(step(0, streams=3, truncated=[True, False, False]))
    replay.add(step(1, streams=3))
    replay.add(step(2, streams=3, truncated=[False, True, False]))
    replay.add(step(3, streams=3))
    replay.drop_episode(1)  # only 1003: its first episode is finished
    expected = {s * 1000 + n for s in range(3) for n in range(4)} - {1003}
    assert stored(replay) == sampled(replay) == sorted(expected)
    replay.drop_episode(2)  # began before stream 1's
    expected -= {2000, 2001, 2002, 2003}
    assert stored(replay) == sorted(expected)
    replay.drop_episode(0)
    expected -= {1, 2, 3}
    assert stored(replay) == sorted(expected)
    replay.drop_episode(0)
    replay.drop_episode(7)
    assert stored(replay) == sorted(expected)
    replay.add(step(9))
    assert stored(replay) == sorted(expected | {9})


def test_rollout_that_says_dropped_is_not_stored():
    replay = make_replay(50)
    replay.add(step(0, streams=2))
    replay.add(step(1, streams=2, dropped=np.array([False, True])))
    assert stored(replay) == [0, 1]


def test_drop_of_everything_in_a_full_ring():
    replay = make_replay(4)
    for n in range(7):
        replay.add(step(n))
    replay.drop_episode(0)
    assert len(replay) == 0
    with pytest.raises(UserError):
        replay.next(1)
    replay.add(step(9))
    assert stored(replay) == sampled(replay) == [9]


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("capacity", [7, 16, 200])
def test_drop_against_a_plain_list(capacity, whole):
    """Random adds, ends and drops of three streams, beside a model that cannot be wrong."""
    generator = np.random.default_rng(capacity)
    replay = make_replay(capacity, whole_episodes=whole)
    kept, held = [], {s: [] for s in range(3)}  # what is stored, oldest first; held back or open
    dropped = set()
    for n in range(400):
        ends = generator.random(3) < 0.4 if whole else generator.random(3) < 0.2
        replay.add(step(n, streams=3, truncated=ends))
        for s in range(3):
            number = s * 1000.0 + n
            held[s].append(number)
            if not whole:
                kept.append(number)
            elif ends[s]:
                kept += held[s]
            if ends[s] or (whole and len(held[s]) >= 6):
                if not ends[s]:
                    replay.drop_episode(s)
                    dropped |= set(held[s])
                held[s] = []
        kept = kept[-capacity:]
        if generator.random() < 0.1:
            s = int(generator.integers(3))
            replay.drop_episode(s)
            dropped |= set(held[s])
            kept = [i for i in kept if i not in held[s]]
            held[s] = []
        found = stored(replay)
        assert not set(found) & dropped
        assert len(set(found)) == len(found)
        if not whole:  # whole episodes skip rows at the end of the ring
            assert found == sorted(kept)
    assert dropped
