"""Read models: what the REST API answers and the dashboard shows. Nothing here changes anything.

Rules:
- Every function takes a session that reads, and returns frozen structs that encode to JSON as they stand.
- Times are seconds since the Unix epoch; a device's own verdict on drift and the registry's are kept apart.
"""

from cloud.services.views.artifacts import (
    ArtifactLine,
    TrialLine,
    artifacts,
    provers,
    trial,
    trials,
)
from cloud.services.views.campaigns import CampaignLine, campaign, campaigns
from cloud.services.views.device import DeviceView, WindowLine, device, windows
from cloud.services.views.engines import EngineLine, engine, engines
from cloud.services.views.fleet import (
    DeviceLine,
    EventLine,
    FleetView,
    device_line,
    devices,
    events,
    fleet,
)
from cloud.services.views.models import (
    ModelLine,
    ModelView,
    ReleaseLine,
    model,
    models,
    release,
    releases,
    version,
)
from cloud.services.views.rollouts import (
    Preview,
    RolloutLine,
    RolloutView,
    preview,
    rollout,
    rollouts,
)
from cloud.services.views.traffic import PERIOD_S, Traffic, traffic
from cloud.services.views.work import (
    AttemptLine,
    JobLine,
    UnitLine,
    WorkerLine,
    job,
    job_log,
    jobs,
    workers,
)

__all__ = [
    "PERIOD_S",
    "ArtifactLine",
    "AttemptLine",
    "CampaignLine",
    "DeviceLine",
    "DeviceView",
    "EngineLine",
    "EventLine",
    "FleetView",
    "JobLine",
    "ModelLine",
    "ModelView",
    "Preview",
    "ReleaseLine",
    "RolloutLine",
    "RolloutView",
    "Traffic",
    "TrialLine",
    "UnitLine",
    "WindowLine",
    "WorkerLine",
    "artifacts",
    "campaign",
    "campaigns",
    "device",
    "device_line",
    "devices",
    "engine",
    "engines",
    "events",
    "fleet",
    "job",
    "job_log",
    "jobs",
    "model",
    "models",
    "preview",
    "provers",
    "release",
    "releases",
    "rollout",
    "rollouts",
    "traffic",
    "trial",
    "trials",
    "version",
    "windows",
    "workers",
]
