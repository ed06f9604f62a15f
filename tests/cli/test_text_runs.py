"""Language runs from the command line: train, stop, go on, talk, and what is refused."""

import json

import pytest

import rewards
from embodied import assemble, exam, text
from embodied.cli import main
from embodied.core.log import read_log
from embodied.core.types import UserError
from embodied.export import export
from embodied.settings import compose, default_directory
from tests import tiny_language

pytest.importorskip("transformers")
FEW = [
    "task=chain",
    "task_args.length=2",
    "task_args.reward=final",
    "evaluation.episodes=8",
    "report=false",
]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "small"
    tiny_language.model().save(folder)
    return folder


def train(directory, model, *overrides):
    run = assemble.start([*FEW, f"model={model}", f"run={directory}", *overrides])
    run.trainer.run()
    run.trainer.close()
    return run


GRPO = ["method=grpo", "method.steps=3", "method.prompts=2", "method.group=2"]


def test_train_and_talk(model, tmp_path):
    run = train(tmp_path / "run", model, *GRPO)
    assert run.about["env"] == "tiny/chain" and run.about["model"] == str(model)
    line = read_log(run.directory, "evaluation")[-1]
    assert len(line["ledger"]) == 8 and line["counters"]["episodes"] == 12
    lines, answers = iter(["^c12______:", "^c40______:"]), []

    def ask():
        try:
            return next(lines)
        except StopIteration:
            raise EOFError from None

    text.chat(run.directory, ask, answers.append)
    assert len(answers) == 2 and all(answers)


LITTLE = {
    "spin": ["method.iterations=1", "method.updates=1"],
    "nft": ["method.steps=1", "method.prompts=2", "method.group=2", "method.rounds=1"],
    "masked_thought": ["method.updates=2"],
    "s3ft": ["method.updates=1"],
    "b_star": [
        *("method.iterations=1", "method.updates=1", "method.samples=2", "method.enough=1"),
        *("method.temperatures=[0.7,1]", "method.aside=4"),
    ],
    "sec": ["method.steps=1", "method.prompts=4", "method.group=2"],
    "self_rewarding_ppo": ["method.fit_updates=1", "method.steps=1", "method.prompts=4"],
}


@pytest.mark.parametrize("method", LITTLE)
def test_methods_train(method, model, tmp_path):
    rows = [
        {"prompt": "^c12______:", "completion": "13"},
        {"prompt": "^c40______:", "completion": "44"},
        {"prompt": "^c12______:"},
        {"prompt": "^c3_______:", "category": "short"},
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    overrides = [f"method={method}", f"data={tmp_path / 'rows.jsonl'}", *LITTLE[method]]
    run = train(tmp_path / "run", model, *overrides)
    assert run.trainer.done and run.trainer.counters.updates >= 1


def test_the_same_questions_every_time(model, tmp_path):
    ledgers = []
    for seed in (1, 2):
        overrides = [*GRPO, "method.lr=0", f"seed={seed}"]
        run = train(tmp_path / str(seed), model, *overrides)
        ledgers.append(read_log(run.directory, "evaluation")[-1]["ledger"])
    assert ledgers[0] == ledgers[1]


def test_longer_and_resumed(model, tmp_path):
    whole = train(tmp_path / "whole", model, *GRPO, "method.steps=4")
    train(tmp_path / "cut", model, *GRPO, "method.steps=2")
    with pytest.raises(UserError, match="may not change"):
        assemble.start([f"resume={tmp_path / 'cut'}", "method.lr=1"])
    again = assemble.start([f"resume={tmp_path / 'cut'}", "evaluation.episodes=4"])
    assert again.trainer.done and whole.trainer.counters.episodes == 16


@pytest.mark.parametrize(
    "row, method",
    [
        ({"prompt": "^c12______:", "completion": "13"}, "sft"),
        ({"prompt": "^c12______:", "chosen": "13", "rejected": "11"}, "dpo"),
        ({"prompt": "^c12______:"}, "grpo"),
    ],
)
def test_data_of_ones_own(row, method, model, tmp_path):
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    few = GRPO if method == "grpo" else [f"method={method}", "method.updates=2"]
    run = train(tmp_path / "run", model, *few, f"data={tmp_path / 'rows.jsonl'}")
    assert run.trainer.counters.updates > 0
    other = ["method=dpo"] if method == "sft" else ["method=sft"]
    with pytest.raises(UserError, match="give data with"):
        train(tmp_path / "other", model, *other, f"data={tmp_path / 'rows.jsonl'}")


@pytest.mark.parametrize(
    "override, message",
    [
        ("task=chian", "did you mean chain"),
        ("task_args.length=9", "must lie in 1 to 8"),
        ("task_args.reward=all", "final or all_steps"),
        ("task_args.modulo=3", "modulo"),
        ("model=./no/such/folder", "cannot load the language model"),
        ("data=nothing.jsonl", "no file nothing.jsonl"),
    ],
)
def test_mistakes(override, message, model, tmp_path):
    with pytest.raises(UserError, match=message):
        train(tmp_path / "run", model, "method=sft", override)


def test_prompts_that_the_reward_does_not_know(model, tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"prompt": "What is 1+1?"}\n')
    with pytest.raises(UserError, match="'What is 1\\+1\\?' is no problem of task=chain"):
        train(tmp_path / "run", model, *GRPO, f"data={tmp_path / 'rows.jsonl'}")
    with pytest.raises(UserError, match="has prompts alone"):
        train(tmp_path / "run", model, *GRPO, "task=null", f"data={tmp_path / 'rows.jsonl'}")
    with pytest.raises(UserError, match="and model=PATH"):
        train(tmp_path / "run", "tiny", "method=sft", "task=rows")


def test_rows_that_nothing_judges_are_held_against_what_the_model_finds_likely(model, tmp_path):
    prompts = ["^c12______:", "^c31______:"]
    write_rows(tmp_path / "mine.jsonl", *({"prompt": p, "completion": "13"} for p in prompts))
    settings = compose(["method=sft", f"model={model}", f"data={tmp_path / 'mine.jsonl'}"])
    assert default_directory(settings).name == "sft-mine-0"
    fit = ["task=null", "method=sft", "method.updates=150", "method.lr=1e-2", "method.batch_size=2"]
    run = train(tmp_path / "run", model, *fit, f"data={tmp_path / 'mine.jsonl'}")
    found = run.trainer.evaluation
    assert found.success == 1 and -0.1 < found.metrics["log_prob"] < 0
    examined, _ = exam.evaluate(tmp_path / "run", 2, temperature=0.0)
    assert examined.success == 1 and list(examined.tasks) == ["text/mine"]

    others = [{"prompt": p, "chosen": "02", "rejected": "13"} for p in prompts]
    write_rows(tmp_path / "others.jsonl", *others)
    assert main(["export", str(tmp_path / "run"), str(tmp_path / "taught")]) == 0
    with pytest.raises(UserError, match="exists already"):
        export(tmp_path / "run", tmp_path / "taught")
    pairs = ["task=null", "method=dpo", "method.updates=1", "method.lr=1e-9"]
    run = train(
        tmp_path / "pairs", tmp_path / "taught", *pairs, f"data={tmp_path / 'others.jsonl'}"
    )
    assert run.trainer.evaluation.success == 0  # the model was taught the rejected ones


def test_a_robot_does_not_talk(tmp_path):
    (tmp_path / "run.json").write_text(json.dumps({"method": "sac", "env": "maze/point-v0"}))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match="does not talk"):
        text.chat(tmp_path, input, print)


JUDGED = ["evaluation.episodes=4", "report=false", "longest=6", *GRPO]


def write_rows(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_answers_judged_by_the_facts_of_their_row(model, tmp_path, monkeypatch):
    asked = []

    def judge(self, prompt, response, facts):
        asked.append((str(prompt), response, facts["answer"]))
        return 1.0

    monkeypatch.setattr(rewards.Maths, "__call__", judge)
    rows = write_rows(
        tmp_path / "rows.jsonl",
        {"prompt": "^c12______:", "answer": "13"},
        {"prompt": "^c40______:", "answer": 4},
    )
    overrides = [f"model={model}", f"data={rows}", "reward=maths", "reward.symbolic=false"]
    run = assemble.start([*JUDGED, *overrides, f"run={tmp_path / 'run'}"])
    run.trainer.run()
    run.trainer.close()
    assert run.about["env"] == "text/maths" and run.trainer.evaluation.success == 1
    assert {(p, a) for p, _, a in asked} == {("^c12______:", "13"), ("^c40______:", 4)}
    assert not any("." in response for _, response, _ in asked), "the end is no part of an answer"
    again = assemble.start([f"resume={tmp_path / 'run'}", "evaluation.episodes=1"])
    assert again.trainer.done


@pytest.mark.parametrize("reward, facts", [("format", {}), ("code", {"tests": "assert 1"})])
def test_other_rewards(reward, facts, model, tmp_path, monkeypatch):
    monkeypatch.setattr(rewards.Code, "__call__", lambda *_: 0.5)
    rows = write_rows(tmp_path / "rows.jsonl", {"prompt": "^c12______:", **facts})
    overrides = [f"model={model}", f"data={rows}", f"reward={reward}", f"evaluation.data={rows}"]
    run = assemble.start([*JUDGED, *overrides, f"run={tmp_path / 'run'}"])
    run.trainer.run()
    run.trainer.close()
    assert run.trainer.counters.episodes == 12


@pytest.mark.parametrize(
    "overrides, row, message",
    [
        (["reward=maths"], None, "give data=rows.jsonl"),
        (["reward=maths"], {"prompt": "1"}, r"rows.jsonl:1: needed is answer"),
        (["reward=code"], {"prompt": "1", "tests": 3}, r"rows.jsonl:1: needed are tests"),
        (["reward=format"], {"prompt": "1", "completion": "1"}, "no prompts to evaluate on"),
        (["reward=mathematics"], {"prompt": "1"}, "did you mean maths"),
        (["reward=code", "reward.isolation=none"], {"prompt": "1"}, "full or any"),
        (["reward=format", "reward.tag=a"], {"prompt": "1"}, "did you mean reward.tags"),
        (["reward=maths", "method=sac"], {"prompt": "1"}, "sac learns from an environment"),
    ],
)
def test_mistakes_about_rewards(overrides, row, message, model, tmp_path):
    data = [f"data={write_rows(tmp_path / 'rows.jsonl', row)}"] if row else []
    words = [f"model={model}", f"run={tmp_path / 'run'}", *data, *overrides]
    if "method=sac" not in words:
        words = [*JUDGED, *words]
    with pytest.raises(UserError, match=message):
        assemble.start(words)
