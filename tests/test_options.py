"""No option without effect: every field of the configurations, when changed, changes what a user can see.

A row of a table is a field, a changed value and where the change must show. A new field fails until it has a row.
"""

import pytest
import torch
from PIL import Image

from detrkit.checkpoints import load, save_detector
from detrkit.config import DetectorConfig, TrainConfig
from detrkit.criterion import SetCriterion
from detrkit.errors import ConfigError, DataError
from detrkit.model import DetectorOutput, build
from detrkit.prediction import predict
from detrkit.training import loop

pytestmark = pytest.mark.fast

DETECTOR = DetectorConfig(
    backbone="tiny(width=8)", d_model=16, num_queries=12, num_classes=3, enc_layers=1, dec_layers=2,
    dim_feedforward=16, dropout=0.1, short_side=32, long_side=64,
)  # fmt: skip
TRAIN = TrainConfig(
    data="toy(length=4, size=32)",
    lr=1e-2,
    lr_backbone=1e-2,
    epochs=2,
    eval_every=0,
    save_every=0,
    transforms=None,
    device="cpu",
)


# --- what of a detector can be seen -----------------------------------------------------------------------------------


def state(config):
    """Names and shapes of the weights."""
    return {name: tuple(tensor.shape) for name, tensor in build(config).state_dict().items()}


def outputs(config, training=False):
    """Logits and boxes under one seed, of weights that are not as they start: none is zero."""
    torch.manual_seed(0)
    model = build(config).train(training)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    images = torch.randn(2, 3, 32, 40, generator=torch.Generator().manual_seed(1))
    torch.manual_seed(2)
    return [x.tolist() for x in model(images).pair]


def training_outputs(config):
    """Logits and boxes in training mode."""
    return outputs(config, training=True)


def padded_outputs(config):
    """Logits of an image with padding."""
    torch.manual_seed(0)
    model = build(config).eval()
    images, mask = torch.zeros(1, 3, 48, 48), torch.ones(1, 48, 48, dtype=torch.bool)
    images[:, :, :33, :40] = torch.randn(1, 3, 33, 40, generator=torch.Generator().manual_seed(1))
    mask[:, :33, :40] = False
    return model(images, mask).logits.tolist()


def restores(config):
    """Whether noised objects are restored in training."""
    targets = [{"boxes": torch.full((1, 4), 0.5), "labels": torch.zeros(1, dtype=torch.int64)}]
    return build(config).train()(torch.zeros(1, 3, 32, 32), None, targets).restored is not None


def detections(config):
    """Labels and queries of what is found."""
    torch.manual_seed(0)
    (found,) = predict(build(config), [Image.new("RGB", (40, 30), (90, 20, 10))], threshold=0.0)
    return found.labels.tolist(), found.queries.tolist()


def loss(config):
    """Loss of given outputs of two decoder layers against crowded images, so that matchings differ."""
    generator = torch.Generator().manual_seed(3)
    logits = 3 * torch.randn(2, 2, 12, config.num_classes + 1, generator=generator)
    boxes, truth = (torch.rand(*shape, 4, generator=generator) * 0.4 + 0.2 for shape in ((2, 2, 12), (2, 10)))
    labels = torch.randint(0, 3, (2, 10), generator=generator)
    targets = [{"boxes": b, "labels": k} for b, k in zip(truth, labels, strict=True)]
    return float(SetCriterion.from_config(config)(DetectorOutput(logits, boxes), targets).total)


def layers(config):
    """How many decoder layers answer."""
    return len(outputs(config)[0])


def seen_size(config):
    """Size of what the network sees in prediction."""
    model, sizes = build(config), []
    model.backbone.register_forward_pre_hook(lambda _, inputs: sizes.append(inputs[0].shape[-2:]))
    predict(model, [Image.new("RGB", (300, 100)), Image.new("RGB", (50, 40))], batch_size=1)
    return sizes


def seen_pixels(config):
    """The darkest pixel that the network sees in prediction."""
    model, darkest = build(config), []
    model.backbone.register_forward_pre_hook(lambda _, inputs: darkest.append(float(inputs[0].min())))
    predict(model, [Image.new("RGB", (40, 30))])
    return darkest


ANCHORED = {"queries": "anchors", "placement": "sine"}
LABELLED = {"queries": "labelled", "placement": "sine"}

DETECTOR_TABLE = {
    "backbone": ("tiny(width=16)", state),
    "neck": ("pyramid(levels=1, extra=0)", state, {"d_model": 32}),
    "positional": (None, outputs),
    "queries": ("content", outputs),
    "placement": ("fixed", outputs, ANCHORED),
    "group_detr": (2, training_outputs),
    "denoising": ("dn", restores, LABELLED),
    "encoder": ("hybrid", state),
    "encoder_attention": ("sdpa(heads=2)", outputs),
    "decoder_self_attention": ("sdpa(heads=2)", outputs),
    "decoder_cross_attention": ("sdpa(heads=2)", outputs),
    "matcher": ("greedy", loss),
    "selection": ("topk(k=3)", detections),
    "d_model": (32, state),
    "num_queries": (5, state),
    "num_classes": (4, state),
    "enc_layers": (2, state),
    "dec_layers": (1, state),
    "dim_feedforward": (32, state),
    "dropout": (0.5, training_outputs),
    "activation": ("gelu", outputs),
    "encoder_activation": ("gelu", outputs),
    "pre_norm": (True, outputs),
    "encoder_norm": (True, outputs),
    "decoder_norm": (False, state),
    "scale_positions": (True, state),
    "position_at": ("input", outputs),
    "feature_scale": (0.1, outputs),
    "classification": ("focal", state),
    "share_heads": (False, state),
    "bbox_layers": (2, state),
    "refinement": ("iterative", outputs, ANCHORED),
    "box_coder": ("delta", outputs, ANCHORED),
    "reference_eps": (0.3, outputs, ANCHORED),
    "aux_loss": (False, layers),
    "set_cost_class": (30.0, loss),
    "set_cost_bbox": (0.0, loss),
    "set_cost_giou": (30.0, loss),
    "cls_loss_coef": (2.0, loss),
    "bbox_loss_coef": (2.0, loss),
    "giou_loss_coef": (1.0, loss),
    "giou_eps": (0.1, loss),
    "eos_coef": (0.2, loss),
    "short_side": (24, seen_size),
    "long_side": (48, seen_size),
    "square": (True, seen_size, {"long_side": 32}),
    "normalize": (False, seen_pixels),
    "padding_exact": (True, padded_outputs),
}


@pytest.mark.parametrize("field", DETECTOR_TABLE)
def test_option_of_the_detector_has_an_effect(field):
    value, probe, *beside = DETECTOR_TABLE[field]
    before = DETECTOR.replace(**dict(*beside))
    assert probe(before) == probe(before), "the probe does not repeat itself"
    assert probe(before.replace(**{field: value})) != probe(before)


@pytest.mark.parametrize("field", ["encoder_attention", "decoder_self_attention", "decoder_cross_attention"])
def test_attention_is_the_one_that_was_asked_for(field):
    def classes(config):
        return {name: type(module).__name__ for name, module in build(config).named_modules()}

    changed, before = classes(DETECTOR.replace(**{field: "matrix"})), classes(DETECTOR)
    differing = {name for name in before if changed[name] != before[name]}
    stack, part = field.split("_", 1)[0], field.replace("encoder_", "decoder_self_").split("_")[1]
    depth = getattr(DETECTOR, f"{stack[:3]}_layers")
    assert differing == {f"{stack}.layers.{i}.{part}_attn" for i in range(depth)}


# --- what of a training can be seen -----------------------------------------------------------------------------------


@pytest.fixture
def trainer(tmp_path, monkeypatch):
    """Makes a trainer in a folder of its own, with another detector beside it."""
    monkeypatch.chdir(tmp_path)
    save_detector(build(DETECTOR), "another.safetensors")

    def make(config):
        if config.device == "meta":  # where weights have no values to save
            monkeypatch.setattr(loop.Trainer, "save", lambda _: None)
        return loop.Trainer(DETECTOR, config, tmp_path / str(hash(config)), resume=False)

    return make


def weights_after(trainer):
    """All weights after training."""
    trainer.run_to_end()
    return [p.tolist() for p in trainer.model.parameters()]


def weights_before(trainer):
    """All weights before training."""
    return [p.tolist() for p in trainer.model.parameters()]


def rates(trainer):
    """Learning rate and weight decay of each group of parameters."""
    return [(group["lr"], group["weight_decay"]) for group in trainer.optimizer.param_groups]


def factors(trainer):
    """Factor of the learning rates at every step."""
    return [
        loop.learning_rate_factor(step, trainer.total, trainer.per_epoch, trainer.run.train)
        for step in range(trainer.total)
    ]


def trained(trainer):
    """Parameters that are trained."""
    return [name for name, p in trainer.model.named_parameters() if p.requires_grad]


def result(trainer):
    """Weights of what a run leaves, without an evaluation."""
    trainer.run_to_end()
    return [tensor.tolist() for tensor in load(trainer.run.folder).state_dict().values()]


def steps_without_progress(trainer):
    """Steps of a run whose AP never changes."""
    trainer.scores = lambda _: dict.fromkeys(("AP", "AP50", "AP75"), 0.5)
    return trainer.run_to_end().progress.step


def determinism(trainer):
    """Whether PyTorch is held to operations that repeat, during a step."""
    held, step = [], trainer.step
    trainer.step = lambda window: (held.append(torch.are_deterministic_algorithms_enabled()), step(window))[1]
    trainer.run_to_end()
    return held


def fate(trainer):
    """What becomes of a run with an image that cannot be read."""
    trainer.stream.loader.dataset.sample = raise_data_error
    try:
        return trainer.run_to_end().progress.left_out
    except DataError as error:
        return str(error)


def raise_data_error(epoch, index):
    raise DataError("broken", path=f"{index}.jpg")


def files(trainer):
    """What lies in the run's folder."""
    return sorted(path.name for path in trainer.run.folder.iterdir())


def total(trainer):
    """Number of steps."""
    return trainer.total


def first_window(trainer):
    """Ids and pixels of the first step's images, a list a micro-batch."""
    return [(batch.image_ids, batch.inputs.images.tolist()) for batch in next(iter(trainer.stream))]


def validation_image(trainer):
    """First image that the run is scored on."""
    return trainer.val[0][0].tobytes()


def device(trainer):
    """Where the weights are."""
    return trainer.device.type


def workers(trainer):
    """Processes that read images."""
    return trainer.stream.loader.num_workers


def evaluations(trainer):
    """Steps after which the run is scored."""
    steps = []
    trainer.evaluate = lambda *_: steps.append(trainer.run.progress.step)
    trainer.run_to_end()
    return steps


def saves(trainer):
    """Steps after which the run is saved."""
    steps, save = [], trainer.save
    trainer.save = lambda: (steps.append(trainer.run.progress.step), save())
    trainer.run_to_end()
    return steps


TRAIN_TABLE = {
    "data": ("toy(length=4, size=32, seed=1)", first_window, {}),
    "train_split": ("val", first_window, {}),
    "val_split": ("test", validation_image, {"eval_every": 1}),
    "init_from": ("another.safetensors", weights_before, {}),
    "lr": (1e-3, rates, {}),
    "lr_backbone": (1e-3, rates, {}),
    "lr_factors": ("decoder=0.5", rates, {}),
    "freeze": ("encoder", trained, {}),
    "weight_decay": (0.1, rates, {}),
    "no_decay": ("*norm", rates, {}),
    "clip_max_norm": (0.0, weights_after, {}),
    "batch_size": (1, first_window, {}),
    "accumulate": (2, first_window, {}),
    "epochs": (3, total, {}),
    "steps": (3, total, {}),
    "schedule": ("cosine", factors, {}),
    "lr_drop": (1, factors, {"epochs": 4}),
    "warmup_steps": (2, factors, {}),
    "ema_decay": (0.5, result, {}),
    "patience": (1, steps_without_progress, {"eval_every": 1, "epochs": 5}),
    "transforms": ("flip(p=1.0)", first_window, {}),
    "multi_scale": (0.25, first_window, {}),
    "plain_epochs": (1, weights_after, {"transforms": "small"}),
    "seed": (7, weights_before, {}),
    "num_workers": (1, workers, {}),
    "device": ("meta", device, {}),
    "amp": ("bf16", weights_after, {}),
    "deterministic": (True, determinism, {}),
    "on_bad_image": ("skip", fate, {}),
    "eval_every": (2, evaluations, {"epochs": 4}),
    "save_every": (1, saves, {"epochs": 4}),
    "save_minutes": (1e-9, saves, {}),
    "tensorboard": (True, files, {}),
}


@pytest.mark.parametrize("field", TRAIN_TABLE)
def test_option_of_training_has_an_effect(trainer, field):
    value, probe, beside = TRAIN_TABLE[field]
    before = TRAIN.replace(**beside)
    assert probe(trainer(before.replace(**{field: value}))) != probe(trainer(before))


def test_seed_orders_the_data(trainer):
    assert first_window(trainer(TRAIN.replace(seed=7))) != first_window(trainer(TRAIN))


def test_same_options_give_the_same_training(tmp_path):
    first, second = (weights_after(loop.Trainer(DETECTOR, TRAIN, tmp_path / name, resume=False)) for name in "ab")
    assert first == second


def test_unusable_device_is_refused(trainer):
    with pytest.raises(ConfigError, match="device: got 'nonsense'"):
        trainer(TRAIN.replace(device="nonsense"))


@pytest.mark.parametrize(("table", "config"), [(DETECTOR_TABLE, DetectorConfig), (TRAIN_TABLE, TrainConfig)])
def test_every_option_has_a_row(table, config):
    assert list(table) == list(config.annotations())
