"""SPIRAL: advantages by hand, what a batch's size is, opponents, resuming, and that it learns."""

import copy
import dataclasses
from collections import Counter

import numpy as np
import pytest
import torch

from embodied.core.checkpoint import digest
from embodied.core.seeding import Streams
from embodied.core.trainer import Trainer, TrainerOptions
from embodied.core.types import UserError
from embodied.data import tiny
from embodied.data.games import Kuhn, TicTacToe
from embodied.llm.dialogue import OpponentPool, play
from embodied.llm.spiral import SPIRAL, SPIRALConfig, recipe, role_advantages
from embodied.llm.task import TextTask, padded_ids
from tests import tiny_language

pytest.importorskip("transformers")
OPTIONS = TrainerOptions(log_every=1000, checkpoint_every=0, tensorboard=False)
SMALL = SPIRALConfig(steps=4, games=4, lr=1e-2)
MIXED = dataclasses.replace(
    SMALL, against_past=1.0, against_random=1.0, against_exact=1.0, snapshot_every=2, snapshots=2
)
GAME = TicTacToe()


def task(seed=0):
    return TextTask(
        tiny_language.model(seed),
        Streams(seed),
        prompts=[""],
        longest=GAME.response_length,
        begin=GAME.begin,
        players=GAME.players(),
    )


def run(directory, config=SMALL, seed=0, **options):
    made = recipe(config, task(seed))
    return Trainer(made, directory, options=dataclasses.replace(OPTIONS, **options))


def test_advantages_by_hand():
    returns, roles = [1, 1, -1], [0, 0, 0]
    code, baselines = role_advantages(returns, roles, [0, 0], 0.95)
    assert code == pytest.approx([1, 0.95, -1.0975]) and baselines[1] == 0
    paper, same = role_advantages(returns, roles, [0, 0], 0.95, paper_order=True)
    assert paper == pytest.approx([0.95, 0.9025, -1.042625]) and same == baselines
    assert np.divide(paper, code) == pytest.approx([0.95] * 3)


@pytest.mark.parametrize("games, share", [(10, 0.401), (50, 0.923)])
def test_baselines_warm_up(games, share):
    assert role_advantages([1] * games, [1] * games, [0, 0], 0.95)[1][1] == pytest.approx(
        share, abs=5e-4
    )


def test_a_baseline_of_both_roles_is_none():
    returns = [1, -1] * 100
    _, one = role_advantages(returns, [0] * 200, [0, 0], 0.95)
    assert abs(one[0]) < 0.03
    _, two = role_advantages(returns, [0, 1] * 100, [0, 0], 0.95)
    assert two[0] > 0.99 and two[1] < -0.99


def test_the_mean_return_as_baseline_leaves_the_gradient_and_takes_variance():
    """A game of one move, enumerated: role 0 wins with probability 0.9 and 0.6."""
    logits = torch.tensor([0.3, -0.2], dtype=torch.float64, requires_grad=True)
    log_prob, wins = logits.log_softmax(0), [0.9, 0.6]
    outcomes = [(m, r, p) for m in (0, 1) for r, p in ((1, wins[m]), (-1, 1 - wins[m]))]
    chances = torch.stack([log_prob[m].exp() * p for m, _, p in outcomes]).detach()
    scores = torch.stack(
        [torch.autograd.grad(log_prob[m], logits, retain_graph=True)[0] for m, _, _ in outcomes]
    )
    returns = torch.tensor([float(r) for _, r, _ in outcomes], dtype=torch.float64)
    found = {}
    for name, b in (("none", 0.0), ("role", (chances * returns).sum())):
        terms = (returns - b)[:, None] * scores
        mean = (chances[:, None] * terms).sum(0)
        found[name] = mean, (chances[:, None] * (terms - mean) ** 2).sum()
    torch.testing.assert_close(found["none"][0], found["role"][0])
    assert found["role"][1] < found["none"][1]


def test_the_expected_gradient_is_that_of_the_game():
    """All ways a hand of Kuhn poker can go, illegal moves included, weighted by their chance.

    Each role climbs its own mean reward while the other's chances are held fixed. Constant
    baselines change nothing.
    """
    game = Kuhn()
    made = tiny_language.task()
    made.longest = game.response_length
    learner, baselines = (
        SPIRAL(dataclasses.replace(SMALL, lr=0.0, clip_norm=1e9), made),
        (0.3, -0.2),
    )
    model, prompts = made.model, game.prompts()
    ids, mask = padded_ids(model, prompts, left=True)
    nothing = torch.full((len(prompts), 1), model.pad)
    logits = model.logits(ids, mask, nothing, torch.ones_like(nothing))[:, 0]
    log_prob, symbols = logits.double().log_softmax(-1), list(tiny.SYMBOLS)
    rows, gained = [], logits.new_zeros((), dtype=torch.float64)

    def follow(match, turns):
        """Every way on from here; a turn is (prompt, token, player)."""
        nonlocal gained
        asked = match.ask()
        if asked is not None:
            for token, symbol in enumerate(symbols):
                after = copy.deepcopy(match)
                after.take(symbol)
                follow(after, [*turns, (prompts.index(asked[1]), token, asked[0])])
            return
        chances = torch.stack([log_prob[at, token] for at, token, _ in turns])
        chance = chances.sum().exp().detach()
        for (at, token, player), own in zip(turns, chances, strict=True):
            gained = gained + chance * match.outcome[player] * own / len(game.all_openings())
            rows.append((at, token, float(chance) * (match.outcome[player] - baselines[player])))

    for opening in game.all_openings():
        follow(game.begin(opening), [])
    at, token, advantage = (torch.tensor(column) for column in zip(*rows, strict=True))
    batch = {
        "prompt": ids[at], "prompt_mask": mask[at], "completion": token[:, None],
        "mask": torch.ones_like(token[:, None]), "advantage": advantage / len(game.all_openings()),
        "old_log_prob": log_prob.detach().float()[at, token][:, None],
    }  # fmt: skip
    learner._step(batch)
    found = [p.grad * -len(rows) for p in model.network.parameters()]
    exact = torch.autograd.grad(gained, list(model.network.parameters()))
    for one, other in zip(found, exact, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


class Turns:
    """Five turns of two games; the reward of the last one may be such that it teaches nothing."""

    def __init__(self, last=1.0, rows=5):
        self.rows = rows
        self.batch = tiny_language.Batches().next(6)
        self.batch["episode"] = torch.tensor([0, 0, 0, 1, 1, 2])
        self.batch["player"] = torch.tensor([0, 1, 0, 0, 1, 0])
        self.batch["reward"] = torch.zeros(6, 4)
        self.batch["reward"][:, 0] = torch.tensor([1.0, -1, 1, -1, 1, last])

    def __len__(self):
        return self.rows

    def next(self, n):
        return {name: column[:n] for name, column in self.batch.items()}


def test_turns_of_a_role_share_its_advantage():
    learner, batch = SPIRAL(SMALL, task()), Turns().next(5)
    advantage = learner.advantages(batch["episode"], batch["player"], batch["reward"].sum(-1))
    assert advantage.tolist() == pytest.approx([1, -1, 1, -1.05, 1.05])
    assert learner.baselines.mean.tolist() == pytest.approx([-0.0025, 0.0025])


def test_turns_without_advantage_count():
    """The last turn has none, yet divides the loss: the sum over turns stays, the mean shrinks."""
    config = dataclasses.replace(SMALL, epochs=1, baseline="none", lr=0.0)
    losses = []
    for rows in (5, 6):
        source = Turns(last=0.0, rows=rows)
        learner = SPIRAL(config, task())
        source.batch["old_log_prob"] = learner.log_probs(source.batch).detach()
        losses.append(float(learner.update(source)["loss"]) * rows)
    assert losses[0] == pytest.approx(losses[1], abs=1e-6) and losses[0] != 0


@pytest.mark.parametrize("config", [SMALL, MIXED], ids=["self", "mixed"])
def test_resumed_to_the_bit(config, tmp_path):
    whole = run(tmp_path / "whole", config)
    whole.run()
    cut = run(tmp_path / "cut", config, checkpoint_every=1)
    for _ in range(3):
        cut.step()
    cut.close()
    again = run(tmp_path / "cut", config, seed=9)
    assert again.resume() == 3
    again.run()
    for name, state in whole.state_dict().items():
        if name not in ("trainer", "config"):
            assert digest({"": state}) == digest({"": again.state_dict()[name]}), name
    assert whole.counters.updates == 4 and whole.counters.tokens == again.counters.tokens > 0


def test_rows_of_self_play_are_all_turns_of_all_games(tmp_path):
    trainer = run(tmp_path / "run")
    rollout = trainer.phase.collector.collect(trainer.phase.learner.policy())
    columns = rollout.meta["columns"]
    for game in range(4):
        mine = columns["episode"] == game
        assert columns["turn"][mine].tolist() == list(range(mine.sum()))
        assert columns["player"][mine].tolist() == [i % 2 for i in range(mine.sum())]
    assert len(rollout.meta["episodes"]) == 4 and (rollout.reward != 0).sum(1).max() == 1


def test_the_pool_keeps_to_its_weights():
    made = task()
    policy = SPIRAL(SMALL, made).policy()
    rng = np.random.default_rng(0)
    pool = OpponentPool(
        {"self": 2, "snapshot": 1, "random": 1}, made.players, made.model, rng, every=1, keep=3
    )
    seen = Counter()
    for _ in range(8):
        rivals = pool.rivals(100, policy)
        seen += Counter("self" if rival is None else rival[1] for rival in rivals)
    assert len(pool.snapshots) == 3
    assert 350 < seen["self"] < 450 and abs(seen[0] - seen[1]) < 60
    for weights in ({"nobody": 1.0}, {"self": 0.0}, {"self": -1.0}, {}):
        with pytest.raises(UserError, match="opponents"):
            OpponentPool(weights, made.players, made.model, rng)


def test_an_opponents_turns_are_no_rows():
    policy = SPIRAL(SMALL, task()).policy()
    rng = np.random.default_rng(0)
    player = GAME.players()["exact"]
    taken = play(
        [GAME.begin("") for _ in range(6)],
        policy,
        [(lambda prompts: [player(p, rng) for p in prompts], i % 2) for i in range(6)],
    )
    assert taken and all(turn.player == turn.episode % 2 for turn in taken)


def test_it_learns_what_wins(tmp_path):
    """A game that answer 3 wins at once, whoever gives it."""

    class Race:
        def __init__(self, prompt):
            self.won = []

        def ask(self):
            return None if len(self.won) == 2 else (len(self.won), "^c12__:")

        def take(self, answer):
            self.won.append(answer.startswith("3"))

        def rewards(self):
            return [float(a) - float(b) for a, b in (self.won, self.won[::-1])]

    made = tiny_language.task()
    made.begin = Race
    config = SPIRALConfig(steps=40, games=32, lr=3e-2)
    Trainer(recipe(config, made), tmp_path / "run", options=OPTIONS).run()
    _, texts, _ = SPIRAL(config, made).policy().answer(["^c12__:"], 50)
    assert np.mean([text.startswith("3") for text in texts]) > 0.9


def test_a_task_without_turns_is_refused():
    made = task()
    made.begin = None
    with pytest.raises(UserError, match="several turns"):
        recipe(SMALL, made)
    with pytest.raises(ValueError, match="baseline"):
        SPIRALConfig(baseline="mean")
