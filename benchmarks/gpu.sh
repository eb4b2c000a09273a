#!/usr/bin/env bash
# Trains and measures lego 400x400 and fern 504x378 at full size, and lego 800x800 as a compressed
# TensoRF, on a GPU, keeps their metrics, and runs the benchmarks of the network, of whole frames and of
# the training step there.
#
#   bash benchmarks/gpu.sh [DATA] [FLAGS...]
#
# DATA holds nerf_synthetic/lego and nerf_llff_data/fern (default: data). FLAGS go to every run, for
# example `--N_iters 20 --qat_iters 20 --testskip 96 --path_frames 1 --importance_rays 20000` to see that it runs.
set -euo pipefail
cd "$(dirname "$0")/.."
data=${1:-data}
shift || true
python=${PYTHON:-python}
for scene in lego:nerf_synthetic/lego fern:nerf_llff_data/fern; do
    name=${scene%%:*}
    "$python" run_nerf_qat.py --config "configs/${name}_qat.txt" --datadir "$data/${scene#*:}" "$@"
done
"$python" run_vq.py --config configs/lego_vq.txt --datadir "$data/nerf_synthetic/lego" "$@"
[ $# -gt 0 ] && exit 0 # a trial run is not a result
mkdir -p docs/results
for name in lego_qat fern_qat lego_vq; do
    cp "logs/$name/metrics.json" "docs/results/${name}_gpu.json"
done
"$python" benchmarks/int8_mlp.py --device cuda
"$python" benchmarks/field.py --device cuda --samples 1048576
"$python" benchmarks/render.py --datadir "$data/nerf_synthetic/lego" --device cuda
"$python" benchmarks/train_step.py --config configs/lego_qat.txt --datadir "$data/nerf_synthetic/lego" --device cuda
"$python" benchmarks/experiments.py --seeds 1 --only base amp int8 w4a8 bit bit_wider_by_an_eighth --name experiments_gpu --factor 2 \
    --datadir "$data/nerf_synthetic/lego" --netdepth 8 --netwidth 256 --muon_lrate 0.02 --lrate 2e-3 \
    --samples_per_batch 131072 --grid_resolution 128
echo "kept in docs/results: lego_qat_gpu.json fern_qat_gpu.json lego_vq_gpu.json int8_mlp_cuda.json field_cuda.json render_cuda.json train_step_lego_qat.json experiments_gpu.json"
