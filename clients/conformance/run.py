#!/usr/bin/env python3
"""Runs the scenario with the client of each language against a real server.

    clients/conformance/run.py [--only go,python] [--write] [--real]

A language's program is given one file, the scenario with addresses filled in.
It does each step, one after the other, and prints a line of JSON for each:
{"step": name, "saw": {...}} or {"step": name, "error": "..."}. It judges
nothing; what is seen is compared here, with the scenario's `expect`.
`--write` puts the table into clients/README.md, else it must be there already.
`--real`: on the real CLI, named by CLAUDEPOOL_TEST_CLAUDE, before a stand-in.
"""

import argparse
import asyncio
import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from languages import LANGUAGES
from proxy import Proxy

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "debug"
README = HERE.parent / "README.md"
BEGIN, END = "<!-- table -->\n", "<!-- /table -->\n"
PROGRAM_SECONDS = 180


def fail(why):
    print(f"error: {why}", file=sys.stderr)
    sys.exit(1)


def differs(expect, saw, shared):
    """What is wrong with what was seen; None: nothing."""
    for key, want in expect.items():
        got = saw.get(key)
        ok = got == want
        if isinstance(want, dict):
            ok = got is not None
            if "min" in want:
                ok = ok and got >= want["min"]
            if "match" in want:
                ok = ok and re.search(want["match"], got) is not None
            if "same" in want:
                ok = ok and got == saw.get(want["same"])
            if "shared" in want:
                ok = ok and got == shared.setdefault(want["shared"], got)
        if not ok:
            return f"{key}: {got!r}, not {want!r}"
    return None


class Server:
    """`claudepool serve` with the scripted CLI, or the real one, in a folder of
    its own. With `security`, more of its configuration: TLS and tokens."""

    def __init__(self, home, real, security=""):
        self.home, self.real, self.security = home, real, security

    async def __aenter__(self):
        self.home.mkdir()
        env = {"PATH": os.environ["PATH"], "HOME": str(self.home), "ANTHROPIC_API_KEY": "dummy"}
        cli = TARGET / "examples/fake_claude"
        if self.real:
            cli = Path(os.environ.get("CLAUDEPOOL_TEST_CLAUDE") or fail("--real: set CLAUDEPOOL_TEST_CLAUDE"))
            # `demo` is the program that serves the stand-in.
            command = [TARGET / "claudepool", "demo", "--canned", "--keep", "--listen", "127.0.0.1:0"]
            env["CLAUDEPOOL_CLAUDE_BIN"] = str(cli)
        else:
            (self.home / "work").mkdir()
            config = self.home / "server.toml"
            config.write_text((HERE / "server.toml").read_text() + self.security)
            command = [
                TARGET / "claudepool", "serve", "--log", "error", "--listen", "127.0.0.1:0",
                "--config", config, "--store", f"sqlite:{self.home}/store.db",
                "--claude-bin", cli, "--working-dir", self.home / "work",
            ]
        for program in (TARGET / "claudepool", cli):
            if not program.exists():
                fail(f"{program} is missing: cargo build --bin claudepool --example fake_claude")
        self.process = await asyncio.create_subprocess_exec(
            *command, env=env, cwd=self.home, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE
        )
        while line := (await asyncio.wait_for(self.process.stdout.readline(), 120)).decode():
            # `demo` shows what it can do first.
            if self.real and "goes on until" in line:
                return self
            if found := re.search(r"serving on (https?)://([\d.]+):(\d+)", line):
                scheme, host, port = found.groups()
                self.upstream = (host, int(port))
                # The name in the certificate.
                self.address = f"{scheme}://{'localhost' if scheme == 'https' else host}:{port}"
                if not self.real:
                    return self
        fail("the server did not start")

    async def done(self, prompt):
        """A finished task whose log somebody read: then every piece of text is an
        entry of its own."""
        out = await asyncio.to_thread(
            subprocess.check_output,
            [TARGET / "claudepool", "run", prompt, "--json", "--server", self.address],
            text=True,
        )
        return json.loads(out.splitlines()[0])["taskId"]

    async def __aexit__(self, *_):
        if self.process.returncode is None:
            self.process.terminate()
            await self.process.wait()


def certificate(home):
    """A certificate for localhost that signs itself."""
    cert, key = home / "cert.pem", home / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
         "-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost",
         "-addext", "basicConstraints=critical,CA:FALSE",
         "-keyout", key, "-out", cert],
        check=True, stderr=subprocess.DEVNULL,
    )
    return cert, key


def security(home):
    """The configuration of a server with TLS and two callers, and their tokens."""
    cert, key = certificate(home)
    tokens, file = {}, home / "tokens"
    for name, scope in {"ci": "work", "reader": "read"}.items():
        command = [TARGET / "claudepool", "token", name, "--scope", scope, "--file", file]
        tokens[name] = subprocess.check_output(command, text=True).strip()
    tables = f"[server.tls]\ncertificate = '{cert}'\nkey = '{key}'\n[server.auth]\ntoken_file = '{file}'\n"
    return tables, tokens


async def run_language(name, language, scenario, servers, home, shared):
    """The steps' outcomes by name: None is good, "-" not done by this language,
    else what is wrong."""
    proxies, steps = {}, []
    beyond = {"via", "server"} if language.direct else set()
    skipped = {step["name"]: "-" for step in scenario["steps"] if beyond & step.keys()}
    for step in scenario["steps"]:
        if step["name"] in skipped:
            continue
        server = servers[step.get("server", "plain")]
        step = dict(step, address=server.address, direct=server.address)
        if server.security:
            step["ca_file"] = str(home / "cert.pem")
        if token := step.get("token"):
            step["token"] = scenario["tokens"][token]
        if via := step.get("via"):
            proxies[step["name"]] = proxy = Proxy(server.upstream, **via)
            step["address"] = await proxy.start()
        if task := step.get("task"):
            step["task_id"] = scenario["task_ids"][task]
        steps.append({k: v for k, v in step.items() if k not in ("expect", "via", "server")})
    file = home / "steps.json"
    file.write_text(json.dumps({"steps": steps}))

    process = await asyncio.create_subprocess_exec(
        *language.command, str(file), cwd=ROOT, stdout=asyncio.subprocess.PIPE, env=language.env()
    )
    outcomes = {}
    expected = {step["name"]: step["expect"] for step in scenario["steps"]}

    async def read():
        begin = time.monotonic()
        while line := await process.stdout.readline():
            try:
                told = json.loads(line)
            except ValueError:
                print(line.decode(), end="")
                continue
            step = told["step"]
            saw = told.get("saw") or {}
            if step in proxies:
                saw["cuts"] = proxies[step].cuts
            wrong = told.get("error") or differs(expected[step], saw, shared)
            outcomes[step] = wrong
            now = time.monotonic()
            print(f"{name}: {step}: {'ok' if wrong is None else 'FAILED: ' + wrong} ({now - begin:.1f} s)", flush=True)
            begin = now

    try:
        await asyncio.wait_for(read(), PROGRAM_SECONDS)
        await process.wait()
    except asyncio.TimeoutError:
        process.kill()
        print(f"{name}: not done after {PROGRAM_SECONDS} s")
    for proxy in proxies.values():
        await proxy.stop()
    return {step: outcomes.get(step, skipped.get(step, "not done")) for step in expected}


def table(scenario, results):
    lines = ["| Step | " + " | ".join(results) + " |", "| --- |" + " --- |" * len(results)]
    for step in scenario["steps"]:
        cells = [{None: "ok", "-": ""}.get(outcomes[step["name"]], "**no**") for outcomes in results.values()]
        lines.append(f"| {step['name']} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


async def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", help="languages, with commas between them")
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--real", action="store_true")
    args = parser.parse_args()
    only = args.only.split(",") if args.only else None
    languages = {name: lang for name, lang in LANGUAGES.items() if only is None or lang.key in only}
    missing = {tool: what for lang in languages.values() for tool, what in lang.needs.items() if not shutil.which(tool)}
    if not shutil.which("openssl"):
        missing["openssl"] = "OpenSSL"
    if missing or not languages:
        fail("; ".join(f"there is no {tool} in PATH: install {what}" for tool, what in missing.items()) or "no language")

    scenario = json.loads((HERE / ("real.json" if args.real else "scenario.json")).read_text())
    results, shared, times, built = {}, {}, [], set()
    for name, language in languages.items():
        begin = time.monotonic()
        for command, folder in language.build:
            if (command, folder) in built:
                continue
            built.add((command, folder))
            print(f"{name}: {' '.join(command)}", flush=True)
            if subprocess.run(command, cwd=ROOT / folder, env=language.env()).returncode:
                fail(f"{name} is not built")
        times.append(f"{name} built in {time.monotonic() - begin:.0f} s")

    with tempfile.TemporaryDirectory(prefix="claudepool-clients-") as home:
        home = Path(home)
        tables, scenario["tokens"] = security(home)
        async with contextlib.AsyncExitStack() as stack:
            server = await stack.enter_async_context(Server(home / "plain", args.real))
            servers = {"plain": server}
            if not args.real:
                servers["tls"] = await stack.enter_async_context(Server(home / "tls", False, tables))
            scenario["task_ids"] = {k: await server.done(v) for k, v in scenario.get("tasks", {}).items()}
            for name, language in languages.items():
                begin = time.monotonic()
                results[name] = await run_language(name, language, scenario, servers, home, shared)
                times.append(f"{name} run in {time.monotonic() - begin:.0f} s")

    text = table(scenario, results)
    print("\n".join([*times, "", text]))
    bad = [f"{name}: {step}: {why}" for name, outcomes in results.items() for step, why in outcomes.items() if why and why != "-"]
    count = sum(why != "-" for outcomes in results.values() for why in outcomes.values())
    print(*bad, sep="\n")
    print(f"{count - len(bad)} passed, {len(bad)} failed")
    if bad:
        sys.exit(1)
    if only is None and not args.real:
        # What is told there is what was seen.
        readme = README.read_text()
        before, rest = readme.split(BEGIN)
        now = before + BEGIN + text + END + rest.split(END)[1]
        if args.write:
            README.write_text(now)
        elif now != readme:
            fail("the table in clients/README.md is not this one: make test-clients TABLE=--write")


if __name__ == "__main__":
    asyncio.run(main())
