"""S3FT: selective self-to-supervised fine-tuning.

Gupta et al. 2025, https://arxiv.org/abs/2502.08130 (no code was published).

Fitting one given wording where the model's own answer is right already drags it from its own
distribution, and makes it worse at everything else. So the target is the model's own answer if a
judge calls it right; else the model's paraphrase of the given answer, if that is right; else the
given answer. Then plain fine-tuning on these targets, which were chosen once, before training.

    target = own        if J(x, own) = 1,             own = M(x)
             paraphrase if J(x, paraphrase) = 1,      paraphrase = M([instruction; x; gold])
             gold       otherwise
    L = -sum_it m_it log pi(target_it | x_i, target_i<t) / sum_it m_it

Deviations:
1. The paper does not say how own answers are drawn; here greedily.
2. The judge is the reward of the task, 1 and above being right. Without one it is equality with the
   given answer.
3. All weights that the model has for training are trained; the paper trains LoRA adapters.
4. Learning rate, updates and batch are not in the paper.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

import numpy as np

from embodied.core.phase import Phase, Recipe, Until
from embodied.core.registry import register
from embodied.core.trainer import Trainer
from embodied.core.types import Metrics, Rollout, Source, State
from embodied.data.text import Example
from embodied.llm.answers import Answers
from embodied.llm.collector import LanguagePolicy
from embodied.llm.learner import LanguageLearner
from embodied.llm.schedules import warm_cosine
from embodied.llm.task import Passes, Score, TextTask, padded, padded_ids

SOURCES = ("own", "paraphrase", "gold")


@dataclass(frozen=True, kw_only=True)
class S3FTConfig:
    """Selective self-to-supervised fine-tuning.

    Attributes:
        updates: optimizer steps.
        batch_size: targets per step.
        paraphrase: what the model is asked for a paraphrase; {prompt} and {response} stand for the
            question and the given answer.
        sources: which targets may be taken before the given answer: own and paraphrase (S3FT),
            paraphrase alone (SDFT, https://arxiv.org/abs/2402.13669), own alone, or none (SFT).
        judged: take a target only if it is right; false takes the first of `sources` always.
        answers: questions answered at a time; it changes speed only.
        lr: AdamW learning rate.
        weight_decay: decoupled.
        warm_up: steps in which the learning rate rises.
        final_lr: share of the learning rate at the end of the cosine.
        clip_norm: of the gradient.
        eval_every: updates between evaluations; 0 evaluates at the end only.
    """

    updates: int = 1000
    batch_size: int = 16
    paraphrase: str = (
        "{prompt}{response}\n\nGive the same answer to this question in your own words.\n\n{prompt}"
    )
    sources: tuple[str, ...] = ("own", "paraphrase")
    judged: bool = True
    answers: int = 64
    lr: float = 1e-5
    weight_decay: float = 0.0
    warm_up: int = 0
    final_lr: float = 0.0
    clip_norm: float = 1.0
    eval_every: int = 0

    def __post_init__(self) -> None:
        if wrong := set(self.sources) - {"own", "paraphrase"}:
            raise ValueError(f"sources may hold own and paraphrase, not {', '.join(wrong)}")
        try:
            self.paraphrase.format(prompt="", response="")
        except (KeyError, IndexError, ValueError) as error:
            raise ValueError(f"paraphrase may hold {{prompt}} and {{response}}: {error}") from error


class Target(NamedTuple):
    """What is fitted for one question.

    Attributes:
        answer: as `own`, `paraphrase` or the given answers came.
        source: one of `SOURCES`.
    """

    answer: object
    source: str


def select(
    gold: Sequence[object],
    drafts: dict[str, Callable[[list[int]], Sequence[object]]],
    judge: Callable[[int, object], bool],
) -> list[Target]:
    """The targets of some questions; a draft is made only where no earlier one was right.

    Args:
        gold: the given answers.
        drafts: by source, in order of preference: places of questions -> an answer to each.
        judge: (place of the question, answer) -> whether it is right.
    """
    targets: list[Target | None] = [None] * len(gold)
    for source, draft in drafts.items():
        left = [i for i, target in enumerate(targets) if target is None]
        if not left:
            break
        for i, answer in zip(left, draft(left), strict=True):
            if judge(i, answer):
                targets[i] = Target(answer, source)
    return [t or Target(g, "gold") for t, g in zip(targets, gold, strict=True)]


class TargetCollector:
    """Chooses the target of every demonstration, a batch of them per call.

    Args:
        demonstrations: `Example`s, in passes.
        judge: rewards an answer; 1 and above is right.
        config: which targets may be taken, and how many questions there are per call.
    """

    def __init__(self, demonstrations: Passes, judge: Score, config: S3FTConfig) -> None:
        self.demonstrations, self.judge, self.config = demonstrations, judge, config

    @property
    def num_envs(self) -> int:
        """Questions per call."""
        return self.config.answers

    def abandon(self, mask: np.ndarray) -> None:
        """Nothing outlasts a call."""

    def collect(self, policy: LanguagePolicy) -> Rollout:
        """One batch of targets; the reward is 1 where the model's own words are right."""
        c = self.config
        examples = self.demonstrations.draw(c.answers, whole=True)
        tokenizer = policy.model.tokenizer

        def ids(texts: Sequence[str]) -> list[tuple[str, list[int]]]:
            rows = tokenizer(list(texts), add_special_tokens=False)["input_ids"]
            return list(zip(texts, rows, strict=True))

        def asked(write: Callable[[Example], str]) -> Callable[[list[int]], Sequence[object]]:
            def draft(places: list[int]) -> Sequence[object]:
                drawn, texts, _ = policy.answer([write(examples[i]) for i in places])
                rows = [row[real].tolist() for row, real in zip(*drawn[:2], strict=True)]
                return list(zip(texts, rows, strict=True))

            return draft

        drafts = {
            "own": asked(lambda e: e.prompt),
            "paraphrase": asked(
                lambda e: c.paraphrase.format(prompt=e.prompt, response=e.response)
            ),
        }
        targets = select(
            ids([e.response for e in examples]),
            {name: drafts[name] for name in c.sources},
            lambda i, answer: not c.judged or self.judge(examples[i].prompt, answer[0]) >= 1,
        )
        prompt, prompt_mask = padded_ids(policy.model, [e.prompt for e in examples], left=True)
        action, mask = padded(policy.model, [t.answer[1] for t in targets])
        found = np.array([t.source != "gold" for t in targets], np.float32)
        lengths = mask.sum(1).tolist()
        return Rollout(
            observation=prompt.cpu().numpy(),
            action=action.cpu().numpy(),
            reward=found[:, None] * (np.arange(mask.shape[1]) == 0),
            mask=mask.cpu().numpy(),
            meta={
                "prompt_mask": prompt_mask.cpu().numpy(),
                "columns": {"index": self.demonstrations.drawn},
                "episodes": [
                    {
                        "stream": i,
                        "return": float(found[i]),
                        "success": bool(found[i]),
                        "length": int(lengths[i]),
                        **{name: float(t.source == name) for name in SOURCES},
                    }
                    for i, t in enumerate(targets)
                ],
                "tokens": int(sum(lengths)),
            },
        )

    def state_dict(self) -> State:
        """Where the demonstrations are."""
        return self.demonstrations.state_dict()

    def load_state_dict(self, state: State) -> None:
        """Take over the place among the demonstrations."""
        self.demonstrations.load_state_dict(state)


class S3FT(LanguageLearner):
    """A language model fitted to targets in its own words where those are right."""

    def __init__(self, config: S3FTConfig, task: TextTask) -> None:
        self.config = config
        super().__init__(
            "s3ft",
            task,
            config.lr,
            weight_decay=config.weight_decay,
            clip_norm=config.clip_norm,
            decoupled=True,
        )

    def update(self, source: Source) -> Metrics:
        """One step on one batch of targets."""
        c = self.config
        lr = c.lr * warm_cosine(self.updates, c.updates, c.warm_up, c.final_lr)
        return self.imitate(source.next(c.batch_size), lr)


def recipe(config: S3FTConfig, task: TextTask) -> Recipe:
    """Choose the targets with the model as it is, then fit them."""
    demonstrations = task.demonstrations().items
    given = {e.prompt: e.response for e in demonstrations}
    judge = task.score or (lambda prompt, response: float(response == given[prompt]))
    learner = S3FT(config, task)
    targets = Answers(task.model, task.streams.numpy("targets"))

    def begin(trainer: Trainer) -> None:
        targets.begin()

    choose = Phase(
        "choose",
        learner,
        targets,
        Until("episodes", len(demonstrations)),
        TargetCollector(Passes(demonstrations, task.streams.numpy("prompts")), judge, config),
        updates_per_step=Fraction(0),
        policy=learner.policy(deterministic=True),
        on_enter=begin,
        eval_at_end=False,
    )
    fit = Phase(
        "fit", learner, targets, Until("updates", config.updates), eval_every=config.eval_every
    )
    return Recipe([choose, fit])


register(
    "s3ft",
    config=S3FTConfig,
    learner=S3FT,
    recipe=recipe,
    paper="https://arxiv.org/abs/2502.08130",
    summary="Fine-tuning on the model's own words where they are right, else on the given ones",
    updates=("model", "optimizer", "updates"),
)
