"""From a commit to its git commit and back into a database, through real processes and a broker in a file."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")

APP = """
import sqlalchemy as sa
from datetime import date
from decimal import Decimal
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, sessionmaker
import eventbus

class Base(DeclarativeBase): ...

class Company(Base):
    __tablename__ = "company"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]

class Contact(Base):
    __tablename__ = "contact"
    id: Mapped[int] = mapped_column(primary_key=True)
    company_id: Mapped[int] = mapped_column(sa.ForeignKey("company.id"))
    phone: Mapped[str | None]
    email: Mapped[str | None]
    born: Mapped[date | None]
    credit: Mapped[Decimal | None] = mapped_column(sa.Numeric(10, 2))

engine = sa.create_engine("sqlite:///app.db")
Session = sessionmaker(engine)
eventbus.install(Session, service="crm", url="sqlite:///broker.db")
"""


@dataclass
class Chain:
    """A service's database, a broker and a mirror in one directory; every step is a process of its own."""

    home: Path

    def run(self, *command: str, code: int = 0) -> str:
        command = (sys.executable, *command)
        done = subprocess.run(
            command, cwd=self.home, env=self.environment, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == code, done.stderr
        return done.stdout

    @property
    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("EVENTBUS_")}
        return {
            **kept,
            "PYTHONPATH": f"{self.home}:{ROOT}",
            "PYTHONDONTWRITEBYTECODE": "1",
            "EVENTBUS_URL": "sqlite:///broker.db",
            "EVENTBUS_SERVICE": "crm",
            "EVENTBUS_HISTORY": "git",
            "EVENTBUS_HISTORY_SETTLE": "0.2",
            "EVENTBUS_MODELS": "app:Base",
            "DATABASE_URL": "sqlite:///app.db",
            "DATA_DIR": "data",
        }

    def app(self, code: str) -> None:
        """Run this in the service, and wait until the broker has its events."""
        self.run("-c", f"from app import *\n{code}\nfrom eventbus.bus import installed\ninstalled(Session).close()")

    def history(self, *arguments: str, code: int = 0) -> str:
        return self.run("-m", "consumers.history", *arguments, code=code)

    def drain(self) -> None:
        self.run("-m", "consumers.json_mirror", "--drain")

    def git(self, *arguments: str) -> str:
        repository = self.home / "data/.eventbus/history.git"
        return subprocess.run(["git", "-C", repository, *arguments], capture_output=True, text=True, check=True).stdout

    def mirror(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", "consumers.json_mirror"],
            cwd=self.home, env=self.environment, start_new_session=True,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip


@pytest.fixture
def chain(tmp_path: Path) -> Chain:
    (tmp_path / "app.py").write_text(APP)
    made = Chain(tmp_path)
    made.app("Base.metadata.create_all(engine)")
    return made


def test_a_life_in_commits_is_asked_and_had_back(chain: Chain) -> None:
    chain.app("""
with Session.begin() as s, eventbus.acting_as("ann"):
    s.add(Company(id=1, name="Acme"))
    s.flush()
    s.add(Contact(id=7, company_id=1, phone="1", email="a@x", born=date(2000, 2, 29), credit=Decimal("1.50")))
""")
    chain.app("""
mine, his = Session(), Session(expire_on_commit=False)
a, b = mine.get(Contact, 7), his.get(Contact, 7)
his.commit()  # b keeps what was read: a stale copy
with eventbus.acting_as("ann"), eventbus.annotate(reason="she called"):
    a.phone = "2"; mine.commit()
with eventbus.acting_as("bob"):
    b.email = "b@x"; his.commit()
""")
    chain.drain()
    phone = json.loads(chain.history("why", "crm.contact", "7", "phone", "--json"))
    assert (phone["value"], phone["before"], phone["transaction"]["author"]) == ("2", "1", "ann")
    assert phone["transaction"]["notes"] == {"reason": "she called"}
    email = json.loads(chain.history("why", "crm.contact", "7", "email", "--json"))
    assert (email["value"], email["transaction"]["author"]) == ("b@x", "bob")
    assert chain.git("log", "--format=%an %s").splitlines() == [
        "bob crm: contact 7 (email)",
        "ann crm: contact 7 (phone)",
        "ann crm: company 1 (created), contact 7 (created)",
    ]
    assert chain.history("verify", "--git") == "the history is whole\n"

    # Any moment goes into any database, foreign keys checked.
    (chain.home / "then.db").touch()
    for position, phone_then in ((1, "1"), (2, "2")):
        chain.run("-c", "from app import Base; import sqlalchemy as sa; e = sa.create_engine('sqlite:///then.db');"
                  "Base.metadata.drop_all(e); Base.metadata.create_all(e)")  # fmt: skip
        said = chain.run(
            "-m", "eventbus.loaddata", "data", "--position", str(position), "--database", "sqlite:///then.db"
        )
        assert "Installed 2 object(s)" in said
        rows = chain.run("-c", "import sqlite3; print(sqlite3.connect('then.db').execute("
                         "'SELECT phone, born, credit FROM contact').fetchall())")  # fmt: skip
        assert rows.strip() == f"[('{phone_then}', '2000-02-29', 1.5)]"

    # One record put back is a change as any other.
    chain.history("restore", "crm.contact", "7", "--at", "#1", "--apply", "app:Session")
    chain.drain()
    restored = json.loads(chain.history("log", "--json", "-n", "1"))
    assert restored["author"].startswith("restore by ")
    assert restored["notes"] == {"reason": "as it was at #1"}
    assert restored["changes"][0]["changed"] == ["email", "phone"]
    chain.app("with Session.begin() as s: s.delete(s.get(Contact, 7))")
    chain.drain()
    chain.history("restore", "crm.contact", "7", "--at", "#1", "--apply", "app:Session")
    chain.drain()
    assert json.loads(chain.history("at", "#6", "crm.contact", "7"))["fields"]["credit"] == "1.50"
    assert chain.history("verify", "--git") == "the history is whole\n"
