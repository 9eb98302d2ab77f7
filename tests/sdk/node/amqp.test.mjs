// Devices and modules over AMQP and AMQP over WebSockets, with the released device SDK.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import {
  Amqp,
  AmqpWs,
  cli,
  clientOf,
  connected,
  connection,
  createDevice,
  feedbackAbout,
  Message,
  reading,
  refused,
  registry,
  require,
  send,
  text,
  unique,
  until,
  withService,
} from './hub.mjs';

const transports = { Amqp, AmqpWs };

for (const [name, transport] of Object.entries(transports)) {
  test(`${name}: telemetry with its properties reaches a reader`, async () => {
    const device = await createDevice();
    await connected(clientOf(device, { transport }), async (client) => {
      const message = new Message('21.5');
      message.messageId = 'm1';
      message.contentType = 'application/json';
      message.contentEncoding = 'utf-8';
      message.properties.add('level', 'storage');
      await client.sendEvent(message);
    });
    await reading({}, async (reader) => {
      const [event] = await reader.waitFor(device.deviceId, 1);
      assert.equal(text(event), '21.5');
      assert.equal(event.messageId, 'm1');
      assert.equal(event.contentType, 'application/json');
      assert.equal(event.properties.level, 'storage');
      const method = JSON.parse(event.systemProperties['iothub-connection-auth-method']);
      assert.deepEqual([method.scope, method.type], ['device', 'sas']);
    });
  });

  test(`${name}: a wrong key is refused`, async () => {
    const device = await createDevice();
    await refused(clientOf(device, { transport, key: Buffer.alloc(32).toString('base64') }));
  });

  test(`${name}: messages to a device are completed, abandoned and rejected`, async () => {
    const device = await createDevice();
    await connected(clientOf(device, { transport }), async (client) => {
      const got = [];
      client.on('message', (message) => {
        const body = message.getData().toString();
        const isFirst = !got.some((one) => one.getData().toString() === body);
        got.push(message);
        if (body === 'again' && isFirst) client.abandon(message);
        else if (body === 'no') client.reject(message);
        else client.complete(message);
      });
      await withService(async (service) => {
        const records = await feedbackAbout(service, device.deviceId);
        for (const body of ['yes', 'again', 'no']) {
          const message = new Message(body);
          message.messageId = body;
          message.ack = 'full';
          message.properties.add('k', 'v');
          await service.send(device.deviceId, message);
          // One after the other: rhea joins the outcomes of neighbouring messages into one, even when they differ.
          await until(() => records.some((record) => record.originalMessageId === body), `the feedback of ${body}`);
        }
        assert.equal(got.length, 4, 'one of them twice');
        assert.equal(got[0].properties.getValue('k'), 'v');
        // Feedback comes at least once.
        const outcomes = Object.fromEntries(records.map((record) => [record.originalMessageId, record.statusCode]));
        assert.deepEqual(outcomes, { yes: 'Success', again: 'Success', no: 'Rejected' });
      });
    });
  });

  test(`${name}: a method is called and answered`, async () => {
    const device = await createDevice();
    await connected(clientOf(device, { transport }), async (client) => {
      client.onDeviceMethod('reboot', (request, response) => response.send(201, { was: request.payload }));
      await withService(async (service) => {
        const call = { methodName: 'reboot', payload: { a: 1 }, responseTimeoutInSeconds: 20 };
        const called = await until(async () => {
          try {
            return await service.invokeDeviceMethod(device.deviceId, call);
          } catch (error) {
            assert.match(String(error.message), /not online|404/i);
          }
        }, 'the method link');
        assert.deepEqual(called.result, { status: 201, payload: { was: { a: 1 } } });
      });
    });
  });

  test(`${name}: the twin is read, patched and followed`, async () => {
    const device = await createDevice();
    const { Registry } = require('azure-iothub');
    const service = Registry.fromConnectionString(connection.owner);
    await connected(clientOf(device, { transport }), async (client) => {
      const twin = await client.getTwin();
      await new Promise((resolve, reject) => {
        twin.properties.reported.update({ a: 1, b: { c: 2 } }, (error) => (error ? reject(error) : resolve()));
      });
      const changes = [];
      twin.on('properties.desired', (delta) => changes.push(delta));
      const known = (await service.getTwin(device.deviceId)).responseBody;
      assert.deepEqual([known.properties.reported.a, known.properties.reported.b.c], [1, 2]);
      // The subscription is on its way; a change before it is part of no delta.
      for (let number = 1; !changes.some((delta) => delta.n); number++) {
        await service.updateTwin(device.deviceId, { properties: { desired: { n: number } } }, '*');
        await until(() => changes.length >= 1, 'a change', 2000).catch(() => {});
        assert.ok(number < 20, 'no change came');
      }
      const last = changes.at(-1);
      assert.ok(last.$version > 1);
    });
  });
}

test('a module sends over AMQP and has a session of its own', async () => {
  const device = await createDevice();
  const module = (await registry.addModule({ deviceId: device.deviceId, moduleId: unique('mod') })).responseBody;
  await connected(clientOf(device, { transport: Amqp, module }), (client) => client.sendEvent(new Message('from a module')));
  await reading({}, async (reader) => {
    const [event] = await reader.waitFor(device.deviceId, 1);
    assert.equal(event.systemProperties['iothub-connection-module-id'], module.moduleId);
  });
});

test('diagnose names the protocol of a live session', async () => {
  const device = await createDevice();
  await connected(clientOf(device, { transport: Amqp }), async (client) => {
    await client.sendEvent(new Message('1'));
    const shown = cli('device', 'diagnose', device.deviceId);
    assert.match(shown, /amqp/);
  });
});

test('many messages in flight are accepted', async () => {
  const device = await createDevice();
  await connected(clientOf(device, { transport: Amqp }), async (client) => {
    await Promise.all(Array.from({ length: 500 }, (_, number) => client.sendEvent(new Message(String(number)))));
  });
  await reading({}, (reader) => reader.waitFor(device.deviceId, 500));
  await send(device, ['mqtt after amqp']);
});
