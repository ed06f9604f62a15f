"""Lessons: a base model fitted to how likely symbols were, rather than to those that were drawn.

A lesson's gradient then has no noise of the draws, which matters where they say little: what tells
a right edit of EDIT from a random one is a fifth of the edits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from embodied.core.guards import check_batch
from embodied.core.phase import Phase, Recipe, Until
from embodied.core.seeding import Streams
from embodied.core.trainer import Trainer, TrainerOptions
from embodied.core.types import Batch, Metrics, Source, State
from embodied.data.tiny import Edit
from embodied.data.tiny.shown import Shown, shown
from embodied.llm.learner import LanguageLearner
from embodied.llm.schedules import warm_cosine
from embodied.llm.sft import SFTConfig
from embodied.llm.task import TextTask, padded_ids
from policies.lm import LanguageModel


@dataclass(frozen=True)
class Lesson:
    """Demonstrations to learn from.

    Attributes:
        fit: how long and how fast.
        changes: to the task, for this lesson.
        slip: share of the steps shown that are wrong, where that is not what is to be learned.
        edits: whether edits are shown too.
    """

    fit: SFTConfig
    changes: dict[str, float] = field(default_factory=dict)
    slip: float | None = None
    edits: bool = True

    def texts(self, task: Edit) -> Callable[[np.random.Generator], Shown]:
        """What makes its texts."""
        task = replace(task, **self.changes)

        def make(rng: np.random.Generator) -> Shown:
            (prompt,) = task.problems(1, rng)
            text = shown(task, prompt, rng, self.slip)
            end = None if self.edits else task.response_length
            return Shown(prompt, text.response[:end], text.chances[:end])

        return make


class FreshTexts:
    """Batches of texts that are made as they are asked for.

    Args:
        make: one of them.
        model: its tokenizer makes ids of them.
        rng: draws them; all of the state there is.
    """

    def __init__(
        self,
        make: Callable[[np.random.Generator], Shown],
        model: LanguageModel,
        rng: np.random.Generator,
    ) -> None:
        self._make, self._model, self._rng = make, model, rng
        self._ids = model.tokenizer.get_vocab()

    def next(self, n: int) -> Batch:
        """n texts: prompt [n, P], prompt_mask, completion [n, T], mask, chances [n, T, V]."""
        texts = [self._make(self._rng) for _ in range(n)]
        prompt, prompt_mask = padded_ids(self._model, [text.prompt for text in texts], left=True)
        completion, mask = padded_ids(self._model, [text.response for text in texts])
        chances = np.zeros((*completion.shape, len(self._ids)), np.float32)
        for row, text in enumerate(texts):
            for at, each in enumerate(text.chances):
                for symbol, chance in each.items():
                    chances[row, at, self._ids[symbol]] = chance
        return {
            "prompt": prompt,
            "prompt_mask": prompt_mask,
            "completion": completion,
            "mask": mask,
            "chances": torch.from_numpy(chances).to(self._model.device),
        }

    def state_dict(self) -> State:
        """The generator."""
        return {"rng": self._rng.bit_generator.state}

    def load_state_dict(self, state: State) -> None:
        """Take over a generator."""
        self._rng.bit_generator.state = state["rng"]


class Pupil(LanguageLearner):
    """A language model fitted to probabilities by cross-entropy."""

    def __init__(self, config: SFTConfig, task: TextTask) -> None:
        self.config = config
        super().__init__(
            "lesson",
            task,
            config.lr,
            weight_decay=config.weight_decay,
            clip_norm=config.clip_norm,
            betas=config.betas,
            decoupled=True,
        )

    def update(self, source: Source) -> Metrics:
        """One step on one batch of texts."""
        c = self.config
        batch = source.next(c.batch_size)
        check_batch(batch)
        chances = batch["chances"]  # which sum to 1 at every place of a text
        inputs = (batch["prompt"], batch["prompt_mask"], batch["completion"], batch["mask"])
        log_probs = self.model.logits(*inputs).log_softmax(-1)
        loss = -(chances * log_probs).sum() / self.tokens(batch["mask"])
        lr = c.lr * warm_cosine(self.updates, c.updates, c.warm_up, c.final_lr)
        norm = self.step(loss, lr)
        return {"loss": loss.detach(), "grad_norm": norm}


def teach(
    model: LanguageModel, lesson: Lesson, task: Edit, streams: Streams, name: str, directory: Path
) -> None:
    """Give a lesson.

    Args:
        model: learns it.
        lesson: which.
        task: it is about.
        streams: draw its texts.
        name: of their stream.
        directory: of the run.
    """
    pupil = Pupil(lesson.fit, TextTask(model, streams))
    texts = FreshTexts(lesson.texts(task), model, streams.numpy(name))
    phase = Phase("lesson", pupil, texts, Until("updates", lesson.fit.updates), eval_at_end=False)
    options = TrainerOptions(checkpoint_every=0, tensorboard=False)
    trainer = Trainer(Recipe([phase]), directory, options=options)
    trainer.run()
    trainer.close()
