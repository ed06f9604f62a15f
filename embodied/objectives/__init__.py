"""Pure losses and targets: tensors in, tensors out. No modules, no devices, no randomness."""
