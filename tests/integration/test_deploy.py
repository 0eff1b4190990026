"""Image, compose file, units and reverse proxies, as far as they can be checked without engines."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml

from api.proxies import TrustedProxies
from enrichment.cli.units import PROCESSES, unit
from enrichment.config import Settings
from tests.helpers.memory_folder import memory_folder
from tests.helpers.running_stack import free_ports
from tests.helpers.server_process import serving
from tests.helpers.waiting import until

ROOT = Path(__file__).parents[2]
COMPOSE: Any = yaml.safe_load((ROOT / "compose.yaml").read_text())
OURS = ("upgrade", "worker", "api", "dashboard")


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions and their arguments, continued lines joined."""
    source = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    lines = [line for line in source.splitlines() if line and not line.startswith("#")]
    return [(line.split(None, 1)[0], line.split(None, 1)[1].strip()) for line in lines]


def test_the_image_is_built_in_stages_and_runs_as_no_root() -> None:
    steps = instructions()
    assert [name for name, _ in steps].count("FROM") == 2
    final = steps[[name for name, _ in steps].index("FROM", 1) :]
    assert ("USER", "10001") in final
    assert {"HEALTHCHECK", "ENTRYPOINT", "STOPSIGNAL"} <= {name for name, _ in final}


def test_what_the_image_copies_exists_and_is_in_its_context() -> None:
    allowed = set((ROOT / ".dockerignore").read_text().split())
    copied = [a.split()[:-1] for n, a in instructions() if n == "COPY" and "--from" not in a]
    for source in (source for sources in copied for source in sources):
        assert (ROOT / source).exists(), source
        assert f"!{Path(source).name}" in allowed, source


def test_the_services_of_the_compose_file_are_complete() -> None:
    services = COMPOSE["services"]
    assert {*OURS, "postgres", "prometheus", "grafana", "alertmanager"} == set(services)
    assert services["worker"]["deploy"]["replicas"] == 2
    for name in OURS:
        assert services[name]["image"] == services["api"]["image"]
        assert services[name]["read_only"] is True
    for service in services.values():
        for published in service.get("ports", []):
            assert published.startswith("127.0.0.1:"), "TLS is terminated in front of them"
        for mount in service.get("volumes", []):
            source = mount.split(":")[0]
            if source.startswith("."):
                assert (ROOT / source).is_file(), source
            else:
                assert source in COMPOSE["volumes"]
        for needed in service.get("depends_on", {}):
            assert needed in services


def test_the_compose_file_names_settings_only() -> None:
    settings = {name.upper() for name in Settings.model_fields} | {"LOG_FORMAT"}
    for name in OURS:
        assert set(COMPOSE["services"][name]["environment"]) <= settings


def test_prometheus_scrapes_the_api_and_tells_alertmanager() -> None:
    config: Any = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())
    assert config["scrape_configs"][0]["static_configs"][0]["targets"] == ["api:8000"]
    assert config["alerting"]["alertmanagers"][0]["static_configs"][0]["targets"]
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed")
    file = ROOT / "deploy/prometheus/prometheus.yml"
    subprocess.run([promtool, "check", "config", "--syntax-only", file], check=True)


def test_the_kubernetes_example_is_complete() -> None:
    source = (ROOT / "deploy/kubernetes/enrichment.yaml").read_text()
    settings = {name.upper() for name in Settings.model_fields}
    objects: list[Any] = list(yaml.safe_load_all(source))
    run = [o for o in objects if o["kind"] in ("Deployment", "Job")]
    labels = {o["spec"]["template"]["metadata"]["labels"]["part"] for o in run}
    assert labels == set(OURS)
    for one in run:
        pod = one["spec"]["template"]["spec"]
        (container,) = pod["containers"]
        assert pod["securityContext"]["runAsNonRoot"]
        assert ("USER", str(pod["securityContext"]["runAsUser"])) in instructions()
        assert container["securityContext"]["readOnlyRootFilesystem"]
        mounted = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        assert set(mounted) == {volume["name"] for volume in pod["volumes"]}
        assert mounted["home"] in dict(instructions())["WORKDIR"]
        assert {variable["name"] for variable in container.get("env", ())} <= settings
    for service in (o for o in objects if o["kind"] == "Service"):
        chosen = service["spec"]["selector"]["part"]
        (target,) = (o for o in run if o["metadata"]["name"] == f"enrichment-{chosen}")
        (container,) = target["spec"]["template"]["spec"]["containers"]
        assert service["spec"]["ports"][0]["targetPort"] == container["ports"][0]["name"]
    named = set(re.findall(r"--from-literal=([A-Z_]+)=", source))
    assert named <= settings


@pytest.mark.parametrize("process", PROCESSES)
def test_systemd_takes_the_units(process: str, tmp_path: Path) -> None:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("systemd-analyze is not installed")
    file = tmp_path / f"market-enrichment-{process}{'@' * (process == 'worker')}.service"
    file.write_text(unit(process))
    done = subprocess.run([program, "verify", file], capture_output=True, text=True, check=False)
    concerning = [line for line in done.stderr.splitlines() if "market-enrichment" in line]
    assert concerning == []


def example(language: str) -> str:
    """The example of a proxy's configuration in the documentation."""
    source = (ROOT / "docs/operations.md").read_text()
    found = re.search(rf"```{language}\n(.*?)```", source, re.DOTALL)
    assert found is not None
    return found[1]


@contextmanager
def nginx(api: int, folder: Path) -> Iterator[str]:
    program = shutil.which("nginx", path="/usr/sbin:/usr/bin")
    if program is None:
        pytest.skip("nginx is not installed")
    port = free_ports()["api"]
    _certificate(folder)
    server = (
        example("nginx").replace("443", str(port)).replace("127.0.0.1:8000", f"127.0.0.1:{api}")
    )
    server = re.sub(r"/etc/ssl/enrichment\.", f"{folder}/tls.", server)
    temporary = "".join(
        f"{name}_temp_path {folder}/{name};"
        for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "nginx.conf").write_text(
        f"daemon off; pid {folder}/pid; error_log stderr; events {{}}"
        f" http {{ access_log off; {temporary}\n{server}\n}}"
    )
    with subprocess.Popen([program, "-e", "stderr", "-c", folder / "nginx.conf"]) as process:
        try:
            yield f"https://localhost:{port}"
        finally:
            process.terminate()


@contextmanager
def caddy(api: int, folder: Path) -> Iterator[str]:
    program = shutil.which("caddy")
    if program is None:
        pytest.skip("caddy is not installed")
    port = free_ports()["api"]
    _certificate(folder)
    site = example("caddy").replace("127.0.0.1:8000", f"127.0.0.1:{api}")
    site = site.replace(
        "enrichment.example.com {",
        f"https://localhost:{port} {{\ntls {folder}/tls.crt {folder}/tls.key",
    )
    (folder / "Caddyfile").write_text("{\nadmin off\nauto_https disable_redirects\n}\n" + site)
    environment = {"HOME": str(folder), "PATH": "/usr/bin"}
    command = [program, "run", "--config", folder / "Caddyfile", "--adapter", "caddyfile"]
    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as process:
        try:
            yield f"https://localhost:{port}"
        finally:
            process.terminate()


def _certificate(folder: Path) -> None:
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    files = ["-keyout", f"{folder}/tls.key", "-out", f"{folder}/tls.crt"]
    key = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    subprocess.run(["openssl", *key, *subject, *files], check=True, capture_output=True)


@pytest.mark.parametrize("proxy", [nginx, caddy])
def test_links_behind_a_proxy_carry_its_prefix(proxy: Any, db_url: str, tmp_path: Path) -> None:
    with (
        memory_folder() as folder,
        serving(db_url, tmp_path, TRUSTED_PROXIES="127.0.0.1") as api,
        proxy(api.port, folder) as url,
    ):

        def answer(method: str, path: str, **values: Any) -> requests.Response | None:
            try:
                return requests.request(
                    method, f"{url}{path}", verify=f"{folder}/tls.crt", timeout=5, **values
                )
            except requests.ConnectionError:
                return None

        until(lambda: answer("GET", "/warehouse/livez"), "the proxy answers")
        for symbol in ("AAPL", "MSFT"):
            made = answer(
                "POST",
                "/warehouse/api/v1/enrichment/symbols",
                headers={"X-Forwarded-For": "6.6.6.6"},
                json={"symbol": symbol, "asset_class": "stock", "timeframes": ["1d"]},
            )
            assert made is not None
            assert made.status_code == 201, made.text
            assert made.headers["Location"].endswith(
                f"/warehouse/api/v1/enrichment/symbols/{symbol}"
            )
        page = answer("GET", "/warehouse/api/v1/enrichment/symbols?limit=1")
        assert page is not None
        assert page.headers["Link"].startswith("</warehouse/api/v1/enrichment/symbols?")
        audit = answer("GET", "/warehouse/api/v1/enrichment/audit")
        assert audit is not None
        assert "api:127.0.0.1" in audit.text
        assert "6.6.6.6" not in audit.text, "what clients forward is not believed"


def test_only_trusted_proxies_say_who_asks() -> None:
    seen: list[tuple[str, str]] = []

    def app(environ: Any, start: Any) -> list[bytes]:
        seen.append((environ["REMOTE_ADDR"], environ.get("SCRIPT_NAME", "")))
        return []

    proxied = TrustedProxies(app, ("10.0.0.0/8", "::1"))
    headers = {"HTTP_X_FORWARDED_FOR": "6.6.6.6, 7.7.7.7", "HTTP_X_FORWARDED_PREFIX": "/w"}
    for address in ("10.1.2.3", "::1", "11.0.0.1", ""):
        proxied.answer({"REMOTE_ADDR": address, **headers}, lambda *_: None)  # type: ignore[arg-type]
    assert seen == [("7.7.7.7", "/w"), ("7.7.7.7", "/w"), ("11.0.0.1", ""), ("", "")]
