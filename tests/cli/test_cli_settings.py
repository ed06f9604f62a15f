"""Whatever is wrong with a setting is said in one message that names it."""

import dataclasses

import pytest

from embodied.settings import compose, merged, quoted
from embodied.sweeps import sweep


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["seeed=1"], ["unknown setting 'seeed'", "seed"]),
        (["method.hiden=[8]"], ["unknown setting 'method.hiden'", "method.hidden"]),
        (["method=sac", "method.warmup_steps=1"], ["unknown setting 'method.warmup_steps'"]),
        (["+new=1"], ["unknown setting 'new'"]),
        (["method=wslr"], ["unknown method 'wslr'", "wsrl"]),
        (["experiment=mze"], ["unknown experiment 'mze'", "maze"]),
        (["seed=abc"], ["seed=abc", "'abc'", "Integer"]),
        (["seed=1.5"], ["seed=1.5", "Integer"]),
        (["method.tau=fast"], ["method.tau=fast", "Float"]),
        (["report=perhaps"], ["report=perhaps", "bool"]),
        (["method.hidden=8"], ["method.hidden=8"]),
        (["seed"], ["'seed' is no setting", "key=value"]),
        (["=3"], ["'=3' is no setting", "key=value"]),
        (["seed=[1"], ["'[1'", "key=value"]),
        (["seed=1,2"], ["'seed=1,2'", "embodied train -m"]),
        (["method=sac,iql"], ["'method=sac,iql'", "embodied train -m"]),
        (["method.subset=20"], ["subset must lie in [0, members=10], got 20"]),
        (["method.online_steps=9"], ["online_steps (9)", "warmup_steps (5000)"]),
        (["seed=-1"], ["seed must be at least 0, got -1"]),
        (["num_envs=0"], ["num_envs must be at least 1, got 0"]),
        (["threads=-1"], ["threads must be at least 0"]),
        (["vector=fast"], ["vector must be sync or async, got 'fast'"]),
        (["device=gpu"], ["device must be cpu, cuda, cuda:N or auto, got 'gpu'"]),
        (["evaluation.episodes=0"], ["evaluation.episodes must be at least 1, got 0"]),
        (["trainer.keep=0"], ["trainer.keep must be at least 1, got 0"]),
        (["collect.episodes=0"], ["collect.episodes must be at least 1, got 0"]),
        (["collect.noise_correlation=1"], ["collect.noise_correlation", "less than 1"]),
        (["collect.failure_prob=2"], ["collect.failure_prob must lie in [0, 1], got 2"]),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else None,
)
def test_wrong_settings(refused, words, parts):
    message = refused("train", *words)
    for part in parts:
        assert part in message
    assert message.count("\n") == 1


def test_settings_of_others_are_free():
    composed = compose(["env_args.wall_height=3", "method.pretrain_args.tau=0.1"])
    assert composed.train.env_args == {"wall_height": 3}
    assert composed.method.pretrain_args == {"tau": 0.1}


def test_composing_keeps_types():
    composed = compose(["method=sac", "method.hidden=[4,5]", "reward.bias=-1"])
    assert dataclasses.is_dataclass(composed.method)
    assert tuple(composed.method.hidden) == (4, 5)
    assert composed.train.reward.bias == -1.0
    assert composed.plain["method_id"] == "sac"
    assert "hydra" not in composed.plain


def test_sweep_is_the_product():
    runs = sweep(["seed=range(1,3)", "method=sac,iql", "num_envs=2"])
    assert runs == [
        [f"seed={seed}", f"method={method}", "num_envs=2"]
        for seed in (1, 2)
        for method in ("sac", "iql")
    ]


@pytest.mark.parametrize(
    "words",
    [
        ["method.tau=0.1,0.2", "seed=3"],
        ["method.hidden=[4],[44]"],
        ["run='a b'", "env=maze/point-v0,metaworld/door-open-v3"],
    ],
)
def test_runs_of_a_sweep_have_directories_of_their_own(words):
    runs = sweep(words)
    directories = {compose(run).train.run for run in runs}
    assert None not in directories
    assert len(directories) == len(runs) == 2
    parents = {directory.rpartition("/")[0] for directory in directories}
    assert len(parents) == 1  # no choice adds a level


def test_sweep_names_show_the_choice():
    (first, _) = sweep(["method=sac", "seed=4", "method.tau=0.1,0.2"])
    assert compose(first).train.run == "runs/sac-metaworld-door-open-v3-4-method.tau=0.1"


@pytest.mark.parametrize("text", ["a b", "it's", "a,b=[c]", "in\\side", "end\\", "é"])
def test_quoting(text):
    assert compose([f"run={quoted(text)}"]).train.run == text


def test_newer_overrides_replace_older_ones():
    assert merged(["seed=1", "run=a", "method.tau=1"], ["method.tau=2", "resume=a", "data=x"]) == [
        "seed=1",
        "method.tau=2",
        "data=x",
    ]
