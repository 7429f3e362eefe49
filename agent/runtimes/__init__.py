"""Inference runtimes behind one port."""
