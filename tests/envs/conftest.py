"""Chooses the renderer before any test imports a simulator by itself."""

from envs.physics import prepare_gl

prepare_gl()
