"""What a user can mend is said in a sentence; what is a bug keeps its trace."""

import sys

import pytest
from cli_runs import RUN, TINY

from embodied.cli import main
from embodied.core.types import UserError

SAC = ("method=sac", "env=maze/point-v0")


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["env=metaworld/dor-open-v3"], ["'metaworld/dor-open-v3'", "metaworld/door-open-v3"]),
        (["env=maze"], ["'maze'", "maze/point-v0"]),
        ([*SAC, "env_args.wall=1"], ["env_args of maze/point-v0", "'wall'"]),
        ([*SAC, "env_args.horizon=-1"], ["env_args of maze/point-v0", "-1"]),
        ([*SAC, "env_args.reward=big"], ["reward='big'", "'sparse'"]),
        ([*SAC, "env_args.obs=pixels"], ["(84, 84, 3)", "env_args.obs=state"]),
        ([*SAC, "env_args.obs=both"], ["one array as observation", "env_args.obs=state"]),
        ([*SAC, "env_args.action_chunk=4"], ["one action at a time", "env_args.action_chunk"]),
        ([*SAC, "device=cuda:99"], ["device=cuda:99"]),
        (["method=iql", "env=maze/point-v0"], ["data=PATH", "embodied collect"]),
        ([*TINY, "data=nowhere"], ["no dataset at nowhere"]),
        ([*TINY, "method.pretrain_args.tu=1"], ["method.pretrain_args.tu", "tau"]),
        ([*SAC, "run=file/run"], ["run directory file/run"]),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else None,
)
def test_user_errors(refused, tmp_path, words, parts):
    (tmp_path / "file").touch()
    message = refused("train", *words)
    assert all(part in message for part in parts)


@pytest.mark.parametrize(
    ("package", "words", "extra"),
    [
        ("metaworld", ["train", "method=sac", "env=metaworld/reach-v3"], "metaworld"),
        ("dm_control", ["train", "method=sac", "env=dm_control/lqr-lqr_2_1"], "dmcontrol"),
        ("pyarrow", ["train", *TINY, "data=nowhere"], "train"),
        ("pyarrow", ["data", "info", "nowhere"], "train"),
        ("matplotlib", ["report", RUN], "report"),
        ("wandb", ["train", *SAC, "trainer.wandb=project"], "wandb"),
    ],
)
def test_missing_extras(place, refused, monkeypatch, package, words, extra):
    for name in [n for n in sys.modules if n.partition(".")[0] == package]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, package, None)
    assert f"embodied[{extra}]" in refused(*words)


def test_missing_torch(refused, monkeypatch):
    for name in ("embodied.assemble", "embodied.evaluation"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.delattr("embodied.assemble", raising=False)
    monkeypatch.setitem(sys.modules, "torch", None)
    assert 'torch is not installed; this needs: pip install "embodied[train]"' in refused(
        "train", *SAC
    )


def test_bugs_keep_their_trace(monkeypatch):
    for error in (ImportError("no such name", name="embodied.nowhere"), KeyError("bug")):

        def broken(*_, error=error, **__):
            raise error

        monkeypatch.setattr("embodied.assemble.start", broken)
        with pytest.raises(type(error)):
            main(["train", *SAC])


def test_exit_status_of_an_error(monkeypatch, embodied):
    class Special(UserError):
        exit_code = 13

    def broken(*_, **__):
        raise Special("stop here")

    monkeypatch.setattr("embodied.assemble.start", broken)
    assert embodied("train", *SAC) == (13, "", "embodied: stop here\n")


def test_ctrl_c_before_training(monkeypatch, embodied):
    def pressed(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("embodied.assemble.start", pressed)
    assert embodied("train", *SAC) == (130, "", "embodied: interrupted\n")


def test_no_proof(refused):
    assert "unknown method 'wslr'" in refused("reproduce", "wslr")
    assert "no experiment 'maize'" in refused("reproduce", "wsrl", "--only", "maize")
