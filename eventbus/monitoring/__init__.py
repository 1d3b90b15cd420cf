"""How a running process is seen from outside: log lines, spans, probes and figures over HTTP."""
