"""`enrichment units`: systemd units of the processes, with this installation's program."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from enrichment.cli.context import out
from enrichment.domain.errors import ConfigurationError

ENVIRONMENT_FILE = "/etc/market-enrichment.env"
PROCESSES = ("worker", "api", "dashboard")


def register(app: typer.Typer) -> None:
    app.command("units")(units)


def units(
    folder: Annotated[Path, typer.Argument(help="Folder to write to, /etc/systemd/system.")],
) -> None:
    """Write systemd units of worker, API and dashboard; settings are in /etc/market-enrichment.env.

    Any number of workers: 'systemctl enable --now market-enrichment-worker@1 …@2'.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for process in PROCESSES:
            file = folder / f"market-enrichment-{process}{'@' * (process == 'worker')}.service"
            file.write_text(unit(process), encoding="utf-8")
            out.print(f"written to {file}", highlight=False)
    except OSError as exc:
        raise ConfigurationError(
            f"{folder} can't be written ({exc.strerror}): choose another folder, or become root"
        ) from None
    out.print(
        f"put DATABASE_URL and the other settings into {ENVIRONMENT_FILE} (mode 0600), "
        "run 'enrichment db upgrade' with them, then 'systemctl daemon-reload'",
        highlight=False,
    )


def unit(process: str) -> str:
    """The unit of one of PROCESSES."""
    return _UNIT.format(
        process=process, python=_quoted(sys.executable), environment=ENVIRONMENT_FILE
    )


def _quoted(path: str) -> str:
    """The path as ExecStart reads it."""
    escaped = path.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{escaped}"'


_UNIT = """\
[Unit]
Description=market-enrichment: {process}
Wants=network-online.target
After=network-online.target postgresql.service
StartLimitIntervalSec=0

[Service]
Type=exec
ExecStart={python} -m enrichment {process}
EnvironmentFile={environment}
Environment=ENRICHMENT_HOME=%S/market-enrichment
Environment=PYTHONUNBUFFERED=1
Restart=always
RestartSec=5
TimeoutStopSec=30
DynamicUser=yes
User=market-enrichment
StateDirectory=market-enrichment
StateDirectoryMode=0700
WorkingDirectory=%S/market-enrichment
UMask=0077
CapabilityBoundingSet=
NoNewPrivileges=yes
LockPersonality=yes
PrivateDevices=yes
PrivateTmp=yes
ProtectClock=yes
ProtectControlGroups=yes
ProtectHome=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectSystem=strict
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service

[Install]
WantedBy=multi-user.target
"""
