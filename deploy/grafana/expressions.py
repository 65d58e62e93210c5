"""What is asked of Prometheus: PromQL over the instances that a dashboard looks at.

Knows the shape of metrics and of questions; which metric is asked is for `dashboards.py` to say.
"""

from __future__ import annotations

INSTANCES = 'instance=~"$instance"'
RANGE = "[$__rate_interval]"


def selected(metric: str, where: str = "") -> str:
    return f"{metric}{{{','.join(filter(None, (INSTANCES, where)))}}}"


def total(metric: str, by: str = "") -> str:
    """Of a gauge, over the instances."""
    return _over("sum", by, selected(metric))


def highest(metric: str, by: str = "") -> str:
    """Of a gauge that every instance tells alike."""
    return _over("max", by, selected(metric))


def lowest(metric: str) -> str:
    return _over("min", "", selected(metric))


def rate(metric: str, by: str = "", where: str = "") -> str:
    """Of a counter: a second, over the instances."""
    return _over("sum", by, f"rate({selected(metric, where)}{RANGE})")


def mean(metric: str, by: str = "", where: str = "") -> str:
    """Of what a histogram observed."""
    return f"{rate(f'{metric}_sum', by, where)} / {rate(f'{metric}_count', by, where)}"


def quantile(share: float, metric: str, by: str = "", where: str = "") -> str:
    """Of what a histogram observed."""
    buckets = rate(f"{metric}_bucket", ", ".join(filter(None, ("le", by))), where)
    return f"histogram_quantile({share}, {buckets})"


def share(metric: str, where: str, of: str = "", among: str = "") -> str:
    """What a counter counted `where`, 0 if nothing, of all that it counted `among`, or that `of`
    did."""
    some = ",".join(filter(None, (where, "" if of else among)))
    return f"({rate(metric, where=some)} or vector(0)) / {rate(of or metric, where=among)}"


def share_by(by: str, metric: str, where: str) -> str:
    """As `share`, of each series of its own."""
    some, whole = rate(metric, by, where), rate(metric, by)
    return f"({some} or 0 * {whole}) / {whole}"


def distance(metric: str, reference: str, by: str) -> str:
    """The largest between a histogram's distribution and one that a gauge has by `le`."""
    now = f"{rate(f'{metric}_bucket', f'{by}, le')} / on ({by}) group_left () "
    now += rate(f"{metric}_count", by)
    told = _over("max", f"{by}, le", reference)
    return _over("max", by, f"abs({now} - on ({by}, le) {told})")


def _over(how: str, by: str, series: str) -> str:
    return f"{how} by ({by}) ({series})" if by else f"{how}({series})"
