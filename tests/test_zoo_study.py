"""The codec zoo's bookkeeping: settings by name, and its runs as a table."""

import pytest
from test_table1 import row

from icmlib.config import CodecConfig
from icmlib.studies import zoo

PROFILE = """
base: {steps: 9, batch: 2}
finetune: {steps: 5}
zoo:
  codecs:
    small: {codec: {name: mbt2018_mean, N: 8, M: 12}, base: {steps: 3}}
    plain: {codec: {name: cheng2020_anchor, N: 6, M: 6}}
    rows: {codec: {N: 8, M: 12}, weights: given.safetensors, rows: [b]}
  finetune: {layers: 3}
rows: {b: {}}
"""


def test_a_codec_changes_what_study_1_shares(profile):
    architecture, base, rows, _ = zoo.settings(profile, "small")
    finetune = rows[zoo.FINETUNED]
    assert architecture == CodecConfig("mbt2018_mean", N=8, M=12)
    assert (base.steps, base.batch, finetune.steps, finetune.layers) == (3, 2, 5, 3)
    assert zoo.settings(profile, "plain")[1] == profile.base
    with pytest.raises(ValueError, match=r"codec 'smal'; the profile has: small, plain, rows"):
        zoo.settings(profile, "smal")


def test_runs_are_read_by_codec_and_row(profile, finished):
    """Changes in % of the codec's own AP before; a codec that is not finished is named."""
    before, after = row(2.0, 0.0, 2.0, 0), row(1.0, 0.7, 1.0, 0)
    for run, test in (("zoo_base/plain", before), ("zoo/plain", after), ("zoo/rows-b", after)):
        finished(run, test=test, label=run)
    table = zoo.read_runs(profile, ["plain"])
    assert table.index.tolist() == [("plain", "base"), ("plain", "finetuned")]
    found = table.loc[("plain", "finetuned")]
    assert (found["label"], found["given"]) == ("zoo/plain", "trained here")
    assert (found["mask_AP"], found["mask_AP_change"], found["removed"]) == (1, 35, 50)
    with pytest.raises(FileNotFoundError, match="zoo_base/rows is not finished"):
        zoo.read_runs(profile, ["plain", "rows"])
    finished("zoo_base/rows", test=before)
    assert zoo.read_runs(profile, ["rows"])["given"].tolist() == ["given.safetensors"] * 2
