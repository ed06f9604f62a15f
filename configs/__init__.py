"""Named settings: `train.yaml`, `method/<id>.yaml` and `experiment/<name>.yaml`."""
