"""MLflow: experiments, runs, metrics, tags and a model registry, through its client over its SQLAlchemy stores."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag, ViewType
from mlflow.exceptions import MlflowException
from mlflow.store.db.base_sql_model import Base
from mlflow.store.model_registry.dbmodels import models as registry_models
from mlflow.store.tracking.dbmodels import models as tracking_models

DATABASE: Final = "sqlite:///mlflow.sqlite3"
MODELS: Final = Base
UNSEEN: Final = {
    "missing guest.sql_experiment/0: ": "written as SQL text, which is warned of",
    "missing guest.sql_workspace/default: ": "written by a migration",
}
TABLES: Final = (registry_models, tracking_models)


def use() -> Iterator[Any]:
    """Yields what a user of MLflow sees, without its random ids."""
    client = MlflowClient(tracking_uri=DATABASE, registry_uri=DATABASE)
    yield from _experiments(client)
    yield from _runs(client)
    yield from _registry(client)


def _experiments(client: MlflowClient) -> Iterator[Any]:
    first = client.create_experiment("first", tags={"team": "é"})
    second = client.create_experiment("second", artifact_location=Path(tempfile.gettempdir()).as_uri())
    client.set_experiment_tag(first, "team", "crm")
    client.rename_experiment(second, "renamed")
    client.delete_experiment(second)
    yield sorted(each.name for each in client.search_experiments(view_type=ViewType.ALL))
    client.restore_experiment(second)
    yield sorted((each.name, each.lifecycle_stage, each.tags.get("team")) for each in client.search_experiments())
    try:
        client.create_experiment("first")
    except MlflowException as error:
        yield error.error_code


def _runs(client: MlflowClient) -> Iterator[Any]:
    experiment = client.get_experiment_by_name("first")
    assert experiment is not None
    runs = [client.create_run(experiment.experiment_id, run_name=f"run {n}", start_time=n) for n in range(8)]
    for n, run in enumerate(runs):
        key = run.info.run_id
        client.log_param(key, "depth", n)
        client.log_batch(
            key,
            metrics=[Metric("loss", 1 / (step + n + 1), step, step) for step in range(60)],
            params=[Param(f"p{i}", str(i * n)) for i in range(12)],
            tags=[RunTag(f"t{i}", "x" * i) for i in range(5)],
        )
        client.log_metric(key, "loss", float("nan"), timestamp=99, step=99)
        client.log_metric(key, "loss", float("inf"), timestamp=100, step=100)
        client.set_tag(key, "t1", "again")
        client.set_tag(key, "t1", "and again")
        client.delete_tag(key, "t2")
        client.set_terminated(key, "FAILED" if n % 3 == 0 else "FINISHED", end_time=1000 + n)
        try:
            client.log_param(key, "depth", "another")
        except MlflowException as error:
            yield error.error_code
    client.update_run(runs[2].info.run_id, name="renamed")
    client.delete_run(runs[0].info.run_id)
    client.delete_run(runs[1].info.run_id)
    client.restore_run(runs[1].info.run_id)
    found = client.search_runs([experiment.experiment_id], "attributes.status = 'FINISHED'", order_by=["start_time"])
    for run in found:
        yield run.info.run_name, run.data.params, run.data.tags.get("t1"), str(run.data.metrics)
        yield [(each.step, str(each.value)) for each in client.get_metric_history(run.info.run_id, "loss")]


def _registry(client: MlflowClient) -> Iterator[Any]:
    client.create_registered_model("model", tags={"a": "b"}, description="first")
    for n in range(4):
        client.create_model_version("model", source=f"file:///tmp/{n}", tags={"n": str(n)})
    client.set_registered_model_alias("model", "champion", "2")
    client.set_registered_model_alias("model", "champion", "3")
    client.set_model_version_tag("model", "3", "n", "new")
    client.delete_model_version_tag("model", "2", "n")
    client.update_model_version("model", "1", description="old")
    client.delete_model_version("model", "4")
    client.create_registered_model("gone")
    client.delete_registered_model("gone")
    for each in client.search_model_versions("name = 'model'"):
        yield each.name, each.version, each.description, each.tags, each.aliases
