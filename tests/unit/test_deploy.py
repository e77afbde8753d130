"""The files for containers are valid, and agree with the options that they set."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from django_workerguard.config.monitor_address import MonitorAddress
from django_workerguard.config.options import OPTIONS, GuardOptions
from django_workerguard.config.resolve import COMMAND_LINE, Layer, resolve
from tests.components import COMPONENTS

DEPLOY = Path(__file__).resolve().parents[2] / "docs" / "deploy"
MANIFESTS = list(yaml.safe_load_all((DEPLOY / "kubernetes.yml").read_text()))
COMPOSE = yaml.safe_load((DEPLOY / "compose.yml").read_text())
DOCKERFILE = (DEPLOY / "Dockerfile").read_text()
POD = MANIFESTS[0]["spec"]["template"]["spec"]
WEB = POD["containers"][0]
(SERVICE,) = [manifest for manifest in MANIFESTS if manifest["kind"] == "Service"]


@pytest.mark.parametrize("manifest", MANIFESTS, ids=lambda manifest: manifest["kind"])
@pytest.mark.parametrize("version", ["1.28", "1.34"])
def test_the_manifests_are_of_the_api(manifest, version):
    kubernetes_validate.validate(manifest, version, strict=True)


def test_the_schemas_would_see_a_mistake():
    broken = {**MANIFESTS[1], "spec": {"ports": [{"port": "http"}]}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, "1.34", strict=True)


def test_the_page_says_what_the_manifest_says():
    """Its table of the time-outs has each probe's numbers."""
    page = (DEPLOY.parent / "howto" / "kubernetes.md").read_text()
    for name in ("startupProbe", "readinessProbe", "livenessProbe"):
        probe = WEB[name]
        assert f"| `{name}` | {probe['periodSeconds']} s × {probe['failureThreshold']} |" in page
    assert f"| `terminationGracePeriodSeconds` | {POD['terminationGracePeriodSeconds']} s |" in page


def options_of_the_pod() -> GuardOptions:
    given = dict(zip(WEB["args"][::2], WEB["args"][1::2], strict=True))
    guard = {name[2:].replace("-", "_"): value for name, value in given.items()}
    guard |= {
        variable["name"].removeprefix("WORKERGUARD_").lower(): variable["value"]
        for variable in WEB["env"]
        if variable["name"].startswith("WORKERGUARD_") and "value" in variable
    }
    return resolve(
        [Layer(COMMAND_LINE, {name: value for name, value in guard.items() if name in OPTIONS})]
    ).options


def test_the_grace_is_longer_than_what_the_server_takes():
    options = options_of_the_pod()
    assert options.drain_delay == 5.0
    assert POD["terminationGracePeriodSeconds"] > options.drain_delay + options.worker_reload_mercy
    grace = int(re.fullmatch(r"(\d+)s", COMPOSE["services"]["web"]["stop_grace_period"])[1])
    assert grace > GuardOptions().drain_delay + GuardOptions().worker_reload_mercy


def test_a_first_start_may_last_until_the_server_gives_up_itself():
    options = options_of_the_pod()
    assert patience(WEB["startupProbe"]) > options.give_up_after + options.drain_delay > options.drain_delay


def test_a_busy_worker_does_not_take_the_pod_out():
    address = MonitorAddress.parse(options_of_the_pod().monitor_bind)
    (monitor,) = [port["containerPort"] for port in WEB["ports"] if port["name"] == "monitor"]
    assert address.port == monitor
    assert address.is_public
    assert any(variable["name"] == "WORKERGUARD_HEALTH_TOKEN" for variable in WEB["env"])
    for name in ("startupProbe", "readinessProbe"):
        assert WEB[name]["httpGet"]["port"] == "monitor"
    assert WEB["readinessProbe"]["failureThreshold"] >= 3
    assert all(port["targetPort"] == "http" for port in SERVICE["spec"]["ports"])


def test_a_prober_outside_has_seen_the_drain_before_it_ends():
    assert options_of_the_pod().drain_delay > WEB["readinessProbe"]["periodSeconds"]


def patience(probe: dict[str, int]) -> int:
    """Seconds until the kubelet acts, at the least."""
    return probe["periodSeconds"] * probe["failureThreshold"]


def test_the_probes_are_the_servers_own():
    assert WEB["startupProbe"]["httpGet"]["path"] == "/startup/"
    assert WEB["readinessProbe"]["httpGet"]["path"] == "/ready/"
    assert WEB["livenessProbe"]["exec"]["command"] == ["workerguard", "probe", "live"]
    assert COMPOSE["services"]["web"]["healthcheck"]["test"] == ["CMD", "workerguard", "probe", "ready"]
    assert 'CMD ["workerguard", "probe", "live"]' in DOCKERFILE


@pytest.mark.needs("hadolint")
def test_the_dockerfile_is_well_made():
    told = subprocess.run(
        [COMPONENTS["hadolint"].path(), DEPLOY / "Dockerfile"], capture_output=True, text=True
    )
    assert told.returncode == 0, told.stdout


def test_type_checkers_are_told_that_the_package_has_types():
    assert (DEPLOY.parents[1] / "django_workerguard" / "py.typed").exists()


def test_the_base_of_kustomize_and_its_overlay_name_what_is_there():
    base = yaml.safe_load((DEPLOY / "kustomization.yaml").read_text())
    assert [(DEPLOY / resource).exists() for resource in base["resources"]] == [True]
    page = (DEPLOY.parent / "howto" / "kubernetes.md").read_text()
    overlay = yaml.safe_load(
        page.partition("# overlays/production/kustomization.yaml\n")[2].partition("```")[0]
    )
    deployment = next(manifest for manifest in MANIFESTS if manifest["kind"] == "Deployment")
    assert overlay["replicas"][0]["name"] == deployment["metadata"]["name"]
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert container["image"].partition(":")[0] == overlay["images"][0]["name"]
