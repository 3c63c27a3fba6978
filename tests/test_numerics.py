"""Numbers that are not finite: the run stops before the step and says where they come from."""

import pytest
import torch
from launching import small
from torch import nn

from detrkit.errors import NonFiniteError
from detrkit.training.loop import Trainer
from detrkit.training.numerics import first_module, is_finite, origin


class Root(nn.Module):
    """NaN for negative numbers, as a part that was written in a hurry."""

    def forward(self, x):
        return x.sqrt()


class Pair(nn.Module):
    """Gives a mapping of a list and a tuple."""

    def forward(self, x, *, factor):
        return {"scaled": [x * factor], "rest": (x, None, "text")}


@pytest.mark.fast
def test_the_innermost_module_is_named():
    model = nn.Sequential(nn.Identity(), nn.Sequential(nn.Identity(), Root()), nn.Linear(2, 2))
    assert first_module(model, torch.ones(1, 2)) is None
    assert first_module(model, -torch.ones(1, 2)) == "1.1 (Root)"
    assert first_module(model, torch.full((1, 2), float("nan"))) is None
    assert not any(module._forward_hooks for module in model.modules())
    assert first_module(Root(), -torch.ones(1)) == "the model (Root)"


@pytest.mark.fast
def test_tensors_are_found_within_whatever_modules_take_and_give():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.pair = Pair()

        def forward(self, x):
            return self.pair(x, factor=torch.tensor(float("inf")))["scaled"][0] if x[0] > 1 else self.pair(x, factor=1)

    assert not is_finite({"a": [torch.ones(1), (torch.tensor(float("nan")),)]})
    assert is_finite({"a": [torch.ones(1), None, "text"], "b": torch.tensor([True])})
    assert first_module(Model(), torch.full((1,), 3e38)) == "the model (Model)"  # the factor was no better


@pytest.mark.fast
def test_weights_inputs_and_gradients_are_told_apart():
    model, bad = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), torch.full((1, 2), float("inf"))
    assert "outputs are finite" in origin(model, torch.ones(1, 2))
    assert "the inputs are not finite" in origin(model, bad)
    model[0].weight.grad, model[1].bias.grad = torch.full((2, 2), float("nan")), torch.ones(2)
    assert "going backwards, the first gradient that is not is that of '0.weight'" in origin(model, torch.ones(1, 2))
    with torch.no_grad():
        model[1].bias[0] = float("nan")
    assert "the weights '1.bias' are not finite already" in origin(model, torch.ones(1, 2))


def spoiled(folder, spoil, **changes):
    """What a run says whose model was spoiled, and whether its weights are what they were."""
    trainer = Trainer(*small(eval_every=0, **changes), folder, resume=False)
    spoil(trainer.model)
    before = {name: p.clone() for name, p in trainer.model.named_parameters()}
    with pytest.raises(NonFiniteError) as caught:
        trainer.run_to_end()
    assert "\n" not in str(caught.value)
    unchanged = all(torch.equal(p, before[name]) for name, p in trainer.model.named_parameters())
    return caught.value, unchanged


def test_a_part_that_gives_nan_is_named_before_the_step(tmp_path):
    def spoil(model):
        model.encoder.layers[0].ffn = nn.Sequential(nn.Identity(), Root())

    error, unchanged = spoiled(tmp_path, spoil)
    assert "first output that is not finite is that of encoder.layers.0.ffn.1 (Root)" in str(error)
    assert "step 0, images [" in str(error)
    assert "cost" in error.field
    assert unchanged


def test_a_part_that_training_alone_runs_is_named_too(tmp_path):
    class Crowded(nn.Module):
        def forward(self, x):
            return x if x.shape[1] == 6 else x * float("nan")  # more than the six queries: those of denoising

    def spoil(model):
        model.decoder.layers[0].ffn = Crowded()

    error, _ = spoiled(tmp_path, spoil, preset="dino_tiny")
    assert "first output that is not finite is that of decoder.layers.0.ffn (Crowded)" in str(error)


@pytest.mark.parametrize("accumulate", [1, 3])
def test_a_gradient_that_is_not_finite_is_refused_before_the_step(tmp_path, accumulate):
    def spoil(model):
        model.bbox_embed.layers[0].weight.register_hook(lambda gradient: gradient * float("nan"))

    error, unchanged = spoiled(tmp_path, spoil, accumulate=accumulate)
    assert error.field == "gradient"
    assert "that of 'bbox_embed.layers.0.weight'" in str(error)
    assert unchanged


def test_weights_that_are_not_finite_are_named(tmp_path):
    def spoil(model):
        with torch.no_grad():
            model.class_embed.bias[0] = float("nan")

    assert "the weights 'class_embed.bias' are not finite already" in str(spoiled(tmp_path, spoil)[0])
