"""What ends a command early, said so that a person can act on it."""


class CommandFailed(Exception):
    """A command cannot go on: what went wrong, and what to do about it. `code` becomes the exit code."""

    def __init__(self, problem: str, advice: str = "", *, code: int = 1) -> None:
        super().__init__(problem)
        self.problem, self.advice, self.code = problem, advice, code
