"""Games and revised answers from the command line: what is evaluated, and what is refused."""

import numpy as np
import pytest

from embodied import arena, assemble, bases, evaluation
from embodied.core.log import read_log
from embodied.core.types import UserError
from embodied.data.games import Kuhn, TicTacToe, tictactoe
from embodied.data.tiny import Edit
from embodied.llm.collector import LanguagePolicy
from embodied.llm.task import padded_ids
from embodied.loading import load_policy
from embodied.proofs import selfplay
from embodied.revisions import RevisionEvaluator
from policies.sampling import Completions, Sampling
from tests import tiny_language

pytest.importorskip("transformers")
FEW = ["evaluation.episodes=8", "report=false", "trainer.tensorboard=false"]
SPIRAL = ["method=spiral", "method.steps=2", "method.games=2"]
SCORE = ["method=score", "method.first_steps=1", "method.steps=1", "method.prompts=2"]


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


def metrics(run):
    return read_log(run.directory, "evaluation")[-1]["metrics"]


@pytest.mark.parametrize("game", ["tictactoe", "kuhn", "negotiation"])
def test_play(game, model, tmp_path):
    run = train(tmp_path / "run", model, *SPIRAL, f"task={game}")
    found = metrics(run)
    assert {f"eval/score/{who}/{role}" for who in ("random", "exact") for role in (0, 1)} <= set(
        found
    )
    assert 0 < found["eval/illegal"] <= 1 and run.about["env"] == f"tiny/{game}"
    assert ("eval/exploitability" in found) == (game == "kuhn")
    policy, _ = load_policy(run.directory)
    assert policy.answer(["^ktest:"])[1]


def test_matches_after_training(model, tmp_path, capsys):
    run = train(tmp_path / "run", model, *SPIRAL, "task=tictactoe")
    assert evaluation.command([f"policy={run.directory}", "episodes=8"]) == 0
    said = capsys.readouterr().out
    assert "against random, as player 1: score" in said and "8 matches" in said
    for wrong in ("suite=tiny", "episodes=2"):
        with pytest.raises(UserError, match="episodes"):
            evaluation.command([f"policy={run.directory}", wrong])


def test_the_same_matches_every_time(model, tmp_path):
    ledgers = []
    for seed in (1, 2):
        overrides = [*SPIRAL, "method.lr=0", f"seed={seed}", "task=kuhn"]
        run = train(tmp_path / str(seed), model, *overrides)
        ledgers.append(read_log(run.directory, "evaluation")[-1]["ledger"])
    assert ledgers[0] == ledgers[1] and len(ledgers[0]) == 8


@pytest.mark.parametrize("method", [SCORE, ["method=rise", "method.iterations=1"]])
def test_look_again(method, model, tmp_path):
    few = ["method.problems=2", "method.prompts=2", "method.updates=1", "method.batch_size=2"]
    settings = ["task=edit", "task_args.turns=3", *(few if method is not SCORE else [])]
    found = metrics(train(tmp_path / "run", model, *method, *settings))
    assert {f"eval/accuracy/{turn}" for turn in (1, 2, 3)} <= set(found)
    assert found["eval/delta"] == found["eval/mended"] - found["eval/spoilt"]


@pytest.mark.parametrize(
    "overrides, message",
    [
        (["method=spiral", "task=tictactoes"], "did you mean tictactoe"),
        (["method=spiral", "task=kuhn", "task_args.hands=0"], "hands must lie in 1 to 9"),
        (["method=spiral", "task=kuhn", "task_args.cards=3"], "cards"),
        (["method=spiral", "task=kuhn", "data=rows.jsonl"], "leave data out"),
        (["method=spiral", "task=kuhn", "method.against_self=0"], "opponents"),
        (["method=score", "task=edit", "task_args.turns=0"], "turns"),
        (["method=grpo", "task=tictactoe"], "generates answers"),
        (["method=spiral", "task=chain", "method.against_random=1"], "opponents"),
    ],
)
def test_mistakes(overrides, message, model, tmp_path):
    with pytest.raises(UserError, match=message):
        train(tmp_path / "run", model, *overrides)


def test_a_base_model_is_named_after_what_it_is_shown(monkeypatch):
    game = TicTacToe()
    before = bases.base_folder(game)
    assert before == bases.base_folder(game) != bases.base_folder(TicTacToe(thinking=8))
    monkeypatch.setattr(tictactoe, "OWN", "jklmnopqr")
    assert bases.base_folder(game) != before


def test_a_perfect_player_in_the_arena(monkeypatch):
    """The evaluator, with the exact player in the model's place."""
    game, rng = TicTacToe(), np.random.default_rng(0)
    model = tiny_language.model()
    said = _speaking(model, lambda prompt: game.players()["exact"](prompt, rng))
    monkeypatch.setattr(LanguagePolicy, "answer", said)
    sampling = Sampling(game.response_length)
    found = arena.GameEvaluator(game, 200, sampling)(LanguagePolicy(model, sampling))
    assert found.metrics["draws/exact/0"] == found.metrics["draws/exact/1"] == 1
    assert found.metrics["score/random/0"] > 0.9 and found.metrics["score/random/1"] > 0.8
    assert found.metrics["illegal"] == 0


def test_perfect_edits(monkeypatch):
    """The evaluator of revisions, with a script that slips at first and then mends."""
    task, rng = Edit(), np.random.default_rng(0)
    model = tiny_language.model()

    def script(prompt):
        if not prompt.endswith("?"):
            return task.attempt(prompt, rng, slip=0.15)
        problem, attempt = prompt[: 2 * task.longest + 3], prompt[2 * task.longest + 3 : -1]
        wrong = [i for i, ok in enumerate(task.verify(problem, attempt).per_step) if not ok]
        right = task.attempt(problem, rng)
        return "".join(right[i] if [i] == wrong[:1] else "=" for i in range(5)) + "."

    monkeypatch.setattr(LanguagePolicy, "answer", _speaking(model, script))
    sampling = Sampling(task.response_length)
    prompts = task.problems(400, np.random.default_rng(1), 5)
    evaluator = RevisionEvaluator(task, prompts, "all_steps", 5, sampling)
    found = evaluator(LanguagePolicy(model, sampling)).metrics
    for turn in range(1, 6):
        expected = task.ceiling(5, turn - 1)
        assert found[f"accuracy/{turn}"] == pytest.approx(expected, abs=0.09)
    assert found["spoilt"] == 0 and found["any_turn"] == found["accuracy/5"]
    assert found["vote_turns"] > found["vote_fresh"]


def _speaking(model, say):
    """`LanguagePolicy.answer` by a script from prompt to text."""

    def answer(self, prompts, group=1):
        texts = [say(prompt) for prompt in prompts for _ in range(group)]
        ids, mask = padded_ids(model, prompts, left=True)
        tokens, real = padded_ids(model, texts)
        drawn = Completions(tokens, real, tokens.float(), real.any(1))
        return drawn, texts, (ids, mask)

    return answer


def test_the_average_of_policies():
    game = Kuhn()
    uniform = {prompt: game.random(prompt) for prompt in game.prompts()}
    exact = {prompt: game.exact(prompt) for prompt in game.prompts()}
    mean = selfplay.average_policy([uniform, exact])
    calls = "^k13cb120:"  # exact always calls a bet with a king, having checked half of the time
    assert exact[calls]["l"] == 1 and mean["^k13__120:"]["b"] == pytest.approx(0.5)
    assert mean[calls]["l"] == pytest.approx((0.5 * 0.5 + 0.5 * 1) / (0.5 + 0.5))
    logged = {f"eval/kuhn/{p}": moves.get("b", moves.get("l")) for p, moves in mean.items()}
    read = selfplay.policy_of(game, logged)
    assert {p: pytest.approx(moves) for p, moves in read.items()} == mean


def test_the_variance_that_rae_takes():
    plain = selfplay.gradient_variance((0.0, 0.0))
    role = selfplay.gradient_variance(selfplay.mean_returns())
    assert plain == pytest.approx(4.981, abs=0.05) and role == pytest.approx(4.508, abs=0.05)
