"""openai-python through the daemon, to a Gemini project's compatible endpoint and to an
OpenAI-compatible project."""

import unittest

import openai
from harness import EMBEDDER, KEY, MODEL, Site
from traffic import plain


class OpenAi(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.site = Site()
        cls.count = 0

    @classmethod
    def tearDownClass(cls):
        cls.site.stop()

    def both(self, call, used):
        for direct_path, path in (("/v1beta/openai", "/p/demo/v1beta/openai"),
                                  ("/v1", "/p/other/openai/v1")):
            type(self).count += 1
            tenant = f"call-{self.count}"
            direct = openai.OpenAI(base_url=self.site.direct + direct_path, api_key=KEY)
            proxy = f"{self.site.proxy}/t/{tenant}{path}"
            through = openai.OpenAI(base_url=proxy, api_key="any")
            answers = [call(direct), call(through)]
            self.assertEqual(plain(answers[0]), plain(answers[1]))
            rows = self.site.ledger(tenant)
            self.assertTrue(all(row["state"] == 1 for row in rows), rows)
            total = used(answers[1], path)
            self.assertEqual(sum(row["total_tokens"] for row in rows), total, rows)

    def test_chat(self):
        def call(client):
            messages = [{"role": "user", "content": "Name a river."}]
            return client.chat.completions.create(model=MODEL, messages=messages)

        self.both(call, lambda answer, _: answer.usage.total_tokens)

    def test_chat_stream(self):
        def call(client):
            messages = [{"role": "user", "content": "Name a river."}]
            options = {"include_usage": True}
            return list(
                client.chat.completions.create(
                    model=MODEL, messages=messages, stream=True, stream_options=options
                )
            )

        def used(chunks, _):
            return [chunk.usage for chunk in chunks if chunk.usage][-1].total_tokens

        self.both(call, used)

    def test_embeddings(self):
        def call(client):
            return client.embeddings.create(model=EMBEDDER, input=["one", "two"])

        def used(answer, path):
            usage = getattr(answer, "usage", None)
            return usage.total_tokens if usage else 0

        self.both(call, used)

    def test_models(self):
        self.both(lambda client: [model.id for model in client.models.list()], lambda *_: 0)

    def test_refusal(self):
        with self.assertRaises(openai.BadRequestError):
            client = openai.OpenAI(base_url=f"{self.site.proxy}/openai/v1", api_key="any")
            client.chat.completions.create(model=MODEL, messages=[{"role": "nobody", "content": "x"}])


if __name__ == "__main__":
    unittest.main(verbosity=2)
