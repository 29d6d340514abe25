"""Job files made with the SDKs' request types: they reach the provider unchanged, and what comes
back parses with the SDKs' own types."""

import base64
import http.client
import http.server
import json
import os
import threading
import unittest
import urllib.parse

from google.genai import types
from harness import EMBEDDER, MODEL, Site, until
from openai._models import construct_type
from openai.types import CreateEmbeddingResponse
from openai.types.chat import ChatCompletion

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR4nGNgAAAAAgAB4iG8MwAAAABJRU5ErkJggg=="
)


class Recorder(http.server.ThreadingHTTPServer):
    """Passes requests on and keeps their bodies."""

    daemon_threads = True

    def __init__(self, upstream):
        super().__init__(("127.0.0.1", 0), Passing)
        self.upstream = urllib.parse.urlsplit(upstream).netloc
        self.bodies = []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def url(self):
        return f"http://127.0.0.1:{self.server_port}"


class Passing(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.bodies.append(body)
        upstream = http.client.HTTPConnection(self.server.upstream, timeout=60)
        passed = ("content-type", "authorization", "x-goog-api-key")
        headers = {name: self.headers[name] for name in passed if self.headers[name]}
        upstream.request("POST", self.path, body, headers)
        answer = upstream.getresponse()
        document = answer.read()
        self.send_response(answer.status)
        for name in ("content-type", "date", "x-request-id"):
            if answer.headers[name]:
                self.send_header(name, answer.headers[name])
        self.send_header("content-length", str(len(document)))
        self.end_headers()
        self.wfile.write(document)
        upstream.close()

    def log_message(self, *_):
        pass


def dumped(value):
    return json.loads(value.model_dump_json(exclude_none=True, by_alias=True))


def gemini_lines():
    said = [dumped(types.Content(role="user", parts=[types.Part(text="Name three rivers.")]))]
    config = dumped(types.GenerationConfig(temperature=0.2, max_output_tokens=64))
    picture = {"inline_data": {"mime_type": "image/png", "data": base64.b64encode(PNG).decode()}}
    function = types.FunctionDeclaration(
        name="f", description="d", parameters=types.Schema(type="OBJECT", properties={})
    )
    return [
        {"key": "camel", "request": {"contents": said, "generationConfig": config}},
        {
            "key": "snake",
            "request": {
                "contents": [{"role": "user", "parts": [{"text": "hi"}, picture]}],
                "system_instruction": {"parts": [{"text": "Be brief."}]},
                "generation_config": {"max_output_tokens": 32},
            },
        },
        {
            "key": "tools",
            "request": {"contents": said, "tools": [{"functionDeclarations": [dumped(function)]}]},
        },
        {"key": "blocked", "request": {"contents": [{"role": "user", "parts": [{"text": "[[block]] x"}]}]}},
        {"key": "refused", "request": {"contents": [{"role": "nobody", "parts": [{"text": "x"}]}]}},
    ]


def embed_lines():
    return [
        {"key": f"e{n}", "request": {"content": {"parts": [{"text": f"embed {n}"}]}}} for n in range(3)
    ]


def openai_lines():
    said = [{"role": "user", "content": "Name a river."}]
    url = "data:image/png;base64," + base64.b64encode(PNG).decode()
    picture = [{"type": "text", "text": "what?"}, {"type": "image_url", "image_url": {"url": url}}]
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
    bodies = {
        "chat": {"messages": [{"role": "system", "content": "Be brief."}] + said, "max_tokens": 50},
        "image": {"messages": [{"role": "user", "content": picture}]},
        "two": {"messages": said, "n": 2},
        "tools": {"messages": said, "tools": [tool]},
        "bad": {"messages": [{"role": "nobody", "content": "x"}]},
    }
    chat = [
        {"custom_id": key, "method": "POST", "url": "/v1/chat/completions", "body": {"model": MODEL, **body}}
        for key, body in bodies.items()
    ]
    return chat


def openai_embed_lines():
    body = {"model": MODEL, "input": "a text"}
    return [{"custom_id": "embed", "method": "POST", "url": "/v1/embeddings", "body": body}]


class JobFiles(unittest.TestCase):
    def setUp(self):
        self.recorder = None

        def between(url):
            self.recorder = Recorder(url)
            return self.recorder.url()

        self.site = Site(between)

    def tearDown(self):
        self.site.stop()
        self.recorder.shutdown()
        self.recorder.server_close()

    def results(self, name, lines, options):
        """Drops a file and waits for its results; what was sent is what the file says."""
        incoming = self.site.directory / "spool" / "incoming"
        before = len(self.recorder.bodies)
        bodies = [json.dumps(line.get("request") or line["body"]) for line in lines]
        first = json.dumps({"tidegate": options})
        text = first + "\n" + "".join(json.dumps(line) + "\n" for line in lines)
        (incoming / f".{name}").write_text(text)
        os.rename(incoming / f".{name}", incoming / name)
        stem = name.removesuffix(".jsonl")

        def look():
            for where in ("done", "failed"):
                path = self.site.directory / "spool" / where / f"{stem}.results.jsonl"
                if path.exists():
                    return path.read_text()

        answered = [json.loads(line) for line in until(look).splitlines()]
        self.assertEqual(len(answered), len(lines))
        sent = [body.decode() for body in self.recorder.bodies[before:]]
        self.assertEqual(sorted(sent), sorted(bodies))
        return answered

    def assert_ledger(self, project, model, total):
        rows = self.site.get("/api/v1/usage")["rows"]
        rows = [row for row in rows if (row["project"], row["model"]) == (project, model)]
        self.assertEqual(sum(row["total_tokens"] for row in rows), total)

    def test_gemini(self):
        options = {"project": "demo", "model": MODEL}
        answered = self.results("g.jsonl", gemini_lines(), options)
        total = 0
        for line, asked in zip(answered, gemini_lines()):
            self.assertEqual(line["key"], asked["key"])
            if line["key"] == "refused":
                # As the SDK reads it: what it does not know is left out.
                error = types.JobError._from_response(response=line["error"], kwargs={})
                self.assertEqual(error.code, 400)
                continue
            answer = types.GenerateContentResponse.model_validate(line["response"])
            total += answer.usage_metadata.total_token_count
            if line["key"] == "blocked":
                self.assertIsNotNone(answer.prompt_feedback.block_reason)
            else:
                self.assertTrue(answer.candidates[0].content.parts)
        self.assert_ledger("demo", MODEL, total)

    def test_gemini_embeddings(self):
        answered = self.results("e.jsonl", embed_lines(), {"project": "demo", "model": EMBEDDER})
        for line in answered:
            answer = types.EmbedContentResponse.model_validate(
                {"embeddings": [line["response"]["embedding"]]}
            )
            self.assertTrue(answer.embeddings[0].values)

    def openai(self, project):
        options = {"project": project}
        answered = self.results(f"o-{project}.jsonl", openai_lines(), options)
        total = 0
        for line, asked in zip(answered, openai_lines()):
            self.assertEqual(line["custom_id"], asked["custom_id"])
            self.assertEqual(set(line), {"id", "custom_id", "response", "error"})
            status, body = line["response"]["status_code"], line["response"]["body"]
            if line["custom_id"] == "bad":
                self.assertEqual(status, 400)
                continue
            self.assertEqual(status, 200, body)
            answer = ChatCompletion.model_validate(body)
            self.assertEqual(len(answer.choices), 2 if line["custom_id"] == "two" else 1)
            total += answer.usage.total_tokens
        embedded = self.results(f"e-{project}.jsonl", openai_embed_lines(), options)
        body = embedded[0]["response"]["body"]
        if project == "demo":
            # Gemini's endpoint tells no usage of embeddings; the SDK takes what it gets.
            self.assertNotIn("usage", body)
            answer = construct_type(type_=CreateEmbeddingResponse, value=body)
        else:
            answer = CreateEmbeddingResponse.model_validate(body)
            total += answer.usage.total_tokens
        self.assertTrue(answer.data[0].embedding)
        self.assert_ledger(project, MODEL, total)

    def test_openai_at_gemini(self):
        self.openai("demo")

    def test_openai(self):
        self.openai("other")


if __name__ == "__main__":
    unittest.main(verbosity=2)
