"""Explanations: what is shown is what the model computed, for every member of the family."""

import json
import zlib
from base64 import b64decode

import matplotlib
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from twins import TWINS

import detrkit
from detrkit.boxes import pairwise_iou
from detrkit.cli import main
from detrkit.errors import DetrkitError
from detrkit.explanation.explanation import explain_batch
from detrkit.explanation.explorer import LARGEST, save_explorer
from detrkit.explanation.packing import PLANS, chosen_queries, packed_image, packed_maps
from detrkit.explanation.sight import Sight
from detrkit.explanation.slots import Slots, slots
from detrkit.explanation.watching import watching_model
from detrkit.looks import PointLook
from detrkit.registry import REGISTRY

pytestmark = pytest.mark.fast
matplotlib.use("Agg")

SMALL = {"d_model": 32, "dim_feedforward": 32, "num_queries": 8, "num_classes": 3, "short_side": 64, "long_side": 96}
SINGLE = {"neck": "pyramid(levels=1, extra=0)"}
FAMILY = [
    *((name, {}) for name in TWINS),
    ("deformable_detr_tiny", SINGLE),
    ("detr_tiny", {"neck": "pyramid(levels=2, extra=0)", "aux_loss": False}),
    ("detr_tiny", {"decoder_self_attention": None}),
]


def tiny(name="detr_tiny", **changes):
    """A small detector whose every number matters."""
    torch.manual_seed(0)
    square = {"long_side": SMALL["short_side"]} if detrkit.config(name).square else {}
    model = detrkit.build(name, **{**SMALL, **square, **changes})
    with torch.no_grad():
        for parameter in (p for p in model.parameters() if p.requires_grad):
            parameter += 0.1 * torch.randn_like(parameter)
    return model


def noise(height=64, width=96, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.mark.parametrize(("name", "changes"), FAMILY)
def test_every_member_of_the_family_is_explained(name, changes):
    model, image = tiny(name, **changes), noise()
    seen = detrkit.explain(model, image)
    (found,) = model.predict([image], threshold=0)
    assert seen.detections.queries.tolist() == found.queries.tolist()
    assert seen.boxes[-1, found.queries] == pytest.approx(found.boxes, abs=1e-3)
    assert seen.scores[-1, found.queries, found.labels] == pytest.approx(found.scores, abs=1e-6)
    told = model.config.dec_layers if model.config.aux_loss else 1
    count = seen.boxes.shape[1]
    assert seen.scores.shape == (told, count, 3)
    assert (len(seen.cross), len(seen.encoder)) == (model.config.dec_layers, model.config.enc_layers)
    check_sights(seen.cross, count)
    for sight in seen.encoder:
        check_sights([sight], sum(h * w for h, w in sight.shapes))
    if model.config.decoder_self_attention is None:
        assert seen.queries is None
    else:
        assert seen.queries.shape[2:] == (count, count)
        assert seen.queries.sum(-1) == pytest.approx(1, abs=1e-5)


def check_sights(sights, count):
    """Weights of every head sum to one, over cells or over points; over the cells they lose what fell outside."""
    for sight in sights:
        assert len(sight) == count
        assert (sight.weights >= 0).all()
        assert sight.weights.reshape(count, sight.heads, -1).sum(-1) == pytest.approx(1, abs=1e-5)
        for query in range(0, count, max(1, count // 3)):
            inside = 1 - sight.outside(query)
            assert sight.cells(query).sum(-1) == pytest.approx(inside, abs=1e-5)
            assert sight.grid(query).sum() == pytest.approx(inside.mean(), abs=1e-5)
            heads = np.mean([sight.grid(query, head) for head in range(sight.heads)], axis=0)
            assert heads == pytest.approx(sight.grid(query), abs=1e-6)
            if sight.points is None:
                assert inside == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("name", ["detr_tiny", "conditional_detr_tiny", "deformable_detr_tiny", "dino_tiny"])
@pytest.mark.parametrize("exact", [False, True])
def test_padding_is_no_part_of_an_image(name, exact):
    """In a batch with a larger image, maps have the image's own cells; with exact padding, the same weights."""
    if exact and name != "detr_tiny":
        pytest.skip("what is exact there is not explained otherwise")
    model = tiny(name, padding_exact=exact)
    small, large = noise(64, 64), noise(64, 96, seed=1)
    alone, (beside, _) = detrkit.explain(model, small), explain_batch(model, [small, large])
    assert [s.shapes for s in beside.cross + beside.encoder] == [s.shapes for s in alone.cross + alone.encoder]
    check_sights(beside.cross, len(beside.winners))
    check_sights(beside.encoder, len(alone.encoder[0]))
    if exact:
        for one, other in zip(alone.cross + alone.encoder, beside.cross + beside.encoder, strict=True):
            assert one.weights == pytest.approx(other.weights, abs=1e-5)


@pytest.mark.parametrize("attention", REGISTRY.builtin("attention"))
def test_equivalent_attentions_show_the_same(attention):
    model = tiny()
    places = ("encoder_attention", "decoder_self_attention", "decoder_cross_attention")
    other = tiny(**dict.fromkeys(places, attention))
    other.load_state_dict(model.state_dict())
    one, two = (detrkit.explain(m, noise()) for m in (model, other))
    for a, b in zip(one.cross + one.encoder, two.cross + two.encoder, strict=True):
        assert a.weights == pytest.approx(b.weights, abs=1e-5)
    assert one.queries == pytest.approx(two.queries, abs=1e-5)


@pytest.mark.parametrize("sampler", REGISTRY.builtin("samplers"))
def test_equivalent_samplers_show_the_same(sampler):
    spec = f"deformable(sampler={sampler})"
    model, other = tiny("deformable_detr_tiny"), tiny("deformable_detr_tiny", decoder_cross_attention=spec)
    other.load_state_dict(model.state_dict())
    one, two = (detrkit.explain(m, noise()) for m in (model, other))
    assert one.cross[-1].points == pytest.approx(two.cross[-1].points, abs=1e-5)
    assert one.cross[-1].weights == pytest.approx(two.cross[-1].weights, abs=1e-5)


@pytest.mark.parametrize(("name", "changes"), FAMILY)
def test_watching_changes_no_output_and_leaves_no_trace(name, changes):
    model = tiny(name, **changes).eval()
    images = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = model(images)
        with watching_model(model):
            watched = model(images)
        after = model(images)
    for before, during, later in zip(expected.pair, watched.pair, after.pair, strict=True):
        assert torch.allclose(before, during, rtol=1e-5, atol=1e-6)
        assert torch.equal(before, later)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


@given(st.data())
def test_points_inside_lose_nothing_and_peak_where_they_lie(data):
    """Half a cell from the border on all mass is kept; a point at a cell's centre gives the cell all its weight."""
    height, width = (data.draw(st.integers(2, 9)) for _ in range(2))
    row, column = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    border = torch.tensor([0.5 / width, 0.5 / height])
    points = border + (1 - 2 * border) * torch.rand((1, 3, 2, 1, 4, 2), generator=generator)
    weights = torch.rand((1, 3, 2, 1, 4), generator=generator)
    maps = PointLook(points, weights).over_cells([(height, width)])
    assert torch.allclose(maps.sum(-1), weights.sum((-2, -1)).transpose(1, 2), atol=1e-5)
    points[:] = torch.tensor([(column + 0.5) / width, (row + 0.5) / height])
    maps = PointLook(points, weights).over_cells([(height, width)])
    assert torch.equal(maps.argmax(-1), torch.full((1, 2, 3), row * width + column))
    away = PointLook(points + 2, weights).over_cells([(height, width)])
    assert not away.any()


@given(st.data())
def test_coarse_cells_share_their_weight_by_area(data):
    shapes = tuple((data.draw(st.integers(1, 6)), data.draw(st.integers(1, 6))) for _ in range(3))
    total = sum(h * w for h, w in shapes)
    weights = np.random.default_rng(data.draw(st.integers(0, 99))).random((1, 2, total), dtype=np.float32)
    sight = Sight(shapes, weights)
    assert sight.grid(0, 1).shape == max(shapes)
    assert sight.grid(0, 1).sum() == pytest.approx(weights[0, 1].sum(), rel=1e-4)
    even = Sight(shapes, np.concatenate([np.full(h * w, 1 / (h * w), np.float32) for h, w in shapes])[None, None])
    assert even.grid(0) == pytest.approx(3 / np.prod(max(shapes)), rel=1e-4)


def test_losers_are_those_who_want_the_same_and_score_less():
    seen = detrkit.explain(tiny(num_queries=30), noise())
    boxes, scores = torch.from_numpy(seen.boxes[-1]), seen.scores[-1].max(-1)
    overlap = pairwise_iou(boxes, boxes).numpy()
    assert (seen.winners >= 0).any()
    for query, winner in enumerate(seen.winners):
        rivals = [q for q in range(len(scores)) if overlap[query, q] >= 0.5 and scores[q] > scores[query]]
        assert winner == max(rivals, key=lambda q: scores[q], default=-1)
        if winner >= 0:
            assert query in seen.losers(winner)
            assert all(
                scores[a] >= scores[b] for a, b in zip(seen.losers(winner), seen.losers(winner)[1:], strict=False)
            )


def test_pixels_belong_to_cells():
    seen = detrkit.explain(tiny("deformable_detr_tiny"), noise(64, 96))
    (height, width), (_, coarse) = seen.encoder[0].shapes
    assert seen.cell_at(0, 0) == 0
    assert seen.cell_at(95.9, 0) == width - 1
    assert seen.cell_at(1000, 1000) == height * width - 1
    assert seen.cell_at(0, 63, level=1) == height * width + (seen.encoder[0].shapes[1][0] - 1) * coarse


@pytest.mark.parametrize("name", ["detr_tiny", "deformable_detr_tiny"])
def test_figures_show_what_was_seen(name):
    from matplotlib import pyplot

    seen = detrkit.explain(tiny(name), noise())
    assert len(seen.plot_heads(2).axes) >= 9
    assert [a.get_title()[:7] for a in seen.plot_layers(2).axes[:3]] == ["layer 1", "layer 2", "layer 3"]
    assert len(seen.plot_encoder(10, 20).axes) == 2
    matrix = seen.plot_queries(most=5).axes[0]
    best = np.argsort(-seen.scores[-1].max(-1), kind="stable")[:5]
    assert np.allclose(matrix.images[0].get_array(), seen.queries[-1].mean(0)[np.ix_(best, best)])
    pyplot.close("all")


def test_slots_are_the_last_boxes_of_every_image():
    model, images = tiny(), [noise(seed=i) for i in range(5)]
    found = slots(model, images, batch_size=2)
    for image, boxes, scores in zip(images, found.boxes, found.scores, strict=True):
        seen = detrkit.explain(model, image)
        x1, y1, x2, y2 = (seen.boxes[-1] / [96, 64, 96, 64]).T
        assert pytest.approx(np.stack([(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1]), abs=1e-4) == boxes.T
        assert scores == pytest.approx(seen.scores[-1].max(-1), abs=1e-5)


def test_slots_are_told_apart_and_drawn():
    from matplotlib import pyplot

    boxes = np.array([[[0.5, 0.5, 0.1, 0.2], [0.5, 0.5, 0.8, 0.2], [0.5, 0.5, 0.2, 0.8]]] * 2, np.float32)
    found = Slots(boxes, np.array([[0.1, 0.9, 0.6], [0.2, 0.9, 0.4]], np.float32))
    assert found.kinds.tolist() == [[0, 1, 2]] * 2
    assert found.found().tolist() == [0, 1, 0.5]
    assert found.order().tolist() == [1, 2, 0]
    figure = found.plot(most=2)
    assert [axis.get_title() for axis in figure.axes[:2]] == ["query 1: finds in 100%", "query 2: finds in 50%"]
    drawn = {line.get_label(): len(line.get_xdata()) for line in figure.axes[0].lines}
    assert drawn == {"small": 0, "wide": 2, "tall": 0}
    pyplot.close("all")


# ---- the page's data


def unpacked(block):
    values = np.frombuffer(zlib.decompress(b64decode(block["data"])), np.dtype(block["kind"]).newbyteorder("<"))
    return values.reshape(block["shape"])


def test_packed_maps_keep_each_weight_to_half_a_step():
    weights = np.random.default_rng(0).random((3, 2, 4, 5)) ** 4
    weights[1, 0] = 0
    block = packed_maps(weights)
    steps, tops = unpacked(block["steps"]), unpacked(block["tops"])
    found = steps / 255 * tops[..., None, None]
    assert np.abs(found - weights).max() <= weights.max() / 255 / 2 + 1e-6
    assert tops == pytest.approx(weights.max((-2, -1)))


@pytest.mark.parametrize("plan", [PLANS[0], PLANS[-1]])
@pytest.mark.parametrize("name", ["detr_tiny", "deformable_detr_tiny"])
def test_packed_image_holds_what_was_seen(name, plan):
    seen = detrkit.explain(tiny(name), noise())
    page = json.loads(json.dumps(packed_image("a", seen, plan, 0.2, 200)))
    chosen = page["queries"]
    assert len(chosen) == min(plan.queries, 8)
    assert unpacked(page["boxes"]) * [96, 64, 96, 64] == pytest.approx(seen.boxes[:, chosen], abs=1e-3)
    assert np.array(page["scores"]) == pytest.approx(seen.scores[:, chosen].max(-1), abs=1e-3)
    assert len(unpacked(page["between"]["tops"])) == 3
    cells = [
        row * page["encoder"]["grid"][1] + column
        for row in page["encoder"]["rows"]
        for column in page["encoder"]["columns"]
    ]
    assert len(cells) <= plan.cells
    for sights, first, asked, block in (
        (seen.cross, 0, chosen, page["cross"]),
        (seen.encoder, page["encoder"]["first"], cells, page["encoder"]),
    ):
        kept, packed = sights[first:], block.get("maps") or block["weights"]
        weights = unpacked(packed["steps"]) / 255 * unpacked(packed["tops"])[..., None, None]
        for layer, sight in enumerate(kept):
            for place, query in enumerate(asked):
                check_packed(weights[layer, place], block, (layer, place), sight, query)


def check_packed(weights, block, where, sight, query):
    """One query's packed look is its sight."""
    if sight.points is None:
        merged = len(weights) == 1
        for head, found in enumerate(weights):
            assert found == pytest.approx(sight.grid(query, None if merged else head), abs=0.005)
        return
    points = unpacked(block["points"])[where] / 65535 * 2 - 0.5
    assert weights == pytest.approx(sight.weights[query], abs=0.005)
    assert points == pytest.approx(sight.points[query].clip(-0.5, 1.5), abs=1e-4)
    assert block["outside"][where[0]][where[1]] == pytest.approx(sight.outside(query).mean(), abs=1e-4)


def test_shown_are_detections_then_losers_then_the_best_of_the_rest():
    seen = detrkit.explain(tiny(num_queries=30), noise())
    best = seen.scores[-1].max(-1)
    threshold = float(np.sort(best)[-4])
    chosen = chosen_queries(seen, threshold, 40)
    assert sorted(chosen[:4]) == sorted(np.flatnonzero(best >= threshold))
    lost = [q for q in chosen[4:] if seen.winners[q] in chosen[:4]]
    assert lost == chosen[4 : 4 + len(lost)]
    assert len(set(chosen)) == len(chosen) >= 12
    assert len(chosen_queries(seen, 0.0, 7)) == 7


def test_page_stays_small_whatever_the_model(tmp_path):
    """Many queries, cells and images: less of each is shown."""
    model = tiny(num_queries=60, short_side=256, long_side=384)
    images = [(f"{i}", noise(256, 384, seed=i)) for i in range(3)]
    path = save_explorer(model, images, tmp_path / "page.html", title="A page", threshold=0.0)
    assert path.stat().st_size <= LARGEST
    page = path.read_text(encoding="utf-8")
    assert page.count('type="application/json"') == 4


@pytest.mark.parametrize(
    ("images", "threshold", "message"),
    [(0, 0.5, "images do not make a page"), (13, 0.5, "expected 1 to 12"), (1, 1.5, "threshold out of range")],
)
def test_what_makes_no_page_is_refused(tmp_path, images, threshold, message):
    named = [("a", noise())] * images
    with pytest.raises(DetrkitError, match=message):
        save_explorer(tiny(), named, tmp_path / "page.html", title="A page", threshold=threshold)


def test_names_are_no_html(tmp_path):
    nasty = "</script><script>alert(1)</script>"
    path = save_explorer(tiny(), [(nasty, noise())], tmp_path / "page.html", title=nasty)
    text = path.read_text(encoding="utf-8")
    assert "<script>alert" not in text
    assert text.count("</script>") == 3


# ---- from the command line


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run's folder with a detector that learned nothing."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    sizes = ["d_model=32", "dim_feedforward=32", "short_side=48", "long_side=48", "num_queries=6"]
    words = ["data=toy(length=4, size=48)", *sizes, "steps=1", "batch_size=2", "eval_every=0"]
    assert main(["train", "detr_tiny", *words, "--out", str(folder)]) == 0
    return folder


@pytest.mark.timeout(240)
def test_command_explains_the_split_or_named_images(run, tmp_path, capsys):
    noise().save(tmp_path / "photo.png")
    for words, images, has_slots in (
        ([], 6, False),
        ([str(tmp_path / "photo.png"), "--slots", "3", "--out", str(tmp_path / "own.html")], 1, True),
    ):
        capsys.readouterr()
        assert main(["explain", str(run), *words]) == 0
        (path,) = capsys.readouterr().out.split()
        page = (run / "explorer.html" if not words else tmp_path / "own.html").read_text(encoding="utf-8")
        assert path.endswith(".html")
        assert page.count('id="image-') == images
        assert ('"slots":null' not in page) == has_slots


@pytest.mark.timeout(240)
def test_command_refuses_what_has_no_effect(run, tmp_path, capsys):
    noise().save(tmp_path / "photo.png")
    assert main(["explain", str(run), str(tmp_path / "photo.png"), "--split", "val"]) == 2
    assert "either images, or --data and --split" in capsys.readouterr().err
