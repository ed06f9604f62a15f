"""Windows from a memory-mapped file as a learner sees them."""

import numpy as np
import pytest
import torch

from embodied.core.types import UserError
from embodied.data import Packed
from embodied.data.window_source import WindowSource

LENGTHS = (7, 12, 3)


def packed():
    record = np.dtype([("observation.state", np.float32, (2,)), ("action", np.float32, (1,))])
    rows = np.zeros(sum(LENGTHS), record)
    rows["observation.state"][:, 0] = np.repeat(range(len(LENGTHS)), LENGTHS)
    rows["observation.state"][:, 1] = np.concatenate([np.arange(n) for n in LENGTHS])
    rows["action"][:, 0] = rows["observation.state"][:, 1] / 4 - 1
    return Packed(rows, LENGTHS, "abc")


def source(seed=0, fingerprint="abc", **options):
    return WindowSource(packed, np.random.default_rng(seed), fingerprint=fingerprint, **options)


def test_windows_never_cross_a_break_in_the_log():
    batch = source().windows(300, 4)
    episode, step = batch["observation"].unbind(-1)
    assert batch["observation"].shape == (300, 4, 2) and batch["action"].shape == (300, 4, 1)
    assert bool((episode == episode[:, :1]).all())
    assert bool((step.diff(dim=1) == 1).all())
    assert set(episode[:, 0].tolist()) == {0.0, 1.0}  # the third is too short
    torch.testing.assert_close(batch["action"][..., 0], (step / 4 - 1).clamp(-1, 1))


def test_observations_are_scaled():
    plain, scaled = source(), source(scaling=lambda x: x * np.float32(2.0))
    torch.testing.assert_close(
        2 * plain.windows(5, 3)["observation"], scaled.windows(5, 3)["observation"]
    )


def test_it_goes_on_where_it_was_saved():
    first, second = source(0), source(1)
    first.windows(5, 3)
    second.load_state_dict(first.state_dict())
    assert torch.equal(first.next(6)["observation"], second.next(6)["observation"])


def test_other_data_is_refused():
    with pytest.raises(UserError, match="resume with the same data"):
        source(fingerprint="xyz").load_state_dict(source().state_dict())
