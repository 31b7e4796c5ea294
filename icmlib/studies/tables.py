"""Tables for readers, from a study's CSV files alone: the columns that answer its question."""

import re
from pathlib import Path

import pandas as pd

from icmlib.io import write

# what the machine is scored by: the first that there is; of the VGG distance, less is better
MACHINE = {"mask_AP": "mask AP", "box_AP": "box AP", "vgg": "VGG distance"}
FACTS = ["profile", "seed", "data", "numbers"]  # columns of every table, for its caption
TABLES = {  # in the order of a report
    "table1": "Decoder finetuning (Table 1), test split",
    "aims": "Aims of study 1",
    "better_for_both": "A decoder that is better for both: findings",
    "aims_seeds": "Aims of study 1 by seed",
    "photographs": "Photographs",
    "rate_distortion": "Beside conventional codecs, over the rate",
    "bd": "Beside conventional codecs: Bjøntegaard deltas",
    "knob_findings": "One bitstream, two decoders: beside the low-impact model",
    "rate_task_anchors": "Conventional codecs: encoder, preset, chroma format",
    "zoo": "Other codecs",
    "zoo_aims": "Aims for other codecs",
    "origin": "Where the pattern comes from",
    "origin_findings": "Where the pattern comes from: findings",
    "origin_chains": "Where the pattern comes from: codecs finetuned for the task",
    "depth": "Base codecs trained ever longer",
    "depth_findings": "Base codecs trained ever longer: findings",
    "rate_task_equal_rate": "Rate against task: every curve at one rate",
    "rate_task_findings": "Rate against task: findings",
    "rate_task_seeds": "Rate against task: findings by seed",
    "rate_task_bridge": "The bridge: a C-FT codec's decoder finetuned for people",
    "speed": "Speed, side by side",
    "bound": "What bounds a finetuning step, in seconds",
}
_CHANGES = "mask_AP_change box_AP_change vgg_change psnr_difference ssim_difference"
COLUMNS = {  # of tables that have more than a page is wide
    "table1": "row label {ap} {ap}_change psnr ssim vgg lpp prms removed bpp",
    "photographs": "row bpp psnr ssim lpp prms removed",
    "rate_distortion": "curve point bpp psnr ssim vgg mask_AP box_AP lpp prms",
    "zoo": f"codec label bpp {_CHANGES} peak prms_before prms removed",
    "depth": "steps rate row mask_AP mask_AP_change box_AP psnr peak prms removed bpp given",
    "knob": "row way place mask_AP box_AP vgg psnr ssim lpp prms excess_prms",
    "rate_task": "curve point bpp box_AP psnr ssim prms kept",
    "rate_task_bridge": "point row bpp psnr_before psnr_after psnr_baseline back box_AP_before "
    "box_AP_after box_AP_change",
    "aims_seeds": "finding holds spread",
    "rate_task_seeds": "finding holds spread",
}
HEADINGS = MACHINE | {f"{name}_change": f"{text} change (%)" for name, text in MACHINE.items()}
HEADINGS |= {"psnr": "PSNR (dB)", "ssim": "SSIM", "lpp": "LPP 2/4/8 (dB)", "prms": "PRMS"}
HEADINGS |= {"removed": "removed (%)", "peak": "highest LPP (dB)"}
LEGEND = (
    "Intervals bound 95 % of a bootstrap over the test images; changes are paired with the base "
    "codec. They say nothing about another training. PRMS is the amplitude of the checkerboard "
    "pattern in grey levels, LPP how far it stands out of the spectrum around it (dB; originals "
    "read about 0 on average); both are of the RGB picture. *removed*: the share of the excess "
    "over the originals' PRMS that is gone."
)


def task_measure(scores) -> str:
    """What the machine is scored by: `mask_AP`, without masks `box_AP`, without network `vgg`."""
    return next(name for name in MACHINE if name in scores)


def readable(file: Path) -> pd.DataFrame:
    """A study's table as text."""
    table = pd.read_csv(file, dtype={"row": str}).drop(columns=FACTS, errors="ignore")
    table = table.rename(columns={"low": "value_low", "high": "value_high", "lpp8": "lpp"})
    ap = next((name for name in MACHINE if name in table), "")
    if "lpp" in table:
        peaks = zip(table.pop("lpp2"), table.pop("lpp4"), table["lpp"])
        table["lpp"] = ["{:.1f} / {:.1f} / {:.1f}".format(*each) for each in peaks]
    for name in [each for each in table if f"{each}_low" in table]:
        ends = [table.pop(f"{name}{end}") for end in ("_low", "_high")]
        rows = zip(table[name].astype(float), *ends)
        table[name] = ["{:.3g} [{:.3g}, {:.3g}]".format(*row) for row in rows]
    chosen = COLUMNS[file.stem].format(ap=ap).split() if file.stem in COLUMNS else table
    table = table[[name for name in dict.fromkeys(chosen) if name in table]]
    table = table.dropna(axis=1, how="all") if len(table) else table
    table = table.map(lambda each: f"{each:.4g}" if isinstance(each, float) else str(each))
    table = table.replace(r"(^nan)? \[nan, nan\]$|^nan$", "", regex=True)
    return table.rename(columns=HEADINGS)


def markdown(table: pd.DataFrame) -> str:
    """Of a table of text."""
    table = table.replace({r"\|": r"\|", "\n": " "}, regex=True)
    rows = [table.columns, ["---"] * len(table.columns), *table.itertuples(index=False)]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def write_latex(file: Path, provenance: dict) -> None:
    """`<name>.tex` beside a CSV file: a table of at most the line's width, with its provenance in
    the caption. It needs the LaTeX packages booktabs and graphicx."""
    table = readable(file).drop(columns="label", errors="ignore")
    facts = ", ".join(f"{name} {value}" for name, value in provenance.items())
    caption = re.sub("([#$%&_])", r"\\\1", f"{TABLES.get(file.stem, file.stem)} ({facts})")
    text = table.to_latex(index=False, escape=True, caption=caption, label=f"tab:{file.stem}")
    text = re.sub(r"(?<![\w.:-])-(?=\d)", "$-$", text)  # a minus, no hyphen
    width = r"\ifdim\width>\linewidth\linewidth\else\width\fi"  # of the line at most
    boxed = rf"\centering\footnotesize\resizebox{{{width}}}{{!}}{{\begin{{tabular}}"
    text = text.replace(r"\begin{tabular}", boxed)
    text = text.replace(r"\end{tabular}", r"\end{tabular}}")
    if len(table.columns) > 6:  # of a page's width
        text = text.replace("{table}", "{table*}")
    write(file.with_suffix(".tex"), text)
