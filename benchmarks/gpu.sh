#!/usr/bin/env bash
# Trains and measures lego 400x400 and fern 504x378 at full size, as NeRF and as mip-NeRF, a capture with a
# background, lego 800x800 as a compressed TensoRF, and lego 400x400 distilled into R2L's light field, on a GPU, keeps
# their metrics, and runs the benchmarks of the network, of whole frames and of the training step there.
#
#   bash benchmarks/gpu.sh [DATA] [FLAGS...]
#
# DATA holds nerf_synthetic/lego, nerf_llff_data/fern and fox (default: data). FLAGS go to every run, for
# example `--N_iters 20 --qat_iters 20 --testskip 96 --path_frames 1 --importance_rays 20000
# --pseudo_views 4` to see that it runs.
set -euo pipefail
cd "$(dirname "$0")/.."
data=${1:-data}
shift || true
python=${PYTHON:-python}
for run in lego_qat:nerf_synthetic/lego lego_mip:nerf_synthetic/lego fern_qat:nerf_llff_data/fern \
    fern_mip:nerf_llff_data/fern 360_mip:fox; do
    "$python" run_nerf_qat.py --config "configs/${run%%:*}.txt" --datadir "$data/${run#*:}" "$@"
done
"$python" run_vq.py --config configs/lego_vq.txt --datadir "$data/nerf_synthetic/lego" "$@"
"$python" run_r2l.py --config configs/lego_r2l.txt --datadir "$data/nerf_synthetic/lego" \
    --teacher logs/lego_qat/model_int8.safetensors "$@"
[ $# -gt 0 ] && exit 0 # a trial run is not a result
mkdir -p docs/results
for name in lego_qat lego_mip fern_qat fern_mip 360_mip lego_vq lego_r2l; do
    cp "logs/$name/metrics.json" "docs/results/${name}_gpu.json"
done
"$python" benchmarks/int8_mlp.py --device cuda
"$python" benchmarks/field.py --device cuda --samples 1048576
"$python" benchmarks/render.py --datadir "$data/nerf_synthetic/lego" --device cuda
"$python" benchmarks/train_step.py --config configs/lego_qat.txt --datadir "$data/nerf_synthetic/lego" --device cuda
"$python" benchmarks/experiments.py --seeds 1 --only base amp int8 w4a8 bit bit_wider_by_an_eighth --name experiments_gpu --factor 2 \
    --datadir "$data/nerf_synthetic/lego" --netdepth 8 --netwidth 256 --muon_lrate 0.02 --lrate 2e-3 \
    --samples_per_batch 131072 --grid_resolution 128
echo "kept in docs/results: lego_qat_gpu.json lego_mip_gpu.json fern_qat_gpu.json fern_mip_gpu.json 360_mip_gpu.json lego_vq_gpu.json lego_r2l_gpu.json int8_mlp_cuda.json field_cuda.json render_cuda.json train_step_lego_qat.json experiments_gpu.json"
