#!/bin/bash
#SBATCH --nodes=4 --ntasks-per-node=1 --gpus-per-node=4 --cpus-per-task=32 --time=10:00:00
#SBATCH --signal=B:TERM@300 --requeue
# Submit it in a folder that all nodes share, with automerge.yaml in it: sbatch slurm.sh
set -u
export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1}

# Ray's nodes accept those that know a secret.
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$PWD/ray.token
[ -s ray.token ] || (umask 077 && openssl rand -hex 32 > ray.token)

head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
port=$((20000 + SLURM_JOB_ID % 10000)) # another one for each job on the node
trap 'kill $(jobs -p) 2> /dev/null' EXIT
srun --nodes=1 --ntasks=1 -w "$head" ray start --head --port="$port" --include-dashboard=false --block &
first=$!
until (exec 3<> "/dev/tcp/$head/$port") 2> /dev/null; do
    kill -0 "$first" || exit 1
    sleep 1
done
others=$((SLURM_NNODES - 1))
if [ "$others" -gt 0 ]; then
    srun --nodes="$others" --ntasks="$others" --exclude="$head" ray start --address="$head:$port" --block &
fi

stopped=
trap 'stopped=yes; kill -TERM "$!"' TERM # $!: the search, which was started last
automerge search --executor ray --ray-address "$head:$port" --max-time 9h30min &
wait "$!"
wait "$!" # the signal ends the first wait
code=$?
[ -z "$stopped" ] || scontrol requeue "$SLURM_JOB_ID"
exit "$code"
