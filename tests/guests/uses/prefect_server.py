"""Prefect: flows, runs, deployments with schedules, work pools, limits, variables and logs, through its REST API."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

os.environ |= {
    "PREFECT_HOME": str(Path.cwd()),
    "PREFECT_API_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{Path.cwd()}/prefect.sqlite3",
    "PREFECT_API_DATABASE_MIGRATE_ON_START": "false",
    "PREFECT_API_BLOCKS_REGISTER_ON_START": "false",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_LOGGING_LEVEL": "ERROR",
    "DO_NOT_TRACK": "1",
}

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.actions import (
    ArtifactCreate,
    ArtifactUpdate,
    GlobalConcurrencyLimitCreate,
    LogCreate,
    VariableCreate,
    VariableUpdate,
    WorkPoolCreate,
    WorkPoolUpdate,
)
from prefect.client.schemas.schedules import IntervalSchedule
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound, PrefectHTTPStatusError
from prefect.server import models
from prefect.server.api.server import create_app
from prefect.server.database import provide_database_interface
from prefect.server.database.orm_models import Base
from prefect.states import Completed, Failed, Pending, Running, Scheduled
from sqlalchemy import create_engine

DATABASE: Final = "sqlite:///prefect.sqlite3"
MODELS: Final = Base
_CASCADE: Final = "the database's own cascade deletes it with its run, which an event does not tell"
UNSEEN: Final = {f"extra guest.{name}/*": _CASCADE for name in ("flow_run_input", "flow_run_state", "task_run_state")}


def use() -> Iterator[Any]:
    """Yields what a client of the server sees, without its random ids and names."""
    engine = create_engine(DATABASE)
    artifact = Base.metadata.tables["artifact"]
    # One is declared twice; their migrations make it once, but take their time.
    artifact.indexes.intersection_update({each.name: each for each in artifact.indexes}.values())
    Base.metadata.create_all(engine)
    engine.dispose()
    yield from asyncio.run(_all())


async def _all() -> list[Any]:
    async with PrefectClient(create_app(ephemeral=True)) as client:
        steps = (_flows, _runs, _deployments, _limits, _rest)
        return [each for step in steps async for each in step(client)]


async def _flows(client: PrefectClient) -> AsyncIterator[Any]:
    first = await client.create_flow_from_name("first")
    yield first == await client.create_flow_from_name("first"), await client.create_flow_from_name("second") != first
    yield sorted(each.name for each in await client.read_flows())


async def _runs(client: PrefectClient) -> AsyncIterator[Any]:
    flow = (await client.read_flow_by_name("first")).id
    for n in range(6):
        sent = {
            "name": f"run {n}",
            "flow_id": str(flow),
            "parameters": {"n": n, "é": [None, 1.5]},
            "tags": ["a", f"t{n}"],
        }
        run = (await client._client.post("/flow_runs/", json=sent)).json()["id"]
        for state in (Pending(), Running(), Failed(message="no") if n % 3 == 0 else Completed()):
            yield (await client.set_flow_run_state(run, state)).status.value
        await client.update_flow_run(run, name=f"renamed {n}", empirical_policy=None)
        await client.update_flow_run_labels(run, {"label": n})
        await client.create_flow_run_input(run, "key", "value")
        if n == 1:
            await client.delete_flow_run_input(run, "key")
        task = {"name": f"task {n}", "flow_run_id": run, "task_key": "t", "dynamic_key": str(n), "task_inputs": {}}
        made = (await client._client.post("/task_runs/", json=task)).json()["id"]
        yield (await client.set_task_run_state(made, Running())).status.value
        yield (await client.set_task_run_state(made, Completed())).status.value
        await client.create_logs([_log(run, made, f"{n}-{i}") for i in range(20)])
        if n == 5:
            await client.delete_task_run(made)
            await client.delete_flow_run(run)
    found = await client.read_flow_runs()
    yield sorted(
        (each.name, each.state_type.value, each.run_count, each.parameters, sorted(each.tags)) for each in found
    )
    yield len(await client.read_logs())
    try:
        await client.read_flow_run("00000000-0000-0000-0000-000000000000")
    except ObjectNotFound as error:
        yield type(error).__name__


def _log(run: str, task: str, message: str) -> LogCreate:
    return LogCreate(
        name="guest", level=20, message=message, timestamp=datetime.now(UTC), flow_run_id=run, task_run_id=task
    )


async def _deployments(client: PrefectClient) -> AsyncIterator[Any]:
    pool = await client.create_work_pool(WorkPoolCreate(name="pool", type="process"))
    await client.update_work_pool("pool", WorkPoolUpdate(description="changed", concurrency_limit=3))
    await client.send_worker_heartbeat("pool", "worker", heartbeat_interval_seconds=30)
    await client.send_worker_heartbeat("pool", "worker")
    flow = (await client.read_flow_by_name("second")).id
    made = await client.create_deployment(flow, "d", work_pool_name=pool.name, parameters={"a": 1}, tags=["x"])
    again = await client.create_deployment(flow, "d", work_pool_name=pool.name, parameters={"a": 2}, tags=["y"])
    yield made == again, (await client.read_deployment(made)).parameters
    (schedule,) = await client.create_deployment_schedules(made, [(IntervalSchedule(interval=timedelta(days=1)), True)])
    db = provide_database_interface()
    async with db.session_context(begin_transaction=True) as session:
        yield len(await models.deployments.schedule_runs(session, deployment_id=made, max_runs=4))
    async with db.session_context(begin_transaction=True) as session:
        yield len(await models.deployments.schedule_runs(session, deployment_id=made, max_runs=4))
    await client.update_deployment_schedule(made, schedule.id, active=False)
    await client.pause_deployment(made)
    await client.resume_deployment(made)
    run = await client.create_flow_run_from_deployment(made, parameters={"a": 3}, state=Scheduled())
    yield run.parameters, len(await client.get_scheduled_flow_runs_for_deployments([made]))
    await client.delete_deployment_schedule(made, schedule.id)
    other = await client.create_deployment(flow, "gone", work_pool_name=pool.name)
    await client.delete_deployment(other)
    yield sorted(each.name for each in await client.read_deployments())
    yield [each.name for each in await client.read_workers_for_work_pool("pool")]


async def _limits(client: PrefectClient) -> AsyncIterator[Any]:
    await client.create_concurrency_limit("tag", 2)
    await client.reset_concurrency_limit_by_tag("tag", [])
    await client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name="global", limit=3))
    await client.upsert_global_concurrency_limit_by_name("global", 5)
    for _ in range(2):
        yield (await client.increment_concurrency_slots(["global"], 2, mode="concurrency")).status_code
    try:
        await client.increment_concurrency_slots(["global"], 2, mode="concurrency")
    except PrefectHTTPStatusError as error:
        yield error.response.status_code
    await client.release_concurrency_slots(["global"], 2, 0.5)
    yield (await client.read_global_concurrency_limit_by_name("global")).active_slots
    await client.delete_concurrency_limit_by_tag("tag")


async def _rest(client: PrefectClient) -> AsyncIterator[Any]:
    await client.create_variable(VariableCreate(name="a", value={"x": [1, None]}, tags=["t"]))
    await client.update_variable(VariableUpdate(name="a", value="changed"))
    await client.create_variable(VariableCreate(name="b", value=1))
    await client.delete_variable_by_name("b")
    try:
        await client.create_variable(VariableCreate(name="a", value=2))
    except ObjectAlreadyExists as error:
        yield type(error).__name__
    yield [(each.name, each.value) for each in await client.read_variables()]
    for n in range(4):
        artifact = await client.create_artifact(ArtifactCreate(key="report", type="markdown", data=f"# {n}"))
        await client.update_artifact(artifact.id, ArtifactUpdate(description=f"{n}"))
    await client.delete_artifact(artifact.id)
    yield [each.data for each in await client.read_latest_artifacts()], len(await client.read_artifacts())
