"""Evaluation of language runs: one ledger however it is made, and what is read from it."""

import itertools
import json

import numpy as np
import pytest
import torch

import embodied as package
from embodied import assemble, exam
from embodied.cli import main
from embodied.core.stats import pass_at_k
from embodied.core.types import UserError
from embodied.report.ledger import Ledger, compare
from policies.sampling import Sampling, generate
from tests import tiny_language

pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("exam")
    tiny_language.model().save(folder / "model")
    words = ["method=sft", "method.updates=60", "method.lr=1e-2", "method.batch_size=16"]
    words += ["evaluation.episodes=4", "report=false", f"model={folder / 'model'}"]
    words += ["task_args.longest=4", "task_args.length=1", f"run={folder / 'run'}"]
    made = assemble.start(words)
    made.trainer.run()
    made.trainer.close()
    return folder / "run"


def ledger(run, out, **options):
    warm = {"samples": 3, "temperature": 2.5}  # answers of several lengths
    options = {"episodes": 7, **warm, **options}
    return exam.evaluate(run, out=out, **options)[1].read_bytes()


def test_one_ledger_for_any_workers_and_batch(run, tmp_path):
    ledgers = {
        (workers, batch): ledger(run, tmp_path / f"{workers}-{batch}", workers=workers, batch=batch)
        for workers, batch in [(1, 1), (1, 2), (1, 7), (2, 3)]
    }
    assert len(set(ledgers.values())) == 1
    lengths = {len(json.loads(line)["answers"][0]) for line in ledgers[1, 1].splitlines()[1:]}
    assert len(lengths) > 1, "answers of one length say little about batches"
    assert ledger(run, tmp_path / "other", seed=1) != ledgers[1, 1]


def test_what_the_ledger_says(run, tmp_path):
    result, path = exam.evaluate(
        run, 40, samples=4, suite="tiny", task_args={"longest": 4}, batch=40, out=tmp_path
    )
    assert list(result.tasks) == [f"tiny/chain/{k}" for k in range(1, 5)]
    read = Ledger.read(path)
    for name in result.tasks:
        rows, metrics = read.of(name), read.head["tasks"][name]["metrics"]
        assert list(metrics) == ["pass@1", "pass@2", "pass@4", "majority@4"]
        assert metrics["pass@1"] == pytest.approx(np.mean([row["correct"] for row in rows]) / 4)
        assert metrics["pass@4"] == np.mean([row["correct"] > 0 for row in rows])
        assert all(len(row["answers"]) == 4 for row in rows)
        assert all(row["correct"] >= row["success"] for row in rows)
        assert all(row["majority"] for row in rows if row["correct"] > 2)
    assert 0 < result.tasks["tiny/chain/1"].success < 1
    assert "pass@4" in path.with_suffix(".html").read_text()


def test_only_like_is_compared_with_like(run, tmp_path):
    paths = [
        exam.evaluate(run, 5, samples=samples, temperature=warm, out=tmp_path / str(i))[1]
        for i, (samples, warm) in enumerate([(1, None), (1, None), (2, None), (1, 0.5)])
    ]
    first, *others = map(Ledger.read, paths)
    assert [compare(first, other).comparable for other in others] == [True, False, False]


def test_questions_of_a_file(run, tmp_path, capsys):
    rows = [{"question": f"{i} + 1", "answer": f"so #### {i + 1}"} for i in range(5)]
    data = tmp_path / "gsm8k.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = [f"policy={run}", "suite=gsm8k_jsonl", f"data={data}", "samples=2", "longest=4"]
    assert main(["eval", *words, "episodes=3", f"out={tmp_path}", "batch=2"]) == 0
    out = capsys.readouterr().out
    assert "success" in out and "pass@2" in out and "majority@2" in out
    (path,) = tmp_path.glob("ledger-gsm8k_jsonl-3-seed0.jsonl")
    assert len(Ledger.read(path).of("gsm8k_jsonl")) == 3
    data.write_text(json.dumps({"question": "1 + 1"}) + "\n")
    with pytest.raises(UserError, match=r"gsm8k.jsonl:1: needed is answer"):
        exam.evaluate(run, suite="gsm8k_jsonl", data=data)


def test_votes():
    answers = [r"\boxed{ 4 }", "it is 4", "5", "5", "6", "so 4"]
    assert [exam._final(answer) for answer in answers] == ["4", "4", "5", "5", "6", "4"]


def test_from_python(run, tmp_path):
    result = package.evaluate(run, 3, samples=2, out=tmp_path)
    assert len(result.episodes) == 3 and result.interval[1] <= 1


@pytest.mark.parametrize(
    "words, message",
    [
        (["suite=metaworld/mt10"], "there are tiny and gsm8k_jsonl"),
        (["suite=gsm8k_jsonl"], "needs data=FILE"),
        (["data=x.jsonl"], "goes with suite=gsm8k_jsonl"),
        (["videos=3"], "not 'videos=3'"),
        (["samples=some"], "not 'samples=some'"),
        (["samples=0"], "samples must be at least 1"),
        (["temperature=-1"], "must not be negative"),
        (["top_p=0"], "must lie in"),
        (["task_args.length=7"], "must lie in 1 to 4"),
    ],
)
def test_mistakes(words, message, run):
    with pytest.raises(UserError, match=message):
        exam.command(str(run), words)


@pytest.mark.parametrize("n, c", [(5, 0), (5, 2), (5, 5), (6, 1)])
def test_pass_at_k_is_the_mean_over_all_choices(n, c):
    answers = [i < c for i in range(n)]
    for k in range(1, n + 1):
        found = np.mean([any(some) for some in itertools.combinations(answers, k)])
        assert pass_at_k(n, c, k) == pytest.approx(found)
    with pytest.raises(ValueError, match="no pass@"):
        pass_at_k(n, c, n + 1)


def test_pass_at_k():
    assert pass_at_k(10, 3, 5) == pytest.approx(1 - 21 / 252)


def drawn(model, prompts, sampling, group, seeds):
    ids = torch.tensor([[5, 6, 7 + i] for i in prompts])
    draws = [torch.Generator().manual_seed(seed) for seed in seeds]
    return generate(model, ids, torch.ones_like(ids), group, sampling, draws)


def test_draws_of_a_prompt_do_not_depend_on_its_neighbours():
    model, sampling = tiny_language.model(), Sampling(6, top_p=0.9)
    both = drawn(model, [0, 1], sampling, 3, [11, 12])
    for i, seed in enumerate([11, 12]):
        alone = drawn(model, [i], sampling, 3, [seed])
        width = alone.tokens.shape[1]
        assert torch.equal(both.tokens[3 * i : 3 * i + 3, :width], alone.tokens)


def test_apart_drawn_tokens_have_the_models_probabilities():
    model = tiny_language.model()
    got = drawn(model, [0], Sampling(1, top_p=0.5), 20000, [3])
    counts = torch.bincount(got.tokens[:, 0], minlength=64).double() / 20000
    ids = torch.tensor([[5, 6, 7]])
    probs = model.logits(ids, ids > 0, ids[:, :1], ids[:, :1] > 0)[0, 0].softmax(-1).double()
    kept = counts > 0
    assert probs[kept].sum() >= 0.5 > probs[kept].sum() - probs[kept].min()
    assert torch.allclose(counts[kept], probs[kept] / probs[kept].sum(), atol=0.012)
