"""OpenAI's own client against the front door: does one thing, and prints what came of it, a JSON value a line."""

import json
import sys

import openai

base_url, what, model = sys.argv[1:]
client = openai.OpenAI(base_url=base_url, api_key="none", max_retries=0, timeout=30)
LONG = 1_000_000  # more tokens than anyone waits for
ENDLESS = {"0": -100}  # the tiny model ends by its token 0, which it draws once in a thousand answers
messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hello there"}]


def say(value):
    print(json.dumps(value), flush=True)


def models():
    say([listed.id for listed in client.models.list()])
    say(client.models.retrieve(model).owned_by)


def chat():
    answer = client.chat.completions.create(
        model=model, messages=messages, temperature=0.2, max_tokens=64, logit_bias=ENDLESS
    )
    say([answer.choices[0].message.content, answer.choices[0].finish_reason, answer.usage.completion_tokens])


def text():
    answer = client.completions.create(model=model, prompt="hello there", max_tokens=3, logit_bias=ENDLESS)
    say([answer.choices[0].text, answer.choices[0].finish_reason])


def streamed_text():
    chunks = list(client.completions.create(model=model, prompt="hello there", stream=True))
    say(["".join(chunk.choices[0].text for chunk in chunks), chunks[-1].choices[0].finish_reason])


def streamed():
    options = {"include_usage": True}
    parts, reason, tokens = [], None, None
    for chunk in client.chat.completions.create(model=model, messages=messages, stream=True, stream_options=options):
        for choice in chunk.choices:
            parts.append(choice.delta.content or "")
            reason = choice.finish_reason or reason
        tokens = chunk.usage.completion_tokens if chunk.usage else tokens
    say(["".join(parts), reason, tokens])


def refused():
    try:
        chat()
    except openai.APIStatusError as error:
        say([type(error).__name__, error.status_code, error.code, str(error)])


def watched():
    """Says every token as it comes, and how it ended."""
    try:
        for chunk in client.chat.completions.create(model=model, messages=messages, stream=True, max_tokens=LONG):
            if chunk.choices[0].delta.content:
                say(chunk.choices[0].delta.content)
        say(None)
    except openai.APIError as error:
        say([type(error).__name__, error.code])


def given_up():
    """Closes the stream after three tokens."""
    with client.chat.completions.create(model=model, messages=messages, stream=True, max_tokens=LONG) as stream:
        seen = 0
        for chunk in stream:
            seen += bool(chunk.choices[0].delta.content)
            if seen == 3:
                break
    say(seen)
    sys.stdin.read()  # stays, so that it was the stream that was closed and not the process


globals()[what]()
