"""Foundations of all layers: arrays of any library, argument checks, layouts, devices, files."""
