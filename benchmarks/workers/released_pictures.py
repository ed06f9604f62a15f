"""Pictures as the packages make them, 84x84, of scenes that stand still after their first reset."""

from __future__ import annotations

from benchmarks.serve import serve
from envs.physics import prepare_gl

SIZE = 84


def metaworld():
    import gymnasium
    import metaworld  # noqa: F401  (registers Meta-World)

    env = gymnasium.make(
        "Meta-World/MT1",
        env_name="assembly-v3",
        seed=0,
        render_mode="rgb_array",
        width=SIZE,
        height=SIZE,
        camera_name="corner2",
    )
    env.reset()
    return env.render, 1


def robosuite():
    import robosuite

    env = robosuite.make(
        "Lift",
        robots="Panda",
        has_renderer=False,
        has_offscreen_renderer=True,
        use_camera_obs=True,
        camera_names="agentview",
        camera_heights=SIZE,
        camera_widths=SIZE,
        control_freq=20,
    )
    env.reset()
    return lambda: env.sim.render(width=SIZE, height=SIZE, camera_name="agentview"), 1


def libero():
    import envs
    from benchmarks.workers.ours_pictures import SCENES
    from envs.libero import package_folder, task_names

    env_id = SCENES["libero"]
    envs.make(env_id).close()  # finds the models, and answers the package's question on its import
    from libero.libero.envs import OffScreenRenderEnv

    _, suite, index = env_id.split("/")
    name = task_names(env_id)[suite][int(index)]
    bddl = package_folder(env_id) / "bddl_files" / suite / f"{name}.bddl"
    env = OffScreenRenderEnv(bddl_file_name=str(bddl), camera_heights=SIZE, camera_widths=SIZE)
    env.reset()
    return lambda: env.env.sim.render(width=SIZE, height=SIZE, camera_name="agentview"), 1


if __name__ == "__main__":
    prepare_gl()  # the same OpenGL on both sides
    builders = {"metaworld": metaworld, "robosuite": robosuite, "libero": libero}
    serve(builders, ["metaworld", "robosuite", "hf-libero", "mujoco"])
