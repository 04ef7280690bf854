"""The report against independent truths: scipy's intervals, the JSON lines, a strict reading of the HTML."""

import csv
import json
import math
import os
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import report_fixture as made
from scipy import stats as scipy_stats

from collapse_jax import report
from collapse_jax.config import BadInput
from collapse_jax.measures import series
from collapse_jax.report import load, outcomes, style, words
from collapse_jax.workflows import Arm

LOSS = ("test_loss",)
VOID = {"meta", "img", "br", "hr", "link", "input"}
REFERENCE = (
    {
        "label": "GPT-2 9M replace (Kazdan et al. 2024)",
        "arm": "replace",
        "metric": "test_loss",
        "points": [[1, 1.815], [2, 2.072], [3, 2.205], [4, 2.304], [5, 2.394]],
    },
)


class Page(HTMLParser):
    """Every tag closed in order; texts, addresses and tags collected."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.addresses: list[str] = []
        self.attributes: set[str] = set()
        self.text: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []
        self.words = " ".join(" ".join(self.text).split())

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "title"):
            self.text.append(data)


def read(path: Path) -> Page:
    return Page(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    folder = made.write(tmp_path_factory.mktemp("quick"), made.three_arms(), reference=REFERENCE)
    return folder, report.build(folder)


def test_csv_holds_every_record(quick):
    folder, _ = quick
    records = [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]
    with open(folder / "records.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(records) > 0
    for row, record in zip(rows, records, strict=True):
        assert set(row) == set(record)
        for key, value in record.items():
            as_text = value if isinstance(value, str) else json.dumps(value)
            assert row[key] == ("" if value is None else as_text)
            if isinstance(value, float):
                assert float(row[key]) == value


def test_page_is_well_formed_and_self_contained(quick):
    _, path = quick
    page = read(path)
    assert "script" not in page.tags and "link" not in page.tags
    assert not any(name.startswith("on") for name in page.attributes)
    outside = [a for a in page.addresses if not a.startswith("data:image/png;base64,")]
    assert sorted(outside) == ["figures/", "records.csv"]
    assert "url(" not in path.read_text() and "@import" not in path.read_text()
    for part in (
        "Test loss by generation",
        "Workflows",
        "Measures by generation",
        "Samples side by side",
        "Lineage",
        "sample loss under first",
        "resolved settings",
        "0.10.2",
        "cpu x 2",
    ):
        assert part in page.words
    assert "running" not in page.words


def test_sentence_and_table_say_the_numbers(quick):
    folder, path = quick
    records = [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]
    loss = {
        (r["seed"], r["generation"]): r["value"]
        for r in records
        if (r["arm"], r["metric"]) == ("replace", "test_loss")
    }
    change = [loss[s, 5] - loss[s, 1] for s in (0, 1)]
    half = scipy_stats.t.ppf(0.975, 1) * scipy_stats.sem(change)
    told = words.plus_minus(float(np.mean(change)), float(half))
    assert f"Test loss rises by {told} nats/token under replace" in read(path).words.replace("\u00a0", " ")
    table = outcomes.summary(outcomes.shown(records))
    line = next(x for x in table.splitlines() if x.startswith("replace "))
    assert f"+{told}" in line and line.endswith("rises")
    assert "nats/token" in table and "95 %" in table


def test_every_figure_is_in_the_folder_and_on_the_page(quick):
    folder, path = quick
    names = {p.name for p in (folder / "figures").iterdir()}
    assert {"test_loss.png", "lineage.png", "workflow_replace.png", "tail_recall.png"} <= names
    assert path.read_text().count("data:image/png") == len(names)
    assert all(p.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n" for p in (folder / "figures").iterdir())


def test_same_input_same_bytes(quick, tmp_path):
    folder, _ = quick
    other = tmp_path / "elsewhere"
    shutil.copytree(folder, other)
    shutil.rmtree(other / "figures")
    os.remove(other / "report.html")
    report.build(other)
    files = [p.relative_to(folder) for p in sorted(folder.rglob("*")) if p.is_file()]
    assert files == [p.relative_to(other) for p in sorted(other.rglob("*")) if p.is_file()]
    assert all((folder / f).read_bytes() == (other / f).read_bytes() for f in files)


def test_running_experiment_says_how_far(tmp_path):
    folder = made.write(tmp_path, made.three_arms(), committed=9, metrics=LOSS)
    page = read(report.build(folder))
    assert "running: 9 of 26 generations committed" in page.words
    assert "one seed" in page.words


def test_without_a_status_what_was_measured_is_committed(tmp_path):
    folder = made.write(tmp_path, made.three_arms(), committed=9, metrics=LOSS)
    raw = json.loads((folder / "experiment.json").read_text())
    del raw["status"]
    (folder / "experiment.json").write_text(json.dumps(raw))
    assert "running: 9 of 26 generations committed" in read(report.build(folder)).words


def test_nothing_measured_yet(tmp_path):
    folder = made.write(tmp_path, made.three_arms(), committed=0)
    page = read(report.build(folder))
    assert "No measurements yet" in page.words and "running: 0 of 26" in page.words
    os.remove(folder / "records.jsonl")
    assert "No measurements yet" in read(report.build(folder)).words
    assert outcomes.summary(outcomes.shown([])) == "no measurements yet"


def test_diverged_generation_is_said_and_ends_the_mean(tmp_path):
    folder = made.write(tmp_path, made.three_arms(), diverged=[("replace", 0, 4)], metrics=LOSS)
    page = read(report.build(folder))
    assert "1 generation diverged; 1 generation not fitted" in page.words and "running" not in page.words
    assert "replace, seed 0 at generation 4" in page.words
    records = load.read_records(folder / "records.jsonl")
    curve = next(by["replace"] for q, by in series.curves(records).items() if q.metric == "test_loss")
    np.testing.assert_array_equal(curve.whole_G, [True, True, True, False, False])
    assert curve.diverged == {0: 4}
    assert "diverges" in outcomes.summary(outcomes.shown(records))


def test_all_seeds_diverged(tmp_path):
    gone = [("replace", 0, 2), ("replace", 1, 2)]
    folder = made.write(tmp_path, {"replace": Arm("replace")}, diverged=gone, metrics=LOSS)
    assert "diverges" in outcomes.summary(outcomes.shown(load.read_records(folder / "records.jsonl")))
    assert "2 generations diverged" in read(report.build(folder)).words


@pytest.mark.parametrize("value", [None, "nan", "inf", math.nan, math.inf])
def test_every_spelling_of_not_finite_is_a_divergence(value):
    base = {"arm": "a", "seed": 0, "metric": "test_loss", "unit": "nats", "split": ""}
    records = [{**base, "generation": 1, "value": 1.0}, {**base, "generation": 2, "value": value}]
    (curve,) = (by["a"] for by in series.curves(json.loads(json.dumps(records))).values())
    assert curve.diverged == {0: 2}


def test_one_seed_has_no_interval(tmp_path):
    folder = made.write(tmp_path, made.three_arms(), seeds=(3,), metrics=LOSS)
    table = outcomes.summary(outcomes.shown(load.read_records(folder / "records.jsonl")))
    assert "±" not in table and "one seed" in table
    assert "±" not in read(report.build(folder)).words


def test_unpaired_seeds_end_where_all_have_arrived():
    base = {"arm": "a", "metric": "test_loss", "unit": "nats", "split": ""}
    reached = [(s, t) for s, last in ((0, 5), (1, 3)) for t in range(1, last + 1)]
    records = [{**base, "seed": s, "generation": t, "value": float(t + s)} for s, t in reached]
    (by_arm,) = series.curves(records).values()
    (row,) = outcomes.outcomes(by_arm)
    assert row.generations == (1, 3) and row.change.mean == 2 and row.seeds == 2


def test_theory_is_compared_in_standard_errors(tmp_path):
    folder = made.closed_form(tmp_path / "right", seeds=50, generations=20)
    records = load.read_records(folder / "records.jsonl")
    page = read(report.build(folder))
    ends = [r for r in records if r["arm"] == "replace" and r["generation"] == 20]
    values = [r["value"] for r in ends]
    z = (np.mean(values) - ends[0]["predicted"]) / scipy_stats.sem(values)
    ((_, by_arm),) = series.curves(records).items()
    found = outcomes.agreements(next(iter(series.curves(records))), by_arm)[0]
    np.testing.assert_allclose(found.z, z, rtol=1e-9)
    assert "Simulation against theory" in page.words and words.number(z, 0.1, sign=True) in page.words
    assert 'class="far"' not in (folder / "report.html").read_text()
    wrong = made.closed_form(tmp_path / "wrong", seeds=50, generations=20, wrong=2.0)
    assert 'class="far"' in report.build(wrong).read_text()


def marked(exact, reliable, seeds=400):
    base = {
        "arm": "a",
        "seed": None,
        "metric": "test_loss",
        "unit": "1",
        "split": "population",
        "seeds": seeds,
    }
    return [
        {
            **base,
            "generation": t,
            "value": 1.0 + t,
            "se": 0.1,
            "predicted": 1.2 + t,
            "exact": e,
            "reliable": r,
        }
        for t, (e, r) in enumerate(zip(exact, reliable, strict=True), 1)
    ]


def test_no_z_where_the_law_or_the_error_is_not_known(tmp_path):
    cases = {
        "": ([True] * 3, [True] * 3),
        "too few seeds for this tail": ([True] * 3, [True, False, False]),
        "leading order": ([False] * 3, [True] * 3),
    }
    for why, (exact, reliable) in cases.items():
        records = marked(exact, reliable)
        ((q, by_arm),) = series.curves(records).items()
        (a,) = outcomes.agreements(q, by_arm)
        known = np.array(exact) & np.array(reliable)
        np.testing.assert_allclose(by_arm["a"].z_G, np.where(known, -2.0, np.nan))
        assert a.why == why and a.compared == known.sum() and a.generation == 3
        line = outcomes.summary(outcomes.shown(records)).splitlines()[-1]
        assert (why or f"{words.MINUS}2.0") in line
        (tmp_path / "experiment.json").write_text(json.dumps({"generations": 3}))
        (tmp_path / "records.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
        told = read(report.build(tmp_path)).words.split("Simulation against theory")[1]
        assert (why or f"{words.MINUS}2.00 (t =") in told and (
            f" {words.MINUS}2.00 (t =" in told
        ) == known.any()


def test_a_loss_about_zero_nats_is_weighed_against_one():
    def told(unit):
        base = {"arm": "a", "metric": "test_loss", "unit": unit, "split": "real_test"}
        values = {(s, t): 0.001 * s + 0.01 * (t - 1) + 1e-5 * s * t for s in range(3) for t in (1, 2)}
        records = [{**base, "seed": s, "generation": t, "value": v} for (s, t), v in values.items()]
        ((q, by_arm),) = series.curves(records).items()
        return outcomes.outcomes(by_arm, q.unit)[0].verdict

    assert told("nats/dim") == "rises slightly" and told("squared error") == "rises"


def test_the_terminal_ends_with_table_and_profile(quick):
    folder, _ = quick
    told = report.conclusion(folder)
    assert told.startswith(outcomes.summary(outcomes.shown(load.read_records(folder / "records.jsonl"))))
    assert "definitions of collapse" in told and told.splitlines()[-1].endswith("8 hallucination")
    assert max(map(len, told.splitlines())) < 100


def test_means_without_seeds_are_drawn_with_their_standard_error(tmp_path):
    base = {
        "arm": "replace",
        "seed": None,
        "generation_id": "",
        "metric": "test_loss",
        "unit": "1",
        "split": "real_test",
        "se": 0.1,
        "seeds": 2000,
    }
    records = [{**base, "generation": t, "value": t * 1.0, "predicted": t + 0.05} for t in (1, 2, 3)]
    (by_arm,) = series.curves(records).values()
    curve = by_arm["replace"]
    np.testing.assert_allclose(curve.half_G, scipy_stats.t.ppf(0.975, 1999) * 0.1)
    assert "+2.00 ±" in outcomes.summary(outcomes.shown(records))
    (tmp_path / "experiment.json").write_text(json.dumps({"engine": "closed_form", "generations": 3}))
    (tmp_path / "records.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    assert "2,000 seeds" in read(report.build(tmp_path)).words


def test_hostile_text_is_shown_not_obeyed(tmp_path):
    arm = "中a<b onclick=x>&\"'\u202e\ud800$x_1$"
    folder = made.write(
        tmp_path, {"replace": Arm("replace")}, (0,), 2, metrics=LOSS, name="<img src=http://x>"
    )
    for name in ("experiment.json", "records.jsonl"):
        text = (folder / name).read_text().replace('"replace"', json.dumps(arm))
        (folder / name).write_text(text)
    bad = "</div><script>alert(1)</script>\x00\x1b[31m\u202e\ud800<img src=x onerror=y>{{ e }}"
    show = folder / "generations" / "first-0" / "show.json"
    show.write_text(json.dumps({"lines": [bad, bad], "prompts": ["</div>", 5]}))
    path = report.build(folder)
    page = read(path)
    assert "script" not in page.tags and "onerror" not in page.attributes
    assert not any(a.startswith("http") for a in page.addresses)
    assert "<script>alert(1)</script>␀␛[31m⟨U+202E⟩⟨U+D800⟩<img src=x onerror=y>{{ e }}" in page.words
    assert "\x00" not in path.read_text() and "\u202e" not in path.read_text()


def test_samples_stand_side_by_side(quick):
    folder, path = quick
    page = read(path)
    line = json.loads((folder / "generations" / "replace-0-3" / "show.json").read_text())["lines"][2]
    assert " ".join(line.split()) in page.words
    assert page.words.count("generation 4") >= 3


def test_shows_outside_the_store_are_not_read(tmp_path):
    folder = made.write(tmp_path / "in", {"replace": Arm("replace")}, seeds=(0,), generations=2, metrics=LOSS)
    (tmp_path / "in" / "secret").mkdir()
    (tmp_path / "in" / "secret" / "show.json").write_text(json.dumps({"lines": ["do not show"]}))
    raw = json.loads((folder / "experiment.json").read_text())
    raw["ids"] = {"replace": {"0": ["../secret", "first-0"]}}
    (folder / "experiment.json").write_text(json.dumps(raw))
    assert "do not show" not in report.build(folder).read_text()


def test_twelve_arms_of_fifty_generations(tmp_path):
    folder = made.write(
        tmp_path, made.twelve_arms(), seeds=(0, 1, 2), generations=50, metrics=("test_loss", "tail_recall")
    )
    page = read(report.build(folder))
    assert "Only the latest parent is drawn" in page.words and "12 more chains" in page.words
    assert len(list((folder / "figures").glob("workflow_*.png"))) == 3
    colours = style.looks({name: {"workflow": arm.workflow} for name, arm in made.twelve_arms().items()})
    assert len({(x.colour, x.marker, x.dash) for x in colours.values()}) == 12
    assert len({x.colour for x in colours.values()}) == 12


def test_several_experiments_in_one_report(quick, tmp_path):
    folder, _ = quick
    other = made.write(
        tmp_path / "other", made.three_arms(), seeds=(0, 1, 2), generations=3, metrics=LOSS, name="other"
    )
    theory = made.closed_form(tmp_path / "theory", seeds=5, generations=4)
    path = report.build_many([folder, other, theory], tmp_path / "out")
    page = read(path)
    assert path == tmp_path / "out" / "report.html"
    for arm in ("quickstart: replace", "other: replace", "theory: accumulate"):
        assert arm in page.words
    with open(tmp_path / "out" / "records.csv", newline="") as file:
        assert len(list(csv.DictReader(file))) == sum(
            len((f / "records.jsonl").read_text().splitlines()) for f in (folder, other, theory)
        )
    assert report.build_many([other]) == other.resolve() / "report.html"
    assert report.build_many([other, theory]).parent == other.resolve() / "comparison"


def test_same_name_twice_is_told_apart_by_folder(tmp_path):
    a = made.write(tmp_path / "a", {"replace": Arm("replace")}, generations=2, metrics=LOSS)
    b = made.write(tmp_path / "b", {"replace": Arm("replace")}, generations=2, metrics=LOSS)
    words_ = read(report.build_many([a, b])).words
    assert "a: replace" in words_ and "b: replace" in words_


@pytest.mark.parametrize("content", [None, "", "{", "[1]", '{"arms": 5}', '{"generations": "many"}'])
def test_unreadable_experiment_is_one_clear_line(tmp_path, content):
    if content is not None:
        (tmp_path / "experiment.json").write_text(content)
    with pytest.raises(BadInput) as caught:
        report.build(tmp_path)
    assert "experiment.json" in str(caught.value) and "\n" not in str(caught.value)
    assert [p.name for p in tmp_path.iterdir()] in ([], ["experiment.json"])


def test_a_last_line_being_written_is_left_out_and_a_bad_one_refused(tmp_path):
    folder = made.write(tmp_path, made.three_arms(), generations=2, metrics=LOSS)
    path = folder / "records.jsonl"
    whole = path.read_text()
    path.write_text(whole + '{"arm": "repl')
    report.build(folder)
    path.write_text('{"arm": "repl\n' + whole)
    with pytest.raises(BadInput, match="line 1"):
        report.build(folder)


def test_a_failed_write_leaves_the_old_page(quick, tmp_path, monkeypatch):
    folder = tmp_path / "copy"
    shutil.copytree(quick[0], folder)
    before = (folder / "report.html").read_bytes()
    made.write(folder, made.three_arms(), committed=5)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(report.files.os, "replace", full)
    with pytest.raises(OSError):
        report.build(folder)
    assert (folder / "report.html").read_bytes() == before


def test_log_axis_where_values_span_decades(tmp_path):
    from matplotlib.figure import Figure

    from collapse_jax.report.axes import frame

    folder = made.closed_form(tmp_path, seeds=5, generations=100)
    (by_arm,) = series.curves(load.read_records(folder / "records.jsonl")).values()
    for arm, scale in (("replace", "log"), ("accumulate", "linear")):
        axes = Figure().add_subplot()
        frame(axes, {arm: by_arm[arm]}, 100, [])
        assert axes.get_yscale() == scale
