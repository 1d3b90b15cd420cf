"""The commands `eventbus status`, `eventbus why` and `eventbus doctor`. Exit codes: 0 well, 1 not, 2 wrong use."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict
from typing import Any, Final

import click

from eventbus.commands import DONE, FAILED, HELP_OPTIONS
from eventbus.errors import ConfigurationError
from eventbus.inspection.settings import examine_environment
from eventbus.inspection.verdict import verdict
from eventbus.inspection.witness import Absent, Evidence, Finding, Options, Report, Subject, Witness, witnesses
from eventbus.redaction import printable, shown

_MARKS: Final[Mapping[str, tuple[str, str]]] = {
    "ok": ("ok", "green"),
    "note": ("--", "blue"),
    "wrong": ("!!", "red"),
    "unknown": ("??", "yellow"),
}


def _places(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that say where the places are."""
    for option in (
        click.option("--data-dir", metavar="DIR", help="The mirror's directory. Default: DATA_DIR."),
        click.option("--url", metavar="URL", help="The broker. Default: EVENTBUS_URL."),
        click.option("--session", metavar="MODULE:SESSION", help="What eventbus.install() was called for."),
        click.option("--models", metavar="MODULE:BASE[,…]", help="Where the models are. Default: EVENTBUS_MODELS."),
        click.option("--database", metavar="URL", help="The service's database. Default: DATABASE_URL."),
    ):
        command = option(command)
    return command


@click.command(context_settings=HELP_OPTIONS)
@_places
@click.option("--json", "as_json", is_flag=True, help="One JSON object, for other programs.")
def status(*, as_json: bool, **places: str | None) -> int:
    """Say how outbox, broker and mirror are, and what to do where something is wrong.

    Ends with 1 where something is wrong. A place that no setting names is left out.
    """
    with witnesses(Options(**places)) as found:
        reports = {name: _report(witness) for name, witness in found.items()}
    if as_json:
        told = {name: _as_json(report) for name, report in reports.items()}
        click.echo(printable(json.dumps(told, ensure_ascii=False)))
    else:
        for name, report in reports.items():
            _section(name, report.figures, report.findings)
    return _code(finding for report in reports.values() for finding in report.findings)


@click.command(context_settings=HELP_OPTIONS)
@click.argument("model")
@click.argument("pk", required=False)
@_places
def why(model: str, pk: str | None, **places: str | None) -> int:
    """Find out why a record's file is missing, stale, or still there.

    MODEL is service.entity, PK the key: `eventbus why crm.contact ab12`, or `crm.contact/ab12`. A composite key is a
    JSON list: '[1, "a"]'. The more settings name, the more is looked at: DATABASE_URL and EVENTBUS_MODELS for the row,
    EVENTBUS_URL for the queue, DATA_DIR for the file. Ends with 1 where a cause was found.
    """
    subject, evidence = _subject(model, pk), Evidence()
    findings: list[Finding] = []
    with witnesses(Options(**places)) as found:
        for name, witness in found.items():
            said = _absent(witness) if isinstance(witness, Absent) else list(witness.why(subject, evidence))
            findings += said
            _section(name, {}, said)
    conclusion = verdict(subject, evidence, findings)
    _section("answer", {}, [conclusion])
    return _code([*findings, conclusion])


@click.command(context_settings=HELP_OPTIONS)
@_places
def doctor(**places: str | None) -> int:
    """Examine settings, database, broker and mirror: what is right, what is not, and how to mend it.

    Changes nothing. Ends with 1 where something is wrong.
    """
    findings = list(examine_environment())
    _section("settings", {}, findings)
    with witnesses(Options(**places)) as found:
        for name, witness in found.items():
            said = _absent(witness) if isinstance(witness, Absent) else list(witness.examine())
            findings += said
            _section(name, {}, said)
    return _code(findings)


def _subject(model: str, pk: str | None) -> Subject:
    name, slash, rest = model.partition("/")
    pk = rest if slash and pk is None else pk
    service, dot, entity = name.partition(".")
    if not dot or not service or not entity or not pk:
        raise click.UsageError("say which record: eventbus why crm.contact ab12")
    return Subject(service, entity, _key(pk))


def _key(text: str) -> Any:
    if not text.startswith("["):
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigurationError(f"the key {shown(text, 80)} is no JSON list: {error}") from error


def _report(witness: Witness | Absent) -> Report:
    return Report({}, tuple(_absent(witness))) if isinstance(witness, Absent) else witness.status()


def _absent(absent: Absent) -> list[Finding]:
    return [Finding("note", str(absent))]


def _as_json(report: Report) -> dict[str, Any]:
    return {**report.figures, "findings": [asdict(finding) for finding in report.findings]}


def _section(name: str, figures: Mapping[str, Any], findings: Iterable[Finding]) -> None:
    click.secho(name, bold=True)
    for line in [*_figures(figures), *map(_line, findings)]:
        click.echo(f"  {line}")


def _figures(figures: Mapping[str, Any]) -> Iterator[str]:
    width = max(map(len, figures), default=0)
    for name, value in figures.items():
        yield f"{name.replace('_', ' '):<{width}}  {_figure(value)}"


def _figure(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "-" if value is None else f"{value:,}" if isinstance(value, int | float) else printable(str(value))


def _line(finding: Finding) -> str:
    mark, colour = _MARKS[finding.level]
    remedy = f"\n     -> {printable(finding.remedy)}" if finding.remedy else ""
    return f"{click.style(mark, fg=colour)} {printable(finding.text)}{remedy}"


def _code(findings: Iterable[Finding]) -> int:
    return FAILED if any(finding.level == "wrong" for finding in findings) else DONE
