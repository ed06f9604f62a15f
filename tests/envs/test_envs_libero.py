"""LIBERO: init states, protocol, predicates, exact continuation; and what reads its pickles."""

import importlib.util
import io
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest

import envs
from envs import libero, libero_convert

INSTALLED = importlib.util.find_spec("libero") and importlib.util.find_spec("robosuite")
needs_package = pytest.mark.skipif(not INSTALLED, reason="needs the extra libero and hf-libero")
needs_assets = pytest.mark.skipif(
    not (INSTALLED and os.environ.get("LIBERO_ASSETS")),
    reason="needs hf-libero, and LIBERO_ASSETS to name the folder of its models",
)
STOVE = "libero/libero_goal/7"  # turn on the stove


# ---------------------------------------------------------------- initial states


def saved(data):
    """Bytes as torch.save lays them out."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", data)
        archive.writestr("archive/version", "3")
    return file.getvalue()


def test_arrays_are_read_bit_for_bit():
    array = np.random.default_rng(0).standard_normal((50, 7))
    read = libero_convert.read_array(saved(array.dumps()))
    assert read.dtype == np.float64 and np.array_equal(read, array)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"cos\nsystem\n(S'true'\ntR.", "asks for os.system"),
        (b"cbuiltins\neval\n(S'1'\ntR.", "asks for builtins.eval"),
        (b"cnumpy\nload\n(S'x'\ntR.", "asks for numpy.load"),
        (b"cnumpy\nndarray.tofile\n.", "asks for numpy.ndarray.tofile"),
        (b"c_codecs\nencode\n(VaaVrot13\ntR.", "not a saved array|encode"),
        (b"\x80\x02X\x01\x00\x00\x00aQ.", "outside itself"),
        (b"cnumpy\ndtype\n.", "found a _DTypeMeta"),
        (b"\x80\x02garbage", "not a saved array"),
        (np.array([1, "a"], object).dumps(), "found a ndarray"),
        (np.zeros((2, 2), np.float32).dumps(), "float64"),
    ],
)
def test_other_pickles_are_refused(data, message):
    with pytest.raises(libero.BadInitStates, match=message):
        libero_convert.read_array(saved(data))


def test_a_refused_pickle_runs_nothing(tmp_path):
    mark = tmp_path / "mark"
    data = f"cos\nmkdir\n(V{mark}\ntR.".encode()
    with pytest.raises(libero.BadInitStates):
        libero_convert.read_array(saved(data))
    assert not mark.exists()


def test_conversion_is_checked_against_the_recorded_digest(tmp_path, monkeypatch):
    states = {"suite/a": np.arange(6.0).reshape(2, 3), "suite/b": np.ones((1, 4))}
    (tmp_path / "init_files/suite").mkdir(parents=True)
    for name, array in states.items():
        path = tmp_path / f"init_files/{name}.pruned_init"
        path.write_bytes(saved(array.dumps()))
    out = tmp_path / "cache/states.npz"
    with pytest.raises(libero.BadInitStates, match="2 tasks with digest"):
        libero_convert.convert(tmp_path / "init_files", out)
    assert not out.exists()
    with pytest.raises(libero.BadInitStates, match=r"python -m envs\.libero_convert"):
        libero.load_init_states(out)
    monkeypatch.setattr(libero, "INIT_STATES_SHA256", libero.init_states_digest(states))
    libero_convert.convert(tmp_path / "init_files", out)
    loaded = libero.load_init_states(out)
    assert all(np.array_equal(loaded[name], states[name]) for name in states)
    np.savez(out, **{**states, "suite/b": np.zeros((1, 4))})
    with pytest.raises(libero.BadInitStates, match="digest"):
        libero.load_init_states(out)


# ---------------------------------------------------------------- names and numbers


def test_instruction_comes_from_the_file_name():
    assert libero.instruction("turn_on_the_stove") == "turn on the stove"
    scene = "LIVING_ROOM_SCENE10_put_the_red_mug_on_the_plate"
    assert libero.instruction(scene) == "put the red mug on the plate"


def test_axis_angle_is_the_one_of_the_datasets():
    half = np.sqrt(0.5)
    turn = np.array([0, 0, half, half])
    assert np.allclose(libero.axis_angle(turn), [0, 0, np.pi / 2])
    assert np.allclose(libero.axis_angle(-turn), [0, 0, -3 * np.pi / 2])  # not canonical
    assert np.array_equal(libero.axis_angle(np.array([0, 0, 0, 1.0])), np.zeros(3))
    assert np.allclose(libero.axis_angle(np.array([1.0, 0, 0, 0])), [np.pi, 0, 0])


@needs_package
def test_listed_tasks_are_those_of_the_package():
    names = libero.task_names("libero")
    listed = [f"libero/{suite}/{i}" for suite in names for i in range(len(names[suite]))]
    assert sorted(listed) == sorted(envs.tasks("libero"))
    folder = libero.package_folder("libero")
    for suite, tasks in names.items():
        assert all((folder / "bddl_files" / suite / f"{name}.bddl").is_file() for name in tasks)
    assert libero.instruction(names["libero_goal"][7]) == "turn on the stove"


@needs_package
def test_missing_models_say_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(libero, "package_folder", lambda env_id: tmp_path)
    monkeypatch.setattr(libero.Path, "home", lambda: tmp_path)
    monkeypatch.delenv("LIBERO_ASSETS", raising=False)
    with pytest.raises(libero.MissingAssets, match="Set LIBERO_ASSETS"):
        libero._find_assets(None, None)
    with pytest.raises(libero.MissingAssets, match="nowhere"):
        libero._find_assets(tmp_path / "nowhere", None)
    (tmp_path / "own/scenes").mkdir(parents=True)
    (tmp_path / "own/scenes/a.xml").write_text("<mujoco/>")
    path, found = libero._find_assets(tmp_path / "own", None)
    assert path == tmp_path / "own" and libero._find_assets(None, found) == (path, found)
    with pytest.raises(libero.MissingAssets, match="do not compare"):
        libero._find_assets(tmp_path / "own", "0" * 16)


# ---------------------------------------------------------------- the simulator


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    """All initial states, converted from the installed package."""
    out = tmp_path_factory.mktemp("libero") / "states.npz"
    libero_convert.convert(libero.package_folder("test") / "init_files", out)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIBERO_INIT_STATES", str(out))
        yield out


@pytest.fixture(scope="module")
def stove(converted):
    env = envs.make(STOVE, reward="sparse")
    yield env
    env.close()


def run(env, count):
    rng = np.random.default_rng(1)
    return [env.step(rng.uniform(-1, 1, 7).astype(np.float32))[:2] for _ in range(count)]


@needs_assets
def test_protocol(stove):
    assert stove.instruction == "turn on the stove" and stove.horizon == 300
    first, info = stove.reset(seed=53)
    assert info["init_state"] == 3 and info["success"] is False
    assert stove.action_space.shape == (7,)
    # Ten waiting steps of 25 simulation steps of 2 ms follow the stored state's own time.
    stored = stove._states[3]
    assert np.isclose(stove._data.time, stored[0] + 10 * 25 * 0.002)
    state = stove.robot_state()
    assert state.shape == (8,) and state[6] > 0.03 > -0.03 > state[7]  # the gripper is open
    # The stove itself is placed by the seed, whatever was reset before; the rest is stored.
    body = stove._sim.obj_body_id["flat_stove_1"]
    placed = stove._model.body_pos[body].copy()
    stove.reset(seed=3)
    assert stove.init_state == 3 and not np.array_equal(stove._model.body_pos[body], placed)
    assert np.array_equal(stove.reset(seed=53)[0], first)
    assert np.array_equal(stove._model.body_pos[body], placed)


@needs_assets
def test_init_state_by_index_and_without_waiting(converted):
    env = envs.make(STOVE, init_state=41, wait_steps=0)
    assert [env.reset(seed=s)[1]["init_state"] for s in (0, 5)] == [41, 41]
    stored, model = env._states[41], env._model
    assert np.array_equal(env._data.qpos, stored[1 : 1 + model.nq])
    assert np.array_equal(env._data.qvel, stored[1 + model.nq :])
    with pytest.raises(ValueError, match="0 to 49"):
        envs.make(STOVE, init_state=50)


@needs_assets
def test_success_is_the_goal_predicate(stove):
    stove.reset(seed=0)
    assert stove.step(np.zeros(7, np.float32))[1] == 0.0
    (knob,) = stove._sim.get_object("flat_stove_1").joints
    stove._sim.sim.data.set_joint_qpos(knob, 1.0)
    _, reward, terminated, _, info = stove.step(np.zeros(7, np.float32))
    assert info["success"] is True and reward == 1.0 and not terminated
    # The burner lights up, in the model; a reset and a restored state know that.
    shown = stove._model.site_rgba.copy()
    state = stove.get_state()
    stove.reset(seed=0)
    assert not np.array_equal(stove._model.site_rgba, shown)
    stove.set_state(state)
    assert np.array_equal(stove._model.site_rgba, shown)


@needs_assets
def test_a_fresh_object_continues_in_mid_episode(stove):
    stove.reset(seed=7)
    run(stove, 4)
    state, view, expected = stove.get_state(), stove.robot_state(), run(stove, 5)
    other = envs.make(STOVE, reward="sparse")
    other.set_state(state)
    assert other.init_state == 7 and np.array_equal(other.robot_state(), view)
    for a, b in zip(run(other, 5), expected, strict=True):
        assert np.array_equal(a[0], b[0]) and a[1] == b[1]
    assert other.identity == stove.identity


@needs_assets
def test_pictures_are_rotated_as_the_spec_says(stove):
    stove.reset(seed=0)
    try:
        rotated = stove.frame(24, 32, "agentview")
    except envs.RenderError as error:
        pytest.skip(f"no OpenGL here: {error}")
    true = super(libero.LiberoEnv, stove).frame(24, 32, "agentview")  # upright
    package = true[::-1]  # as the package returns it: upside down
    assert np.array_equal(rotated, package[::-1, ::-1]) and not np.array_equal(rotated, true)
    wrist = stove.frame(24, 24, "robot0_eye_in_hand")
    assert wrist.shape == (24, 24, 3) and wrist.std() > 1
    assert Path(stove._assets).is_dir()


@needs_assets
@pytest.mark.slow
def test_contract(converted):
    notes = envs.check_env("libero/libero_object/4", steps=4, seed=3)
    assert "save and restore: exact" in notes
