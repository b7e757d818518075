// npm oidc-provider as a token endpoint: client_credentials with a client assertion signed with
// ES256, whose jti it accepts once, answered with an ES256 JWT for one resource.
//
// Two clients with the same key: `plain` gets a bearer token; `bound` must send a DPoP proof, whose
// jti it accepts once too, and gets a token bound to that key. What is used once is kept in memory.
//
// usage: node server.mjs PORT CLIENT_JWK_FILE          (run in the directory of its node_modules)
import { generateKeyPairSync } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { pathToFileURL } from 'node:url';

const [port, keyFile] = process.argv.slice(2);
const installed = createRequire(`${process.cwd()}/package.json`);
const { default: Provider } = await import(pathToFileURL(installed.resolve('oidc-provider')).href);

const RESOURCE = 'https://resource.example/mcp';
const clientKey = JSON.parse(readFileSync(keyFile, 'utf8'));
const signingKey = generateKeyPairSync('ec', { namedCurve: 'P-256' }).privateKey.export({ format: 'jwk' });

const client = (client_id, more) => ({
  client_id,
  grant_types: ['client_credentials'],
  redirect_uris: [],
  response_types: [],
  id_token_signed_response_alg: 'ES256',
  token_endpoint_auth_method: 'private_key_jwt',
  token_endpoint_auth_signing_alg: 'ES256',
  jwks: { keys: [clientKey] },
  ...more,
});

const provider = new Provider(`http://127.0.0.1:${port}`, {
  jwks: { keys: [{ ...signingKey, kid: 'tokens', use: 'sig', alg: 'ES256' }] },
  clients: [client('plain', {}), client('bound', { dpop_bound_access_tokens: true })],
  enabledJWA: { clientAuthSigningAlgValues: ['ES256'], dPoPSigningAlgValues: ['ES256'] },
  scopes: ['mcp:tools'],
  ttl: { ClientCredentials: 600 },
  features: {
    devInteractions: { enabled: false },
    clientCredentials: { enabled: true },
    dPoP: { enabled: true },
    resourceIndicators: {
      enabled: true,
      defaultResource: () => RESOURCE,
      useGrantedResource: () => true,
      getResourceServerInfo: () => ({
        scope: 'mcp:tools',
        audience: RESOURCE,
        accessTokenFormat: 'jwt',
        accessTokenTTL: 600,
        jwt: { sign: { alg: 'ES256' } },
      }),
    },
  },
});
provider.listen(Number(port), '127.0.0.1');
