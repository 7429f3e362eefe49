"""``outrider-agent``: enrol this device, run the daemon, ask how it is, serve files without a cloud.

Rule: nothing heavy is imported before a command needs it.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

DEFAULT_CONFIG = Path("/etc/outrider/agent.toml")
_EXIT_USAGE = 2


def main(argv: list[str] | None = None) -> None:
    """Entry point of the console script."""
    arguments = _parser().parse_args(argv)
    from fleet.errors import CallerError, OutriderError

    try:
        code = arguments.command(arguments)
    except OutriderError as error:
        print(f"error: {error.code}: {error}", file=sys.stderr)
        code = _EXIT_USAGE if isinstance(error, CallerError) else 1
    except KeyboardInterrupt:
        code = 130
    sys.exit(code)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="outrider-agent",
        description="The device side of Outrider: fetches, proves, serves and watches models.",
        epilog="Start with `outrider device claim` in the cloud, then `outrider-agent enroll` here.",
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    _add_enroll(commands)
    run = commands.add_parser("run", help="run the daemon until SIGTERM or SIGINT")
    _add_config(run)
    run.set_defaults(command=_run)
    status = commands.add_parser("status", help="what the daemon does, or what the disk says")
    _add_config(status)
    status.add_argument("--json", action="store_true", help="print JSON")
    status.set_defaults(command=_status)
    _add_exchange(commands)
    _add_serve(commands)
    return parser


def _add_enroll(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    enroll = commands.add_parser(
        "enroll",
        help="trade a claim code for this device's certificate",
        description="`outrider device claim` prints this command with its values filled in.",
    )
    _add_config(enroll)
    enroll.add_argument("--url", required=True, help="https://HOST:PORT of the cloud's enrolment")
    enroll.add_argument("--code", required=True, help="the claim code; it works once")
    enroll.add_argument("--ca-sha256", required=True, help="fingerprint of the fleet's CA, hex")
    enroll.add_argument("--json", action="store_true", help="print JSON")
    enroll.set_defaults(command=_enroll)


def _add_exchange(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    exchange = commands.add_parser(
        "exchange",
        help="take what a medium brings, and leave on it what the cloud should know",
        description="For a device without a link: the running daemon takes its assignment and the artifacts from a "
        "bundle (`outrider bundle export`), verifies them as if they had come over the network, and writes its "
        "reports to it (`outrider bundle import`).",
    )
    exchange.add_argument("folder", type=Path, metavar="DIR", help="the bundle's folder")
    _add_config(exchange)
    exchange.add_argument("--json", action="store_true", help="print JSON")
    exchange.set_defaults(command=_exchange)


def _add_serve(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    serve = commands.add_parser("serve", help="serve artifacts from files, without a cloud")
    serve.add_argument("files", nargs="+", type=Path, metavar="FILE", help="*.outrider")
    serve.add_argument(
        "--unsigned", action="store_true", help="required: these files bear no signature"
    )
    serve.add_argument("--host", default="127.0.0.1", help="address to listen on")
    serve.add_argument("--port", type=int, default=0, help="of the first file; 0 for free ones")
    serve.add_argument("--threads", type=int, default=1, help="per model; 0: the runtime chooses")
    serve.set_defaults(command=_serve)


def _add_config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config",
        type=Path,
        help=f"agent.toml (default: {DEFAULT_CONFIG} where it is there)",
    )


def _config(arguments: argparse.Namespace):  # type: ignore[no-untyped-def]  # noqa: ANN202  agent.config is imported late
    from agent import config

    path = arguments.config
    if path is None and DEFAULT_CONFIG.exists():
        path = DEFAULT_CONFIG
    return config.load(path)


def _enroll(arguments: argparse.Namespace) -> int:
    config = _config(arguments)
    from agent import enrol
    from agent.adapters.identity import Identity

    enrolment = enrol.enrol(
        Identity(config.state_path),
        url=arguments.url,
        code=arguments.code,
        ca_sha256=arguments.ca_sha256,
        hardware_class=config.hardware_class,
    )
    if arguments.json:
        import json

        print(json.dumps({"device": enrolment.device, "tenant": enrolment.tenant}))
    else:
        print(f"enrolled as {enrolment.device}; start the daemon with `outrider-agent run`")
    return 0


def _run(arguments: argparse.Namespace) -> int:
    config = _config(arguments)
    from agent import daemon

    daemon.run(config)
    return 0


def _status(arguments: argparse.Namespace) -> int:
    config = _config(arguments)
    from agent import inspection

    return inspection.show(config, as_json=arguments.json)


def _exchange(arguments: argparse.Namespace) -> int:
    config = _config(arguments)
    from agent import exchange

    return exchange.run(config, arguments.folder.resolve(), as_json=arguments.json)


def _serve(arguments: argparse.Namespace) -> int:
    from agent.errors import ConfigError

    if not arguments.unsigned:
        raise ConfigError(
            "files bear no signature that can be checked here; say --unsigned if you trust them"
        )
    import asyncio

    from agent.serving.standalone import Options, serve

    options = Options(host=arguments.host, port=arguments.port, threads=arguments.threads)
    asyncio.run(serve(arguments.files, options, lambda line: print(line, flush=True)))
    return 0


if __name__ == "__main__":
    main()
