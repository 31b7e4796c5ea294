"""All studies as a graph of notebook runs: `make reproduce`, or `snakemake --config profile=NAME`.

`study=main` (the default) is study 1 with the profile's `main_rows`; `finetuning`, `zoo`, `origin`,
`depth` and `rate_task` are one study each; `all` is all. A rule runs one notebook; its output is the executed one, and
an unfinished or failed one its log. `lib(...)`: which edits of the library run a rule again.
"""

import os
import shlex
import sys
from glob import glob

from icmlib.io import plain
from icmlib.studies.profile import load_profile

PROFILE = str(config.get("profile", "quick"))
STUDY = config.get("study", "main")
OUT = f"results/{PROFILE}"
TABLES = {"zoo_table": ("zoo", "04c_codec_zoo_table"), "origin": ("origin", "04d_origin"), "depth": ("depth", "04e_depth")}
FILTERS = ("gaussian", "bilateral")
profile = load_profile(PROFILE)
KNOB = (profile.human, "low_impact")  # rows of notebook 08
study2 = profile.rate_task
rows = profile.main_rows if STUDY == "main" and profile.main_rows else list(profile.rows)
studies = {"finetuning": rows, "rate_task": study2.points, "zoo": profile.zoo, "origin": profile.origin.runs(), "depth": profile.depth.runs()}
STUDIES = [name for name in studies if studies[name] and STUDY in (name, "main", "all")]
STUDIES = STUDIES[: 1 if STUDY == "main" else None]  # main: study 1, where the profile has it
if not STUDIES:
    raise WorkflowError(f"profile {PROFILE} has nothing of study {STUDY!r}; known: main, all, {', '.join(studies)}")


def lib(*parts):
    """Files of the library, by folder or name: `lib("codecs", "evaluate.py")`."""
    return sorted(f for part in parts for f in glob(f"icmlib/{part}") + glob(f"icmlib/{part}/*.py"))


def loop(name):
    """A training loop, and what all of them use."""
    return lib(f"training/{name}.py", "training/steps.py", "training/journal.py", "device.py", "losses.py")


def book(name, state=""):  # the executed notebook of a run
    return f"{OUT}/{name}/notebook{state}.ipynb"


section = lambda *parts: plain(parts)  # what of the profile a rule depends on; an edit there runs it again
TASK, CODEC, METRICS = lib("datasets", "tasks"), lib("codecs"), lib("evaluate.py", "metrics")
PATCHGAN = [*loop("patchgan"), *lib("discriminator.py")]
FILES = [each for each in (profile.task and profile.task.weights, profile.base_weights) if each and "." in each]
ANNOTATIONS = [each for split in profile.data.splits.values() for each in glob(f"{profile.data.root}/{split.get('annotations') or split.get('images')}")]
ICM = shlex.quote(sys.executable) + " -m icmlib.tool.cli"
common = section(profile.data, profile.task, profile.evaluation)
# for a paper once, always: notebooks that train nothing run again for its figures and tables
if PAPER := bool(os.environ.get("ICMLIB_PAPER") or glob(f"{OUT}/*.tex")):
    os.environ["ICMLIB_PAPER"] = "1"

wildcard_constraints: point="|".join(study2.points) or "none", table="|".join(TABLES)
localrules: report  # on a cluster, too: no notebook, and done in seconds

rule all:
    input: f"{OUT}/report.html"

rule notebook:  # what all below share; never run itself
    input: notebook=f"{OUT}/none"
    output: f"{OUT}/none.ipynb"
    params: given=lambda wildcards: " ".join(f"{k}={shlex.quote(v)}" for k, v in wildcards.items())
    threads: 1
    shell:
        "OMP_NUM_THREADS={threads} " + ICM + " run {input.notebook:q} {output:q} profile="
        + shlex.quote(PROFILE) + " {params.given} > /dev/null"

use rule notebook as data with:
    input: lib("datasets"), ANNOTATIONS, notebook="notebooks/00_data.ipynb"
    output: update(book("data/scenes"))
    log: book("data/scenes", ".unfinished")
    params: section(profile.data)
    threads: workflow.cores

use rule notebook as task_network with:
    input: TASK, METRICS, FILES, loop("task_network"), rules.data.output, notebook="notebooks/01_task_network.ipynb"
    output: update(book("task_network/given"))
    log: book("task_network/given", ".unfinished")
    params: common
    threads: workflow.cores

use rule notebook as base_codec with:
    input: CODEC, METRICS, loop("base_codec"), rules.task_network.output, notebook="notebooks/02_base_codec.ipynb"
    output: update(book("base_codec/base"))
    log: book("base_codec/base", ".unfinished")
    params: common, section(profile.codec, profile.base, profile.base_weights)
    threads: workflow.cores

use rule notebook as finetune with:
    input: PATCHGAN, rules.base_codec.output, notebook="notebooks/03_patchgan_finetuning.ipynb"
    output: update(book("finetune/{row}"))
    log: book("finetune/{row}", ".unfinished")
    params: section(profile.finetune), lambda w: profile.rows[w.row]

use rule notebook as post_filter with:
    input: rules.base_codec.output, notebook="notebooks/03b_post_filters.ipynb"
    output: update(book("post_filter/{filter}"))
    log: book("post_filter/{filter}", ".unfinished")

use rule notebook as ablations with:
    input:
        lib("studies"), "data/le2022_table1.csv", sorted(glob(f"results/{PROFILE}-seed*/aims.csv")),
        expand(rules.finetune.output, row=rows), expand(rules.post_filter.output, filter=FILTERS),
        notebook="notebooks/04_ablations.ipynb",
    output: update(book("ablations/table1"))
    log: book("ablations/table1", ".unfinished")
    params: PAPER

use rule notebook as zoo_codec with:
    input: CODEC, METRICS, PATCHGAN, loop("base_codec"), lambda w: profile.codecs[w.codec].weights or [], rules.task_network.output, notebook="notebooks/04b_codec_zoo.ipynb"
    output: update(book("zoo_base/{codec}"))
    log: book("zoo_base/{codec}", ".unfinished")
    params: common, section(profile.base, profile.finetune), lambda w: section(profile.codecs[w.codec], [profile.rows[row] for row in profile.codecs[w.codec].rows])

use rule notebook as codec_table with:
    input: lib("studies"), lambda w: sorted(glob(f"results/{PROFILE}-seed*/{w.table}_findings.csv")), lambda w: expand(rules.zoo_codec.output, codec=studies[TABLES[w.table][0]]), lambda w: [book(f"chain/{run}") for run in profile.moving_chains.values() if w.table == "origin"], notebook=lambda w: f"notebooks/{TABLES[w.table][1]}.ipynb"
    output: update(book("{table}/all"))
    log: book("{table}/all", ".unfinished")
    params: PAPER, given=""

use rule notebook as mse_codec with:
    input: CODEC, METRICS, loop("base_codec"), rules.task_network.output, notebook="notebooks/05a_rate_points.ipynb"
    output: update(book("mse_codec/{point}"))
    log: book("mse_codec/{point}", ".unfinished")
    params: common, section(study2.codec, study2.base), lambda w: section(study2.points[w.point])

use rule notebook as chain with:
    input: loop("chain"), book("mse_codec/{point}"), notebook="notebooks/05b_chain_finetuning.ipynb"
    output: update(book("chain/{point}-{configuration}"))
    log: book("chain/{point}-{configuration}", ".unfinished")
    params: section(study2.chain), lambda w: study2.configurations[w.configuration]

use rule notebook as anchor with:
    input: CODEC, METRICS, rules.task_network.output, notebook="notebooks/05c_anchors.ipynb"
    output: update(book("anchor/{anchor}"))
    log: book("anchor/{anchor}", ".unfinished")
    params: common, lambda w: study2.anchors[w.anchor]

use rule notebook as bridge with:
    input: PATCHGAN, expand(rules.mse_codec.output, point=study2.points), book("chain/{point}-C-FT"), notebook="notebooks/05d_bridge.ipynb"
    output: update(book("bridge/{point}-{row}"))
    log: book("bridge/{point}-{row}", ".unfinished")
    params: section(study2.bridge), lambda w: study2.bridge_rows.get(w.row)

use rule notebook as rate_task with:
    input:
        lib("studies"), "data/chamain2020_table.csv",
        sorted(glob(f"results/{PROFILE}-seed*/rate_task_findings.csv")),
        expand(rules.mse_codec.output, point=study2.points), expand(rules.anchor.output, anchor=study2.anchors),
        [book(f"chain/{p}-{name}") for name in study2.configurations for p in study2.points_of(name)],
        [book("bridge/" + "-".join(each)) for each in study2.bridges()],
        notebook="notebooks/05_rate_task_study.ipynb",
    output: update(book("rate_task/curves"))
    log: book("rate_task/curves", ".unfinished")
    params: PAPER, section(study2)
    threads: workflow.cores

use rule notebook as figures with:
    input: lib("studies"), rules.ablations.output, notebook="notebooks/06_figures.ipynb"
    output: update(book("figures/photographs"))
    log: book("figures/photographs", ".unfinished")
    params: PAPER, section(profile.evaluation)
    threads: workflow.cores

use rule notebook as speed with:
    input: CODEC, METRICS, PATCHGAN, lib("bench"), rules.base_codec.output, notebook="notebooks/07_speed.ipynb"
    output: update(book("speed/side_by_side"))
    log: book("speed/side_by_side", ".unfinished")
    params: section(profile.speed, profile.finetune), profile.rows
    threads: workflow.cores

use rule notebook as knob with:
    input: lib("studies"), sorted(glob(f"results/{PROFILE}-seed*/knob_findings.csv")), expand(rules.finetune.output, row=KNOB), notebook="notebooks/08_one_bitstream_two_decoders.ipynb"
    output: update(book(f"knob/{profile.human}"))
    log: book(f"knob/{profile.human}", ".unfinished")
    params: PAPER
    threads: workflow.cores

use rule notebook as explorer with:
    input: lib("explorer"), expand(rules.finetune.output, row=rows[:1]), notebook="notebooks/09_explorer.ipynb"
    output: update(book("explorer/knob"))
    log: book("explorer/knob", ".unfinished")
    params: given=f"weights={shlex.quote(f'{PROFILE}/finetune/{rows[0] if rows else None}')}"

# in the order of the notebooks; the first row and the filter to beat stand for all
study1 = [*rules.base_codec.output, *expand(rules.finetune.output, row=rows[:1])]
study1 += [*expand(rules.post_filter.output, filter=FILTERS[1]), *rules.ablations.output]
pictures = rules.figures.output + (rules.knob.output if STUDY != "main" and {*KNOB} <= {*rows} else [])
parts = {"finetuning": study1, **{study: [book(f"{table}/all")] for table, (study, _) in TABLES.items()}, "rate_task": rules.rate_task.output}
chapters = [*rules.data.output, *rules.task_network.output, *(each for name in parts if name in STUDIES for each in parts[name])]
chapters += pictures if "finetuning" in STUDIES else []

rule report:
    input: lib("tool/report.py"), chapters=chapters
    output: update(f"{OUT}/report.html")
    shell: ICM + " report {output:q} {input.chapters:q} --profile " + shlex.quote(PROFILE) + " > /dev/null"
