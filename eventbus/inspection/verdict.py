"""The answer to `eventbus why`, from what all places have said."""

from __future__ import annotations

from collections.abc import Sequence

from eventbus.inspection.witness import Evidence, Finding, Subject

_UNCAPTURED = (
    "no event of it is anywhere: it was written under muted(), by a statement with bulk='ignore', by SQL past the "
    "Session (a trigger, a cascade, session.connection()), by loaddata, or before install(); or another consumer of "
    "the same queue has taken it"
)


def verdict(subject: Subject, evidence: Evidence, findings: Sequence[Finding]) -> Finding:
    """The first cause that was found; else what follows from row and file; else what has to be asked first."""
    causes = [finding for finding in findings if finding.level == "wrong"]
    if evidence.row and evidence.row == evidence.document:
        return Finding("ok", "the file shows the row")
    if causes:
        return Finding("wrong", causes[0].text, causes[0].remedy)
    if evidence.row is None or evidence.document is None:
        return Finding("unknown", "row and file cannot be compared: name the places that were not asked")
    if any(finding.level == "unknown" for finding in findings):
        return Finding("unknown", "its event may be on its way; ask again in a moment")
    if evidence.row is False and evidence.document is False:
        return Finding("ok", "there is neither row nor file")
    name = subject.entity
    again = f"publish it again: `eventbus compare --heal {name}`, or all rows: `eventbus snapshot SESSION {name}`"
    if evidence.row and evidence.document:
        names = ", ".join(sorted(_different(evidence)))
        return Finding("wrong", f"row and file differ in {names}; {_UNCAPTURED}", again)
    if evidence.row:
        return Finding("wrong", _UNCAPTURED, again)
    return Finding(
        "wrong",
        f"the row is gone and the file is still there; {_UNCAPTURED}",
        f"publish that it is gone: `eventbus compare --heal {name}`",
    )


def _different(evidence: Evidence) -> set[str]:
    row, document = dict(evidence.row or {}), dict(evidence.document or {})
    return {name for name in row.keys() | document.keys() if row.get(name) != document.get(name)}
