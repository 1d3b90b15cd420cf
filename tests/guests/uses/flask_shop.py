"""Flask-SQLAlchemy with Flask-Security and Flask-Admin: users, roles and an admin's forms, through requests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from flask import Flask
from flask_admin import Admin
from flask_admin.contrib.sqla import ModelView
from flask_security import Security, SQLAlchemyUserDatastore, hash_password
from flask_security.models import fsqla_v3
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import Numeric, String
from sqlalchemy.orm import Mapped, mapped_column

DATABASE: Final = "sqlite:///flask.sqlite3"

db = SQLAlchemy()
fsqla_v3.FsModels.set_db_info(db)


class Role(db.Model, fsqla_v3.FsRoleMixin):
    pass


class User(db.Model, fsqla_v3.FsUserMixin):
    pass


class Product(db.Model):
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(50))
    price: Mapped[Any] = mapped_column(Numeric(10, 2))


MODELS: Final = db.metadata
UNSEEN: Final = {"different guest.role/2: permissions": "NULL, which its type reads as an empty list"}


def use() -> Iterator[Any]:
    """Yields what requests answer, and what the tables of the program hold."""
    app = Flask(__name__)
    app.config |= {
        "SQLALCHEMY_DATABASE_URI": f"sqlite:///{Path.cwd()}/flask.sqlite3",
        "SECRET_KEY": "k", "SECURITY_PASSWORD_SALT": "1", "SECURITY_TRACKABLE": True, "WTF_CSRF_ENABLED": False,
        "SECURITY_PASSWORD_HASH": "plaintext", "SECURITY_PASSWORD_SCHEMES": ["plaintext"],
        "SECURITY_REGISTERABLE": True,
        "SECURITY_SEND_REGISTER_EMAIL": False, "SECURITY_EMAIL_VALIDATOR_ARGS": {"check_deliverability": False},
    }  # fmt: skip
    db.init_app(app)
    store = SQLAlchemyUserDatastore(db, User, Role)
    Security(app, store)
    admin = Admin(app)
    admin.add_view(ModelView(Product, db))
    admin.add_view(ModelView(Role, db, endpoint="roles"))
    with app.app_context():
        db.create_all()
        store.find_or_create_role("admin", permissions={"read", "write"})
        ann = store.create_user(email="ann@example.org", password=hash_password("secret-password"), roles=["admin"])
        store.create_user(email="bob@example.org", password=hash_password("secret-password"))
        db.session.commit()
        store.toggle_active(ann)
        store.commit()
        store.activate_user(ann)
        store.commit()
    yield from _requests(app)
    with app.app_context():
        store.remove_role_from_user(store.find_user(email="ann@example.org"), "admin")
        store.delete_user(store.find_user(email="bob@example.org"))
        store.commit()
        yield [(user.email, user.active, user.login_count, [role.name for role in user.roles]) for user in User.query]
        yield [(role.name, sorted(role.permissions)) for role in Role.query]
        yield [(each.id, each.name, each.price) for each in db.session.scalars(db.select(Product))]


def _requests(app: Flask) -> Iterator[Any]:
    client = app.test_client()
    login = {"email": "ann@example.org", "password": "secret-password"}
    yield client.post("/login", data=login).status_code, client.get("/logout").status_code
    yield client.post("/login", data={**login, "password": "wrong"}).status_code
    registered = {"email": "cat@example.org", "password": "secret-password"}
    yield client.post("/register", data={**registered, "password_confirm": "secret-password"}).status_code
    for n in range(6):
        yield client.post("/admin/product/new/", data={"name": f"product {n}", "price": "1.50"}).status_code
    yield client.post("/admin/product/edit/?id=2", data={"name": "changed", "price": "2"}).status_code
    yield client.post("/admin/product/delete/", data={"id": "3"}).status_code
    yield client.post("/admin/product/action/", data={"action": "delete", "rowid": ["4", "5"]}).status_code
    yield client.post("/admin/roles/new/", data={"name": "editor", "description": "é"}).status_code
    yield client.get("/admin/product/").data.count(b"product")
