"""The registry's repositories: the only place with queries. Each is a class over a session."""

from fleet.registry.repositories.access import Access
from fleet.registry.repositories.audit import Audit
from fleet.registry.repositories.campaigns import Campaigns
from fleet.registry.repositories.devices import Devices
from fleet.registry.repositories.engines import Engines
from fleet.registry.repositories.models import Models
from fleet.registry.repositories.proving import Proving
from fleet.registry.repositories.rollouts import Rollouts
from fleet.registry.repositories.telemetry import Telemetry
from fleet.registry.repositories.trust import Trust
from fleet.registry.repositories.ways import Ways
from fleet.registry.repositories.work import Work

__all__ = [
    "Access",
    "Audit",
    "Campaigns",
    "Devices",
    "Engines",
    "Models",
    "Proving",
    "Rollouts",
    "Telemetry",
    "Trust",
    "Ways",
    "Work",
]
