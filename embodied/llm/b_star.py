"""B-STaR: self-taught reasoners that balance exploration and exploitation.

Zeng et al. 2024, https://arxiv.org/abs/2412.17256; code https://github.com/hkust-nlp/B-STaR.

Sampling answers, keeping good ones and fitting them, again and again, stalls: answers lose variety,
and the score no longer tells them apart. Before each iteration the temperature T and the threshold
tau are chosen that make most of some questions set aside, by a score that counts how many good and
different answers a question has and how pure what is kept is.

    s = [answer right] + (rating of its weakest step) / 5
    kept: s > tau, the best K of each question, K raised from 1 until `target` are kept
    bs_i = min(n'_i / n*, 1) n'_i / n_i,   n_i kept, n'_i of them right;   bs = mean_i bs_i

(T, tau) is the argmax of bs over a grid; all training questions are then answered at T, tau is
chosen again on them, and what is kept is fitted by maximum likelihood. The optimizer and its
learning rate go on from iteration to iteration.

Deviations:
1. Without a process reward model (`process` of the task) s is 1 for a right answer, else 0.
2. An answer that was given twice counts once before the best K are taken, so K counts different
   answers.
3. The given solutions are not added to what is kept (optional in the official code).
4. The learning rate falls from 4.12e-6 to 2e-7 along a cosine; the official code names its ends.
5. The questions set aside are the first ones, and are learnt from like all others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np

from embodied.core.phase import Phase, Recipe, Until
from embodied.core.registry import register
from embodied.core.trainer import Trainer
from embodied.core.types import Metrics, Rollout, Source, State, UserError
from embodied.llm.answers import Answer, Answers, packed, unpacked
from embodied.llm.collector import LanguagePolicy, TextCollector
from embodied.llm.learner import LanguageLearner
from embodied.llm.schedules import warm_cosine
from embodied.llm.task import Passes, Score, TextTask
from policies.lm import LanguageModel
from policies.sampling import Sampling

KINDS = ("balance", "precision", "count")


@dataclass(frozen=True, kw_only=True)
class BStarConfig:
    """Balanced self-training; defaults of the official code for MATH.

    Attributes:
        iterations: times that answers are drawn and fitted.
        updates: optimizer steps in each.
        batch_size: answers per step.
        samples: answers per question.
        aside: questions on which temperature and threshold are chosen.
        temperatures: to choose from; one alone is online rejection-sampling fine-tuning.
        thresholds: to choose from: least, most and step.
        enough: n*, right answers that a question needs at most.
        aside_target: answers to keep of the questions set aside.
        target: answers to keep of all questions.
        score: balance, or as ablations precision (n' / n) or count (min(n' / n*, 1)).
        answers: questions answered at a time; it changes speed only.
        lr: AdamW learning rate.
        final_lr: share of it at the end of the last iteration.
        weight_decay: decoupled.
        clip_norm: of the gradient.
        eval_every: updates between evaluations; 0 evaluates after each iteration only.
    """

    iterations: int = 9
    updates: int = 500
    batch_size: int = 128
    samples: int = 64
    aside: int = 1000
    temperatures: tuple[float, ...] = tuple(round(0.5 + 0.05 * i, 2) for i in range(15))
    thresholds: tuple[float, float, float] = (-1.0, 1.0, 0.01)
    enough: int = 8
    aside_target: int = 3550
    target: int = 67500
    score: str = "balance"
    answers: int = 64
    lr: float = 4.12e-6
    final_lr: float = 0.0485
    weight_decay: float = 0.0
    clip_norm: float = 1.0
    eval_every: int = 0

    def __post_init__(self) -> None:
        if self.score not in KINDS:
            raise ValueError(f"score must be one of {', '.join(KINDS)}, got {self.score!r}")
        if not self.temperatures or min(self.temperatures) <= 0:
            raise ValueError(f"temperatures must be some and above 0, got {self.temperatures}")
        if not 1 <= self.enough <= self.samples:
            raise ValueError(f"enough={self.enough} must lie in 1 to samples={self.samples}")

    @property
    def grid(self) -> np.ndarray:
        """The thresholds."""
        least, most, step = self.thresholds
        return np.round(least + step * np.arange(round((most - least) / step) + 1), 6)


def answer_score(right: bool, weakest: float = 0.0) -> float:
    """s of an answer; a right one outranks every wrong one while |weakest| < 2.5."""
    return float(right) + weakest / 5


def is_right(score: float | np.ndarray) -> bool | np.ndarray:
    """Whether s is that of a right answer."""
    return score > 0.5


def balance(
    right: np.ndarray, kept: np.ndarray, enough: int, kind: str = "balance"
) -> float | np.ndarray:
    """The mean of bs_i, or of one of its factors (equation 3).

    Args:
        right: [..., Q] n'_i.
        kept: [..., Q] n_i.
        enough: n*.
        kind: one of `KINDS`.
    """
    count, precision = np.minimum(right / enough, 1), right / np.maximum(kept, 1)
    factors = {"balance": count * precision, "precision": precision, "count": count}
    return factors[kind].mean(-1)


def growth(above: np.ndarray, target: int) -> int:
    """The least K from 1 with sum_i min(n_i, K) >= target, or the largest that adds anything."""
    k, most = 1, max(int(above.max(initial=0)), 1)
    while k < most and np.minimum(above, k).sum() < target:
        k += 1
    return k


def sweep(
    scores: Sequence[Sequence[float]], grid: np.ndarray, target: int, enough: int, kind: str
) -> tuple[int, np.ndarray]:
    """The best threshold: its place in the grid, the first of equals, and the score of each.

    Args:
        scores: of the different answers of each question.
        grid: thresholds.
        target: answers to keep.
        enough: n*.
        kind: one of `KINDS`.
    """
    width = max(map(len, scores), default=0)
    ordered = np.full((len(scores), width), -np.inf)
    for row, some in zip(ordered, scores, strict=True):
        row[: len(some)] = sorted(some, reverse=True)
    right = np.concatenate([np.zeros((len(scores), 1), int), is_right(ordered).cumsum(1)], 1)
    found = []
    for threshold in grid:
        above = (ordered > threshold).sum(1)
        kept = np.minimum(above, growth(above, target))
        found.append(balance(right[np.arange(len(right)), kept], kept, enough, kind))
    return int(np.argmax(found)), np.array(found)


def different(answers: Sequence[Answer]) -> dict[int, list[Answer]]:
    """By question, in the order drawn, its answers without those given before."""
    questions: dict[int, dict[bytes, Answer]] = {}
    for answer in answers:
        questions.setdefault(answer.index, {}).setdefault(answer.completion.tobytes(), answer)
    return {index: list(some.values()) for index, some in questions.items()}


def chosen(answers: Sequence[Answer], threshold: float, target: int) -> list[Answer]:
    """The answers to fit: above the threshold, the best K of each question."""
    questions = [
        sorted((a for a in some if a.reward > threshold), key=lambda a: -a.reward)
        for some in different(answers).values()
    ]
    k = growth(np.array([len(some) for some in questions]), target)
    return [answer for some in questions for answer in some[:k]]


class Pool(Answers):
    """Answers of the questions set aside, by temperature, and those of all questions.

    Args:
        model: pads the batches.
        rng: orders each pass.
        config: the grid and how much to keep.
    """

    def __init__(self, model: LanguageModel, rng: np.random.Generator, config: BStarConfig) -> None:
        super().__init__(model, rng)
        self.config = config
        self.explored: dict[str, list[Answer]] = {}

    def add(self, rollout: Rollout) -> None:
        """Take the answers of a rollout, apart by temperature while exploring."""
        if "temperature" not in rollout.meta:
            super().add(rollout)
            return
        before, self.kept = self.kept, []
        super().add(rollout)
        self.explored.setdefault(str(rollout.meta["temperature"]), []).extend(self.kept)
        self.keep(before)

    def choose(self) -> float:
        """The temperature at which the questions set aside score best; forgets their answers."""
        c = self.config
        best = [
            self._sweep(self.explored[str(temperature)], c.aside_target)[1].max()
            for temperature in c.temperatures
        ]
        self.explored = {}
        return c.temperatures[int(np.argmax(best))]

    def select(self) -> tuple[float, float]:
        """Keep what is to be fitted; returns the threshold and its score."""
        place, found = self._sweep(self.kept, self.config.target)
        threshold = float(self.config.grid[place])
        self.keep(chosen(self.kept, threshold, self.config.target))
        return threshold, float(found[place])

    def _sweep(self, answers: list[Answer], target: int) -> tuple[int, np.ndarray]:
        c = self.config
        scores = [[a.reward for a in some] for some in different(answers).values()]
        return sweep(scores, c.grid, target, c.enough, c.score)

    def state_dict(self) -> State:
        """Also what was explored."""
        explored = {name: packed(answers) for name, answers in self.explored.items()}
        return {**super().state_dict(), "explored": explored}

    def load_state_dict(self, state: State) -> None:
        """Take over a state."""
        super().load_state_dict(state)
        self.explored = {name: unpacked(answers) for name, answers in state["explored"].items()}


class Explorer(TextCollector):
    """Asks the same questions at one temperature after the other."""

    def __init__(self, prompts: Passes, score: Score, config: BStarConfig) -> None:
        super().__init__(prompts, score, config.answers, config.samples, whole=True)
        self.temperatures, self.asked = config.temperatures, 0

    def collect(self, policy: LanguagePolicy) -> Rollout:
        """One batch of answers at the temperature whose turn it is."""
        turn = self.asked // len(self.prompts) % len(self.temperatures)
        sampling = replace(policy.sampling, temperature=self.temperatures[turn])
        rollout = super().collect(LanguagePolicy(policy.model, sampling, policy.generator))
        self.asked += len(self.prompts.drawn)
        rollout.meta["temperature"] = self.temperatures[turn]
        return rollout

    def state_dict(self) -> State:
        """Also how many questions were asked."""
        return {**super().state_dict(), "asked": self.asked}

    def load_state_dict(self, state: State) -> None:
        """Take over a state."""
        super().load_state_dict(state)
        self.asked = state["asked"]


class BStar(LanguageLearner):
    """A language model fitted to its own good answers.

    Attributes:
        drawn_at: temperature of the next answers.
    """

    def __init__(self, config: BStarConfig, task: TextTask) -> None:
        self.config = config
        super().__init__(
            "b_star",
            task,
            config.lr,
            weight_decay=config.weight_decay,
            clip_norm=config.clip_norm,
            decoupled=True,
        )
        self.drawn_at = config.temperatures[0]
        self.choice: dict[str, float] = {}

    def policy(self, deterministic: bool = False) -> LanguagePolicy:
        """The current model, at the temperature chosen last."""
        sampling = Sampling(self.longest, temperature=0.0 if deterministic else self.drawn_at)
        return LanguagePolicy(self.model, sampling, self.generator)

    def update(self, source: Source) -> Metrics:
        """One step on one batch of answers."""
        c = self.config
        share = warm_cosine(self.updates, c.iterations * c.updates, 0, c.final_lr)
        return {**self.imitate(source.next(c.batch_size), c.lr * share), **self.choice}

    def state_dict(self) -> State:
        """Also the temperature, and what was chosen for this iteration."""
        return {**super().state_dict(), "drawn_at": self.drawn_at, "choice": self.choice}

    def load_state_dict(self, state: State) -> None:
        """Take over a state of the same configuration."""
        super().load_state_dict(state)
        self.drawn_at, self.choice = state["drawn_at"], dict(state["choice"])


def recipe(config: BStarConfig, task: TextTask) -> Recipe:
    """Explore, answer, fit; once per iteration."""
    learner = BStar(config, task)
    pool = Pool(task.model, task.streams.numpy("answers"), config)
    questions = task.questions()
    aside = Passes(questions.items[: config.aside], task.streams.numpy("aside"))
    if len(questions) < 2:
        raise UserError("this method balances over questions; give more than one")

    def score(prompt: str, response: str) -> float:
        weakest = task.process(prompt, response) if task.process else 0.0
        return answer_score(task.score(prompt, response) >= 1, weakest)

    def begin(trainer: Trainer) -> None:
        learner.drawn_at = pool.choose()
        pool.begin()

    def select(trainer: Trainer) -> None:
        threshold, found = pool.select()
        learner.choice = {
            "temperature": learner.drawn_at,
            "threshold": threshold,
            "balance": found,
            "kept": float(len(pool)),
        }

    still = {"updates_per_step": Fraction(0), "eval_at_end": False}
    swept = len(aside) * config.samples * len(config.temperatures)
    everything = TextCollector(questions, score, config.answers, config.samples, whole=True)
    phases = [
        Phase("explore", learner, pool, Until("episodes", swept),
              Explorer(aside, score, config), **still),
        Phase("answer", learner, pool, Until("episodes", len(questions) * config.samples),
              everything, on_enter=begin, **still),
        Phase("fit", learner, pool, Until("updates", config.updates), on_enter=select,
              eval_every=config.eval_every),
    ]  # fmt: skip
    return Recipe(phases, config.iterations)


register(
    "b_star",
    config=BStarConfig,
    learner=BStar,
    recipe=recipe,
    paper="https://arxiv.org/abs/2412.17256",
    summary="Self-training that chooses temperature and threshold by a balance of both its ends",
    updates=("model", "optimizer", "updates"),
)
