"""Drivers: scripts that run inside a toolchain's environment, never in this one."""
