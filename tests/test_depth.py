"""How much is training: runs by name, and what is asked of them."""

from icmlib.studies import depth, zoo
from icmlib.studies.profile import load_profile

PROFILE = """
rows: {l2: {adversarial: none}, p3x64: {}}
depth:
  codec: {N: 8, M: 12}
  steps: [5, 20]
  rates: {low: {lambda_mse: 20.0}, high: {}}
  rows: [l2]
  weights: {20-low: given.safetensors}
"""


def test_bases_are_compared_along_the_steps_and_rows_at_both_ends(project, finished, monkeypatch):
    project(tiny=PROFILE)
    profile = load_profile("tiny")
    assert list(profile.depth.runs()) == ["5-low", "5-high", "20-low", "20-high"]
    _, base, rows, weights = zoo.settings(profile, "20-low")
    assert (base.steps, base.lambda_mse, weights) == (20, 20.0, "given.safetensors")
    assert [*rows] == ["l2"] and rows["l2"].adversarial == "none"

    ends = ("", "_low", "_high")
    paired = ("mask_AP", "psnr", "ssim")
    for name in profile.depth.runs():
        measures = ("mask_AP", "psnr", "ssim", "lpp2", "lpp4", "lpp8", "excess_prms")
        test = {f"{each}{end}": 1.0 for each in measures for end in ends} | {"bpp": 0.5}
        test |= {f"{each}_difference{end}": 0.1 for each in paired for end in ends}
        finished(f"zoo_base/{name}", test=test)
        finished(f"zoo/{name}-l2", test=test | {f"excess_prms{end}": 0.01 for end in ends})
    table = depth.read_rows(profile)
    assert table.loc[(20, "low", "l2"), "removed"] == 99
    monkeypatch.setattr(depth, "load_evaluation", lambda folder, split: folder)
    monkeypatch.setattr(
        depth, "compare", lambda *pair: {f"mask_AP_difference{e}": 0.001 for e in ends}
    )
    found = depth.findings(profile, table, "mask_AP").set_index("finding")["verdict"]
    assert found["low rate, 20 steps for 5: mask AP at most half a % up"] == "holds"
    assert found["5 steps, high rate, l2: at least 90 % of the excess pattern removed"] == "holds"
    assert len(found) == 2 + 4 * 5
