"""Whether all is well, in one sentence, and the figures behind it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

from consumers.base.witness import BrokerWitness
from consumers.json_mirror.state import Figures
from consumers.json_mirror.witness import MirrorWitness
from consumers.web.kept import Kept
from consumers.web.outbox import OutboxView
from consumers.web.settings import WebSettings
from eventbus.inspection.witness import Finding


@dataclass(frozen=True, slots=True)
class Overview:
    """What the first page shows."""

    findings: Sequence[Finding]
    figures: Mapping[str, Any]
    entities: Sequence[Figures]

    @property
    def sentence(self) -> str:
        """Whether all is well."""
        wrong = [finding for finding in self.findings if finding.level == "wrong"]
        if not wrong:
            return "All is well."
        return wrong[0].text[:1].upper() + wrong[0].text[1:] + "."

    @property
    def remedy(self) -> str:
        """What to do about it; empty where all is well."""
        return next((finding.remedy for finding in self.findings if finding.level == "wrong"), "")


@final
class Observatory:
    """Asks broker, mirror and outbox at most once in two seconds, for everybody."""

    def __init__(self, settings: WebSettings, outbox: OutboxView) -> None:
        self._outbox = outbox
        self._mirror = MirrorWitness(settings.mirror)
        self._ask_broker = Kept(BrokerWitness(settings.consumer, str(settings.mirror.data_dir)).status)

    def look(self, entities: Sequence[Figures]) -> Overview:
        """How things are."""
        mirror, broker, outbox = self._mirror.status(), self._ask_broker(), self._outbox.look()[0]
        findings = [*mirror.findings, *broker.findings, *outbox.findings]
        return Overview(findings, {**outbox.figures, **broker.figures, **mirror.figures}, entities)
