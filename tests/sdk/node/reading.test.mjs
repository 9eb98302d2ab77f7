// Reading with @azure/event-hubs: where to start, consumer groups, owner levels, properties, transports.
import assert from 'node:assert/strict';
import { before, test } from 'node:test';
import { setTimeout as pause } from 'node:timers/promises';
import { Message, addConsumerGroup, clientOf, connected, connection, consumer, createDevice, eventHubs, fields, reading, require, send, text, until } from './hub.mjs';

let device, partition, events;

before(async () => {
  device = await createDevice();
  await send(device, Array.from({ length: 10 }, (_, n) => `${n}`));
  await reading({}, async (reader) => {
    events = await reader.waitFor(device.deviceId, 10);
    partition = reader.partitionOf(device.deviceId);
  });
});

const readFrom = (start, count, options = {}) =>
  reading({ start, partitions: [partition], ...options }, async (reader) => (await reader.waitFor(device.deviceId, count)).map(text));

test('reading starts after or at an offset', async () => {
  const { offset } = events[4];
  assert.deepEqual(await readFrom({ offset }, 5), ['5', '6', '7', '8', '9']);
  assert.deepEqual(await readFrom({ offset, isInclusive: true }, 6), ['4', '5', '6', '7', '8', '9']);
});

test('reading starts after or at a sequence number', async () => {
  const { sequenceNumber } = events[6];
  assert.deepEqual(await readFrom({ sequenceNumber }, 3), ['7', '8', '9']);
  assert.deepEqual(await readFrom({ sequenceNumber, isInclusive: true }, 4), ['6', '7', '8', '9']);
});

test('reading starts after a time', async () => {
  const other = await createDevice();
  await send(other, ['old']);
  await pause(20);
  const enqueuedOn = new Date();
  await pause(20);
  await send(other, ['new']);
  await reading({ start: { enqueuedOn } }, async (reader) => {
    assert.deepEqual((await reader.waitFor(other.deviceId, 1)).map(text), ['new']);
  });
});

test('reading from now skips what was there', async () => {
  await reading({ start: eventHubs.latestEventPosition, partitions: [partition] }, (reader) =>
    connected(clientOf(device), async (client) => {
      // When the link is open only the reader knows: send until something arrives.
      await until(async () => {
        await client.sendEvent(new Message('probe'));
        return reader.of(device.deviceId).length > 0;
      }, 'the first new event');
      await client.sendEvent(new Message('last'));
      await until(() => reader.of(device.deviceId).some((event) => text(event) === 'last'), 'the last event');
      assert.deepEqual(new Set(reader.of(device.deviceId).map(text)), new Set(['probe', 'last']));
    }),
  );
});

test('two consumer groups read the same events independently', async () => {
  await addConsumerGroup('node-second');
  const first = await readFrom(eventHubs.earliestEventPosition, 10);
  const second = await readFrom(eventHubs.earliestEventPosition, 10, { group: 'node-second' });
  assert.deepEqual(first.slice(0, 10), second.slice(0, 10));
});

test('an unknown consumer group is refused', () =>
  reading({ group: 'nobody', partitions: ['0'] }, async (reader) => {
    assert.equal((await reader.waitForError()).code, 'MessagingEntityNotFoundError');
  }));

test('a reader with a higher owner level pushes out the other', () =>
  reading({ partitions: [partition], ownerLevel: 1 }, async (first) => {
    await first.waitFor(device.deviceId, 10);
    await reading({ partitions: [partition], ownerLevel: 2 }, async (second) => {
      await second.waitFor(device.deviceId, 10);
      assert.equal((await first.waitForError()).code, 'ReceiverDisconnectedError');
    });
  }));

test('hub and partition properties tell the truth', async () => {
  const client = consumer();
  try {
    const hub = await client.getEventHubProperties();
    assert.equal(hub.name, fields(connection.eventHub).EntityPath);
    assert.ok(hub.partitionIds.length >= 4 && hub.createdOn instanceof Date);
    const of = await client.getPartitionProperties(partition);
    assert.equal(of.beginningSequenceNumber, 0);
    assert.ok(of.lastEnqueuedSequenceNumber >= events.at(-1).sequenceNumber);
    assert.equal(of.isEmpty, false);
  } finally {
    await client.close();
  }
});

test('events are read over websockets', async () => {
  const clientOptions = { webSocketOptions: { webSocket: require('ws') } };
  const texts = await readFrom(eventHubs.earliestEventPosition, 10, { clientOptions });
  assert.deepEqual(texts.slice(0, 10), events.map(text));
});

test('events are read without TLS in development', async (t) => {
  if (connection.ports && !connection.ports.amqpPlain) return t.skip('the hub does not listen without TLS');
  const { SharedAccessKeyName, SharedAccessKey, EntityPath } = fields(connection.eventHub);
  const plain =
    `Endpoint=sb://${connection.hostName};SharedAccessKeyName=${SharedAccessKeyName};SharedAccessKey=${SharedAccessKey};` +
    `EntityPath=${EntityPath};UseDevelopmentEmulator=true`;
  const texts = await readFrom(eventHubs.earliestEventPosition, 10, { text: plain });
  assert.deepEqual(texts.slice(0, 10), events.map(text));
});

test('a reader with the wrong key is unauthorized', async () => {
  const { SharedAccessKey } = fields(connection.eventHub);
  const client = consumer('$Default', connection.eventHub.replace(SharedAccessKey, 'A'.repeat(43) + '='));
  try {
    await assert.rejects(client.getEventHubProperties(), (error) => {
      assert.equal(error.code, 'UnauthorizedError');
      return true;
    });
  } finally {
    await client.close();
  }
});
