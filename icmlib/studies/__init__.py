"""What only these studies need. They alone know `results/` and the notebooks' profiles.

profile.py    a profile: one config for each stage, and what each study runs
runs.py       a run folder; measure, save, compare; the studies' tables and pictures
verdicts.py   what an interval says of a claim; the sentences of an answer
table1.py     study 1 (Le et al. 2022): rows, choice on val, aims
zoo.py        study 1 for codecs of other architectures
knob.py       one bitstream, and what lies between its two decoders
rate_task.py  study 2 (Chamain et al. 2020): points, and the bridge to study 1
curves.py     the curves through these points, and what is found between them
figures.py    every figure
"""
