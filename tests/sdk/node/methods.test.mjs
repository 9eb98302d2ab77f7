// Direct methods: a back end calls a device through the service SDK, and gets what the device SDK answers.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { cli, clientOf, connected, connection, createDevice, require } from './hub.mjs';

const { Client: ServiceClient } = require('azure-iothub');
const service = ServiceClient.fromConnectionString(connection.service);

const invoke = async (device, methodName, payload, more = {}) => {
  const { result } = await service.invokeDeviceMethod(device.deviceId, { methodName, payload, responseTimeoutInSeconds: 30, ...more });
  return result;
};

/** The device answers the method; ready when the hub knows that it has subscribed. */
const answering = (client, name, answer) =>
  new Promise((resolve, reject) => {
    client.onDeviceMethod(name, (request, response) => {
      const [status, payload] = answer(request);
      response.send(status, payload, () => {});
    });
    // The SDK subscribes behind the first handler and says nothing when it is done.
    setTimeout(resolve, 500);
    client.on('error', reject);
  });

test('a device answers whatever it is asked', async () => {
  const device = await createDevice();
  await connected(clientOf(device), async (client) => {
    await answering(client, 'echo', (request) => [207, { payload: request.payload }]);
    for (const payload of [0, 'text', [1, { a: 2 }], { deep: { deeper: [true] } }]) {
      assert.deepEqual(await invoke(device, 'echo', payload), { status: 207, payload: { payload } });
    }
  });
});

test('a device that is not there is 404103', async () => {
  const device = await createDevice();
  await assert.rejects(invoke(device, 'echo', {}), (error) => /404103/.test(error.responseBody ?? error.message));
});

test('the command line calls a method', async () => {
  const device = await createDevice();
  await connected(clientOf(device), async (client) => {
    await answering(client, 'reboot', (request) => [200, request.payload]);
    const { execFile } = await import('node:child_process');
    const { promisify } = await import('node:util');
    const args = ['device', 'method', 'reboot', device.deviceId, '--payload', '{"delay":5}'];
    const { stdout } = await promisify(execFile)(process.env.HOLDFAST_BIN, args, { encoding: 'utf8' });
    assert.deepEqual(JSON.parse(stdout), { status: 200, payload: { delay: 5 } });
    assert.ok(cli('--version'));
  });
});
