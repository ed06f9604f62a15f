"""robomimic's and LIBERO's own files, and the real loaders on ours."""

import json

import numpy as np
import pytest
from dataset_samples import FEATURES, LENGTHS, assert_same, make_episode

from embodied import data
from embodied.data import Feature

h5py = pytest.importorskip("h5py")

ENV_ARGS = {"env_name": "Lift", "type": 1, "env_kwargs": {"control_freq": 20, "robots": "Panda"}}


def robomimic_file(path, next_obs=True):
    """A file as robomimic's own scripts write it: two demos, the second unsuccessful."""
    rng = np.random.default_rng(0)
    arrays = []
    with h5py.File(path, "w") as file:
        group = file.create_group("data")
        for number, length in ((10, 5), (2, 4)):  # not in order, not without gaps
            demo = group.create_group(f"demo_{number}")
            obs = rng.normal(size=(length + 1, 3))
            solved = (np.arange(length) == length - 1) & (number == 2)
            stored = {
                "actions": rng.uniform(-1, 1, (length, 7)),
                "states": rng.normal(size=(length, 9)),
                "rewards": solved.astype(np.float64),
                "dones": (np.arange(length) == length - 1).astype(np.int64),
                "obs/robot0_eef_pos": obs[:-1],
                "obs/agentview_image": rng.integers(0, 256, (length, 4, 4, 3)).astype(np.uint8),
            }
            if next_obs:
                stored["next_obs/robot0_eef_pos"] = obs[1:]
            for name, values in stored.items():
                demo.create_dataset(name, data=values)
            demo.attrs["num_samples"] = length
            demo.attrs["model_file"] = f"<mujoco n='{number}'/>"
            arrays.append(stored)
        group.attrs["total"] = 9
        group.attrs["env_args"] = json.dumps(ENV_ARGS)
        file.create_dataset("mask/valid", data=np.array([b"demo_10"]))
    return arrays[::-1]


def test_robomimics_own_file(tmp_path):
    path = tmp_path / "demo.hdf5"
    arrays = robomimic_file(path)
    dataset = data.open_dataset(path)
    assert data.detect(path).name == "robomimic"
    assert (dataset.env_id, dataset.fps, dataset.num_episodes) == ("Lift", 20, 2)
    assert dataset.episode_lengths.tolist() == [4, 5]
    assert dataset.meta["hdf5"]["env_args"] == ENV_ARGS and dataset.meta["mask"] == {"valid": [1]}
    assert dataset.task(0) == "Lift" and dataset.episode_meta(0) == {
        "model_file": "<mujoco n='2'/>"
    }
    for index, stored in enumerate(arrays):
        columns = dataset.episode(index)
        assert_same(
            columns,
            {
                "action": stored["actions"],
                "states": stored["states"],
                "next.reward": stored["rewards"],
                "observation.robot0_eef_pos": stored["obs/robot0_eef_pos"],
                "observation.agentview_image": stored["obs/agentview_image"],
                "next.observation.robot0_eef_pos": stored["next_obs/robot0_eef_pos"],
            },
        )
        last = stored["dones"].astype(bool)
        assert_same(columns, {"next.done": last, "next.terminated": last & (index == 0)})
        assert_same(columns, {"next.success": last & (index == 0)})
        assert_same(columns, {"next.truncated": last & (index == 1)})
    with pytest.raises(data.IncompatibleDataset, match="embodied data convert"):
        data.resume(path)
    before = path.read_bytes()
    assert data.verify(path) == [] and not data.repair(path).changed
    assert path.read_bytes() == before


@pytest.mark.parametrize("format", ["robomimic", "lerobot"])
def test_robomimics_own_file_survives_conversion(tmp_path, format):
    if format == "lerobot":
        pytest.importorskip("pyarrow")
    path, copy = tmp_path / "demo.hdf5", tmp_path / "copy"
    arrays = robomimic_file(path)
    data.convert(path, copy if format == "lerobot" else copy.with_suffix(".hdf5"), format)
    back = tmp_path / "back.hdf5"
    data.convert(copy if format == "lerobot" else copy.with_suffix(".hdf5"), back, "robomimic")
    with h5py.File(back) as file:
        assert list(file["mask/valid"]) == [b"demo_1"]
        assert json.loads(file["data"].attrs["env_args"]) == ENV_ARGS
        assert file["data"].attrs["total"] == 9
        for index, stored in enumerate(arrays):
            demo = file[f"data/demo_{index}"]
            assert demo.attrs["num_samples"] == len(stored["actions"])
            for name, values in stored.items():
                assert_same({name: demo[name][()]}, {name: values})


def libero_file(path, attributes=True):
    """A file as LIBERO's scripts write it, or as the regenerated data without attributes."""
    rng = np.random.default_rng(1)
    with h5py.File(path, "w") as file:
        group = file.create_group("data")
        demo = group.create_group("demo_0")
        demo.create_dataset("actions", data=rng.uniform(-1, 1, (3, 7)))
        demo.create_dataset("robot_states", data=rng.normal(size=(3, 9)))
        demo.create_dataset("rewards", data=np.array([0, 0, 1], np.uint8))
        demo.create_dataset("dones", data=np.array([0, 0, 1], np.uint8))
        picture = rng.integers(0, 256, (3, 8, 8, 3)).astype(np.uint8)
        demo.create_dataset("obs/agentview_rgb", data=picture)
        demo.create_dataset("obs/ee_pos", data=rng.normal(size=(3, 3)))
        if attributes:
            demo.attrs["num_samples"] = 3
            demo.attrs["init_state"] = rng.normal(size=5)
            group.attrs["bddl_file_name"] = "libero_object/pick.bddl"
            group.attrs["env_args"] = json.dumps(ENV_ARGS)
            problem = {"problem_name": "p", "language_instruction": "pick up the milk"}
            group.attrs["problem_info"] = json.dumps(problem)
            group.attrs["num_demos"] = 1
            group.attrs["total"] = 3
    return picture


def test_liberos_own_file(tmp_path):
    path, copy = tmp_path / "pick_demo.hdf5", tmp_path / "copy.hdf5"
    picture = libero_file(path)
    dataset = data.open_dataset(path)
    assert data.detect(path).name == "libero" and dataset.task(0) == "pick up the milk"
    assert dataset.meta["observation_lag"] == 1
    columns = dataset.episode(0)
    assert_same(columns, {"observation.agentview_rgb": picture})
    assert columns["next.success"].tolist() == [False, False, True]
    assert len(dataset.episode_meta(0)["init_state"]) == 5
    data.convert(path, copy, "libero")
    assert data.detect(copy).name == "libero"
    with h5py.File(copy) as new, h5py.File(path) as old:
        for name in ("bddl_file_name", "num_demos", "total"):
            assert new["data"].attrs[name] == old["data"].attrs[name]
        for name in ("env_args", "problem_info"):
            assert json.loads(new["data"].attrs[name]) == json.loads(old["data"].attrs[name])
        for name in ("actions", "robot_states", "rewards", "dones", "obs/ee_pos"):
            values = old["data/demo_0"][name][()]
            assert_same({name: new["data/demo_0"][name][()]}, {name: values})
        state = new["data/demo_0"].attrs["init_state"]
        np.testing.assert_array_equal(state, old["data/demo_0"].attrs["init_state"])


def test_rewards_of_a_libero_file_are_stored_as_its_authors_do(tmp_path):
    features = {"action": Feature("float32", (2,)), "next.reward": Feature("float32")}
    features["next.done"] = Feature("bool")
    meta = {"hdf5": {"bddl_file_content": "(define)", "macros_image_convention": "opengl"}}
    path = tmp_path / "d.hdf5"
    rewards = [[0, 0, 1], [0.5, -0.0, 1]]
    settings = {"env_id": "e", "fps": 20, "features": features, "meta": meta}
    with data.create(path, "libero", **settings) as writer:
        for values in rewards:
            columns = {
                "action": np.zeros((3, 2), np.float32),
                "next.reward": np.array(values, np.float32),
                "next.done": np.array([False, False, True]),
            }
            writer.add_episode(columns, "open", {"model_file": "<mujoco>" + "x" * 100_000})
    with h5py.File(path) as file:
        assert file["data"].attrs["bddl_file_content"] == "(define)"
        assert file["data"].attrs["macros_image_convention"] == "opengl"
        assert file["data/demo_0/rewards"].dtype == file["data/demo_0/dones"].dtype == np.uint8
        assert file["data/demo_1/rewards"].dtype == np.float32
        assert len(file["data/demo_0"].attrs["model_file"]) == 100_008
    dataset = data.open_dataset(path)
    for index, values in enumerate(rewards):
        assert_same(dataset.episode(index), {"next.reward": np.array(values, np.float32)})


def test_regenerated_libero_data_has_its_task_in_the_name(tmp_path):
    path = tmp_path / "pick_up_the_milk_demo.hdf5"
    libero_file(path, attributes=False)
    dataset = data.open_dataset(path)
    assert data.detect(path).name == "libero" and dataset.meta["observation_lag"] == 0
    assert dataset.task(0) == "pick up the milk" and dataset.episode_lengths.tolist() == [3]


def test_a_libero_file_holds_one_task(tmp_path):
    features = {"action": Feature("float32", (2,))}
    row = {"action": np.zeros((1, 2), np.float32)}
    path = tmp_path / "d.hdf5"
    with data.create(path, "libero", env_id="e", fps=20, features=features) as writer:
        writer.add_episode(row, "open the drawer")
        with pytest.raises(data.IncompatibleDataset, match=r"one task.*close the drawer"):
            writer.add_episode(row, "close the drawer")
    assert data.open_dataset(path).num_episodes == 1
    clash = {"action": Feature("float32"), "actions": Feature("float32")}
    with pytest.raises(data.IncompatibleDataset, match="'action' and 'actions' would share"):
        data.create(tmp_path / "c.hdf5", "robomimic", env_id="e", fps=20, features=clash)


@pytest.mark.parametrize("damage", ["truncate", "rows", "count", "empty"])
def test_damage_of_a_foreign_file_is_named(tmp_path, damage):
    path = tmp_path / "demo.hdf5"
    robomimic_file(path)
    if damage == "truncate":
        path.write_bytes(path.read_bytes()[:3000])
    elif damage == "empty":
        path.write_bytes(b"")
    else:
        with h5py.File(path, "a") as file:
            if damage == "rows":
                del file["data/demo_10/actions"]
                file["data/demo_10/actions"] = np.zeros((4, 7))
            else:
                file["data/demo_10"].attrs["num_samples"] = 6
    with pytest.raises(data.CorruptDataset) as caught:
        data.open_dataset(path)
    if damage in ("rows", "count"):
        assert "(episode 1)" in str(caught.value)
    before = path.read_bytes()
    with pytest.raises(data.DatasetError):
        data.repair(path)
    assert path.read_bytes() == before and data.verify(path)[0].fatal


def test_missing_h5py_is_named(tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ImportError, match=r'pip install "embodied\[hdf5\]"'):
        data.create(tmp_path / "d.hdf5", "robomimic", env_id="e", fps=1, features=FEATURES)
    assert not any(tmp_path.iterdir())


def test_robomimics_loader_serves_the_same_rows(tmp_path):
    pytest.importorskip("robomimic.utils.dataset", exc_type=ImportError)
    from robomimic.utils import obs_utils
    from robomimic.utils.dataset import SequenceDataset

    path = tmp_path / "ours.hdf5"
    meta = {"hdf5": {"env_args": ENV_ARGS}, "mask": {"train": [0, 2, 3]}}
    settings = {"env_id": "Lift", "fps": 20, "features": FEATURES, "meta": meta}
    with data.create(path, "robomimic", **settings) as writer:
        for index, length in enumerate(LENGTHS):
            writer.add_episode(make_episode(index, length), "lift")
    obs_utils.initialize_obs_utils_with_obs_specs({"obs": {"low_dim": ["state"]}})
    theirs = SequenceDataset(
        str(path),
        obs_keys=["state"],
        dataset_keys=["actions", "rewards", "dones"],
        seq_length=2,
        filter_by_attribute="train",
        hdf5_use_swmr=False,
    )
    assert theirs.n_demos == 3 and len(theirs) == LENGTHS[0] + LENGTHS[2] + LENGTHS[3]
    row = 0
    for index in (0, 2, 3):
        ours = make_episode(index, LENGTHS[index])
        for step in range(LENGTHS[index]):
            item, following = theirs[row], min(step + 1, LENGTHS[index] - 1)
            both = [step, following]
            np.testing.assert_array_equal(item["actions"], ours["action"][both])
            np.testing.assert_array_equal(item["rewards"], ours["next.reward"][both])
            np.testing.assert_array_equal(item["obs"]["state"], ours["observation.state"][both])
            later = ours["next.observation.state"][both]
            np.testing.assert_array_equal(item["next_obs"]["state"], later)
            row += 1
