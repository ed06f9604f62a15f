"""The proof of self-rewarding PPO: a linear softmax, where its optimum is known in closed form."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from embodied.core.seeding import Streams
from embodied.llm.self_rewarding_ppo import coherent_reward
from embodied.proofs.runs import Experiment
from embodied.report.page import Gate, Section

CLASSES, WIDTH, SHOWN, PROMPTS, TEST = 5, 12, 30, 300, 4000
LR, LONG = 0.15, 400
SETTINGS = ((4, 0.0), (8, 0.0), (8, 0.2), (20, 0.2), (60, 0.0))
SEEDS = 20


def experiments(method: str) -> dict[str, tuple[Experiment, int]]:
    """Experiments of the method and their seeds."""
    return {"linear": (linear, SEEDS)}


def linear(seeds: int, processes: int) -> list[Section]:
    """Short and long fine-tuning, and the policy gradient that follows it."""
    found = {each: np.array([_arms(seed, *each) for seed in range(seeds)]) for each in SETTINGS}
    gain = found[8, 0.0][:, 3] - found[8, 0.0][:, 1]
    wins, error = (gain > 0).mean(), max(a[:, 6].max() for a in found.values())
    permuted = {each: (found[each][:, 4] - found[each][:, 1]).mean() for each in SETTINGS[:2]}
    entropy = max(a[:, 5].max() for a in found.values())
    gates = [
        Gate("8 updates, clean: mean gain over SFT at least 0.04", f"{gain.mean():.3f}",
             bool(gain.mean() >= 0.04)),
        Gate("and ahead in at least 90 % of the seeds", f"{wins:.0%}", bool(wins >= 0.9)),
        Gate("the reward of another answer (permuted): below SFT after 4 and after 8 updates",
             ", ".join(f"{x:+.3f}" for x in permuted.values()), max(permuted.values()) < 0),
        Gate("without the penalty the entropy falls below 0.1", f"{entropy:.3f}", entropy < 0.1),
        Gate("the optimum is theta_sft + (theta_sft - theta_pt) / c, to 0.001 in every probability",
             f"{error:.1e}", error < 1e-3),
    ]  # fmt: skip
    rows = [
        [str(updates), f"{noise}", *(f"{x:.3f}" for x in a.mean(0)[:5]),
         f"{int((a[:, 3] > a[:, 1]).sum())} of {seeds}"]
        for (updates, noise), a in found.items()
    ]  # fmt: skip
    text = (
        f"{CLASSES} answers to prompts of {WIDTH} features, {SHOWN} demonstrations, {PROMPTS} "
        "prompts without any, c = 1. The pretrained weights are a noisy part of the true rule. The "
        "exact expected gradient of E[r] - c KL(pi, pi_sft) is followed to its end, the reward "
        f"being the method's own function; accuracy on {TEST} prompts, seeds 0 to {seeds - 1}. It "
        "helps where fine-tuning was short and hurts where it had converged; longer fine-tuning "
        f"on the same demonstrations ({LONG} updates) is better as long as they are clean."
    )
    columns = ["updates of SFT", "wrong labels", "pretrained", "SFT", "longer SFT",
               "self-rewarding", "permuted reward", "ahead of SFT"]  # fmt: skip
    return [Section("Extrapolation", text, columns, rows, None, gates)]


def _arms(seed: int, updates: int, noise: float) -> list[float]:
    """Accuracies of pt, SFT, longer SFT, ours and permuted; entropy without KL; distance."""
    generator = Streams(seed).torch("linear")

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    rule = normal(WIDTH, CLASSES)
    pretrained = 0.15 * rule + 0.5 * normal(WIDTH, CLASSES)
    shown, prompts, test = normal(SHOWN, WIDTH), normal(PROMPTS, WIDTH), normal(TEST, WIDTH)
    label = (shown @ rule).argmax(-1)
    wrong = torch.rand(SHOWN, generator=generator) < noise
    other = torch.randint(CLASSES, (SHOWN,), generator=generator)
    label = torch.where(wrong, other, label)
    tuned, longer = (_fitted(pretrained, shown, label, n) for n in (updates, LONG))
    ours = _improved(tuned, pretrained, prompts, 1.0, lambda reward: reward)
    permuted = _improved(tuned, pretrained, prompts, 1.0, lambda reward: reward.roll(1, -1))
    free = _improved(tuned, pretrained, prompts, 0.0, lambda reward: reward)
    log_p = (prompts @ free).log_softmax(-1)
    expected = (prompts @ (2 * tuned - pretrained)).softmax(-1)
    target = (test @ rule).argmax(-1)
    accuracies = [
        float(((test @ weight).argmax(-1) == target).double().mean())
        for weight in (pretrained, tuned, longer, ours, permuted)
    ]
    distance = ((prompts @ ours).softmax(-1) - expected).abs().max()
    return [*accuracies, float(-(log_p.exp() * log_p).sum(-1).mean()), float(distance)]


def _fitted(weight: Tensor, inputs: Tensor, label: Tensor, updates: int) -> Tensor:
    """Gradient descent on the likelihood."""
    weight = weight.clone().requires_grad_(True)
    for _ in range(updates):
        (gradient,) = torch.autograd.grad(F.cross_entropy(inputs @ weight, label), weight)
        weight = (weight - LR * gradient).detach().requires_grad_(True)
    return weight.detach()


def _improved(
    tuned: Tensor,
    pretrained: Tensor,
    prompts: Tensor,
    coefficient: float,
    change: Callable[[Tensor], Tensor],
) -> Tensor:
    """The maximum of E[r] - c KL(pi, pi_sft) over the prompts, from the tuned weights."""
    after, before = ((prompts @ w).log_softmax(-1) for w in (tuned, pretrained))
    flat = [each.reshape(-1, 1) for each in (after, before)]
    reward = change(coherent_reward(*flat, torch.ones_like(flat[0])).reshape(after.shape))
    weight = tuned.clone().requires_grad_(True)
    optimizer = torch.optim.LBFGS(
        [weight], max_iter=500, tolerance_change=1e-14, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        optimizer.zero_grad()
        log_p = (prompts @ weight).log_softmax(-1)
        value = -(log_p.exp() * (reward - coefficient * (log_p - after))).sum(-1).mean()
        value.backward()
        return value

    optimizer.step(loss)
    return weight.detach()
