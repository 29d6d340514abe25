"""By hand, for it takes minutes: what callers wait on a real minute's quota.

    cargo build && TIDEGATE=target/debug/tidegate target/sdk/new/bin/python tests/sdk/held.py CASE

`patient`: 200 callers at once on 60 requests a minute, each waiting up to 240 s.
`default`: the same with the default wait.
`mixed`: a batch that takes all it can, and 3 callers a minute beside it, for six minutes.
"""

import json
import os
import sys
import threading
import time

import harness
from google import genai
from google.genai import errors, types
from harness import KEY, MODEL, Site

RPM = 60


class Strict(Site):
    """The emulator and the daemon both count 60 requests in any minute."""

    def start(self, between):
        harness.LIMITS = (
            f'[[project]]\nname = "demo"\nkeys = ["{KEY}"]\n'
            f'[[project.model]]\nname = "{MODEL}"\nrpm = {RPM}\n'
        )
        super().start(between)

    def run(self, name, *args):
        path = self.directory / "tidegate.toml"
        if name == "daemon":
            path.write_text(path.read_text().replace("rpm = 600_000", f"rpm = {RPM}"))
        return super().run(name, *args)


def call(site, number, wait):
    headers = {"x-tidegate-max-wait": wait} if wait else {}
    options = types.HttpOptions(base_url=site.proxy, headers=headers)
    client = genai.Client(api_key="any", http_options=options)
    begun = time.monotonic()
    try:
        answer = client.models.generate_content(model=MODEL, contents=f"call {number}")
        told = answer.sdk_http_response.headers
        return {"n": number, "ok": True, "attempt": int(told["x-tidegate-attempt"]),
                "waited": int(told["x-tidegate-waited-ms"]) / 1000}
    except errors.APIError as error:
        delay = [it.get("retryDelay") for it in error.details["error"].get("details", [])]
        return {"n": number, "ok": False, "code": error.code, "retry": [it for it in delay if it],
                "after": time.monotonic() - begun}


def refusals(site):
    import urllib.request

    with urllib.request.urlopen(site.direct + "/__emulator/log") as log:
        rows = [json.loads(line) for line in log.read().decode().splitlines()]
    return len(rows), sum(row["status"] == 429 for row in rows)


def crowd(site, wait):
    results, threads = [], []
    for number in range(200):
        thread = threading.Thread(target=lambda n=number: results.append(call(site, n, wait)))
        thread.start()
        threads.append(thread)
        time.sleep(0.02)
    for thread in threads:
        thread.join()
    results.sort(key=lambda it: it["n"])
    good = [it for it in results if it["ok"]]
    rows = sorted(site.get("/api/v1/attempts?limit=1000")["attempts"], key=lambda row: row["id"])
    came = [row["at_ms"] - row["waited_ms"] for row in rows]
    # Of two that came in one millisecond the ledger does not tell the first.
    early = sum(two < one - 1 for one, two in zip(came, came[1:]))
    print(f"{len(good)} of 200 answered, {early} went before one that had come earlier")
    if good:
        print(f"longest wait {max(it['waited'] for it in good):.1f} s")
    bad = [it for it in results if not it["ok"]]
    if bad:
        after = [it["after"] for it in bad]
        print(f"{len(bad)} refused with {sorted({it['code'] for it in bad})} after "
              f"{min(after):.1f} to {max(after):.1f} s; first and last RetryInfo: "
              f"{bad[0]['retry']} {bad[-1]['retry']}")
    calls, refused = refusals(site)
    print(f"the provider saw {calls} calls and refused {refused}")


def mixed(site):
    # What callers use is known once some have called.
    for number in range(3):
        call(site, number, "240s")
    lines = "".join(
        json.dumps({"key": str(n), "request": {"contents": [{"role": "user", "parts": [{"text": f"b {n}"}]}]}}) + "\n"
        for n in range(1_000)
    )
    incoming = site.directory / "spool" / "incoming"
    (incoming / ".batch.jsonl").write_text(lines)
    os.rename(incoming / ".batch.jsonl", incoming / "batch.jsonl")
    time.sleep(5)
    waited = []
    for number in range(18):
        result = call(site, number, "240s")
        waited.append(result["waited"])
        time.sleep(20 - result["waited"] if result["waited"] < 20 else 0)
    waited.sort()
    p95 = waited[int(len(waited) * 0.95)]
    kept = max(1, RPM * 5 // 100)
    bound = 2 * 62 / (RPM - kept)
    print(f"waits of {len(waited)} callers beside a batch: p50 {waited[len(waited) // 2]:.2f} s, "
          f"p95 {p95:.2f} s, most {waited[-1]:.2f} s; bound 2(W+D)/N = {bound:.2f} s")
    calls, refused = refusals(site)
    print(f"the provider saw {calls} calls and refused {refused}")


def main(case):
    site = Strict()
    try:
        if case == "mixed":
            mixed(site)
        else:
            crowd(site, "240s" if case == "patient" else None)
    finally:
        site.stop()


if __name__ == "__main__":
    main(*sys.argv[1:])
