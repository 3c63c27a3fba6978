"""The explorer's page in a real browser: what it draws is what the arrays say, by mouse, finger and keyboard."""

import json

import numpy as np
import pytest
import torch
from browser import Browser, chromium

import detrkit
from detrkit.cli import main
from detrkit.criterion import SetCriterion
from detrkit.explanation.explorer import LARGEST, explorer_page
from detrkit.explanation.packing import chosen_queries
from detrkit.explanation.slots import slots
from detrkit.preprocessing import normalize

pytestmark = [
    pytest.mark.skipif(chromium() is None, reason="no Chromium on this machine"),
    pytest.mark.timeout(240),
]

QUERIES = 30
STEPS = 30  # enough that the queries differ and some find something
DETECTIONS = 3  # in the first image, by the threshold
TOP = [253, 231, 37]  # the colour of what was read most: viridis ends in it
FIRST_PAINT = """new Promise(done => new PerformanceObserver(list => done(list.getEntries()[0].startTime))
    .observe({ type: "paint", buffered: true }))"""
OPAQUE, POWER = 0.88, 0.8  # of a map's colours: alpha of the brightest, and how it grows with the weight


def learned(name, seed):
    """A detector after some steps on four toy images, and two of these."""
    torch.manual_seed(seed)
    model = detrkit.build(name, d_model=32, dim_feedforward=32, num_queries=QUERIES, num_classes=3).train()
    data = detrkit.make("datasets", "toy(length=4)", split="train")
    pairs = [data[i] for i in range(4)]
    images, targets = torch.stack([normalize(image) for image, _ in pairs]), [target for _, target in pairs]
    criterion, optimizer = SetCriterion.from_config(model.config), torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(STEPS):
        optimizer.zero_grad()
        criterion(model(images), targets).total.backward()
        optimizer.step()
    return model.eval(), [image for image, _ in pairs[:2]]


class Opened:
    """A page in the browser beside what it shows."""

    def __init__(self, browser, path, explained, threshold):
        self.browser, self.path, self.explained = browser, path, explained
        self.threshold = threshold

    @property
    def seen(self):
        """What was seen in the first image."""
        return self.explained[0][1]

    @property
    def chosen(self):
        """Its queries, in the page's order."""
        return chosen_queries(self.seen, self.threshold, 40)

    def alpha(self, shape):
        """Opacity of the drawn map at the centre of every cell, and the cell of its most opaque pixel."""
        height, width = shape
        levels, place = self.browser.run(
            f"""(() => {{
                const canvas = document.getElementById("heat");
                const {{ data }} = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
                const at = (x, y) => data[4 * (Math.floor(y) * canvas.width + Math.floor(x)) + 3];
                const centres = [];
                for (let row = 0; row < {height}; row += 1)
                  for (let column = 0; column < {width}; column += 1)
                    centres.push(at((column + 0.5) * canvas.width / {width}, (row + 0.5) * canvas.height / {height}));
                let best = 0;
                for (let i = 3; i < data.length; i += 4) if (data[i] > data[best]) best = i;
                const pixel = Math.floor(best / 4);
                return [centres, [Math.floor(Math.floor(pixel / canvas.width) * {height} / canvas.height),
                                  Math.floor(pixel % canvas.width * {width} / canvas.width)]];
            }})()"""
        )
        return np.array(levels).reshape(shape), tuple(place)

    def color(self, x, y):
        """Red, green, blue of the drawing at a place in fractions of the image."""
        return self.browser.run(
            f"""(() => {{
                const canvas = document.getElementById("heat");
                const [x, y] = [Math.floor({x} * canvas.width), Math.floor({y} * canvas.height)];
                return [...canvas.getContext("2d").getImageData(x, y, 1, 1).data];
            }})()"""
        )

    def text(self, selector):
        """What an element says."""
        return self.browser.run(f"document.querySelector({json.dumps(selector)}).textContent")

    def place_of(self, index):
        """A place in the window where a box lies on top of all others; None where it lies nowhere on top."""
        return self.browser.run(
            f"""(() => {{
                const box = document.getElementById("boxes").children[{index}];
                box.scrollIntoView({{ block: "nearest" }});
                const {{ left, top, width, height }} = box.getBoundingClientRect();
                for (let i = 1; i < 400; i += 1) {{
                  const place = [left + (i % 20) / 20 * width, top + Math.floor(i / 20) / 20 * height];
                  if (document.elementFromPoint(...place)?.closest(".box") === box) return place;
                }}
                return null;
            }})()"""
        )

    def box(self, index):
        """(x1, y1, x2, y2) of a drawn box as fractions of the image."""
        left, top, width, height = self.browser.run(
            f"(({{left, top, width, height}}) => [left, top, width, height].map(parseFloat))"
            f"(document.getElementById('boxes').children[{index}].style)"
        )
        return np.array([left, top, left + width, top + height]) / 100

    def check(self, sight, query, head=None):
        """Require that the drawn look is that of a query."""
        if sight.points is None:
            grid = sight.grid(query, head)
            self.browser.press("c")
            cells, _ = self.alpha(grid.shape)
            self.browser.press("c")
            _, peak = self.alpha(grid.shape)
            top = max(grid.max(), 4 * grid.mean())
            assert cells == pytest.approx(255 * OPAQUE * (grid / top) ** POWER, abs=4)
            assert grid[peak] >= grid.max() - 0.01 * top  # colours have 255 steps
            return
        chosen = slice(None) if head is None else slice(head, head + 1)
        points, weights = sight.points[query, chosen].reshape(-1, 2), sight.weights[query, chosen].flatten()
        best = weights.argmax()
        if (points[best] > 0.01).all() and (points[best] < 0.99).all():
            assert self.color(*points[best])[:3] == pytest.approx(TOP, abs=12)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with Browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture(scope="module", params=["detr_tiny", "deformable_detr_tiny"])
def written(request, tmp_path_factory):
    """The page of a detector that learned a little, what it shows, and the threshold of a detection."""
    for seed in range(9):  # until a query loses to a detection
        model, images = learned(request.param, seed)
        explained = [(f"image {i}", detrkit.explain(model, image)) for i, image in enumerate(images)]
        seen = explained[0][1]
        best = seen.scores[-1].max(-1)
        threshold = float(np.sort(best)[-DETECTIONS])
        if any(best[seen.losers(query)].min(initial=1) < threshold for query in np.flatnonzero(best >= threshold)):
            break
    path = tmp_path_factory.mktemp("pages") / "page.html"
    found = slots(model, images)
    path.write_text(explorer_page(explained, title="A page", threshold=threshold, found=found), encoding="utf-8")
    return path, explained, threshold


@pytest.fixture
def page(browser, written):
    """The page, opened anew; at the end it has complained of nothing."""
    path, explained, threshold = written
    browser.said.clear()
    browser.open(path)
    yield Opened(browser, path, explained, threshold)
    assert browser.errors() == []


def test_page_is_small_and_painted_within_a_second(page):
    assert page.path.stat().st_size < LARGEST
    times = []
    while len(times) < 3 and min(times, default=1000) >= 1000:
        page.browser.open(page.path)
        times.append(page.browser.run(FIRST_PAINT))
    assert min(times) < 1000, times


def test_hovering_a_box_shows_what_its_query_read(page):
    page.browser.press("Escape")
    places = {index: place for index in range(DETECTIONS) if (place := page.place_of(index))}
    assert places
    for index, place in places.items():
        query = page.chosen[index]
        page.browser.hover(*place)
        assert page.text("#says").startswith(f"Query {query} says")
        page.check(page.seen.cross[-1], query)
        page.browser.hover(2, 2)
    assert page.text("#says") == ""


def test_slider_moves_boxes_scores_and_what_was_read(page):
    seen, size = page.seen, np.array([page.seen.image.width, page.seen.image.height] * 2)
    for layer, press in ((2, None), (1, "ArrowLeft"), (0, "ArrowLeft"), (1, "ArrowRight")):
        if press:
            page.browser.press(press)
        assert page.text("#layer-number") == f"{layer + 1} of 3"
        for index in range(DETECTIONS):
            assert page.box(index) == pytest.approx(seen.boxes[layer, page.chosen[index]] / size, abs=1e-4)
        score = seen.scores[layer, page.chosen[0]].max()
        assert float(page.text(".list li .score")) == pytest.approx(score, abs=0.0051)
        page.check(seen.cross[layer], page.chosen[0])
    page.browser.click(*page.browser.place("#layer", 0.01))
    assert page.text("#layer-number") == "1 of 3"


def test_heads_are_shown_one_by_one(page):
    for key, head in (("3", 2), ("8", 7), ("0", None)):
        page.browser.press(key)
        page.check(page.seen.cross[-1], page.chosen[0], head)
    page.browser.click(*page.browser.place(".heads button:nth-child(5)"))
    page.check(page.seen.cross[-1], page.chosen[0], 3)
    assert page.browser.run("document.querySelectorAll('.heads button').length") == 9


def test_a_click_on_any_place_shows_what_it_read_in_the_encoder(page):
    page.browser.press("m")
    page.browser.click(*page.browser.place("#picture", 0.37, 0.81))
    seen, (height, width) = page.seen, page.seen.encoder[0].shapes[0]
    cell = seen.cell_at(0.37 * seen.image.width, 0.81 * seen.image.height)
    assert (
        f"row {cell // width + 1}, column {cell % width + 1} of {height} \N{MULTIPLICATION SIGN} {width}"
        in page.text("#says")
    )
    page.check(seen.encoder[-1], cell)
    page.browser.press("ArrowLeft")
    assert (page.text("#layer-name"), page.text("#layer-number")) == ("Encoder layer", "1 of 2")
    page.check(seen.encoder[0], cell)
    page.browser.press("ArrowLeft", shift=True)
    page.browser.press("ArrowUp", shift=True)
    page.check(seen.encoder[0], cell - width - 1)


def test_queries_that_lost_name_the_winner(page):
    """Down the list, each query is shown as what it is; losers are drawn dashed."""
    seen, chosen = page.seen, page.chosen
    lost = 0
    for index, query in enumerate(chosen):
        if index:
            page.browser.press("ArrowDown")
        winner = int(seen.winners[query])
        said = page.text("#says")
        assert said.startswith(f"Query {query} ")
        if index >= DETECTIONS and winner in chosen:
            lost += 1
            assert f"It lost: query {winner} wants the same object" in said
            assert page.browser.run("getComputedStyle(document.querySelector('.box.chosen')).borderStyle") == "dashed"
        else:
            assert "lost" not in said
    assert lost


def test_matrix_shows_how_queries_read_each_other(page):
    weights = page.seen.queries[-1].mean(0)[np.ix_(page.chosen, page.chosen)]
    row, column = np.unravel_index(weights.argmax(), weights.shape)
    edge = page.browser.run("EDGE")
    cell = page.browser.run("(document.getElementById('matrix').width - EDGE)") / len(weights)
    x, y = edge + cell * (column + 0.5), cell * (row + 0.5)
    color = page.browser.run(
        f"[...document.getElementById('matrix').getContext('2d').getImageData({int(x)}, {int(y)}, 1, 1).data]"
    )
    assert color[:3] == pytest.approx(TOP, abs=3)
    left, top = page.browser.place("#matrix", 0, 0)
    page.browser.hover(left + x, top + y)
    said = page.text("#matrix-says")
    assert said.startswith(f"Query {page.chosen[row]} ")
    assert f"{weights[row, column]:.0%}".rstrip("%") in said
    page.browser.click(left + x, top + y)
    assert page.text("#says").startswith(f"Query {page.chosen[row]} ")


def test_keys_help_theme_and_images(page):
    def color():
        return page.browser.run("getComputedStyle(document.body).backgroundColor")

    light = color()
    page.browser.press("t")
    dark = color()
    page.browser.press("t")
    assert color() == light != dark
    page.browser.open(page.path, scheme="dark")
    assert color() == dark
    page.browser.press("?")
    assert page.browser.run("document.getElementById('manual').open")
    page.browser.press("Escape")
    page.browser.run("document.getElementById('manual').close()")
    page.browser.press("]")
    assert page.browser.run("document.getElementById('image').alt") == "image 1"
    page.browser.press("[")
    assert page.browser.run("document.getElementById('image').alt") == "image 0"
    page.browser.press("Escape")
    assert page.browser.run("document.querySelectorAll('.box.chosen').length") == 0
    assert page.alpha((1, 1))[0].sum() == 0


def test_fingers_do_what_the_mouse_does(page):
    page.browser.open(page.path, width=390, height=844, touch=True)
    assert page.browser.run("document.documentElement.scrollWidth") <= 390
    page.browser.press("Escape")
    index, place = next((i, place) for i in range(DETECTIONS) if (place := page.place_of(i)))
    page.browser.tap(*place)
    assert page.text("#says").startswith(f"Query {page.chosen[index]} says")
    page.check(page.seen.cross[-1], page.chosen[index])
    page.browser.tap(*page.browser.place("#ask-pixels"))
    page.browser.tap(*page.browser.place("#picture", 0.2, 0.2))
    page.check(page.seen.encoder[-1], page.seen.cell_at(0.2 * page.seen.image.width, 0.2 * page.seen.image.height))


def test_slots_are_shown(page):
    assert page.browser.run("document.querySelectorAll('#slot-list canvas').length") == QUERIES
    assert "gave in 2 images" in page.text("#slots-note")
    drawn = "c => c.getContext('2d').getImageData(0, 0, c.width, c.height).data.some(v => v)"
    assert page.browser.run(f"[...document.querySelectorAll('#slot-list canvas')].every({drawn})")


def test_photographs(browser, shared, tmp_path):
    """The page of a BCCD run, from the command line."""
    trunk = shared / "weights/shufflenetv2_x0_5_cocodet_trunk_tv_rgbnorm.pth"
    fields = [
        f"data=voc(root='{shared / 'data/bccd'}')",
        f"backbone=torchvision(model=shufflenet_v2_x0_5, weights='{trunk}')",
        *("short_side=96", "long_side=128", "num_queries=20", "d_model=32", "dim_feedforward=32"),
        *("transforms=small", "batch_size=4", "steps=2", "eval_every=0"),
    ]
    run = tmp_path / "run"
    assert main(["train", "detr_tiny", *fields, "--out", str(run)]) == 0
    assert main(["explain", str(run), "--split", "test", "--limit", "2", "--slots", "4", "--threshold", "0.1"]) == 0
    browser.said.clear()
    browser.open(run / "explorer.html")
    model = detrkit.load(run)
    image, _ = detrkit.make("datasets", fields[0].removeprefix("data="), split="test")[0]
    page = Opened(browser, run / "explorer.html", [("", detrkit.explain(model, image))], 0.1)
    assert page.path.stat().st_size < LARGEST
    for index in range(3):
        page.check(page.seen.cross[-1], page.chosen[index])
        browser.press("ArrowDown")
    for name in ("best", "worst"):
        if (run / f"explorer/{name}.html").exists():
            browser.open(run / f"explorer/{name}.html")
    assert browser.errors() == []
