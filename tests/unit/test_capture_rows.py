"""What a flush does to rows, and which events a commit makes of it. Every test ends with store == tables."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import func, insert, select, text
from sqlalchemy.orm import Session, defer, load_only, make_transient, raiseload

from tests.support.world import World
from tests.support.zoo import (
    Address,
    Boat,
    Car,
    Contact,
    Counter,
    Document,
    Engineer,
    Entry,
    Ferry,
    Node,
    Order,
    OrderLine,
    Paper,
    Part,
    Person,
    Team,
    Truck,
    Vehicle,
    Widget,
)


def test_a_key_that_is_given_as_text_is_the_rows_key(world: World, session: Session) -> None:
    """As MLflow does it: `merge()` sets the key of the row to its text."""
    session.add(Team(id=7, title="a"))
    session.commit()
    session.merge(Team(id="7", title="b"))
    session.commit()
    session.expunge_all()
    session.merge(Team(id="7", title="b"))
    session.commit()
    assert world.recording.short() == [("c", "team/7"), ("u", "team/7")]


def test_an_insert_is_created_with_the_whole_row(world: World, session: Session) -> None:
    session.add(Contact(id="a", name="Ann"))
    session.commit()
    (event,) = world.recording.events
    assert (event.op, event.before, event.author) == ("c", None, "ann")
    assert event.after is not None
    assert event.after["visits"] == 0
    assert event.after["notes"] is None
    assert world.follow() == [("c", "contact/a")]


def test_an_update_tells_old_and_new_values(world: World, session: Session) -> None:
    contact = Contact(id="a", name="Ann")
    session.add(contact)
    session.commit()
    world.follow()
    assert contact.phone is None
    contact.phone = "+32"
    session.commit()
    (event,) = world.recording.events
    assert (event.op, event.before, event.changed) == ("u", {"phone": None, "stamp": None}, ["phone", "stamp"])
    assert world.follow() == [("u", "contact/a")]


def test_a_delete_tells_what_was_known(world: World, session: Session) -> None:
    contact = Contact(id="a", name="Ann")
    session.add(contact)
    session.commit()
    world.follow()
    assert contact.name == "Ann"
    session.delete(contact)
    session.commit()
    (event,) = world.recording.events
    assert event.after is None
    assert event.before is not None
    assert event.before["name"] == "Ann"
    assert world.follow() == [("d", "contact/a")]


def test_several_flushes_are_one_event_with_the_oldest_and_the_newest(world: World, session: Session) -> None:
    contact = Contact(id="a", name="one")
    session.add(contact)
    session.commit()
    world.follow()
    assert contact.name == "one"
    for name in ("two", "three"):
        contact.name = name
        session.flush()
    session.commit()
    (event,) = world.recording.events
    assert event.before is not None
    assert event.after is not None
    assert (event.before["name"], event.after["name"]) == ("one", "three")
    assert world.follow() == [("u", "contact/a")]


def test_created_and_deleted_in_one_transaction_is_nothing(world: World, session: Session) -> None:
    contact = Contact(id="a")
    session.add(contact)
    session.flush()
    session.delete(contact)
    session.commit()
    assert world.follow() == []


def test_there_and_back_in_one_transaction_is_written_and_not_changed(world: World, session: Session) -> None:
    """The object may have been stale: then the row had another value, and has it no more."""
    team = Team(title="one")
    session.add(team)
    session.commit()
    world.follow()
    assert team.title == "one"
    team.title = "two"
    session.flush()
    team.title = "one"
    session.commit()
    (event,) = world.recording.events
    assert (event.op, event.changed, event.before, event.written) == ("u", [], {}, ["title"])
    world.follow()


def test_old_values_are_told_of_what_changed_in_the_end_alone(world: World, session: Session) -> None:
    contact = Contact(id="a", name="one", phone="1", town="t")
    session.add(contact)
    session.commit()
    world.follow()
    session.refresh(contact, ["name"])
    contact.name = "two"
    contact.town = "u"  # its old value was never loaded
    contact.phone = "2"
    session.flush()
    contact.name = "one"
    session.commit()
    (event,) = world.recording.events
    assert event.changed == ["phone", "town", "stamp", "updated_by"]
    # All others had to be read, since none of them was loaded.
    assert event.before == {}
    assert event.written == ["name", "phone", "town", "notes", "stamp", "updated_by"]  # `notes` was read
    world.follow()


def test_the_same_value_again_is_nothing(world: World, session: Session) -> None:
    team = Team(title="one")
    session.add(team)
    session.commit()
    world.follow()
    assert team.title == "one"
    team.title = "two"
    team.title = "one"
    session.commit()
    assert world.follow() == []


def test_a_value_set_on_an_expired_object_is_an_update_without_its_old_value(world: World, session: Session) -> None:
    team = Team(title="one")
    session.add(team)
    session.commit()
    world.follow()
    team.title = "two"
    session.commit()
    (event,) = world.recording.events
    assert (event.before, event.changed) == ({}, ["title"])
    assert world.follow() == [("u", "team/1")]


def test_delete_and_add_of_one_key_is_an_update(world: World, session: Session) -> None:
    contact = Contact(id="a", name="one", phone="1", data={"k": 1})
    session.add(contact)
    session.commit()
    world.follow()
    assert contact.name == "one"
    session.delete(contact)
    session.add(Contact(id="a", name="two"))
    session.commit()
    (event,) = world.recording.events
    assert event.op == "u"
    assert event.before is not None
    assert event.before["name"] == "one"
    assert world.follow() == [("u", "contact/a")]


def test_delete_flush_and_add_of_one_key_is_an_update(world: World, session: Session) -> None:
    session.add(Contact(id="a", name="one", phone="1"))
    session.commit()
    world.follow()
    session.delete(session.get_one(Contact, "a"))
    session.flush()
    session.add(Contact(id="a", name="two"))
    session.commit()
    assert world.follow() == [("u", "contact/a")]


def test_a_row_that_came_back_unseen_and_is_changed_is_an_update(world: World, session: Session) -> None:
    boat = Boat(name="a")
    session.add(boat)
    session.commit()
    world.follow()
    session.delete(boat)
    session.flush()
    session.connection().execute(insert(Boat.__table__).values(id=boat.id, name="b"))  # type: ignore[arg-type]
    session.get_one(Boat, boat.id).name = "c"
    session.commit()
    assert world.follow() == [("u", "boat/1")]


def test_a_changed_key_is_a_deletion_and_a_creation(world: World, session: Session) -> None:
    document = Document(code="a", title="t")
    session.add(document)
    session.commit()
    world.follow()
    document.code = "b"
    session.commit()
    assert sorted(world.follow()) == [("c", "document/b"), ("d", "document/a")]


def test_two_records_may_trade_keys_over_a_third(world: World, session: Session) -> None:
    one, two = Document(code="a", title="1"), Document(code="b", title="2")
    session.add_all([one, two])
    session.commit()
    world.follow()
    one.code = "c"
    session.flush()
    two.code = "a"
    session.flush()
    one.code = "b"
    session.commit()
    assert sorted(world.follow()) == [("u", "document/a"), ("u", "document/b")]


def test_sql_expressions_and_what_the_database_fills_in_are_read_at_the_commit(world: World, session: Session) -> None:
    contact, counter = Contact(id="a"), Counter(fixed=func.abs(-5))
    session.add_all([contact, counter])
    session.commit()
    world.follow()
    assert contact.visits == 0
    contact.visits = Contact.visits + 5
    counter.total = text("total * 2")  # type: ignore[assignment]
    session.commit()
    update = next(event for event in world.recording.events if event.entity == "contact")
    assert update.before == {"visits": 0, "stamp": None}
    assert update.changed == ["visits", "stamp"]
    assert len(world.follow()) == 2


def test_a_new_object_may_be_set_to_expressions(world: World, session: Session) -> None:
    team = Team(title="t")
    session.add(team)
    session.flush()
    session.add(Contact(id="a", name=func.upper("ann"), phone=select(Team.title).scalar_subquery(), visits=3))
    session.commit()
    created = world.recording.events[-1].after
    assert created is not None
    assert (created["name"], created["phone"], created["visits"]) == ("ANN", "t", 3)
    assert world.follow() == [("c", "team/1"), ("c", "contact/a")]


def test_an_expression_in_a_second_flush_wins_over_the_known_value_of_the_first(world: World, session: Session) -> None:
    contact = Contact(id="a")
    session.add(contact)
    session.commit()
    world.follow()
    contact.visits = 3
    session.flush()
    contact.visits = Contact.visits * 2
    session.commit()
    (event,) = world.recording.events
    assert event.after is not None
    assert event.after["visits"] == 6
    world.follow()


def test_a_version_counter_is_told_of(world: World, session: Session) -> None:
    document = Document(code="a", title="t")
    session.add(document)
    session.commit()
    world.follow()
    assert document.version == 1
    document.title = "u"
    session.commit()
    (event,) = world.recording.events
    assert event.changed == ["title", "version"]
    assert event.before is not None
    assert event.before["version"] == 1
    world.follow()


def test_values_changed_in_place_are_copied_at_the_flush(world: World, session: Session) -> None:
    data = {"deep": [1]}
    contact = Contact(id="a", data=data, live={"x": 1})
    session.add(contact)
    session.flush()
    data["deep"].append(2)  # not seen by SQLAlchemy: not in the row either
    session.commit()
    (event,) = world.recording.events
    assert event.after is not None
    assert event.after["data"] == {"deep": [1]}
    world.follow()
    contact.live["y"] = 2  # type: ignore[index]
    session.commit()
    (event,) = world.recording.events
    assert event.after is not None
    assert event.after["live"] == {"x": 1, "y": 2}
    assert world.follow() == [("u", "contact/a")]


def test_composites_hybrids_and_synonyms_are_their_columns(world: World, session: Session) -> None:
    contact = Contact(id="a", name="n")
    session.add(contact)
    session.commit()
    world.follow()
    assert contact.updated_by == "ann"
    contact.address = Address("Main St", "Ghent")
    contact.label = "new!"
    contact.telephone = "1"
    session.commit()
    (event,) = world.recording.events
    assert event.changed == ["name", "phone", "street", "town", "stamp"]
    assert event.after is not None
    assert "shout" not in event.after
    world.follow()


@pytest.mark.parametrize(
    "option", [defer(Contact.name), load_only(Contact.id), raiseload("*"), defer(Contact.name, raiseload=True)]
)
def test_unloaded_columns_are_read_once_and_never_through_attributes(
    world: World, session: Session, option: Any
) -> None:
    session.add(Contact(id="a", name="n", notes="long"))
    session.commit()
    world.follow()
    session.expunge_all()
    contact = session.scalars(select(Contact).options(option)).one()
    contact.town = "Ghent"
    session.commit()
    (event,) = world.recording.events
    assert event.after is not None
    assert (event.after["name"], event.after["notes"]) == ("n", "long")
    world.follow()


def test_merge_of_an_unchanged_object_is_nothing(world: World, session: Session) -> None:
    session.add(Team(id=1, title="t"))
    session.commit()
    world.follow()
    session.merge(Team(id=1, title="t"))
    session.commit()
    assert world.follow() == []
    session.merge(Team(id=1, title="u"))
    session.merge(Team(id=2, title="new"))
    session.commit()
    assert sorted(world.follow()) == [("c", "team/2"), ("u", "team/1")]


def test_an_object_expunged_after_its_flush_is_told_of(world: World, session: Session) -> None:
    contact = Contact(id="a")
    session.add(contact)
    session.flush()
    session.expunge(contact)
    make_transient(contact)
    del contact
    session.commit()
    assert world.follow() == [("c", "contact/a")]


def test_an_object_nobody_holds_after_its_flush_is_told_of(world: World, session: Session) -> None:
    session.add(Contact(id="a"))
    session.flush()
    assert not session.identity_map
    session.commit()
    assert world.follow() == [("c", "contact/a")]


# -- relationships ----------------------------------------------


def test_orphans_and_their_own_are_deleted_with_no_back_reference(world: World, session: Session) -> None:
    line = OrderLine(position=1, parts=[Part(name="p"), Part(name="q")])
    order = Order(title="o", lines=[line, OrderLine(position=2)])
    session.add(order)
    session.commit()
    assert len(world.follow()) == 5
    order.lines.remove(line)
    session.commit()
    assert sorted(world.follow()) == [("d", "order_line/[1,1]"), ("d", "part/1"), ("d", "part/2")]
    session.delete(order)
    session.commit()
    assert sorted(world.follow()) == [("d", "order/1"), ("d", "order_line/[1,2]")]


def test_a_foreign_key_set_to_null_by_a_deletion_is_an_update(world: World, session: Session) -> None:
    order = Order(title="o", papers=[Paper(title="p")])
    session.add(order)
    session.commit()
    world.follow()
    session.delete(order)
    session.commit()
    events = world.recording.events
    update = next(event for event in events if event.op == "u")
    assert (update.subject, update.changed) == ("paper/1", ["order_id"])
    world.follow()


def test_a_child_that_moves_is_an_update_of_the_child_alone(world: World, session: Session) -> None:
    one, two = Order(title="1"), Order(title="2")
    paper = Paper(title="p", order=one)
    session.add_all([one, two, paper])
    session.commit()
    world.follow()
    two.papers.append(paper)
    session.commit()
    assert world.follow() == [("u", "paper/1")]
    assert paper.order_id == two.id
    paper.order = two
    session.commit()
    assert world.follow() == []


def test_rows_that_point_at_each_other(world: World, session: Session) -> None:
    widget = Widget(name="w")
    entry = Entry(name="e")
    widget.entries.append(entry)
    widget.favorite = entry
    session.add(widget)
    session.commit()
    assert sorted(world.follow()) == [("c", "entry/1"), ("c", "widget/1")]
    widget.favorite = None
    session.commit()
    assert world.follow() == [("u", "widget/1")]
    widget.favorite = entry
    session.commit()
    world.follow()
    session.delete(widget)
    session.commit()
    assert sorted(world.follow()) == [("d", "entry/1"), ("d", "widget/1")]


def test_a_tree_goes_as_a_whole(world: World, session: Session) -> None:
    root = Node(id="r", name="r", children=[Node(id="a", name="a", children=[Node(id="b", name="b")])])
    session.add(root)
    session.commit()
    assert [op for op, _ in world.follow()] == ["c", "c", "c"]
    session.delete(root)
    session.commit()
    assert [op for op, _ in world.follow()] == ["d", "d", "d"]


# -- inheritance ------------------------------------------------


def test_joined_inheritance_is_one_event_with_all_columns(world: World, session: Session) -> None:
    engineer = Engineer(name="e", language="py")
    session.add_all([engineer, Person(name="p")])
    session.commit()
    assert sorted(world.follow()) == [("c", "engineer/1"), ("c", "person/2")]
    engineer.language = "c"
    session.commit()
    (event,) = world.recording.events
    # The base table had no UPDATE, so its onupdate did not run.
    assert event.changed == ["language"]
    assert world.follow() == [("u", "engineer/1")]
    engineer.name = "f"
    session.commit()
    (event,) = world.recording.events
    assert event.changed == ["name", "changed"]
    world.follow()
    session.delete(engineer)
    session.commit()
    assert world.follow() == [("d", "engineer/1")]


def test_a_subclass_loaded_as_its_base_is_told_of_whole(world: World, session: Session) -> None:
    session.add(Engineer(name="e", language="py"))
    session.commit()
    world.follow()
    session.expunge_all()
    person = session.scalars(select(Person)).one()
    person.name = "f"
    session.commit()
    assert world.follow() == [("u", "engineer/1")]


def test_single_table_inheritance(world: World, session: Session) -> None:
    car, truck = Car(name="c", doors=4), Truck(name="t", load=9)
    session.add_all([car, truck, Vehicle(name="v")])
    session.commit()
    assert sorted(world.follow()) == [("c", "car/1"), ("c", "truck/2"), ("c", "vehicle/3")]
    car.doors = 2
    session.delete(truck)
    session.commit()
    assert sorted(world.follow()) == [("d", "truck/2"), ("u", "car/1")]


def test_another_class_in_the_same_row_is_another_record(world: World, session: Session) -> None:
    car = Car(id=1, name="c", doors=4)
    session.add(car)
    session.commit()
    world.follow()
    session.delete(car)
    session.add(Truck(id=1, name="t", load=1))
    session.commit()
    assert sorted(world.follow()) == [("c", "truck/1"), ("d", "car/1")]


def test_concrete_inheritance(world: World, session: Session) -> None:
    ferry = Ferry(name="f", cars=1)
    session.add_all([Boat(name="b"), ferry])
    session.commit()
    ferry.cars = 2
    session.commit()
    assert len(world.follow()) == 3


# -- secondary tables -------------------------------------------


def test_links_are_records(world: World, session: Session) -> None:
    contact, team = Contact(id="a"), Team(title="t")
    contact.teams.append(team)
    session.add(contact)
    session.commit()
    assert ("c", 'membership/["a",1]') in world.follow()
    contact.teams.remove(team)
    session.commit()
    assert world.follow() == [("d", 'membership/["a",1]')]
    team.contacts.append(contact)
    session.commit()
    assert world.follow() == [("c", 'membership/["a",1]')]
    session.delete(team)
    session.commit()
    assert sorted(world.follow()) == [("d", 'membership/["a",1]'), ("d", "team/1")]


def test_a_link_replaced_by_the_same_is_nothing(world: World, session: Session) -> None:
    contact, team = Contact(id="a"), Team(title="t")
    contact.teams.append(team)
    session.add(contact)
    session.commit()
    world.follow()
    contact.teams = [team]
    session.commit()
    assert world.follow() == []
    contact.teams.remove(team)
    session.flush()
    contact.teams.append(team)
    session.commit()
    # The row was deleted and inserted: its other columns have their defaults again, which they had before.
    assert world.follow() in ([], [("u", 'membership/["a",1]')])


def test_links_to_oneself_and_both_ways(world: World, session: Session) -> None:
    one, two = Contact(id="1"), Contact(id="2")
    one.friends = [one, two]
    session.add_all([one, two])
    session.commit()
    assert len(world.follow()) == 4
    two.befriended_by = []  # type: ignore[attr-defined]
    session.commit()
    assert world.follow() == [("d", 'friendship/["1","2"]')]
    session.delete(one)
    session.commit()
    assert sorted(world.follow()) == [("d", "contact/1"), ("d", 'friendship/["1","1"]')]


def test_a_row_switch_of_an_owner_drops_its_links(world: World, session: Session) -> None:
    contact = Contact(id="a", teams=[Team(title="t")])
    session.add(contact)
    session.commit()
    world.follow()
    session.delete(contact)
    session.add(Contact(id="a", name="new", teams=[session.get_one(Team, 1)]))
    session.commit()
    world.follow()


def test_the_order_of_new_records_is_that_of_add(world: World, session: Session) -> None:
    session.add_all([Team(title=str(n)) for n in range(50)])
    session.commit()
    assert [subject for _, subject in world.follow()] == [f"team/{n}" for n in range(1, 51)]
