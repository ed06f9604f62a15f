"""Causal language models of transformers: loading, small ones from a config, logits.

Batches are laid out as prompt and completion: prompts [B, P] padded on the left, completions [B, T]
on the right, each with a mask that is 1 on real tokens.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from embodied.core.types import UserError


def hub() -> Any:
    """The transformers package, imported on first use.

    Raises:
        ImportError: it is not installed.
    """
    try:
        import transformers
    except ImportError as error:
        raise ImportError(
            'language models need transformers, which is missing: pip install "embodied[llm]"',
            name="transformers",
        ) from error
    transformers.utils.logging.disable_progress_bar()
    return transformers


@dataclass
class LanguageModel:
    """A causal model with its tokenizer.

    Attributes:
        network: of transformers, without dropout; maps token ids to logits.
        tokenizer: of transformers.
    """

    network: nn.Module
    tokenizer: Any

    def __post_init__(self) -> None:
        _fuse(self.network)

    @property
    def pad(self) -> int:
        """The id that fills up rows; it is always masked."""
        chosen = self.tokenizer.pad_token_id
        return self.end if chosen is None else chosen

    @property
    def end(self) -> int:
        """The id that ends a completion."""
        return self.tokenizer.eos_token_id

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.network.parameters()).device

    def frozen_copy(self) -> LanguageModel:
        """The same weights, without gradients: a reference."""
        if hasattr(self.network, "frozen_copy"):  # of adapters: it shares the rest
            return LanguageModel(self.network.frozen_copy(), self.tokenizer)
        network = copy.deepcopy(self.network).requires_grad_(False)
        return LanguageModel(network, self.tokenizer)

    def logits(
        self,
        prompt: Tensor,
        prompt_mask: Tensor,
        completion: Tensor,
        mask: Tensor,
        embeddings: Tensor | None = None,
    ) -> Tensor:
        """Logits from which each token of a completion is drawn: [B, T, V].

        The head runs on these positions alone.

        Args:
            prompt: [B, P] ids.
            prompt_mask: [B, P].
            completion: [B, T] ids.
            mask: [B, T], 1 on what may be attended to.
            embeddings: [B, P + T, D], read in place of those of prompt and completion.
        """
        attention = torch.cat([prompt_mask, mask[:, :-1]], 1).long()  # the last draws nothing
        given = embeddings is not None
        return self.network(
            input_ids=None if given else torch.cat([prompt, completion[:, :-1]], 1),
            inputs_embeds=embeddings[:, :-1] if given else None,
            attention_mask=attention,
            position_ids=positions(attention),
            use_cache=False,
            logits_to_keep=completion.shape[1],
        ).logits

    def save(self, folder: str | Path) -> None:
        """Write weights (safetensors), config and tokenizer as `from_pretrained` reads them."""
        self.network.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)


class _GELU(nn.GELU):
    """GELU by tanh; without gradients on a CPU by torch's tanh, quicker than its kernel of GELU."""

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled() or not x.is_cpu:
            return super().forward(x)
        slope = math.sqrt(2 / math.pi)
        inner = (x * x).mul_(0.044715 * slope).add_(slope).mul_(x)
        return inner.tanh_().add_(1.0).mul_(x).mul_(0.5)


def _fuse(network: nn.Module) -> None:
    """Replace GPT-2's GELU, written as eight operations."""
    slow = hub().activations.NewGELUActivation
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, slow):
                setattr(module, name, _GELU(approximate="tanh"))


def positions(attention: Tensor) -> Tensor:
    """Position of each real token among the real ones: [B, L]."""
    return (attention.cumsum(-1) - 1).clamp(min=0)


def load(name: str | Path, device: str | torch.device = "cpu", dtype: str = "float32") -> Any:
    """A `LanguageModel` from a folder or a hub id; safetensors only, and none of its code is run.

    Raises:
        UserError: there is no such model, or it has no safetensors or no tokenizer.
    """
    transformers = hub()
    options = {"trust_remote_code": False}
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(str(name), **options)
        network = transformers.AutoModelForCausalLM.from_pretrained(
            str(name), use_safetensors=True, dtype=getattr(torch, dtype), **options
        )
    except (OSError, ValueError) as error:
        first = str(error).strip().splitlines()[0]
        raise UserError(f"cannot load the language model {name}: {first}") from error
    if tokenizer.eos_token_id is None:
        raise UserError(f"the tokenizer of {name} names no end-of-sequence token")
    return LanguageModel(network.to(device).eval(), tokenizer)


def symbol_tokenizer(symbols: Sequence[str], pad: str, begin: str, end: str) -> Any:
    """A tokenizer with one id per character, in the order given.

    Raises:
        ValueError: a symbol is not one character, or is given twice.
    """
    if any(len(symbol) != 1 for symbol in symbols) or len(set(symbols)) != len(symbols):
        raise ValueError("symbols must be different single characters")
    transformers = hub()
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

    vocabulary = {symbol: number for number, symbol in enumerate(symbols)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=pad))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=pad, bos_token=begin, eos_token=end
    )


def small(
    tokenizer: Any,
    generator: torch.Generator,
    *,
    layers: int = 3,
    width: int = 64,
    heads: int = 4,
    std: float = 0.05,
    longest: int = 512,
) -> LanguageModel:
    """A decoder with random weights: pre-norm, GELU, rotary positions, untied head (GPT-NeoX).

    Args:
        tokenizer: of transformers.
        generator: draws the weights.
        layers: blocks.
        width: of the residual stream.
        heads: of attention.
        std: of the weights; biases begin at 0, norms at 1.
        longest: positions.
    """
    transformers = hub()
    config = transformers.GPTNeoXConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=4 * width,
        max_position_embeddings=longest,
        rope_parameters={
            "rope_type": "default",
            "rope_theta": 100.0,
            "partial_rotary_factor": 1.0,
        },
        use_parallel_residual=False,
        attention_bias=False,
        tie_word_embeddings=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    network = transformers.GPTNeoXForCausalLM(config)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(0.0, std, generator=generator)
            else:
                parameter.fill_(1.0 if name.endswith("weight") else 0.0)
    return LanguageModel(network.eval(), tokenizer)
