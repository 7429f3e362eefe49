"""``report.html``: the report for people, in one file that needs nothing else."""

from compiler.service.page.render import render

__all__ = ["render"]
