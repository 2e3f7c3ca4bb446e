// One act of a real npm client, told as one line of JSON: node clients.mjs <client> <act> <url> <task>
// Acts: call, stream, tool. Told are the answer, or the error's class, status, code and message; and
// how many requests the client made for it.

import Anthropic from "@anthropic-ai/sdk";
import OpenAI from "openai";

const SAY = "What is the weather in Paris, and why?";
const PARAMETERS = { type: "object", properties: { city: { type: "string" } } };

let requests = 0;

function countingFetch(...asked) {
  requests += 1;
  return fetch(...asked);
}

function messages(url, headers) {
  const client = new Anthropic({
    baseURL: url,
    apiKey: "sk-ant-test",
    defaultHeaders: headers,
    fetch: countingFetch,
  });
  const asked = {
    model: "claude-opus-5-5",
    max_tokens: 300,
    messages: [{ role: "user", content: SAY }],
  };
  const tools = [{ name: "get_weather", input_schema: PARAMETERS }];
  return {
    call: async () => (await client.messages.create(asked)).content[0].text,
    stream: async () => client.messages.stream(asked).finalText(),
    tool: async () => (await client.messages.create({ ...asked, tools })).content[0].input,
  };
}

function chat(url, headers) {
  const client = new OpenAI({
    baseURL: `${url}/v1`,
    apiKey: "sk-test",
    defaultHeaders: headers,
    fetch: countingFetch,
  });
  const asked = { model: "gpt-4o", messages: [{ role: "user", content: SAY }] };
  const tools = [{ type: "function", function: { name: "get_weather", parameters: PARAMETERS } }];
  return {
    call: async () => (await client.chat.completions.create(asked)).choices[0].message.content,
    stream: async () => {
      let text = "";
      for await (const chunk of await client.chat.completions.create({ ...asked, stream: true }))
        text += chunk.choices[0]?.delta?.content ?? "";
      return text;
    },
    tool: async () => {
      const answer = await client.chat.completions.create({ ...asked, tools });
      return JSON.parse(answer.choices[0].message.tool_calls[0].function.arguments);
    },
  };
}

const CLIENTS = { "@anthropic-ai/sdk": messages, openai: chat };

const [, , client, act, url, task] = process.argv;
const headers = { "x-task-id": task, "x-task-phase": "VERIFY" };
let told;
try {
  told = { answer: await CLIENTS[client](url, headers)[act]() };
} catch (error) {
  const { status, code, message } = error;
  told = { error: { kind: error.constructor.name, status, code, message } };
}
console.log(JSON.stringify({ ...told, requests }));
