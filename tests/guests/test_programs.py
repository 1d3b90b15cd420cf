"""The short form: two programs of others, bare and with the bus on every Session; and how a program is ended."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest

from tests.guests.environments import python_of
from tests.guests.programs import PROGRAMS, compared, output_of


@pytest.mark.slow
@pytest.mark.parametrize("name", ["optuna_study", "alchemy_repositories"])
def test_what_a_user_sees_is_the_same_and_files_equal_tables(name: str) -> None:
    try:
        python_of(PROGRAMS[name].environment)
    except subprocess.CalledProcessError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"the packages cannot be fetched: {error}")
    found = compared(name)
    assert found.differences == []
    assert found.seen > 10
    assert found.rows > 10


LEAVES_A_SERVER = """
import socket, subprocess, sys
held = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], pass_fds=[held.fileno()])
print("told")
"""


def test_a_server_that_a_program_leaves_is_ended_with_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        command = [sys.executable, "-c", LEAVES_A_SERVER, str(listener.getsockname()[1])]
        assert output_of(command, "a program", 60) == "told\n"
        held, _ = listener.accept()
        with held:
            held.settimeout(60)
            assert held.recv(1) == b"", "the server has its end open"


def test_a_program_that_does_not_end_is_killed() -> None:
    with pytest.raises(RuntimeError, match=r"a program has not ended within 0\.5 s and was killed"):
        output_of([sys.executable, "-c", "import time; time.sleep(600)"], "a program", 0.5)


def test_a_program_that_fails_is_told_with_its_last_words() -> None:
    with pytest.raises(RuntimeError, match=r"a program ended with 1:\nno such table"):
        output_of([sys.executable, "-c", "raise SystemExit('no such table')"], "a program")
