"""Monte-Carlo returns of finished episodes."""

from __future__ import annotations

import numpy as np


def monte_carlo_returns(
    rewards: np.ndarray,
    masks: np.ndarray,
    discount: float,
    *,
    failure_reward: float | None = None,
) -> np.ndarray:
    """R_t = r_t + gamma m_t R_{t+1} over one episode, R after the last step being 0.

    Args:
        rewards: [T] transformed rewards.
        masks: [T] 0 where the task terminated, else 1.
        discount: gamma.
        failure_reward: step reward of a sparse task. An episode that got nothing else would go on
            failing, so all its returns are failure_reward / (1 - gamma) (Cal-QL, Nakamoto et al.
            2023, official code). Compared with a tolerance, since scaling leaves float noise.

    Returns:
        [T] float32 returns. A truncated episode's tail is missing: too high for negative dense
        rewards, as in the official code.
    """
    rewards = np.asarray(rewards, np.float64)
    if (
        failure_reward is not None
        and np.allclose(rewards, failure_reward, rtol=1e-5, atol=1e-6)
        and masks[-1] > 0
    ):
        return np.full(len(rewards), failure_reward / (1.0 - discount), np.float32)
    returns = np.empty(len(rewards))
    tail = 0.0
    for t in range(len(rewards) - 1, -1, -1):
        tail = rewards[t] + discount * masks[t] * tail
        returns[t] = tail
    return returns.astype(np.float32)
