"""Answers in groups, their rewards, and the source that hands them to the learner once."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from embodied.core.types import Batch, Rollout, State
from embodied.llm.task import Passes, Score, padded_ids
from embodied.objectives.likelihood import token_log_probs
from policies.lm import LanguageModel
from policies.sampling import Completions, Draws, Engine, Sampling, generate

ENGINE_CAP = 2.0  # of the weight of a token that another engine drew (Yao et al. 2025; TRL's)


class LanguagePolicy:
    """A model that answers.

    Args:
        model: it follows later updates.
        sampling: how answers are drawn.
        generator: draws them; one for each prompt if there are several.
        engine: draws them faster, if there is another.
    """

    def __init__(
        self,
        model: LanguageModel,
        sampling: Sampling,
        generator: Draws = None,
        engine: Engine = generate,
    ) -> None:
        self.model, self.sampling, self.generator, self.engine = model, sampling, generator, engine

    def answer(self, prompts: list[str], group: int = 1) -> tuple[Completions, list[str], Any]:
        """`group` answers to each prompt.

        Returns:
            The completions, their texts, and the prompts' ids and mask ([N, P] each).
        """
        ids, mask = padded_ids(self.model, prompts, left=True)
        drawn = self.engine(self.model, ids, mask, group, self.sampling, self.generator)
        rows = [row[real] for row, real in zip(drawn.tokens, drawn.mask, strict=True)]
        texts = [self.model.tokenizer.decode(row, skip_special_tokens=False) for row in rows]
        return drawn, texts, (ids, mask)

    def probabilities(self, prompt: torch.Tensor, mask: torch.Tensor, drawn: Completions) -> Any:
        """What the model itself makes of answers that another engine drew.

        Returns:
            log pi of each token [B, T], and min(pi / pi_engine, `ENGINE_CAP`) [B, T]: what a
            gradient is weighted by, since the tokens were drawn with other probabilities.
        """
        group = len(drawn.tokens) // len(prompt)
        inputs = (prompt.repeat_interleave(group, 0), mask.repeat_interleave(group, 0))
        with torch.no_grad():
            logits = self.model.logits(*inputs, drawn.tokens, drawn.mask)
            log_prob = token_log_probs(logits, drawn.tokens, self.sampling.temperature or 1.0)
        ratio = torch.exp(log_prob - drawn.log_prob).clamp(max=ENGINE_CAP)
        real = drawn.mask
        return log_prob.where(real, 0.0), ratio.where(real, 1.0)


class TextCollector:
    """Asks prompts and rewards the answers, a group of them per prompt.

    Args:
        prompts: where prompts come from.
        score: rewards an answer.
        batch: prompts per call.
        group: answers per prompt.
        whole: end a batch where a pass over the prompts ends.
    """

    def __init__(
        self, prompts: Passes, score: Score, batch: int, group: int, whole: bool = False
    ) -> None:
        self.prompts, self.score, self.batch, self.group = prompts, score, batch, group
        self.whole = whole

    @property
    def num_envs(self) -> int:
        """Answers per call."""
        return self.batch * self.group

    def abandon(self, mask: np.ndarray) -> None:
        """Nothing outlasts a call."""

    def collect(self, policy: LanguagePolicy) -> Rollout:
        """One batch of answers; the reward is on the last token of each."""
        prompts = self.prompts.draw(self.batch, self.whole)
        drawn, texts, (ids, ids_mask) = policy.answer(prompts, self.group)
        asked = [prompt for prompt in prompts for _ in range(self.group)]
        scores = np.array([self.score(p, text) for p, text in zip(asked, texts, strict=True)])
        log_prob, columns = drawn.log_prob, {"index": self.prompts.drawn.repeat(self.group)}
        if policy.engine is not generate:
            log_prob, ratio = policy.probabilities(ids, ids_mask, drawn)
            columns["engine_ratio"] = ratio.cpu().numpy()
        mask = drawn.mask.cpu().numpy()
        lengths = mask.sum(1)
        reward = np.zeros(mask.shape, np.float32)
        reward[np.arange(len(reward)), lengths - 1] = scores
        ended = drawn.ended.cpu().numpy()
        episodes = [
            {"stream": i, "return": float(s), "success": bool(s >= 1), "length": int(n)}
            for i, (s, n) in enumerate(zip(scores, lengths, strict=True))
        ]
        return Rollout(
            observation=ids.cpu().numpy().repeat(self.group, 0),
            action=drawn.tokens.cpu().numpy(),
            reward=reward,
            terminated=ended[:, None] & (np.arange(mask.shape[1]) == lengths[:, None] - 1),
            mask=mask,
            log_prob=log_prob.cpu().numpy(),
            meta={
                "prompt_mask": ids_mask.cpu().numpy().repeat(self.group, 0),
                "columns": columns,
                "episodes": episodes,
                "tokens": int(lengths.sum()),
            },
        )

    def state_dict(self) -> State:
        """Where the prompts are."""
        return self.prompts.state_dict()

    def load_state_dict(self, state: State) -> None:
        """Take over the place among the prompts."""
        self.prompts.load_state_dict(state)


class LatestRollout:
    """On-policy source: the rows of the last rollout, in their order.

    Beside prompts, completions and their rewards it has the columns that the rollout's
    `meta["columns"]` names.
    """

    def __init__(self, device: str | torch.device = "cpu") -> None:
        self.device = torch.device(device)
        self._columns: dict[str, torch.Tensor] = {}

    def add(self, rollout: Rollout) -> None:
        """Replace what was there."""
        columns = {
            "prompt": rollout.observation,
            "prompt_mask": rollout.meta["prompt_mask"],
            "completion": rollout.action,
            "mask": rollout.mask,
            "old_log_prob": rollout.log_prob,
            "reward": rollout.reward,
            **rollout.meta.get("columns", {}),
        }
        self._columns = {k: torch.from_numpy(v).to(self.device) for k, v in columns.items()}

    def __len__(self) -> int:
        return len(self._columns["prompt"]) if self._columns else 0

    def next(self, n: int) -> Batch:
        """All rows of the last rollout; n must be their number.

        Raises:
            RuntimeError: there are not as many.
        """
        if n != len(self):
            raise RuntimeError(f"{n} rows were asked for, the last rollout has {len(self)}")
        return dict(self._columns)

    def state_dict(self) -> State:
        """The rows."""
        return dict(self._columns)

    def load_state_dict(self, state: State) -> None:
        """Take over the rows."""
        self._columns = {k: v.to(self.device, copy=True) for k, v in state.items()}
