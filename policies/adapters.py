"""LoRA by peft: a language model whose trained weights, snapshots and checkpoints are small.

Hu et al. 2021, https://arxiv.org/abs/2106.09685. The model's own weights are frozen and held once,
however many snapshots there are: a reference or an opponent is another pair of small matrices on
them, switched on while it runs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from embodied.core.types import UserError
from policies.lm import LanguageModel

TRAINED = "trained"


class Adapted(nn.Module):
    """A network of transformers with one of its adapters; the adapter is all it holds.

    Args:
        host: of peft, with every adapter.
        name: which.
    """

    def __init__(self, host: Any, name: str) -> None:
        super().__init__()
        self.name = name
        object.__setattr__(self, "host", host)  # not a submodule: its weights are not ours
        mark = f".{name}."
        self.weights = nn.ParameterDict(
            {
                key.replace(mark, ".").replace(".", "/"): parameter
                for key, parameter in host.named_parameters()
                if mark in key
            }
        )

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.host.get_base_model(), name)

    @contextlib.contextmanager
    def _on(self) -> Iterator[None]:
        if self.name == TRAINED:  # it is on whenever no other is
            yield
            return
        self.host.set_adapter(self.name, inference_mode=True)
        try:
            yield
        finally:
            self.host.set_adapter(TRAINED)

    def forward(self, **inputs: Any) -> Any:
        """As the network's own, with this adapter."""
        with self._on():
            return self.host(**inputs)

    def frozen_copy(self) -> Adapted:
        """Another adapter on the same weights, equal to this one now, without gradients."""
        name = f"frozen{len(self.host.peft_config)}"
        self.host.add_adapter(name, self.host.peft_config[TRAINED])
        made = Adapted(self.host, name)
        self.host.set_adapter(TRAINED)
        made.requires_grad_(False)
        made.load_state_dict(self.state_dict())
        return made.eval()

    def merged(self) -> Any:
        """The network with this adapter worked into its weights; the host is of no use then."""
        return self.host.merge_and_unload(adapter_names=[self.name])

    def save_pretrained(self, folder: Any) -> None:
        """Write the adapter as peft reads it."""
        self.host.save_pretrained(folder, selected_adapters=[self.name])


def adapt(
    model: LanguageModel,
    generator: torch.Generator,
    *,
    rank: int,
    alpha: float,
    targets: str = "all-linear",
) -> LanguageModel:
    """Freeze a model and give it low-rank matrices to train: W x + alpha / rank B A x.

    A is drawn and B is zero, so that nothing changes at first.

    Args:
        model: its network is taken over.
        generator: draws A.
        rank: of the matrices.
        alpha: scale.
        targets: names of the layers, with commas between them, or all-linear.

    Raises:
        ImportError: peft is not installed.
        UserError: the network has no such layers.
    """
    try:
        import peft
    except ImportError as error:
        raise ImportError(
            'lora.rank needs peft, which is missing: pip install "embodied[lora]"', name="peft"
        ) from error
    layers = targets if targets == "all-linear" else [part.strip() for part in targets.split(",")]
    config = peft.LoraConfig(r=rank, lora_alpha=alpha, target_modules=layers)
    try:
        host = peft.get_peft_model(model.network, config, adapter_name=TRAINED)
    except ValueError as error:
        raise UserError(f"lora.targets={targets}: {error}") from error
    network = Adapted(host, TRAINED)
    with torch.no_grad():
        for name, parameter in network.weights.items():
            if "lora_A" in name:
                bound = parameter.shape[1] ** -0.5
                fresh = torch.rand(parameter.shape, generator=generator, device=generator.device)
                parameter.copy_(bound * (2.0 * fresh - 1.0))
    return LanguageModel(network.eval(), model.tokenizer)
