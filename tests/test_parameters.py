"""Parts picked by the names of their parameters: frozen, or at a rate of their own."""

import pytest
import torch
from launching import small
from torch import nn

import detrkit
from detrkit.errors import ConfigError
from detrkit.training.loop import Trainer, check
from detrkit.training.optimizer import make_optimizer
from detrkit.training.parameters import batch_norms, freeze, matches

pytestmark = pytest.mark.fast


@pytest.mark.parametrize(
    ("pattern", "name", "expected"),
    [
        ("encoder", "encoder.layers.0.norm1.weight", True),
        ("encoder", "encoder_norm.weight", False),
        ("layers.0", "decoder.layers.0.norm1.weight", True),
        ("layers.1", "decoder.layers.11.norm1.weight", False),
        ("norm*", "decoder.layers.0.norm1.weight", True),
        ("decoder.*.bias", "decoder.layers.0.norm1.bias", True),
        ("class_embed.bias", "class_embed.bias", True),
        ("bias", "class_embed.bias", True),
        ("Class_embed", "class_embed.bias", False),
        ("coder", "encoder.layers.0.norm1.weight", False),
    ],
)
def test_pattern(pattern, name, expected):
    assert matches(name, pattern) is expected


def rates(**changes):
    """Learning rate of each trained parameter by name."""
    detector, train = small(lr=1e-3, lr_backbone=1e-4, **changes)
    model = detrkit.build(detector)
    rate = {id(p): group["lr"] for group in make_optimizer(model, train).param_groups for p in group["params"]}
    return {name: rate[id(p)] for name, p in model.named_parameters()}


def test_factors_multiply_the_rates_of_their_parts():
    plain, changed = rates(), rates(lr_factors="decoder=0.5, norm*=0, backbone=2,decoder.norm=3")
    assert plain.keys() == changed.keys()
    for name in plain:
        factor = 3 if "decoder.norm." in name else 0 if ".norm" in f".{name}" else 1
        if factor == 1:
            factor = 2 if name.startswith("backbone.") else 0.5 if name.startswith("decoder.") else 1
        if name.startswith("backbone.") and ".norm" in name:
            factor = 2
        assert changed[name] == pytest.approx(plain[name] * factor), name


def test_a_pattern_that_matches_nothing_is_met_with_the_nearest_name():
    model = detrkit.build(small()[0])
    with pytest.raises(ConfigError, match=r"^lr_factors: 'clas_embed' matches no .*did you mean 'class_embed'\?"):
        make_optimizer(model, small(lr_factors="decoder=2,clas_embed=0.1")[1])
    with pytest.raises(ConfigError, match=r"^freeze: 'backbon' matches no trained parameter; did you mean 'backbone'"):
        freeze(model, ["encoder", "backbon"])
    assert all(p.requires_grad for p in model.parameters())
    with pytest.raises(ConfigError, match="leaves nothing to train"):
        freeze(model, ["*"])
    for changes in (
        {"lr_factors": "nothing=1"},
        {"freeze": "nothing"},
        {"freeze": "encoder", "lr_factors": "encoder=2"},
    ):
        with pytest.raises(ConfigError, match="matches no trained parameter"):
            check(*small(**changes))


@pytest.mark.parametrize("text", ["", ",", "decoder", "decoder=", "=2", "decoder=fast", "decoder=-1", "decoder=inf"])
def test_factors_that_are_none_are_refused(text):
    with pytest.raises(ConfigError, match=r"lr_factors: got .*expected NAME=FACTOR"):
        small(lr_factors=text)


def test_frozen_parts_rest_whole(tmp_path, capsys):
    """Weights, and the statistics of batch norms."""
    detector, train = small(eval_every=0, steps=2, freeze="backbone.stem", lr=1e-2)
    trainer = Trainer(detector, train, tmp_path / "run", resume=False)
    before = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
    trainer.run_to_end()
    changed = {name for name, tensor in trainer.model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed
    assert not any(name.startswith("backbone.stem.") for name in changed)
    assert "frozen: backbone.stem" in capsys.readouterr().err


def test_batch_norms_of_frozen_parts_keep_their_statistics(tmp_path):
    trainer = Trainer(*small(eval_every=0, steps=2), tmp_path, resume=False)
    norms = trainer.model.neck.projection = nn.Sequential(
        trainer.model.neck.projection, nn.BatchNorm2d(32).requires_grad_(False), nn.BatchNorm2d(32)
    )
    trainer.resting_norms = [norms[1]]
    trainer.run_to_end()
    assert norms[1].running_mean.abs().max() == 0
    assert norms[2].running_mean.abs().max() > 0

    model = nn.Sequential(nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)), nn.BatchNorm2d(3))
    assert freeze(model, ["0"]) == [model[0][1]]
    assert batch_norms(model) == [model[0][1], model[1]]
