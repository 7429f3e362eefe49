"""The registry's tables."""

from fleet.registry.tables.access import AuditCheckpoint, AuditEntry, LoginSession, Token
from fleet.registry.tables.base import Row
from fleet.registry.tables.campaigns import Campaign
from fleet.registry.tables.devices import (
    Assignment,
    Claim,
    DesiredModel,
    Device,
    DeviceKey,
    DeviceModel,
)
from fleet.registry.tables.engines import EngineBuild
from fleet.registry.tables.models import (
    Artifact,
    Job,
    ModelVersion,
    Release,
    ReleaseVariant,
    TrustFile,
)
from fleet.registry.tables.proving import Trial
from fleet.registry.tables.rollouts import Rollout, RolloutDevice, RolloutStep
from fleet.registry.tables.telemetry import (
    DeviceEvent,
    DriftState,
    Received,
    Report,
    TelemetryWindow,
)
from fleet.registry.tables.ways import Way
from fleet.registry.tables.work import WorkAttempt, Worker, WorkUnit

__all__ = [
    "Artifact",
    "Assignment",
    "AuditCheckpoint",
    "AuditEntry",
    "Campaign",
    "Claim",
    "DesiredModel",
    "Device",
    "DeviceEvent",
    "DeviceKey",
    "DeviceModel",
    "DriftState",
    "EngineBuild",
    "Job",
    "LoginSession",
    "ModelVersion",
    "Received",
    "Release",
    "ReleaseVariant",
    "Report",
    "Rollout",
    "RolloutDevice",
    "RolloutStep",
    "Row",
    "TelemetryWindow",
    "Token",
    "Trial",
    "TrustFile",
    "Way",
    "WorkAttempt",
    "WorkUnit",
    "Worker",
]
