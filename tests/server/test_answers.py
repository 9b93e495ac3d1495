"""What a client gets for a good request: text, usage, seeds, log-probabilities, figures."""

from __future__ import annotations

import dataclasses

from bowsprit_engine.core.request import SpeculationParams
from bowsprit_engine.server.prompts import PromptEncoder
from scripted_engine import END, MAX_MODEL_LEN, ScriptedEngine
from server.running_server import RunningServer, Serve
from server.test_text_pieces import fallback_tokenizer


async def test_a_chat_answer_has_the_shape_that_openai_clients_read(serve: Serve) -> None:
    """Object names, message, finish reason, usage and the block of figures."""
    server = await serve(ScriptedEngine(answer=lambda request: [*b"Hello.", END]))
    body = (await server.chat("Hi", seed=7)).json()
    assert body["object"] == "chat.completion"
    assert body["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "Hello.", "refusal": None},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ]
    assert body["usage"] == {
        "prompt_tokens": 20,
        "completion_tokens": 7,
        "total_tokens": 27,
        "prompt_tokens_details": {"cached_tokens": 0},
    }
    assert body["metrics"] == {
        "seed": 7,
        "speculative_decoding": {
            "mean_acceptance_length": 2.5,
            "draft_acceptance_rate": 0.5,
            "acceptance_histogram": [1, 1, 1, 1],
            "num_spec_steps": 4,
            "num_accepted_draft_tokens": 6,
            "num_draft_tokens": 12,
            "num_steps": 3,
        },
    }


async def test_the_prompt_is_rendered_by_the_models_own_template(serve: Serve) -> None:
    """Content parts are joined, a developer speaks as the system."""
    server = await serve()
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    messages = [{"role": "developer", "content": "Be kind."}, {"role": "user", "content": parts}]
    await server.chat(messages=messages)
    expected = [257, *b"system:Be kind.\n", 257, *b"user:ab\n", 257, *b"assistant:"]
    assert list(server.engine.requests[0].prompt_token_ids) == expected


async def test_prompts_may_be_texts_or_token_ids_one_or_many(serve: Serve) -> None:
    """Each of the four forms of `prompt`; choices are numbered prompt by prompt."""
    server = await serve()
    for prompt, expected in (
        ("ab", [(97, 98)]),
        (["a", "b"], [(97,), (98,)]),
        ([97, 98], [(97, 98)]),
        ([[97], [98]], [(97,), (98,)]),
    ):
        server.engine.requests.clear()
        body = (await server.complete(prompt)).json()
        assert [request.prompt_token_ids for request in server.engine.requests] == expected
        assert [choice["index"] for choice in body["choices"]] == list(range(len(expected)))


async def test_choices_draw_with_consecutive_seeds_and_an_absent_seed_is_reported(serve: Serve) -> None:
    """The i-th choice has seed + i, so that any of them can be asked for again alone."""
    server = await serve()
    body = (await server.chat(n=3)).json()
    seed = body["metrics"]["seed"]
    assert [request.sampling.seed for request in server.engine.requests] == [seed, seed + 1, seed + 2]
    assert seed < 2**53


async def test_a_negative_seed_is_its_64_bits(serve: Serve) -> None:
    """OpenAI allows any 64-bit integer."""
    server = await serve()
    await server.chat(seed=-1)
    assert server.engine.requests[0].sampling.seed == 2**64 - 1


async def test_text_completions_default_to_sixteen_tokens_and_chat_to_the_rest_of_the_context(serve: Serve) -> None:
    """OpenAI's defaults."""
    server = await serve()
    await server.complete("Hi")
    await server.chat("Hi")
    assert [request.sampling.max_tokens for request in server.engine.requests] == [16, 512 - 20]


async def test_a_request_narrows_its_speculation(serve: Serve) -> None:
    """The body's extension reaches the engine."""
    server = await serve()
    await server.chat(speculation={"mode": "auto", "max_draft_tokens": 2, "drafter": "ngram"})
    await server.chat(speculation={"mode": "off"})
    assert [request.speculation for request in server.engine.requests] == [
        SpeculationParams(enabled=True, max_draft_tokens=2, drafter="ngram"),
        SpeculationParams(enabled=False),
    ]


async def test_chat_logprobs_name_tokens_bytes_and_alternatives(serve: Serve) -> None:
    """One entry per counted token."""
    server = await serve(ScriptedEngine(answer=lambda request: b"ab"))
    body = (await server.chat(max_tokens=2, logprobs=True, top_logprobs=2)).json()
    first = body["choices"][0]["logprobs"]["content"][0]
    assert first == {
        "token": "a",
        "logprob": -0.25,
        "bytes": [97],
        "top_logprobs": [
            {"token": "a", "logprob": -0.25, "bytes": [97]},
            {"token": "A", "logprob": -2.0, "bytes": [65]},
        ],
    }


async def test_completion_logprobs_have_offsets_into_the_text(serve: Serve) -> None:
    """The older shape of text completions."""
    server = await serve(ScriptedEngine(answer=lambda request: b"abc"))
    body = (await server.complete(logprobs=1)).json()
    assert body["choices"][0]["logprobs"] == {
        "tokens": ["a", "b", "c"],
        "token_logprobs": [-0.25, -0.25, -0.25],
        "top_logprobs": [{"a": -0.25}, {"b": -0.25}, {"c": -0.25}],
        "text_offset": [0, 1, 2],
    }


async def test_a_text_completion_keeps_the_blank_before_its_first_word(serve: Serve) -> None:
    """SentencePiece's decoder takes it away from a text that begins there; this one goes on with a prompt's."""
    server: RunningServer = await serve(ScriptedEngine(answer=lambda request: [97, 97, END]))
    assert server.lifecycle.served is not None
    prompts = PromptEncoder(fallback_tokenizer(sea=97), max_model_len=MAX_MODEL_LEN)
    server.lifecycle.served = dataclasses.replace(server.lifecycle.served, prompts=prompts)
    answer = await server.complete([97])
    assert answer.json()["choices"][0]["text"] == " sea sea"


async def test_a_stop_string_ends_the_answer_before_it(serve: Serve) -> None:
    """Also when it is spread over steps; tokens count up to the one that completes it."""
    server = await serve(ScriptedEngine(answer=lambda request: b"one END two three", step_tokens=2))
    body = (await server.chat(stop=["END"])).json()
    choice = body["choices"][0]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("one ", "stop")
    assert body["usage"]["completion_tokens"] == 7
    assert server.engine.cancelled == [server.engine.requests[0].request_id]


async def test_fields_of_openai_clients_that_change_nothing_are_accepted(serve: Serve) -> None:
    """`user`, `store`, `metadata` and their like."""
    server = await serve()
    answer = await server.chat(
        user="u", store=False, metadata={"a": "b"}, service_tier="auto", parallel_tool_calls=True, seed=None, stop=None
    )
    assert answer.status_code == 200


async def test_the_model_list_names_the_one_model(serve: Serve) -> None:
    """And a model can be looked up by its name."""
    server = await serve()
    listed = (await server.client.get("/v1/models")).json()
    assert [card["id"] for card in listed["data"]] == ["scripted"]
    assert (await server.client.get("/v1/models/scripted")).json() == listed["data"][0]


async def test_every_path_of_the_published_document_is_served(serve: Serve) -> None:
    """With its method alone: answered by GET, and by POST refused for want of a body."""
    server: RunningServer = await serve()
    paths = (await server.client.get("/openapi.json")).json()["paths"]
    statuses = {}
    for path in paths:
        answers = [
            await server.client.request(method, path.replace("{model}", "scripted")) for method in ("get", "post")
        ]
        statuses[path] = [answer.status_code for answer in answers]
    assert statuses == {
        "/v1/models": [200, 405],
        "/v1/models/{model}": [200, 405],
        "/v1/chat/completions": [405, 400],
        "/v1/completions": [405, 400],
    }


async def test_the_callers_request_id_comes_back(serve: Serve) -> None:
    """One is made up when the caller sent none."""
    server = await serve()
    given = await server.client.get("/v1/models", headers={"x-request-id": "abc-1"})
    made = await server.client.get("/v1/models")
    assert given.headers["x-request-id"] == "abc-1"
    assert len(made.headers["x-request-id"]) == 32
