"""Named lists of tasks."""

import pytest

import envs


def test_metaworld_lists_are_the_packages():
    env_dict = pytest.importorskip("metaworld.env_dict")
    theirs = {f"mt{n}": getattr(env_dict, f"MT{n}_V3") for n in (10, 25, 50)}
    for n in (10, 25, 45):
        for part in ("train", "test"):
            theirs[f"ml{n}-{part}"] = getattr(env_dict, f"ML{n}_V3")[part]
    for name, tasks in theirs.items():
        assert envs.suite(f"metaworld/{name}") == [f"metaworld/{task}" for task in tasks]


def test_dm_control_is_the_packages_benchmarking_set():
    package = pytest.importorskip("dm_control.suite")
    tasks = [f"dm_control/{domain}-{task}" for domain, task in package.BENCHMARKING]
    assert envs.suite("dm_control") == tasks and len(tasks) == 28


def test_libero_in_both_spellings():
    sizes = {"spatial": 10, "object": 10, "goal": 10, "10": 10, "90": 90}
    for name, size in sizes.items():
        ids = envs.suite(f"libero_{name}")
        assert ids == [f"libero/libero_{name}/{i}" for i in range(size)]
        assert ids == envs.suite(f"libero/libero_{name}")
    assert envs.suite("libero") == envs.tasks("libero") and len(envs.suite("libero")) == 130
    assert envs.protocol("libero/libero_10/3") == {"terminate_on_success": True}
    assert envs.protocol("metaworld/reach-v3") == {}


def test_every_suite_names_known_tasks():
    known = set(envs.tasks())
    assert all(set(envs.suite(name)) <= known for name in envs.suite_names())


def test_continual_world():
    ten, twenty = envs.suite("metaworld/cw10"), envs.suite("metaworld/cw20")
    assert twenty == ten + ten and len(set(ten)) == 10
    assert (ten[0], ten[4], ten[9]) == tuple(
        f"metaworld/{task}-v3" for task in ("hammer", "stick-pull", "peg-unplug-side")
    )


def test_register_and_refuse(monkeypatch):
    monkeypatch.setattr("envs.suites._SUITES", {})
    envs.register_suite("maze/all", envs.tasks("maze"))
    envs.register_suite("maze/all", envs.tasks("maze"))
    assert envs.suite("maze/all") == ["maze/point-v0"] and envs.suite_names() == ["maze/all"]
    with pytest.raises(ValueError, match="maze/all"):
        envs.register_suite("maze/all", ["metaworld/reach-v3"])
    with pytest.raises(envs.UnknownTask, match="maze/all"):
        envs.suite("maze/al")
