"""The dashboards: what an operator asks, and the expression that answers. `make dashboards`.

    python deploy/grafana/dashboards.py FOLDER

writes one JSON file a dashboard. The words of the runbook become a dashboard too, so that every
board can link to it. A panel is a title, what it shows, its unit, and its expressions by legend.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

from expressions import (
    RANGE,
    distance,
    highest,
    lowest,
    mean,
    quantile,
    rate,
    selected,
    share,
    share_by,
    total,
)
from grafana_foundation_sdk.builders.dashboard import Dashboard
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from panels import board, distribution, lines, page, row, stack, value

WHOLE = 'stage="total"'
STAGES = 'stage!="total"'
IN_TIME = 'stage="total",le="1.0"'
NO_PROBES = 'route!~"/readyz|/healthz|/metrics"'
BY_US = 'status=~"5.."'
UNNAMED = 'outcome="none"'
CLIPS = 'reason=~"clip-.*"'
IMAGES = 'reason=~"image-.*"'
FOR_LOAD = 'reason="overloaded"'
OURS = 'job="lpr"'

# Tables: what belongs to a panel stands together.
# fmt: off


def overview() -> Dashboard:
    in_time = rate("lpr_stage_seconds_bucket", where=IN_TIME)
    recognitions = rate("lpr_stage_seconds_count", where=WHOLE)
    cpu_s = selected("process_cpu_seconds_total", OURS)
    return board(
        "lpr-overview", "LPR: overview", "Do viewers get right answers fast?",
        row("At a glance",
            value("Ready", "Instances that take requests.", "none",
                  total("lpr_ready"), bad_below=1),
            value("Recognitions", "Answered a second.", "reqps",
                  recognitions),
            value("Within one second",
                  "Share of recognitions answered in a second; the objective is 99 %.",
                  "percentunit", f"{in_time} / {recognitions}", bad_below=0.99),
            value("Failed by us",
                  "Share of requests but probes answered 5xx; the objective is 0.1 %.",
                  "percentunit", share("lpr_requests_total", BY_US, among=NO_PROBES),
                  bad_above=0.001),
            value("Refused",
                  "Share of requests refused because the house was full (429).",
                  "percentunit",
                  share("lpr_failures_total", FOR_LOAD, of="lpr_requests_total", among=NO_PROBES),
                  bad_above=0.01),
            value("Undecided", "Share of recognitions that named no product.",
                  "percentunit", share("lpr_decisions_total", UNNAMED))),
        row("Traffic and errors",
            stack("Requests", "By route.", "reqps",
                  {"{{route}}": rate("lpr_requests_total", by="route")}),
            stack("Answers by status", "4xx are the callers', 5xx ours, 429 load.", "reqps",
                  {"{{status}}": rate("lpr_requests_total", by="status")}),
            stack("Problems", "Answers that were problems, by their slug.", "reqps",
                  {"{{reason}}": f"{rate('lpr_failures_total', by='reason')} > 0"})),
        row("Latency",
            lines("Recognition", "From a request's last byte to its answer.", "s",
                  {"p50": quantile(0.5, "lpr_stage_seconds", where=WHOLE),
                   "p95": quantile(0.95, "lpr_stage_seconds", where=WHOLE),
                   "p99": quantile(0.99, "lpr_stage_seconds", where=WHOLE)},
                  warn=1.0, exemplars=True),
            stack("Where the time goes",
                  "Mean time of each stage: together the whole of a recognition. `receive` is the "
                  "client's upload, which no objective counts.", "s",
                  {"{{stage}}": mean("lpr_stage_seconds", by="stage", where=STAGES)}),
            lines("Slowest by stage", "p99 of each stage.", "s",
                  {"{{stage}}": quantile(0.99, "lpr_stage_seconds", by="stage", where=STAGES)})),
        row("Saturation",
            stack("In flight", "Admitted and not yet answered.", "none",
                  {"{{kind}}": total("lpr_in_flight", by="kind")}),
            stack("Waiting", "Admitted, waiting for a thread.", "none",
                  {"{{kind}}": total("lpr_queue_size", by="kind")}),
            lines("CPU", "Cores in use, by instance.", "none",
                  {"{{instance}}": f"rate({cpu_s}{RANGE})"})),
        row("Answers",
            lines("Undecided", "Share of recognitions that named no product, by shop group.",
                  "percentunit",
                  {"{{shop_group}}": share_by("shop_group", "lpr_decisions_total", UNNAMED)},
                  width=12),
            lines("Confidence", "Median confidence of the best candidate, by shop group.",
                  "percentunit",
                  {"{{shop_group}}": quantile(0.5, "lpr_confidence", by="shop_group")},
                  width=12)),
    )


def quality() -> Dashboard:
    return board(
        "lpr-quality", "LPR: recognition quality",
        "Are answers as sure as they were when the bundle was made?",
        row("Confidence",
            distribution("Confidence", "Of the best candidate.", "percentunit",
                         rate("lpr_confidence_bucket", by="le"), width=12),
            distribution("Margin", "Confidence of the best candidate above the second's.",
                         "percentunit", rate("lpr_margin_bucket", by="le"), width=12)),
        row("By shop group",
            lines("Undecided", "Share of recognitions that named no product.", "percentunit",
                  {"{{shop_group}}": share_by("shop_group", "lpr_decisions_total", UNNAMED)}),
            lines("Confidence", "Median of the best candidate's.", "percentunit",
                  {"{{shop_group}}": quantile(0.5, "lpr_confidence", by="shop_group")}),
            lines("Margin", "Median margin between the two best candidates.", "percentunit",
                  {"{{shop_group}}": quantile(0.5, "lpr_margin", by="shop_group")})),
        row("By bundle",
            stack("Recognitions", "By the bundle that answered: a new one takes over here.",
                  "reqps", {"{{bundle}}": rate("lpr_decisions_total", by="bundle")}),
            lines("Confidence", "Median of the best candidate's.", "percentunit",
                  {"{{bundle}}": quantile(0.5, "lpr_confidence", by="bundle")}),
            lines("Drift",
                  "Largest distance between today's distribution of confidence and the one "
                  "measured when the bundle was exported (Kolmogorov-Smirnov). A shop whose "
                  "products look like nothing seen in training drifts.", "percentunit",
                  {"{{bundle}}":
                       distance("lpr_confidence", "lpr_confidence_reference", by="bundle")},
                  warn=0.3)),
        row("What was matched",
            lines("Products a clip was matched with", "Median and p95.", "none",
                  {"p50": quantile(0.5, "lpr_candidate_products"),
                   "p95": quantile(0.95, "lpr_candidate_products")}, width=12),
            stack("Clips that could not be read",
                  "By problem: a rise after a release is the app's camera, or ours.", "reqps",
                  {"{{reason}}": f"{rate('lpr_failures_total', by='reason', where=CLIPS)} > 0"},
                  width=12)),
    )


def gallery() -> Dashboard:
    return board(
        "lpr-gallery", "LPR: gallery and indexing",
        "Is everything that was accepted searchable?",
        row("At a glance",
            value("Pictures", "In the index.", "short",
                  highest("lpr_index_pictures")),
            value("Not yet searchable", "Products accepted and not yet in the index.", "short",
                  highest("lpr_index_pending_products"), bad_above=1_000),
            value("Lag", "Age of the oldest product that is not yet searchable.", "s",
                  highest("lpr_index_lag_seconds"), bad_above=60)),
        row("Indexing",
            lines("Pictures indexed by single posts",
                  "Searchable when answered, a second; batches are in *Not yet searchable*.", "cps",
                  {"pictures": rate("lpr_indexed_pictures_total")}),
            lines("Time to index a product",
                  "Of a single post, from its decoding to its being searchable.", "s",
                  {"p50": quantile(0.5, "lpr_indexing_seconds"),
                   "p99": quantile(0.99, "lpr_indexing_seconds")}),
            lines("Lag", "Age of the oldest product accepted and not yet searchable.", "s",
                  {"lag": highest("lpr_index_lag_seconds")}, warn=60)),
        row("Jobs",
            stack("Jobs", "By state; `dead` were given up after five attempts.", "none",
                  {"{{state}}": highest("lpr_jobs", by="state")}, width=12),
            stack("Refused pictures and products", "By problem.", "reqps",
                  {"{{reason}}": f"{rate('lpr_failures_total', by='reason', where=IMAGES)} > 0"},
                  width=12)),
    )


def infrastructure() -> Dashboard:
    open_files = selected("process_open_fds", OURS)
    most_files = selected("process_max_fds", OURS)
    started = selected("process_start_time_seconds", OURS)
    return board(
        "lpr-infrastructure", "LPR: infrastructure",
        "What the service stands on, and what it takes.",
        row("Milvus and Redis",
            lines("Calls", "p99 of every kind of call.", "s",
                  {"{{dependency}} {{call}}":
                       quantile(0.99, "lpr_dependency_seconds", by="dependency, call")}),
            stack("Failed calls", "By dependency and call.", "cps",
                  {"{{dependency}} {{call}}":
                       rate("lpr_dependency_errors_total", by="dependency, call")}),
            lines("Redis takes writes", "1 while it does. Without it the API works on, slower.",
                  "none", {"up": lowest("lpr_redis_up")})),
        row("Hot shops",
            stack("Lookups", "A miss loads the shop from the index.", "cps",
                  {"{{result}}": rate("lpr_hot_shop_lookups_total", by="result")}),
            lines("Memory of hot shops", "By instance.", "bytes",
                  {"{{instance}}": selected("lpr_hot_shops_bytes")}),
            lines("Model", "The bundle, and the provider that really runs it.", "none",
                  {"{{bundle}} on {{provider}}": total("lpr_model_info", by="bundle, provider")})),
        row("Encoders",
            lines("Batch size",
                  "Mean of the clips or pictures that ran together. On a CPU clips run alone "
                  "unless it is set otherwise: one clip's frames fill the cores.", "none",
                  {"{{graph}}": mean("lpr_batch_size", by="graph")}, width=6),
            lines("Wait for a turn",
                  "p99 of the time from asking to being run. Pictures of jobs wait while clips do.",
                  "s", {"{{graph}}": quantile(0.99, "lpr_batch_wait_seconds", by="graph")},
                  width=6),
            stack("Waiting for a turn", "Clips and pictures in line.", "none",
                  {"{{graph}}": total("lpr_batch_queue_size", by="graph")}, width=6),
            stack("Encoders in use",
                  "Share of the time in which they ran, by instance: at 1 there is no more to be "
                  "had from this device.", "percentunit",
                  {"{{instance}} {{graph}}":
                       rate("lpr_batch_seconds_sum", by="instance, graph")}, width=6)),
        row("Process",
            lines("Memory", "Resident.", "bytes",
                  {"{{instance}}": selected("process_resident_memory_bytes", OURS)}),
            lines("Descriptors", "Open, as a share of what the process may open.", "percentunit",
                  {"{{instance}}": f"{open_files} / {most_files}"}, warn=0.8),
            lines("Restarts", "In the last hour.", "none",
                  {"{{instance}}": f"changes({started}[1h])"})),
        row("GPU",
            lines("GPU memory", "In use; empty where the service runs on a CPU.", "bytes",
                  {"{{instance}} {{gpu}}": selected("lpr_gpu_memory_used_bytes")}, width=12),
            lines("GPU in use", "Share of the time in which it computed; empty on a CPU.",
                  "percentunit",
                  {"{{instance}} {{gpu}}": selected("lpr_gpu_utilisation_ratio")}, width=12)),
    )


# fmt: on


def runbook(markdown: str) -> Dashboard:
    """One panel for each `## ` section."""
    sections = re.split(r"^## ", markdown, flags=re.MULTILINE)[1:]
    pages = [page(*(part.strip() for part in section.split("\n", 1))) for section in sections]
    return board(
        "lpr-runbook",
        "LPR: runbook",
        "What each alert means and what to do.",
        row("Alerts", *pages),
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
