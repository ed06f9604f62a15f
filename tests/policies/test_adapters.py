"""LoRA: small weights, snapshots on shared ones, exact gradients."""

import pytest
import torch

pytest.importorskip("peft")

from embodied.core.types import UserError
from embodied.llm.dpo import DPO, DPOConfig
from policies.adapters import adapt
from policies.lm import load
from tests import tiny_language


def adapted(seed=0, rank=2, **options):
    generator = torch.Generator().manual_seed(seed)
    return adapt(tiny_language.model(), generator, rank=rank, alpha=4.0, **options)


def logits(model, batch):
    names = ("prompt", "prompt_mask", "completion", "mask")
    return model.logits(*(batch[name] for name in names))


def test_nothing_changes_at_first_and_only_the_matrices_are_trained():
    batch, plain, model = tiny_language.Batches().next(4), tiny_language.model(), adapted()
    torch.testing.assert_close(logits(model, batch), logits(plain, batch))
    count = sum(p.numel() for p in model.network.parameters())
    assert 0 < count < 0.8 * sum(p.numel() for p in plain.network.parameters())
    logits(model, batch).sum().backward()
    assert all(p.requires_grad and p.grad is not None for p in model.network.parameters())
    assert {k.split("/")[-2] for k in model.network.weights} == {"lora_A", "lora_B"}


def test_a_draw_is_that_of_its_generator():
    first, again, other = (adapted(seed).network.state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[k], again[k]) for k in first)
    assert any(not torch.equal(first[k], other[k]) for k in first)


def test_snapshots_share_the_weights_and_stay_as_they_were():
    batch, model = tiny_language.Batches().next(4), adapted()
    with torch.no_grad():
        for p in model.network.parameters():
            p += 0.1
    before = logits(model, batch).detach()
    snapshot = model.frozen_copy()
    assert not any(p.requires_grad for p in snapshot.network.parameters())
    assert snapshot.network.host is model.network.host
    loss = logits(model, batch).sum()  # its gradient is taken after the snapshot has run
    with torch.no_grad():
        torch.testing.assert_close(logits(snapshot, batch), before)
    loss.backward()
    assert all(p.grad.abs().sum() > 0 for p in model.network.parameters())
    with torch.no_grad():
        for p in model.network.parameters():
            p.zero_()
    torch.testing.assert_close(logits(snapshot, batch), before)
    assert not torch.allclose(logits(model, batch), before)


def test_a_learner_keeps_the_matrices_alone(tmp_path):
    def learner():
        task = tiny_language.task()
        task.model = adapted()
        return DPO(DPOConfig(batch_size=4, lr=1e-2), task)

    first = learner()
    first.update(tiny_language.Batches(rows=2))
    state = first.state_dict()
    assert state["model"].keys() == state["reference"].keys()
    assert all("lora" in key for key in state["model"])
    assert any(not torch.equal(state["model"][k], state["reference"][k]) for k in state["model"])
    second = learner()
    second.load_state_dict(state)
    first.update(tiny_language.Batches(1, rows=2))
    second.update(tiny_language.Batches(1, rows=2))
    again = second.state_dict()
    for name, value in first.state_dict()["model"].items():
        assert torch.equal(value, again["model"][name])


def test_layers_that_are_not_there():
    with pytest.raises(UserError, match=r"lora.targets=nowhere"):
        adapted(targets="nowhere")


def test_the_adapter_is_written_as_peft_reads_it(tmp_path):
    import peft

    model, batch = adapted(), tiny_language.Batches().next(4)
    with torch.no_grad():
        for p in model.network.parameters():
            p += 0.05
    model.save(tmp_path)
    folder = tmp_path / "trained" if (tmp_path / "trained").exists() else tmp_path
    read = peft.PeftModel.from_pretrained(tiny_language.model().network, folder)
    ids = torch.cat([batch["prompt"], batch["completion"]], 1)
    with torch.no_grad():
        torch.testing.assert_close(read(input_ids=ids).logits, model.network(input_ids=ids).logits)


def test_merged_weights_answer_alike(tmp_path):
    model = adapted()
    for parameter in model.network.parameters():
        if parameter.requires_grad:
            parameter.data.normal_(0, 0.3, generator=torch.Generator().manual_seed(0))
    ids = torch.arange(2, 12)[None]
    with torch.no_grad():
        expected = model.network(input_ids=ids).logits
    model.network = model.network.merged()
    model.save(tmp_path / "merged")
    with torch.no_grad():
        found = load(tmp_path / "merged").network(input_ids=ids).logits
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
