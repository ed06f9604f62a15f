import random

import numpy as np
import pytest
import torch

from embodied.core.seeding import Streams
from tests.support import make_trainer, make_wsrl


def test_streams_do_not_depend_on_order_or_on_others():
    one, two = Streams(3), Streams(3)
    a = one.numpy("a").random(4)
    one.numpy("b").random(100)
    two.torch("c")
    two.numpy("b")
    assert np.array_equal(two.numpy("a").random(4), a)
    assert np.array_equal(one.numpy("a").random(4), a)  # asking again starts anew


@pytest.mark.parametrize(
    "draw",
    [
        lambda s, n: tuple(s.numpy(n).integers(2**62, size=4)),
        lambda s, n: tuple(torch.randint(2**62, (4,), generator=s.torch(n)).tolist()),
        lambda s, n: tuple(s.integers(n, 4)),
    ],
)
def test_names_and_seeds_give_different_streams(draw):
    seeds = (0, 1, 2**31, 2**32, 2**32 + 1, 2**40)
    names = ("a", "b", "ab", "", "a/b")
    drawn = {draw(Streams(seed), name) for seed in seeds for name in names}
    assert len(drawn) == len(seeds) * len(names)


def test_streams_never_change():
    # Published runs depend on these numbers.
    assert Streams(0).integers("evaluation", 2) == [1129088556, 375238588]
    assert Streams(1).numpy("x").integers(1000, size=3).tolist() == [723, 42, 783]
    assert torch.randint(1000, (3,), generator=Streams(1).torch("x")).tolist() == [761, 518, 257]


def test_integers_are_a_prefix_of_more_integers():
    assert Streams(5).integers("n", 3) == Streams(5).integers("n", 10)[:3]
    assert all(0 <= i < 2**31 for i in Streams(5).integers("n", 100))


def test_negative_seed_is_refused():
    with pytest.raises(ValueError, match="negative"):
        Streams(-1)


def test_a_run_touches_no_global_generator(tmp_path):
    def states():
        name, keys, *rest = np.random.get_state(legacy=True)  # noqa: NPY002
        return random.getstate(), (name, keys.tolist(), *rest), torch.get_rng_state().tolist()

    before = states()
    trainer = make_trainer(make_wsrl(offline=3, warmup=20, online=4), tmp_path, evaluate=1)
    trainer.run()
    assert states() == before
    assert trainer.counters.updates == 6
