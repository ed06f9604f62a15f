"""Learning from play on the command line: data=play, policies that remember, exact resume."""

import json
from pathlib import Path

from test_cli_runs import checkpoint, interrupt

from embodied.core.checkpoint import digest
from embodied.data import Packed

PLAY = (
    "experiment=corridors",
    "data_env_args.horizon=400",
    "method.width=8",
    "method.goal_width=8",
    "method.batch_size=4",
    "method.offline_updates=12",
    "method.recurrent=true",
    "method.replan=3",
    "evaluation.episodes=3",
    "trainer.tensorboard=false",
    "report=false",
)


def ledger(path):
    return Path(path).read_text(encoding="utf-8").splitlines()


def test_play_is_collected_packed_and_learnt_from(embodied):
    status, _, err = embodied("train", *PLAY, "run=a")
    assert status == 0, err
    (data,) = Path("runs/data").iterdir()
    about = json.loads(Path("a/run.json").read_text(encoding="utf-8"))
    assert about["dataset"]["episodes"] == 1 and about["dataset"]["frames"] == 400
    (packed,) = Path("runs/packed").iterdir()
    rows = Packed.open(packed)
    assert rows.fingerprint == about["dataset"]["fingerprint"] and data.is_dir()
    assert rows.rows.dtype.names == ("observation.state", "action")
    (line,) = (x for x in map(json.loads, ledger("a/log.jsonl")) if x["kind"] == "evaluation")
    assert {"probe/play_nll_prior", "probe/play_nll_posterior"} <= line["metrics"].keys()


def test_episodes_in_flight_together_keep_their_own_plans(embodied):
    assert embodied("train", *PLAY, "run=a")[0] == 0
    found = []
    for words in (["batch=1"], ["batch=3"]):
        status, _, err = embodied("eval", "policy=a", "episodes=4", "out=e", *words)
        assert status == 0, err
        found.append(ledger("e/ledger-4-seed0.jsonl")[1:])
    assert found[0] == found[1] and len(found[0]) == 4


def test_an_interrupted_run_goes_on_to_the_bit(embodied, monkeypatch):
    assert embodied("train", *PLAY, "run=whole")[0] == 0
    with monkeypatch.context() as patch:
        interrupt(patch, 5)
        assert embodied("train", *PLAY, "run=parts")[0] != 0
    assert embodied("train", "resume=parts")[0] == 0
    whole, parts = checkpoint("whole"), checkpoint("parts")
    for each in (whole, parts):
        each.pop("config")
    assert digest(whole) == digest(parts)
