"""OpenAI's own client: asks one thing, whole or streamed, and prints the answers and what they cost as one JSON value."""

import json
import sys

import openai

base_url, api, how, body, extra = sys.argv[1:]
client = openai.OpenAI(base_url=base_url, api_key="none", max_retries=0, timeout=30)
body = json.loads(body) | {"extra_body": json.loads(extra)}


def chat():
    if how == "whole":
        return client.chat.completions.create(**body)
    with client.chat.completions.stream(**body, stream_options={"include_usage": True}) as stream:
        stream.until_done()
        return stream.current_completion_snapshot


def text():
    if how == "whole":
        return client.completions.create(**body)
    whole, answers = None, {}
    for chunk in client.completions.create(**body, stream=True, stream_options={"include_usage": True}):
        whole = whole or chunk
        whole.usage = chunk.usage or whole.usage
        for choice in chunk.choices:
            known = answers.setdefault(choice.index, choice)
            if known is choice:
                continue
            known.text += choice.text
            known.finish_reason = choice.finish_reason or known.finish_reason
            if choice.logprobs and known.logprobs:
                known.logprobs.tokens += choice.logprobs.tokens
                known.logprobs.token_logprobs += choice.logprobs.token_logprobs
            known.logprobs = known.logprobs or choice.logprobs
    whole.choices = [answers[index] for index in sorted(answers)]
    return whole


answer = {"chat": chat, "text": text}[api]().model_dump()
print(json.dumps({"choices": answer["choices"], "usage": answer["usage"]}))
