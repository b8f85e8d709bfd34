"""What commands print: to people on stderr or stdout, in colour only on a terminal without NO_COLOR."""

import sys
from typing import TYPE_CHECKING

from gateway.up.problems import CommandFailed
from regions.errors import ConfigError, RegionsError
from regions.runtime.lifecycle import PortTaken

if TYPE_CHECKING:
    from rich.console import Console

FAILED = 1
MISUSED = 2


def stdout() -> "Console":
    """Where results go."""
    return _console(stderr=False)


def stderr() -> "Console":
    """Where progress and problems go."""
    return _console(stderr=True)


def _console(*, stderr: bool) -> "Console":
    from rich.console import Console  # rich honours NO_COLOR and drops colour when it is not a terminal

    return Console(stderr=stderr, highlight=False, soft_wrap=True)


def explain(error: Exception) -> int | None:
    """Print an error that people can act on; its exit code, or None when it is a fault of ours."""
    while isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]  # a TaskGroup wraps what ended it
    match error:
        case ConfigError():
            lines = [str(error.args[0]).splitlines()[0], *(f"  {problem}" for problem in error.problems)]
            code = MISUSED
        case CommandFailed():
            lines, code = [error.problem, *([f"  {error.advice}"] if error.advice else [])], error.code
        case PortTaken():
            lines = [
                str(error),
                f"  see who has it: ss -ltnp 'sport = :{error.port}'; or choose another port",
            ]
            code = FAILED
        case RegionsError():
            lines, code = [str(error)], FAILED
        case _:
            return None
    console = stderr()
    console.print(f"[bold red]error:[/] {_plain(lines[0])}")
    for line in lines[1:]:
        console.print(_plain(line))
    return code


def _plain(text: str) -> str:
    from rich.markup import escape

    return escape(text)


def is_terminal() -> bool:
    """Whether a person watches stdout."""
    return sys.stdout.isatty()
