// The Node program in examples/, as a newcomer runs it. The others are in ../python/test_examples.py.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import path from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { connectionString, createDevice, read, text } from './hub.mjs';

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
