"""Report: a page of charts from a summary table, one HTML file that needs nothing else, and a PNG of the first chart."""

from __future__ import annotations

import html
import io
import tempfile
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

from mesh_agents.tables import read_table

from mesh import Agent, File

agent = Agent("report", tags=["data"])

COLOURS = ("#0b6e99", "#d9730d", "#448361", "#9065b0", "#c14c8a", "#cb912f", "#787774", "#d44c47")
PAGE = Template("""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1"><title>$title</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; color: #1f2328; max-width: 62rem; margin: 2rem auto; padding: 0 1rem }
h1 { margin-bottom: 0 } h2 { margin-top: 2.5rem } .lead { color: #59636e; margin-top: .2rem }
table { border-collapse: collapse; font-size: .9rem; width: 100% }
td, th { padding: .3rem .7rem; border-bottom: 1px solid #d1d9e0; text-align: right }
td:first-child, th:first-child { text-align: left } svg { width: 100%; height: auto } code { font-size: .8rem; overflow-wrap: anywhere }
</style></head><body><h1>$title</h1><p class="lead">$lead</p>
$charts
<h2>The columns</h2><table>
<tr><th>column</th><th>kind</th><th>missing</th><th>distinct</th><th>low</th><th>high</th><th>mean</th><th>outliers</th></tr>
$columns</table>
<h2>Where it comes from</h2><table>$notes</table></body></html>
""")


@dataclass
class Rendered:
    html: File
    png: File
    charts: int


Series = dict[str, dict[str, list[tuple[str, float, float, float]]]]


def _series(summary: File) -> Series:
    """measure -> group -> [(period, mean, low, high)] in order of period."""
    series: Series = defaultdict(lambda: defaultdict(list))
    for period, group, measure, _, mean, low, high in read_table(summary.path)[1]:
        series[measure][group].append((period, float(mean), float(low), float(high)))
    return series


def _draw(axes: Any, measure: str, groups: dict[str, list[tuple[str, float, float, float]]]) -> None:
    periods = sorted({point[0] for points in groups.values() for point in points})
    place = {period: i for i, period in enumerate(periods)}
    for (group, points), colour in zip(groups.items(), COLOURS):
        x = [place[point[0]] for point in points]
        if len(periods) == 1:
            axes.errorbar(
                [group], [points[0][1]], yerr=[[points[0][1] - points[0][2]], [points[0][3] - points[0][1]]], fmt="o", color=colour
            )
            continue
        axes.plot(x, [point[1] for point in points], color=colour, label=group, linewidth=1.8)
        axes.fill_between(x, [point[2] for point in points], [point[3] for point in points], color=colour, alpha=0.2, linewidth=0)
    if len(periods) > 1:
        every = max(1, len(periods) // 12)
        axes.set_xticks(range(0, len(periods), every), periods[::every], rotation=45, ha="right", fontsize=8)
        axes.legend(frameon=False, ncols=min(4, len(groups)))
    axes.set_title(f"{measure}: mean and 95 % confidence interval", loc="left", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.3)


def _charts(series: Series, folder: Path) -> tuple[list[str], Path]:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    matplotlib.rcParams["svg.hashsalt"] = "mesh"
    matplotlib.rcParams["text.parse_math"] = False  # a dollar sign in a column's name is a dollar sign
    drawn: list[str] = []
    png = folder / "report.png"
    for measure, groups in sorted(series.items()):
        figure = Figure(figsize=(10, 3.6), layout="constrained")
        _draw(figure.add_subplot(), measure, groups)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
        drawn.append(buffer.getvalue()[buffer.getvalue().index("<svg") :])
    whole = Figure(figsize=(10, 3.6 * len(series)), layout="constrained")
    for i, (measure, groups) in enumerate(sorted(series.items()), 1):
        _draw(whole.add_subplot(len(series), 1, i), measure, groups)
    whole.savefig(png, dpi=110, metadata={"Software": None})
    return drawn, png


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        value = ", ".join(f"{key}: {count}" for key, count in value.items()) or "none"
    if isinstance(value, list):
        value = ", ".join(map(str, value))
    return html.escape("" if value is None else str(value))


@agent.capability(name="report.render", idempotent=True, timeout_s=300)
def render(summary: File, title: str, notes: dict[str, Any], columns: list[dict[str, Any]]) -> Rendered:
    """Render a summary table (period, group, measure, n, mean, low, high) as one HTML page and a PNG."""
    series = _series(summary)
    if not series:
        raise ValueError(f"{summary.name} has no rows to draw")
    folder = Path(tempfile.mkdtemp(prefix="mesh-report-"))
    drawn, png = _charts(series, folder)
    keys = ("name", "kind", "missing", "distinct", "low", "high", "mean", "outliers")
    page = PAGE.substitute(
        title=html.escape(title),
        lead=f"{len(drawn)} measures, shaded: 95 % bootstrap confidence intervals of the mean",
        charts="\n".join(f"<section>{svg}</section>" for svg in drawn),
        columns="".join("<tr>" + "".join(f"<td>{_cell(column.get(key))}</td>" for key in keys) + "</tr>" for column in columns),
        notes="".join(f"<tr><td>{html.escape(key)}</td><td><code>{_cell(value)}</code></td></tr>" for key, value in notes.items()),
    )
    path = folder / "report.html"
    path.write_text(page, encoding="utf-8")
    return Rendered(File.of(path), File.of(png), len(drawn))


if __name__ == "__main__":
    agent.run()
