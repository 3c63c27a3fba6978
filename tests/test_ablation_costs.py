"""What variants cost: parameters, multiplications against published figures, memory and time."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torchvision.ops import roi_align

from detrkit.ablation import costs
from detrkit.ablation.costs import Macs, Workload, interleaved, macs, measure, parameters, peak_memory, ratio
from detrkit.config import DetectorConfig
from detrkit.errors import ConfigError, DetrkitError
from detrkit.model import build
from detrkit.presets import config
from detrkit.registry import REGISTRY

SMALL = DetectorConfig(
    backbone="tiny(width=8)", d_model=32, num_queries=6, num_classes=3, enc_layers=1, dec_layers=2, dim_feedforward=64,
    dropout=0.1, short_side=32, long_side=64,
)  # fmt: skip
ATTENTIONS = ("encoder_attention", "decoder_self_attention", "decoder_cross_attention")
WORKLOAD = Workload(64, 96, batch=2, objects=3)


class Wrapped(nn.Module):
    """Any function or module of images."""

    def __init__(self, function, **parts):
        super().__init__()
        self.function = function
        for name, part in parts.items():
            self.add_module(name, part)

    def forward(self, images):
        return self.function(self, images)


def tokens(images, width=32):
    """Images as tokens [B, N, width]."""
    return images.flatten(1).unflatten(1, (-1, width))


# --- parameters -------------------------------------------------------------------------------------------------------


def test_parameters_are_counted_once_and_apart():
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2, bias=False), nn.BatchNorm1d(2))
    model[1].weight.requires_grad_(False)
    assert parameters(model) == (16 + 8 + 4, 16 + 4)
    assert parameters(nn.ModuleList([model, model[0]])).total == 28


# --- multiplications --------------------------------------------------------------------------------------------------

PUBLISHED = {
    "detr_r50": {(800, 1066): 81.2, (800, 1333): 101.7, "parameters": (41_524_768, 41_302_368)},
    "detr_r50_dc5": {(800, 1066): 173.3, (800, 1333): 227.8, "parameters": (41_524_768, 41_302_368)},
    "detr_r101": {(800, 1066): 144.7, (800, 1333): 181.2, "parameters": (60_464_672, 60_242_272)},
    "detr_r101_dc5": {(800, 1066): 236.7, (800, 1333): 307.3, "parameters": (60_464_672, 60_242_272)},
}


@pytest.mark.parametrize("preset", PUBLISHED)
def test_published_models_cost_what_was_published(preset):
    with torch.device("meta"):  # weights without values
        model, expected = build(config(preset)), dict(PUBLISHED[preset])
    assert parameters(model) == expected.pop("parameters")
    assert {size: round(macs(model, *size).total / 1e9, 1) for size in expected} == expected


def test_multiplications_by_hand():
    convolution = nn.Conv2d(3, 8, 3, stride=2, padding=1)
    grouped = nn.Conv2d(3, 6, 3, padding=1, groups=3)
    assert macs(convolution, 16, 20) == Macs(8 * 10 * 8 * 3 * 9)
    assert macs(grouped, 16, 20) == Macs(16 * 20 * 6 * 9)
    assert macs(Wrapped(lambda m, x: m.linear(tokens(x)), linear=nn.Linear(32, 5)), 16, 16) == Macs(24 * 32 * 5)
    assert macs(Wrapped(lambda m, x: torch.einsum("bnd,bkd->bnk", tokens(x), tokens(x))), 16, 16) == Macs(24 * 24 * 32)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize("name", REGISTRY.builtin("attention"))
def test_every_dense_attention_counts_alike(name, training, frozen):
    model = build(SMALL.replace(**dict.fromkeys(ATTENTIONS, name))).train(training).requires_grad_(not frozen)
    reference = build(SMALL.replace(**dict.fromkeys(ATTENTIONS, "matrix")))
    assert macs(model, 64, 96) == macs(reference, 64, 96)


@pytest.mark.parametrize("training", [True, False])
def test_torch_encoder_counts_on_its_fused_path_too(training):
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 2).requires_grad_(False).train(training)
    model, n = Wrapped(lambda m, x: m.encoder(tokens(x)), encoder=encoder), 24
    assert macs(model, 16, 16) == Macs(2 * (n * (4 * 32 * 32 + 2 * 32 * 64) + 2 * n * n * 32))


def test_fused_attention_counts_scores_and_reading():
    model = Wrapped(lambda m, x: F.scaled_dot_product_attention(*[tokens(x)[:, None]] * 3))
    assert macs(model, 16, 16) == Macs(2 * 24 * 24 * 32)


def test_operators_without_a_formula_are_named():
    grid = torch.zeros(1, 4, 4, 2)
    sampling = Wrapped(lambda m, x: F.grid_sample(x, grid.to(x.device), align_corners=False))
    assert macs(sampling, 8, 8) == Macs(0, ("aten.grid_sampler_2d",))
    pooled = Wrapped(lambda m, x: roi_align(x, torch.zeros(1, 5, device=x.device), 2))
    assert macs(pooled, 8, 8) == Macs(0, ("torchvision.roi_align",))


def test_what_depends_on_values_cannot_be_counted():
    with pytest.raises(DetrkitError, match="without data"):
        macs(Wrapped(lambda m, x: x[x > 0]), 8, 8)


def test_counting_leaves_the_model_alone():
    model = build(SMALL).train()
    model.encoder.eval()
    before, modes = copy.deepcopy(model.state_dict()), [m.training for m in model.modules()]
    macs(model, 32, 32)
    assert [m.training for m in model.modules()] == modes
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert next(model.parameters()).device.type == "cpu"


# --- memory -----------------------------------------------------------------------------------------------------------


def test_memory_by_hand():
    x = torch.ones(1000, requires_grad=True)
    holder = nn.Module()
    holder.x = nn.Parameter(x.detach())
    x = holder.x

    def forward():
        kept = x.exp()  # saved for the gradient of itself
        return kept.exp().sum()

    assert peak_memory(forward, holder) == 3 * 4000 + 4
    with torch.no_grad():
        assert peak_memory(lambda: x.exp().exp().exp(), holder) == 3 * 4000  # the first has died before the third


def test_memory_sees_views_once_and_the_dead_no_more():
    holder = nn.Linear(1, 1, bias=False)
    assert peak_memory(lambda: torch.zeros(100).view(10, 10).t().reshape(-1)[:5], holder) == 4 + 2 * 400
    assert peak_memory(lambda: [torch.zeros(100).sum() for _ in range(5)], holder) == 4 + 400 + 5 * 4


def test_memory_counts_what_an_optimizer_keeps_beside_the_next_forward_pass():
    def needs(make_optimizer):
        model = nn.Linear(500, 500, bias=False)
        optimizer = make_optimizer(model.parameters())

        def step():
            optimizer.zero_grad()
            model(torch.ones(4000, 500)).sum().backward()
            optimizer.step()

        return peak_memory(step, model)

    assert needs(torch.optim.AdamW) - needs(torch.optim.SGD) >= 2 * 4 * 500 * 500  # its two moments


def test_twice_the_width_needs_more_memory_and_the_same_repeats():
    def needs(d_model):
        model = build(SMALL.replace(d_model=d_model))
        return [peak_memory(task(model), model) for task in (WORKLOAD.inference, WORKLOAD.training_step)]

    narrow, wide = needs(32), needs(64)
    assert all(w > n for w, n in zip(wide, narrow, strict=True))
    assert narrow[1] > narrow[0]
    assert needs(32) == narrow


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_memory_on_a_gpu():
    model = nn.Linear(1024, 1024, bias=False).cuda()
    other = torch.zeros(1 << 24, device="cuda")
    need = peak_memory(lambda: model(torch.zeros(1024, 1024, device="cuda")), model, device="cuda")
    assert 3 * 4 << 20 <= need < other.nbytes


# --- time -------------------------------------------------------------------------------------------------------------


def test_rivals_take_turns():
    calls = []
    seconds = interleaved({name: lambda name=name: calls.append(name) for name in "abc"}, rounds=3, threads=1)
    assert "".join(calls) == "cba" + "abc" + "cba" + "abc"
    assert {name: len(times) for name, times in seconds.items()} == {"a": 3, "b": 3, "c": 3}


def test_threads_are_given_back():
    inside, before = [], torch.get_num_threads()
    interleaved({"a": lambda: inside.append(torch.get_num_threads())}, rounds=1, threads=before + 1)
    assert (set(inside), torch.get_num_threads()) == ({before + 1}, before)


def test_ratio_is_the_median_of_the_rounds():
    assert ratio([2.0, 30.0, 3.0], [1.0, 10.0, 2.0]) == 2.0


def test_a_training_step_leaves_the_weights():
    model = build(SMALL)
    before = copy.deepcopy(model.state_dict())
    step = WORKLOAD.training_step(model)
    step()
    step()
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


def test_a_training_step_restores_noised_objects_where_training_does():
    model = build(config("dino_tiny"))
    WORKLOAD.training_step(model)()
    labels = next(parameter for name, parameter in model.named_parameters() if "label" in name)
    assert labels.grad is not None
    assert labels.grad.abs().sum() > 0


def test_costs_of_a_study(monkeypatch):
    base, deep = SMALL, SMALL.replace(enc_layers=5, dim_feedforward=2048)
    found = measure({"base": base, "deep": deep}, "base", WORKLOAD, rounds=3, threads=1)
    assert (found["base"].training_time, found["base"].inference_time) == (1.0, 1.0)
    assert found["deep"].training_time > 1.2
    assert found["deep"].macs == macs(build(deep), 64, 96)
    for name in ("parameters", "macs", "training_memory", "inference_memory"):
        assert getattr(found["deep"], name) > getattr(found["base"], name)
    assert found["base"].to_dict()["parameters"] == parameters(build(base))._asdict()


def test_costs_need_their_base():
    with pytest.raises(ConfigError, match="did you mean 'base'"):
        measure({"base": SMALL}, "bsae", WORKLOAD)


def test_costs_of_uncounted_operators_exist():
    aten = torch.ops.aten
    assert all(hasattr(aten, name) for name in costs.UNCOUNTED)
