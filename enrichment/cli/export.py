"""`enrichment export …`: templates for monitoring systems that scrape `/metrics`."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Annotated

import typer

from enrichment.cli.context import out
from enrichment.domain.errors import ConfigurationError

app = typer.Typer(no_args_is_help=True, help="Templates for Grafana and Prometheus.")

GRAFANA = "grafana-dashboard.json"
PROMETHEUS_RULES = "prometheus-rules.yml"

Output = Annotated[Path | None, typer.Option(help="File to write; none: standard output.")]


@app.command("grafana")
def grafana(output: Output = None) -> None:
    """Write a Grafana dashboard: import it and select the Prometheus data source."""
    _write(template(GRAFANA), output)


@app.command("prometheus-rules")
def prometheus_rules(output: Output = None) -> None:
    """Write alerting rules: list the file under 'rule_files' in prometheus.yml."""
    _write(template(PROMETHEUS_RULES), output)


def template(name: str) -> str:
    """A packaged template, GRAFANA or PROMETHEUS_RULES."""
    return (resources.files("enrichment.cli") / "templates" / name).read_text(encoding="utf-8")


def _write(content: str, output: Path | None) -> None:
    if output is None:
        typer.echo(content, nl=False)
        return
    try:
        output.write_text(content, encoding="utf-8")
    except OSError as exc:
        raise ConfigurationError(
            f"{output} can't be written ({exc.strerror}): choose another --output"
        ) from None
    out.print(f"written to {output}", highlight=False)
