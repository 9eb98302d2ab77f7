// The programs in examples/ for Node and for a browser, as a newcomer runs them. The others are in ../python/test_examples.py.
import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { createHash, X509Certificate } from 'node:crypto';
import { once } from 'node:events';
import { copyFileSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { test } from 'node:test';
import { connect as connectTls } from 'node:tls';
import { fileURLToPath } from 'node:url';
import { cli, connection, connectionString, createDevice, read, text } from './hub.mjs';

const examples = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '../../../examples');
const modules = process.env.HOLDFAST_NODE_MODULES ?? process.cwd();

test('the Node device sends three messages', async () => {
  const device = await createDevice();
  execFileSync(process.execPath, [path.join(examples, 'node/device.js')], {
    env: { ...process.env, DEVICE_CONNECTION_STRING: connectionString(device), NODE_PATH: path.join(modules, 'node_modules') },
    timeout: 120_000,
  });
  const events = await read(device, 3);
  assert.deepEqual(
    events.map((event) => JSON.parse(text(event))),
    [20, 21, 22].map((temperature) => ({ temperature })),
  );
  for (const event of events) {
    assert.deepEqual(event.properties, { room: 'kitchen' });
    assert.equal(event.contentType, 'application/json');
  }
});

for (const transport of ['mqtts', 'wss']) {
  test(`the Node device without an SDK sends a message over ${transport} and takes one`, async () => {
    const device = await createDevice();
    cli('c2d', 'send', '-d', device.deviceId, '--data', 'to the device');
    const printed = execFileSync(process.execPath, [path.join(examples, 'node/mqtt.js'), '--once'], {
      env: {
        ...process.env,
        DEVICE_CONNECTION_STRING: connectionString(device),
        NODE_PATH: path.join(modules, 'node_modules'),
        TRANSPORT: transport,
      },
      timeout: 120_000,
    });
    assert.match(printed.toString(), /to the device/);
    const [event] = await read(device, 1);
    assert.deepEqual(JSON.parse(text(event)), { temperature: 20 });
    assert.deepEqual(event.properties, { room: 'kitchen' });
  });
}

test('the page in a real browser sends a message', async () => {
  const device = await createDevice();
  const folder = mkdtempSync(path.join(tmpdir(), 'holdfast-page-'));
  copyFileSync(path.join(examples, 'browser/index.html'), path.join(folder, 'index.html'));
  copyFileSync(path.join(modules, 'node_modules/mqtt/dist/mqtt.min.js'), path.join(folder, 'mqtt.min.js'));
  const page = `file://${folder}/index.html#${encodeURIComponent(connectionString(device))}`;
  const browser = spawn(
    'chromium',
    [
      '--headless',
      '--no-sandbox',
      '--disable-gpu',
      '--disable-dev-shm-usage',
      `--user-data-dir=${folder}/profile`,
      // A person would import the hub's CA into the browser.
      `--ignore-certificate-errors-spki-list=${await keyOfTheHub()}`,
      '--remote-debugging-port=0',
      page,
    ],
    { stdio: 'ignore', env: { ...process.env, HOME: folder } },
  );
  const ended = new Promise((resolve) => browser.once('exit', resolve));
  try {
    const [event] = await read(device, 1);
    assert.deepEqual(JSON.parse(text(event)), { temperature: 20 });
    assert.equal(event.contentType, 'application/json');
  } finally {
    browser.kill('SIGKILL');
    await ended;
    rmSync(folder, { recursive: true, force: true, maxRetries: 20, retryDelay: 100 });
  }
});

/** What Chromium compares: the digest of the public key that the hub's certificate has on port 443. */
async function keyOfTheHub() {
  const socket = connectTls({ host: connection.hostName, port: 443, ca: readFileSync(connection.caFile) });
  await once(socket, 'secureConnect');
  const key = new X509Certificate(socket.getPeerCertificate().raw).publicKey.export({ type: 'spki', format: 'der' });
  socket.destroy();
  return createHash('sha256').update(key).digest('base64');
}
