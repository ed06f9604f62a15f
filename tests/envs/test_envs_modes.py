"""State and pictures together, in one environment and in vectors; instructions; the look."""

import importlib.util

import numpy as np
import pytest
from gymnasium.spaces import Dict

import envs
from embodied.core.collector import EnvCollector
from embodied.core.types import UserError
from envs import batch, rendering
from envs.instructions import instruction

MAZE = "maze/point-v0"
SIMULATED = {  # id -> two of its cameras
    "metaworld/door-open-v3": ("corner", "gripperPOV"),
    "dm_control/walker-walk": ("side", "back"),
    "robosuite/Lift": ("agentview", "robot0_eye_in_hand"),
}


def make(env_id, **options):
    """The environment, if it is installed and can render."""
    pytest.importorskip(env_id.split("/")[0])
    env = envs.make(env_id, render="fast", image_size=24, **options)
    try:
        env.frame(8, 8)
    except envs.RenderError as error:
        pytest.skip(f"no OpenGL here: {error}")
    return env


def actions(env, count):
    rng = np.random.default_rng(0)
    return rng.uniform(-1, 1, (count, *env.action_space.shape)).astype(np.float32)


def equal(a, b):
    return a.keys() == b.keys() and all(np.array_equal(a[key], b[key]) for key in a)


# ---------------------------------------------------------------- both


def test_both_is_state_and_pixels():
    both, state, pixels = (envs.make(MAZE, obs=obs) for obs in ("both", "state", "pixels"))
    assert both.observation_space == Dict(
        {"state": state.observation_space, "pixels": pixels.observation_space}
    )
    found = [env.reset(seed=3)[0] for env in (both, state, pixels)]
    for action in actions(both, 4):
        assert np.array_equal(found[0]["state"], found[1])
        assert np.array_equal(found[0]["pixels"], found[2])
        found = [env.step(action)[0] for env in (both, state, pixels)]
    assert found[0]["state"].dtype == np.float32 and found[0]["pixels"].dtype == np.uint8


@pytest.mark.parametrize("env_id", SIMULATED)
def test_several_cameras_and_continuation(env_id):
    cameras = SIMULATED[env_id]
    env = make(env_id, obs="both", cameras=cameras)
    assert set(env.observation_space) == {*(f"pixels.{name}" for name in cameras), "state"}
    env.reset(seed=1)
    for action in actions(env, 3):
        obs = env.step(action)[0]
    assert env.observation_space.contains(obs)
    first, second = (obs[f"pixels.{name}"] for name in cameras)
    assert not np.array_equal(first, second) and first.std() > 1
    assert all(np.array_equal(obs[f"pixels.{c}"], env.frame(24, 24, c)) for c in cameras)
    other = envs.make(env_id, **env.identity["kwargs"])  # also: an identity makes it again
    other.set_state(env.get_state())
    assert equal(other.observation(), obs) and other.identity == env.identity
    assert equal(other.step(action)[0], env.step(action)[0])
    env.close()
    other.close()


@pytest.mark.slow
def test_contract_with_both():
    assert "save and restore: exact" in envs.check_env(
        lambda: make("dm_control/cartpole-swingup", obs="both"), steps=4
    )
    assert "save and restore: exact" in envs.check_env(
        lambda: envs.make(MAZE, obs="both"), steps=20
    )


@pytest.mark.parametrize(
    "options",
    [
        {"cameras": ("a", "b")},
        {"obs": "pixels", "cameras": ("a",)},
        {"obs": "both", "cameras": ("a", "a")},
        {"obs": "both", "cameras": ()},
        {"obs": "both", "cameras": ("a",), "camera": "b"},
    ],
)
def test_wrong_cameras_are_refused(options):
    with pytest.raises(ValueError, match="cameras"):
        envs.make(MAZE, **options)


def test_an_unknown_camera_names_the_known():
    env = make("metaworld/reach-v3", obs="both", cameras=("corner", "nowhere"))
    with pytest.raises(ValueError, match=r"no camera 'nowhere'; there are .*corner"):
        env.reset(seed=0)


def test_vectors_of_dicts_agree_and_alias_nothing():
    vectors = [envs.make_vec(MAZE, 2, mode=m, obs="both", horizon=3) for m in ("sync", "async")]
    runs = []
    for vec in vectors:
        obs, infos = vec.reset(seed=[5, 6])
        assert vec.observation_space.contains(obs)
        assert infos["instruction"].tolist() == 2 * [vec.instruction]
        kept, copied = obs, {key: value.copy() for key, value in obs.items()}
        run = [obs]
        for action in actions(vec, 3):
            run.append(vec.step(action)[0])
        half = vec.reset(seed=[None, 9], options={"reset_mask": np.array([False, True])})[0]
        assert equal(kept, copied)
        assert np.array_equal(half["pixels"][0], run[-1]["pixels"][0])
        assert not np.array_equal(half["state"][1], run[-1]["state"][1])
        runs.append([*run, half])
    assert all(equal(a, b) for a, b in zip(*runs, strict=True))
    sync, workers = vectors
    sync.reset(seed=1)
    workers.set_state(sync.get_state())
    assert equal(workers.workers.observations(), batch.stack(sync._last))
    assert equal(workers.step(action)[0], sync.step(action)[0])
    workers.close()


def test_a_collector_refuses_dicts():
    vec = envs.make_vec(MAZE, 1, obs="both")
    with pytest.raises(UserError, match="not a dict of pixels, state"):
        EnvCollector(vec, np.random.default_rng(0))


# ---------------------------------------------------------------- instructions


def test_every_task_has_an_instruction():
    for env_id in envs.tasks():
        text = instruction(env_id) if not env_id.startswith("libero/") else "its own"
        assert text and text[0].islower() and not text.endswith("."), env_id
    assert instruction("metaworld/door-open-v3") == "open the door"
    assert instruction("dm_control/humanoid_CMU-walk") == "make the humanoid walk"
    assert instruction("dm_control/cartpole-swingup_sparse") == "swing the pole up and balance it"
    assert instruction("robosuite/Stack") == "stack the red cube on the green cube"


def test_the_instruction_is_in_the_info_of_a_reset_only():
    env = envs.make(MAZE)
    assert (
        env.reset(seed=0)[1]["instruction"] == env.instruction == "reach the goal behind the wall"
    )
    assert "instruction" not in env.step(np.zeros(2, np.float32))[4]


@pytest.mark.skipif(not importlib.util.find_spec("libero"), reason="needs hf-libero")
def test_libero_keeps_its_own():
    pytest.importorskip("robosuite")
    from envs import libero

    try:
        env = envs.make("libero/libero_goal/7")
    except (libero.MissingAssets, libero.BadInitStates) as error:
        pytest.skip(str(error))
    assert env.reset(seed=0)[1]["instruction"] == "turn on the stove"


# ---------------------------------------------------------------- the look


def test_the_look_is_described():
    plain = envs.describe(envs.make(MAZE))
    assert plain["look"] == {"render": "package"}
    assert envs.describe(envs.make(MAZE, render="fast"))["hash"] == plain["hash"]  # states
    fast, package = (make_described(render) for render in ("fast", "package"))
    assert fast["look"]["render"] == "fast" and fast["look"]["revision"] == rendering.FAST_LOOK
    assert fast["look"]["gl"] and fast["look"]["device"] == package["look"]["device"] != "none"
    assert fast["hash"] != package["hash"]


def make_described(render):
    make("metaworld/reach-v3").close()
    env = envs.make("metaworld/reach-v3", obs="both", render=render)
    vec = envs.make_vec("metaworld/reach-v3", 1, obs="both", render=render)
    assert envs.describe(vec) == envs.describe(env)
    return envs.describe(env)


def test_the_hash_follows_the_fast_look_and_not_the_machine(monkeypatch):
    env = make("metaworld/reach-v3", obs="pixels")
    before = envs.describe(env)
    monkeypatch.setattr("envs.registry.gl", lambda: {"gl": "egl", "device": "another"})
    after = envs.describe(env)
    assert after["look"] != before["look"] and after["hash"] == before["hash"]
    monkeypatch.setattr("envs.registry.FAST_LOOK", 99)
    assert envs.describe(env)["hash"] != before["hash"]


@pytest.mark.parametrize("env_id", SIMULATED)
def test_what_is_out_of_view_changes_no_pixel(env_id, monkeypatch):
    env = make(env_id)
    env.reset(seed=0)
    groups = env._model.geom_group.copy()
    cameras = [env._model.camera(i).name for i in range(env._model.ncam)]
    culled = [env.frame(40, 60, camera) for camera in cameras]
    hidden = []
    outside = rendering._outside

    def nothing(*args):
        hidden.append(outside(*args).sum())
        return np.zeros(env._model.ngeom, bool)

    monkeypatch.setattr(rendering, "_outside", nothing)
    assert all(
        np.array_equal(env.frame(40, 60, camera), frame)
        for camera, frame in zip(cameras, culled, strict=True)
    )
    assert max(hidden) > 0 or env_id.startswith("dm_control")  # whose cameras show all
    assert np.array_equal(env._model.geom_group, groups)


def test_the_fast_look_leaves_the_model_as_it_was_and_hardly_changes_meshes(monkeypatch):
    env = make("metaworld/assembly-v3")
    model = env._model
    env.reset(seed=0)
    before = {name: getattr(model, name).copy() for name in rendering._MESH_FIELDS}
    samples = model.vis.quality.offsamples
    monkeypatch.setattr(rendering, "_FINE", 10**9)
    with rendering.light_model(model, 64):
        assert not np.array_equal(model.mesh_face, before["mesh_face"])
        assert np.allclose(np.linalg.norm(model.mesh_normal, axis=1), 1, atol=1e-3)
        corners = [  # the same triangles in another order
            np.sort(faces.reshape(-1, 3), axis=0)
            for faces in (model.mesh_face, before["mesh_face"])
        ]
        assert np.array_equal(*corners) and model.vis.quality.offsamples == 0
    assert all(np.array_equal(getattr(model, name), before[name]) for name in before)
    assert model.vis.quality.offsamples == samples
    monkeypatch.undo()
    with rendering.light_model(model, 64):
        fine = before["mesh_facenum"] > rendering._FINE
        assert fine.any() and np.array_equal(fine, model.mesh_facenum < before["mesh_facenum"])
        for i in range(model.nmesh):  # no corner moves by more than a cell's diagonal
            part = slice(model.mesh_vertadr[i], model.mesh_vertadr[i] + model.mesh_vertnum[i])
            moved = np.abs(model.mesh_vert[part] - before["mesh_vert"][part]).max()
            extent = np.ptp(before["mesh_vert"][part], axis=0).max()
            assert moved <= extent / 64 if fine[i] else moved == 0
    assert all(np.array_equal(getattr(model, name), before[name]) for name in before)
    light = env.frame(64, 64).astype(int)
    env.close()
    monkeypatch.setattr(rendering, "_FINE", 10**9)
    monkeypatch.setattr(rendering, "_share_normals", lambda *args: None)
    monkeypatch.setattr(rendering, "_order_faces", lambda *args: None)
    assert np.abs(env.frame(64, 64) - light).mean() < 0.5
    env.close()
