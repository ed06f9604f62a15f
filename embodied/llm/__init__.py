"""Language post-training methods and their baselines, one file each."""
