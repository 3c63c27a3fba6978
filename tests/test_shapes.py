"""The shapes and dtypes in the annotations hold: everything is run once with jaxtyping's checks switched on.

The checks stay out of the package itself, since they break ``torch.compile(fullgraph=True)``; here a process of its own
imports the package through jaxtyping's hook, so that every call of every annotated function is checked.
"""

import json
import subprocess
import sys

import pytest

RUNNER = """if True:
    import json, sys, textwrap, traceback, types
    from beartype import BeartypeConf, beartype
    from jaxtyping import install_import_hook
    typed = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int is a float
    sys.modules["checker"] = types.ModuleType("checker")
    sys.modules["checker"].check = lambda f: typed(f) if "[Tensor" in str(f.__annotations__) else f
    install_import_hook("detrkit", "checker.check")
    import torch
    torch.set_num_threads(1)
    prelude, programs = json.load(sys.stdin)
    failures = {}
    for name, program in programs.items():
        try:
            exec(textwrap.dedent(prelude) + textwrap.dedent(program), {})
            failures[name] = ""
        except Exception:
            failures[name] = traceback.format_exc(limit=-4)
    json.dump(failures, sys.stdout)
"""

PRELUDE = """
    import numpy as np
    import torch
    import detrkit
    from detrkit.registry import REGISTRY
    torch.manual_seed(0)
    images, mask = torch.randn(2, 3, 40, 48), torch.zeros(2, 40, 48, dtype=torch.bool)
    mask[1, :, 30:] = True
    sizes = dict(backbone="tiny(width=8)", d_model=16, num_queries=6, enc_layers=1, dec_layers=2, dim_feedforward=16)
    targets = [{"boxes": torch.rand(n, 4) * 0.3 + 0.3, "labels": torch.arange(n)} for n in (3, 0)]
"""

PROGRAMS = {
    "the hook checks": """
        from detrkit.positional.sine import SinePositional
        try:
            SinePositional(8)(torch.zeros(2, 3, 4))
        except Exception as error:
            assert "Type-check error" in str(error), error
        else:
            raise AssertionError("nothing was checked")
    """,
    "detector": """
        from detrkit.criterion import SetCriterion
        without = {"aux_loss": False, "positional": None, "decoder_self_attention": None, "enc_layers": 0}
        for changes in ({}, *({name: value} for name, value in without.items())):
            model = detrkit.build("detr_tiny", **{**sizes, **changes})
            for padding in (None, mask):
                out = model(images, padding)
                out.pred_logits, out.pred_boxes, out.aux_outputs
                SetCriterion.from_config(model.config)(out, targets).total.backward()
            empty = [{"boxes": torch.empty(0, 4), "labels": torch.empty(0, dtype=torch.int64)}] * 2
            SetCriterion.from_config(model.config)(model(images), empty).total.backward()
        model.predict([np.zeros((30, 50, 3), np.uint8), torch.zeros(3, 20, 20, dtype=torch.uint8)], threshold=0.0)
    """,
    "attention": """
        query, key = torch.randn(2, 5, 16), torch.randn(2, 7, 16)
        mask = torch.zeros(2, 7, dtype=torch.bool)
        mask[0, 3:], mask[1] = True, True
        for name in REGISTRY.builtin("attention"):
            attention = REGISTRY.make("attention", name, d_model=16, dropout=0.1)
            for mode in (True, False):
                for hidden in (None, mask):
                    for weights in (True, False):
                        read = attention.train(mode)(query, key, key, mask=hidden, need_weights=weights)
                        read.output.sum().backward()
            attention.load_state_dict(attention.state_dict())
    """,
    "positional": """
        for name in REGISTRY.builtin("positional"):
            for shape in ((2, 5, 6), (1, 1, 1)):
                REGISTRY.make("positional", name, d_model=16)(torch.zeros(shape, dtype=torch.bool))
        REGISTRY.make("positional", "learned(size=3, interpolate=true)", d_model=16)(mask[:, :5, :6])
    """,
    "matchers": """
        for name in REGISTRY.builtin("matchers"):
            for shape in ((5, 3), (3, 5), (4, 4), (0, 3), (3, 0)):
                REGISTRY.make("matchers", name).solve(np.random.default_rng(0).random(shape))
                REGISTRY.make("matchers", name).solve(torch.rand(shape))
    """,
    "boxes and targets": """
        from detrkit import boxes
        from detrkit.targets import check_targets
        one, other = torch.rand(3, 4).sort(-1).values, torch.rand(5, 4).sort(-1).values
        boxes.pairwise_giou(one, other), boxes.elementwise_giou(one, one), boxes.pairwise_iou(one, other)
        boxes.xyxy_to_cxcywh(boxes.cxcywh_to_xyxy(torch.rand(2, 3, 4)))
        check_targets(targets, 3)
    """,
    "training": """
        import sys, tempfile
        from pathlib import Path
        from detrkit.presets import from_pairs
        from detrkit.training import train
        sizes |= dict(short_side=32, long_side=32)
        fields = dict(sizes, data="toy(length=4, size=32)", batch_size=2, epochs=1, transforms="small")
        with tempfile.TemporaryDirectory() as folder:
            run = train(*from_pairs("detr_tiny", fields), Path(folder) / "run")
            model = detrkit.load(run.folder)
    """,
    "explanation": """
        from PIL import Image
        from detrkit.explanation import attention_sheet
        model = detrkit.build("detr_tiny", **sizes, label_space=detrkit.LabelSpace(("a", "b", "c")))
        attention_sheet(model, [Image.new("RGB", (40, 30))], threshold=0.0)
    """,
    "backbones": """
        for spec in ("tiny(width=8)", "torchvision(model=resnet18)"):
            backbone = REGISTRY.make("backbones", spec)
            assert [m.shape[1] for m in backbone(images)] == list(backbone.channels)
    """,
}


@pytest.fixture(scope="module")
def failures():
    """What went wrong in each program; all of them run in one process."""
    given = json.dumps([PRELUDE, PROGRAMS])
    done = subprocess.run([sys.executable, "-c", RUNNER], input=given, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", PROGRAMS)
def test_shapes_hold(failures, name):
    assert not failures[name], failures[name]
