"""The entry point of ``outrider``: says what to install when the command line's libraries are missing."""

from __future__ import annotations

import sys


def main(arguments: list[str] | None = None) -> None:
    """Run ``outrider`` and exit."""
    try:
        from fleet.cli import group, output
    except ModuleNotFoundError as error:
        sys.exit(
            f"outrider: {error}; run: pip install 'outrider[compiler]' (or [cloud], [simulator])"
        )
    sys.exit(
        output.guarded(
            lambda: group.build()(args=arguments, prog_name="outrider", standalone_mode=False)
        )
    )


if __name__ == "__main__":
    main()
