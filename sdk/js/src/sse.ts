/** Server-sent events out of a byte stream. */

export interface ServerEvent {
  /** "message" where the stream does not say otherwise. */
  kind: string;
  data: string;
  id: string | null;
}

/** The events of a stream. One that the stream ends in the middle of is not an event. */
export async function* events(chunks: AsyncIterable<Uint8Array>): AsyncGenerator<ServerEvent> {
  let kind = "message";
  let data: string[] = [];
  let id: string | null = null;
  for await (const line of lines(chunks)) {
    if (line === "") {
      if (data.length > 0 || kind !== "message") yield { kind, data: data.join("\n"), id };
      [kind, data, id] = ["message", [], null];
      continue;
    }
    const colon = line.indexOf(":");
    const field = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
    if (field === "event") kind = value;
    else if (field === "data") data.push(value);
    else if (field === "id") id = value;
  }
}

async function* lines(chunks: AsyncIterable<Uint8Array>): AsyncGenerator<string> {
  const decoder = new TextDecoder();
  let rest = "";
  for await (const chunk of chunks) {
    const parts = (rest + decoder.decode(chunk, { stream: true })).split("\n");
    rest = parts.pop() ?? "";
    for (const line of parts) yield line.endsWith("\r") ? line.slice(0, -1) : line;
  }
}
