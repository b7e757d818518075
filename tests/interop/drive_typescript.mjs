// A legacy agent on the official TypeScript SDK of its time. Run inside the folder that has it:
//   node drive_typescript.mjs URL TOKEN   writes what it saw as one JSON object
import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { StreamableHTTPClientTransport } from "@modelcontextprotocol/sdk/client/streamableHttp.js";

const [url, token] = process.argv.slice(2);
const requestInit = { headers: { authorization: `Bearer ${token}` } };
const transport = new StreamableHTTPClientTransport(new URL(url), { requestInit });
const client = new Client({ name: "typescript", version: "1" });
const seen = { progress: [] };

await client.connect(transport);
seen.version = transport.protocolVersion;
seen.tools = (await client.listTools()).tools.map((tool) => tool.name).sort();
const note = (step) => seen.progress.push([step.progress, step.message]);
const steps = await client.callTool({ name: "get_progress" }, undefined, { onprogress: note });
seen.text = steps.content[0].text;
const exact = await client.callTool({ name: "get_exact" });
seen.exact = BigInt(exact.content[0].text.match(/"number":\s*(\d+)/)[1]).toString();
seen.hidden = (await client.callTool({ name: "delete_account" })).isError;
try {
  await client.listResources();
} catch (error) {
  seen.unknown = error.code ?? String(error);
}
try {
  await client.callTool({ name: "get_slow" }, undefined, { signal: AbortSignal.timeout(1000) });
} catch {
  seen.gave_up = true;
}
await client.ping();
await transport.terminateSession();
await client.close();
process.stdout.write(JSON.stringify(seen));
