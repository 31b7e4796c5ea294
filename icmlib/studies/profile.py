"""A profile (notebooks/profiles/*.yaml): one config for each stage, and what each study runs."""

import dataclasses
import re
from collections.abc import Iterable
from dataclasses import field
from itertools import product
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import BeforeValidator
from pydantic.dataclasses import dataclass

from icmlib import config as stages
from icmlib.config import STRICT, CodecConfig, FinetuneConfig, from_dict
from icmlib.io import InputError, project_file

BRIDGE = "finetuned"  # row of the bridge itself; a profile's bridge_rows are its controls

_or_empty = BeforeValidator(lambda value: {} if value is None else value)  # `rows: {a: }` in YAML
Changes = Annotated[dict, _or_empty]  # of a config


@dataclass(frozen=True, config=STRICT)
class PointConfig:
    """One rate of study 2: the codec it starts from, and the price of a bit when finetuned."""

    lambda_mse: float | None = None  # trained here for rate + lambda_mse * MSE
    quality: int | None = None  # or CompressAI's own weights of this quality
    beta: float = 1.0

    def __post_init__(self):
        if (self.lambda_mse is None) == (self.quality is None):
            raise ValueError("give either lambda_mse or quality")


@dataclass(frozen=True, config=STRICT)
class RateTaskConfig:
    """Study 2: a codec at several rates, what of the chain is finetuned, beside which anchors."""

    codec: CodecConfig = field(default_factory=lambda: CodecConfig("bmshj2018_hyperprior"))
    base: stages.BaseTrainingConfig = field(
        default_factory=lambda: stages.BaseTrainingConfig(lambda_feature=0.0)
    )
    chain: stages.ChainConfig = field(default_factory=stages.ChainConfig)
    points: dict[str, PointConfig] = field(default_factory=dict)  # from the lowest rate
    configurations: dict[str, Changes] = field(default_factory=dict)  # name -> changes of chain
    only_at: dict[str, list[str]] = field(default_factory=dict)  # name -> points; else all
    bridge: FinetuneConfig = field(default_factory=FinetuneConfig)
    bridge_at: list[str] = field(default_factory=list)  # points whose C-FT codec it repairs
    bridge_rows: dict[str, Changes] = field(default_factory=dict)  # its controls
    anchors: dict[str, dict] = field(default_factory=dict)  # name -> options, one of them a list

    def __post_init__(self):
        chains = _changed("configurations", self.chain, self.configurations)
        controls = _changed("bridge_rows", self.bridge, self.bridge_rows)
        points = {*self.bridge_at}.union(*self.only_at.values())
        trained = {*self.points_of("C-FT")} if "C-FT" in chains else set()
        unlisted = [k for k, v in self.anchors.items() if not isinstance(v.get("quality"), list)]
        unknown = self.only_at.keys() - chains.keys() - controls.keys()
        _refuse("configurations without parts", [k for k, v in chains.items() if not v.parts])
        _refuse("only_at of no configuration or bridge row", unknown)
        _refuse(f"no points (there are: {', '.join(self.points)})", points.difference(self.points))
        _refuse("bridge_at where C-FT is not trained (see only_at)", {*self.bridge_at} - trained)
        _refuse("anchors without a list of qualities", unlisted)

    def points_of(self, configuration: str) -> list[str]:
        return self.only_at.get(configuration, list(self.points))

    def bridges(self) -> list[tuple[str, str]]:
        """Point and row of every finetuning of a C-FT decoder: the bridge itself, and controls."""
        rows = (BRIDGE, *self.bridge_rows)
        return [(p, row) for p in self.bridge_at for row in rows if p in self.only_at.get(row, [p])]


@dataclass(frozen=True, config=STRICT)
class ZooCodecConfig:
    """One codec of the zoo: its architecture, what its base training changes, and its rows."""

    codec: CodecConfig = field(default_factory=CodecConfig)
    base: Changes = field(default_factory=dict)  # changes of the profile's base
    weights: str | None = None  # trained so, a file of decoders, from the project's root
    rows: list[str] = field(default_factory=list)  # of Table 1: how it is finetuned


@dataclass(frozen=True, config=STRICT)
class OriginConfig:
    """Where the pattern comes from: the base training, for each codec, grid and rate."""

    base: Changes = field(default_factory=dict)  # changes of the profile's base, for all
    codecs: dict[str, CodecConfig] = field(default_factory=dict)
    grids: dict[str, Changes] = field(default_factory=dict)  # of base
    rates: dict[str, Changes] = field(default_factory=dict)  # of base, from the lowest
    row: str = "p3x64"  # of Table 1: how each is finetuned
    weights: str | None = None  # folder of the trained codecs, <run>.safetensors; none: train them
    # configurations of study 2, each with the one that differs in a moving grid alone
    chains: dict[str, str] = field(default_factory=dict)

    def __post_init__(self):
        names = [*self.codecs, *self.grids, *self.rates]
        _refuse("names with a hyphen, which joins them", [name for name in names if "-" in name])
        if len(self.grids) not in (0, 2):
            raise ValueError("give two grids: what the second changes is compared with the first")

    def runs(self) -> dict[str, ZooCodecConfig]:
        """By name, `<codec>-<grid>-<rate>`."""
        runs = {}
        for codec, grid, rate in product(self.codecs, self.grids, self.rates):
            name = f"{codec}-{grid}-{rate}"
            changes = {**self.base, **self.grids[grid], **self.rates[rate]}
            file = self.weights and f"{self.weights}/{name}.safetensors"
            runs[name] = ZooCodecConfig(self.codecs[codec], changes, file, [self.row])
        return runs


@dataclass(frozen=True, config=STRICT)
class DepthConfig:
    """Base codecs trained ever longer, and what some rows of Table 1 make of each."""

    codec: CodecConfig = field(default_factory=CodecConfig)
    steps: list[int] = field(default_factory=list)  # of base training, from the fewest
    rates: dict[str, Changes] = field(default_factory=dict)  # of base, from the lowest
    rows: list[str] = field(default_factory=list)
    weights: dict[str, str] = field(default_factory=dict)  # run -> file; others are trained

    def runs(self) -> dict[str, ZooCodecConfig]:
        """By name, `<steps>-<rate>`."""
        runs = {}
        for steps, rate in product(self.steps, self.rates):
            name, changes = f"{steps}-{rate}", {**self.rates[rate], "steps": steps}
            runs[name] = ZooCodecConfig(self.codec, changes, self.weights.get(name), self.rows)
        return runs


@dataclass(frozen=True, config=STRICT)
class EvaluationConfig:
    """How a codec is measured."""

    resamples: int = 1000  # bootstrap, test split
    resamples_val: int = 100  # val only chooses
    vgg_images: int | None = None  # of the test split that get a VGG distance (slow); 0: none
    image_dir: str | None = None  # photographs for 06_figures; none: those of scikit-image


@dataclass(frozen=True, config=STRICT)
class SpeedConfig:
    """How much 07_speed measures."""

    N: int = 128  # of the scale hyperprior whose steps are timed
    M: int = 192
    repeats: int = 5  # medians are over so many
    # height and width in px, and how many times as fast our step should be
    images: list[list[int]] = field(default_factory=lambda: [[512, 512, 10], [768, 1024, 30]])
    precisions: list[stages.Precision] = field(default_factory=lambda: ["float32"])
    scene: int = 512  # px; images of the finetunings that are timed row by row
    crops: list[int] = field(default_factory=lambda: [128, 256])  # px; of base training
    steps: int = 3  # of base training in one call
    coded: int = 300  # test images to bitstreams and back
    rows: int = 7  # of the profile, from the first


@dataclass(frozen=True, config=STRICT)
class Profile:
    """Everything that differs between a laptop and a cluster."""

    name: str
    seed: int = 0  # of every training but the task network's; `<profile>-seed<n>` sets it
    meaningless: bool = False  # a trial of the machinery: every page and figure says so
    data: stages.DataConfig = field(default_factory=stages.DataConfig)
    # null: no task network; the machine is the proxy of base, and is scored by the VGG distance
    task: stages.TaskConfig | None = field(default_factory=stages.TaskConfig)
    codec: CodecConfig = field(default_factory=CodecConfig)
    # a trained base codec, from the project's root: a file of decoders; none: train in notebook 02
    base_weights: str | None = None
    base: stages.BaseTrainingConfig = field(default_factory=stages.BaseTrainingConfig)
    finetune: FinetuneConfig = field(default_factory=FinetuneConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    rate_task: RateTaskConfig = field(default_factory=RateTaskConfig)
    zoo: dict[str, ZooCodecConfig] = field(default_factory=dict)  # by name of the run
    origin: OriginConfig = field(default_factory=OriginConfig)
    depth: DepthConfig = field(default_factory=DepthConfig)
    speed: SpeedConfig = field(default_factory=SpeedConfig)
    # Table 1: name -> changes of finetune
    rows: Annotated[dict[str, Changes], _or_empty] = field(default_factory=dict)
    main_rows: list[str] = field(default_factory=list)  # of a short study 1; none: all
    human: str = "p3x64"  # the row whose decoder is for people, in 08 and the file that it writes

    def __post_init__(self):
        rows = _changed("rows", self.finetune, self.rows)
        if self.task is None:
            losses = [name for name, row in rows.items() if row.lambda_task]
            _refuse("lambda_task without a task network (task: null)", losses)
            needed = {"rate_task": self.rate_task.points, "origin": self.origin.codecs}
            needed |= {"depth": self.depth.rates, "vgg_images: 0": self.evaluation.vgg_images == 0}
            _refuse("not without a task network (task: null)", [k for k, v in needed.items() if v])
            if self.base.proxy == "task":
                raise ValueError("task: null leaves base without a machine; give it proxy: vgg16")
        _changed("zoo, origin or depth", self.base, {k: v.base for k, v in self.codecs.items()})
        _refuse("names of other rows", self.rows.keys() & {"base", "gaussian", "bilateral"})
        chains = {*self.origin.chains, *self.origin.chains.values()}
        unknown = chains.difference(self.rate_task.configurations)
        _refuse("origin.chains of no configuration", unknown)
        _refuse("codecs without rows", [k for k, v in self.codecs.items() if not v.rows])
        codecs = [row for each in self.codecs.values() for row in each.rows]
        human = {self.human} - {"p3x64"}  # the default may be missing
        listed = {"main_rows": self.main_rows, "rows of codecs": codecs, "human": human}
        for name, each in listed.items():
            unknown = set(each).difference(self.rows)
            _refuse(f"{name} that are no rows (there are: {', '.join(self.rows)})", unknown)

    @property
    def codecs(self) -> dict[str, ZooCodecConfig]:
        """All that notebook 04b trains: of the zoo, and of the studies of origin and depth."""
        return self.zoo | self.origin.runs() | self.depth.runs()

    @property
    def moving_chains(self) -> dict[str, str]:
        """Runs of study 2 without and with a moving grid, by `<configuration>-<grid>-<point>`."""
        return {
            f"{fixed}-{grid}-{point}": f"{point}-{name}"
            for fixed, moving in self.origin.chains.items()
            for point in self.rate_task.points_of(moving)
            for grid, name in zip(self.origin.grids, (fixed, moving))
        }

    @property
    def provenance(self) -> dict[str, str | int]:
        """What every figure and table of it states."""
        data, label = self.data, f"{self.data.name} in {self.data.root}"
        if data.name == "deadleaves":
            sizes = f"{data.train}/{data.val}/{data.test} scenes of {data.size} px"
            label = f"dead leaves {sizes}, data seed {data.seed}"
        facts = {"profile": self.name, "seed": self.seed, "data": label}
        return facts | ({"numbers": "mean nothing: a trial"} if self.meaningless else {})


def _changed(where: str, config, rows: dict[str, dict]) -> dict:
    """The config with the changes of each row, which its errors name."""
    values = dataclasses.asdict(config)
    values = {row: values | changes for row, changes in rows.items()}
    return from_dict(dict[str, type(config)], values, where)


def _refuse(why: str, names: Iterable[str]) -> None:
    if names := sorted(names):
        raise ValueError(f"{why}: {', '.join(names)}")


def lookup(what: str, name: str, known: dict):
    """What a profile has of that name. Raises InputError: it has none; lists those that it has."""
    if name not in known:
        raise InputError(f"unknown {what} {name!r}; the profile has: {', '.join(known) or 'none'}")
    return known[name]


def _variant(profile: Profile, name: str, seed: int | None = None) -> Profile:
    """The profile without the weights files of its base codecs: with another seed of all trainings
    but the task network's; or, without one, also without the file of the task network (published
    weights, which have a name, stay)."""
    values = dataclasses.asdict(profile) | {"name": name, "base_weights": None}
    study, task = values["rate_task"], values["task"]
    values["depth"]["weights"] = {}
    for codec in (*values["zoo"].values(), values["origin"]):
        codec["weights"] = None
    if seed:
        trained = (values, values["base"], values["finetune"], study["base"], study["chain"])
        for stage in (*trained, study["bridge"]):
            stage["seed"] = seed
        rows = values["rows"].items()  # a row's own seed is that of a further training of seed 0
        values["rows"] = {name: changes for name, changes in rows if "seed" not in changes}
    elif task and (task["weights"] or "").endswith(".safetensors"):
        task["weights"] = None
    return from_dict(Profile, values)


def load_profile(name: str | Path) -> Profile:
    """Read `notebooks/profiles/<name>.yaml`, or the file of that path. `<name>-seed<n>` is the
    profile `<name>` with that seed, `<name>-scratch` the one that trains what it would be given.

    Raises:
        FileNotFoundError: no such profile; the message lists those there are.
        ValueError: not YAML, unknown keys or wrong types, anywhere in the file or in a row.
    """
    path = Path(name)
    if path.suffix != ".yaml":
        path = project_file(f"notebooks/profiles/{name}.yaml")
    if not path.exists():
        stem, _, variant = str(name).rpartition("-")
        if found := re.fullmatch(r"scratch|seed([1-9]\d*)", variant):
            return _variant(load_profile(stem), str(name), found[1] and int(found[1]))
        known = ", ".join(sorted(p.stem for p in path.parent.glob("*.yaml"))) or "none"
        variants = "each also as <name>-scratch, and as <name>-seed1, <name>-seed2, ..."
        raise FileNotFoundError(f"profile {path} does not exist; there are: {known}; {variants}")
    try:
        values = yaml.safe_load(path.read_text("utf-8")) or {}
        if not isinstance(values, dict):
            raise ValueError(f"it holds no stages but {values!r:.40}")
        return from_dict(Profile, {"name": path.stem, **values})
    except (yaml.YAMLError, ValueError) as error:
        raise InputError(f"profile {path}: {error}") from None
