"""An environment that is dropped gives its memory back."""

import gc

import pytest

import envs


@pytest.mark.parametrize(
    "env_id", ["metaworld/reach-v3", "dm_control/cartpole-balance", "robosuite/Lift"]
)
def test_simulations_are_freed(env_id):
    pytest.importorskip(env_id.split("/")[0])
    import mujoco

    kinds = (mujoco.MjData, mujoco.MjModel)

    def simulations():
        gc.collect()
        return sum(issubclass(type(each), kinds) for each in gc.get_objects())

    def use():
        env = envs.make(env_id)
        env.reset(seed=0)
        env.step(env.action_space.sample())
        env.close()

    use()  # what a package keeps once, it may keep
    before = simulations()
    for _ in range(3):
        use()
    assert simulations() <= before
