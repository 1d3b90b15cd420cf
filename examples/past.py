"""The end of the demo: what its history says, in git's words and in its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from examples.stage import say, title


def kind() -> str:
    """What EVENTBUS_HISTORY is to be here: with a repository where git is installed."""
    return "git" if shutil.which("git") else "sqlite"


def show_past(data_dir: Path, model: str, key: str, field: str) -> None:
    """Three lines of `git log`, and who gave a field its value. Nothing where the environment wants no history."""
    if os.environ.get("EVENTBUS_HISTORY") not in ("git", "sqlite"):
        return
    title("What happened, and who did it")
    git = shutil.which("git")
    repository = data_dir / ".eventbus" / "history.git"
    if git and repository.exists():
        say(f"  $ git -C {repository} log -3")
        _run(git, "-C", str(repository), "log", "-3", "--format=%h %an, %s")
    else:
        say("  There is no git here, so there is no repository; the history is the same.")
    say(f"  $ eventbus history why {model} {key} {field}")
    _run(sys.executable, "-m", "consumers.history", "why", model, key, field, "--data-dir", str(data_dir))


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    for line in (done.stdout or done.stderr).splitlines():
        say(f"  {line}")
