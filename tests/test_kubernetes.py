"""The manifest is valid for Kubernetes, works with kubelet's probes, and fits the programs and the image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from config import read_settings
from sidecar.access import Rules, refuse

ROOT = Path(__file__).resolve().parent.parent
DEPLOYMENT, CLAIM = yaml.safe_load_all((ROOT / "deploy/kubernetes.yaml").read_text())
POD: dict[str, Any] = DEPLOYMENT["spec"]["template"]["spec"]
AGENT, HEALTH = POD["containers"]


def plain(container: dict[str, Any]) -> dict[str, str]:
    return {one["name"]: one["value"] for one in container["env"] if "value" in one}


def secret(container: dict[str, Any]) -> dict[str, str]:
    return {one["name"]: one["valueFrom"]["secretKeyRef"]["key"] for one in container["env"] if "valueFrom" in one}


@pytest.mark.parametrize("version", ["1.31.0", kubernetes_validate.latest_version()])
def test_every_object_is_valid_to_the_letter(version: str) -> None:
    for each in (DEPLOYMENT, CLAIM):
        kubernetes_validate.validate(each, version, strict=True)


def test_a_misspelt_field_would_be_found() -> None:
    wrong = {**CLAIM, "spec": {**CLAIM["spec"], "accessMode": []}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, kubernetes_validate.latest_version(), strict=True)


def test_one_pod_runs_the_agent_in_a_terminal_and_the_sidecar_beside_it() -> None:
    assert DEPLOYMENT["spec"]["replicas"] == 1
    assert DEPLOYMENT["spec"]["strategy"] == {"type": "Recreate"}
    assert (AGENT["stdin"], AGENT["tty"]) == (True, True)
    for container in (AGENT, HEALTH):
        interpreter, program = container["command"]
        assert interpreter == "python"
        assert (ROOT / program).is_file()
    assert AGENT["image"] == HEALTH["image"]


def test_the_labels_fit() -> None:
    wanted = DEPLOYMENT["spec"]["selector"]["matchLabels"].items()
    assert wanted <= DEPLOYMENT["spec"]["template"]["metadata"]["labels"].items()


def test_liveness_restarts_the_agent_but_asks_the_sidecar() -> None:
    port = HEALTH["ports"][0]["containerPort"]
    assert AGENT["livenessProbe"] == {
        "httpGet": {"path": "/health/live", "port": port},
        "initialDelaySeconds": 10,
        "periodSeconds": 30,
        "timeoutSeconds": 5,
        "failureThreshold": 3,
    }
    assert "livenessProbe" not in HEALTH


def test_readiness_asks_the_sidecar() -> None:
    assert AGENT["readinessProbe"] == {
        "httpGet": {"path": "/health/ready", "port": HEALTH["ports"][0]["containerPort"]},
        "initialDelaySeconds": 5,
        "periodSeconds": 10,
        "timeoutSeconds": 5,
        "failureThreshold": 2,
    }


def test_the_sidecar_lets_the_probes_in_and_asks_everybody_else_for_the_token() -> None:
    settings = read_settings({**plain(HEALTH), "HEALTH_TOKEN": "from-the-secret"})
    assert settings.health_host == "0.0.0.0"
    assert settings.health_port == HEALTH["ports"][0]["containerPort"]
    rules = Rules(frozenset(settings.health_allowed_hosts), beyond_loopback=True, token=settings.health_token)
    probe = [(b"host", b"10.244.0.7:8080"), (b"user-agent", b"kube-probe/1.33"), (b"connection", b"close")]
    for container_probe in (AGENT["livenessProbe"], AGENT["readinessProbe"]):
        assert refuse("GET", container_probe["httpGet"]["path"], probe, rules) is None
    refused = refuse("GET", "/metrics", probe, rules)
    assert refused is not None
    assert refused.status == 401


def test_both_see_the_same_notes_and_state_on_a_volume() -> None:
    for name in ("NOTES_DIR", "STATE_DIR"):
        assert plain(AGENT)[name] == plain(HEALTH)[name]
        assert any(Path(one["mountPath"]) in Path(plain(AGENT)[name]).parents for one in AGENT["volumeMounts"])
    assert AGENT["volumeMounts"] == HEALTH["volumeMounts"]
    mounted = {one["name"] for one in AGENT["volumeMounts"]}
    assert mounted == {one["name"] for one in POD["volumes"]}
    claims = [one["persistentVolumeClaim"]["claimName"] for one in POD["volumes"] if "persistentVolumeClaim" in one]
    assert claims == [CLAIM["metadata"]["name"]]


def test_secrets_come_from_the_secret_and_from_nowhere_else() -> None:
    both = {"ANTHROPIC_API_KEY": "anthropic-api-key", "GEMINI_API_KEY": "gemini-api-key"}
    assert secret(AGENT) == both
    assert secret(HEALTH) == {**both, "HEALTH_TOKEN": "health-token"}
    assert not {"ANTHROPIC_API_KEY", "GEMINI_API_KEY", "HEALTH_TOKEN"} & {*plain(AGENT), *plain(HEALTH)}


def test_nothing_runs_as_root_or_can_write_outside_its_volumes() -> None:
    assert POD["securityContext"]["runAsNonRoot"] is True
    assert POD["securityContext"]["runAsUser"] == POD["securityContext"]["fsGroup"] > 0
    assert POD["automountServiceAccountToken"] is False
    for container in (AGENT, HEALTH):
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert {"requests", "limits"} <= container["resources"].keys()


def test_every_plain_variable_is_a_setting_or_one_of_python_and_the_terminal() -> None:
    known = (ROOT / ".env.example").read_text()
    for name in {**plain(AGENT), **plain(HEALTH)}:
        assert name in known or name in ("HOME", "TERM", "PYTHONDONTWRITEBYTECODE")


def test_a_question_that_runs_is_given_time_to_close_when_the_pod_ends() -> None:
    assert POD["terminationGracePeriodSeconds"] >= 30


def test_the_image_runs_as_the_user_of_the_manifest_and_holds_no_settings_of_a_developer() -> None:
    dockerfile = (ROOT / "deploy/Dockerfile").read_text()
    user = POD["securityContext"]["runAsUser"]
    assert f"USER {user}:{POD['securityContext']['runAsGroup']}" in dockerfile
    assert f"-o {user} " in dockerfile
    assert ".*" in (ROOT / "deploy/Dockerfile.dockerignore").read_text().splitlines()  # .env, .git, .venv
