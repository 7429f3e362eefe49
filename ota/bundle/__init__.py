"""Bundles: what passes between cloud and devices on a medium that a person carries."""
