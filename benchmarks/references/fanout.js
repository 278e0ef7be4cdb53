// The reference of benchmarks/fanout.py: Node's `ws`, the same work per message as benchmarks/fanout_server.py.
const http = require('http'), crypto = require('crypto');
const { WebSocketServer } = require('ws');

const server = http.createServer((request, response) => response.end('{}'));
const sockets = new WebSocketServer({ server, perMessageDeflate: false });
const listeners = new Set();
sockets.on('connection', (socket, request) => {
  if (request.url.includes('listen')) {
    listeners.add(socket);
    socket.on('close', () => listeners.delete(socket));
  }
  socket.on('message', (data) => {
    const command = JSON.parse(data);
    const event = JSON.stringify({ type: 'message.created', message_id: crypto.randomUUID(), body: command.rpc.data.body, at_ms: Date.now() });
    const push = Buffer.from(`{"push":{"channel":"room","pub":{"data":${event}}}}`);
    for (const client of listeners) if (client.readyState === 1) client.send(push, { binary: false });
    socket.send(`{"id":${command.id},"rpc":{"data":{}}}`);
  });
});
server.listen(Number(process.env.PORT), '127.0.0.1');
