"""Databases shaped as Northwind and Employees, through all three databases and back; both written anew, and small.

Keys of texts, of two and three columns and of dates, a tree of employees, pictures, money with four digits, names with
apostrophes, the year 9999 for "until now", and departments that require a manager who requires the department.
"""

from __future__ import annotations

import base64
import datetime as dt
import decimal
import enum
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import sqlalchemy as sa
from sqlalchemy.dialects import mysql
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from eventbus.dumpdata import dumpdata
from eventbus.loaddata import loaddata
from tests.support.discovery import Server
from tests.support.samples import through_all_three

MONEY = sa.Numeric(19, 4)
PICTURE = sa.LargeBinary().with_variant(mysql.LONGBLOB(), "mysql", "mariadb")
STAMP = sa.DateTime().with_variant(mysql.DATETIME(fsp=6), "mysql", "mariadb")
CODE = sa.CHAR(5).with_variant(sa.String(5), "sqlite")
TIMES = 60


class Northwind(DeclarativeBase):
    pass


class Category(Northwind):
    __tablename__ = "Categories"
    id: Mapped[int] = mapped_column("CategoryID", primary_key=True)
    name: Mapped[str] = mapped_column("CategoryName", sa.String(15), unique=True)
    picture: Mapped[bytes | None] = mapped_column("Picture", PICTURE)


class Product(Northwind):
    __tablename__ = "Products"
    id: Mapped[int] = mapped_column("ProductID", primary_key=True)
    name: Mapped[str] = mapped_column("ProductName", sa.String(40))
    category_id: Mapped[int | None] = mapped_column("CategoryID", sa.ForeignKey("Categories.CategoryID"))
    price: Mapped[decimal.Decimal] = mapped_column("UnitPrice", MONEY)
    in_stock: Mapped[int] = mapped_column("UnitsInStock", sa.SmallInteger)
    discontinued: Mapped[bool] = mapped_column("Discontinued")
    __table_args__ = (sa.CheckConstraint(price >= 0, name="price_not_negative"),)


class Customer(Northwind):
    __tablename__ = "Customers"
    id: Mapped[str] = mapped_column("CustomerID", CODE, primary_key=True)
    company: Mapped[str] = mapped_column("CompanyName", sa.String(40))
    contact: Mapped[str | None] = mapped_column("ContactName", sa.String(30))


assigned = sa.Table(
    "EmployeeTerritories",
    Northwind.metadata,
    sa.Column("EmployeeID", sa.ForeignKey("Employees.EmployeeID"), primary_key=True),
    sa.Column("TerritoryID", sa.ForeignKey("Territories.TerritoryID"), primary_key=True),
)


class Territory(Northwind):
    __tablename__ = "Territories"
    id: Mapped[str] = mapped_column("TerritoryID", sa.String(20), primary_key=True)


class Employee(Northwind):
    __tablename__ = "Employees"
    id: Mapped[int] = mapped_column("EmployeeID", primary_key=True)
    last_name: Mapped[str] = mapped_column("LastName", sa.String(20))
    born: Mapped[dt.date | None] = mapped_column("BirthDate")
    photo: Mapped[bytes | None] = mapped_column("Photo", PICTURE)
    notes: Mapped[str | None] = mapped_column("Notes", sa.Text)
    reports_to: Mapped[int | None] = mapped_column("ReportsTo", sa.ForeignKey("Employees.EmployeeID"))
    boss: Mapped[Employee | None] = relationship(remote_side=[id])
    territories: Mapped[list[Territory]] = relationship(secondary=assigned)


class Order(Northwind):
    __tablename__ = "Orders"
    id: Mapped[int] = mapped_column("OrderID", primary_key=True)
    customer_id: Mapped[str | None] = mapped_column("CustomerID", sa.ForeignKey("Customers.CustomerID"))
    employee_id: Mapped[int | None] = mapped_column("EmployeeID", sa.ForeignKey("Employees.EmployeeID"))
    ordered: Mapped[dt.datetime | None] = mapped_column("OrderDate", STAMP)
    freight: Mapped[decimal.Decimal | None] = mapped_column("Freight", MONEY)
    ship_name: Mapped[str | None] = mapped_column("ShipName", sa.String(40))


class Detail(Northwind):
    __tablename__ = "Order Details"
    order_id: Mapped[int] = mapped_column("OrderID", sa.ForeignKey("Orders.OrderID"), primary_key=True)
    product_id: Mapped[int] = mapped_column("ProductID", sa.ForeignKey("Products.ProductID"), primary_key=True)
    price: Mapped[decimal.Decimal] = mapped_column("UnitPrice", MONEY)
    quantity: Mapped[int] = mapped_column("Quantity", sa.SmallInteger)
    discount: Mapped[float] = mapped_column("Discount", sa.Float(24))


class Employees(DeclarativeBase):
    pass


class Gender(enum.Enum):
    M = "M"
    F = "F"


class Person(Employees):
    __tablename__ = "employees"
    emp_no: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    birth_date: Mapped[dt.date]
    first_name: Mapped[str] = mapped_column(sa.String(14))
    last_name: Mapped[str] = mapped_column(sa.String(16))
    gender: Mapped[Gender]
    hire_date: Mapped[dt.date]


class Department(Employees):
    """The sample's own has no manager; this one requires one, who is one only in a department."""

    __tablename__ = "departments"
    dept_no: Mapped[str] = mapped_column(sa.CHAR(4), primary_key=True)
    dept_name: Mapped[str] = mapped_column(sa.String(40), unique=True)
    manager_no: Mapped[int]
    __table_args__ = (
        sa.ForeignKeyConstraint(
            ["manager_no", "dept_no"],
            ["dept_manager.emp_no", "dept_manager.dept_no"],
            name="department_manager",
            use_alter=True,
        ),
    )


class Manager(Employees):
    __tablename__ = "dept_manager"
    emp_no: Mapped[int] = mapped_column(sa.ForeignKey("employees.emp_no"), primary_key=True)
    dept_no: Mapped[str] = mapped_column(sa.CHAR(4), sa.ForeignKey("departments.dept_no"), primary_key=True)
    from_date: Mapped[dt.date]
    to_date: Mapped[dt.date]


class Title(Employees):
    __tablename__ = "titles"
    emp_no: Mapped[int] = mapped_column(sa.ForeignKey("employees.emp_no", ondelete="CASCADE"), primary_key=True)
    title: Mapped[str] = mapped_column(sa.String(50), primary_key=True)
    from_date: Mapped[dt.date] = mapped_column(primary_key=True)
    to_date: Mapped[dt.date | None]


class Salary(Employees):
    __tablename__ = "salaries"
    emp_no: Mapped[int] = mapped_column(sa.ForeignKey("employees.emp_no", ondelete="CASCADE"), primary_key=True)
    from_date: Mapped[dt.date] = mapped_column(primary_key=True)
    salary: Mapped[int]
    to_date: Mapped[dt.date]


def record(model: str, pk: Any, **fields: Any) -> dict[str, Any]:
    return {"model": f"s.{model}", "pk": pk, "fields": fields}


def picture(number: int) -> str:
    """With the header of 78 bytes that Northwind's have, and every byte there is."""
    return base64.b64encode(b"\x15\x1c/\x00" + bytes(74) + bytes(range(256)) * number).decode()


def northwind() -> list[dict[str, Any]]:
    found = [record("territory", code) for code in ("01581", "1581", "O'Fallon")]
    found += [record("category", n, name=f"Cat. {n}/é", picture=picture(n) if n % 3 else None) for n in range(1, 9)]
    for n in range(1, TIMES):
        boss = n + 1 if n + 1 < TIMES and n % 7 else None
        born = f"19{n:02}-02-28"
        found += [
            record(
                "employee", n, last_name="O'Neil", born=born, photo=picture(1), notes='"quoted"\r\n', reports_to=boss
            ),
            record("%45mployee%54erritories", [n, ("01581", "1581", "O'Fallon")[n % 3]]),
            record("customer", f"C{n:04}", company="Bon app'", contact=None if n % 2 else "Laurence Lebihan"),
            record(
                "product",
                n,
                name=f"Chef Anton's №{n}",
                category_id=n % 9 or None,
                price=f"{n}.{n:04}",
                in_stock=n - 30,
                discontinued=n % 2 == 0,
            ),
            record(
                "order",
                n,
                customer_id=f"C{n:04}",
                employee_id=n,
                ordered="1996-07-04T00:00:00",
                freight="92233720368.5477",
                ship_name="Vins et alcools Chevalier's",
            ),
            record("detail", [n, TIMES - n], price="0.0001", quantity=-n, discount=0.15),
        ]
    return found


def employees() -> list[dict[str, Any]]:
    found = []
    for n in range(10_001, 10_001 + TIMES):
        since, until = f"19{n % 90 + 10}-01-01", "9999-01-01" if n % 2 else "2000-02-29"
        found += [
            record(
                "person",
                n,
                birth_date="1953-09-02",
                first_name="Georgi",
                last_name="d'Astous",
                gender="MF"[n % 2],
                hire_date="0001-01-01",
            ),
            record("title", [n, "Senior Engineer", since], to_date=until if n % 3 else None),
            record("title", [n, "Engineer", since], to_date=until),
            record("salary", [n, since], salary=n * 7, to_date=until),
        ]
    for n in range(1, 10):
        found += [
            record("department", f"d{n:03}", dept_name=f"Dept. {n}", manager_no=10_000 + n),
            record("manager", [10_000 + n, f"d{n:03}"], from_date="1985-01-01", to_date="9999-01-01"),
        ]
    return found


def test_northwind_goes_through_all_three_and_back(
    services: Callable[[str], Server], unique: str, tmp_path: Path
) -> None:
    records = northwind()
    home = through_all_three(Northwind, records, services, unique, tmp_path)
    assert len(home) == len(records)
    ours = {(each["model"], str(each["pk"])): each["fields"] for each in home}
    for each in records:
        found = ours[each["model"], str(each["pk"])]
        assert {name: found[name] for name in each["fields"]} == each["fields"]


def test_a_table_is_found_by_its_own_name_too(tmp_path: Path) -> None:
    engine, path = sa.create_engine(f"sqlite:///{tmp_path}/a.db"), tmp_path / "dump.json"
    Northwind.metadata.create_all(engine)
    records = [record("territory", "1"), record("employee", 1, last_name="x"), record("EmployeeTerritories", [1, "1"])]
    path.write_bytes(orjson.dumps(records))
    assert loaddata(engine, [path], models=Northwind).objects == 3
    with (tmp_path / "out.json").open("wb") as stream:
        assert dumpdata(engine, stream, models=Northwind, only=["EmployeeTerritories"]).objects == 1
    engine.dispose()


def test_employees_go_through_all_three_and_back(
    services: Callable[[str], Server], unique: str, tmp_path: Path
) -> None:
    records = employees()
    home = through_all_three(Employees, records, services, unique, tmp_path)
    ours = {(each["model"], str(each["pk"])): each["fields"] for each in home}
    for each in records:
        found = ours[each["model"], str(each["pk"])]
        assert {name: found[name] for name in each["fields"]} == each["fields"]
