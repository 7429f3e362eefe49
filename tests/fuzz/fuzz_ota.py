"""Feed many mutated inputs to a device's verification and transfer, and print what became of them.

python tests/fuzz/fuzz_ota.py [--inputs 100000] [--seed 0] [metadata] [assignments] [blocks]

An input that ends in anything else than an acceptance or an error of ours stops the run; its message names
the seed, and ``--seed SEED --inputs 1 KIND`` repeats it alone.
"""

from __future__ import annotations

import argparse
import json
import sys

from support import block_fuzz, ota_fuzz

RUNS = {**dict.fromkeys(ota_fuzz.KINDS, ota_fuzz.run), "blocks": block_fuzz.run}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("kinds", nargs="*", choices=[[], *RUNS], help="default: all")
    parser.add_argument("--inputs", type=int, default=100_000, help="of each kind")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    for kind in arguments.kinds or RUNS:
        try:
            tally = RUNS[kind](kind, inputs=arguments.inputs, seed=arguments.seed)
        except ota_fuzz.ForeignError as error:
            print(f"fuzz-ota: {error}", file=sys.stderr)
            return 1
        figures = {
            "kind": kind,
            "inputs": tally.inputs,
            "outcomes": dict(tally.outcomes.most_common()),
            "slowest_ms": round(tally.slowest_s * 1e3, 1),
            "grown_mib": round(tally.grown_mib, 1),
        }
        print(json.dumps(figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())
