"""Embodied: train in simulation, deploy to a real arm, publish numbers others can reproduce."""

__version__ = "0.1.0"
