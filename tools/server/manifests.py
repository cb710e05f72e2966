#!/usr/bin/env python3
"""Checks what is deployed, without a cluster or a container engine.

    python tools/server/manifests.py target/release/skipstone

Objects match Kubernetes' schemas, strictly, and refer to each other; the binary takes the containers'
arguments, answers their probes, and ends in the time it is given; what the Dockerfile copies is
a workspace. Needs `pip install -r tools/server/requirements.txt`.
"""

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import kubernetes_validate
import yaml
from serving import MODEL_FILE, ROOT, Server

HERE = Path(__file__).parent / "deploy"
VERSIONS = ["1.30", kubernetes_validate.latest_version()]
# Their definitions come with other projects; what they hold of Kubernetes' own is checked below.
CUSTOM = {"PodMonitor", "ServingRuntime", "InferenceService"}


def objects():
    found = {}
    for file in sorted(HERE.glob("*.yaml")):
        for thing in yaml.safe_load_all(file.read_text()):
            assert thing["kind"] not in found, f"{file}: a second {thing['kind']}"
            found[thing["kind"]] = thing
    return found


def validate(thing):
    for version in VERSIONS:
        kubernetes_validate.validate(thing, version, strict=True)


def pod(spec):
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, "spec": spec}


def check_schemas(found):
    for kind, thing in found.items():
        if kind not in CUSTOM:
            validate(thing)
    validate(pod({"containers": found["ServingRuntime"]["spec"]["containers"]}))


def check_references(found):
    deployment = found["Deployment"]
    template = deployment["spec"]["template"]
    labels = template["metadata"]["labels"]
    ports = {port["name"] for port in template["spec"]["containers"][0]["ports"]}
    assert deployment["spec"]["selector"]["matchLabels"] == labels
    assert found["Service"]["spec"]["selector"] == labels
    assert {port["targetPort"] for port in found["Service"]["spec"]["ports"]} <= ports
    assert found["PodMonitor"]["spec"]["selector"]["matchLabels"] == labels
    assert {end["port"] for end in found["PodMonitor"]["spec"]["podMetricsEndpoints"]} <= ports
    target = found["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]
    named = {key: deployment[key] for key in ("apiVersion", "kind")}
    assert target == {**named, "name": deployment["metadata"]["name"]}
    formats = {f["name"] for f in found["ServingRuntime"]["spec"]["supportedModelFormats"]}
    assert found["InferenceService"]["spec"]["predictor"]["model"]["modelFormat"]["name"] in formats


def check_container(binary, container, paths, grace):
    """Starts the binary with a container's arguments, on files and an address that are here."""
    verb, *arguments = container["args"]
    assert verb == "serve" and any(a.startswith("--listen=0.0.0.0:") for a in arguments)
    options = [a for a in arguments if not a.startswith("--listen=")]
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(MODEL_FILE, folder)
        for inside in ("/mnt/models", "/models"):
            options = [option.replace(inside, folder) for option in options]
        options = [option.replace("{{.Name}}", "resnet50") for option in options]
        with Server(binary, *options) as server:
            server.patience = grace
            for path in paths:
                assert server.get(path) is not None, path


def probes(container):
    kinds = ("startupProbe", "readinessProbe", "livenessProbe")
    return [container[kind]["httpGet"]["path"] for kind in kinds if kind in container]


def check_dockerfile():
    lines = (HERE / "Dockerfile").read_text().splitlines()
    copies = [line.split()[1:] for line in lines if line.startswith("COPY ") and "--from" not in line]
    assert copies
    with tempfile.TemporaryDirectory() as folder:
        for *sources, _ in copies:
            for source in sources:
                copy = copy_folder if (ROOT / source).is_dir() else shutil.copy
                copy(ROOT / source, Path(folder) / source)
        command = ["cargo", "metadata", "--locked", "--no-deps", "--format-version=1"]
        about = subprocess.run(command, cwd=folder, check=True, stdout=subprocess.PIPE).stdout
    assert "skipstone-cli" in {package["name"] for package in json.loads(about)["packages"]}


def copy_folder(source, target):
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("target"))


def main():
    found = objects()
    check_schemas(found)
    check_references(found)
    check_dockerfile()
    spec = found["Deployment"]["spec"]["template"]["spec"]
    container = spec["containers"][0]
    scraped = [end["path"] for end in found["PodMonitor"]["spec"]["podMetricsEndpoints"]]
    grace = spec["terminationGracePeriodSeconds"]
    check_container(sys.argv[1], container, probes(container) + scraped, grace)
    runtime = found["ServingRuntime"]["spec"]["containers"][0]
    paths = probes(runtime) + ["/v2/models/resnet50/ready"]
    check_container(sys.argv[1], runtime, paths, grace)
    print(f"{', '.join(sorted(found))}: valid, and the server runs as they say")


if __name__ == "__main__":
    main()
