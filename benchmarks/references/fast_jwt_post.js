'use strict';
// Reference for one authenticated POST without storage: Fastify, its schema validation and serialiser, fast-jwt with
// its cache of verified tokens. env: PORT, PUBLIC_KEY (path of a PEM, Ed25519), ISSUER, AUDIENCE
const { readFileSync } = require('fs');
const { randomUUID } = require('crypto');
const { createVerifier } = require('fast-jwt');

const { PORT, PUBLIC_KEY, ISSUER, AUDIENCE } = process.env;
const app = require('fastify')({ logger: false });
const verify = createVerifier({
  key: readFileSync(PUBLIC_KEY, 'utf8'), algorithms: ['EdDSA'], cache: 4096, allowedIss: ISSUER, allowedAud: AUDIENCE,
});
const text = (maxLength) => ({ type: 'string', minLength: 1, maxLength });
const schema = {
  params: { type: 'object', properties: { conversation_id: text(64) } },
  body: {
    type: 'object', required: ['body', 'client_message_id'], additionalProperties: false,
    properties: { body: text(65536), client_message_id: text(128) },
  },
  response: {
    201: {
      type: 'object',
      properties: {
        message_id: { type: 'string' }, conversation_id: { type: 'string' }, sender_id: { type: 'string' },
        client_message_id: { type: 'string' }, created_at_ms: { type: 'integer' },
      },
    },
  },
};
const onRequest = async (request, reply) => {
  try {
    request.user = verify(request.headers.authorization.slice(7));
  } catch (error) {
    reply.code(401).send({ error: 'unauthorized' });
    return reply;
  }
};
app.get('/health', async () => ({ ok: true }));
app.post('/conversations/:conversation_id/messages', { schema, onRequest }, async (request, reply) => {
  reply.code(201);
  return {
    message_id: randomUUID(), conversation_id: request.params.conversation_id, sender_id: request.user.sub,
    client_message_id: request.body.client_message_id, created_at_ms: Date.now(),
  };
});
app.listen({ host: '127.0.0.1', port: +PORT });
for (const signal of ['SIGTERM', 'SIGINT']) process.on(signal, () => process.exit(0));
