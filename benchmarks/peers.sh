#!/usr/bin/env bash
# Virtual environments and check-outs of the peers, once: benchmarks/peers.sh DIR
# Then: EMBODIED_PEERS=DIR python -m benchmarks. Rows whose peer is missing say so and are skipped.
set -euo pipefail
DIR=${1:?usage: benchmarks/peers.sh DIR}
PYTHON=${PYTHON:-python3}
mkdir -p "$DIR"
cd "$DIR"

[ -x rl/bin/python ] || "$PYTHON" -m venv rl
rl/bin/pip install -q torch==2.13.0 "numpy<2" gymnasium==1.4.0 stable-baselines3==2.9.2
# d3rlpy pins an older gymnasium, so its dependencies are named here.
rl/bin/pip install -q --no-deps d3rlpy==2.8.1
rl/bin/pip install -q gym==0.26.2 structlog colorama dataclasses-json scikit-learn click h5py tqdm \
  typing-extensions

[ -x jaxv/bin/python ] || "$PYTHON" -m venv jaxv
jaxv/bin/pip install -q jax==0.10.2 flax==0.12.8 distrax==0.1.9 optax==0.2.8 ml_collections \
  overrides einops absl-py

# robomimic declares packages that its reader of datasets does not need.
[ -x fmt/bin/python ] || "$PYTHON" -m venv fmt
fmt/bin/pip install -q torch==2.13.0 numpy h5py tqdm psutil termcolor imageio
fmt/bin/pip install -q --no-deps robomimic==0.3.0

[ -x trl/bin/python ] || "$PYTHON" -m venv trl
trl/bin/pip install -q torch==2.13.0 transformers==5.23.0 trl==1.12.0

checkout() { # repository, commit, folder
  [ -d "$3/.git" ] || git clone -q "https://github.com/$1" "$3" ||
    { echo "could not clone $1: its rows will be skipped"; rm -rf "$3"; return 0; }
  git -C "$3" checkout -q "$2"
}
checkout zhouzypaul/wsrl 891ee353afe5303835da421c60d4ac35f6e2ef10 wsrl
checkout corl-team/CORL eeeeef2671235fcce3a3eb255576a207d78840e6 CORL
