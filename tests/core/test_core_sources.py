import pytest
import torch

from embodied.core.replay import ReturnSpec, RewardTransform
from embodied.core.sources import MixSource
from embodied.core.types import UserError
from tests.support import episodes, make_dataset, make_replay


def mark(episode, value):
    return {k: (v * 0 + value if k == "action" else v) for k, v in episode.items()}


def mixed(ratio, online_rows=8):
    """Offline actions are 1, online actions 0."""
    offline = make_dataset(lambda: [mark(e, 1.0) for e in episodes()])
    online = make_replay()
    rows = [mark(e, 0.0) for e in episodes()]
    if online_rows:
        online.add_episode({k: v[:online_rows] for k, v in rows[0].items()})
    return MixSource(online, offline, ratio)


def is_offline(batch):
    return batch["action"][:, 0] == 1.0


def test_every_minibatch_has_its_share():
    batch = mixed(0.5).next(8)
    for part in is_offline(batch).view(2, 4):
        assert part.sum() == 2


@pytest.mark.parametrize(
    ("ratio", "slices", "per_slice"), [(0.25, 4, 1), (0.75, 4, 3), (0.1, 2, 1)]
)
def test_other_shares_are_even_too(ratio, slices, per_slice):
    n = round(per_slice / ratio)
    parts = is_offline(mixed(ratio).next(n * slices)).view(slices, n)
    assert (parts.sum(1) == per_slice).all()


def test_share_of_all_rows():
    source = mixed(None, online_rows=8)
    assert len(source.offline) == 32
    assert is_offline(source.next(40)).sum() == 32
    assert is_offline(mixed(None, online_rows=0).next(10)).all()


def test_all_of_one_kind():
    assert is_offline(mixed(1.0, online_rows=0).next(4)).all()
    assert not is_offline(mixed(0.0).next(4)).any()
    for ratio in (-0.1, 1.1):
        with pytest.raises(ValueError, match="offline_ratio"):
            mixed(ratio)


def test_mixture_resumes():
    source, copy = mixed(0.5), mixed(0.5)
    source.next(8)
    copy.load_state_dict(source.state_dict())
    ours, theirs = source.next(8), copy.next(8)
    assert all(torch.equal(ours[k], theirs[k]) for k in ours)


def test_dataset_is_loaded_when_first_needed_and_transformed():
    loads = []

    def load():
        loads.append(0)
        return episodes()

    source = make_dataset(load, reward=RewardTransform(1.0, -1.0), returns=ReturnSpec(0.99, -1.0))
    assert not loads
    source.next(3)
    source.next(3)
    assert len(loads) == 1
    rows = source.rows()
    assert len(rows["reward"]) == len(source) == 32
    assert set(rows["reward"].tolist()) <= {-1.0, 0.0}
    assert rows["mc_return"].min() == pytest.approx(-100.0)
    starts = source.windows(50, 8)["observation"][:, 0]
    firsts = torch.tensor([e["observation"][0].tolist() for e in episodes()])
    assert all((firsts == s).all(1).any() for s in starts)


def test_other_data_is_refused():
    state = make_dataset().state_dict()
    with pytest.raises(UserError, match="same data"):
        make_dataset(fingerprint="0" * 64).load_state_dict(state)


def test_dropped_data_is_gone_for_good():
    source = make_dataset()
    source.next(2)
    source.drop()
    for use in (lambda: source.next(1), lambda: len(source), source.rows):
        with pytest.raises(RuntimeError, match="dropped"):
            use()

    def load():
        raise AssertionError("a run that dropped its data read it again")

    resumed = make_dataset(load)
    resumed.load_state_dict(source.state_dict())
    assert resumed.dropped
    with pytest.raises(RuntimeError, match="dropped"):
        resumed.next(1)
