"""Objectives: pure functions from logits or distributions to one value an item."""
