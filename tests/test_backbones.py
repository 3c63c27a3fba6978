"""Backbones: the laws, torchvision's own networks as the judge, weight files good and bad, and what is trained."""

import pickle
from copy import deepcopy
from functools import lru_cache
from pathlib import Path

import pytest
import torch
import torchvision
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from detrkit.backbones._trunk import FrozenNorm
from detrkit.backbones._weights import read_state
from detrkit.backbones.tiny import TinyBackbone
from detrkit.backbones.torchvision import TorchvisionBackbone
from detrkit.errors import CheckpointError, ConfigError
from detrkit.registry import REGISTRY
from detrkit.specs import Spec
from detrkit.testing import NotConcerned, laws_of
from detrkit.testing.law import Maker

SHARED = Path(__file__).parents[2] / "shared"
WEIGHTS = SHARED / "weights" / "shufflenetv2_x0_5_cocodet_trunk_tv_rgbnorm.pth"
MANIFEST = SHARED / "manifests" / "detr_resnet50.txt"

PLAIN = [
    "tiny",
    "tiny(width=8, depth=2, stride=32)",
    "torchvision(model=resnet18)",
    "torchvision(model=shufflenet_v2_x0_5, trainable_levels=2)",
    "torchvision(model=mobilenet_v3_small, norm=batch)",
    "torchvision(model=mnasnet0_5, norm=batch, trainable_levels=1)",
    "vit(width=16, depth=3, heads=2, patch=8, windows=2, windowed=(0,), taken=(1, 2))",
    "dinov2(width=16, depth=3, heads=2, patch=7, grid=3, windows=2, taken=(1, 2), swapped=True)",
]
TIMM = [  # names that start with test_ are timm's own miniatures
    "timm(model=test_resnet)",
    "timm(model=test_efficientnet, norm=batch, trainable_levels=2)",
    "timm(model=test_convnext)",
    "timm(model=test_vit)",
    "timm(model=test_resnet, dilation=True)",
    "timm(model=swin_tiny_patch4_window7_224)",
]


class MakeOnce(Maker):
    """Gives copies of one component, since building takes longer than most laws."""

    def __init__(self, spec):
        parsed = Spec.parse(spec)
        super().__init__(REGISTRY.get("backbones", parsed.name), dict(parsed.settings))
        self.made = REGISTRY.make("backbones", spec)

    def __call__(self, **options):
        return deepcopy(self.made)


make_once = lru_cache(MakeOnce)


@pytest.mark.parametrize("law", laws_of("backbones"))
@pytest.mark.parametrize("spec", [*(pytest.param(spec, marks=pytest.mark.fast) for spec in PLAIN), *TIMM])
@settings(deadline=None, max_examples=3, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_law(spec, law, data):
    try:
        laws_of("backbones")[law](make_once(spec), lambda low, high: data.draw(st.integers(low, high)))
    except NotConcerned as reason:
        pytest.skip(str(reason))


@pytest.mark.fast
def test_tiny_is_small_and_reaches_its_stride():
    assert sum(p.numel() for p in TinyBackbone().parameters()) < 400_000
    assert TinyBackbone(width=16, stride=32).channels == (16, 32, 64, 128)
    with pytest.raises(ConfigError, match="multiple of 8"):
        TinyBackbone(width=12)


# ---- torchvision as the judge


@pytest.mark.fast
@pytest.mark.parametrize("model", ["resnet18", "shufflenet_v2_x0_5", "mobilenet_v2", "regnet_y_400mf"])
def test_maps_equal_those_inside_torchvisions_network(model, tmp_path):
    network = randomized(torchvision.models.get_model(model)).eval()
    torch.save(network.state_dict(), tmp_path / "w.pth")
    backbone = TorchvisionBackbone(model=model, weights=tmp_path / "w.pth").eval()
    seen = []
    for name in backbone.body.taps:
        network.get_submodule(name).register_forward_hook(lambda module, args, out: seen.append(out.clone()))
    images = torch.randn(2, 3, 65, 97)
    with torch.no_grad():
        network(images)
        for ours, theirs in zip(backbone(images), seen, strict=True):
            assert (ours - theirs).abs().max() < 1e-5 * theirs.abs().max()


@pytest.mark.fast
def test_frozen_norm_equals_torchvisions_with_and_without_gradients():
    norm = randomized(nn.BatchNorm2d(7, eps=1e-3))
    judge = torchvision.ops.FrozenBatchNorm2d(7, eps=1e-3)
    judge.load_state_dict(norm.state_dict())
    ours, x = FrozenNorm(norm), torch.randn(2, 7, 5, 6)
    assert torch.allclose(ours(x), judge(x), atol=1e-5)
    first, second = x.clone().requires_grad_(), x.clone().requires_grad_()
    ours(first).sum().backward()
    judge(second).sum().backward()
    assert torch.equal(first.grad, second.grad)


@pytest.mark.fast
def test_resnet50_has_torchvisions_entries_with_four_buffers_a_norm():
    body = TorchvisionBackbone().state_dict()
    theirs = {f"body.{name}" for name in torchvision.models.resnet50().state_dict()}
    assert set(body) == {n for n in theirs if not n.startswith("body.fc") and "num_batches" not in n}
    assert len(body) == 53 * 5


@pytest.mark.fast
@pytest.mark.skipif(not MANIFEST.is_file(), reason="shared/manifests is absent")
def test_resnet50_has_the_entries_of_the_official_checkpoint():
    official = [line.partition(" ") for line in MANIFEST.read_text().splitlines()]
    expected = {n.removeprefix("backbone.0."): shape for n, _, shape in official if n.startswith("backbone.0.body.")}
    assert {n: str(tuple(t.shape)) for n, t in TorchvisionBackbone().state_dict().items()} == expected


@pytest.mark.fast
def test_frozen_branches_are_not_dead():
    dead = nn.BatchNorm2d(4)
    nn.init.zeros_(dead.weight)
    assert torch.equal(FrozenNorm(dead).weight, torch.ones(4))


@pytest.mark.fast
@pytest.mark.parametrize("model", ["vit_b_16", "swin_t", "alexnet", "googlenet"])
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_networks_that_are_no_chain_are_refused(model):
    assert_one_line(ConfigError, rf"{model}.*no chain.*timm\(model=", f"torchvision(model={model})")


@pytest.mark.fast
def test_unknown_model_names_the_nearest():
    assert_one_line(ConfigError, "did you mean 'resnet50'", "torchvision(model=resent50)")


def test_unknown_timm_model_names_the_nearest():
    assert_one_line(ConfigError, "did you mean 'resnet50'", "timm(model=resent50)")


def test_missing_timm_is_one_sentence(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "timm", None)
    assert_one_line(ConfigError, "pip install timm", "timm(model=resnet18)")


def test_timm_network_of_one_size_is_refused():
    assert_one_line(ConfigError, "does not take images of any size", "timm(model=mixer_s16_224)")


# ---- what is trained, dilation


@pytest.mark.fast
def test_three_trained_levels_are_those_of_detr():
    backbone = TorchvisionBackbone(trainable_levels=3)
    trained = {name.split(".")[1] for name, p in backbone.named_parameters() if p.requires_grad}
    frozen = {name.split(".")[1] for name, p in backbone.named_parameters() if not p.requires_grad}
    assert trained == {"layer2", "layer3", "layer4"}
    assert frozen == {"conv1", "layer1"}


@pytest.mark.fast
def test_by_default_all_is_trained():
    assert all(p.requires_grad for p in TorchvisionBackbone(model="resnet18").parameters())


@pytest.mark.fast
def test_norms_of_frozen_levels_are_frozen_too():
    body = TorchvisionBackbone(model="resnet18", norm="batch", trainable_levels=1).body
    assert isinstance(body.layer3[0].bn1, FrozenNorm)
    assert type(body.layer4[0].bn1) is nn.BatchNorm2d


@pytest.mark.fast
def test_more_trained_levels_than_there_are():
    assert_one_line(ConfigError, "at most 4", "torchvision(model=resnet18, trainable_levels=5)")


@pytest.mark.fast
def test_dilation_keeps_levels_and_entries():
    plain, dilated = TorchvisionBackbone(), TorchvisionBackbone(dilation=True, trainable_levels=3)
    assert dilated.strides == (4, 8, 16, 16)
    assert dilated.channels == plain.channels
    assert set(dilated.state_dict()) == set(plain.state_dict())
    assert not dilated.body.layer1[0].conv1.weight.requires_grad
    assert [m.dilation for m in dilated.body.layer4.modules() if getattr(m, "kernel_size", 0) == (3, 3)] == [
        (1, 1),
        (2, 2),
        (2, 2),
    ]


@pytest.mark.fast
def test_dilation_that_cannot_be():
    for model in ("resnet18", "shufflenet_v2_x0_5"):
        assert_one_line(ConfigError, "cannot be dilated", f"torchvision(model={model}, dilation=True)")


def test_timm_dilation_that_cannot_be():
    assert_one_line(ConfigError, "cannot be dilated", "timm(model=test_vit, dilation=True)")


# ---- weight files


@pytest.mark.fast
@pytest.mark.skipif(not WEIGHTS.is_file(), reason="shared/weights is absent")
def test_shared_trunk_loads():
    backbone = TorchvisionBackbone(model="shufflenet_v2_x0_5", weights=WEIGHTS)
    state = torch.load(WEIGHTS, weights_only=True)
    assert all(torch.equal(tensor, state[name.removeprefix("body.")]) for name, tensor in backbone.state_dict().items())


@pytest.mark.fast
@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"model": {f"module.{name}": tensor for name, tensor in state.items()}},
    ],
)
def test_common_wrappers_load(wrap, tmp_path):
    state = randomized(torchvision.models.shufflenet_v2_x0_5()).state_dict()
    torch.save(wrap(state), tmp_path / "w.pth")
    loaded = TorchvisionBackbone(model="shufflenet_v2_x0_5", weights=str(tmp_path / "w.pth")).state_dict()
    assert all(torch.equal(tensor, state[name.removeprefix("body.")]) for name, tensor in loaded.items())


@pytest.mark.parametrize("model", ["test_resnet", "test_efficientnet", "test_vit", "test_convnext", "densenet121"])
def test_timm_loads_files_of_whole_networks(model, tmp_path):
    import timm

    state = randomized(timm.create_model(model)).state_dict()
    save_file(state, tmp_path / "w.safetensors")
    loaded = REGISTRY.make("backbones", Spec("timm", {"model": model, "weights": str(tmp_path / "w.safetensors")}))
    known = {tensor.double().sum().item() for tensor in state.values()}
    assert all(tensor.double().sum().item() in known for tensor in loaded.state_dict().values())
    assert_misfit(tmp_path, {n: t for n, t in state.items() if "1.weight" not in n}, "missing", "timm", model)


@pytest.mark.fast
def test_misfits_are_named(tmp_path):
    state = torchvision.models.shufflenet_v2_x0_5().state_dict()
    without = {n: t for n, t in state.items() if n != "stage2.0.branch1.0.weight"}
    assert_misfit(tmp_path, without, r"1 missing: stage2\.0\.branch1\.0\.weight$")
    assert_misfit(tmp_path, state | {"neck.weight": torch.ones(2)}, r"1 unexpected: neck\.weight$")
    wrong = state | {"conv1.0.weight": torch.ones(1, 3, 3, 3)}
    assert_misfit(tmp_path, wrong, r"1 misshapen: conv1\.0\.weight \[1, 3, 3, 3\] instead of \[24, 3, 3, 3\]$")
    assert_misfit(tmp_path, {"a": torch.ones(1)}, r"275 missing: .*, \.\.\.; 1 unexpected: a$")


@pytest.mark.fast
def test_files_that_are_no_weights(tmp_path):
    good = tmp_path / "good.pth"
    torch.save(torchvision.models.shufflenet_v2_x0_5().state_dict(), good)
    faults = {
        "absent.pth": (None, "no such file"),
        "empty.pth": (b"", "is empty"),
        "page.pth": (b"\n<!DOCTYPE html><html>", "web page"),
        "text.pth": (b"hello, world, this is text", "is no weight file, or a damaged one"),
        "cut.pth": (good.read_bytes()[:5000], "or a damaged one"),
        "cut.safetensors": (good.read_bytes()[:5000], "or a damaged one"),
    }
    for name, (content, reason) in faults.items():
        if content is not None:
            (tmp_path / name).write_bytes(content)
        assert_one_line(
            CheckpointError,
            f"{name}: .*{reason}",
            Spec("torchvision", {"model": "shufflenet_v2_x0_5", "weights": str(tmp_path / name)}),
        )
    with pytest.raises(CheckpointError, match="is a directory"):
        read_state(tmp_path)
    torch.save([1, 2], good)
    with pytest.raises(CheckpointError, match="holds no weights"):
        read_state(good)


class Touch:
    """Runs code when it is unpickled without care."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.fast
@pytest.mark.parametrize("save", [torch.save, lambda state, path: path.write_bytes(pickle.dumps(state))])
def test_malicious_file_is_refused(save, tmp_path):
    marker = tmp_path / "was-here"
    save({"conv1.weight": Touch(marker)}, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=r"could run code|no weight file") as caught:
        read_state(tmp_path / "w.pth")
    assert not marker.exists()
    assert "\n" not in str(caught.value)


@pytest.mark.fast
def test_published_weights_come_from_the_cache_alone(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    spec = "torchvision(model=shufflenet_v2_x0_5, weights=imagenet)"
    assert_one_line(CheckpointError, "are not in torch's cache.*fetch https://", spec)
    (tmp_path / "checkpoints").mkdir()
    name = torchvision.models.ShuffleNet_V2_X0_5_Weights.DEFAULT.url.rpartition("/")[2]
    torch.save(torchvision.models.shufflenet_v2_x0_5().state_dict(), tmp_path / "checkpoints" / name)
    assert REGISTRY.make("backbones", spec).channels == (24, 48, 96, 192)


def test_published_timm_weights_come_from_the_cache_alone(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert_one_line(CheckpointError, "are not in the hub's cache", "timm(model=test_resnet, weights=DEFAULT)")


# ---- helpers


def randomized(network):
    """Norms with values of their own, so that a norm in the wrong place shows."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight.data, module.bias.data, module.running_mean, module.running_var):
                tensor.uniform_(0.5, 1.5)
    return network


def assert_one_line(kind, pattern, spec):
    with pytest.raises(kind, match=pattern) as caught:
        REGISTRY.make("backbones", spec)
    assert "\n" not in str(caught.value)


def assert_misfit(folder, state, pattern, component="torchvision", model="shufflenet_v2_x0_5"):
    torch.save(state, folder / "misfit.pth")
    assert_one_line(CheckpointError, pattern, Spec(component, {"model": model, "weights": str(folder / "misfit.pth")}))


@pytest.mark.fast
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_backbone_can_be_made_where_gradients_are_off(mode):
    with mode():
        backbone = TorchvisionBackbone(model="resnet18", trainable_levels=3)
    assert backbone.strides == (4, 8, 16, 32)
    assert not backbone.body.conv1.weight.requires_grad


@pytest.mark.fast
def test_kernels_have_their_channels_last_while_a_trunk_learns_alone():
    trunk = TorchvisionBackbone(model="resnet18")
    kernel, images = trunk.body.conv1.weight, torch.randn(1, 3, 64, 64)
    expected = trunk.eval()(images)[-1]
    assert kernel.is_contiguous()
    learning = trunk.train()(images)[-1]
    assert kernel.is_contiguous(memory_format=torch.channels_last)
    assert learning.is_contiguous(memory_format=torch.channels_last)
    assert torch.allclose(learning, expected, atol=1e-5 * float(expected.abs().max()))
    with torch.inference_mode():
        trunk.eval()
    assert torch.equal(trunk(images)[-1], expected)
    trunk.train()(images)[-1].sum().backward()
    assert kernel.grad is not None
