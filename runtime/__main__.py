"""`python -m runtime daemon|launcher|oci`: each process of the runtime, started by its name.

A part is imported only when it is asked for: the launcher must stay small.
"""

import sys

USAGE = """usage: python -m runtime COMMAND [ARG ...]

commands:
  daemon     the engine (the same as wherryd)
  launcher   the process that starts containers; the engine runs it
  oci        create, start, state, kill, delete: run a plain OCI bundle
"""


def main(argv: list[str]) -> int:
    command, rest = (argv[0], argv[1:]) if argv else ("--help", [])
    if command == "launcher":
        from runtime.launcher.main import main as run
    elif command == "oci":
        from runtime.container.cli import main as run
    elif command == "daemon":
        from runtime.daemon.main import main as run
    else:
        wanted_help = command in ("-h", "--help")
        print(USAGE, end="", file=sys.stdout if wanted_help else sys.stderr)
        return 0 if wanted_help else 2
    return run(rest)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
