"""Pipeline: an ordinary task whose handler calls the others, step by step.

Each finished step is in the journal of the task's manager under its name. If the node that runs this handler dies, the handler is run
again elsewhere, and gets the finished steps' results back without running them again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mesh import Agent, Context, File

agent = Agent("pipeline", tags=["flow"])


@dataclass
class Finished:
    report: File
    chart: File
    rows_read: int
    rows_kept: int
    rejected: dict[str, int]
    summary_rows: int
    source_sha256: str


@agent.capability(name="pipeline.run", idempotent=True)
async def run(ctx: Context, source: File, title: str = "", resamples: int = 1000) -> Finished:
    """collect -> quality -> transform -> report over one CSV file."""
    collected: dict[str, Any] = await ctx.step("collect", "data.collect", source=source)
    checked: dict[str, Any] = await ctx.step("quality", "data.quality", table=collected["table"])
    summary: dict[str, Any] = await ctx.step("transform", "data.transform", table=checked["good"], resamples=resamples)
    page: dict[str, Any] = await ctx.step(
        "report",
        "report.render",
        summary=summary["summary"],
        title=title or source.name,
        notes={
            "source": source.name,
            "source sha256": source.sha256,
            "rows read": collected["rows"],
            "rows kept": checked["rows"],
            "rows set aside": checked["rejected"],
            "grouped by": [name for name in (summary["period"], summary["group"]) if name],
            "bootstrap resamples": summary["resamples"],
        },
        columns=checked["columns"],
    )
    return Finished(page["html"], page["png"], collected["rows"], checked["rows"], checked["rejected"], summary["rows"], source.sha256)


if __name__ == "__main__":
    agent.run()
