"""Masked thought (MFT): fine-tuning with parts of the reasoning hidden.

Chen et al. 2024, https://arxiv.org/abs/2403.02178; code
https://github.com/ChangyuChen347/MaskedThought.

During fine-tuning on step-by-step answers, tokens of the answer are hidden at random where they are
read, not where they are to be predicted. So a later step cannot lean on its nearest neighbours
alone and has to use the question and remote steps. Nothing changes when answers are drawn.

    z~_t = <mask> if M_t else z_t,   M_t ~ Bernoulli(p) on answer tokens
    L = -mean_t log pi(z_t | x, z~_<t),   p(s) = min(p_max s / (w S + 1), p_max) at step s of S

With probability `replace_rate` a hidden token is a random one instead of <mask>.

Deviations:
1. <mask> is an embedding of its own beside the vocabulary, trained with the model and beginning at
   the mean of the others. The official code adds a token, which the model could then write.
2. The end of an answer is not hidden (nothing is predicted from it).
3. The learning rate, which the scripts give per model, defaults to that of GSM8K with Llama 2; so
   does the schedule. p_max and <mask> are those of the MATH, MetaMath and MAmmoTH scripts.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from embodied.core.guards import check_batch
from embodied.core.phase import Phase, Recipe, Until
from embodied.core.registry import register
from embodied.core.types import Batch, Metrics, Source
from embodied.llm.learner import LanguageLearner
from embodied.llm.schedules import warm_cosine
from embodied.llm.task import TextTask

PARTS = ("answer", "question")


@dataclass(frozen=True, kw_only=True)
class MaskedThoughtConfig:
    """Fine-tuning with hidden steps; defaults of the official scripts.

    Attributes:
        updates: optimizer steps, S.
        batch_size: answers per step.
        mask_rate: p_max, the share of tokens hidden once it has risen.
        mask_warm_up: w, the share of the updates in which it rises.
        replace_rate: share of the hidden tokens that are random ones instead of <mask>.
        part: what is hidden: answer, or question as an ablation.
        hide_labels: leave hidden tokens out of the loss too, as an ablation.
        lr: AdamW learning rate.
        weight_decay: decoupled.
        warm_up: share of the updates in which the learning rate rises.
        final_lr: share of the learning rate at the end of the cosine.
        clip_norm: of the gradient.
        eval_every: updates between evaluations; 0 evaluates at the end only.
    """

    updates: int = 1000
    batch_size: int = 64
    mask_rate: float = 0.2
    mask_warm_up: float = 0.66
    replace_rate: float = 0.0
    part: str = "answer"
    hide_labels: bool = False
    lr: float = 1e-5
    weight_decay: float = 0.0
    warm_up: float = 0.01
    final_lr: float = 0.0
    clip_norm: float = 1.0
    eval_every: int = 0

    def __post_init__(self) -> None:
        if self.part not in PARTS:
            raise ValueError(f"part must be one of {', '.join(PARTS)}, got {self.part!r}")
        for name in ("mask_rate", "mask_warm_up", "replace_rate"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie in [0, 1], got {getattr(self, name)}")


def mask_rate(update: int, total: int, most: float, warm_up: float) -> float:
    """p at an update: rises linearly over a share of the run, then stays."""
    return min(most * update / (total * warm_up + 1), most)


def hidden(
    ids: Tensor,
    allowed: Tensor,
    rate: float,
    replace_rate: float,
    vocabulary: int,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Which tokens are hidden, and what is read there.

    Args:
        ids: [B, L].
        allowed: [B, L] bool, tokens that may be hidden.
        rate: p.
        replace_rate: share of the hidden ones that become random tokens.
        vocabulary: ids there are.
        generator: draws all of it.

    Returns:
        ids [B, L] with the random ones in them, masked [B, L] where <mask> is read, and
        chosen [B, L], all hidden places.
    """
    shape, where = ids.shape, {"device": ids.device, "generator": generator}
    chosen = allowed & (torch.rand(shape, **where) < rate)
    random = chosen & (torch.rand(shape, **where) < replace_rate)
    ids = torch.where(random, torch.randint(vocabulary, shape, **where), ids)
    return ids, chosen & ~random, chosen


class MaskedThought(LanguageLearner):
    """A language model fitted by maximum likelihood to answers it reads in part."""

    def __init__(self, config: MaskedThoughtConfig, task: TextTask) -> None:
        self.config = config
        embedding = task.model.network.get_input_embeddings().weight.detach()
        self.mask = nn.ParameterList([embedding.mean(0)])
        super().__init__(
            "masked_thought",
            task,
            config.lr,
            extra=list(self.mask),
            weight_decay=config.weight_decay,
            clip_norm=config.clip_norm,
            decoupled=True,
        )
        self.keep(mask=self.mask)

    def update(self, source: Source) -> Metrics:
        """One step on one batch of answers."""
        c, done = self.config, self.updates
        batch = dict(source.next(c.batch_size))
        check_batch(batch)
        rate = mask_rate(done, c.updates, c.mask_rate, c.mask_warm_up)
        embeddings = self._read(batch, rate) if rate else None
        warm_up = round(c.warm_up * c.updates)
        lr = c.lr * warm_cosine(done, c.updates, warm_up, c.final_lr)
        return {**self.imitate(batch, lr, embeddings), "mask_rate": rate}

    def _read(self, batch: Batch, rate: float) -> Tensor:
        """Embeddings of prompt and completion, [B, P + T, D], some of them hidden."""
        c, embed = self.config, self.model.network.get_input_embeddings()
        ids = torch.cat([batch["prompt"], batch["completion"]], 1)
        prompt, answer = batch["prompt_mask"], batch["mask"]
        if c.part == "answer":
            prompt = torch.zeros_like(prompt)
            answer = answer & (batch["completion"] != self.model.end)
        else:
            answer = torch.zeros_like(answer)
        allowed = torch.cat([prompt, answer], 1)
        ids, masked, chosen = hidden(
            ids, allowed, rate, c.replace_rate, embed.num_embeddings, self.generator
        )
        if c.hide_labels:
            batch["target"] = batch["mask"] & ~chosen[:, prompt.shape[1] :]
        return torch.where(masked[..., None], self.mask[0].to(embed.weight.dtype), embed(ids))


def recipe(config: MaskedThoughtConfig, task: TextTask) -> Recipe:
    """One phase on the demonstrations."""
    until = Until("updates", config.updates)
    learner = MaskedThought(config, task)
    return Recipe(
        [Phase("fit", learner, task.demonstrations(), until, eval_every=config.eval_every)]
    )


register(
    "masked_thought",
    config=MaskedThoughtConfig,
    learner=MaskedThought,
    recipe=recipe,
    paper="https://arxiv.org/abs/2403.02178",
    summary="Fine-tuning on reasoning whose steps are hidden at random where they are read",
    updates=("model", "mask", "optimizer", "generator", "updates"),
)
