"""The states that rows of a catalog may be in, as they are stored."""

from enum import StrEnum


class JobState(StrEnum):
    """Where a job stands; only ``RUNNING`` ever changes."""

    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


class DeliveryState(StrEnum):
    """Where a webhook delivery stands."""

    RECEIVED = "received"
    STARTED = "started"
    FAILED = "failed"


class BucketMode(StrEnum):
    """Who decides what is current: the store (adopted) or our catalog (managed)."""

    ADOPTED = "adopted"
    MANAGED = "managed"
