"""Optuna: studies with a seeded sampler and a pruner, kept in its RDB storage; attributes, failures, deletion."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import optuna
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.storages import RDBStorage
from optuna.storages._rdb import models

DATABASE: Final = "sqlite:///optuna.sqlite3"
MODELS: Final = models.BaseModel


def use() -> Iterator[Any]:
    """Yields what a user of Optuna sees."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    storage = RDBStorage(DATABASE)
    yield from _search(storage)
    yield from _by_hand(storage)


def _search(storage: RDBStorage) -> Iterator[Any]:
    study = optuna.create_study(
        study_name="search",
        storage=storage,
        sampler=optuna.samplers.RandomSampler(seed=7),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=3),
    )
    study.set_user_attr("contributors", ["Ann", "Bob"])
    study.optimize(_objective, n_trials=15, catch=(ZeroDivisionError,))
    yield study.best_params, study.best_value, len(study.trials)
    for trial in study.trials:
        yield trial.number, trial.state.name, trial.values, trial.params, trial.user_attrs, trial.intermediate_values


def _objective(trial: optuna.Trial) -> float:
    x = trial.suggest_float("x", -10, 10)
    kind = trial.suggest_categorical("kind", ["a", "b", None])
    n = trial.suggest_int("n", 0, 5)
    trial.set_user_attr("note", f"{kind}-{n}")
    for step in range(4):
        trial.report((x - 2) ** 2 + n / (step + 1), step)
        if trial.should_prune():
            raise optuna.TrialPruned
    return (x - 2) ** 2 + 1 / n


def _by_hand(storage: RDBStorage) -> Iterator[Any]:
    other = optuna.create_study(
        study_name="other",
        storage=storage,
        directions=["minimize", "maximize"],
        sampler=optuna.samplers.RandomSampler(seed=7),
    )
    other.enqueue_trial({"a": 1.0})
    other.enqueue_trial({"a": 2.0}, user_attrs={"odd": True})
    for _ in range(3):
        trial = other.ask({"a": FloatDistribution(0, 3), "c": CategoricalDistribution(["é", "ü"])})
        trial.set_user_attr("c", "twice")
        trial.set_user_attr("c", {"nested": [1, 2, None]})
        other.tell(trial, (1.0, float("inf")))
    yield sorted(trial.params.get("a", -1) for trial in other.trials)[:1], len(other.best_trials)
    optuna.copy_study(from_study_name="search", from_storage=storage, to_storage=storage, to_study_name="copy")
    optuna.delete_study(study_name="search", storage=storage)
    yield sorted(each.study_name for each in optuna.get_all_study_summaries(storage))
    try:
        optuna.create_study(study_name="copy", storage=storage)
    except optuna.exceptions.DuplicatedStudyError as error:
        yield str(error)
