"""A value before each token of a completion: a language model's body with a scalar head."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from policies.lm import LanguageModel, positions


class TokenValues(nn.Module):
    """V(q, o_<t) of each position of a completion.

    Args:
        model: its body is copied, with its weights.
        generator: draws the head; its outputs begin near zero.
    """

    def __init__(self, model: LanguageModel, generator: torch.Generator) -> None:
        super().__init__()
        self.body = copy.deepcopy(model.network.base_model).requires_grad_(True)
        width = model.network.config.hidden_size
        self.head = nn.Linear(width, 1, device=model.device)
        with torch.no_grad():
            weight = torch.randn(1, width, generator=generator)
            self.head.weight.copy_(weight * (width + 1) ** -0.5)
            self.head.bias.zero_()

    def forward(
        self, prompt: Tensor, prompt_mask: Tensor, completion: Tensor, mask: Tensor
    ) -> Tensor:
        """Values: [B, T]; see `LanguageModel.logits` for the arguments."""
        attention = torch.cat([prompt_mask, mask], 1).long()
        hidden = self.body(
            input_ids=torch.cat([prompt, completion], 1),
            attention_mask=attention,
            position_ids=positions(attention),
            use_cache=False,
        ).last_hidden_state
        before = hidden[:, prompt.shape[1] - 1 : -1]
        return self.head(before.to(self.head.weight.dtype))[..., 0]
