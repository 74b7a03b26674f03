"""What the files in deploy/ promise, checked without a cluster: `make test-deploy`.

Every object is checked against the schema of its kind (Kubernetes' own, or that of
its CRD), with no field that the schema does not know. What no schema can say is a
test below: that names, ports and times in different files fit together, and that
each policy gives exactly the rights that the proto files ask for.
"""

import functools
import json
import os
import pathlib
import re
import shutil
import subprocess
import tempfile
import unittest

import jsonschema
import kubernetes_validate
import tomli
import yaml

ROOT = pathlib.Path(__file__).resolve().parent.parent
DEPLOY = ROOT / "deploy"
OVERLAYS = ("sqlite", "sqlite-mesh", "postgres")
KUBERNETES_VERSION = "1.37"
# The manifests name secrets and never make them: deploy/README.md says how.
SECRETS = {
    "claudepool-tls": {"tls.crt", "tls.key"},
    "claudepool-tokens": {"tokens"},
    "claudepool-provider": {"api-key"},
    "claudepool-store": {"url"},
}


def build(folder):
    """The objects that kustomize makes of a folder."""
    made = subprocess.run(
        [os.environ["CLAUDEPOOL_TEST_KUSTOMIZE"], "build", DEPLOY / folder],
        capture_output=True,
        text=True,
    )
    if made.returncode:
        raise AssertionError(f"{folder}: {made.stderr}")
    return [document for document in yaml.safe_load_all(made.stdout) if document]


def closed(schema):
    """The schema without room for fields that it does not name, which an API server
    would drop or refuse."""
    if isinstance(schema, list):
        return [closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    # A branch names only the fields that make the difference.
    branches = ("oneOf", "anyOf", "allOf", "not")
    schema = {key: part if key in branches else closed(part) for key, part in schema.items()}
    open_ended = schema.get("x-kubernetes-preserve-unknown-fields")
    if isinstance(schema.get("properties"), dict) and "additionalProperties" not in schema and not open_ended:
        schema["additionalProperties"] = False
    if schema.pop("x-kubernetes-int-or-string", False):
        schema.pop("anyOf", None)
        schema["type"] = ["integer", "string"]
    return schema


def crds():
    """Group, version and kind to schema, of all CRDs there are."""
    found = {}
    files = [DEPLOY / "linkerd/policy.schema.yaml"]
    for folder in os.environ["CLAUDEPOOL_TEST_CRDS"].split(":"):
        files += sorted(pathlib.Path(folder).glob("*.yaml"))
    for file in files:
        for document in yaml.safe_load_all(file.read_text()):
            if not document or document.get("kind") != "CustomResourceDefinition":
                continue
            spec = document["spec"]
            for version in spec["versions"]:
                schema = version["schema"]["openAPIV3Schema"]
                properties = schema.setdefault("properties", {})
                for name in ("apiVersion", "kind", "metadata"):
                    properties[name] = {}
                key = (spec["group"], version["name"], spec["names"]["kind"])
                found[key] = closed(schema)
    return found


def methods():
    """Method to the scopes that may call it, and the methods without side effects."""
    scopes, harmless = {}, set()
    for file in sorted((ROOT / "proto/claudepool/v1").glob("*_service.proto")):
        text = file.read_text()
        service = re.search(r"^service (\w+) \{", text, re.M)[1]
        for name, body in re.findall(r"^  rpc (\w+)\([^)]*\) returns \([^)]*\)(;| \{.*?^  \})", text, re.M | re.S):
            method = f"/claudepool.v1.{service}/{name}"
            if "NO_SIDE_EFFECTS" in body:
                harmless.add(method)
            said = re.findall(r"option \(scopes\) = SCOPE_(\w+);", body)
            scopes[method] = {scope.lower() for scope in said}
    return scopes, harmless


def seconds(text):
    """Of a duration as the configuration writes it."""
    number, unit = re.fullmatch(r"(\d+)(s|min|m|h)", text).groups()
    return int(number) * {"s": 1, "min": 60, "m": 60, "h": 3600}[unit]


def port(address):
    return int(address.rsplit(":", 1)[1])


BUILT = {overlay: build(f"kubernetes/overlays/{overlay}") for overlay in OVERLAYS}


def of_kind(overlay, *kinds):
    return [document for document in BUILT[overlay] if document["kind"] in kinds]


def workload(overlay):
    (found,) = of_kind(overlay, "StatefulSet", "Deployment")
    return found


def pod(overlay):
    return workload(overlay)["spec"]["template"]


def container(overlay):
    (found,) = pod(overlay)["spec"]["containers"]
    return found


def config(overlay):
    (found,) = of_kind(overlay, "ConfigMap")
    return tomli.loads(found["data"]["claudepool.toml"])


def selects(selector, labels):
    return bool(selector) and selector.items() <= labels.items()


def in_each_overlay(test):
    @functools.wraps(test)
    def run(self):
        for overlay in OVERLAYS:
            with self.subTest(overlay):
                test(self, overlay)

    return run


class Schemas(unittest.TestCase):
    def test_every_object_is_one_that_an_api_server_takes(self):
        known = crds()
        for folder in [f"kubernetes/overlays/{overlay}" for overlay in OVERLAYS] + ["istio", "linkerd"]:
            documents = build(folder)
            self.assertTrue(documents)
            for document in documents:
                group, _, version = document["apiVersion"].rpartition("/")
                name = f"{folder}: {document['kind']} {document['metadata']['name']}"
                with self.subTest(name):
                    if "." in group and not group.endswith(".k8s.io") or group.startswith("gateway."):
                        schema = known[(group, version, document["kind"])]
                        jsonschema.Draft202012Validator(schema).validate(document)
                    else:
                        kubernetes_validate.validate(document, KUBERNETES_VERSION, strict=True)


class Pods(unittest.TestCase):
    @in_each_overlay
    def test_a_pod_has_no_right_that_it_does_not_need(self, overlay):
        spec, only = pod(overlay)["spec"], container(overlay)
        self.assertIs(spec["automountServiceAccountToken"], False)
        self.assertIs(spec["securityContext"]["runAsNonRoot"], True)
        self.assertEqual(spec["securityContext"]["seccompProfile"], {"type": "RuntimeDefault"})
        self.assertEqual(
            only["securityContext"],
            {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            },
        )
        for key in ("hostNetwork", "hostPID", "hostIPC"):
            self.assertNotIn(key, spec)

    @in_each_overlay
    def test_the_user_is_the_images(self, overlay):
        made = (ROOT / "Containerfile").read_text()
        context = pod(overlay)["spec"]["securityContext"]
        self.assertIn(f"USER {context['runAsUser']}:{context['runAsGroup']}\n", made)

    @in_each_overlay
    def test_what_the_server_writes_is_a_volume(self, overlay):
        written = {m["mountPath"] for m in container(overlay)["volumeMounts"] if not m.get("readOnly")}
        self.assertEqual(written, {"/var/lib/claudepool", "/work", "/tmp"})

    @in_each_overlay
    def test_a_mount_is_in_no_other_mount(self, overlay):
        # The runtime could not make its directory in a read-only one.
        paths = [m["mountPath"] for m in container(overlay)["volumeMounts"]]
        nested = [(a, b) for a in paths for b in paths if b.startswith(a + "/")]
        self.assertEqual(nested, [])

    @in_each_overlay
    def test_every_volume_is_there_and_used(self, overlay):
        claims = workload(overlay)["spec"].get("volumeClaimTemplates", [])
        volumes = {volume["name"] for volume in pod(overlay)["spec"]["volumes"]}
        volumes |= {claim["metadata"]["name"] for claim in claims}
        self.assertEqual(volumes, {m["name"] for m in container(overlay)["volumeMounts"]})

    @in_each_overlay
    def test_the_server_stops_within_the_pods_grace(self, overlay):
        pause = container(overlay)["lifecycle"]["preStop"]["sleep"]["seconds"]
        drain = seconds(config(overlay)["pool"]["drain_timeout"])
        grace = pod(overlay)["spec"]["terminationGracePeriodSeconds"]
        # pool.cancel_grace, 5 s, twice.
        self.assertGreaterEqual(grace, pause + drain + 10)

    @in_each_overlay
    def test_the_ports_are_those_that_the_configuration_listens_on(self, overlay):
        ports = {p["name"]: p["containerPort"] for p in container(overlay)["ports"]}
        listens = config(overlay)
        self.assertEqual(ports, {"grpc": port(listens["server"]["listen"]), "status": port(listens["status"]["listen"])})
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            asked = container(overlay)[probe]
            where = asked["httpGet"]["port"] if "httpGet" in asked else asked["grpc"]["port"]
            self.assertIn(where, ["status", ports["grpc"]])

    def test_a_probe_by_grpc_asks_for_a_service_that_there_is_and_no_tls(self):
        asked = {overlay: container(overlay)["readinessProbe"].get("grpc") for overlay in OVERLAYS}
        self.assertTrue(any(asked.values()))
        for overlay in OVERLAYS:
            if asked[overlay]:
                self.assertNotIn("tls", config(overlay)["server"])
                service = asked[overlay]["service"].rsplit(".", 1)[1]
                self.assertTrue(any(f"/claudepool.v1.{service}/" in method for method in methods()[0]))

    @in_each_overlay
    def test_a_server_without_tls_says_insecure_and_no_other_does(self, overlay):
        self.assertEqual("--insecure" in container(overlay)["args"], "tls" not in config(overlay)["server"])
        self.assertIn("token_file", config(overlay)["server"]["auth"])

    @in_each_overlay
    def test_every_file_of_the_configuration_is_mounted(self, overlay):
        volumes = {volume["name"]: volume for volume in pod(overlay)["spec"]["volumes"]}
        mounted = set()
        for mount in container(overlay)["volumeMounts"]:
            source = volumes.get(mount["name"], {})
            names = SECRETS[source["secret"]["secretName"]] if "secret" in source else ()
            names = ["claudepool.toml"] if "configMap" in source else names
            mounted |= {f"{mount['mountPath']}/{name}" for name in names}
        server = config(overlay)["server"]
        named = {server["auth"]["token_file"], *server.get("tls", {}).values()}
        named.add(container(overlay)["args"][-1])
        self.assertEqual(named, mounted)

    def test_a_secret_in_the_environment_is_one_that_the_readme_tells_to_make(self):
        readme = (DEPLOY / "README.md").read_text()
        for overlay in OVERLAYS:
            for variable in container(overlay)["env"]:
                secret = variable["valueFrom"]["secretKeyRef"]
                self.assertIn(secret["key"], SECRETS[secret["name"]])
        for name in SECRETS:
            self.assertIn(name, readme)

    @in_each_overlay
    def test_selectors_find_the_pod(self, overlay):
        labels = pod(overlay)["metadata"]["labels"]
        self.assertTrue(selects(workload(overlay)["spec"]["selector"]["matchLabels"], labels))
        (budget,) = of_kind(overlay, "PodDisruptionBudget")
        self.assertTrue(selects(budget["spec"]["selector"]["matchLabels"], labels))
        ports = {p["name"] for p in container(overlay)["ports"]}
        for service in of_kind(overlay, "Service"):
            self.assertTrue(selects(service["spec"]["selector"], labels))
            self.assertLessEqual({p["targetPort"] for p in service["spec"]["ports"]}, ports)
        policies = of_kind(overlay, "NetworkPolicy")
        for policy in policies:
            self.assertTrue(selects(policy["spec"]["podSelector"].get("matchLabels"), labels))
        self.assertTrue(any("Ingress" in policy["spec"]["policyTypes"] for policy in policies))

    @in_each_overlay
    def test_callers_are_not_asked_to_have_the_pods_own_labels(self, overlay):
        for policy in of_kind(overlay, "NetworkPolicy"):
            for rule in policy["spec"].get("ingress", []):
                for source in rule["from"]:
                    wanted = source.get("podSelector", {}).get("matchLabels", {})
                    self.assertNotIn("app.kubernetes.io/name", wanted)

    @in_each_overlay
    def test_no_cloud_metadata_is_reached_from_a_pod(self, overlay):
        for policy in of_kind(overlay, "NetworkPolicy"):
            for rule in policy["spec"].get("egress", []):
                for target in rule["to"]:
                    block = target.get("ipBlock", {})
                    if block.get("cidr") == "0.0.0.0/0":
                        self.assertIn("169.254.0.0/16", block["except"])

    def test_a_file_as_store_has_one_server(self):
        self.assertEqual(workload("sqlite")["kind"], "StatefulSet")
        self.assertEqual(workload("sqlite")["spec"]["replicas"], 1)
        self.assertEqual(workload("postgres")["kind"], "Deployment")

    def test_a_service_monitor_finds_its_service_and_port(self):
        (monitor,) = of_kind("sqlite-mesh", "ServiceMonitor")
        chosen = [
            service
            for service in of_kind("sqlite-mesh", "Service")
            if selects(monitor["spec"]["selector"]["matchLabels"], service["metadata"]["labels"])
        ]
        ports = {p["name"] for service in chosen for p in service["spec"]["ports"]}
        self.assertEqual(ports, {endpoint["port"] for endpoint in monitor["spec"]["endpoints"]})


class Meshes(unittest.TestCase):
    def setUp(self):
        self.scopes, self.harmless = methods()
        self.assertGreater(len(self.scopes), 40)
        self.assertNotIn(set(), self.scopes.values())

    def rights(self, allowed):
        """`allowed`: pairs of a caller's name and a path; a path may end in *."""
        given = {method: set() for method in self.scopes}
        for caller, path in allowed:
            if not path.startswith("/claudepool.v1."):
                continue
            covered = [m for m in self.scopes if m == path or path.endswith("/*") and m.startswith(path[:-1])]
            self.assertTrue(covered, f"{path} is no method")
            for method in covered:
                given[method].add(caller.removeprefix("claudepool-"))
        return given

    def wanted(self):
        who = {"read": "reader", "work": "worker", "operate": "operator", "author": "author"}
        everyone = set(who.values())
        return {
            method: everyone if "read" in needs else {who[scope] for scope in needs}
            for method, needs in self.scopes.items()
        }

    def test_istio_gives_the_rights_that_the_contract_asks_for(self):
        allowed = []
        for document in build("istio"):
            if document["kind"] != "AuthorizationPolicy":
                continue
            self.assertEqual(document["spec"]["action"], "ALLOW")
            for rule in document["spec"]["rules"]:
                callers = [p.rsplit("/", 1)[1] for f in rule.get("from", []) for p in f["source"]["principals"]]
                for to in rule["to"]:
                    for path in to["operation"].get("paths", []):
                        allowed += [(caller, path) for caller in callers or ["anybody"]]
        self.assertEqual(self.rights(allowed), self.wanted())
        self.assertIn(("anybody", "/grpc.health.v1.Health/*"), allowed)

    def test_linkerd_gives_the_rights_that_the_contract_asks_for(self):
        documents = build("linkerd")
        named = {(d["kind"], d["metadata"]["name"]): d["spec"] for d in documents}
        self.assertEqual(named["Server", "claudepool"]["accessPolicy"], "deny")
        allowed, anybody = [], set()
        for document in documents:
            if document["kind"] != "AuthorizationPolicy":
                continue
            route = named["GRPCRoute", document["spec"]["targetRef"]["name"]]
            self.assertEqual([(p["kind"], p["name"]) for p in route["parentRefs"]], [("Server", "claudepool")])
            paths = [f"/{m['method']['service']}/{m['method'].get('method', '*')}" for r in route["rules"] for m in r["matches"]]
            (wanted,) = document["spec"]["requiredAuthenticationRefs"]
            who = named[wanted["kind"], wanted["name"]]
            if wanted["kind"] == "NetworkAuthentication":
                anybody |= set(paths)
            for account in who.get("identityRefs", []):
                allowed += [(account["name"], path) for path in paths]
        self.assertEqual(self.rights(allowed), self.wanted())
        self.assertEqual(anybody, {"/grpc.health.v1.Health/*"})

    def test_a_mesh_asks_again_only_what_changes_nothing(self):
        (virtual,) = [d for d in build("istio") if d["kind"] == "VirtualService"]
        reads, changes = virtual["spec"]["http"]
        pattern = re.compile(reads["match"][0]["uri"]["regex"])
        self.assertEqual({m for m in self.scopes if pattern.fullmatch(m)}, self.harmless)
        self.assertNotIn("unavailable", changes["retries"]["retryOn"])
        for route in (reads, changes):
            self.assertNotIn("cancelled", route["retries"]["retryOn"])
            self.assertEqual(route["timeout"], "0s")

        for route in [d for d in build("linkerd") if d["kind"] == "GRPCRoute"]:
            retried = route["metadata"].get("annotations", {}).get("retry.linkerd.io/grpc")
            if retried is None:
                continue
            self.assertEqual(retried, "unavailable")
            matches = [m["method"] for rule in route["spec"]["rules"] for m in rule["matches"]]
            self.assertEqual({f"/{m['service']}/{m['method']}" for m in matches}, self.harmless)

    def test_the_rules_are_those_of_the_pods_ports(self):
        istio = build("istio")
        peers = [d for d in istio if d["kind"] == "PeerAuthentication"]
        self.assertEqual([d["spec"]["mtls"]["mode"] for d in peers], ["STRICT"])
        ports = {p["containerPort"] for p in container("sqlite-mesh")["ports"]}
        told = set(re.findall(r'"(500\d\d)"', json.dumps(istio)))
        self.assertEqual({int(number) for number in told}, ports)
        named = {d["spec"]["port"] for d in build("linkerd") if d["kind"] == "Server"}
        self.assertEqual(named, {p["name"] for p in container("sqlite-mesh")["ports"]})


class Elsewhere(unittest.TestCase):
    def test_the_image_is_built_from_what_its_context_lets_in(self):
        rules = (ROOT / ".containerignore").read_text().split("\n")
        let_in = [rule[1:] for rule in rules if rule.startswith("!")]
        self.assertIn("*", rules)
        with tempfile.TemporaryDirectory() as context:
            for name in let_in:
                copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
                copy(ROOT / name, pathlib.Path(context) / name)
            # With a compiler that only fails: cargo asks it when it has found all
            # that the manifest names.
            asked = subprocess.run(
                ["cargo", "build", "--locked", "--bin", "claudepool"],
                cwd=context,
                env={**os.environ, "RUSTC": "false", "CARGO_TARGET_DIR": context},
                capture_output=True,
                text=True,
            )
        self.assertIn("`false -vV`", asked.stderr)
        # Cargo does not know that it needs these.
        self.assertLessEqual({"build.rs", "proto"}, set(let_in))
        named = re.findall(r"^COPY (?!--from)(.*) \S+$", (ROOT / "Containerfile").read_text(), re.M)
        self.assertLessEqual({name for line in named for name in line.split()} - {"."}, set(let_in))

    def test_the_image_has_the_cli_that_is_tested(self):
        pinned = re.search(r"^CLAUDE_VERSION := (\S+)$", (ROOT / "Makefile").read_text(), re.M)[1]
        self.assertIn(f"ARG CLAUDE_VERSION={pinned}\n", (ROOT / "Containerfile").read_text())

    def test_the_versions_are_the_programs(self):
        version = tomli.loads((ROOT / "Cargo.toml").read_text())["package"]["version"]
        self.assertIn(f"ARG VERSION={version}\n", (ROOT / "Containerfile").read_text())
        for overlay in OVERLAYS:
            self.assertEqual(container(overlay)["image"], f"claudepool:{version}")

    def test_systemd_waits_longer_than_a_drain(self):
        unit = (DEPLOY / "systemd/claudepool.service").read_text()
        wait = seconds(re.search(r"^TimeoutStopSec=(\S+)$", unit, re.M)[1])
        drain = seconds(tomli.loads((DEPLOY / "systemd/claudepool.toml").read_text())["pool"]["drain_timeout"])
        self.assertGreaterEqual(wait, drain + 10)

    def test_systemd_gives_every_file_that_the_configuration_names(self):
        unit = (DEPLOY / "systemd/claudepool.service").read_text()
        given = {f"/run/credentials/claudepool.service/{n}" for n in re.findall(r"^LoadCredential=([\w.-]+):", unit, re.M)}
        server = tomli.loads((DEPLOY / "systemd/claudepool.toml").read_text())["server"]
        named = {server["auth"]["token_file"], *server["tls"].values()}
        self.assertEqual(named, given - {"/run/credentials/claudepool.service/anthropic-api-key"})


if __name__ == "__main__":
    unittest.main()
