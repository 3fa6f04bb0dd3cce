"""Convolutional cells: one normal and one reduction cell, stacked over the pixels of an image."""
