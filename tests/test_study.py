"""Table 1's logic on made tables that a person can check by hand."""

import pandas as pd
import pytest

from icmlib import study
from icmlib.config import FinetuneConfig, Profile


def row(ap, change, excess, lpp, psnr=0.5, ssim=0.01, feature=0.0):
    """A row as a run's summary gives it; `change` in AP with an interval of +- 0.01."""
    return {
        "mask_AP": ap,
        "mask_AP_difference": change,
        "mask_AP_difference_low": change - 0.01,
        "mask_AP_difference_high": change + 0.01,
        "excess_prms": excess,
        "lpp2": lpp,
        "lpp4": lpp / 2,
        "lpp8": 0.0,
        "psnr_difference": psnr,
        "ssim_difference": ssim,
        "feature_difference": feature,
    }


@pytest.fixture
def profile():
    rows = {
        "strong": {},
        "weak": {"lr": 1e-5},
        "blurry": {"patches": 5},
        "extra": {"lambda_feature": 1.0},
    }
    return Profile(name="made", rows=rows)


@pytest.fixture
def table():
    rows = {
        "base": row(0.50, 0, 2.0, 20, psnr=0, ssim=0),
        "strong": row(0.49, -0.01, 0.1, 4, feature=0.01),
        "weak": row(0.50, 0.00, 1.5, 15, feature=-0.01),
        "blurry": row(0.495, -0.005, 0.1, 6, feature=0.02),
        "extra": row(0.51, 0.01, 0.1, 3, feature=-0.02),
    }
    return study._relative(pd.DataFrame.from_dict(rows, orient="index"))


def test_changes_are_relative_to_the_base_codec(table):
    assert table.loc["strong", "mask_AP_change"] == pytest.approx(-2)
    assert table.loc["strong", "mask_AP_change_low"] == pytest.approx(-4)
    assert table.loc["strong", "removed"] == pytest.approx(95)


def test_pattern_is_gone_only_below_both_limits(table):
    assert table["gone"].to_dict() == {
        "base": False, "strong": True, "weak": False, "blurry": False, "extra": True
    }  # fmt: skip


def test_rows_are_chosen_by_mask_ap_among_those_that_qualify(profile, table):
    chosen = study.choose(profile, table)
    assert chosen == {"finetuned": "strong", "low_impact": "extra", "beyond": "extra"}


def test_no_qualified_row_is_reported_as_such(profile, table):
    table["gone"] = False
    chosen = study.choose(profile, table)
    assert chosen["finetuned"] is None and chosen["beyond"] is None
    aims = study.aims(table, chosen)
    assert not aims[aims["role"] == "finetuned"]["holds"].any()


def test_aims_read_the_test_table(profile, table):
    aims = study.aims(table, study.choose(profile, table)).set_index(["role", "aim"])["holds"]
    assert aims["finetuned", "pattern down by 90 %"]
    assert not aims["finetuned", "mask AP at most 1.6 % down"]  # -2 %
    assert aims["low_impact", "mask AP not below base"]
    assert aims["beyond"].all()


def test_without_masks_boxes_are_what_counts(profile, table):
    """The same rows by the same figures, named for what they are."""
    boxes = table.rename(columns=lambda name: name.replace("mask", "box"))
    chosen = study.choose(profile, boxes)
    assert chosen == study.choose(profile, table)
    made = study.aims(boxes, chosen)
    expected = study.aims(table, chosen).replace({"mask AP": "box AP"}, regex=True)
    pd.testing.assert_frame_equal(made, expected)
    again = study._relative(boxes.drop(columns=[name for name in boxes if "change" in name]))
    assert again.loc["strong", "box_AP_change"] == pytest.approx(-2)
    assert not [name for name in again if "mask" in name]


def test_beside_paper_compares_signs_row_by_row(table):
    ours = pd.concat([table.loc[["base"]], table.loc[["strong"]].rename({"strong": "p3x64"})])
    beside = study.beside_paper(ours)
    assert beside.loc["p3x64", "AP_paper"] == pytest.approx(100 * (0.752 / 0.766 - 1))
    assert beside.loc["p3x64", "psnr_paper"] == pytest.approx(0.831)
    assert beside.loc["p3x64", "agrees"] == "yes"
    ours.loc["p3x64", "psnr_difference"] = -0.1
    assert study.beside_paper(ours).loc["p3x64", "agrees"] == "not in psnr"


def test_label_names_what_differs():
    assert study.label(FinetuneConfig()) == "3x64, hinge 0.1, lr 0.0001"
    text = study.label(FinetuneConfig(layers=1, adversarial="none", lambda_lattice=0.2))
    assert text == "3x64, 1 layer, L2 only, lr 0.0001, lattice 0.2"


def test_a_table_without_rows_of_the_paper_has_nothing_beside_it(table):
    assert study.beside_paper(table).empty


def test_row_by_name_or_new_with_changes(profile):
    assert study.finetuning(profile, "blurry", {}).patches == 5
    assert study.finetuning(profile, "mine", {"patches": 7}).patches == 7


def test_misspelled_row_or_changes_to_the_tables_own_are_refused(profile):
    """Else one trains a row of defaults, the other replaces a row's results."""
    with pytest.raises(ValueError, match=r"unknown row 'blury'.*strong, weak, blurry, extra"):
        study.finetuning(profile, "blury", {})
    with pytest.raises(ValueError, match="row 'blurry' is the profile's"):
        study.finetuning(profile, "blurry", {"patches": 7})


def test_rows_that_differ_in_the_adversarial_term_alone():
    """The reference is L2 alone; other lambdas or patches make another question."""
    rows = {
        "hinge": {},
        "l2": {"adversarial": "none"},
        "weaker": {"lambda_adversarial": 1e-4},
        "larger": {"patch_size": 128},
        "feature": {"lambda_feature": 1.0},
    }
    profile = Profile(name="made", rows=rows)
    assert study.l2_and_adversarial(profile) == ("l2", ["hinge", "weaker"])
    assert study.l2_and_adversarial(Profile(name="made", rows={"a": {}})) == (None, [])
    assert study.paired_rows(profile, None, []).empty
