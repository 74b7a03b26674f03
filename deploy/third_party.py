#!/usr/bin/env python3
"""The licence texts of every crate that the program is made of, to go with it.

Reads `cargo metadata` for the machine it runs on, with the default features, and the
sources that cargo has fetched. A crate whose package brings no text is an error,
unless TEXT_OF says where it is.
"""

import json
import pathlib
import subprocess
import sys

# A package without a text of its own, and the one of the same repository that has it.
TEXT_OF = {"tonic-prost": "tonic"}


def main():
    host = subprocess.run(["rustc", "-vV"], capture_output=True, text=True, check=True).stdout
    target = next(line.split()[1] for line in host.splitlines() if line.startswith("host:"))
    asked = ["cargo", "metadata", "--format-version", "1", "--locked", "--filter-platform", target]
    metadata = json.loads(subprocess.run(asked, capture_output=True, text=True, check=True).stdout)
    packages = {package["id"]: package for package in metadata["packages"]}
    nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}

    linked, ahead = set(), [metadata["resolve"]["root"]]
    while ahead:
        this = ahead.pop()
        if this in linked:
            continue
        linked.add(this)
        for dependency in nodes[this]["deps"]:
            # Not what only builds or tests it.
            if any(kind["kind"] is None for kind in dependency["dep_kinds"]):
                ahead.append(dependency["pkg"])
    linked.discard(metadata["resolve"]["root"])

    ours = sorted((packages[this] for this in linked), key=lambda p: (p["name"], p["version"]))
    folders = {package["name"]: pathlib.Path(package["manifest_path"]).parent for package in ours}
    texts, without = {}, []
    for package in ours:
        borrowed = folders.get(TEXT_OF.get(package["name"]))
        folder = borrowed or pathlib.Path(package["manifest_path"]).parent
        found = sorted(
            file
            for file in folder.iterdir()
            if file.is_file() and file.name.upper().startswith(("LICENSE", "LICENCE", "COPYING", "NOTICE", "COPYRIGHT", "UNLICENSE"))
        )
        name = f"{package['name']} {package['version']} ({package['license'] or 'see its text'})"
        if not found:
            without.append(name)
        for file in found:
            texts.setdefault(file.read_text(errors="replace").strip(), []).append(name)
    if without:
        sys.exit("error: no licence text in " + ", ".join(without))

    print("claudepool is made of these crates, each under the terms that follow its name.")
    for text, names in texts.items():
        print("\n" + "=" * 78)
        print("\n".join(dict.fromkeys(names)))
        print("-" * 78)
        print(text)


main()
