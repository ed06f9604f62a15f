"""What every method that trains a language model in place shares: answering, stepping, keeping."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from embodied.core import ranks
from embodied.core.guards import check_batch, check_loss
from embodied.core.optim import Adam
from embodied.core.types import Batch, Metrics, State
from embodied.llm.collector import LanguagePolicy
from embodied.llm.task import TextTask
from embodied.objectives.likelihood import masked_mean, nll_loss, token_log_probs
from embodied.objectives.policy_gradient import exact_kl, kl_estimate
from policies.lm import LanguageModel
from policies.sampling import Sampling, generate
from policies.shared_prompts import logits


class LanguageLearner:
    """A language model, its optimizer and its sampler; methods add an `update`.

    Args:
        name: of the method; names its random stream.
        task: what the model is and how long its answers are.
        lr: learning rate of Adam.
        temperature: at which answers are drawn, and at which the likelihood of a token is taken.
        extra: weights that are stepped with the model's; the method keeps them.
        adam: further options of `Adam`.

    Attributes:
        model: trained in place.
        optimizer: of the model's trainable weights.
        generator: draws answers and whatever else the method draws.
        updates: optimizer steps so far.
    """

    def __init__(
        self,
        name: str,
        task: TextTask,
        lr: float,
        *,
        temperature: float = 1.0,
        extra: Sequence[nn.Parameter] = (),
        **adam: Any,
    ) -> None:
        self.model, self.longest, self.temperature = task.model, task.longest, temperature
        trainable = [p for p in self.model.network.parameters() if p.requires_grad]
        self.optimizer = Adam("model", [*trainable, *extra], lr, **adam)
        stream = f"{name}/sample" + (f"/{ranks.index}" if ranks.index else "")
        self.generator = task.streams.torch(stream, self.model.device)
        self.engine = task.engine or generate
        self.updates = 0
        self._kept: dict[str, nn.Module | Adam] = {}
        self.keep(model=self.model.network, optimizer=self.optimizer)

    def keep(self, **parts: nn.Module | Adam) -> None:
        """Make networks and optimizers part of the checkpoint, each under its name."""
        self._kept |= parts

    def frozen(self, name: str) -> LanguageModel:
        """A copy of the model as it is now, without gradients and part of the checkpoint."""
        copy = self.model.frozen_copy()
        self.keep(**{name: copy.network})
        return copy

    def policy(self, deterministic: bool = False) -> LanguagePolicy:
        """The current model; it follows later updates."""
        sampling = Sampling(self.longest, temperature=0.0 if deterministic else self.temperature)
        engine = generate if deterministic else self.engine
        return LanguagePolicy(self.model, sampling, self.generator, engine)

    def log_probs(
        self,
        batch: Batch,
        model: LanguageModel | None = None,
        embeddings: Tensor | None = None,
    ) -> Tensor:
        """log pi of each token of a batch's completions: [B, T].

        Args:
            batch: prompt [B, P], prompt_mask, completion [B, T], mask.
            model: a frozen one, without gradient; the one that is trained if None.
            embeddings: [B, P + T, D], read in place of those of the batch's tokens.
        """
        inputs = (batch["prompt"], batch["prompt_mask"], batch["completion"], batch["mask"])
        with torch.set_grad_enabled(model is None and torch.is_grad_enabled()):
            found = logits(model or self.model, *inputs, embeddings)
            return token_log_probs(found, batch["completion"], self.temperature)

    @staticmethod
    def tokens(mask: Tensor) -> Tensor:
        """How many tokens a batch has, as the mean over ranks: what sums over tokens divide by."""
        return ranks.mean(mask.sum())

    def imitate(
        self, batch: Batch, lr: float | None = None, embeddings: Tensor | None = None
    ) -> Metrics:
        """One step of maximum likelihood on a batch's completions.

        Args:
            batch: prompt, prompt_mask, completion, mask, weight [B]; target [B, T] if not every
                token is one.
            lr: the learning rate from now on, or None to leave it.
            embeddings: [B, P + T, D], read in place of those of the batch's tokens.
        """
        check_batch(batch)
        mask = batch["mask"]
        log_prob = self.log_probs(batch, embeddings=embeddings)
        target = batch.get("target", mask)
        loss = nll_loss(log_prob, target, batch["weight"], self.tokens(target))
        norm = self.step(loss, lr)
        return {
            "loss": loss.detach(),
            "grad_norm": norm,
            "token_probability": masked_mean(log_prob.detach().exp(), mask),
        }

    def divergence(
        self, batch: Batch, reference: LanguageModel, kind: str = "exact"
    ) -> tuple[Tensor, Tensor]:
        """log pi of each token, and KL(pi, reference) where it was drawn: [B, T] each.

        Args:
            batch: see `log_probs`.
            reference: a frozen model.
            kind: exact, over all symbols, or an estimate from the drawn ones: k1, k2, k3.
        """
        inputs = (batch["prompt"], batch["prompt_mask"], batch["completion"], batch["mask"])
        tokens, found = batch["completion"], logits(self.model, *inputs)
        with torch.no_grad():
            ref = logits(reference, *inputs)
        log_prob = token_log_probs(found, tokens, self.temperature)
        if kind == "exact":
            return log_prob, exact_kl(found / self.temperature, ref / self.temperature)
        ref_log_prob = token_log_probs(ref, tokens, self.temperature)
        return log_prob, kl_estimate(log_prob, ref_log_prob, kind)

    def step(self, loss: Tensor, lr: float | None = None) -> Tensor:
        """One optimizer step on a loss, checked before anything changes.

        Args:
            loss: scalar.
            lr: the learning rate from now on, or None to leave it.

        Returns:
            The gradient's norm before clipping.

        Raises:
            NonFinite: the loss, the gradient or a weight is not finite.
        """
        check_loss("model", ranks.mean(loss))  # all ranks skip a step, or none
        self.optimizer.zero_grad()
        loss.backward()
        if lr is not None:
            self.optimizer.lr = lr
        norm = self.optimizer.step()
        self.updates += 1
        return norm

    def state_dict(self) -> State:
        """Everything kept, the sampler and the count of updates."""
        kept = {name: dict(part.state_dict()) for name, part in self._kept.items()}
        return {**kept, "generator": self.generator.get_state(), "updates": self.updates}

    def load_state_dict(self, state: State) -> None:
        """Take over a state of the same configuration."""
        for name, part in self._kept.items():
            part.load_state_dict(state[name])
        self.generator.set_state(state["generator"].cpu())
        self.updates = int(state["updates"])
