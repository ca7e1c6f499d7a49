"""Medians taken in turn, and the table they are printed in: figures and ratios, never verdicts."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping

Measure = Callable[[], float]
"""One run, in seconds."""


def medians_ms(measures: Mapping[str, Measure], rounds: int) -> dict[str, float]:
    """Taken in turn so that a noisy moment hits all alike; the first round is dropped."""
    taken: dict[str, list[float]] = {name: [] for name in measures}
    for number in range(rounds + 1):
        for name, measure in measures.items():
            seconds = measure()
            if number:
                taken[name].append(seconds)
    return {name: statistics.median(times) * 1000 for name, times in taken.items()}


def show(title: str, figures: Mapping[str, float], unit: str, *, more_is_better: bool = False) -> None:
    """One block; the first figure is Wherry's, the others get their ratio to it."""
    print(f"\n{title}")
    own = next(iter(figures.values()))
    for number, (name, figure) in enumerate(figures.items()):
        ratio = own / figure if more_is_better else figure / own
        print(f"  {name:12} {figure:10.2f} {unit}{f'   wherry is {ratio:.1f}x better' if number else ''}", flush=True)


def show_times(title: str, measures: Mapping[str, Measure], rounds: int) -> None:
    show(f"{title} (median of {rounds})", medians_ms(measures, rounds), "ms")
