"""How a panel, a row and a dashboard of ours look: the vocabulary that `dashboards.py` speaks.

Built with Grafana's own SDK, whose types are its schema. Knows no metric.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from grafana_foundation_sdk.builders import (
    common,
    dashboard,
    heatmap,
    prometheus,
    stat,
    text,
    timeseries,
)
from grafana_foundation_sdk.models import common as looks
from grafana_foundation_sdk.models.dashboard import (
    DashboardLinkType,
    DataSourceRef,
    Threshold,
    ThresholdsMode,
    VariableRefresh,
)
from grafana_foundation_sdk.models.prometheus import PromQueryFormat
from grafana_foundation_sdk.models.text import TextMode

HEIGHT = 8
RUNBOOK = "/d/lpr-runbook"
_SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")

Panel = timeseries.Panel | stat.Panel | heatmap.Panel | text.Panel


@dataclass(frozen=True)
class Row:
    title: str
    panels: tuple[Panel, ...]


def row(title: str, *panels: Panel) -> Row:
    """Panels side by side under a heading, in lines of 24 columns."""
    return Row(title, panels)


def lines(
    title: str,
    description: str,
    unit: str,
    series: Mapping[str, str],
    *,
    warn: float | None = None,
    width: int = 8,
    exemplars: bool = False,
) -> timeseries.Panel:
    """Expressions by legend, over time; `warn` draws a line where they become bad."""
    panel = _over_time(title, description, unit, series, width, exemplars=exemplars)
    if warn is not None:
        panel.thresholds(_from(warn, "red"))
        panel.thresholds_style(
            common.GraphThresholdsStyleConfig().mode(looks.GraphThresholdsStyleMode.DASHED)
        )
    return panel


def stack(
    title: str, description: str, unit: str, series: Mapping[str, str], *, width: int = 8
) -> timeseries.Panel:
    """The same of parts that add up to a whole."""
    panel = _over_time(title, description, unit, series, width)
    panel.fill_opacity(60).stacking(common.StackingConfig().mode(looks.StackingMode.NORMAL))
    return panel


def value(
    title: str,
    description: str,
    unit: str,
    expression: str,
    *,
    bad_above: float | None = None,
    bad_below: float | None = None,
) -> stat.Panel:
    """One number now, green or red."""
    panel = stat.Panel().title(title).description(description).unit(unit).height(4).span(4)
    panel.datasource(_SOURCE).with_target(_target(expression))
    panel.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
    if bad_above is not None:
        panel.thresholds(_from(bad_above, "red"))
    if bad_below is not None:
        panel.thresholds(_from(bad_below, "green", below="red"))
    return panel


def distribution(
    title: str, description: str, unit: str, expression: str, *, width: int = 8
) -> heatmap.Panel:
    """A histogram's buckets over time."""
    panel = heatmap.Panel().title(title).description(description).height(HEIGHT).span(width)
    target = _target(expression, "{{le}}").format(PromQueryFormat.HEATMAP)
    panel.datasource(_SOURCE).with_target(target)
    return panel.y_axis(heatmap.YAxisConfig().unit(unit))


def page(title: str, markdown: str) -> text.Panel:
    """Words, over the whole width."""
    return text.Panel().title(title).content(markdown).mode(TextMode.MARKDOWN).height(7).span(24)


def board(uid: str, title: str, description: str, *rows: Row) -> dashboard.Dashboard:
    built = dashboard.Dashboard(title).uid(uid).description(description).tags(["lpr"])
    built.refresh("10s").time("now-1h", "now").timezone("browser").tooltip(1).readonly()
    built.with_variable(dashboard.DatasourceVariable("datasource").type("prometheus"))
    built.with_variable(_instances())
    built.link(_link("LPR", DashboardLinkType.DASHBOARDS).tags(["lpr"]).as_dropdown(True))
    built.link(_link("Runbook", DashboardLinkType.LINK).url(RUNBOOK))
    for each in rows:
        built.with_row(dashboard.Row(each.title))
        for panel in each.panels:
            built.with_panel(panel)
    return built


def _over_time(
    title: str,
    description: str,
    unit: str,
    series: Mapping[str, str],
    width: int,
    *,
    exemplars: bool = False,
) -> timeseries.Panel:
    panel = timeseries.Panel().title(title).description(description).unit(unit).min(0)
    panel.height(HEIGHT).span(width).fill_opacity(10).datasource(_SOURCE)
    panel.legend(
        common.VizLegendOptions()
        .display_mode(looks.LegendDisplayMode.LIST)
        .placement(looks.LegendPlacement.BOTTOM)
        .show_legend(True)
    )
    panel.tooltip(common.VizTooltipOptions().mode(looks.TooltipDisplayMode.MULTI))
    for place, (legend, expression) in enumerate(series.items()):
        panel.with_target(_target(expression, legend, place).exemplar(exemplars))
    return panel


def _target(expression: str, legend: str = "", place: int = 0) -> prometheus.Dataquery:
    target = prometheus.Dataquery().ref_id(chr(ord("A") + place)).expr(expression)
    return target.legend_format(legend)


def _from(limit: float, colour: str, *, below: str = "green") -> dashboard.ThresholdsConfig:
    steps = [Threshold(value=None, color=below), Threshold(value=limit, color=colour)]
    return dashboard.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps)


def _instances() -> dashboard.QueryVariable:
    variable = dashboard.QueryVariable("instance").label("Instance").datasource(_SOURCE)
    variable.query("label_values(lpr_ready, instance)").refresh(
        VariableRefresh.ON_TIME_RANGE_CHANGED
    )
    return variable.multi(True).include_all(True).all_value(".*")


def _link(title: str, kind: DashboardLinkType) -> dashboard.DashboardLink:
    return dashboard.DashboardLink(title).type(kind).keep_time(True)
