#!/bin/bash
# Train a config on 4 machines with 8 GPUs each.    sbatch docs/clusters/slurm.sh configs/shakespeare_gpt_gpu.toml
#SBATCH --job-name=nnfunc
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --mem=0
#SBATCH --time=24:00:00
#SBATCH --output=%x-%j.out
#SBATCH --requeue
# 300 seconds before the end of its time the run gets a SIGTERM: it saves, and exits with 143
#SBATCH --signal=TERM@300

set -euo pipefail
config=${1:?usage: sbatch slurm.sh CONFIG [KEY=VALUE ...]}
shift

# a folder that all machines see: process 0 writes checkpoints there, and a requeued job continues from them
run=${NNFUNC_RUN:-$PWD/runs/slurm-$SLURM_JOB_ID}
# the programs of each machine are compiled once
export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-$HOME/.cache/nnfunc/jax}

# one process a GPU; JAX reads the number of each process, and the address of process 0, from SLURM's variables
if [ -e "$run/config.toml" ]; then
    srun --kill-on-bad-exit=1 nnfunc resume "$run"
else
    srun --kill-on-bad-exit=1 nnfunc train "$config" --run "$run" "$@" mesh.data=-1
fi
