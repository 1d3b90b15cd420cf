"""Random sessions over the zoo: whatever is done to a Session, its events are what the tables say after each commit.

    python -m tests.support.machine --examples 2000 --database postgresql+psycopg://…

runs it for long, on an empty database of your own; the suite runs a short form on each database.
"""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import seed as reproducible
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from sqlalchemy import delete, event, func, insert, inspect, select, update
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.exc import CompileError, IntegrityError, InvalidRequestError
from sqlalchemy.orm import Session, make_transient
from sqlalchemy.orm.exc import FlushError, ObjectDeletedError, StaleDataError

from tests.support import zoo
from tests.support.world import World

EXPECTED = (CompileError, IntegrityError, StaleDataError, ObjectDeletedError, FlushError, InvalidRequestError)
"""What random sessions do wrong, by SQLAlchemy's own rules. An error of ours is never expected."""
LEAVES = (zoo.Paper, zoo.Part, zoo.Counter, zoo.Document, zoo.Vehicle, zoo.Car, zoo.Boat, zoo.Ferry)
"""Classes whose rows nothing refers to."""
NAMED = (zoo.Contact, zoo.Person, zoo.Engineer, zoo.Vehicle, zoo.Truck, zoo.Boat, zoo.Part, zoo.Node, zoo.Entry)
UPDATABLE = tuple(model for model in NAMED if model is not zoo.Engineer)
"""SQLAlchemy cannot UPDATE an inherited column of a joined class."""
ANY = (*LEAVES, *NAMED, zoo.Order, zoo.OrderLine, zoo.Team, zoo.Widget)

numbers = st.integers(0, 30)
texts = st.sampled_from(["", "a", "b", "ab", "Ü", "x" * 20])


def step(function: Callable[..., None]) -> Callable[..., None]:
    """One thing done to the session; where SQLAlchemy refuses it, the application rolls back, as one would."""

    @functools.wraps(function)
    def guarded(self: Machine, *args: Any, **kwargs: Any) -> None:
        try:
            function(self, *args, **kwargs)
        except EXPECTED:
            self.session.rollback()

    return guarded


class Machine(RuleBasedStateMachine):
    """A session, what is done to it, and the check after each commit."""

    world: World

    def __init__(self) -> None:
        super().__init__()
        empty(self.world)
        self.session = self.world.maker()
        self.kept: dict[int, Any] = {}
        self.populate()
        self.world.follow()

    def populate(self) -> None:
        """Something of everything, committed."""
        team, order = zoo.Team(title="first"), zoo.Order(title="first")
        order.lines = [zoo.OrderLine(position=i, text="a", parts=[zoo.Part(name="a")]) for i in range(3)]
        order.papers = [zoo.Paper(title="a"), zoo.Paper(title="b")]
        root, entry = zoo.Node(name="a"), zoo.Entry(name="a")
        root.children = [zoo.Node(name="b"), zoo.Node(name="a")]
        contacts = [zoo.Contact(name=name, data={}, live={}, teams=[team]) for name in ("a", "b", "Ü")]
        contacts[0].friends.append(contacts[1])
        heirs = [zoo.Person(name="a"), zoo.Engineer(name="a"), zoo.Vehicle(name="a"), zoo.Car(name="b", doors=4)]
        others = [zoo.Truck(name="a", load=1), zoo.Boat(name="a"), zoo.Ferry(name="a", cars=1), zoo.Counter()]
        documents = [zoo.Document(code=f"d{i}", title="a") for i in range(3)]
        widget = zoo.Widget(name="a", entries=[entry], favorite=entry)
        self.session.add_all([order, root, widget, *contacts, *heirs, *others, *documents])
        self.session.commit()

    def teardown(self) -> None:
        self.commit()
        self.session.close()
        self.world.follow()

    def pick(self, model: type[Any], number: int) -> Any:
        """One of the rows there are, or None. Objects are kept from step to step, as programs do."""
        rows = self.session.scalars(select(model).order_by(*inspect(model).primary_key)).all()
        self.kept.update((id(row), row) for row in rows)
        return rows[number % len(rows)] if rows else None

    @invariant()
    def nothing_is_published_before_a_commit(self) -> None:
        assert not self.world.recording.sink.submitted

    # objects

    @rule(name=texts, number=numbers)
    @step
    def add_contact(self, name: str, number: int) -> None:
        given = func.upper(name) if number % 5 == 0 else name
        contact = zoo.Contact(name=given, data={"n": number}, live={"a": [number]}, notes=name or None)
        team = self.pick(zoo.Team, number)
        if team is not None and number % 2:
            contact.teams.append(team)
        self.session.add(contact)

    @rule(name=texts, number=numbers)
    @step
    def add_order(self, name: str, number: int) -> None:
        lines = [zoo.OrderLine(position=i, text=name, parts=[zoo.Part(name=name)] * (i % 2)) for i in range(number % 4)]
        self.session.add(zoo.Order(title=name, lines=lines, papers=[zoo.Paper(title=name)] * (number % 3 == 0)))

    @rule(kind=st.sampled_from(["person", "engineer", "vehicle", "car", "truck", "boat", "ferry"]), name=texts)
    @step
    def add_heir(self, kind: str, name: str) -> None:
        kinds: dict[str, Any] = {
            "person": zoo.Person(name=name),
            "engineer": zoo.Engineer(name=name, language="py"),
            "vehicle": zoo.Vehicle(name=name),
            "car": zoo.Car(name=name, doors=4),
            "truck": zoo.Truck(name=name, load=9),
            "boat": zoo.Boat(name=name),
            "ferry": zoo.Ferry(name=name, cars=2),
        }
        self.session.add(kinds[kind])

    @rule(name=texts, number=numbers)
    @step
    def add_others(self, name: str, number: int) -> None:
        entry = zoo.Entry(name=name)
        node = zoo.Node(name=name, parent=self.pick(zoo.Node, number) if number % 3 else None)
        widget = zoo.Widget(name=name, entries=[entry], favorite=entry if number % 2 else None)
        self.session.add_all([widget, node, zoo.Counter(), zoo.Team(title=name)])

    @rule(number=numbers)
    @step
    def add_document(self, number: int) -> None:
        self.session.add(zoo.Document(code=f"d{number % 6}", title="new"))

    @rule(model=st.sampled_from(NAMED), number=numbers, name=texts)
    @step
    def rename(self, model: type[Any], number: int, name: str) -> None:
        found = self.pick(model, number)
        if found is not None:
            found.name = name

    @rule(number=numbers, name=texts)
    @step
    def there_and_back(self, number: int, name: str) -> None:
        found = self.pick(zoo.Contact, number)
        if found is not None:
            before = found.name
            found.name = name + "?"
            self.session.flush()
            found.name = before

    @rule(number=numbers, name=texts)
    @step
    def set_without_loading(self, number: int, name: str) -> None:
        found = self.pick(zoo.Contact, number)
        if found is not None:
            self.session.expire(found)
            found.phone = name

    @rule(number=numbers)
    @step
    def change_in_place(self, number: int) -> None:
        found = self.pick(zoo.Contact, number)
        if found is not None and found.live is not None:
            found.live["n"] = number
            found.data = {**(found.data or {}), "n": number}
            found.notes = f"{number}"

    @rule(number=numbers)
    @step
    def change_in_place_in_vain(self, number: int) -> None:
        """What was written stays; what is done to the same dict afterwards never reaches the database."""
        found = self.pick(zoo.Contact, number)
        if found is not None:
            found.data, found.live = {"kept": [number]}, {"kept": [number]}
            self.session.flush()
            found.data["kept"].append("unseen")
            found.live["unseen"] = True
            self.session.expunge(found)

    @rule(number=numbers, name=texts)
    @step
    def keep_a_secret(self, number: int, name: str) -> None:
        found = self.pick(zoo.Node, number)
        if found is not None:
            found.password = name

    @rule(model=st.sampled_from([zoo.Contact, zoo.Boat, zoo.Engineer, zoo.Node]), number=numbers)
    @step
    def look_again(self, model: type[Any], number: int) -> None:
        found = self.pick(model, number)
        if found is None:
            return
        found.name = "overwritten"
        if number % 3 == 0:
            self.session.refresh(found)
        elif number % 3 == 1:
            self.session.expire(found, ["name"])
        else:
            self.session.scalars(select(model), execution_options={"populate_existing": True}).all()

    @rule(number=numbers)
    @step
    def set_to_an_expression(self, number: int) -> None:
        counter, contact = self.pick(zoo.Counter, number), self.pick(zoo.Contact, number)
        if counter is not None:
            counter.total = zoo.Counter.total + 1
        if contact is not None:
            contact.name = func.lower(zoo.Contact.name)
        paper = self.pick(zoo.Paper, number)
        if paper is not None:
            paper.title = select(func.max(zoo.Order.title)).scalar_subquery()

    @rule(model=st.sampled_from(ANY), number=numbers)
    @step
    def remove(self, model: type[Any], number: int) -> None:
        found = self.pick(model, number)
        if found is not None:
            self.session.delete(found)

    @rule(model=st.sampled_from([zoo.Contact, zoo.Boat, zoo.Node]), number=numbers, loaded=st.booleans())
    @step
    def remove_what_was_changed(self, model: type[Any], number: int, *, loaded: bool) -> None:
        found = self.pick(model, number)
        if found is None:
            return
        if not loaded:
            self.session.expire(found)
        found.name = "gone"
        if model is zoo.Contact:
            found.teams, live = [], found.live
            self.session.delete(found)
            self.session.flush()
            if live is not None:
                live["unseen"] = True
        else:
            self.session.delete(found)

    # relationships

    @rule(one=numbers, other=numbers)
    @step
    def link(self, one: int, other: int) -> None:
        contact, team, friend = self.pick(zoo.Contact, one), self.pick(zoo.Team, other), self.pick(zoo.Contact, other)
        if contact is None:
            return
        if team is not None and team not in contact.teams:
            (contact.teams if one % 2 else team.contacts).append(team if one % 2 else contact)
        if friend is not contact and friend not in contact.friends:
            contact.friends.append(friend)

    @rule(one=numbers, other=numbers)
    @step
    def unlink(self, one: int, other: int) -> None:
        contact, team = self.pick(zoo.Contact, one), self.pick(zoo.Team, other)
        if contact is not None:
            contact.teams = contact.teams[:1]
            contact.friends.clear()
        if team is not None and other % 2:
            team.contacts = []

    @rule(number=numbers, papers=st.booleans())
    @step
    def shrink_order(self, number: int, *, papers: bool) -> None:
        order = self.pick(zoo.Order, number)
        if order is not None and papers:
            order.papers = []
        elif order is not None:
            order.lines = order.lines[1:]

    @rule(one=numbers, other=numbers)
    @step
    def move(self, one: int, other: int) -> None:
        paper, order = self.pick(zoo.Paper, one), self.pick(zoo.Order, other)
        if paper is not None:
            paper.order = order
        widget = self.pick(zoo.Widget, one)
        if widget is not None:
            widget.favorite = widget.entries[other % len(widget.entries)] if widget.entries and other % 2 else None

    # keys

    @rule(number=numbers, place=numbers)
    @step
    def change_key(self, number: int, place: int) -> None:
        document = self.pick(zoo.Document, number)
        if document is not None:
            document.code = f"d{place % 6}"

    @rule(number=numbers)
    @step
    def switch_row(self, number: int) -> None:
        document = self.pick(zoo.Document, number)
        if document is not None:
            self.session.delete(document)
            self.session.add(zoo.Document(code=document.code, title=f"switched {number}"))

    @rule(number=numbers, flushed=st.booleans())
    @step
    def switch_owner(self, number: int, *, flushed: bool) -> None:
        contact = self.pick(zoo.Contact, number)
        if contact is None:
            return
        self.session.delete(contact)
        if flushed:
            self.session.flush()
        self.session.add(zoo.Contact(id=contact.id, name="switched", teams=list(contact.teams) if number % 2 else []))

    @rule(number=numbers)
    @step
    def switch_class(self, number: int) -> None:
        vehicle = self.pick(zoo.Vehicle, number)
        if vehicle is not None:
            self.session.delete(vehicle)
            self.session.add(zoo.Car(id=vehicle.id, name="switched", doors=number))

    @rule(number=numbers)
    @step
    def make_new_again(self, number: int) -> None:
        boat = self.pick(zoo.Boat, number)
        if boat is not None:
            before, boat.name = boat.name, "soon gone"
            self.session.flush()
            self.session.delete(boat)
            self.session.flush()
            make_transient(boat)
            boat.name = "again" if number % 2 else before
            self.session.add(boat)

    @rule(number=numbers)
    @step
    def pass_keys_on(self, number: int) -> None:
        """In one flush, in the order in which the flush writes."""
        rows = self.session.scalars(select(zoo.Document).order_by(zoo.Document.code)).all()
        if len(rows) > 1:
            code = rows[0].code
            rows[0].code, rows[1].code = f"d{10 + number}", code

    @rule(number=numbers, place=numbers)
    @step
    def move_line(self, number: int, place: int) -> None:
        line = self.pick(zoo.OrderLine, number)
        if line is not None and not line.parts:
            line.position = place

    @rule(number=numbers, place=numbers)
    @step
    def change_key_by_statement(self, number: int, place: int) -> None:
        document = self.pick(zoo.Document, number)
        if document is not None:
            chosen = zoo.Document.code == document.code
            self.session.execute(update(zoo.Document).where(chosen).values(code=f"d{place % 6}"))

    @rule(number=numbers)
    @step
    def merge_a_copy(self, number: int) -> None:
        self.session.merge(zoo.Document(code=f"d{number % 6}", title=f"merged {number % 3}", version=1))

    # statements

    @rule(model=st.sampled_from(UPDATABLE), name=texts, to=texts)
    @step
    def update_many(self, model: type[Any], name: str, to: str) -> None:
        self.session.execute(update(model).where(model.name == name).values(name=to))

    @rule(number=numbers)
    @step
    def update_core(self, number: int) -> None:
        table: Any = zoo.Vehicle.__table__
        self.session.execute(update(table).where(table.c.id % 2 == number % 2).values(name=f"core {number}"))

    @rule(number=numbers, street=texts)
    @step
    def update_behind_its_back(self, number: int, street: str) -> None:
        """The object does not know of the statement, and is written after it."""
        found = self.pick(zoo.Contact, number)
        if found is not None:
            if number % 2:
                found.name = "before"
            chosen = update(zoo.Contact).where(zoo.Contact.id == found.id).values(phone=f"{number}")
            self.session.execute(chosen, execution_options={"synchronize_session": False})
            found.street = street
            self.session.flush()
            self.session.expire(found)

    @rule(number=numbers)
    @step
    def update_by_key(self, number: int) -> None:
        rows = self.session.scalars(select(zoo.Paper.id).order_by(zoo.Paper.id)).all()
        if rows:
            self.session.execute(update(zoo.Paper), [{"id": row, "title": f"by key {number}"} for row in rows[:3]])

    @rule(model=st.sampled_from(LEAVES), number=numbers)
    @step
    def delete_many(self, model: type[Any], number: int) -> None:
        key = inspect(model).primary_key[0]
        found = self.pick(model, number)
        if found is not None:
            self.session.execute(delete(model).where(key == getattr(found, key.name)))

    @rule(number=numbers)
    @step
    def insert_many(self, number: int) -> None:
        self.session.execute(insert(zoo.Counter), [{"double": number}] * (1 + number % 3))
        self.session.execute(insert(zoo.Paper).values(title="inserted"))
        self.session.execute(insert(zoo.Person), [{"name": "bulk"}])

    @rule(model=st.sampled_from(UPDATABLE), name=texts, gone=st.booleans())
    @step
    def query(self, model: type[Any], name: str, *, gone: bool) -> None:
        chosen = self.session.query(model).filter(model.name == name)
        if gone and model in LEAVES:
            chosen.delete()
        else:
            chosen.update({"name": model.name + "q"})

    @rule(number=numbers)
    @step
    def from_other_rows(self, number: int) -> None:
        source = select(zoo.Vehicle.name).where(zoo.Vehicle.id % 3 == number % 3)
        self.session.execute(update(zoo.Boat).values(name=source.order_by(zoo.Vehicle.id).limit(1).scalar_subquery()))
        if self.session.get_bind().dialect.insert_returning:
            self.session.execute(insert(zoo.Boat).from_select(["name"], source))
            self.session.scalars(insert(zoo.Truck).returning(zoo.Truck), [{"name": "a"}, {"name": "b"}]).all()
            table: Any = zoo.Vehicle.__table__
            self.session.execute(insert(table), [{"kind": kind, "doors": number} for kind in ("car", "vehicle")])
            self.session.execute(update(table).where(table.c.kind == "car").values(doors=table.c.doors + 1))

    @rule(number=numbers)
    @step
    def upsert(self, number: int) -> None:
        values = {"code": f"d{number % 6}", "title": f"upserted {number % 2}", "version": 1}
        title = {"title": values["title"]}
        dialect = self.session.get_bind().dialect.name
        if dialect == "sqlite":
            statement: Any = sqlite.insert(zoo.Document).values(values)
            statement = statement.on_conflict_do_update(index_elements=["code"], set_=title)
        elif dialect == "postgresql":
            statement = postgresql.insert(zoo.Document).values(values)
            statement = statement.on_conflict_do_update(index_elements=["code"], set_=title)
        else:
            statement = mysql.insert(zoo.Document).values(values).on_duplicate_key_update(title)
        self.session.execute(statement)

    @rule(number=numbers)
    @step
    def write_links(self, number: int) -> None:
        contact, team = self.pick(zoo.Contact, number), self.pick(zoo.Team, number)
        table = zoo.membership
        if number % 3 == 0:
            self.session.execute(delete(table).where(table.c.role == "core"))
        elif contact is not None and team is not None:
            chosen = (table.c.contact_id == contact.id) & (table.c.team_id == team.id)
            if self.session.execute(select(table).where(chosen)).first() is None:
                self.session.execute(insert(table).values(contact_id=contact.id, team_id=team.id, role="core"))
            else:
                self.session.execute(update(table).where(chosen).values(role=f"core {number}"))

    @rule(number=numbers)
    @step
    def legacy(self, number: int) -> None:
        self.session.bulk_insert_mappings(inspect(zoo.Boat), [{"name": "mapped"}, {"name": "mapped too"}])
        self.session.bulk_save_objects([zoo.Car(name="saved", doors=number)])
        found = self.pick(zoo.Boat, number)
        if found is not None:
            self.session.bulk_update_mappings(inspect(zoo.Boat), [{"id": found.id, "name": f"bulk {number}"}])
        saved = self.pick(zoo.Truck, number)
        if saved is not None:
            self.session.expunge(saved)
            saved.load = number
            self.session.bulk_save_objects([saved, zoo.Truck(name="saved")])

    # within a flush, as mappers' events do it

    @rule(number=numbers, name=texts, moment=st.sampled_from(["before_insert", "after_insert"]))
    @step
    def execute_within_a_flush(self, number: int, name: str, moment: str) -> None:
        """Statements on the row that is being written, on one that the flush writes too, and on others."""

        def execute(*_: Any) -> None:
            self.session.execute(update(zoo.Boat).where(zoo.Boat.name == name).values(name=f"within {number}"))
            self.session.execute(update(zoo.Paper).values(title=f"within {number}"))
            self.session.execute(insert(zoo.Paper).values(title="inserted within"))
            self.session.execute(delete(zoo.Counter).where(zoo.Counter.id % 3 == number % 3))

        paper, counter = self.pick(zoo.Paper, number), self.pick(zoo.Counter, number)
        if paper is not None:
            paper.title = "flushed"
        if counter is not None and number % 5 == 0:
            self.session.delete(counter)
        self.session.add(zoo.Boat(name=name))
        with listening(zoo.Boat, moment, execute):
            self.session.flush()
        self.session.expire_all()

    @rule(number=numbers, name=texts)
    @step
    def set_to_an_expression_within_a_flush(self, number: int, name: str) -> None:
        def lower(_mapper: Any, _connection: Any, contact: zoo.Contact) -> None:
            contact.name = func.lower(zoo.Contact.name)

        found = self.pick(zoo.Contact, number)
        if found is not None:
            found.phone = name
            if number % 3 == 0:
                self.session.expire(found, ["notes"])
            with listening(zoo.Contact, "before_update", lower):
                self.session.flush()

    # transactions

    @rule()
    @step
    def flush(self) -> None:
        self.session.flush()

    @rule()
    @step
    def savepoint(self) -> None:
        self.session.begin_nested()

    @precondition(lambda self: self.session.in_nested_transaction())
    @rule()
    @step
    def release(self) -> None:
        self.session.get_nested_transaction().commit()  # type: ignore[union-attr]

    @precondition(lambda self: self.session.in_nested_transaction())
    @rule()
    @step
    def back_to_savepoint(self) -> None:
        self.session.get_nested_transaction().rollback()  # type: ignore[union-attr]

    @rule(number=numbers, ends=st.lists(st.sampled_from(["release", "roll back"]), min_size=1, max_size=3))
    @step
    def change_at_every_depth(self, number: int, ends: list[str]) -> None:
        """One record, at each depth in another way."""
        boat = self.pick(zoo.Boat, number)
        ways: list[Callable[[Any], Any]] = [
            lambda row: setattr(row, "name", f"deep {number}"),
            lambda row: self.session.execute(update(zoo.Boat).where(zoo.Boat.id == row.id).values(name="deeper")),
            self.session.delete,
        ]
        for depth, _ in enumerate(ends):
            if boat is None or boat not in self.session:
                return
            ways[(number + depth) % 3](boat)
            self.session.begin_nested()
        for end in ends:
            savepoint = self.session.get_nested_transaction()
            assert savepoint is not None
            savepoint.commit() if end == "release" else savepoint.rollback()

    @rule(often=st.integers(0, 9))
    def finish(self, often: int) -> None:
        if often == 0:
            self.session.rollback()
        elif often == 1:
            self.session.close()
        else:
            self.commit()

    def commit(self) -> None:
        """The check."""
        try:
            self.session.commit()
        except EXPECTED:
            self.session.rollback()
        self.world.follow()

    @rule(number=numbers, name=texts)
    def commit_with_an_afterthought(self, number: int, name: str) -> None:
        """Another listener goes on changing things once ours has written its events."""

        def change(session: Session) -> None:
            session.add(zoo.Boat(name=name))
            found = session.scalars(select(zoo.Person).order_by(zoo.Person.id)).all()
            if found:
                found[number % len(found)].name = name
            session.flush()
            if number % 2:
                with session.begin_nested():
                    session.execute(delete(zoo.Boat).where(zoo.Boat.name == name))
            if number % 5 == 0:
                raise InvalidRequestError("the commit is stopped")

        with self.world.afterthought(change):
            self.commit()

    @rule()
    def commit_now(self) -> None:
        self.commit()

    @rule()
    @step
    def commit_by_the_handle(self) -> None:
        """Whatever savepoints are open."""
        transaction = self.session.get_transaction()
        if transaction is not None:
            transaction.commit()
            self.world.follow()

    @rule()
    @step
    def expire(self) -> None:
        self.session.expire_all()

    @rule(number=numbers)
    @step
    def forget(self, number: int) -> None:
        found = self.pick(zoo.Paper, number)
        if found is not None:
            found.title = "forgotten"
            self.session.flush()
            self.session.expunge(found)


@contextmanager
def listening(target: Any, moment: str, function: Callable[..., None]) -> Iterator[None]:
    """Call it at each such event inside."""
    event.listen(target, moment, function)
    try:
        yield
    finally:
        event.remove(target, moment, function)


def empty(world: World) -> None:
    """No rows, nothing published."""
    with world.engine.begin() as connection:
        connection.execute(update(zoo.Widget).values(favorite_id=None))
        connection.execute(update(zoo.Node).values(parent_id=None))
        for table in reversed(zoo.Base.metadata.sorted_tables):
            connection.execute(delete(table))
    world.recording.take()
    world.store.clear()


def run(world: World, *, examples: int, steps: int = 40, seed: int | None = None) -> None:
    """Run that many random sessions; raises with the smallest failing one. No seed: always the same ones."""
    machine = type("Machine", (Machine,), {"world": world})
    if seed is not None:
        machine = reproducible(seed)(machine)
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            derandomize=seed is None,
            database=None,
            deadline=None,
            phases=[Phase.generate, Phase.shrink],
            suppress_health_check=list(HealthCheck),
        ),
    )


def main(argv: list[str] | None = None) -> int:
    """The long run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--database", default="sqlite://", help="URL of an empty database of your own")
    parser.add_argument("--examples", type=int, default=1000, help="random sessions (default 1000)")
    parser.add_argument("--steps", type=int, default=60, help="things done to each (default 60)")
    parser.add_argument("--seed", type=int, default=0, help="another seed gives other sessions (default 0)")
    options = parser.parse_args(argv)
    world = World(options.database)
    try:
        run(world, examples=options.examples, steps=options.steps, seed=options.seed)
    finally:
        world.close()
    print(f"{options.examples} random sessions of {options.steps} steps, seed {options.seed}: events and tables agree")
    return 0


if __name__ == "__main__":
    sys.exit(main())
