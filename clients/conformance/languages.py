"""How each language's client is built and its conformance program is run."""

import os
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
TOOLS = ROOT / ".tools"


@dataclass
class Language:
    """`build`: commands and the folders, from the root, that they run in.
    `direct`: it cannot do the steps by a proxy, which knows HTTP/2 alone, nor
    those with a certificate that only the step trusts."""

    key: str
    needs: dict
    build: list
    command: list
    extra: dict = field(default_factory=dict)
    direct: bool = False

    def env(self):
        return {**os.environ, **self.extra}


def python(kind, pins, extras="conformance"):
    """In an environment of its own, with the oldest or the newest runtime."""
    venv = TOOLS / f"clients-python-{kind}"
    return [
        (("python3", "-m", "venv", str(venv)), "."),
        # What an earlier build left would be packed again.
        (("rm", "-rf", "build"), "clients/python"),
        ((str(venv / "bin/pip"), "install", "--quiet", "--disable-pip-version-check", *pins, f".[{extras}]"), "clients/python"),
    ], str(venv / "bin/python")


# What pyproject.toml calls the oldest, and what a user gets today.
OLDEST, oldest = python("oldest", ["grpcio==1.74.0", "protobuf==6.31.1", "googleapis-common-protos==1.70.0"])
NEWEST, newest = python("newest", ["--upgrade", "--upgrade-strategy", "eager"], "conformance,types")
NEWEST.append(((str(TOOLS / "clients-python-newest/bin/mypy"), "--strict", "src"), "clients/python"))
PYTHON = {"python3": "Python 3.10 or newer, with venv and pip"}

LANGUAGES = {
    "Python": Language("python", PYTHON, OLDEST, [oldest, "clients/python/conformance/main.py", "sync"]),
    "Python, asyncio": Language("python", PYTHON, NEWEST, [newest, "clients/python/conformance/main.py", "asyncio"]),
}

LANGUAGES["Go"] = Language(
    "go",
    {"go": "Go 1.25 or newer: https://go.dev"},
    [
        (("go", "vet", "./..."), "clients/go"),
        (("go", "build", "-o", str(TOOLS / "clients-go/conformance"), "./internal/conformance"), "clients/go"),
    ],
    [str(TOOLS / "clients-go/conformance")],
)

LANGUAGES["TypeScript"] = Language(
    "typescript",
    {"node": "Node.js 20.3 or newer: https://nodejs.org", "npm": "Node.js with npm: https://nodejs.org"},
    [
        (("npm", "ci", "--no-audit", "--no-fund", "--loglevel", "error"), "clients/typescript"),
        (("npm", "run", "--silent", "build"), "clients/typescript"),
    ],
    ["node", "clients/typescript/dist/conformance/main.js"],
)

# As in a browser, by fetch and so over HTTP/1.
LANGUAGES["TypeScript, gRPC-Web"] = Language(
    "typescript",
    LANGUAGES["TypeScript"].needs,
    LANGUAGES["TypeScript"].build,
    ["node", "clients/typescript/dist/conformance/main.js", "--web"],
    direct=True,
)

LANGUAGES["Java"] = Language(
    "java",
    {"java": "Java 17 or newer", "mvn": "Maven 3.8 or newer"},
    [(("mvn", "-q", "-B", "package"), "clients/java")],
    ["sh", "-c", 'cd clients/java/target; exec java -cp "classes:test-classes:$(cat classpath)" io.claudepool.Conformance "$1"', "sh"],
)

LANGUAGES["Rust"] = Language(
    "rust",
    {"cargo": "Rust 1.90 or newer: https://rustup.rs", "cc": "a C compiler"},
    [
        (("cargo", "fmt", "--check"), "clients/rust"),
        (("cargo", "clippy", "--locked", "--all-targets", "--", "-D", "warnings"), "clients/rust"),
        (("cargo", "build", "--locked", "--example", "conformance"), "clients/rust"),
    ],
    [str(Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "clients/rust/target")) / "debug/examples/conformance")],
)
