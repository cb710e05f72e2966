"""No dependency may need a newer compiler than the workspace says it does."""

import json
import subprocess
import sys


def version(text):
    return tuple(int(part) for part in (text.split(".") + ["0", "0"])[:3])


metadata = json.loads(subprocess.check_output(
    ["cargo", "metadata", "--format-version=1", "--all-features",
     "--filter-platform=x86_64-unknown-linux-gnu"]))
used = {node["id"] for node in metadata["resolve"]["nodes"]}
packages = [p for p in metadata["packages"] if p["id"] in used]
members = [p for p in packages if p["id"] in metadata["workspace_members"]]
(stated,) = {p["rust_version"] for p in members}
newer = [p for p in packages if p["rust_version"] and version(p["rust_version"]) > version(stated)]
for package in newer:
    print(f"{package['name']} {package['version']} needs Rust {package['rust_version']}")
print(f"{len(packages)} packages, {len(newer)} of them need more than Rust {stated}")
sys.exit(bool(newer))
