"""Virtual environments of guests: made at the first run, outside the repository, and kept."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]

_ALCHEMY: Final = (
    "advanced-alchemy[uuid,cli,nanoid,passlib,argon2,pwdlib,obstore,fsspec]", "aiosqlite",
    "sqlalchemy<2.1",  # its types need what 2.1 took away
)  # fmt: skip
ENVIRONMENTS: Final[Mapping[str, Sequence[str]]] = {
    "sqlalchemy-2.0": ("sqlalchemy<2.1", "pytest-xdist"),
    "optuna": ("optuna",),
    "optuna-suite": ("optuna", "fakeredis[lua]", "moto[server]"),
    "mlflow": ("mlflow",),
    "prefect": ("prefect",),
    "advanced-alchemy": _ALCHEMY,
    "advanced-alchemy-suite": (
        *_ALCHEMY, "time-machine", "pytest-databases[bigquery,cockroachdb,mssql,mysql,oracle,postgres,spanner,rustfs]",
    ),
    "sqlalchemy-utils": (
        "sqlalchemy-utils[arrow,babel,color,encrypted,intervals,password,pendulum,phone,timezone,url]",
        "flexmock", "pytz", "psycopg2-binary", "pymysql",
    ),
    "various": (
        "aiosqlite", "alembic", "celery", "dogpile.cache", "factory_boy", "fastapi-users[sqlalchemy]", "flask-admin",
        "flask-security-too", "flask-sqlalchemy", "sqlalchemy-continuum", "sqlalchemy-json", "sqlalchemy-mixins",
    ),
}  # fmt: skip
"""What each holds beside the bus and pytest, in the latest releases."""


def cache() -> Path:
    """Where sources and environments of guests are kept from run to run."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get("EVENTBUS_GUESTS") or base / "sqlalchemy-eventbus" / "guests")


def python_of(name: str) -> str:
    """The interpreter of this environment, in which the bus is that of this checkout."""
    place = cache() / "environments" / name
    python, made = str(place / "bin" / "python"), place / "made"
    if not made.exists():
        subprocess.run([sys.executable, "-m", "venv", place], check=True)
        _install(python, "pytest", "pytest-asyncio", *ENVIRONMENTS[name])
    elif made.read_text() != str(ROOT):  # another checkout's, which may be gone
        _install(python)
    made.write_text(str(ROOT))
    return python


def _install(python: str, *packages: str) -> None:
    pip = [python, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "install", "--editable", str(ROOT), *packages], check=True)


def version(package: str, python: str) -> str:
    """Which release of a package an environment has."""
    asked = f"from importlib.metadata import version; print(version({package!r}))"
    return subprocess.run([python, "-c", asked], check=True, capture_output=True, text=True).stdout.strip()


def versions(packages: Iterable[str], python: str) -> str:
    """`optuna 4.5.0, …` for people to read."""
    return ", ".join(f"{package} {version(package, python)}" for package in packages)
