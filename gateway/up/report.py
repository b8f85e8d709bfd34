"""What `meridian up` prints: phases with their seconds, one progress line, an answer, how to go on."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from gateway.up.answers import Answer, receipt
from regions.runtime.children import ChildEvent, ChildState

MIB: Final = 1024 * 1024
LINE_EVERY: Final = 500
"""Passages between two progress lines where there is no terminal to redraw one on."""


class Report:
    """Prints to one console; `now_s` is a monotonic clock in seconds."""

    def __init__(self, console: Console, now_s: Callable[[], float]) -> None:
        self._console, self._now_s = console, now_s
        self.begun_s = now_s()
        self._expected_ends = False

    def line(self, text: str = "") -> None:
        """A line as it is."""
        self._console.print(text, markup=False)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Print the phase with the seconds it took; while it runs, show it on a terminal."""
        begun = self._now_s()
        with self._console.status(escape(name)):
            yield
        self.phase_took(name, self._now_s() - begun)

    def phase_took(self, name: str, seconds: float) -> None:
        self._console.print(f"  {escape(name):<58} [cyan]{seconds:6.1f} s[/]")

    def elapsed_s(self) -> float:
        """Since this report was made."""
        return self._now_s() - self.begun_s

    def text(self, piece: str) -> None:
        """A piece of a streamed answer, at once."""
        self._console.print(piece, end="", markup=False)
        self._console.file.flush()

    def sources(self, answer: Answer) -> None:
        """What an answer cites, and its receipt."""
        self._console.print()
        for number, source in enumerate(answer.sources, 1):
            self._console.print(f"  [{number}] {source.title}  {source.url}", markup=False)
        self.receipt(answer)

    def receipt(self, answer: Answer) -> None:
        """What there is to know about an answer that is not shown."""
        self._console.print("  " + " · ".join(receipt(answer)), style="dim", markup=False)

    def memory(self, resident: Mapping[str, int]) -> None:
        """Resident memory in all and by kind of process: `us-east node` is of the kind `node`."""
        kinds: dict[str, list[int]] = {}
        for name, size in resident.items():
            kinds.setdefault(name.rpartition(" ")[2], []).append(size)
        parts = ", ".join(
            f"{len(sizes)} x {kind} {sum(sizes) / len(sizes) / MIB:.0f}" for kind, sizes in kinds.items()
        )
        total = sum(resident.values()) / MIB
        self.line(f"  memory: {total:.0f} MiB resident in {len(resident)} processes ({parts})")

    def ending(self) -> None:
        """From now on, processes end because they are told to."""
        self._expected_ends = True

    def child(self, event: ChildEvent) -> None:
        """Say when a process died on its own."""
        if event.state is not ChildState.EXITED or self._expected_ends:
            return
        self.line(f"  the {event.name} ended with code {event.code}; its last lines:")
        for text in event.last_lines:
            self.line(f"    {text}")
        self.line(f"  starting it again in {event.restart_in_s:g} s")

    @contextmanager
    def progress(self, name: str, total: int) -> Iterator[Callable[[int], None]]:
        """A bar on a terminal, now and then a line elsewhere; gives the function that moves it."""
        if not self._console.is_terminal:
            yield self._lines(name, total)
            return
        columns = (
            TextColumn("  {task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=self._console, transient=True) as progress:
            task = progress.add_task(name, total=total)
            yield lambda done: progress.update(task, completed=done)

    def _lines(self, name: str, total: int) -> Callable[[int], None]:
        said = 0

        def moved(done: int) -> None:
            nonlocal said
            if done // LINE_EVERY > said // LINE_EVERY:
                said = done
                self.line(f"  {name}: {done} of {total}")

        return moved
