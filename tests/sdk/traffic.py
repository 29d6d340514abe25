"""google-genai through the daemon: every answer is the one that the provider gives without it, and
the ledger has the tokens that the SDK shows."""

import base64
import unittest

from google import genai
from google.genai import errors, types
from harness import EMBEDDER, KEY, MODEL, Site

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR4nGNgAAAAAgAB4iG8MwAAAABJRU5ErkJggg=="
)

# What differs from call to call.
OWN = {"response_id", "continuation_ids", "create_time", "sdk_http_response", "id", "created", "updated", "name", "uri",
       "expiration_time", "update_time", "system_fingerprint", "automatic_function_calling_history"}


def plain(value):
    """A value without what differs from call to call."""
    if hasattr(value, "model_dump"):
        value = value.model_dump(exclude_none=True, mode="json")
    if isinstance(value, dict):
        return {key: plain(part) for key, part in value.items() if key not in OWN}
    if isinstance(value, (list, tuple)):
        return [plain(part) for part in value]
    return value


def total(answer):
    return answer.usage_metadata.total_token_count


class Traffic(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.site = Site()
        cls.count = 0

    @classmethod
    def tearDownClass(cls):
        cls.site.stop()

    def client(self, base_url, key):
        return genai.Client(api_key=key, http_options=types.HttpOptions(base_url=base_url))

    def both(self, call, used=None):
        """What a call gives with and without the daemon; its tokens are in the ledger."""
        direct = call(self.client(self.site.direct, KEY))
        type(self).count += 1
        tenant = f"call-{self.count}"
        through = call(self.client(f"{self.site.proxy}/t/{tenant}", "any"))
        self.assertEqual(plain(direct), plain(through))
        rows = self.site.ledger(tenant)
        self.assertTrue(all(row["state"] == 1 for row in rows), rows)
        if used is not None:
            self.assertEqual(sum(row["total_tokens"] for row in rows), used(through), rows)
        return through, rows

    def test_generate(self):
        def call(client):
            return client.models.generate_content(model=MODEL, contents="Name a river.")

        answer, rows = self.both(call, total)
        self.assertEqual(rows[0]["client"].split("/")[0], "google-genai-sdk")
        self.assertEqual(rows[0]["input_tokens"], answer.usage_metadata.prompt_token_count)
        self.assertEqual(rows[0]["output_tokens"], answer.usage_metadata.candidates_token_count)

    def test_image(self):
        part = types.Part.from_bytes(data=PNG, mime_type="image/png")
        self.both(
            lambda client: client.models.generate_content(model=MODEL, contents=["what?", part]),
            total,
        )

    def test_stream(self):
        def call(client):
            return list(client.models.generate_content_stream(model=MODEL, contents="Tell me more."))

        chunks, rows = self.both(call, lambda chunks: total(chunks[-1]))
        self.assertGreater(len(chunks), 1)
        self.assertEqual(rows[0]["method"], "streamGenerateContent")

    def test_chat(self):
        def call(client):
            chat = client.chats.create(model=MODEL)
            return [chat.send_message("My name is Ada."), chat.send_message("What is my name?")]

        _, rows = self.both(call, lambda answers: sum(total(answer) for answer in answers))
        self.assertEqual(len(rows), 2)

    def test_embed(self):
        def call(client):
            return client.models.embed_content(model=EMBEDDER, contents=["one", "two", "three"])

        answer, _ = self.both(call)
        self.assertEqual(len(answer.embeddings), 3)

    def test_count(self):
        def call(client):
            return client.models.count_tokens(model=MODEL, contents="Name a river.")

        answer, rows = self.both(call, lambda _: 0)
        self.assertGreater(answer.total_tokens, 0)

    def test_declared_tool(self):
        declared = types.FunctionDeclaration(
            name="add",
            description="adds",
            parameters=types.Schema(
                type="OBJECT", properties={"a": types.Schema(type="INTEGER")}, required=["a"]
            ),
        )
        config = types.GenerateContentConfig(tools=[types.Tool(function_declarations=[declared])])

        def call(client):
            return client.models.generate_content(model=MODEL, contents="Add.", config=config)

        answer, _ = self.both(call, total)
        self.assertEqual(answer.function_calls[0].name, "add")

    def test_automatic_function_calling(self):
        def weather(city: str) -> str:
            """Tells the weather of a city."""
            return f"sunny in {city}"

        config = types.GenerateContentConfig(tools=[weather])

        def call(client):
            return client.models.generate_content(model=MODEL, contents="Weather?", config=config)

        answer, rows = self.both(call)
        self.assertTrue(answer.text)
        # Each hop of the SDK is a request, and a row, of its own.
        self.assertEqual(len(rows), 2)

    def test_files(self):
        def call(client):
            path = self.site.directory / "note.txt"
            path.write_text("a note " * 100)
            file = client.files.upload(file=str(path))
            got = client.files.get(name=file.name)
            client.files.delete(name=file.name)
            with self.assertRaises(errors.ClientError):
                client.files.get(name=file.name)
            return [file.size_bytes, file.mime_type, got.size_bytes]

        direct = call(self.client(self.site.direct, KEY))
        through = call(self.client(f"{self.site.proxy}/t/files", "any"))
        self.assertEqual(direct, through)
        rows = self.site.ledger("files")
        # Both legs of the upload, get, delete, and the get of what is gone.
        self.assertEqual([row["state"] for row in reversed(rows)], [1, 1, 1, 1, 2], rows)

    def test_models(self):
        self.both(lambda client: [model for model in client.models.list()])
        self.both(lambda client: client.models.get(model=MODEL))

    def test_bad_request(self):
        def call(client):
            with self.assertRaises(errors.ClientError) as caught:
                client.models.generate_content(model=MODEL, contents=[types.Content(role="nobody", parts=[])])
            return [caught.exception.code, caught.exception.message]

        direct = call(self.client(self.site.direct, KEY))
        through = call(self.client(f"{self.site.proxy}/t/bad", "any"))
        self.assertEqual(direct, through)
        self.assertEqual(self.site.ledger("bad")[0]["state"], 2)


class Interactions(Traffic):
    """Only of the newer SDK."""

    def test_interaction(self):
        def call(client):
            return client.interactions.create(model=MODEL, input="Name a river.")

        self.both(call, lambda answer: answer.usage.total_tokens)

    def test_interaction_stream(self):
        def call(client):
            return list(client.interactions.create(model=MODEL, input="Name a river.", stream=True))

        self.both(call)


def load_tests(loader, _, __):
    newest = hasattr(genai.Client, "interactions") and not genai.__version__.startswith("1.")
    return loader.loadTestsFromTestCase(Interactions if newest else Traffic)


if __name__ == "__main__":
    unittest.main(verbosity=2)
