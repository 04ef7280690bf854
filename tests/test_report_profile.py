"""The collapse profile on the page: every arm and definition, its marks, lines and escapes."""

import json
import re
from html.parser import HTMLParser

import pytest
import report_fixture as made

from collapse_jax import report
from collapse_jax.config import BadInput
from collapse_jax.measures import definitions
from collapse_jax.measures.definitions import NO, NOT_APPLICABLE, UNDECIDED, YES, Finding
from collapse_jax.measures.evidence import Thresholds
from collapse_jax.measures.stats import Interval
from collapse_jax.report import load, profile
from collapse_jax.workflows import Arm


class Section(HTMLParser):
    """The table of the profile: rows of (class, text)."""

    def __init__(self, html):
        super().__init__()
        start = html.index('<section class="profile">')
        self.rows, self.words = [], ""
        self.feed(html[start : html.index("</section>", start)])
        self.words = " ".join(self.words.split())

    def handle_starttag(self, tag, attrs):
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append([dict(attrs).get("class", ""), ""])

    def handle_data(self, data):
        self.words += data
        if self.rows and self.rows[-1]:
            self.rows[-1][-1][1] += data + " "


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = made.write(tmp_path_factory.mktemp("quick"), made.three_arms(), seeds=(0, 1, 2, 3))
    return folder, report.build(folder).read_text(encoding="utf-8")


def test_table_says_what_the_records_say(built):
    folder, html = built
    section = Section(html)
    found = definitions.profile(load.read_records(folder / "records.jsonl"))
    heads, limits, *arms = section.rows[: 2 + len(found)]
    assert [h[1].split()[0] for h in heads[1:]] == list("12345678")
    assert limits[1][1].strip() == "risk ratio > 2"
    for (arm, findings), row in zip(found.items(), arms, strict=True):
        assert row[0][1].strip() == arm
        for finding, (style, text) in zip(findings, row[1:], strict=True):
            assert style == f"left {profile.CLASSES[finding.verdict]}"
            assert profile.MARKS[finding.verdict] in text
            assert finding.verdict in text or finding.verdict == NOT_APPLICABLE
            assert profile.estimate(finding) in text
    assert {f.verdict for fs in found.values() for f in fs} >= {YES, NO, NOT_APPLICABLE}


def test_section_stands_before_theory_and_explains_itself(built, tmp_path):
    words = Section(built[1]).words
    for part in (
        "Kazdan et al. 2025: 1 and 3 explicit",
        "3 and 8 implicit, 5, 6 and 7 explicit",
        "2503.03150",
    ):
        assert part in words
    assert "perplexity: generation 5 over generation 1; 4 seeds, paired" in words
    theory = report.build(made.closed_form(tmp_path, seeds=20, generations=6)).read_text()
    assert theory.index("Collapse profile") < theory.index("Simulation against theory")


def test_no_records_no_profile(tmp_path):
    (tmp_path / "experiment.json").write_text(json.dumps({"generations": 3}))
    assert "Collapse profile" not in report.build(tmp_path).read_text()
    assert profile.table({}, Thresholds()) == {} and profile.text({}) == ""


def test_names_are_escaped(tmp_path):
    arm = "<b>x\u202e"
    folder = made.write(tmp_path, {arm: Arm("replace")})
    html = report.build(folder).read_text()
    assert "<b>x" not in html and "\u202e" not in html and "&lt;b&gt;x" in html


@pytest.mark.parametrize(
    "interval, told",
    [
        (Interval(3.8312, 3.7203, 3.9421), "3.83 ± 0.11"),
        (Interval(1.343, 1.2, 10.2), "1.34 (1.20 to 10.20)"),
        (Interval(1.0, 1.0, 1.0), "1.000 ± 0.000"),
        (Interval(0.52), "0.5200"),
        (Interval(float("inf"), float("inf"), float("inf")), "∞"),
        (Interval(float("nan")), ""),
    ],
)
def test_estimates_are_written_with_their_interval(interval, told):
    assert profile.estimate(Finding(1, UNDECIDED, interval)) == told


def test_a_difference_is_told_as_one():
    found = Finding(8, YES, Interval(0.25, 0.2, 0.3), change="drop", metric="frechet_distance")
    assert profile.cell(found).estimate == "drop 0.250 ± 0.050"
    assert profile.cell(found).metric == "Fréchet distance"


def test_every_mark_differs_without_colour():
    assert len(set(profile.MARKS.values())) == len(profile.MARKS) == 4


def test_thresholds_are_shown():
    assert profile.criteria(Thresholds(catastrophic=7.5))[0] == "risk ratio > 7.5"
    assert len(profile.criteria(Thresholds())) == len(profile.SHORT) == 8


def thresholds(folder, given):
    raw = json.loads((folder / "experiment.json").read_text())
    raw["config"]["thresholds"] = given
    (folder / "experiment.json").write_text(json.dumps(raw))
    return folder


def test_thresholds_are_read_from_the_settings(tmp_path):
    made.write(tmp_path, made.three_arms(), seeds=(0, 1, 2), metrics=("test_loss",))
    assert profile.limits(load.read(tmp_path)) == (Thresholds(), False)
    thresholds(tmp_path, {"catastrophic": 7.5, "level": 0.9})
    assert profile.limits(load.read(tmp_path)) == (Thresholds(catastrophic=7.5, level=0.9), False)
    words = Section(report.build(tmp_path).read_text()).words
    assert "risk ratio > 7.5" in words and "with 90 % Student t intervals" in words
    calls = [report.conclusion(thresholds(tmp_path, {"catastrophic": x})).count("yes") for x in (1.01, 100.0)]
    assert calls[0] > calls[1]


@pytest.mark.parametrize("given", [{"catastrophic": "much"}, {"modes": 2.0}, {"unknown": 1.0}])
def test_thresholds_that_cannot_be_used_are_one_clear_line(tmp_path, given):
    made.write(tmp_path, made.three_arms(), seeds=(0,), metrics=("test_loss",))
    with pytest.raises(BadInput, match=f"config.thresholds.{next(iter(given))}") as caught:
        report.build(thresholds(tmp_path, given))
    assert "\n" not in str(caught.value)


def test_experiments_with_different_thresholds_are_judged_by_the_defaults(tmp_path):
    folders = [
        made.write(tmp_path / name, {name: Arm("replace")}, metrics=("test_loss",), name=name)
        for name in "ab"
    ]
    thresholds(folders[0], {"catastrophic": 7.5})
    words = Section(report.build_many(folders).read_text()).words
    assert "risk ratio > 2" in words and "so these are the defaults" in words


def test_claims_name_the_papers_definitions():
    """The figure of arXiv 2503.03150, as the digest of the literature gives it."""
    told = dict(part.split(": ", 1) for part in profile.claims().split("; "))
    assert told["Gerstgrasser et al. 2024"] == "3 explicit"
    assert told["Seddik et al. 2024"] == "5 and 7 explicit"
    assert told["Shumailov et al. 2023"] == "3 and 8 implicit, 5, 6 and 7 explicit"


def test_terminal_form(built):
    folder, _ = built
    found = definitions.profile(load.read_records(folder / "records.jsonl"))
    lines = profile.text(found).splitlines()
    assert lines[1].split() == list("12345678")
    for arm, line in zip(found, lines[2:], strict=False):
        assert re.fullmatch(rf"{arm} +(yes|no|\?|-)( +(yes|no|\?|-)){{7}}", line)
    assert [name in " ".join(lines) for name in ("1 catastrophic increase", "8 hallucination")] == [True] * 2


def sized(folder, n, width=256):
    """An experiment on n rows whose loss is n^-0.5 in generation 1 and n^-0.2 in generation 2."""
    folder.mkdir()
    config = {"rows": n, "model": {"width": width}, "arms": {"replace": {"workflow": "replace"}}}
    experiment = {"name": f"n{n}", "generations": 2, "rows": n, "config": config, "arms": config["arms"]}
    (folder / "experiment.json").write_text(json.dumps(experiment))
    lines = [
        {
            "arm": "replace",
            "seed": s,
            "generation": t,
            "metric": "test_loss",
            "unit": "1",
            "split": "real_test",
            "value": n ** -(0.5 if t == 1 else 0.2) * (1 + 0.001 * s * t),
        }
        for s in range(3)
        for t in (1, 2)
    ]
    (folder / "records.jsonl").write_text("".join(json.dumps(r) + "\n" for r in lines))
    return folder


def test_experiments_that_differ_in_rows_show_the_scaling_law(tmp_path):
    folders = [sized(tmp_path / str(n), n) for n in (100, 300, 1000)]
    html = report.build_many(folders).read_text()
    assert "c = 0.500 in generation 1, 0.200 in generation 2, 3 sizes from 100 to 1,000 rows" in html
    assert re.search(r'<td class="left yes"><b>■ yes</b><span>0.30', html)
    other = sized(tmp_path / "other", 3000, width=512)
    mixed = report.build_many([*folders[:2], other], tmp_path / "mixed").read_text()
    assert "in generation 2, 3 sizes" not in mixed


def test_panels_that_differ_in_rows_are_a_series():
    panels = {
        name: {"family": family, "rows": rows, "arms": {"replace": {"workflow": "replace"}}}
        for name, family, rows in (("a", "gaussian", 10), ("b", "gaussian", 20), ("c", "regression", 30))
    }
    arms = {f"{p}/replace": {} for p in panels}
    e = load.Experiment("x", arms=arms, settings=(("x", {"panels": panels}),))
    found = profile.sizes(e)
    assert [found[f"{p}/replace"][1] for p in panels] == [10, 20, 30]
    assert found["a/replace"][0] == found["b/replace"][0] != found["c/replace"][0]
