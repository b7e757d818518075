// A client on an official TypeScript SDK that knows one address: the MCP endpoint.
//
//   node oauth_client.mjs (bearer | dpop) (modern | legacy) ENDPOINT CLIENT_METADATA_URL REDIRECT_URI
//
// Commands are JSON lines, each answered by one: {do: "list" | "call" | "expire" | "tokens"}. Where
// a person is needed it writes {authorize: URL} and reads {redirect: URL} before it goes on.
// Run inside the folder of its SDK: modules are found from where the program is.
import { randomUUID } from "node:crypto";
import { createInterface } from "node:readline";

const [scheme, era, endpoint, clientMetadataUrl, redirectUrl] = process.argv.slice(2);
const OLD = "@modelcontextprotocol/sdk/client";
const today = await import("@modelcontextprotocol/client").catch(() => undefined);
const sdk = today ?? {
  ...(await import(`${OLD}/index.js`)),
  ...(await import(`${OLD}/streamableHttp.js`)),
};
const options = {};
if (today) {
  options.versionNegotiation = { mode: era === "modern" ? { pin: "2026-07-28" } : "legacy" };
}

const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const nextLine = async () => JSON.parse((await lines.next()).value);
const say = (answer) => process.stdout.write(JSON.stringify(answer) + "\n");

class Provider {
  redirectUrl = redirectUrl;
  clientMetadataUrl = clientMetadataUrl;
  clientMetadata = {
    client_name: "TypeScript",
    redirect_uris: [redirectUrl],
    grant_types: ["authorization_code", "refresh_token"],
    response_types: ["code"],
    token_endpoint_auth_method: "none",
  };
  state = () => (this.expected = randomUUID());
  clientInformation = () => this.information;
  saveClientInformation = (information) => void (this.information = information);
  tokens = () => this.held;
  saveTokens = (tokens) => void (this.held = tokens);
  saveCodeVerifier = (verifier) => void (this.verifier = verifier);
  codeVerifier = () => this.verifier;
  redirectToAuthorization = (url) => void (this.asked = url);
}

const provider = new Provider();
if (scheme === "dpop") {
  const session = await today.DpopSession.create();
  provider.dpop = () => session;
}
let client, transport;

// Do it; if the SDK wants the person first, send them there and do it again.
async function withPerson(work) {
  try {
    return await work();
  } catch (error) {
    if (!provider.asked) throw error;
    say({ authorize: provider.asked.href });
    provider.asked = undefined;
    const answer = new URL((await nextLine()).redirect).searchParams;
    if (answer.get("state") !== provider.expected) throw new Error("state is not ours");
    await transport.finishAuth(today ? answer : answer.get("code"));
    return await work();
  }
}

async function connect() {
  transport = new sdk.StreamableHTTPClientTransport(new URL(endpoint), { authProvider: provider });
  const connecting = new sdk.Client({ name: "typescript", version: "1" }, options);
  await connecting.connect(transport);
  client = connecting;
}

const commands = {
  list: async () => ({
    tools: (await client.listTools()).tools.map((tool) => tool.name).sort(),
    version: transport.protocolVersion,
  }),
  call: async ({ tool, args }) => {
    const result = await client.callTool({ name: tool, arguments: args });
    return { is_error: result.isError === true, structured: result.structuredContent };
  },
  tokens: async () => ({ tokens: provider.held }),
  expire: async ({ access_token }) => {
    provider.held = { ...provider.held, access_token };
    return {};
  },
};

for (;;) {
  const { value, done } = await lines.next();
  if (done) break;
  const command = JSON.parse(value);
  try {
    if (!client) await withPerson(connect);
    say(await withPerson(() => commands[command.do](command)));
  } catch (error) {
    say({ error: String(error?.stack ?? error), cause: String(error?.cause ?? "") });
  }
}
process.exit(0);
