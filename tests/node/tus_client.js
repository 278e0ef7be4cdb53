// The unmodified npm `tus-js-client`: uploads a file as told by a JSON argument, JSON events on stdout.
const fs = require('fs');
const tus = require('tus-js-client');
const { PassThrough } = require('stream');

const told = JSON.parse(process.argv[2]);
const say = (event, rest) => console.log(JSON.stringify({ event, ...rest }));
// A length that comes later is for streams of unknown length; of a file the client knows the length all the same.
const file = fs.createReadStream(told.path);
const source = told.buffer ? fs.readFileSync(told.path) : told.deferred ? file.pipe(new PassThrough()) : file;
let aborted = false;

const upload = new tus.Upload(source, {
  endpoint: told.endpoint,
  headers: { Authorization: `Bearer ${told.token}` },
  metadata: told.metadata,
  uploadSize: told.deferred || told.buffer ? undefined : fs.statSync(told.path).size,
  retryDelays: told.retry_ms || null,
  ...told.options,
  onError: (error) => say('error', { text: String(error) }),
  onSuccess: () => say('success', { url: upload.url }),
  onChunkComplete: (size, accepted) => {
    say('chunk', { size, accepted });
    if (told.abort_after && accepted >= told.abort_after && !aborted) {
      aborted = true;
      upload.abort().then(() => say('aborted', { url: upload.url }));
    }
  },
});
process.stdin.on('end', () => process.exit(0));
process.stdin.on('data', (line) => {
  const { command } = JSON.parse(line);
  if (command === 'start') upload.start();
  if (command === 'terminate') tus.Upload.terminate(upload.url, { headers: { Authorization: `Bearer ${told.token}` } })
    .then(() => say('terminated', {}));
});
