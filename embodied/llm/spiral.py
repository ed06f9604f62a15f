"""SPIRAL: self-play on zero-sum games.

Liu et al. 2025, https://arxiv.org/abs/2506.24119.

One model plays both sides of a game against itself, and only the outcome is rewarded. Roles do not
win equally often, so every role p of the game has a baseline of its own, a running mean of its
returns (role-conditioned advantage estimation, equation 2). All turns of a role share its
advantage, and no answer is divided by its length (equations 1 and 3).

    b_p <- alpha b_p + (1 - alpha) R_p(tau),   A_p(tau) = R_p(tau) - b_p
    L = -1/(N C) sum_i sum_t min(rho_it A_i, clip(rho_it, 1 - e, 1 + e) A_i)

over N turns, C being the longest answer there can be.

Deviations:
1. The advantage is taken before the baseline moves, as in the authors' code; the order of the paper
   multiplies every advantage by alpha (`paper_order=true`).
2. All turns of a fixed number of games are learnt from, in steps of about `batch_size` turns. The
   authors play until they have as many turns as one step takes and drop what is too much.
   Turns without advantage stay in N: to drop them would change the rate.
3. A divergence from the first model can be added to the loss (`beta`, off by default). A small
   model that has only ever moved at random does not look at what it is shown: the gradient first
   finds one move for all positions, and without a divergence that is played every time before the
   model has learnt to tell positions apart. Then every game goes alike and learning ends.
4. One table of baselines in the learner, where the authors have one per actor process.
5. An illegal move costs 1.5 times the most that a match can cost, which is 1 in the authors' games:
   where chips are the reward, a fixed price of 1.5 would be cheaper than a lost bet of 2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor, nn

from embodied.core.guards import check_batch
from embodied.core.phase import Phase, Recipe, Until
from embodied.core.registry import register
from embodied.core.types import Batch, Metrics, Source
from embodied.llm.collector import LatestRollout
from embodied.llm.dialogue import SELF, SNAPSHOT, DialogueCollector, OpponentPool
from embodied.llm.learner import LanguageLearner
from embodied.llm.task import TextTask
from embodied.objectives.likelihood import masked_mean
from embodied.objectives.policy_gradient import aggregate, clipped_surrogate, token_ratio

BASELINES = ("role", "global", "none")


@dataclass(frozen=True, kw_only=True)
class SPIRALConfig:
    """Self-play on games; defaults of the paper.

    Attributes:
        steps: batches of games.
        games: per batch.
        temperature: of the answers.
        epochs: passes over the turns of a batch.
        batch_size: turns per optimizer step, in a random order; 0 for all at once.
        lr: Adam learning rate, constant.
        betas: of Adam.
        clip_norm: of the gradient.
        clip: e.
        baseline: role, global (one for both roles) or none.
        decay: alpha.
        beta: weight of KL(pi, first model), exact and per token; 0, as in the paper, keeps none.
        paper_order: move the baseline first.
        against_self: share of the games in which the model plays both sides.
        against_past: share against one of its snapshots.
        against_random: share against a player of random legal moves.
        against_exact: share against a player that no opponent can gain from.
        snapshot_every: batches between snapshots; 0 keeps the first model.
        snapshots: kept at most.
        eval_every: batches between evaluations; 0 evaluates at the end only.
    """

    steps: int = 400
    games: int = 64
    temperature: float = 1.0
    epochs: int = 2
    batch_size: int = 128
    lr: float = 1e-6
    betas: tuple[float, float] = (0.9, 0.95)
    clip_norm: float = 1.0
    clip: float = 0.2
    baseline: str = "role"
    decay: float = 0.95
    beta: float = 0.0
    paper_order: bool = False
    against_self: float = 1.0
    against_past: float = 0.0
    against_random: float = 0.0
    against_exact: float = 0.0
    snapshot_every: int = 16
    snapshots: int = 4
    eval_every: int = 0

    def __post_init__(self) -> None:
        if self.baseline not in BASELINES:
            raise ValueError(
                f"baseline must be one of {', '.join(BASELINES)}, got {self.baseline!r}"
            )
        if not 0 <= self.decay < 1:
            raise ValueError(f"decay must lie in [0, 1), got {self.decay}")

    @property
    def opponents(self) -> dict[str, float]:
        """Weights of the opponents that there are."""
        weights = {
            SELF: self.against_self,
            SNAPSHOT: self.against_past,
            "random": self.against_random,
            "exact": self.against_exact,
        }
        return {name: weight for name, weight in weights.items() if weight}


def role_advantages(
    returns: Sequence[float],
    roles: Sequence[int],
    baselines: Sequence[float],
    decay: float,
    paper_order: bool = False,
) -> tuple[list[float], list[float]]:
    """R - b of each game, b being the running mean of its role.

    Args:
        returns: game by game.
        roles: index into the baselines, like `returns`.
        baselines: before the first game.
        decay: alpha.
        paper_order: take the advantage after the baseline has moved: alpha times the other.

    Returns:
        The advantages, and the baselines after the last game.
    """
    baselines, advantages = list(baselines), []
    for value, role in zip(returns, roles, strict=True):
        before = baselines[role]
        baselines[role] = decay * before + (1 - decay) * value
        advantages.append(value - (baselines[role] if paper_order else before))
    return advantages, baselines


class Baselines(nn.Module):
    """A running mean of the returns per role."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(2, dtype=torch.float64))


class SPIRAL(LanguageLearner):
    """A language model that learns from games."""

    def __init__(self, config: SPIRALConfig, task: TextTask) -> None:
        self.config = config
        super().__init__(
            "spiral",
            task,
            config.lr,
            temperature=config.temperature,
            clip_norm=config.clip_norm,
            betas=config.betas,
        )
        self.baselines = Baselines().to(self.model.device)
        self.keep(baselines=self.baselines)
        self.reference = self.frozen("reference") if config.beta else None

    def update(self, source: Source) -> Metrics:
        """`epochs` passes over the turns of one batch of games."""
        c, rows = self.config, len(source)
        batch = dict(source.next(rows))
        check_batch(batch)
        reward = batch["reward"].sum(-1)
        batch["advantage"] = self.advantages(batch["episode"], batch["player"], reward)
        metrics: Metrics = {}
        for _ in range(c.epochs):
            order = torch.randperm(rows, generator=self.generator, device=reward.device)
            for some in order.tensor_split(math.ceil(rows / (c.batch_size or rows))):
                metrics = self._step({name: column[some] for name, column in batch.items()})
        first, second = self.baselines.mean.tolist()
        return metrics | {
            "advantage": batch["advantage"].abs().mean(),
            "baseline/0": first,
            "baseline/1": second,
            "turns": rows,
            "length": batch["mask"].sum(-1).float().mean(),
        }

    def _step(self, batch: Batch) -> Metrics:
        """One step on some turns."""
        clip, mask = self.config.clip, batch["mask"]
        if self.reference is None:
            log_prob = self.log_probs(batch)
            kl = torch.zeros_like(log_prob)
        else:
            log_prob, kl = self.divergence(batch, self.reference)
        ratio = token_ratio(log_prob, batch["old_log_prob"])
        surrogate = clipped_surrogate(ratio, batch["advantage"][:, None], clip)
        loss = aggregate(surrogate + self.config.beta * kl, mask, "dr_grpo", longest=self.longest)
        norm = self.step(loss)
        clipped = ((ratio - 1).abs() > clip).float()
        return {
            "loss": loss.detach(),
            "grad_norm": norm,
            "clipped": masked_mean(clipped, mask),
            "kl": masked_mean(kl.detach(), mask),
        }

    def advantages(self, episode: Tensor, player: Tensor, reward: Tensor) -> Tensor:
        """Of each turn, [B]; the baselines move by each role of each game once.

        Args:
            episode: [B], the game of each turn.
            player: [B], its role.
            reward: [B], what that role got in the end.
        """
        c = self.config
        if c.baseline == "none":
            return reward
        keys = list(zip(episode.tolist(), player.tolist(), strict=True))
        returns = dict(zip(keys, reward.tolist(), strict=True))
        roles = [role if c.baseline == "role" else 0 for _, role in returns]
        values, moved = role_advantages(
            list(returns.values()), roles, self.baselines.mean.tolist(), c.decay, c.paper_order
        )
        self.baselines.mean.copy_(self.baselines.mean.new_tensor(moved))
        of = dict(zip(returns, values, strict=True))
        return reward.new_tensor([of[key] for key in keys])


def recipe(config: SPIRALConfig, task: TextTask) -> Recipe:
    """One phase: a batch of games, a few passes over its turns."""
    pool = OpponentPool(
        config.opponents,
        task.players,
        task.model,
        task.streams.numpy("opponents"),
        every=config.snapshot_every,
        keep=config.snapshots,
    )
    return Recipe(
        [
            Phase(
                "play",
                SPIRAL(config, task),
                LatestRollout(task.model.device),
                Until("updates", config.steps),
                DialogueCollector(task.openings(), task.begin, config.games, pool=pool),
                updates_per_rollout=Fraction(1),
                eval_every=config.eval_every,
            )
        ]
    )


register(
    "spiral",
    config=SPIRALConfig,
    learner=SPIRAL,
    recipe=recipe,
    paper="https://arxiv.org/abs/2506.24119",
    summary="Self-play on zero-sum games, the running mean of each role's returns as baseline",
    updates=("model", "optimizer", "updates", "baselines", "generator"),
)
