"""The official client and the judge's own against the server, over a real socket."""

import asyncio
import json
import math
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from serving_model import data_url, user

from olivine.errors import RunError
from olivine.evaluation.engine import AnsweringEngine
from olivine.evaluation.judge import Judge, JudgeRequest
from olivine.model.generate import answer_one
from olivine.records import Question
from olivine.testing import write_images

openai = pytest.importorskip("openai")


@pytest.fixture(scope="module")
def client(served):
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0, timeout=60) as made:
        yield made


@pytest.fixture(scope="module")
def asked(tiny, tmp_path_factory):
    """Questions, their images, and what the answering engine says to them."""
    folder = tmp_path_factory.mktemp("asked")
    names = write_images(folder, 6)
    words = ("what", "color", "is it", "a red circle", "or", "no", "é😀", "shape")
    questions = [
        Question(str(n), " ".join(words[(n * 7 + k) % 8] for k in range(1 + n % 6)) + f" {n}?", names[n % 6], "")
        for n in range(48)
    ]
    answers = AnsweringEngine(tiny, max_new_tokens=6).answer(questions, folder)
    expected = {answer.question_id: answer.text for answer in answers}
    assert len(set(expected.values())) > 12
    return questions, folder, expected


def complete(client, question, folder, **options):
    messages = [user(question.prompt, data_url(folder / question.image))]
    return client.chat.completions.create(
        model="tiny", messages=messages, **{"max_tokens": 6, "temperature": 0, **options}
    )


@pytest.mark.parametrize("together", [1, 16])
def test_answers_are_the_engines(client, asked, together):
    questions, folder, expected = asked
    with ThreadPoolExecutor(together) as pool:
        made = list(pool.map(lambda q: complete(client, q, folder), questions))
    assert {q.id: one.choices[0].message.content for q, one in zip(questions, made, strict=True)} == expected


def test_questions_that_come_together_share_a_batch_and_an_image_its_prefix(served, client, asked):
    questions, folder, _ = asked
    prefixes = served.models["tiny"].prefiller.prefixes
    complete(client, questions[0], folder)
    hits = prefixes.hits
    again = complete(client, questions[6], folder)
    assert prefixes.hits == hits + 1
    assert again.usage.prompt_tokens_details.cached_tokens > served.models["tiny"].vlm.image_tokens


def test_a_stream_says_what_the_whole_answer_says(client, asked):
    questions, folder, expected = asked
    for question in questions[:6]:
        chunks = list(
            complete(client, question, folder, stream=True, stream_options={"include_usage": True}, logprobs=True)
        )
        assert chunks[0].choices[0].delta.role == "assistant"
        texts = [c.choices[0].delta.content for c in chunks if c.choices and c.choices[0].delta.content]
        whole = complete(client, question, folder, logprobs=True)
        assert "".join(texts) == expected[question.id] == whole.choices[0].message.content
        assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == whole.choices[0].finish_reason
        assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
        streamed = [t for c in chunks if c.choices and c.choices[0].logprobs for t in c.choices[0].logprobs.content]
        assert [t.token for t in streamed] == [t.token for t in whole.choices[0].logprobs.content]


def test_logprobs_are_the_models(tiny, client, asked):
    questions, folder, _ = asked
    question = questions[3]
    choice = complete(client, question, folder, logprobs=True, top_logprobs=5).choices[0]
    tokens = choice.logprobs.content
    prefix, text = tiny.encoder().prompt(question.prompt, True)
    ids = torch.tensor([[*prefix, *text]])
    from olivine.data.images import open_image

    pixels = torch.from_numpy(tiny.transform(open_image(folder / question.image)))[None]
    with torch.no_grad():
        logits = tiny.model(input_ids=ids, attention_mask=torch.ones_like(ids), pixel_values=pixels).logits[0, -1]
    expected = torch.log_softmax(logits.float(), 0).topk(5).values
    assert tokens[0].logprob == pytest.approx(float(expected[0]), abs=1e-4)
    assert [t.logprob for t in tokens[0].top_logprobs] == pytest.approx(expected.tolist(), abs=1e-4)
    assert tokens[0].top_logprobs[0].token == tokens[0].token
    total = math.exp(sum(t.logprob for t in tokens))
    probability = choice.model_extra["answer_probability"]
    assert probability <= total * 1.0001
    assert (choice.finish_reason == "length") is (probability == pytest.approx(total, rel=1e-6))


def test_a_seed_repeats_answers_and_n_gives_several(client, asked):
    questions, folder, expected = asked

    def sample(seed, **options):
        options = {"temperature": 1.5, "n": 4, "seed": seed, **options}
        return [c.message.content for c in complete(client, questions[0], folder, **options).choices]

    first = sample(7)
    assert first == sample(7)
    assert first != sample(8)
    assert len(set(first)) > 1
    assert sample(7, top_p=1e-6) == [expected["0"]] * 4  # only the most probable token is left


def test_a_stop_text_ends_the_answer_before_it(client, asked):
    questions, folder, expected = asked
    question = next(q for q in questions if len(expected[q.id]) > 6)
    text = expected[question.id]
    stop = text[3:5]
    want = text[: text.index(stop)].strip()
    whole = complete(client, question, folder, stop=["never there", stop]).choices[0]
    assert (whole.message.content, whole.finish_reason) == (want, "stop")
    chunks = complete(client, question, folder, stop=stop, stream=True)
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == want


def test_several_images_system_turns_and_history(tiny, client, asked):
    _, folder, _ = asked
    urls = [data_url(folder / name) for name in ("0.png", "1.png")]
    made = client.chat.completions.create(
        model="tiny", messages=[user("which is red?", *urls)], max_completion_tokens=6
    )
    paths = [folder / "0.png", folder / "1.png"]
    assert made.choices[0].message.content == answer_one(tiny, "which is red?", paths, max_new_tokens=6)
    made = client.chat.completions.create(
        model="tiny",
        messages=[{"role": "system", "content": "answer with no"}, user("is it red?", urls[0])],
        max_tokens=6,
    )
    expected = answer_one(tiny, "is it red?", paths[0], system="answer with no", max_new_tokens=6)
    assert made.choices[0].message.content == expected
    history = [user("is it red?", urls[0]), {"role": "assistant", "content": "no"}, user("what color is it?")]
    made = client.chat.completions.create(model="tiny", messages=history, max_tokens=6)
    assert made.usage.prompt_tokens > 2 * tiny.image_tokens


def test_models_are_listed_and_others_are_unknown(client):
    assert [model.id for model in client.models.list()] == ["tiny", "other"]
    assert client.models.retrieve("other").id == "other"
    with pytest.raises(openai.NotFoundError, match="Did you mean 'tiny'"):
        client.chat.completions.create(model="tinny", messages=[user("a?")])


def test_two_models_answer_for_themselves(client, asked):
    questions, folder, _ = asked

    def texts(model):
        return [complete(client, q, folder, model=model).choices[0].message.content for q in questions[:8]]

    def complete(client, question, folder, model):
        message = user(question.prompt, data_url(folder / question.image))
        return client.chat.completions.create(model=model, messages=[message], max_tokens=6)

    assert texts("tiny") != texts("other")


def test_the_judge_is_answered(served, tiny, tmp_path):
    judge = Judge(f"{served.url}/v1", "tiny", tmp_path, retries=0)
    requests = [JudgeRequest(f"is it red? {n}", max_tokens=5) for n in range(12)]
    replies = judge.each(judge.ask, requests)
    assert [r.text for r in replies] == [answer_one(tiny, q.prompt, None, max_new_tokens=5) for q in requests]
    with pytest.raises(RunError, match="no model"):
        Judge(f"{served.url}/v1", "gpt-9", tmp_path, retries=0).ask(requests[0])


def test_the_async_client_streams_many_at_once(served, asked):
    questions, folder, expected = asked

    async def stream(client, question):
        message = user(question.prompt, data_url(folder / question.image))
        chunks = await client.chat.completions.create(model="tiny", messages=[message], max_tokens=6, stream=True)
        return "".join([c.choices[0].delta.content or "" async for c in chunks])

    async def all_of_them():
        async with openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0) as client:
            return await asyncio.gather(*(stream(client, q) for q in questions[:32]))

    assert asyncio.run(all_of_them()) == [expected[q.id] for q in questions[:32]]


def test_metrics_count(served, client, asked):
    import httpx2

    questions, folder, _ = asked
    complete(client, questions[0], folder)
    text = httpx2.get(f"{served.url}/metrics").text
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if line and not line.startswith("#"))
    assert float(values['olivine_requests_total{status="200"}']) >= 1
    assert float(values["olivine_answer_tokens_total"]) >= 1
    assert float(values["olivine_waiting_requests"]) == 0
    assert json.loads(httpx2.get(f"{served.url}/health").text) == {"status": "ok"}
