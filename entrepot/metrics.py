"""The metrics, each defined once: name, labels, meaning; ``docs/metrics.md`` lists them all.

Invariant: the registry is ours (nothing of the process's default one leaks in), and no label takes
its value from a request that was not authenticated.

Words: a *counter* is counted in this process; a *fact* is read from Postgres when somebody
scrapes, so every gateway reports the same one.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from prometheus_client import CollectorRegistry, Counter, disable_created_metrics, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


@dataclass(frozen=True, slots=True)
class FactMetric:
    """A gauge whose samples are facts; a counter where its name ends with ``_total``."""

    name: str
    help: str
    labels: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Sample:
    """One value of a fact; ``labels`` are in the order of the metric's."""

    metric: FactMetric
    labels: tuple[str, ...]
    value: float


STORAGE_USED: Final = FactMetric(
    "minio_storage_used_bytes",
    "Bytes of all versions a tenant holds over all sites, as last accounted.",
    ("tenant_id",),
)
JOB_LAST_SUCCESS: Final = FactMetric(
    "entrepot_job_last_success_timestamp_seconds",
    "Unix time at which a job last ended well.",
    ("kind", "subject"),
)
JOB_RUNNING: Final = FactMetric(
    "entrepot_job_running",
    "Jobs of a kind whose lease is held now.",
    ("kind",),
)
REPLICATION_LAG: Final = FactMetric(
    "minio_replication_lag_seconds",
    "Age of the oldest write under a prefix that is not at the target yet; 0 where none waits.",
    ("rule", "source", "target", "prefix"),
)
REPLICATION_ERRORS: Final = FactMetric(
    "minio_replication_errors_total",
    "Tries of the stream to bring a version to a region that failed.",
    ("region", "rule", "source"),
)
REPLICATION_DEPTH: Final = FactMetric(
    "replication_queue_depth",
    "Events that wait to be brought to the target.",
    ("rule", "source", "target"),
)
REPLICATION_DEAD: Final = FactMetric(
    "entrepot_replication_dead_letters",
    "Events that were given up and wait for a person.",
    ("rule", "source", "target"),
)
REPLICATION_SHIPPED: Final = FactMetric(
    "entrepot_replication_shipped_total",
    "Events that were brought to the target.",
    ("rule", "source", "target"),
)
REPLICATION_BYTES: Final = FactMetric(
    "entrepot_replication_shipped_bytes_total",
    "Stored bytes that were brought to the target.",
    ("rule", "source", "target"),
)
FACTS_UP: Final = FactMetric(
    "entrepot_facts_up",
    "1 when a catalog answered this scrape in time, 0 when its facts are missing from it.",
    ("catalog",),
)
FACTS: Final = (
    STORAGE_USED,
    JOB_LAST_SUCCESS,
    JOB_RUNNING,
    REPLICATION_LAG,
    REPLICATION_ERRORS,
    REPLICATION_DEPTH,
    REPLICATION_DEAD,
    REPLICATION_SHIPPED,
    REPLICATION_BYTES,
    FACTS_UP,
)


class Metrics:
    """The metrics of one process."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a series that nobody reads
        self._registry = CollectorRegistry()
        self.deliveries = Counter(
            "entrepot_webhook_deliveries_total",
            "Deliveries to a webhook by what became of them.",
            ("webhook", "outcome"),
            registry=self._registry,
        )
        self.notifications = Counter(
            "entrepot_notifications_total",
            "Bucket notifications of a site's store by what became of them.",
            ("site", "outcome"),
            registry=self._registry,
        )
        self.peer_reads = Counter(
            "entrepot_peer_reads_total",
            "Reads that missed at a site and were asked of a peer, by what became of them.",
            ("site", "peer", "outcome"),
            registry=self._registry,
        )
        self.errors = Counter(
            "minio_errors_total",
            "Errors answered or met by the gateway, by type.",
            ("error_type",),
            registry=self._registry,
        )

    def render(self, facts: Iterable[Sample]) -> bytes:
        """Everything in Prometheus' text format."""
        scrape = CollectorRegistry()
        scrape.register(_Facts(tuple(facts)))
        return generate_latest(self._registry) + generate_latest(scrape)


class _Facts(Collector):
    def __init__(self, samples: tuple[Sample, ...]) -> None:
        self._samples = samples

    def collect(self) -> Iterator[GaugeMetricFamily | CounterMetricFamily]:
        for metric in FACTS:
            kind = CounterMetricFamily if metric.name.endswith("_total") else GaugeMetricFamily
            family = kind(metric.name, metric.help, labels=metric.labels)
            for sample in self._samples:
                if sample.metric is metric:
                    family.add_metric(sample.labels, sample.value)
            yield family
