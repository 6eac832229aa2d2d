"""A study on the disk: Optuna's journal, shared by processes that may be killed, one recipe's trials each.

A process holds a lock while it works on a trial. A trial that nobody holds and that has not ended was killed: it is
asked for again, and the folds that it had finished are kept.

Source: Akiba et al., Optuna (2019), arXiv 1907.10902; the Tree-structured Parzen Estimator: Bergstra et al. (2011).
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from curvekit.errors import CurvekitError, pick
from curvekit.experiments.spaces import Space, grid, grid_size

SAMPLERS = ("tpe", "random", "grid")
STARTUP = 4  # trials that nothing prunes


def optuna() -> Any:
    """The package.

    Raises:
        CurvekitError: it is not installed.
    """
    try:
        import optuna
    except ImportError as error:
        raise CurvekitError("a search needs optuna, which is not installed; pip install 'curvekit[search]'") from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    logging.getLogger("optuna").setLevel(logging.ERROR)
    return optuna


class Study:
    """The trials of one recipe.

    Args:
        folder: of the search; other processes may be at it.
        name: the recipe.
        sampler: ``tpe``, ``random`` or ``grid``.
        trials: how many there shall be, those that were given up included.
    """

    def __init__(self, folder: Path, name: str, space: Space, sampler: str, trials: int, seed: int) -> None:
        self.optuna = optuna()
        self.folder, self.name, self.space, self.seed = folder, name, space, seed
        self.sampler = pick(sampler, SAMPLERS, "sampler")
        self.trials = min(trials, grid_size(space)) if sampler == "grid" else trials
        journal = self.optuna.storages.journal
        path = str(folder / "journal.log")
        self.storage = self.optuna.storages.JournalStorage(
            journal.JournalFileBackend(path, lock_obj=journal.JournalFileOpenLock(path))
        )
        self.lock = FileLock(folder / ".ask.lock")
        pruner = self.optuna.pruners.MedianPruner(n_startup_trials=STARTUP)
        with self.lock:
            self.study = self.optuna.create_study(
                storage=self.storage, study_name=name, direction="minimize", load_if_exists=True, pruner=pruner
            )

    @property
    def frozen(self) -> list[Any]:
        """All trials so far, by number."""
        return self.study.get_trials(deepcopy=False)

    def ended(self) -> list[Any]:
        """The trials that have a score, those that were given up included."""
        states = self.optuna.trial.TrialState
        return [each for each in self.frozen if each.state in (states.COMPLETE, states.PRUNED)]

    def best(self) -> Any:
        """The best trial that was scored in every fold.

        Raises:
            CurvekitError: there is none.
        """
        done = [each for each in self.frozen if each.state == self.optuna.trial.TrialState.COMPLETE]
        if not done:
            raise CurvekitError(
                f"no trial of {self.name} came to its end: every loss stopped being a number; search lower rates"
            )
        return min(done, key=lambda each: (each.value, each.number))

    @contextlib.contextmanager
    def asked(self) -> Iterator[Any]:
        """The next trial, held by this process; None where there are enough, or others are at the rest."""
        with contextlib.ExitStack() as stack:
            with self.lock:
                alive = self._alive()
                if len(self.ended()) + alive >= self.trials:
                    trial = None
                else:
                    # Anew each time: a process that goes on draws what nobody has drawn.
                    self.study.sampler = self._sampler(len(self.frozen))
                    if self.sampler == "grid":
                        self._enqueue_next()
                    trial = self.study.ask()
                    stack.enter_context(FileLock(self._held(trial.number)))
                    for each in self.space:
                        self._suggest(trial, each)
            yield trial

    def done(self) -> bool:
        """Whether there are as many trials as there shall be."""
        return len(self.ended()) >= self.trials

    def tell(self, trial: Any, value: float | None) -> None:
        """The score of a trial; None: it was given up."""
        state = self.optuna.trial.TrialState
        with self.lock:
            self.study.tell(trial, value, state.COMPLETE if value is not None else state.PRUNED)

    def _sampler(self, number: int) -> Any:
        samplers, seed = self.optuna.samplers, self.seed * 100_003 + number
        if self.sampler != "tpe":
            return samplers.RandomSampler(seed)
        return samplers.TPESampler(seed=seed, n_startup_trials=min(10, max(STARTUP, self.trials // 3)))

    def _enqueue_next(self) -> None:
        """Put the next point of the grid in, in an order of its own, unless one that was killed waits."""
        states = self.optuna.trial.TrialState
        if any(each.state == states.WAITING for each in self.frozen):
            return
        points = [
            dict(zip(grid(self.space), each, strict=True)) for each in itertools.product(*grid(self.space).values())
        ]
        random.Random(self.seed).shuffle(points)
        had = [each.params for each in self.frozen if each.state != states.FAIL]
        self.study.enqueue_trial(next(point for point in points if point not in had))

    def _suggest(self, trial: Any, dimension: Any) -> None:
        if dimension.choices or self.sampler == "grid":
            trial.suggest_categorical(dimension.name, list(grid((dimension,))[dimension.name]))
        elif dimension.whole:
            trial.suggest_int(dimension.name, dimension.low, dimension.high, log=dimension.log)
        else:
            trial.suggest_float(dimension.name, dimension.low, dimension.high, log=dimension.log)

    def _held(self, number: int) -> Path:
        return self.folder / "locks" / f"{self.name}-{number}.lock"

    def _alive(self) -> int:
        """How many trials are being worked on; those that were killed are put back."""
        states = self.optuna.trial.TrialState
        alive = 0
        (self.folder / "locks").mkdir(exist_ok=True)
        for each in self.frozen:
            if each.state != states.RUNNING:
                continue
            try:
                with FileLock(self._held(each.number), timeout=0):
                    self.study.tell(each.number, state=states.FAIL)
                    if set(each.params) == {dimension.name for dimension in self.space}:
                        first = each.user_attrs.get("goes_on_from", each.number)
                        self.study.enqueue_trial(each.params, user_attrs={"goes_on_from": first})
            except Timeout:
                alive += 1
        return alive

    def finished_folds(self, trial: Any) -> dict[int, dict[str, Any]]:
        """The folds that a trial has behind it, by number: its own, and those of the killed one that it repeats."""
        first = trial.user_attrs.get("goes_on_from")
        same = [each for each in self.frozen if first in (each.number, each.user_attrs.get("goes_on_from"))]
        return {
            int(name[5:]): found
            for each in (same if first is not None else [])
            for name, found in each.user_attrs.items()
            if name.startswith("fold ")
        }
