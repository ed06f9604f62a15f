"""Train, evaluate, report, sweep and resume from the command line."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cli_runs import RUN, TINY

from embodied.core.checkpoint import Checkpoints, digest
from embodied.core.log import read_log
from embodied.core.trainer import Trainer
from embodied.loading import load_policy

SHORT = ("method.offline_updates=5", "method.warmup_steps=5", "method.online_steps=8")


def checkpoint(run):
    """Everything the newest checkpoint holds but times."""
    _, parts = Checkpoints(Path(run) / "checkpoints").load()
    own = parts["trainer"]
    own["counters"].pop("wall_time")
    own["phase_start"].pop("wall_time")
    own.pop("log")
    return parts


def interrupt(monkeypatch, iteration, number=signal.SIGINT):
    """Send this process a signal when a trainer has done so many steps."""
    step = Trainer.step

    def stepping(trainer):
        step(trainer)
        if trainer.iteration == iteration:
            signal.raise_signal(number)

    monkeypatch.setattr(Trainer, "step", stepping)


def test_a_run_directory(place):
    run = place / RUN
    about = json.loads((run / "run.json").read_text())
    assert about["command"] == shlex.join(["embodied", "train", *TINY, "seed=1"])
    assert about["overrides"] == [*TINY, "seed=1"]
    assert (about["method"], about["env"], about["seed"]) == ("wsrl", "maze/point-v0", 1)
    assert about["dataset"]["episodes"] == 10
    assert "torch" in about["versions"]
    config = json.loads((run / "config.json").read_text())
    assert config["method"]["hidden"] == [8, 8]
    assert config["env_args"]["reward"] == "sparse"
    events = read_log(run)
    assert [e["phase"] for e in events if e["kind"] == "phase"] == ["offline", "warmup", "online"]
    assert [e["of"] for e in events if e["kind"] == "evaluation"] == ["offline", "online"]
    assert events[-1]["counters"]["env_steps"] == 80
    assert (run / "checkpoints" / "LATEST").is_file()
    assert not (run / "report.html").exists()


def test_evaluation_repeats(place, embodied):
    shutil.rmtree("runs/data")  # a policy is evaluated without its data
    status, out, _ = embodied("eval", f"policy={RUN}", "episodes=5")
    assert status == 0
    assert "/5 = " in out and "95 % interval" in out
    path = place / RUN / "ledger-5-seed0.jsonl"
    ledger = path.read_text()
    assert len(ledger.splitlines()) == 6
    assert json.loads(ledger.splitlines()[0])["tasks"]["maze/point-v0"]["env_hash"]
    path.unlink()
    again = embodied("eval", f"policy={RUN}", "episodes=5")[1]
    timed = "evaluating"  # the progress bar says how long it took
    assert [line for line in again.splitlines() if timed not in line] == [
        line for line in out.splitlines() if timed not in line
    ]
    assert path.read_text() == ledger
    embodied("eval", f"policy={RUN}", "episodes=5", "seed=1")
    other = (place / RUN / "ledger-5-seed1.jsonl").read_text()
    assert other.splitlines()[1:] != ledger.splitlines()[1:]


def test_evaluation_is_the_one_of_training(place, embodied):
    embodied("eval", f"policy={RUN}", "episodes=3")
    lines = (place / RUN / "ledger-3-seed0.jsonl").read_text().splitlines()[1:]
    expected = read_log(RUN, "evaluation")[-1]["ledger"]
    assert [json.loads(line) for line in lines] == [
        {"task": "maze/point-v0", **e} for e in expected
    ]


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ([], ["policy=RUN"]),
        (["policy=nowhere"], ["nowhere is not a run directory"]),
        ([f"policy={RUN}", "episodes=0"], ["episodes must be at least 1"]),
        ([f"policy={RUN}", "episodes=many"], ["episodes=N", "'episodes=many'"]),
        ([f"policy={RUN}", "epsodes=5"], ["'epsodes=5'"]),
    ],
)
def test_wrong_evaluations(place, refused, words, parts):
    message = refused("eval", *words)
    assert all(part in message for part in parts)


def test_report(place, embodied, monkeypatch):
    pytest.importorskip("matplotlib")
    status, out, _ = embodied("report", RUN)
    assert status == 0
    assert f"{RUN}/report.html" in out
    page = (place / RUN / "report.html").read_text()
    assert "wsrl" in page and "maze/point-v0" in page


def test_report_of_no_run(refused, tmp_path):
    assert "is not a run directory" in refused("report", str(tmp_path))


def test_sweep_runs_each_and_hides_no_failure(place, embodied):
    """The second run fails: its directory holds a run already."""
    shutil.copytree(RUN, "runs/wsrl-maze-point-v0-3")
    status, out, err = embodied("train", "seed=2,3,4", "-m", *TINY, *SHORT)
    assert status == 2
    assert "run 1 of 3: seed=2" in out and "run 3 of 3: seed=4" in out
    assert "run 2 of 3 failed: runs/wsrl-maze-point-v0-3 holds another run" in err
    assert "1 of 3 runs failed" in err
    for seed in (2, 4):
        assert read_log(f"runs/wsrl-maze-point-v0-{seed}")[-1]["phase"] == "done"
        about = json.loads(Path(f"runs/wsrl-maze-point-v0-{seed}/run.json").read_text())
        assert about["seed"] == seed


def test_a_sweep_with_a_mistake_starts_nothing(place, refused):
    before = sorted(os.listdir("runs"))
    assert "'x'" in refused("train", "-m", *TINY, "seed=2,x")
    assert sorted(os.listdir("runs")) == before


def test_a_run_does_not_overwrite_another(place, refused):
    before = (place / RUN / "log.jsonl").read_bytes()
    message = refused("train", *TINY, "seed=1")
    assert f"resume={RUN}" in message and "run=PATH" in message
    assert (place / RUN / "log.jsonl").read_bytes() == before


def test_a_run_without_a_checkpoint_is_started_anew(place, embodied):
    """As a process leaves it that is killed early: a log, and nothing to continue from."""
    shutil.rmtree(place / RUN / "checkpoints")
    assert embodied("train", *TINY, "seed=1", *SHORT)[0] == 0
    phases = [e["phase"] for e in read_log(RUN, "phase")]
    assert phases == ["offline", "warmup", "online"]


def test_interrupted_and_resumed_is_as_if_never_interrupted(place, embodied, monkeypatch):
    whole = digest(checkpoint(RUN))
    shutil.rmtree(RUN)
    with monkeypatch.context() as patch:
        interrupt(patch, iteration=95)
        status, _, err = embodied("train", *TINY, "seed=1")
    assert status == 130
    assert "SIGINT: saved after 95 trainer steps" in err
    assert f"go on with: embodied train resume={RUN}" in err

    status, out, _ = embodied("train", f"resume={RUN}")
    assert status == 0
    assert "changed" not in out
    assert digest(checkpoint(RUN)) == whole
    about = json.loads((place / RUN / "run.json").read_text())
    assert about["command"].startswith("embodied train method=wsrl")
    assert about["resumed"] == [f"embodied train resume={RUN}"]


def test_a_policy_of_an_unfinished_pre_training_is_the_pre_trained_one(
    place, embodied, monkeypatch
):
    shutil.rmtree(RUN)
    with monkeypatch.context() as patch:
        interrupt(patch, iteration=30, number=signal.SIGTERM)
        status, out, _ = embodied("train", *TINY, "seed=1")
    assert status == 0  # a terminated run that saved has done what it was asked
    assert "SIGTERM: saved after 30 trainer steps" in out
    parts = Checkpoints(Path(RUN) / "checkpoints").load()[1]
    policy, _ = load_policy(RUN)
    actor = dict(policy.actor.state_dict())
    assert digest(actor) == digest(parts["offline.learner"]["actor"])
    assert digest(actor) != digest(parts["warmup.learner"]["actor"])


def test_resume_prints_what_changed_and_remembers_it(place, embodied):
    status, out, _ = embodied(
        "train", f"resume={RUN}", "trainer.keep=3", "evaluation.episodes=4", "seed=1"
    )
    assert status == 0
    changed = [line for line in out.splitlines() if "changed" in line]
    assert changed == [
        "embodied: changed: evaluation.episodes: 3 -> 4",
        "embodied: changed: trainer.keep: 2 -> 3",
    ]
    assert "changed" not in embodied("train", f"resume={RUN}", "trainer.keep=3")[1]


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["seed=2"], ["seed: 1 -> 2"]),
        (["method=sac"], ["method: 'wsrl' -> 'sac'"]),
        (["method.utd=2", "trainer.keep=3"], ["method.utd: 4 -> 2", "start a new run"]),
        (["env_args.horizon=9"], ["env_args.horizon: None -> 9"]),
        (["run=elsewhere"], ["leave out run="]),
        (["method.tu=1"], ["unknown setting 'method.tu'"]),
    ],
)
def test_resume_refuses(place, refused, words, parts):
    before = (place / RUN / "run.json").read_bytes()
    message = refused("train", f"resume={RUN}", *words)
    assert all(part in message for part in parts)
    assert "trainer.keep" not in message
    assert (place / RUN / "run.json").read_bytes() == before


def test_resume_of_no_run(refused):
    assert "nowhere is not a run directory" in refused("train", "resume=nowhere")


def test_resume_of_a_damaged_run_json(place, refused):
    (place / RUN / "run.json").write_text("{")
    assert "run.json or config.json is damaged" in refused("train", f"resume={RUN}")


def test_a_finished_run_goes_on_with_more_steps(place, embodied):
    status, out, _ = embodied("train", f"resume={RUN}", "method.online_steps=100")
    assert status == 0
    assert "changed: method.online_steps: 80 -> 100" in out
    assert read_log(RUN)[-1]["counters"]["env_steps"] == 100


def test_a_damaged_checkpoint(place, refused, embodied):
    *_, older, newest = sorted((place / RUN / "checkpoints").glob("step_*"))
    file = newest / "warmup.learner.safetensors"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    message = refused("train", f"resume={RUN}")
    assert newest.name in message and file.name in message and "fallback=true" in message
    assert newest.name in refused("eval", f"policy={RUN}", "episodes=1")
    assert embodied("train", f"resume={RUN}", "fallback=true")[0] == 0
    assert older.is_dir() and newest.is_dir()  # the newest was computed again
    assert embodied("eval", f"policy={RUN}", "episodes=1")[0] == 0


def test_a_real_signal_to_a_real_process(place):
    """As Ctrl-C in the offline phase; the message names the command that goes on."""
    command = [sys.executable, "-m", "embodied.cli", "train", *TINY, "seed=7"]
    command += ["method.offline_updates=1000000", "trainer.log_every=5"]
    run = place / "runs" / "wsrl-maze-point-v0-7"
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as p:
        until = time.monotonic() + 120
        while not (run / "log.jsonl").exists() or len(read_log(run)) < 3:
            assert p.poll() is None, p.stderr.read()
            assert time.monotonic() < until
            time.sleep(0.1)
        p.send_signal(signal.SIGINT)
        out, err = p.communicate(timeout=60)
    assert p.returncode == 130
    assert "SIGINT: saved" in err
    assert f"resume={run.relative_to(place)}" in err
    assert "Traceback" not in out + err
    assert Checkpoints(run / "checkpoints").load()[1]["trainer"]["phase_index"] == 0
