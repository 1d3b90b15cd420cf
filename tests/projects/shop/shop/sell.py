"""`python -m shop.sell`: one more order, of one line."""

import json
import os
import time
import uuid

from kombu import Exchange, Producer

from eventbus import transports
from shop.db import BY_HAND, Base, Line, Order, Session, engine


def sell() -> Line:
    with Session(expire_on_commit=False) as session:
        session.add(order := Order(id=uuid.uuid4().hex, buyer="ann"))
        session.flush()
        session.add(line := Line(id=uuid.uuid4().hex, order_id=order.id, what="lamp"))
        session.commit()
        return line


def publish_by_hand(line: Line) -> None:
    fields = {"id": line.id, "order_id": line.order_id, "what": line.what}
    data = {
        "op": "c",
        "model": "shop.line",
        "pk": line.id,
        "before": None,
        "after": fields,
        "changed": [],
        "author": None,
    }
    event = {
        "specversion": "1.0",
        "id": uuid.uuid4().hex,
        "source": "/shop",
        "type": "shop.line.created",
        "subject": f"line/{line.id}",
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "datacontenttype": "application/json",
        "partitionkey": f"line/{line.id}",
        "sequence": f"{time.time_ns() // 1000:020}",
        "correlationid": line.id,
        "data": {**data, "author": None, "transaction": {"id": line.id, "index": 0, "size": 1}},
    }
    with transports.connection(os.environ["EVENTBUS_URL"]) as connection:
        Producer(connection, Exchange("eventbus", "topic")).publish(
            json.dumps(event),
            routing_key="shop.line.created",
            content_type="application/cloudevents+json",
            content_encoding="utf-8",
        )


if __name__ == "__main__":
    Base.metadata.create_all(engine)
    sold = sell()
    if BY_HAND:
        publish_by_hand(sold)
