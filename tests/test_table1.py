import numpy as np
import pandas as pd
import pytest

from icmlib.config import FinetuneConfig, replace
from icmlib.studies import table1, verdicts
from icmlib.studies.profile import Profile, load_profile
from icmlib.studies.verdicts import finding

ROWS = "rows: {a: {}, b: {layers: 3}, c: {layers: 1}}"


def row(ap, change, excess, lpp, psnr=0.5, ssim=0.01, feature=0.0):
    """A row as a run's summary gives it; AP's change +- 0.01, LPP +- 0.5 dB, PSNR +- 0.2 dB."""
    spread = {"mask_AP_difference": (change, 0.01), "psnr_difference": (psnr, 0.2)}
    spread |= {"ssim_difference": (ssim, 0.0), "feature_difference": (feature, 0.005)}
    spread |= {"lpp2": (lpp, 0.5), "lpp4": (lpp / 2, 0.5), "lpp8": (0.0, 0.5)}
    spread |= {"excess_prms": (excess, 0.05)}
    made = {"mask_AP": ap}
    for name, (value, half) in spread.items():
        made |= {name: value, f"{name}_low": value - half, f"{name}_high": value + half}
    return made


@pytest.fixture
def table():
    rows = {
        "base": row(0.50, 0, 2.0, 20, psnr=0, ssim=0),
        "p3x64": row(0.49, -0.01, 0.1, 4, feature=0.01),
        "low_impact": row(0.50, 0.00, 1.5, 15, feature=-0.01),
        "blurry": row(0.495, -0.005, 0.1, 6, feature=0.02),
        "extra": row(0.51, 0.01, 0.1, 3, feature=-0.02),
        "best": row(0.52, 0.02, 0.1, 3, psnr=-0.5),
        "gaussian": row(0.53, 0.03, 0.1, 3),
    }
    return table1.relative(pd.DataFrame.from_dict(rows, orient="index"))


def test_the_peak_is_the_highest_of_all_periods(table):
    assert table["period"].tolist() == [2] * 7
    other = table1.relative(table.assign(lpp8=[30.0] * 7))
    assert other.loc["p3x64", ["peak", "period"]].tolist() == [30.0, 8]


def test_an_aim_holds_where_its_whole_interval_does(table):
    aims = table1.aims(table, "p3x64", removed=90, peak=5, change=-1.6).set_index("finding")
    assert aims["verdict"].to_dict() == {
        "p3x64: at least 90 % of the excess pattern removed": "holds",
        "p3x64: no lattice peak above 5 dB": "holds",
        "p3x64: mask AP at most 1.6 % down": "undecided",  # -2 % [-4, 0]
        "p3x64: PSNR up": "holds",
        "p3x64: SSIM up": "holds",
    }
    verdicts = table1.aims(table, "low_impact", change=0, feature=0)["verdict"].tolist()
    assert verdicts == ["undecided", "holds", "holds", "holds"]
    vgg = table.assign(vgg_difference=0.1, vgg_difference_low=0.05, vgg_difference_high=0.2)
    added = table1.aims(vgg, "low_impact", change=0, vgg=0).set_index("finding")["verdict"]
    assert added["low_impact: VGG distance not up"] == "does not hold"
    assert table1.aims(table, "best", change=0)["verdict"].tolist()[1] == "does not hold"


def test_a_row_that_was_not_run_has_no_aims(table):
    for name in ("p5x64", None):
        assert table1.aims(table, name, change=0).empty
        assert "verdict" in table1.aims(table, name, change=0)


def test_without_a_machine_that_detects_the_vgg_distance_counts(table):
    """Of which less is better; in words and figures, no AP is left."""
    none = table.drop(columns=[name for name in table if "AP" in name or "feature" in name])
    for end, off in (("", 0.0), ("_low", -0.01), ("_high", 0.01)):
        changes = np.array([0.0, -0.04, 0.002, 0.03, -0.05, 0.0, 0.1])
        none[f"vgg_difference{end}"] = changes + off
    none = table1.relative(none.assign(vgg=0.4 + changes))
    low, value = none.loc["p3x64", ["vgg_change_low", "vgg_change"]]
    assert (low, value) == pytest.approx((-12.5, -10))
    found = table1.aims(none, "p3x64", "low_impact", "blurry", change=-1.6, feature=0)
    said = found[found["finding"].str.contains("VGG distance not up")]["verdict"]
    assert said.tolist() == ["holds", "undecided", "does not hold"] and len(found) == 9
    assert "VGG distance by -10.0 % [-12.5, -7.5]" in table1.effect(none.loc["p3x64"])
    beside = table1.beside_paper(none)
    assert "AP" not in beside and beside.loc["p3x64", "agrees"] == "not in vgg"


def test_rows_are_those_that_were_run_on_this_base(project, finished):
    """In the profile's order; not what was moved aside, is unfinished or is of another base."""
    root, test = project(tiny=ROWS), row(0.5, 0.0, 1.0, 10)
    filters = ("post_filter/bilateral", "post_filter/bilateral.old-1")
    for run in ("finetune/c", "finetune/a", "finetune/a.old-1", "finetune/mine", *filters):
        finished(run, base="now", test=test, label=run[-1])
    finished("finetune/b", base="before", test=test)
    (root / "results/tiny/post_filter/gaussian").mkdir()
    with pytest.raises(FileNotFoundError, match="base_codec/base is not finished"):
        table1.read_rows(load_profile("tiny"), "test")
    finished("base_codec/base", test=test, label="base", weights="now")
    table = table1.read_rows(load_profile("tiny"), "test")
    assert table.index.tolist() == ["base", "a", "c", "bilateral"]
    assert table.loc["c", "label"] == "c"


def test_findings_are_counted_over_seeds(project):
    """Of the seeds that have it, by this checkout's own runs: not published, nor from scratch."""
    found = pd.DataFrame({"finding": ["a", "b"], "verdict": ["holds", "does not hold"]})
    found["value"] = [1.0, 2.0]
    for name, finding_, value in (
        ("tiny-seed1", "a", 10.0),
        ("tiny-seed2", "b", 20.0),
        ("reference/tiny-seed3", "b", 30.0),
        ("tiny-seed4-scratch", "b", 40.0),
    ):
        folder = project(tiny=ROWS) / "results" / name
        folder.mkdir(parents=True)
        table = pd.DataFrame({"finding": [finding_], "verdict": "holds", "value": value})
        table.to_csv(folder / "aims.csv", index=False)
    seeds = verdicts.across_seeds(load_profile("tiny"), found, "aims")
    assert seeds["holds"].tolist() == ["2 of 2", "1 of 2"]
    assert seeds["seed 0"].tolist() == [1.0, 2.0]
    assert seeds["spread"].tolist() == pytest.approx([4.5 * 2**0.5, 9 * 2**0.5])
    assert seeds["seed 2"].tolist() == pytest.approx([np.nan, 20.0], nan_ok=True)
    alone = verdicts.across_seeds(load_profile("tiny-seed1"), found, "aims")
    assert alone.columns.tolist() == ["finding", "holds", "spread", "seed 1"]


def test_beside_paper_compares_signs_row_by_row(table):
    ours = table.loc[["base", "p3x64", "low_impact"]].copy()
    beside = table1.beside_paper(ours)
    assert beside.loc["p3x64", "AP_paper"] == pytest.approx(100 * (0.752 / 0.766 - 1))
    assert beside.loc["p3x64", "psnr_paper"] == pytest.approx(0.831)
    assert beside["agrees"].tolist() == ["yes", "yes"]
    ours.loc["p3x64", "psnr_difference"] = -0.1
    assert table1.beside_paper(ours)["agrees"].tolist() == ["not in psnr", "yes"]
    assert table1.beside_paper(ours.loc[["base"]]).empty
    measured = ours.assign(psnr_difference=0.5, vgg_difference=0.1)  # the paper: +0.002, -0.026
    assert table1.beside_paper(measured)["agrees"].tolist() == ["yes", "not in vgg"]


def test_label_names_what_differs():
    assert table1.label(FinetuneConfig()) == "3x64, hinge 0.1, lr 0.0001"
    other = FinetuneConfig(layers=1, adversarial="none", lambda_lattice=0.2)
    assert table1.label(other) == "3x64, 1 layer, L2 only, lr 0.0001, lattice 0.2"


def test_a_row_is_the_profiles_or_has_changes_and_a_name_of_its_own():
    profile = Profile(name="made", rows={"strong": {}, "blurry": {"patches": 5}})
    assert table1.finetuning(profile, "blurry", {}).patches == 5
    assert table1.finetuning(profile, "mine", {"patches": 7}).patches == 7
    with pytest.raises(ValueError, match=r"unknown row 'blury'.*strong, blurry"):
        table1.finetuning(profile, "blury", {})
    with pytest.raises(ValueError, match="row 'blurry' is the profile's"):
        table1.finetuning(profile, "blurry", {"patches": 7})


def test_changes_are_the_settings_that_differ_from_the_reference():
    rows = {"p3x64": {}, "same": {}, "layers3": {"layers": 3}, "two": {"layers": 3, "patches": 5}}
    configs = {name: replace(FinetuneConfig(), row) for name, row in rows.items()}
    rows.pop("p3x64")
    assert table1.changes(configs, "p3x64") == rows
    assert table1.changes(configs, "not run") == {}


def test_an_answer_says_what_it_rests_on(new_run):
    run = new_run()
    run.provenance = {"profile": "t", "seed": 3}
    assert verdicts.answer(run, "It is.", "", "So.") == "It is. So. One training (seed 3)."
    two = verdicts.answer(run, "It is.", seeds=["seed 0", "seed 1"])
    assert two == "It is. 2 trainings (seed 0, seed 1)."
    run.provenance["numbers"] = "mean nothing: a trial"
    trial = verdicts.answer(run, "It is.", trained=False)
    assert trial == "A trial: these numbers mean nothing. It is."


def test_changes_are_relative_to_the_base_codec_and_carry_their_intervals(table):
    """They speak of the machine only where it looked."""
    start = "removes 95.0 % [92.5, 97.5] of the excess pattern and changes "
    rest = "PSNR by +0.50 dB [+0.30, +0.70] and SSIM by +0.010 [+0.010, +0.010]"
    row = table.loc["p3x64"]
    assert table1.effect(row) == f"{start}mask AP by -2.0 % [-4.0, +0.0], {rest}"
    assert table1.effect(row.drop("mask_AP_change")) == start + rest
    assert verdicts.interval_text(row, "peak", "dB") == "4.00 dB [3.50, 4.50]"
    unknown = {"a": 12.34, "a_low": np.nan, "a_high": 20.0}
    assert verdicts.interval_text(unknown, "a") == "n/a"


def test_verdicts_are_told_and_counted():
    found = pd.DataFrame([
        finding("a: PSNR up", "dB", {"value": 1.0, "low": 0.5, "high": 1.5}),
        finding("a: AP not down", "%", {"value": 0.0, "low": -1.0, "high": 1.0}),
        finding("a: SSIM up", "", {"value": 1.0, "low": 0.5, "high": 1.5}),
    ])  # fmt: skip
    assert verdicts.listed(found) == "Holds: PSNR up, SSIM up. Undecided: AP not down."
    assert verdicts.claim(found.iloc[1]) == "a: AP not down: undecided (+0 % [-1, +1])"
    two = pd.DataFrame({"holds": ["2 of 2", "0 of 2", "1 of 2"], "seed 0": 0.0, "seed 1": 0.0})
    told = verdicts.tally(found, "aims", two)
    assert told == "2 of 3 aims hold, 1 of them in every training."
    assert verdicts.tally(found, "aims", two.drop(columns="seed 1")) == "2 of 3 aims hold."
