"""Colours and style of the report's page; light and dark."""

from __future__ import annotations

from typing import Final

from compiler.service.report import Verdict

COLOURS: Final = {
    Verdict.ACCEPTED: "#1a7f4b",
    Verdict.PASSED: "#2f6f9f",
    Verdict.UNPROVEN: "#b26a00",
    Verdict.REJECTED: "#b3261e",
    Verdict.FAILED: "#7a7a7a",
    Verdict.SKIPPED: "#7a7a7a",
}
STYLE: Final = """
:root{--ink:#1c1c1e;--dim:#5d5d63;--line:#e3e3e6;--paper:#fff;--soft:#f5f5f7;--bar:#4a7fb5;--bad:#b3261e}
@media(prefers-color-scheme:dark){:root{--ink:#e8e8ea;--dim:#a5a5aa;--line:#333338;--paper:#161618;--soft:#1f1f23;--bar:#6da3d8;--bad:#ef6a60}}
*{box-sizing:border-box}
body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:76rem;padding:0 1rem;color:var(--ink);background:var(--paper)}
h1{font-size:1.5rem;margin:0 0 .2rem}h2{font-size:1.2rem;margin:2.6rem 0 .4rem}h3{font-size:1rem;margin:1.6rem 0 .3rem}
nav a{margin-right:1rem}a{color:var(--bar)}
.wide{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-size:.86rem;font-variant-numeric:tabular-nums}
th,td{text-align:left;padding:.32rem .55rem;border-bottom:1px solid var(--line);vertical-align:top}
th{font-weight:600;color:var(--dim)}td.n,th.n{text-align:right;white-space:nowrap}
tr.chosen td{background:var(--soft)}
.badge{color:#fff;border-radius:.7rem;padding:.1rem .55rem;font-size:.8rem;white-space:nowrap}
.note{color:var(--dim)}.bad{color:var(--bad)}code{font-size:.88em}
.facts{display:flex;flex-wrap:wrap;gap:.4rem 2rem;margin:.6rem 0;padding:0}
.facts div{min-width:8rem}.facts b{display:block;font-size:.78rem;font-weight:600;color:var(--dim)}
svg text{font:11px system-ui,sans-serif;fill:var(--dim)}
.grid{display:grid;grid-template-columns:repeat(auto-fill,minmax(11rem,1fr));gap:.6rem 1rem}
.grid figure{margin:0}.grid figcaption{font-size:.74rem;color:var(--dim);overflow:hidden;text-overflow:ellipsis;white-space:nowrap}
details{margin:.6rem 0}summary{cursor:pointer;color:var(--dim)}
@media print{details{display:block}}
"""
