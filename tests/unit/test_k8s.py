"""The kustomize bases render, are valid, and their pods keep every rule of the restricted pod security standard.

The rules: https://kubernetes.io/docs/concepts/security/pod-security-standards/#restricted
"""

from __future__ import annotations

import copy
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from eventbus.environment import KNOWN
from eventbus.events import naming
from eventbus.transports import mirror_queue

ROOT = Path(__file__).parents[2]
K8S = ROOT / "k8s"
VERSIONS = ("1.30.0", kubernetes_validate.latest_version())
Spec = dict[str, Any]


def kustomize(directory: Path) -> list[Spec]:
    """The objects that `kubectl kustomize` renders."""
    done = subprocess.run(
        [Path(sys.executable).with_name("kubectl"), "kustomize", directory],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "deprecated" not in done.stderr
    return list(yaml.safe_load_all(done.stdout))


@pytest.fixture(scope="module")
def objects() -> list[Spec]:
    return kustomize(K8S / "base")


def one(objects: list[Spec], kind: str) -> Spec:
    (found,) = (each for each in objects if each["kind"] == kind)
    return found


@pytest.fixture(scope="module")
def stateful_set(objects: list[Spec]) -> Spec:
    return one(objects, "StatefulSet")


@pytest.fixture(scope="module")
def pod(stateful_set: Spec) -> Spec:
    spec: Spec = stateful_set["spec"]["template"]["spec"]
    return spec


@pytest.fixture(scope="module", params=["base", "relay"])
def all_objects(request: pytest.FixtureRequest) -> list[Spec]:
    """Those of the mirror, then those of the relay."""
    return kustomize(K8S / request.param)


@pytest.fixture(scope="module")
def workload(all_objects: list[Spec]) -> Spec:
    (found,) = (each for each in all_objects if each["kind"] in ("StatefulSet", "Deployment"))
    return found


@pytest.fixture(scope="module")
def any_pod(workload: Spec) -> Spec:
    spec: Spec = workload["spec"]["template"]["spec"]
    return spec


# -- the restricted profile: each rule yields what breaks it -------------------------------------------------

ALLOWED_VOLUMES = {
    "configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret",
}  # fmt: skip
SAFE_SYSCTLS = {
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
}


def containers(pod: Spec) -> Iterator[Spec]:
    for group in ("initContainers", "containers", "ephemeralContainers"):
        yield from pod.get(group, [])


def contexts(pod: Spec) -> Iterator[Spec]:
    """The pod's security context and those of its containers."""
    yield pod.get("securityContext", {})
    for container in containers(pod):
        yield container.get("securityContext", {})


def effective(pod: Spec, container: Spec, key: str) -> Any:
    """What holds for the container: its own setting, else the pod's."""
    own = container.get("securityContext", {})
    return own[key] if key in own else pod.get("securityContext", {}).get(key)


def host_namespaces(pod: Spec) -> Iterator[str]:
    yield from (key for key in ("hostNetwork", "hostPID", "hostIPC") if pod.get(key))


def host_process(pod: Spec) -> Iterator[str]:
    yield from ("hostProcess" for context in contexts(pod) if context.get("windowsOptions", {}).get("hostProcess"))


def privileged_containers(pod: Spec) -> Iterator[str]:
    yield from ("privileged" for context in contexts(pod) if context.get("privileged"))


def capabilities(pod: Spec) -> Iterator[str]:
    for container in containers(pod):
        capability = container.get("securityContext", {}).get("capabilities", {})
        if "ALL" not in capability.get("drop", []):
            yield f"{container['name']} does not drop ALL"
        yield from set(capability.get("add", [])) - {"NET_BIND_SERVICE"}


def volume_types(pod: Spec) -> Iterator[str]:
    for volume in pod.get("volumes", []):
        yield from set(volume) - {"name"} - ALLOWED_VOLUMES


def host_ports(pod: Spec) -> Iterator[str]:
    for container in containers(pod):
        yield from (str(port) for port in container.get("ports", []) if port.get("hostPort"))


def probe_hosts(pod: Spec) -> Iterator[str]:
    for container in containers(pod):
        for probe in ("livenessProbe", "readinessProbe", "startupProbe"):
            actions = container.get(probe, {})
            yield from (probe for sort in ("httpGet", "tcpSocket") if actions.get(sort, {}).get("host"))


def app_armor(pod: Spec) -> Iterator[str]:
    for context in contexts(pod):
        if context.get("appArmorProfile", {}).get("type", "RuntimeDefault") == "Unconfined":
            yield "appArmorProfile"


def se_linux(pod: Spec) -> Iterator[str]:
    for context in contexts(pod):
        yield from {"user", "role"} & set(context.get("seLinuxOptions", {}))


def proc_mount(pod: Spec) -> Iterator[str]:
    yield from ("procMount" for context in contexts(pod) if context.get("procMount", "Default") != "Default")


def seccomp(pod: Spec) -> Iterator[str]:
    for container in containers(pod):
        if (effective(pod, container, "seccompProfile") or {}).get("type") not in ("RuntimeDefault", "Localhost"):
            yield container["name"]


def sysctls(pod: Spec) -> Iterator[str]:
    yield from {each["name"] for each in pod.get("securityContext", {}).get("sysctls", [])} - SAFE_SYSCTLS


def privilege_escalation(pod: Spec) -> Iterator[str]:
    for container in containers(pod):
        if container.get("securityContext", {}).get("allowPrivilegeEscalation") is not False:
            yield container["name"]


def non_root(pod: Spec) -> Iterator[str]:
    yield from (each["name"] for each in containers(pod) if effective(pod, each, "runAsNonRoot") is not True)


def non_root_user(pod: Spec) -> Iterator[str]:
    yield from ("runAsUser 0" for context in contexts(pod) if context.get("runAsUser") == 0)


RESTRICTED: tuple[Callable[[Spec], Iterator[str]], ...] = (
    host_namespaces, host_process, privileged_containers, capabilities, volume_types, host_ports, probe_hosts,
    app_armor, se_linux, proc_mount, seccomp, sysctls, privilege_escalation, non_root, non_root_user,
)  # fmt: skip


def break_rule(pod: Spec, rule: Callable[[Spec], Iterator[str]]) -> Spec:
    """A copy of the pod that breaks this rule."""
    broken = copy.deepcopy(pod)
    container = broken["containers"][0]
    context = container["securityContext"]
    changes: dict[Callable[[Spec], Iterator[str]], Callable[[], object]] = {
        host_namespaces: lambda: broken.update(hostPID=True),
        host_process: lambda: context.update(windowsOptions={"hostProcess": True}),
        privileged_containers: lambda: context.update(privileged=True),
        capabilities: lambda: context.update(capabilities={"drop": ["ALL"], "add": ["SYS_ADMIN"]}),
        volume_types: lambda: broken["volumes"].append({"name": "host", "hostPath": {"path": "/"}}),
        host_ports: lambda: container.update(ports=[{"containerPort": 80, "hostPort": 80}]),
        probe_hosts: lambda: container.update(livenessProbe={"httpGet": {"host": "127.0.0.1", "port": 1}}),
        app_armor: lambda: context.update(appArmorProfile={"type": "Unconfined"}),
        se_linux: lambda: context.update(seLinuxOptions={"user": "root"}),
        proc_mount: lambda: context.update(procMount="Unmasked"),
        seccomp: lambda: context.update(seccompProfile={"type": "Unconfined"}),
        sysctls: lambda: broken["securityContext"].update(sysctls=[{"name": "kernel.msgmax", "value": "1"}]),
        privilege_escalation: lambda: context.pop("allowPrivilegeEscalation"),
        non_root: lambda: context.update(runAsNonRoot=False),
        non_root_user: lambda: context.update(runAsUser=0),
    }
    changes[rule]()
    return broken


@pytest.mark.parametrize("rule", RESTRICTED, ids=lambda rule: rule.__name__)
def test_the_pod_keeps_the_restricted_profile(any_pod: Spec, rule: Callable[[Spec], Iterator[str]]) -> None:
    assert list(rule(any_pod)) == []


@pytest.mark.parametrize("rule", RESTRICTED, ids=lambda rule: rule.__name__)
def test_each_rule_notices_a_pod_that_breaks_it(pod: Spec, rule: Callable[[Spec], Iterator[str]]) -> None:
    broken = break_rule(pod, rule)
    assert [other for other in RESTRICTED if list(other(broken))] == [rule]


# -- beyond the profile --------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
def test_every_object_is_valid_in_strict_mode(all_objects: list[Spec], version: str) -> None:
    for each in [*all_objects, yaml.safe_load((K8S / "namespace.yaml").read_text())]:
        kubernetes_validate.validate(each, version, strict=True)


def test_strict_mode_would_notice_a_misspelt_field(stateful_set: Spec) -> None:
    wrong = copy.deepcopy(stateful_set)
    wrong["spec"]["template"]["spec"]["terminationGracePeriodSecond"] = 60
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, VERSIONS[-1], strict=True)


def test_the_namespace_enforces_the_restricted_profile() -> None:
    labels = yaml.safe_load((K8S / "namespace.yaml").read_text())["metadata"]["labels"]
    for mode in ("enforce", "audit", "warn"):
        assert labels[f"pod-security.kubernetes.io/{mode}"] == "restricted"


def test_deleting_the_base_keeps_the_volume(objects: list[Spec], stateful_set: Spec) -> None:
    assert {each["kind"] for each in objects}.isdisjoint({"Namespace", "PersistentVolumeClaim"})
    assert stateful_set["spec"]["persistentVolumeClaimRetentionPolicy"] == {
        "whenDeleted": "Retain",
        "whenScaled": "Retain",
    }


def test_one_writer_a_volume(stateful_set: Spec) -> None:
    assert stateful_set["spec"]["replicas"] == 1
    (claim,) = stateful_set["spec"]["volumeClaimTemplates"]
    assert claim["spec"]["accessModes"] == ["ReadWriteOnce"]


def test_only_the_volume_and_tmp_can_be_written(pod: Spec, stateful_set: Spec) -> None:
    (container,) = pod["containers"]
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    writable = {mount["mountPath"] for mount in container["volumeMounts"] if not mount.get("readOnly")}
    assert writable == {"/data", "/tmp"}
    names = {volume["name"] for volume in pod["volumes"]}
    names |= {claim["metadata"]["name"] for claim in stateful_set["spec"]["volumeClaimTemplates"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == names


def test_the_group_of_the_volumes_is_that_of_the_process(any_pod: Spec) -> None:
    context = any_pod["securityContext"]
    assert context["fsGroup"] == context["runAsGroup"] != 0


def test_the_pod_has_no_token_and_no_injected_settings(any_pod: Spec, all_objects: list[Spec]) -> None:
    assert any_pod["automountServiceAccountToken"] is False
    assert one(all_objects, "ServiceAccount")["automountServiceAccountToken"] is False
    assert any_pod["enableServiceLinks"] is False


def test_urls_come_from_mounted_secrets_only(any_pod: Spec, all_objects: list[Spec]) -> None:
    settings = one(all_objects, "ConfigMap")["data"]
    assert {"EVENTBUS_URL", "DATABASE_URL"}.isdisjoint(settings)
    (container,) = any_pod["containers"]
    mounts = {each["name"]: each["mountPath"] for each in container["volumeMounts"] if each.get("readOnly")}
    found = set()
    for volume in any_pod["volumes"]:
        if "secret" in volume:
            (item,) = volume["secret"]["items"]
            found.add(f"{mounts[volume['name']]}/{item['path']}")
            assert volume["secret"]["defaultMode"] & 0o007 == 0
    assert found == {path for name, path in settings.items() if name.endswith("_URL_FILE")} != set()
    assert {each["kind"] for each in all_objects}.isdisjoint({"Secret"})


def test_the_pod_rolls_when_a_setting_changes(any_pod: Spec, all_objects: list[Spec]) -> None:
    """The generated name carries a hash of the content, and the pod refers to that name."""
    name = one(all_objects, "ConfigMap")["metadata"]["name"]
    assert re.fullmatch(r"[a-z-]+-[0-9a-z]{10}", name)
    assert any_pod["containers"][0]["envFrom"] == [{"configMapRef": {"name": name}}]


def test_data_dir_is_the_volume(pod: Spec, objects: list[Spec]) -> None:
    (mount,) = (each for each in pod["containers"][0]["volumeMounts"] if each["name"] == "data")
    assert one(objects, "ConfigMap")["data"]["DATA_DIR"] == mount["mountPath"]


def test_the_start_is_watched_by_the_sign_of_life_on_the_volume(pod: Spec) -> None:
    probe = pod["containers"][0]["startupProbe"]
    assert probe["exec"]["command"] == ["python", "-m", "consumers.json_mirror.health"]
    assert probe["timeoutSeconds"] > 1  # the default is less than Python takes on a busy node


def test_probes_ask_over_http_where_the_settings_say_so(any_pod: Spec, all_objects: list[Spec]) -> None:
    (container,) = any_pod["containers"]
    (port,) = container["ports"]
    assert one(all_objects, "ConfigMap")["data"]["EVENTBUS_HTTP"] == f":{port['containerPort']}"
    for probe, path in (("livenessProbe", "/livez"), ("readinessProbe", "/readyz")):
        assert container[probe]["httpGet"] == {"path": path, "port": port["name"]}
        assert container[probe]["timeoutSeconds"] > 1


def test_the_network_policy_lets_nobody_in_and_only_what_is_needed_out(all_objects: list[Spec], workload: Spec) -> None:
    policy = one(all_objects, "NetworkPolicy")["spec"]
    assert set(policy["policyTypes"]) == {"Ingress", "Egress"}
    assert not policy.get("ingress")
    databases = {5432, 3306} if workload["kind"] == "Deployment" else set()
    assert {port["port"] for rule in policy["egress"] for port in rule["ports"]} == {53, 5671, 5672} | databases


def test_every_selector_finds_the_pod(all_objects: list[Spec], workload: Spec) -> None:
    labels = workload["spec"]["template"]["metadata"]["labels"].items()
    selectors = [
        selector.get("matchLabels", selector)
        for each in all_objects
        if (selector := each.get("spec", {}).get("selector") or each.get("spec", {}).get("podSelector"))
    ]
    assert len(selectors) == (4 if workload["kind"] == "Deployment" else 3)
    assert all(selector.items() <= labels for selector in selectors)


def test_a_drained_node_leaves_one_relay() -> None:
    objects = kustomize(K8S / "relay")
    deployment = one(objects, "Deployment")["spec"]
    assert deployment["replicas"] > one(objects, "PodDisruptionBudget")["spec"]["maxUnavailable"] == 1
    (spread,) = deployment["template"]["spec"]["topologySpreadConstraints"]
    assert spread["labelSelector"]["matchLabels"].items() <= deployment["template"]["metadata"]["labels"].items()


def test_the_image_runs_as_the_pods_do(pod: Spec, any_pod: Spec) -> None:
    dockerfile = (K8S / "Dockerfile").read_text()
    context = any_pod["securityContext"]
    assert f"\nUSER {context['runAsUser']}:{context['runAsGroup']}\n" in dockerfile
    command = ", ".join(f'"{word}"' for word in pod["containers"][0]["command"])
    assert f"\nENTRYPOINT [{command}]\n" in dockerfile


def overlaid(place: Path, kustomization: str) -> list[Spec]:
    """The objects of an overlay of a user's own, beside `k8s`; they are valid."""
    (place / "k8s").symlink_to(K8S)
    overlay = place / "my-overlay"
    overlay.mkdir()
    (overlay / "kustomization.yaml").write_text(kustomization)
    objects = kustomize(overlay)
    for each in objects:
        kubernetes_validate.validate(each, VERSIONS[-1], strict=True)
    return objects


def with_component(place: Path, name: str) -> list[Spec]:
    """The objects of the base with this component."""
    return overlaid(
        place,
        "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nnamespace: eventbus\n"
        f"resources: [../k8s/base]\ncomponents: [../k8s/components/{name}]\n",
    )


def test_the_overlay_in_the_readme_works(tmp_path: Path) -> None:
    (example,) = re.findall(r"```yaml\n(.*?)```", (K8S / "README.md").read_text(), re.DOTALL)
    objects = overlaid(tmp_path, example)
    pod = one(objects, "StatefulSet")["spec"]["template"]["spec"]
    assert pod["containers"][0]["image"] == "registry.example/eventbus-json-mirror:0.1.0"
    assert one(objects, "ConfigMap")["data"]["EVENTBUS_BINDINGS"] == "crm.#"
    assert "to" in one(objects, "NetworkPolicy")["spec"]["egress"][1]


# -- overlays and components ---------------------------------------------------------------------------------

CUSTOM = {"monitoring.coreos.com/v1", "rabbitmq.com/v1beta1", "keda.sh/v1alpha1"}
"""Kinds that operators define; their fields are not in Kubernetes' own schemas."""


@pytest.fixture(scope="module", params=["dev", "production", "shards"])
def overlay(request: pytest.FixtureRequest) -> list[Spec]:
    return kustomize(K8S / "overlays" / request.param)


@pytest.mark.parametrize("version", VERSIONS)
def test_every_overlay_is_valid_in_strict_mode(overlay: list[Spec], version: str) -> None:
    own = [each for each in overlay if each["apiVersion"] not in CUSTOM]
    assert own
    for each in own:
        kubernetes_validate.validate(each, version, strict=True)


@pytest.mark.parametrize("rule", RESTRICTED, ids=lambda rule: rule.__name__)
def test_the_pods_of_every_overlay_keep_the_restricted_profile(
    overlay: list[Spec], rule: Callable[[Spec], Iterator[str]]
) -> None:
    pods = [each["spec"]["template"]["spec"] for each in overlay if each["kind"] in ("StatefulSet", "Deployment")]
    assert pods
    assert [list(rule(pod)) for pod in pods] == [[]] * len(pods)


def test_everything_of_an_overlay_is_in_one_namespace(overlay: list[Spec]) -> None:
    assert {each["metadata"]["namespace"] for each in overlay} == {"eventbus"}


def test_no_two_objects_of_an_overlay_have_one_name(overlay: list[Spec]) -> None:
    names = [(each["kind"], each["metadata"]["name"]) for each in overlay]
    assert len(set(names)) == len(names)


def test_each_shard_has_its_own_pod_volume_and_number() -> None:
    objects = kustomize(K8S / "overlays" / "shards")
    sets = [each for each in objects if each["kind"] == "StatefulSet"]
    settings = {each["metadata"]["name"]: each["data"] for each in objects if each["kind"] == "ConfigMap"}
    shards = {
        settings[each["spec"]["template"]["spec"]["containers"][0]["envFrom"][0]["configMapRef"]["name"]][
            "EVENTBUS_SHARD"
        ]
        for each in sets
    }
    assert shards == {"0/2", "1/2"}
    labels = [each["spec"]["selector"]["matchLabels"]["eventbus/shard"] for each in sets]
    assert sorted(labels) == ["0", "1"]


def test_the_alarms_on_kubernetes_are_the_ones_that_are_tested() -> None:
    rule = yaml.safe_load((K8S / "components/monitoring/prometheusrule.yaml").read_text())
    assert rule["spec"] == yaml.safe_load((ROOT / "alerts/eventbus.rules.yml").read_text())


def test_figures_are_scraped_from_the_ports_that_are_served() -> None:
    objects = kustomize(K8S / "overlays" / "production")
    monitor = one(objects, "ServiceMonitor")["spec"]
    services = [each for each in objects if each["kind"] == "Service"]
    assert {each["metadata"]["name"] for each in services} == {"json-mirror", "eventbus-relay"}
    for service in services:
        assert monitor["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
        assert {port["name"] for port in service["spec"]["ports"]} == {each["port"] for each in monitor["endpoints"]}


def test_the_declared_queues_are_those_that_a_consumer_would_declare() -> None:
    objects = list(yaml.safe_load_all((K8S / "components/rabbitmq/topology.yaml").read_text()))
    queues = {each["spec"]["name"]: each["spec"] for each in objects if each["kind"] == "Queue"}
    for name, expected in (
        ("json-mirror", mirror_queue.queue_arguments("json-mirror")),
        ("json-mirror.dlq", mirror_queue.dead_letter_arguments()),
    ):
        assert {"x-queue-type": queues[name]["type"], **queues[name]["arguments"]} == expected
    exchanges = {each["spec"]["name"]: each["spec"]["type"] for each in objects if each["kind"] == "Exchange"}
    assert exchanges == {naming.DEFAULT_EXCHANGE: "topic", naming.DEAD_LETTER_EXCHANGE: "direct"}


def test_the_logins_may_do_what_the_documentation_says_and_no_more() -> None:
    objects = yaml.safe_load_all((K8S / "components/rabbitmq/users.yaml").read_text())
    allowed = {
        each["metadata"]["name"]: each["spec"]["permissions"] for each in objects if each["kind"] == "Permission"
    }
    assert allowed == {
        "json-mirror": {"configure": "", "write": r"^eventbus\.dlx$", "read": "^json-mirror$"},
        "eventbus-relay": {"configure": "", "write": "^eventbus$", "read": ""},
        "crm": {"configure": "", "write": "^eventbus$", "read": ""},
    }


def documented_permissions() -> dict[tuple[str, str], list[str]]:
    """The rows of the README: by Secret and process, the patterns for configure, write and read."""
    rows, secret = {}, ""
    for line in (K8S / "README.md").read_text().splitlines():
        first, process, *patterns = (cell.strip().strip("`") for cell in re.split(r"(?<!\\)\|", line)[1:-1] or ["", ""])
        if len(patterns) == 3 and patterns[0].startswith("^"):
            secret = secret if first == "the same" else first
            rows[secret, process] = [pattern.replace("\\|", "|") for pattern in patterns]
    return rows


def test_mirror_and_relay_have_a_secret_each_whose_login_is_documented_and_declared() -> None:
    secrets = {}
    for base, kind in (("base", "StatefulSet"), ("relay", "Deployment")):
        pod = one(kustomize(K8S / base), kind)["spec"]["template"]["spec"]
        (secrets[base],) = (each["secret"]["secretName"] for each in pod["volumes"] if each["name"] == "broker")
    assert secrets == {"base": "eventbus-broker", "relay": "eventbus-relay-broker"}
    documented = documented_permissions()
    assert {secret for secret, _ in documented} == set(secrets.values())
    names = ["json-mirror", "json-mirror.dlq", "eventbus", "eventbus.dlx", "json-mirror-of-others", "amq.default", ""]
    granted = {
        process: [{name for name in names if re.search(pattern, name)} - {""} for pattern in patterns]
        for (_, process), patterns in documented.items()
    }
    # docs/security.md has the table that says what each needs; tests/faults/test_permissions.py tries it.
    assert granted == {
        "mirror": [
            {"json-mirror", "json-mirror.dlq", "eventbus", "eventbus.dlx"},
            {"json-mirror", "json-mirror.dlq", "eventbus.dlx"},
            {"json-mirror", "eventbus", "eventbus.dlx"},
        ],
        "mirror, all being declared (`components/rabbitmq`)": [set(), {"eventbus.dlx"}, {"json-mirror"}],
        "relay": [{"eventbus"}, {"eventbus"}, set()],
        "relay, the exchange being declared": [set(), {"eventbus"}, set()],
    }


def test_nothing_scales_the_mirror() -> None:
    objects = list(yaml.safe_load_all((K8S / "components/keda/scaledobject.yaml").read_text()))
    assert one(objects, "ScaledObject")["spec"]["scaleTargetRef"]["name"] != "json-mirror"


def test_the_pages_run_beside_the_mirror_and_cannot_write(tmp_path: Path) -> None:
    objects = with_component(tmp_path, "web")
    pod = one(objects, "StatefulSet")["spec"]["template"]["spec"]
    assert [list(rule(pod)) for rule in RESTRICTED] == [[]] * len(RESTRICTED)
    (web,) = (each for each in pod["containers"] if each["name"] == "web")
    assert {mount["mountPath"] for mount in web["volumeMounts"] if not mount.get("readOnly")} == {"/tmp"}
    settings = one(objects, "ConfigMap")["data"]
    assert settings["EVENTBUS_WEB_PROXY_HEADER"]


def test_the_comparison_runs_on_the_node_of_the_volume_and_cannot_write(tmp_path: Path) -> None:
    objects = with_component(tmp_path, "compare")
    template = one(objects, "CronJob")["spec"]["jobTemplate"]["spec"]["template"]
    pod = template["spec"]
    assert [list(rule(pod)) for rule in RESTRICTED] == [[]] * len(RESTRICTED)
    (container,) = pod["containers"]
    assert all(mount["readOnly"] for mount in container["volumeMounts"])
    claims = one(objects, "StatefulSet")["spec"]["volumeClaimTemplates"]
    mirror = one(objects, "StatefulSet")["metadata"]["name"]
    (volume,) = (each for each in pod["volumes"] if "persistentVolumeClaim" in each)
    assert volume["persistentVolumeClaim"]["claimName"] == f"{claims[0]['metadata']['name']}-{mirror}-0"
    (term,) = pod["affinity"]["podAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    labels = one(objects, "StatefulSet")["spec"]["template"]["metadata"]["labels"]
    assert term["labelSelector"]["matchLabels"].items() <= labels.items()
    (policy,) = (each for each in objects if each["kind"] == "NetworkPolicy" and "compare" in each["metadata"]["name"])
    assert policy["spec"]["podSelector"]["matchLabels"].items() <= template["metadata"]["labels"].items()
    assert policy["spec"]["ingress"] == []
    settings = next(
        each["data"] for each in objects if each["kind"] == "ConfigMap" and "compare" in each["metadata"]["name"]
    )
    known = KNOWN | {"DATA_DIR", "DATABASE_URL"}
    assert settings.keys() <= known | {f"{name}_FILE" for name in known} | {"PYTHONUNBUFFERED"}
