"""How a running process is seen from outside: probes and figures over HTTP, where EVENTBUS_HTTP says so."""
