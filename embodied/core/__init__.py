"""The loop: it knows no method, no simulator and no file format of others."""
