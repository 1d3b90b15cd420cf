"""Flask-SQLAlchemy with an application factory. `gunicorn -w 3 'examples.frameworks.flask_factory:create_app()'`"""

from __future__ import annotations

import os

from flask import Flask, has_request_context, request
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

import eventbus


class Base(DeclarativeBase): ...


db = SQLAlchemy(model_class=Base)


class Contact(Base):
    __tablename__ = "contact"
    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    last_author: Mapped[str | None]


def current_user() -> str | None:
    """Who acts: in a program of yours, e.g. Flask-Login's `current_user.get_id()`."""
    return request.headers.get("X-User") if has_request_context() else None


eventbus.install(db, service="crm", author=current_user)  # once, beside `db`: no application is needed for it


def create_app() -> Flask:
    """The application. It may be made several times, also in one process."""
    app = Flask(__name__)
    app.config["SQLALCHEMY_DATABASE_URI"] = os.environ.get("CRM_DATABASE", "sqlite:////tmp/crm.sqlite3")
    db.init_app(app)

    @app.post("/contacts/<name>")
    def add(name: str) -> str:
        db.session.add(contact := Contact(name=name))
        db.session.commit()
        return contact.id

    return app
