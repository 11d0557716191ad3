"""The files of packaging/openkruise/ fit the APIs that read them, each other, and what the SDK asks for.

``data/kubernetes-fields.json`` describes the fields of each kind of object: of SandboxSet in openkruise/agents (August
2026), of cert-manager 1.x, of Kubernetes, and of the values of OpenKruise's chart, as far as the files use them.
``data/sandbox-manager-deployment.json`` has what the patch of the manager relies on.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import e2b
import e2b_code_interpreter
import pytest

from support.kubernetes import read_yaml, wrong_fields

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "packaging" / "openkruise"
FILES = sorted(FOLDER.iterdir())
DATA = Path(__file__).parent / "data"
FIELDS = json.loads((DATA / "kubernetes-fields.json").read_text())
DEPLOYMENT = DATA / "sandbox-manager-deployment.json"
OBJECTS = [(path.name, found) for path in FILES for found in read_yaml(path) if isinstance(found, dict)]


def objects(kind: str) -> list[dict[str, Any]]:
    return [found for _, found in OBJECTS if found.get("kind") == kind]


@pytest.mark.parametrize(("file", "found"), OBJECTS)
def test_an_object_has_only_fields_that_its_api_knows(file: str, found: dict[str, Any]) -> None:
    kind = found.get("kind", "HelmValues")
    assert wrong_fields(found, FIELDS[kind], file) == []
    if kind == "SandboxSet":
        assert wrong_fields(found["spec"]["template"], FIELDS["PodTemplate"], file) == []


def test_wrong_fields_are_found() -> None:
    (ingress,) = objects("Ingress")
    wrong = {**ingress, "spec": {"ingressClassname": "nginx", "tls": [{"hosts": "a"}], "rules": [{"http": {}}]}}
    assert wrong_fields(wrong, FIELDS["Ingress"]) == [
        ".spec.ingressClassname: unknown",
        ".spec.tls[0].hosts: no list",
        ".spec.rules[0].http.paths: missing",
    ]


def test_the_sandbox_sets_have_the_names_that_the_sdk_asks_for() -> None:
    names = {found["metadata"]["name"] for found in objects("SandboxSet")}
    assert names == {e2b.Sandbox.default_template, e2b_code_interpreter.Sandbox.default_template}


def test_the_ingress_leads_to_envoy_and_names_the_secret_that_both_certificates_make() -> None:
    (ingress,) = objects("Ingress")
    ports = {
        (path["backend"]["service"]["name"], path["backend"]["service"]["port"]["number"])
        for rule in ingress["spec"]["rules"]
        for path in rule["http"]["paths"]
    }
    assert ports == {("sandbox-manager", 7788)}
    (tls,) = ingress["spec"]["tls"]
    assert sorted(tls["hosts"]) == sorted(rule["host"] for rule in ingress["spec"]["rules"])
    leaves = [found["spec"] for found in objects("Certificate") if not found["spec"].get("isCA")]
    assert [leaf["secretName"] for leaf in leaves] == [tls["secretName"]] * 2
    values = next(found for file, found in OBJECTS if file == "helm-values.yaml")
    assert values["ingress"]["certSecretName"] == tls["secretName"]
    annotations = ingress["metadata"]["annotations"]
    assert values["ingress"]["annotations"] == annotations
    assert annotations["nginx.ingress.kubernetes.io/proxy-body-size"] == "0"


def test_every_issuer_is_there_and_signs_from_a_secret_that_is_made() -> None:
    for file in ("certificate-private.yaml", "certificate-public.yaml"):
        here = [found for name, found in OBJECTS if name == file]
        issuers = {found["metadata"]["name"] for found in here if found["kind"] == "Issuer"}
        certificates = [found["spec"] for found in here if found["kind"] == "Certificate"]
        assert {certificate["issuerRef"]["name"] for certificate in certificates} == issuers
        made = {certificate["secretName"] for certificate in certificates}
        used = {found["spec"]["ca"]["secretName"] for found in here if "ca" in found["spec"]}
        assert used <= made


def test_everything_but_the_sandbox_sets_is_in_the_namespace_of_the_manager() -> None:
    spaces = {found["kind"]: found["metadata"]["namespace"] for _, found in OBJECTS if "kind" in found}
    assert spaces.pop("SandboxSet") == "default"
    assert set(spaces.values()) == {"sandbox-system"}


def test_the_patch_gives_the_manager_the_key_of_the_secret() -> None:
    deployment = json.loads(DEPLOYMENT.read_text())
    (patch,) = read_yaml(FOLDER / "manager-patch.yaml")
    for operation in patch:
        assert operation["op"] == "add"
        *parts, last = operation["path"].removeprefix("/").split("/")
        target: Any = deployment
        for part in parts:
            target = target[int(part) if isinstance(target, list) else part]
        assert last == "-"
        target.append(operation["value"])
    check_patched(deployment)


@pytest.mark.live
@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
def test_kubectl_applies_the_patch() -> None:
    command = ["kubectl", "patch", "--local", "-f", str(DEPLOYMENT), "--type=json", "-o", "json"]
    command += ["--patch-file", str(FOLDER / "manager-patch.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    check_patched(json.loads(done.stdout))


def check_patched(deployment: Any) -> None:
    controller = deployment["spec"]["template"]["spec"]["containers"][0]
    assert controller["name"] == "controller"
    secret = {"secretKeyRef": {"name": "sandbox-manager-admin-key", "key": "key"}}
    assert controller["env"][-1] == {"name": "E2B_ADMIN_KEY", "valueFrom": secret}
    keys = [option for option in controller["args"] if option.startswith("--e2b-admin-key=")]
    assert keys[-1] == "--e2b-admin-key=$(E2B_ADMIN_KEY)"
    assert not [option for option in controller["args"] if option.startswith("--e2b-domain")]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_file_says_how_to_apply_it_and_the_guide_names_it(path: Path) -> None:
    name = f"packaging/openkruise/{path.name}"
    assert name in path.read_text().partition("\napiVersion")[0]
    assert name in (ROOT / "docs" / "guides" / "cluster.md").read_text()
    assert max(map(len, path.read_text().splitlines())) <= 120
