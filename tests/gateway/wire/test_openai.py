import base64
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import BadRequest, UpstreamProtocolError
from gateway.messages import RagMode, Turn, Usage
from gateway.wire import openai as wire

PLAIN: dict[str, Any] = {"model": "meridian", "messages": [{"role": "user", "content": "Who won?"}]}


def body(**more: Any) -> bytes:
    return msgspec.json.encode({**PLAIN, **more})


def test_a_plain_request_is_read_and_every_field_kept_as_it_came() -> None:
    request = wire.decode_chat(
        b'{"model":"m","messages":[{"role":"user","content":"Who?","x":1.50}],"new_thing":{"a":[1]}}'
    )
    assert request.turns == [Turn("user", "Who?")]
    assert request.question == "Who?"
    assert bytes(request.fields["new_thing"]) == b'{"a":[1]}'
    assert bytes(request.fields["messages"]) == b'[{"role":"user","content":"Who?","x":1.50}]'


def test_rag_and_stream_options_are_ours_and_do_not_go_upstream() -> None:
    request = wire.decode_chat(
        body(rag={"mode": "snippets", "top_k": 3}, stream=True, stream_options={"include_usage": True})
    )
    assert request.rag.mode is RagMode.SNIPPETS
    assert request.stream
    assert request.include_usage
    assert set(request.fields) == {"model", "messages"}


def test_text_parts_are_read_and_images_are_not() -> None:
    parts = [{"type": "text", "text": "What is"}, {"type": "image_url", "image_url": {"url": "x"}}]
    request = wire.decode_chat(body(messages=[{"role": "user", "content": parts}]))
    assert request.question == "What is"


@pytest.mark.parametrize(
    ("bad", "param"),
    [
        (b"", None),
        (b"[1]", None),
        (b'{"model": "m", "messages": [], "model": "n"}', None),
        (b'{"messages": [{"role": "user", "content": "x"}]}', "model"),
        (body(model=""), "model"),
        (body(messages=[]), "messages"),
        (body(messages="hello"), "messages"),
        (body(stream="yes"), "stream"),
        (body(rag={"topk": 3}), "rag"),
        (body(rag={"top_k": 0}), "rag.top_k"),
        (body(n=0), "n"),
        (b'{"a":' * 200 + b"1" + b"}" * 200, None),
    ],
)
def test_what_cannot_be_read_is_refused_by_name(bad: bytes, param: str | None) -> None:
    with pytest.raises(BadRequest) as caught:
        wire.decode_chat(bad)
    assert caught.value.param == param


@pytest.mark.parametrize(
    "fields",
    [
        {"response_format": {"type": "json_object"}},
        {"tool_choice": "required"},
        {"tool_choice": {"type": "function", "function": {"name": "f"}}},
        {"n": 2},
        {"logprobs": True},
    ],
)
def test_requests_that_an_excerpt_cannot_satisfy_say_so(fields: dict[str, Any]) -> None:
    assert not wire.decode_chat(body(**fields)).takes_excerpt


@pytest.mark.parametrize(
    "fields", [{}, {"tool_choice": "auto"}, {"response_format": {"type": "text"}}, {"n": 1}]
)
def test_other_requests_take_an_excerpt(fields: dict[str, Any]) -> None:
    assert wire.decode_chat(body(**fields)).takes_excerpt


def test_a_stream_always_asks_the_upstream_for_its_usage() -> None:
    request = wire.decode_chat(body(stream=True, temperature=0))
    sent = msgspec.json.decode(wire.encode_chat(request.fields, model="own", messages=None, stream=True))
    assert sent == {
        **PLAIN,
        "model": "own",
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def test_usage_is_read_in_both_providers_words() -> None:
    openai = {"prompt_tokens": 9, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 4}}
    deepseek = {"prompt_tokens": 9, "completion_tokens": 2, "prompt_cache_hit_tokens": 4}
    assert wire.decode_usage(openai) == wire.decode_usage(deepseek) == Usage(9, 2, 4)
    assert wire.decode_usage(None) is None


@pytest.mark.parametrize(
    "data",
    [b"<html>", b'"text"', b'{"error":{"message":"overloaded"}}', b'{"choices":[7]}', b'{"choices":5}'],
)
def test_an_event_that_is_no_chunk_is_a_protocol_error(data: bytes) -> None:
    with pytest.raises(UpstreamProtocolError):
        wire.decode_chunk(data, data)


def test_role_empty_and_usage_chunks_are_no_content() -> None:
    for data in (
        b'{"choices":[{"delta":{"role":"assistant","content":""}}]}',
        b'{"choices":[],"usage":{"prompt_tokens":1}}',
        b'{"choices":[{"delta":{}}]}',
    ):
        assert not wire.decode_chunk(data, data).is_content
    assert wire.decode_chunk(b'{"choices":[{"delta":{"tool_calls":[{"index":0}]}}]}', None).is_content


@given(st.lists(st.text(min_size=1, max_size=5), min_size=1, max_size=10))
def test_collected_text_is_what_the_chunks_said(pieces: list[str]) -> None:
    chunks = [{"choices": [{"index": 0, "delta": {"content": piece}}]} for piece in pieces]
    chunks.append({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    events = [wire.decode_chunk(msgspec.json.encode(chunk), None) for chunk in chunks]
    (choice,) = wire.collect(events)["choices"]
    assert choice["message"]["content"] == "".join(pieces)
    assert choice["finish_reason"] == "stop"


def test_collected_tool_calls_and_choices_are_put_together_by_index() -> None:
    deltas = [
        (
            0,
            {
                "role": "assistant",
                "tool_calls": [{"index": 0, "id": "a", "function": {"name": "f", "arguments": ""}}],
            },
        ),
        (1, {"role": "assistant", "content": "second"}),
        (0, {"tool_calls": [{"index": 0, "function": {"arguments": '{"x":'}}]}),
        (0, {"tool_calls": [{"index": 1, "id": "b", "function": {"name": "g", "arguments": "{}"}}]}),
        (0, {"tool_calls": [{"index": 0, "function": {"arguments": "1}"}}]}),
    ]
    events = [
        wire.decode_chunk(msgspec.json.encode({"id": "c", "choices": [{"index": i, "delta": d}]}), None)
        for i, d in deltas
    ]
    collected = wire.collect(events)
    first, second = collected["choices"]
    assert [call["function"] for call in first["message"]["tool_calls"]] == [
        {"name": "f", "arguments": '{"x":1}'},
        {"name": "g", "arguments": "{}"},
    ]
    assert second["message"]["content"] == "second"
    assert collected["object"] == "chat.completion"


def test_embeddings_come_back_equal_in_both_encodings() -> None:
    vectors = np.random.default_rng(7).normal(size=(3, 8)).astype(np.float32)
    plain = wire.encode_embeddings("m", vectors, "float", 5)
    packed = wire.encode_embeddings("m", vectors, "base64", 5)
    for row, as_list, as_text in zip(vectors, plain["data"], packed["data"], strict=True):
        assert np.array_equal(np.asarray(as_list["embedding"], np.float32), row)
        assert np.array_equal(np.frombuffer(base64.b64decode(as_text["embedding"]), "<f4"), row)
    assert plain["usage"] == {"prompt_tokens": 5, "total_tokens": 5}


@pytest.mark.parametrize("input_", [[], "", ["a", ""], [1, 2], None])
def test_inputs_that_cannot_be_embedded_are_refused(input_: Any) -> None:
    with pytest.raises(BadRequest) as caught:
        wire.decode_embeddings(msgspec.json.encode({"model": "m", "input": input_}))
    assert caught.value.param == "input"
