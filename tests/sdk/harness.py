"""A daemon over the emulator, for the tests of the official SDKs. Everything is on loopback."""

import json
import os
import pathlib
import re
import subprocess
import tempfile
import time
import urllib.request

TIDEGATE = os.environ["TIDEGATE"]
KEY = "a-key-for-sdk-tests"
MODEL = "gemini-2.0-flash"
EMBEDDER = "gemini-embedding-001"
PATIENCE = 60

LIMITS = f"""
[[project]]
name = "demo"
keys = ["{KEY}"]
[[project.model]]
name = "{MODEL}"
[[project.model]]
name = "{EMBEDDER}"
"""


def project(name, base_url, more=""):
    models = "".join(
        f'[[project.limits]]\nmodel = "{model}"\nrpm = 600_000\ntpm = "none"\nrpd = "none"\n'
        for model in (MODEL, EMBEDDER)
    )
    return f"""
[[project]]
name = "{name}"
base_url = "{base_url}"
keys = [{{ name = "main", env = "TIDEGATE_KEY" }}]
{more}
{models}"""


GEMINI = 'preset = "gemini-2025-02"\ntier = "free"'


class Process:
    """A command of the binary, ended with the test."""

    def __init__(self, directory, name, *args):
        self.log = directory / f"{name}.log"
        env = {"PATH": os.environ["PATH"], "HOME": str(directory), "TIDEGATE_KEY": KEY}
        with open(self.log, "wb") as log:
            self.child = subprocess.Popen([TIDEGATE, *args], stdout=log, stderr=log, env=env)

    def address(self):
        """Where it listens, once it does."""

        def look():
            found = re.search(r"https?://127\.0\.0\.1:\d+", self.log.read_text())
            return found and found.group(0)

        return until(look, self)

    def stop(self):
        self.child.terminate()
        try:
            self.child.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.wait()


def until(look, process=None):
    """What `look` finds, sooner or later."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        found = look()
        if found:
            return found
        if process and process.child.poll() is not None:
            raise AssertionError(f"ended:\n{process.log.read_text()}")
        time.sleep(0.05)
    log = process.log.read_text() if process else ""
    raise AssertionError(f"it did not come in {PATIENCE} s\n{log}")


class Site:
    """The emulator with a daemon before it. `between(url)` may put something in their middle."""

    def __init__(self, between=lambda url: url):
        self.temporary = tempfile.TemporaryDirectory(prefix="tidegate-sdk-")
        self.directory = pathlib.Path(self.temporary.name)
        self.processes = []
        try:
            self.start(between)
        except BaseException:
            self.stop()
            raise

    def start(self, between):
        (self.directory / "limits.toml").write_text(LIMITS)
        emulator = self.run(
            "emulator", "emulate", "--limits", str(self.directory / "limits.toml"),
            "--listen", "127.0.0.1:0",
        )
        self.direct = emulator.address()
        upstream = between(self.direct)
        openai = 'provider = "openai"'
        (self.directory / "tidegate.toml").write_text(
            f"""
[server]
listen = ["127.0.0.1:0"]
state_dir = "{self.directory}/state"
spool_dir = "{self.directory}/spool"
[defaults]
project = "demo"
model = "{MODEL}"
{project("demo", upstream, GEMINI)}
{project("other", upstream, openai)}
"""
        )
        daemon = self.run("daemon", "--config", str(self.directory / "tidegate.toml"), "serve")
        self.proxy = daemon.address()

    def run(self, name, *args):
        process = Process(self.directory, name, *args)
        self.processes.append(process)
        return process

    def get(self, path):
        with urllib.request.urlopen(self.proxy + path, timeout=PATIENCE) as answer:
            return json.load(answer)

    def ledger(self, tenant):
        """The attempts of a tenant, once all of them are settled."""

        def look():
            rows = self.get("/api/v1/attempts?limit=1000")["attempts"]
            rows = [row for row in rows if row["tenant"] == tenant]
            return rows if rows and all(row["state"] for row in rows) else None

        return until(look)

    def stop(self):
        for process in reversed(self.processes):
            process.stop()
        self.temporary.cleanup()
