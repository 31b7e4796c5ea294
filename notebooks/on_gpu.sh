#!/usr/bin/env bash
# What wants a GPU, in one call, where Snakemake is not at hand or minutes count; else use
# `make reproduce PROFILE=gpu`. In the project's root: OUT=folder bash notebooks/on_gpu.sh [SECONDS]
#   1. the tests   2. the speed of each step, alone on the card   3. Table 1 of profile gpu (or PROFILE)
# Each step leaves its tables and logs in $OUT, also where the time (by default 15 minutes) ends before.
set -u
PROFILE=${PROFILE:-gpu}
END=$((SECONDS + ${1:-900} - 20))  # 20 s to pack
export ICM_ROOT=$PWD MPLBACKEND=agg
mkdir -p "$OUT" "results/$PROFILE"
left() { echo $((END > SECONDS ? END - SECONDS : 1)); }
run() {  # notebook, run, parameters ...; a failed one says where its log is
    local name=$1 book="results/$PROFILE/$2/notebook.ipynb"; shift 2
    [ -e "$book" ] && return
    timeout "$(left)" python3 -m icmlib.tool.cli run "notebooks/$name.ipynb" "$book" "profile=$PROFILE" "$@" \
        > "results/$PROFILE/$name-${*//[!a-z0-9_]/}.log" 2>&1
    echo "$name $* ended with $? at $SECONDS s"
}
pack() {
    tar czf "$OUT/results.tgz" --exclude='*.pt' --exclude='latents-*' --exclude='.lock' "results/$PROFILE"
    cp "results/$PROFILE"/*.csv "$OUT" 2> /dev/null
}
trap pack EXIT

run 00_data data/scenes &  # on the CPU
timeout 120 python3 -m pytest -q -rxXsf -m gpu tests/test_gpu.py > "$OUT/tests.log" 2>&1
echo "tests ended with $? at $SECONDS s: $(tail -n 1 "$OUT/tests.log")"
wait
run 01_task_network task_network/given
run 02_base_codec base_codec/base
run 07_speed speed/side_by_side
pack
rows=$(python3 -c 'import sys, icmlib; print(*icmlib.load_profile(sys.argv[1]).rows)' "$PROFILE")
for row in $rows; do run 03_patchgan_finetuning "finetune/$row" row="$row" & done
for filter in gaussian bilateral; do run 03b_post_filters "post_filter/$filter" filter=$filter & done
wait
run 04_ablations ablations/table1
run 06_figures figures/photographs
