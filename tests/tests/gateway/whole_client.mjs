// OpenAI's own client: asks one thing, whole or streamed, and prints the answers and what they cost as one JSON value.
import OpenAI from "openai";

const [baseURL, how, body] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey: "none", maxRetries: 0, timeout: 30_000 });
const request = JSON.parse(body);
const answer =
  how === "whole"
    ? await client.chat.completions.create(request)
    : await client.chat.completions.stream({ ...request, stream_options: { include_usage: true } }).finalChatCompletion();
console.log(JSON.stringify({ choices: answer.choices, usage: answer.usage }));
