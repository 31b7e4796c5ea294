"""All studies as a graph of notebook runs: `make reproduce`, or snakemake --config profile=NAME.

`study=finetuning`, `study=rate_task` or `study=zoo` runs one of them; a profile `NAME-seed<n>` is NAME with
another seed. Each rule runs one notebook; the executed notebook is the rule's log, so that it
survives a failure. The library files a stage uses are its inputs: an edit of plots.py retrains
nothing.
"""

import re
import sys
from glob import glob

import yaml

PROFILE = config.get("profile", "quick")
BASE_PROFILE = re.sub(r"-seed\d+$", "", PROFILE)
FILE = f"notebooks/profiles/{BASE_PROFILE}.yaml"
if not os.path.exists(FILE):
    raise WorkflowError(f"profile {FILE} does not exist")
with open(FILE) as stream:
    VALUES = yaml.safe_load(stream)
ROWS = list(VALUES.get("rows", {}))
STUDY = VALUES.get("rate_task", {})
POINTS = list(STUDY.get("points", {}))
CHAINS = [
    f"{point}-{name}"
    for name in STUDY.get("configurations", {})
    for point in STUDY.get("only_at", {}).get(name, POINTS)
]
BRIDGES = [
    f"{point}-{name}"
    for name in ("finetuned", *STUDY.get("bridge_rows", {}))
    for point in STUDY.get("only_at", {}).get(name, STUDY.get("bridge_at", []))
]
ZOO = VALUES.get("zoo", {})
CODECS = list(ZOO.get("codecs", {}))
STUDIES = {"finetuning": ROWS, "rate_task": POINTS, "zoo": CODECS}
if config.get("study", "all") != "all":
    if config["study"] not in STUDIES:
        raise WorkflowError(f"unknown study {config['study']!r}; known: all, {', '.join(STUDIES)}")
    STUDIES = {config["study"]: STUDIES[config["study"]]}
STUDIES = [name for name, has in STUDIES.items() if has]
if not STUDIES:
    raise WorkflowError(f"profile {PROFILE} has no rows, points or codecs of that study")


def section(*names):
    """What of the profile a rule depends on; an edit there runs it again."""
    return {name: VALUES.get(name) for name in names}


OUT = f"results/{PROFILE}"
FILTERS = ["gaussian", "bilateral"]
DECODERS = [row for row in ("p3x64", "low_impact") if row in ROWS]  # of notebook 08; it needs both
LIB = "icmlib"
DATA = [f"{LIB}/config.py", *expand(f"{LIB}/datasets/{{file}}.py", file=["__init__", "coco", "deadleaves"])]
TASK = [*DATA, *expand(f"{LIB}/tasks/{{file}}.py", file=["__init__", "torchvision", "batch_norm", "targets"])]
WEIGHTS = VALUES.get("task", {}).get("weights") or ""
if WEIGHTS.endswith(".safetensors"):  # no name of published ones, which come at first use
    TASK.append(WEIGHTS)
CODEC = [
    *expand(f"{LIB}/codecs/{{file}}.py", file=["__init__", "learned", "rans", "zoo", "bitstream", "latents"]),
    f"{LIB}/performance.py",
]
STEPS = [f"{LIB}/processes.py", *expand(f"{LIB}/training/{{file}}.py", file=["steps", "launch"])]
METRICS = [
    f"{LIB}/evaluate.py",
    *expand(f"{LIB}/metrics/{{file}}.py", file=["fidelity", "checkerboard", "detection", "rate"]),
]
FINETUNE = [
    *expand(f"{LIB}/codecs/{{file}}.py", file=["graph", "patches"]),
    f"{LIB}/discriminator.py",
    f"{LIB}/losses.py",
    f"{LIB}/training/decoder.py",
]
RUN = (
    "OMP_NUM_THREADS={threads} " + sys.executable
    + " -m icmlib.cli run {input.notebook} {log} profile=" + PROFILE
)


localrules: report  # on a cluster, too: no notebook, and done in seconds


rule all:
    input:
        f"{OUT}/report.html",


rule data:
    input:
        DATA, f"{LIB}/datasets/missing.py", notebook="notebooks/00_data.ipynb",
    output:
        f"{OUT}/data/scenes/summary.json",
    log:
        f"{OUT}/data/scenes/notebook.ipynb",
    params:
        section("data"),
    threads: workflow.cores
    shell:
        RUN


rule task_network:
    input:
        TASK, METRICS, STEPS, f"{LIB}/training/task_network.py", rules.data.output,
        notebook="notebooks/01_task_network.ipynb",
    output:
        f"{OUT}/task_network/given/summary.json",
    log:
        f"{OUT}/task_network/given/notebook.ipynb",
    params:
        section("data", "task", "evaluation"),
    threads: workflow.cores
    shell:
        RUN


rule base_codec:
    input:
        TASK, CODEC, METRICS, f"{LIB}/losses.py", f"{LIB}/proxies.py",
        STEPS, f"{LIB}/training/base_codec.py", rules.data.output, rules.task_network.output,
        notebook="notebooks/02_base_codec.ipynb",
    output:
        f"{OUT}/base_codec/base/summary.json",
    log:
        f"{OUT}/base_codec/base/notebook.ipynb",
    params:
        section("data", "task", "codec", "base", "evaluation"),
    threads: workflow.cores
    shell:
        RUN


rule finetune:
    input:
        FINETUNE, rules.base_codec.output, notebook="notebooks/03_patchgan_finetuning.ipynb",
    output:
        f"{OUT}/finetune/{{row}}/summary.json",
    log:
        f"{OUT}/finetune/{{row}}/notebook.ipynb",
    params:
        section("finetune"), lambda wildcards: VALUES["rows"][wildcards.row],
    threads: 1
    shell:
        RUN + " row={wildcards.row}"


rule post_filter:
    input:
        f"{LIB}/codecs/conventional.py", rules.base_codec.output,
        notebook="notebooks/03b_post_filters.ipynb",
    output:
        f"{OUT}/post_filter/{{filter}}/summary.json",
    log:
        f"{OUT}/post_filter/{{filter}}/notebook.ipynb",
    threads: 1
    shell:
        RUN + " filter={wildcards.filter}"


rule ablations:
    input:
        f"{LIB}/plots.py", f"{LIB}/study.py", "data/le2022_table1.csv",
        expand(rules.finetune.output, row=ROWS), expand(rules.post_filter.output, filter=FILTERS),
        notebook="notebooks/04_ablations.ipynb",
    output:
        f"{OUT}/table1.csv",
    log:
        f"{OUT}/ablations/table1/notebook.ipynb",
    threads: 1
    shell:
        RUN


rule figures:
    input:
        f"{LIB}/plots.py", f"{LIB}/study.py", rules.ablations.output,
        notebook="notebooks/06_figures.ipynb",
    output:
        f"{OUT}/photographs.csv",
    log:
        f"{OUT}/figures/photographs/notebook.ipynb",
    params:
        section("evaluation"),
    threads: workflow.cores
    shell:
        RUN


rule knob:
    input:
        f"{LIB}/plots.py", f"{LIB}/study.py", f"{LIB}/knob.py", f"{LIB}/codecs/decoders.py",
        expand(rules.finetune.output, row=DECODERS),
        notebook="notebooks/08_one_bitstream_two_decoders.ipynb",
    output:
        f"{OUT}/knob.csv",
    log:
        f"{OUT}/knob/p3x64/notebook.ipynb",
    threads: workflow.cores
    shell:
        RUN


rule mse_codec:
    input:
        TASK, CODEC, METRICS, f"{LIB}/losses.py",
        STEPS, f"{LIB}/training/base_codec.py", rules.data.output, rules.task_network.output,
        notebook="notebooks/05a_rate_points.ipynb",
    output:
        f"{OUT}/mse_codec/{{point}}/summary.json",
    log:
        f"{OUT}/mse_codec/{{point}}/notebook.ipynb",
    params:
        section("data", "task", "evaluation"), lambda wildcards: STUDY["points"][wildcards.point],
        STUDY.get("codec"), STUDY.get("base"),
    threads: 1
    shell:
        RUN + " point={wildcards.point}"


rule chain:
    input:
        f"{LIB}/training/chain.py", f"{OUT}/mse_codec/{{point}}/summary.json",
        notebook="notebooks/05b_chain_finetuning.ipynb",
    output:
        f"{OUT}/chain/{{point}}-{{configuration}}/summary.json",
    log:
        f"{OUT}/chain/{{point}}-{{configuration}}/notebook.ipynb",
    params:
        lambda wildcards: STUDY["points"][wildcards.point], STUDY.get("chain"),
        lambda wildcards: STUDY["configurations"][wildcards.configuration],
    wildcard_constraints:
        point="|".join(POINTS) or "none",
    threads: 1
    shell:
        RUN + " point={wildcards.point} configuration={wildcards.configuration}"


rule anchor:
    input:
        expand(
            f"{LIB}/codecs/{{file}}.py",
            file=["anchors", "conventional", "containers", "hevc", "vtm", "bitstream"],
        ),
        METRICS, rules.data.output, rules.task_network.output,
        notebook="notebooks/05c_anchors.ipynb",
    output:
        f"{OUT}/anchor/{{anchor}}/summary.json",
    log:
        f"{OUT}/anchor/{{anchor}}/notebook.ipynb",
    params:
        section("data", "task", "evaluation"),
        lambda wildcards: STUDY["anchors"][wildcards.anchor],
    threads: 1
    shell:
        RUN + " anchor={wildcards.anchor}"


rule bridge:
    input:
        FINETUNE, expand(rules.mse_codec.output, point=POINTS),
        f"{OUT}/chain/{{point}}-C-FT/summary.json", notebook="notebooks/05d_bridge.ipynb",
    output:
        f"{OUT}/bridge/{{point}}-{{row}}/summary.json",
    log:
        f"{OUT}/bridge/{{point}}-{{row}}/notebook.ipynb",
    params:
        STUDY.get("bridge"), lambda wildcards: STUDY.get("bridge_rows", {}).get(wildcards.row),
    wildcard_constraints:
        point="|".join(POINTS) or "none",
    threads: 1
    shell:
        RUN + " point={wildcards.point} row={wildcards.row}"


rule rate_task:
    input:
        f"{LIB}/plots.py", f"{LIB}/curves.py", f"{LIB}/metrics/bd.py", "data/chamain2020_table.csv",
        f"{LIB}/rate_task.py", expand(rules.mse_codec.output, point=POINTS),
        expand(f"{OUT}/chain/{{chain}}/summary.json", chain=CHAINS),
        expand(rules.anchor.output, anchor=STUDY.get("anchors", {})),
        expand(f"{OUT}/bridge/{{bridge}}/summary.json", bridge=BRIDGES),
        sorted(glob(f"results/{PROFILE}-seed*/rate_task_findings.csv")),
        notebook="notebooks/05_rate_task_study.ipynb",
    output:
        f"{OUT}/rate_task.csv",
    log:
        f"{OUT}/rate_task/curves/notebook.ipynb",
    params:
        STUDY,
    threads: workflow.cores
    shell:
        RUN


rule zoo_codec:
    input:
        TASK, CODEC, METRICS, FINETUNE, f"{LIB}/proxies.py",
        STEPS, f"{LIB}/training/base_codec.py", rules.data.output, rules.task_network.output,
        notebook="notebooks/04b_codec_zoo.ipynb",
    output:
        f"{OUT}/zoo/{{codec}}/summary.json",
    log:
        f"{OUT}/zoo/{{codec}}/notebook.ipynb",
    params:
        section("data", "task", "base", "finetune", "evaluation"), ZOO.get("finetune"),
        lambda wildcards: ZOO["codecs"][wildcards.codec],
    threads: 1
    shell:
        RUN + " codec={wildcards.codec}"


rule zoo:
    input:
        f"{LIB}/plots.py", f"{LIB}/study.py", f"{LIB}/codec_zoo.py",
        expand(rules.zoo_codec.output, codec=CODECS),
        notebook="notebooks/04c_codec_zoo_table.ipynb",
    output:
        f"{OUT}/zoo.csv",
    log:
        f"{OUT}/zoo_table/all/notebook.ipynb",
    threads: 1
    shell:
        RUN


rule speed:
    input:
        FINETUNE, CODEC, METRICS, f"{LIB}/plots.py",
        expand(
            f"{LIB}/bench/{{file}}.py",
            file=["harness", "finetuning", "training", "coding", "evaluation"],
        ),
        f"{LIB}/codecs/folders.py", f"{LIB}/study.py",
        rules.base_codec.output, notebook="notebooks/07_speed.ipynb",
    output:
        f"{OUT}/speed.csv",
    log:
        f"{OUT}/speed/side_by_side/notebook.ipynb",
    params:
        section("speed", "finetune", "rows"),
    threads: workflow.cores
    shell:
        RUN


rule explorer:
    input:
        CODEC, METRICS, f"{LIB}/plots.py", f"{LIB}/codecs/decoders.py",
        sorted(glob(f"{LIB}/explorer/*.*")), expand(rules.finetune.output, row=ROWS[:1]),
        notebook="notebooks/09_explorer.ipynb",
    output:
        f"{OUT}/explorer/knob/summary.json",
    log:
        f"{OUT}/explorer/knob/notebook.ipynb",
    threads: 1
    shell:
        RUN + f" weights={PROFILE}/finetune/{ROWS[0] if ROWS else None}"


FINETUNING = [  # notebooks of study 1 in the report: the first row stands for all
    rules.base_codec.log[0], *expand(rules.finetune.log, row=ROWS[:1]), rules.ablations.log[0],
    rules.figures.log[0], *([rules.knob.log[0]] if len(DECODERS) == 2 else []),
]


rule report:
    input:
        f"{LIB}/notebooks.py",
        rules.figures.output if "finetuning" in STUDIES else [],
        rules.knob.output if "finetuning" in STUDIES and len(DECODERS) == 2 else [],
        rules.rate_task.output if "rate_task" in STUDIES else [],
        rules.zoo.output if "zoo" in STUDIES else [],
    output:
        f"{OUT}/report.html",
    params:
        notebooks=[
            rules.data.log[0], rules.task_network.log[0],
            *(FINETUNING if "finetuning" in STUDIES else []),
            *([rules.zoo.log[0]] if "zoo" in STUDIES else []),
            *([rules.rate_task.log[0]] if "rate_task" in STUDIES else []),
        ],
    shell:
        sys.executable + " -m icmlib.cli report {output} {params.notebooks} --title 'icmlib, profile "
        + PROFILE + "'"
