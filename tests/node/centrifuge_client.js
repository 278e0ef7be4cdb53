// The unmodified npm `centrifuge` client, driven line by line: JSON commands on stdin, JSON events on stdout.
const { Centrifuge } = require('centrifuge');
const WebSocket = require('ws');
const readline = require('readline');

const [, , url, token, ...renewed] = process.argv;
const say = (event, rest) => console.log(JSON.stringify({ event, ...rest }));
const sockets = [];
class Socket extends WebSocket {
  constructor(...args) {
    super(...args);
    sockets.push(this);
  }
}

const client = new Centrifuge(url, {
  websocket: Socket,
  token,
  getToken: async () => (renewed.length ? renewed.shift() : token),
  minReconnectDelay: 20,
  maxReconnectDelay: 100,
});
client.on('connected', (c) => say('connected', { client: c.client }));
client.on('connecting', (c) => say('connecting', { code: c.code }));
client.on('disconnected', (c) => say('disconnected', { code: c.code, reason: c.reason }));
client.on('error', (c) => say('error', { kind: c.type, error: c.error }));
client.on('subscribed', (c) => say('server_subscribed', { channel: c.channel }));
client.on('publication', (c) => say('server_publication', { channel: c.channel, data: c.data }));

const subscriptions = {};
const commands = {
  connect: () => client.connect(),
  disconnect: () => client.disconnect(),
  cut: () => sockets[sockets.length - 1].terminate(),
  subscribe: ({ channel }) => {
    const subscription = client.newSubscription(channel, { recoverable: true, positioned: true });
    subscriptions[channel] = subscription;
    subscription.on('subscribed', (c) =>
      say('subscribed', { channel, recovered: c.recovered, was_recovering: c.wasRecovering, position: c.streamPosition }));
    subscription.on('unsubscribed', (c) => say('unsubscribed', { channel, code: c.code, reason: c.reason }));
    subscription.on('publication', (c) => say('publication', { channel, offset: c.offset, data: c.data }));
    subscription.on('error', (c) => say('subscription_error', { channel, error: c.error }));
    subscription.subscribe();
  },
  unsubscribe: ({ channel }) => subscriptions[channel].unsubscribe(),
  rpc: async ({ tag, method, data }) => {
    try {
      say('answer', { tag, data: (await client.rpc(method, data)).data });
    } catch (error) {
      say('answer', { tag, error });
    }
  },
  history: async ({ tag, channel, options }) => say('answer', { tag, data: await subscriptions[channel].history(options) }),
  presence: async ({ tag, channel }) => say('answer', { tag, data: await subscriptions[channel].presence() }),
  batch: ({ calls }) => {
    client.startBatching();
    for (const call of calls) commands.rpc(call);
    client.stopBatching();
  },
};
readline.createInterface({ input: process.stdin }).on('line', (line) => {
  const { command, ...rest } = JSON.parse(line);
  commands[command](rest);
}).on('close', () => process.exit(0));
