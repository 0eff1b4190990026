"""Commands about damaged series: what `doctor --data` finds, and `repair`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from enrichment.cli.context import DryRun, Json, Reason, Wait, actor, err, out, services
from enrichment.domain.errors import InvalidRequest

if TYPE_CHECKING:
    from enrichment.domain.damage import Finding
    from enrichment.services.repairs import RepairPlan

MAX_SHOWN = 50


def print_damage(as_json: bool) -> None:
    """Print what is damaged; exits with 1 if something is."""
    from enrichment.cli import render

    with services() as (_, commands):
        plan = commands.plan_repair()
    if as_json:
        render.print_json(out, plan_as_json(plan))
    else:
        _print_findings(plan)
    if plan.findings:
        raise typer.Exit(1)


def repair(
    symbol: Annotated[list[str] | None, typer.Argument(help="Damaged symbols.")] = None,
    every: Annotated[bool, typer.Option("--all", help="All active symbols.")] = False,
    kind: Annotated[
        list[str] | None, typer.Option(help="Only this kind of damage; may be repeated.")
    ] = None,
    dry_run: DryRun = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    wait: Wait = False,
    reason: Reason = None,
    as_json: Json = False,
) -> None:
    """Fetch again what 'doctor --data' finds damaged, and replace it.

    Replaced bars are kept as versions. An interrupted repair continues where it stopped.
    """
    from enrichment.cli import render

    if bool(symbol) == every:
        raise InvalidRequest("name the symbols to repair, or give --all")
    if yes and not dry_run and not (reason or "").strip():
        raise InvalidRequest("give --reason: why the stored bars are to be replaced")
    with services() as (reader, commands):
        plan = commands.plan_repair(symbol, kind or ())
        if not as_json:
            _print_plan(plan)
        if dry_run or not plan.series:
            if as_json:
                render.print_json(out, plan_as_json(plan))
            return
        reason = _confirmed(yes, reason)
        result = commands.repair(symbol, kind or (), actor=actor(), reason=reason)
        if as_json:
            content = {"job_id": result.job_id, "symbols_to_process": result.symbols_to_process}
            render.print_json(out, {**content, **plan_as_json(result.plan)})
        else:
            out.print(
                f"job {result.job_id}: {result.symbols_to_process} symbols queued", highlight=False
            )
        if not wait:
            return
        progress = render.follow_job(err, lambda: reader.progress(result.job_id))
        failed = reader.failed_items(result.job_id)
        remaining = reader.damage.find(list(plan.symbols))
    render.print_failures(out, result.job_id, failed)
    if progress is not None and not as_json:
        out.print(
            f"{progress.inserted:,} bars inserted, {progress.updated:,} replaced or removed",
            highlight=False,
        )
    _print_remaining(remaining)
    if failed:
        raise typer.Exit(1)


def register(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    app.command()(repair)


def plan_as_json(plan: RepairPlan) -> dict[str, Any]:
    """The findings with their remedies, the series with their requests, and the sums."""
    return {
        "findings": plan.entries,
        "series": plan.series,
        "requests": plan.requests,
        "minutes": plan.minutes,
    }


def _confirmed(yes: bool, reason: str | None) -> str:
    """The reason of the repair. Asks for what was not given; typer.Abort if it is refused."""
    if not yes:
        typer.confirm("Replace these bars?", abort=True, err=True)
    return reason or str(typer.prompt("Reason, for the audit log", err=True))


def _print_findings(plan: RepairPlan) -> None:
    from enrichment.services.request_plan import minutes_text, requests_text

    if not plan.findings:
        out.print(Text.assemble(("✓", "green"), " no damaged series found"))
        return
    for finding in plan.findings[:MAX_SHOWN]:
        _print_finding(finding)
    if len(plan.findings) > MAX_SHOWN:
        out.print(f"… and {len(plan.findings) - MAX_SHOWN:,} more: --json lists all")
    series = {(finding.symbol, finding.timeframe) for finding in plan.findings}
    out.print(
        f"{len(series):,} damaged series: 'enrichment repair --all' would take "
        f"{requests_text(plan.requests)}, {minutes_text(plan.minutes)}",
        highlight=False,
    )


def _print_finding(finding: Finding) -> None:
    out.print("✗ ", style="red", end="")
    text = (
        f"{finding.symbol} {finding.timeframe} {finding.kind}: {finding.count:,} from "
        f"{finding.first:%Y-%m-%d} to {finding.last:%Y-%m-%d}\n    {finding.example}\n"
        f"    repair: {finding.kind.remedy}"
    )
    if finding.unserved_before is not None:
        text += (
            f"\n    the last repair was served nothing before {finding.unserved_before:%Y-%m-%d}"
        )
    out.print(text, markup=False, highlight=False)


def _print_plan(plan: RepairPlan) -> None:
    from enrichment.services.request_plan import minutes_text, requests_text

    if not plan.series:
        out.print("nothing to repair")
        return
    for planned in plan.series[:MAX_SHOWN]:
        text = (
            f"{planned.symbol} {planned.timeframe}: {', '.join(planned.kinds)}; fetch "
            f"{planned.start:%Y-%m-%d} to {planned.end:%Y-%m-%d} from {planned.vendor}, "
            f"{planned.requests} requests"
        )
        out.print(text + ("; start it anew" if planned.restart else ""), highlight=False)
    if len(plan.series) > MAX_SHOWN:
        out.print(f"… and {len(plan.series) - MAX_SHOWN:,} more series")
    out.print(
        f"in total {requests_text(plan.requests)}, {minutes_text(plan.minutes)}", highlight=False
    )


def _print_remaining(findings: list[Finding]) -> None:
    """What a repair could not do."""
    for finding in findings[:MAX_SHOWN]:
        _print_finding(finding)
    if any(finding.unserved_before for finding in findings):
        out.print("what vendors do not serve any more stays as it was stored")
