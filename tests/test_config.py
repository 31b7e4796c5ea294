import pytest

from icmlib.config import BaseTrainingConfig, ChainConfig, FinetuneConfig, replace
from icmlib.studies.profile import Profile, load_profile

TRAININGS = [BaseTrainingConfig, FinetuneConfig, ChainConfig]
GIVEN = """
task: {weights: data/weights/task.safetensors}
base_weights: data/weights/codec.safetensors
rows: {a: {}, b: {steps: 2}, b_again: {steps: 2, seed: 2}}
main_rows: [b]
"""


@pytest.fixture
def profile(tmp_path):

    def load(text: str | bytes) -> Profile:
        path = tmp_path / "quick.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return load_profile(path)

    return load


def test_profile_holds_what_the_file_says(profile):
    loaded = profile("data: {size: 64}\nfinetune: {steps: 7}\nrows: {long: {steps: 9}}\n")
    assert (loaded.name, loaded.data.size, loaded.finetune.steps) == ("quick", 64, 7)
    assert loaded.base == BaseTrainingConfig()
    assert replace(loaded.finetune, loaded.rows["long"]).steps == 9
    loaded = profile("{rows: {a: }, base: {lambda_mse: 60}}")
    assert loaded.rows == {"a": {}} and loaded.base == BaseTrainingConfig(lambda_mse=60.0)
    assert profile("rows:").rows == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("finetun: {steps: 3}", "finetun: unknown key .did you mean 'finetune'"),
        ("rows: {long: {stesp: 3}}", "rows.long.stesp: unknown key .did you mean 'steps'"),
        ("rate_task: {points: {q1: {lamda_mse: 3.0}}}", "points.q1.lamda_mse: .*'lambda_mse'"),
        ("finetune: {zzz: 1}", "finetune.zzz: unknown key; known: .*patch_size"),
        ("base: {steps: true}", "base.steps is True: .*integer"),  # an int to Python
        ("base: {lr: 1e-3}", "base.lr is '1e-3': .*number .YAML reads 1e-3 as text"),
        ("data: null", "Profile.data is None"),
        ("finetune: {adversarial: hinges}", "adversarial is 'hinges': .*'hinge', 'least_sq"),
        ("base: {vgg16_layers: []}", "vgg16_layers is .*at least 1 item"),
        ("base: {shift: -1, scale: 2.0}", "scale is 2.0: .*1.*shift is -1: .*0"),
        ("origin: {codecs: {a-b: {}}}", "names with a hyphen, which joins them: a-b"),
        ("origin: {grids: {f: {}}}", "give two grids"),
        ("finetune: {stesp: 3}\ndata: {size: 1.5}", "data.size is 1.5.*finetune.stesp: "),
        ("a: [1", ""),  # broken YAML
        ("just words", ""),
        (b"\x89PNG\x00\xff", ""),
        # what would fail hours later
        ("task: null", "task: null leaves base without a machine; give it proxy: vgg16"),
        ("{task: , base: {proxy: vgg16}, rows: {a: {lambda_task: 1}}}", "task: null.*: a"),
        ("{task: , base: {proxy: vgg16}, evaluation: {vgg_images: 0}}", "not without a task"),
        ("rows: {base: {}}", "names of other rows: base"),
        ("{main_rows: [a], rows: {b: }}", "main_rows that are no rows .there are: b.: a"),
        ("{human: nothere, rows: {b: }}", "human that are no rows .there are: b.: nothere"),
        ("zoo: {m: {rows: [a]}}", "rows of codecs that are no rows .*: a"),
        ("zoo: {m: {}}", "codecs without rows: m"),
        ("origin: {chains: {C-FT: moving}}", "origin.chains of no configuration: C-FT, moving"),
        ("rate_task: {points: {q1: {}}}", "points.q1: give either lambda_mse or quality"),
        ("rate_task: {configurations: {X: {}}}", "without parts: X"),
        ("rate_task: {bridge_at: [q8, q9]}", "no points .*: q8, q9"),
        ("rate_task: {anchors: {JPEG: {quality: 30}}}", "without a list of qualities: JPEG"),
        (
            "rate_task: {points: {q1: {quality: 1}, q2: {quality: 2}}, only_at: {C-FT: [q1]},"
            " configurations: {C-FT: {parts: [encoder]}}, bridge_at: [q2]}",
            "bridge_at where C-FT is not trained .*: q2",
        ),
    ],
)
def test_what_is_wrong_is_named_with_its_path(profile, text, message):
    with pytest.raises(ValueError, match=f"(?s)quick.yaml.*{message}"):
        profile(text)


def test_missing_profile_lists_those_there_are(tmp_path):
    (tmp_path / "smoke.yaml").touch()
    (tmp_path / "coco.yaml").touch()
    with pytest.raises(FileNotFoundError, match=r"quick\.yaml does not exist.*coco, smoke"):
        load_profile(tmp_path / "quick.yaml")
    with pytest.raises(FileNotFoundError, match="there are: none"):
        load_profile(tmp_path / "nowhere" / "quick.yaml")


@pytest.fixture
def named(project):
    """`named("given-scratch")`: a profile by its name; there are `given` and `published`."""
    published = "task: {name: maskrcnn_resnet50_fpn, num_classes: 80, weights: COCO_V1}"
    project(given=GIVEN, published=published)
    return load_profile


def test_from_scratch_trains_what_it_would_be_given(named):
    """But for published weights, which nobody trains here; all else is the profile's."""
    given, scratch = named("given"), named("given-scratch")
    assert given.base_weights and given.task.weights
    assert scratch.name == "given-scratch"
    assert scratch.base_weights is None and scratch.task.weights is None
    assert (scratch.base, scratch.rows, scratch.seed) == (given.base, given.rows, given.seed)
    assert named("published-scratch").task.weights == "COCO_V1"


def test_another_seed_trains_the_base_codec_too(named):
    """But the same task network judges all. Rows with a seed of their own are left out."""
    seeded = named("given-seed2")
    assert (seeded.name, seeded.seed, seeded.base_weights) == ("given-seed2", 2, None)
    assert seeded.task == named("given").task and [*seeded.rows] == ["a", "b"]
    study = seeded.rate_task
    trained = (seeded.base, seeded.finetune, study.base, study.chain, study.bridge)
    assert [config.seed for config in trained] == [2] * 5
    both = named("given-scratch-seed2")
    assert (both.name, both.seed, both.task.weights) == ("given-scratch-seed2", 2, None)


def test_a_trial_says_so_wherever_its_numbers_stand(profile):
    assert "mean nothing" in profile("meaningless: true").provenance["numbers"]
    assert "numbers" not in profile("").provenance


def test_trainings_are_float32_unless_asked(monkeypatch, profile):
    """For all configs at once by ICMLIB_PRECISION; what a profile says stands."""
    monkeypatch.delenv("ICMLIB_PRECISION", raising=False)
    assert [config().precision for config in TRAININGS] == ["float32"] * 3
    monkeypatch.setenv("ICMLIB_PRECISION", "bf16")
    assert [config().precision for config in TRAININGS] == ["bf16"] * 3
    loaded = profile("base: {precision: float32}\nrows: {a: {}, b: {precision: float32}}")
    assert (loaded.base.precision, loaded.finetune.precision) == ("float32", "bf16")
    rows = [replace(loaded.finetune, row).precision for row in loaded.rows.values()]
    assert rows == ["bf16", "float32"]


@pytest.mark.parametrize("value", ["fp16", ""])
def test_unknown_precision_is_refused(monkeypatch, profile, value):
    with pytest.raises(ValueError, match=f"precision is {value!r}: .*'float32' or 'bf16'"):
        profile(f"finetune: {{precision: '{value}'}}")
    monkeypatch.setenv("ICMLIB_PRECISION", value)
    for make in (*TRAININGS, lambda: profile("")):
        with pytest.raises(ValueError, match=f"ICMLIB_PRECISION is {value!r}; known: float32, b"):
            make()
