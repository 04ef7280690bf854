"""Pictures, class shares and histograms of the report: where every pixel and bar lands, and what is refused."""

import base64
import io
import json
import struct
import zlib

import numpy as np
import pytest
import report_fixture as made
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from test_report import read

from collapse_jax import report
from collapse_jax.measures.series import Quantity
from collapse_jax.report import facets, figures, load, order, sheets, shows, words
from collapse_jax.report.shows import Histogram, Picture, Shares
from collapse_jax.report.style import Look, looks
from collapse_jax.workflows import Arm

LOOKS = looks({"replace": {}, "accumulate": {}})


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = made.write(tmp_path_factory.mktemp("images"), made.three_arms(), seeds=(0, 1), images=True)
    return folder, read(report.build(folder))


def one_arm(folder, generations):
    arms = {"replace": Arm("replace")}
    return made.write(folder, arms, (0,), generations, metrics=("test_loss",), images=True)


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def test_page_shows_them_under_their_titles(built):
    folder, page = built
    for part in (
        "Pictures by generation",
        "Samples (same noise)",
        "Real, reconstructed",
        "Class share of samples",
        "C-C bond length",
        "Mean over 2 seeds.",
        "Seed 0.",
    ):
        assert part in page.words
    names = {p.name for p in (folder / "figures").iterdir()}
    assert {
        "samples_same_noise.png",
        "real_reconstructed.png",
        "shares_class_share_of_samples.png",
        "histogram_c_c_bond_length.png",
    } <= names
    assert len(names) == sum(a.startswith("data:image/png") for a in page.addresses)
    assert "Samples side by side" not in page.words


def test_measures_stand_in_order_of_importance(built):
    folder, page = built
    order = ["Samples against real data", "Diversity, modes and tails", "Held-out real data", "Fit and other"]
    places = [page.words.index(heading) for heading in order]
    assert places == sorted(places)
    html = (folder / "report.html").read_text()
    wanted = [
        "test loss",
        "Fréchet distance",
        "precision",
        "recall",
        "class coverage",
        "reconstruction",
        "train",
    ]
    at = [html.index(f'alt="{name}') for name in wanted]
    assert at == sorted(at)
    table = page.words[page.words.index("All measures in the last generation") :]
    assert all(
        f" {name.replace('_', ' ')}" in table for name in made.IMAGE_UNITS if name != "frechet_distance"
    )


def test_many_measures_are_grouped_and_few_are_not():
    splits = {"held_out_diversity": "synthetic", "test_elbo": "real_test", "mean_length": "synthetic"}
    names = ["held_out_diversity", "mean_length", "diversity", "coverage_recall_1.25", "coverage_recall_0.5"]
    names += ["test_elbo", "precision", "train_loss", "held_out_coverage_recall_0.5", "recall"]
    found = order.grouped(Quantity(n, "", splits.get(n, "synthetic")) for n in names)
    assert [(heading, [q.metric for q in members]) for heading, members in found] == [
        ("Samples against real data", ["precision", "recall", "coverage_recall_0.5", "coverage_recall_1.25"]),
        ("Diversity, modes and tails", ["diversity"]),
        ("Samples for held-out rows", ["held_out_coverage_recall_0.5", "held_out_diversity"]),
        ("Held-out real data", ["test_elbo"]),
        ("Fit and other measures", ["mean_length", "train_loss"]),
    ]
    few = order.grouped(Quantity(n, "", splits.get(n, "synthetic")) for n in names[:9])
    assert [(heading, len(members)) for heading, members in few] == [("", 9)]
    assert order.grouped([]) == []
    assert words.explained("held_out_diversity").startswith(words.explained("diversity"))


def test_rows_are_arms_and_columns_generations():
    colours = np.random.default_rng(0).integers(20, 235, (2, 3, 3))
    cells = {
        arm: {
            t: Picture("x", np.broadcast_to(colours[a, c], (6, 10, 3)).astype(np.uint8), True)
            for c, t in enumerate((1, 4, 9))
        }
        for a, arm in enumerate(LOOKS)
    }
    image = pixels(sheets.sheet(cells, LOOKS))
    boxes = np.empty((2, 3, 4), int)
    for a in range(2):
        for c in range(3):
            y, x = np.nonzero((image == colours[a, c]).all(-1))
            boxes[a, c] = y.min(), y.max() + 1, x.min(), x.max() + 1
            assert len(y) == 60 * sheets.ENLARGED**2  # whole, and in whole pixels
    tops, bottoms, lefts, rights = boxes.transpose(2, 0, 1)
    assert (tops == tops[:, :1]).all() and (lefts == lefts[:1]).all()
    assert (bottoms[0] < tops[1]).all() and (rights[:, :-1] < lefts[:, 1:]).all()
    assert (bottoms - tops == 6 * sheets.ENLARGED).all() and (rights - lefts == 10 * sheets.ENLARGED).all()


def test_enlarged_pixels_are_those_of_the_file(tmp_path):
    folder = one_arm(tmp_path, 1)
    show = json.loads((folder / "generations" / "first-0" / "show.json").read_text())
    wanted = pixels(base64.b64decode(show["pictures"][0]["png"]))
    report.build(folder)
    sheet = pixels((folder / "figures" / "samples_same_noise.png").read_bytes())
    n = sheets.ENLARGED
    assert sheet.shape[0] >= wanted.shape[0] * n
    found = sheet[-wanted.shape[0] * n :, : wanted.shape[1] * n]
    np.testing.assert_array_equal(found[n // 2 :: n, n // 2 :: n], wanted)


def test_what_is_the_same_everywhere_is_drawn_once():
    same = np.random.default_rng(0).integers(0, 255, (8, 8, 3)).astype(np.uint8)
    cells = {arm: {t: Picture("real", same.copy(), True) for t in (1, 2)} for arm in LOOKS}
    assert sheets.single(cells)
    image = pixels(sheets.sheet(cells, LOOKS))
    assert image.shape == (8 * sheets.ENLARGED, 8 * sheets.ENLARGED, 3)
    cells["replace"][2] = Picture("real", 255 - same, True)
    assert not sheets.single(cells)


@pytest.mark.parametrize(
    "width, factor", [(240, 409.6 / 240), (100, 4), (50, 8), (20, 8), (600, 409.6 / 600)]
)
def test_pixelated_pictures_fill_their_room_without_smoothing(width, factor):
    blocks = np.random.default_rng(0).integers(0, 255, (10, width // 10, 3)).astype(np.uint8)
    source = blocks.repeat(10, 0).repeat(10, 1)
    found = sheets._scaled(Picture("x", source, True), 409.6)
    assert found.shape == (round(100 * factor), round(width * factor), 3)
    at_H, at_W = (((np.arange(n) * 10 + 5) * factor).astype(int) for n in blocks.shape[:2])
    np.testing.assert_array_equal(found[at_H][:, at_W], blocks)


def test_wide_pictures_leave_fewer_columns():
    def columns(width, last):
        return sheets._columns({"a": {t: Picture("x", np.zeros((9, width, 3))) for t in range(1, last + 1)}})

    assert columns(200, 6) == [1, 2, 3, 4, 5, 6]
    assert columns(1024, 6) == [1, 2, 6] and columns(1024, 2) == [1, 2]


def test_large_sheets_are_drawn_smaller():
    noise = np.random.default_rng(0).integers(0, 255, (3, 200, 200, 3)).astype(np.uint8)
    cells = {"replace": {t: Picture("x", noise[t - 1]) for t in (1, 2, 3)}}
    assert len(sheets.sheet(cells, LOOKS)) > 400_000
    assert len(sheets.sheet(cells, LOOKS, 400_000)) <= 400_000


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int = 4, height: int = 4, rows: bytes = b"\0" * 52, extra: bytes = b"") -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = chunk(b"IHDR", header), extra, chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")
    return shows.SIGNATURE + b"".join(parts)


def jpeg() -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (4, 4)).save(out, "JPEG")
    return out.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"<svg onload='alert(1)'/>",
        jpeg(),
        png()[:40],
        png()[:48],
        png(rows=b"\0" * 5),
        png(100_000, 100_000),
        png(0, 0),
        png(extra=chunk(b"zTXt", b"a\0\0" + zlib.compress(b"\0" * 10**8))),
    ],
    ids=["empty", "svg", "jpeg", "header", "cut", "short", "bomb", "nothing", "text bomb"],
)
def test_what_is_no_picture_is_not_shown(data):
    assert shows._pixels(base64.b64encode(data).decode()) is None


@pytest.mark.parametrize("text", [None, 5, ["x"], "no base64!", "aGVs", "é"])
def test_what_is_no_base64_is_not_shown(text):
    assert shows._pixels(text) is None


def test_pictures_are_decoded_onto_white_and_bounded():
    rgba = np.zeros((2, 2, 4), np.uint8)
    rgba[0, 0] = 200, 100, 0, 255
    found = shows._pixels(made.base64_png(rgba))
    assert found is not None and found[0, 0].tolist() == [200, 100, 0] and (found[1] == 255).all()
    wide = shows._pixels(made.base64_png(np.zeros((16, 2048), np.uint8)))
    assert wide is not None and wide.shape == (8, shows.MOST_SIDE, 3)


def test_nothing_of_the_file_but_its_pixels_reaches_the_page(tmp_path):
    folder = one_arm(tmp_path, 2)
    path = folder / "generations" / "first-0" / "show.json"
    secret = chunk(b"tEXt", b"Comment\0<script>alert(1)</script>")
    raw = json.loads(path.read_text())
    data = base64.b64encode(png(extra=secret) + b"<script>").decode()
    hostile = "<script>alert(2)</script>\u202e/../../x"
    raw["pictures"] = [{"title": hostile, "png": data}, {"title": "broken", "png": "AAAA"}]
    raw["shares"] = [{"title": hostile, "names": [hostile, "b"], "values": [0.5, 0.5]}]
    raw["histograms"] = [{"title": hostile, "unit": hostile, "edges": [0, 1, 3], "values": [0.5, 0.5]}]
    path.write_text(json.dumps(raw))
    html = report.build(folder).read_text()
    page = read(folder / "report.html")
    assert "script" not in page.tags and "\u202e" not in html and "<script>alert(2)" in page.words
    assert data not in html and "broken" in page.words
    for figure in (folder / "figures").iterdir():
        assert b"alert(1)" not in figure.read_bytes()
    outside = {p for p in tmp_path.rglob("*") if p.is_file()} - set((folder / "figures").iterdir())
    assert not any("script" in p.name for p in outside)


PNG = base64.b64decode(made.grid(np.random.default_rng(0).uniform(0, 1, (8, 8, 8))))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(PNG) - 1), st.integers(0, 255)), min_size=1, max_size=6))
def test_damaged_pictures_never_raise(changes):
    data = bytearray(PNG)
    for at, byte in changes:
        data[at] = byte
    found = shows._pixels(base64.b64encode(bytes(data)).decode())
    assert found is None or (found.dtype == np.uint8 and found.ndim == 3)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda x: st.lists(x, max_size=3) | st.dictionaries(st.text(max_size=5), x, max_size=3),
    max_leaves=6,
)
NUMBERS = st.lists(st.floats(0, 1), max_size=4)
ENTRY = st.fixed_dictionaries(
    {}, optional={k: NUMBERS | JSON for k in ("title", "png", "names", "values", "real", "unit", "edges")}
)
SHOW = st.fixed_dictionaries(
    {},
    optional={
        k: JSON | st.lists(ENTRY, max_size=3)
        for k in ("lines", "prompts", "pictures", "shares", "histograms")
    },
)


@settings(max_examples=100, deadline=None)
@given(SHOW | JSON)
def test_no_show_is_bad_enough_to_stop_the_report(tmp_path_factory, raw):
    path = tmp_path_factory.mktemp("show") / "generations" / "a" / "show.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(raw))
    for show in shows.read_shows(path.parents[2], {"0": ["a"]}).values():
        assert all(np.isfinite(s.values).all() and len(s.values) == len(s.names) for s in show.shares)
        assert all(
            (np.diff(h.edges) > 0).all() and len(h.values) + 1 == len(h.edges) for h in show.histograms
        )


@pytest.mark.parametrize(
    "change",
    [
        {"values": [0.5, -0.1]},
        {"values": [0.5]},
        {"values": [0.5, "much"]},
        {"values": [0.5, float("nan")]},
        {"values": [0.5, 10**400]},
        {"values": {"a": 1}},
        {"edges": [0, 2, 1]},
        {"edges": [0, 1, float("inf")]},
        {"edges": [0, 1]},
        {"edges": "abc"},
    ],
)
def test_histograms_that_are_none_are_left_out(change):
    entry = {"title": "t", "unit": "Å", "edges": [0, 1, 3], "values": [0.5, 0.5]}
    assert shows._histogram(entry) is not None
    assert shows._histogram({**entry, **change}) is None


def test_shares_and_histograms_are_means_over_seeds(tmp_path):
    folder = made.write(tmp_path, {"replace": Arm("replace")}, seeds=(0, 1, 2), generations=4, images=True)
    raw = json.loads((folder / "experiment.json").read_text())
    found = shows.read_shows(folder, raw["ids"]["replace"])
    for t, show in found.items():
        files = [
            folder / "generations" / chain[t - 1] / "show.json" for chain in raw["ids"]["replace"].values()
        ]
        each = [json.loads(f.read_text()) for f in files]
        for kind, (item,) in (("shares", show.shares), ("histograms", show.histograms)):
            wanted = np.mean([x[kind][0]["values"] for x in each], 0)
            np.testing.assert_allclose(item.values, wanted, rtol=1e-12)
            assert item.seeds == 3
        first = pixels(base64.b64decode(each[0]["pictures"][0]["png"]))
        np.testing.assert_array_equal(show.pictures[0].pixels, first)


def test_only_so_many_generations_are_read(tmp_path):
    folder = made.write(tmp_path, {"replace": Arm("replace")}, seeds=(0,), generations=80, images=True)
    raw = json.loads((folder / "experiment.json").read_text())
    found = shows.read_shows(folder, raw["ids"]["replace"])
    drawn = [t for t, show in found.items() if show.pictures]
    stacked = [t for t, show in found.items() if show.shares]
    assert len(drawn) <= shows.SHOWN_PICTURES and drawn[0] == 1 and drawn[-1] == 80
    assert len(stacked) <= shows.SHOWN_SHARES and {1, 80} <= set(stacked)


def test_more_arms_than_are_drawn_are_counted(tmp_path):
    arms = {f"arm {k:02}": Arm("replace") for k in range(14)}
    folder = made.write(tmp_path, arms, seeds=(0,), generations=2, images=True, metrics=("test_loss",))
    e = load.read(folder)
    (by_arm,) = figures._by_title(e, "shares").values()
    assert list(by_arm) == list(arms)[:12]
    assert figures._left_out(e, by_arm) == " 2 more arms left out."


class Captured:
    """The matplotlib figure that a plot draws, instead of its PNG."""

    def __init__(self, monkeypatch):
        self.axes: list = []
        self.legend: list[str] = []

        def take(draw, width, height, dpi):
            from matplotlib.figure import Figure

            figure = Figure(figsize=(width, height))
            draw(figure)
            self.axes = figure.axes
            self.legend = [text.get_text() for legend in figure.legends for text in legend.get_texts()]
            return b""

        monkeypatch.setattr(facets, "png", take)


def test_every_bar_of_the_stack(monkeypatch):
    rng = np.random.default_rng(0)
    names, real = ("a", "b", "c"), np.array([0.2, 0.3, 0.5])
    by_arm = {
        arm: {t: Shares("x", names, rng.dirichlet(np.ones(3)), real) for t in (1, 2, 5)} for arm in LOOKS
    }
    seen = Captured(monkeypatch)
    facets.share_stack(by_arm, LOOKS)
    assert seen.legend == ["c", "b", "a"]
    for axes, by_t in zip(seen.axes, by_arm.values(), strict=True):
        columns = {}
        for bar in (p for p in axes.patches if p.get_height() > 0):
            columns.setdefault(round(bar.get_x() + bar.get_width() / 2, 6), []).append(bar)
        places = sorted(columns)
        assert places[0] < 0 and places[1:] == [1, 2, 5]
        for x, wanted in zip(places, (real, *(s.values for s in by_t.values())), strict=True):
            bars = sorted(columns[x], key=lambda b: b.get_y())
            np.testing.assert_allclose([b.get_height() for b in bars], wanted)
            np.testing.assert_allclose([b.get_y() for b in bars], np.cumsum([0, *wanted[:-1]]), atol=1e-12)


def test_many_classes_keep_the_commonest_and_their_sum(monkeypatch):
    real = np.random.default_rng(0).permutation(np.arange(1, 31)) / 465
    names = tuple(f"class {k}" for k in range(30))
    seen = Captured(monkeypatch)
    facets.share_stack({"replace": {1: Shares("x", names, real, real)}}, LOOKS)
    kept = sorted(np.argsort(-real)[: facets.CLASSES - 1].tolist())
    assert seen.legend == ["others", *(names[c] for c in reversed(kept))]
    top = max(p.get_y() + p.get_height() for p in seen.axes[0].patches)
    assert top == pytest.approx(1.0)


def test_histograms_are_densities(monkeypatch):
    edges, values = np.array([1.0, 1.5, 3.0]), np.array([0.25, 0.75])
    seen = Captured(monkeypatch)
    facets.histograms({"replace": {1: Histogram("x", "Å", edges, values, values[::-1])}}, LOOKS)
    (axes,) = seen.axes
    stairs = [patch.get_data() for patch in axes.patches]
    np.testing.assert_allclose([np.sum(s.values * np.diff(s.edges)) for s in stairs], 1)
    np.testing.assert_allclose(stairs[1].values, [0.5, 0.5])
    assert axes.get_ylabel() == "density [1/Å]" and seen.legend == ["real data", "generation 1"]


def test_names_that_do_not_fit_are_cut():
    name, size = facets._fitting("an arm with a name that is far too long to stand above its plot", 2.0)
    assert name.startswith("an arm") and "…" in name and name.endswith("plot") and size == 8.0
    assert facets._fitting("replace", 2.0) == ("replace", 10.5)
    assert isinstance(LOOKS["replace"], Look)
