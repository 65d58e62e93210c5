"""The dashboards: what an operator asks, and the expression that answers. `make dashboards`.

    python deploy/grafana/dashboards.py FOLDER

writes one JSON file a dashboard. The words of the runbook become a dashboard too, so that every
board can link to it.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

from grafana_foundation_sdk.builders.dashboard import Dashboard
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from panels import Query, Row, board, distribution, lines, page, stack, value

ONE = 'instance=~"$instance"'
RANGE = "[$__rate_interval]"


def rate(metric: str, by: str = "", where: str = "") -> str:
    """Per second, summed over the instances that are looked at."""
    selector = f"{metric}{{{','.join(filter(None, (ONE, where)))}}}"
    grouping = f" by ({by})" if by else ""
    return f"sum{grouping} (rate({selector}{RANGE}))"


def quantile(share: float, metric: str, by: str = "", where: str = "") -> str:
    buckets = rate(f"{metric}_bucket", by=", ".join(filter(None, ("le", by))), where=where)
    return f"histogram_quantile({share}, {buckets})"


def now(metric: str, by: str = "", where: str = "") -> str:
    selector = f"{metric}{{{','.join(filter(None, (ONE, where)))}}}"
    return f"sum{f' by ({by})' if by else ''} ({selector})"


TOTAL = 'stage="total"'
STAGES = 'stage!="total"'
IN_TIME = 'stage="total",le="1.0"'
BY_US = 'status=~"5.."'
UNNAMED = 'outcome="none"'
CLIPS = 'reason=~"clip-.*"'
IMAGES = 'reason=~"image-.*"'
FOR_LOAD = 'reason="overloaded"'
PROCESS = f'{{job="lpr",{ONE}}}'
ANSWERED_IN_TIME = (
    f"{rate('lpr_stage_seconds_bucket', where=IN_TIME)}"
    f" / {rate('lpr_stage_seconds_count', where=TOTAL)}"
)
SERVER_ERRORS = (
    f"({rate('lpr_requests_total', where=BY_US)} or vector(0)) / {rate('lpr_requests_total')}"
)
UNDECIDED = (
    f"({rate('lpr_decisions_total', by='shop_group', where=UNNAMED)}"
    f" or 0 * {rate('lpr_decisions_total', by='shop_group')})"
    f" / {rate('lpr_decisions_total', by='shop_group')}"
)
REFUSED = (
    f"({rate('lpr_failures_total', where=FOR_LOAD)} or vector(0)) / {rate('lpr_requests_total')}"
)


def overview() -> Dashboard:
    return board(
        "lpr-overview",
        "LPR: overview",
        "Do viewers get right answers fast?",
        [
            Row(
                "At a glance",
                [
                    value(
                        "Ready",
                        "Instances that take requests.",
                        Query(now("lpr_ready")),
                        unit="none",
                        bad_below=1,
                    ),
                    value(
                        "Recognitions",
                        "Answered a second.",
                        Query(rate("lpr_stage_seconds_count", where=TOTAL)),
                        unit="reqps",
                    ),
                    value(
                        "Within one second",
                        "Share of recognitions answered in a second; the objective is 99 %.",
                        Query(ANSWERED_IN_TIME),
                        unit="percentunit",
                        bad_below=0.99,
                    ),
                    value(
                        "Failed by us",
                        "Share of requests answered 5xx; the objective is 0.1 %.",
                        Query(SERVER_ERRORS),
                        unit="percentunit",
                        bad_above=0.001,
                    ),
                    value(
                        "Refused",
                        "Share of requests refused because the house was full (429).",
                        Query(REFUSED),
                        unit="percentunit",
                        bad_above=0.01,
                    ),
                    value(
                        "Undecided",
                        "Share of recognitions that named no product.",
                        Query(
                            f"({rate('lpr_decisions_total', where=UNNAMED)} or vector(0))"
                            f" / {rate('lpr_decisions_total')}"
                        ),
                        unit="percentunit",
                    ),
                ],
            ),
            Row(
                "Traffic and errors",
                [
                    stack(
                        "Requests",
                        "By route.",
                        Query(rate("lpr_requests_total", by="route"), "{{route}}"),
                        unit="reqps",
                    ),
                    stack(
                        "Answers by status",
                        "4xx are the callers', 5xx ours, 429 load.",
                        Query(rate("lpr_requests_total", by="status"), "{{status}}"),
                        unit="reqps",
                    ),
                    stack(
                        "Problems",
                        "Answers that were problems, by their slug.",
                        Query(f"{rate('lpr_failures_total', by='reason')} > 0", "{{reason}}"),
                        unit="reqps",
                    ),
                ],
            ),
            Row(
                "Latency",
                [
                    lines(
                        "Recognition",
                        "From a request's head to its answer.",
                        *(
                            Query(quantile(share, "lpr_stage_seconds", where=TOTAL), name)
                            for share, name in ((0.5, "p50"), (0.95, "p95"), (0.99, "p99"))
                        ),
                        unit="s",
                        warn=1.0,
                        exemplars=True,
                    ),
                    stack(
                        "Where the time goes",
                        "Mean time of each stage: together the whole of a recognition but reading "
                        "its body.",
                        Query(
                            f"{rate('lpr_stage_seconds_sum', by='stage', where=STAGES)}"
                            f" / {rate('lpr_stage_seconds_count', by='stage', where=STAGES)}",
                            "{{stage}}",
                        ),
                        unit="s",
                    ),
                    lines(
                        "Slowest by stage",
                        "p99 of each stage.",
                        Query(
                            quantile(0.99, "lpr_stage_seconds", by="stage", where=STAGES),
                            "{{stage}}",
                        ),
                        unit="s",
                    ),
                ],
            ),
            Row(
                "Saturation",
                [
                    stack(
                        "In flight",
                        "Admitted and not yet answered.",
                        Query(now("lpr_in_flight", by="kind"), "{{kind}}"),
                        unit="none",
                    ),
                    stack(
                        "Waiting",
                        "Admitted, waiting for a thread.",
                        Query(now("lpr_queue_size", by="kind"), "{{kind}}"),
                        unit="none",
                    ),
                    lines(
                        "CPU",
                        "Cores in use, by instance.",
                        Query(
                            f"rate(process_cpu_seconds_total{PROCESS}{RANGE})",
                            "{{instance}}",
                        ),
                        unit="none",
                    ),
                ],
            ),
            Row(
                "Answers",
                [
                    lines(
                        "Undecided",
                        "Share of recognitions that named no product, by shop group.",
                        Query(UNDECIDED, "{{shop_group}}"),
                        unit="percentunit",
                        width=12,
                    ),
                    lines(
                        "Confidence",
                        "Median confidence of the best candidate, by shop group.",
                        Query(quantile(0.5, "lpr_confidence", by="shop_group"), "{{shop_group}}"),
                        unit="percentunit",
                        width=12,
                    ),
                ],
            ),
        ],
    )


def quality() -> Dashboard:
    drift = (
        f"max by (bundle) (abs("
        f"{rate('lpr_confidence_bucket', by='bundle, le')}"
        f" / on (bundle) group_left () {rate('lpr_confidence_count', by='bundle')}"
        f" - on (bundle, le) max by (bundle, le) (lpr_confidence_reference)))"
    )
    return board(
        "lpr-quality",
        "LPR: recognition quality",
        "Are answers as sure as they were when the bundle was made?",
        [
            Row(
                "Confidence",
                [
                    distribution(
                        "Confidence",
                        "Of the best candidate.",
                        Query(rate("lpr_confidence_bucket", by="le")),
                        unit="percentunit",
                        width=12,
                    ),
                    distribution(
                        "Margin",
                        "Confidence of the best candidate above the second's.",
                        Query(rate("lpr_margin_bucket", by="le")),
                        unit="percentunit",
                        width=12,
                    ),
                ],
            ),
            Row(
                "By shop group",
                [
                    lines(
                        "Undecided",
                        "Share of recognitions that named no product.",
                        Query(UNDECIDED, "{{shop_group}}"),
                        unit="percentunit",
                    ),
                    lines(
                        "Confidence",
                        "Median of the best candidate's.",
                        Query(quantile(0.5, "lpr_confidence", by="shop_group"), "{{shop_group}}"),
                        unit="percentunit",
                    ),
                    lines(
                        "Margin",
                        "Median margin between the two best candidates.",
                        Query(quantile(0.5, "lpr_margin", by="shop_group"), "{{shop_group}}"),
                        unit="percentunit",
                    ),
                ],
            ),
            Row(
                "By bundle",
                [
                    stack(
                        "Recognitions",
                        "By the bundle that answered: a new one takes over here.",
                        Query(rate("lpr_decisions_total", by="bundle"), "{{bundle}}"),
                        unit="reqps",
                    ),
                    lines(
                        "Confidence",
                        "Median of the best candidate's.",
                        Query(quantile(0.5, "lpr_confidence", by="bundle"), "{{bundle}}"),
                        unit="percentunit",
                    ),
                    lines(
                        "Drift",
                        "Largest distance between today's distribution of confidence and the one "
                        "measured when the bundle was exported (Kolmogorov-Smirnov). A shop whose "
                        "products look like nothing seen in training drifts.",
                        Query(drift, "{{bundle}}"),
                        unit="percentunit",
                        warn=0.3,
                    ),
                ],
            ),
            Row(
                "What was matched",
                [
                    lines(
                        "Products a clip was matched with",
                        "Median and p95.",
                        Query(quantile(0.5, "lpr_candidate_products"), "p50"),
                        Query(quantile(0.95, "lpr_candidate_products"), "p95"),
                        unit="none",
                        width=12,
                    ),
                    stack(
                        "Clips that could not be read",
                        "By problem: a rise after a release is the app's camera, or ours.",
                        Query(
                            f"{rate('lpr_failures_total', by='reason', where=CLIPS)} > 0",
                            "{{reason}}",
                        ),
                        unit="reqps",
                        width=12,
                    ),
                ],
            ),
        ],
    )


def gallery() -> Dashboard:
    return board(
        "lpr-gallery",
        "LPR: gallery and indexing",
        "Is everything that was accepted searchable?",
        [
            Row(
                "At a glance",
                [
                    value(
                        "Pictures",
                        "In the index.",
                        Query(f"max(lpr_index_pictures{{{ONE}}})"),
                        unit="short",
                    ),
                    value(
                        "Not yet searchable",
                        "Products accepted and not yet in the index.",
                        Query(f"max(lpr_index_pending_products{{{ONE}}})"),
                        unit="short",
                        bad_above=1_000,
                    ),
                    value(
                        "Lag",
                        "Age of the oldest product that is not yet searchable.",
                        Query(f"max(lpr_index_lag_seconds{{{ONE}}})"),
                        unit="s",
                        bad_above=60,
                    ),
                ],
            ),
            Row(
                "Indexing",
                [
                    lines(
                        "Indexed pictures",
                        "Made searchable, a second.",
                        Query(rate("lpr_indexed_pictures_total"), "pictures"),
                        unit="cps",
                    ),
                    lines(
                        "Time to index a product",
                        "From its decoding to its being searchable.",
                        Query(quantile(0.5, "lpr_indexing_seconds"), "p50"),
                        Query(quantile(0.99, "lpr_indexing_seconds"), "p99"),
                        unit="s",
                    ),
                    lines(
                        "Lag",
                        "Age of the oldest product accepted and not yet searchable.",
                        Query(f"max(lpr_index_lag_seconds{{{ONE}}})", "lag"),
                        unit="s",
                        warn=60,
                    ),
                ],
            ),
            Row(
                "Jobs",
                [
                    stack(
                        "Jobs",
                        "By state; `dead` were given up after five attempts.",
                        Query(f"max by (state) (lpr_jobs{{{ONE}}})", "{{state}}"),
                        unit="none",
                        width=12,
                    ),
                    stack(
                        "Refused pictures and products",
                        "By problem.",
                        Query(
                            f"{rate('lpr_failures_total', by='reason', where=IMAGES)} > 0",
                            "{{reason}}",
                        ),
                        unit="reqps",
                        width=12,
                    ),
                ],
            ),
        ],
    )


def infrastructure() -> Dashboard:
    return board(
        "lpr-infrastructure",
        "LPR: infrastructure",
        "What the service stands on, and what it takes.",
        [
            Row(
                "Milvus and Redis",
                [
                    lines(
                        "Calls",
                        "p99 of every kind of call.",
                        Query(
                            quantile(0.99, "lpr_dependency_seconds", by="dependency, call"),
                            "{{dependency}} {{call}}",
                        ),
                        unit="s",
                    ),
                    stack(
                        "Failed calls",
                        "By dependency and call.",
                        Query(
                            rate("lpr_dependency_errors_total", by="dependency, call"),
                            "{{dependency}} {{call}}",
                        ),
                        unit="cps",
                    ),
                    lines(
                        "Redis answers",
                        "1 while it does. Without it the API works on, slower.",
                        Query(f"min(lpr_redis_up{{{ONE}}})", "up"),
                        unit="none",
                    ),
                ],
            ),
            Row(
                "Hot shops",
                [
                    stack(
                        "Lookups",
                        "A miss loads the shop from the index.",
                        Query(rate("lpr_hot_shop_lookups_total", by="result"), "{{result}}"),
                        unit="cps",
                    ),
                    lines(
                        "Memory of hot shops",
                        "By instance.",
                        Query(f"lpr_hot_shops_bytes{{{ONE}}}", "{{instance}}"),
                        unit="bytes",
                    ),
                    lines(
                        "Model",
                        "The bundle, and the provider that really runs it.",
                        Query(
                            f"sum by (bundle, provider) (lpr_model_info{{{ONE}}})",
                            "{{bundle}} on {{provider}}",
                        ),
                        unit="none",
                    ),
                ],
            ),
            Row(
                "Encoders",
                [
                    lines(
                        "Batch size",
                        "Mean of the clips or pictures that ran together. On a CPU clips run "
                        "alone unless it is set otherwise: one clip's frames fill the cores.",
                        Query(
                            f"{rate('lpr_batch_size_sum', by='graph')}"
                            f" / {rate('lpr_batch_size_count', by='graph')}",
                            "{{graph}}",
                        ),
                        unit="none",
                        width=6,
                    ),
                    lines(
                        "Wait for a turn",
                        "p99 of the time from asking to being run. Pictures of jobs wait while "
                        "clips do.",
                        Query(quantile(0.99, "lpr_batch_wait_seconds", by="graph"), "{{graph}}"),
                        unit="s",
                        width=6,
                    ),
                    stack(
                        "Waiting for a turn",
                        "Clips and pictures in line.",
                        Query(now("lpr_batch_queue_size", by="graph"), "{{graph}}"),
                        unit="none",
                        width=6,
                    ),
                    stack(
                        "Encoders in use",
                        "Share of the time in which they ran, by instance: at 1 there is no more "
                        "to be had from this device.",
                        Query(
                            rate("lpr_batch_seconds_sum", by="instance, graph"),
                            "{{instance}} {{graph}}",
                        ),
                        unit="percentunit",
                        width=6,
                    ),
                ],
            ),
            Row(
                "Process",
                [
                    lines(
                        "Memory",
                        "Resident.",
                        Query(f"process_resident_memory_bytes{PROCESS}", "{{instance}}"),
                        unit="bytes",
                    ),
                    lines(
                        "Descriptors",
                        "Open, as a share of what the process may open.",
                        Query(
                            f"process_open_fds{PROCESS} / process_max_fds{PROCESS}",
                            "{{instance}}",
                        ),
                        unit="percentunit",
                        warn=0.8,
                    ),
                    lines(
                        "Restarts",
                        "In the last hour.",
                        Query(
                            f"changes(process_start_time_seconds{PROCESS}[1h])",
                            "{{instance}}",
                        ),
                        unit="none",
                    ),
                ],
            ),
            Row(
                "GPU",
                [
                    lines(
                        "GPU memory",
                        "In use; empty where the service runs on a CPU.",
                        Query(f"lpr_gpu_memory_used_bytes{{{ONE}}}", "{{instance}} {{gpu}}"),
                        unit="bytes",
                        width=12,
                    ),
                    lines(
                        "GPU in use",
                        "Share of the time in which it computed; empty on a CPU.",
                        Query(f"lpr_gpu_utilisation_ratio{{{ONE}}}", "{{instance}} {{gpu}}"),
                        unit="percentunit",
                        width=12,
                    ),
                ],
            ),
        ],
    )


def runbook(markdown: str) -> Dashboard:
    """One panel for each `## ` section."""
    sections = re.split(r"^## ", markdown, flags=re.MULTILINE)[1:]
    pages = [page(*(part.strip() for part in section.split("\n", 1))) for section in sections]
    return board(
        "lpr-runbook",
        "LPR: runbook",
        "What each alert means and what to do.",
        [Row("Alerts", pages)],
    )


def boards(runbook_text: str) -> Iterator[Dashboard]:
    yield from (overview(), quality(), gallery(), infrastructure(), runbook(runbook_text))


def main(folder: Path, runbook_path: Path) -> None:
    for builder in boards(runbook_path.read_text()):
        built = builder.build()
        text = JSONEncoder(sort_keys=True, indent=1).encode(built)
        (folder / f"{built.uid}.json").write_text(text + "\n")


if __name__ == "__main__":
    here = Path(__file__).parent
    main(Path(sys.argv[1]), here.parents[1] / "docs" / "RUNBOOK.md")
