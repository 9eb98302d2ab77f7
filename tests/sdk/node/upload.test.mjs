// File upload through azure-iot-device, the Blob SDK against the embedded endpoint, and notifications through azure-iothub.
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { test } from 'node:test';
import { Readable } from 'node:stream';
import { Amqp, Http, clientOf, connected, connection, createDevice, require, unique, until, withService } from './hub.mjs';

const { AnonymousCredential, BlobServiceClient, BlockBlobClient, newPipeline } = require('@azure/storage-blob');
const { BlobCheckpointStore } = require('@azure/eventhubs-checkpointstore-blob');
const { EventHubConsumerClient } = require('@azure/event-hubs');

const service = BlobServiceClient.fromConnectionString(connection.blobs.connectionString, { retryOptions: { maxTries: 1 } });

/** The notifications about a device, as they come; each is settled as `settle` says, those about others are accepted. */
async function notificationsAbout(client, deviceId, settle = () => 'complete') {
  const { result: receiver } = await client.getFileNotificationReceiver();
  const found = [];
  receiver.on('message', (message) => {
    const body = JSON.parse(message.data.toString());
    const isOwn = body.deviceId === deviceId;
    if (isOwn) found.push(body);
    receiver[isOwn ? settle(body) : 'complete'](message, () => {});
  });
  receiver.on('errorReceived', () => {});
  return found;
}

const uploadUrl = ({ hostName, containerName, blobName, sasToken }) =>
  `https://${hostName}/${containerName}/${encodeURIComponent(blobName)}${sasToken}`;

for (const [name, options] of [['MQTT', {}], ['AMQP', { transport: Amqp }], ['HTTPS', { transport: Http }]]) {
  test(`uploadToBlob over ${name} does all three steps, and a back end hears of it`, async () => {
    const device = await createDevice();
    const content = randomBytes(100_000);
    await withService(async (client) => {
      const found = await notificationsAbout(client, device.deviceId);
      await connected(clientOf(device, options), (sdk) =>
        sdk.uploadToBlob('folder/x y.bin', Readable.from([content]), content.length),
      );
      await until(() => found.length === 1, 'the notification');
      const [{ blobName, blobSizeInBytes, blobUri }] = found;
      assert.deepEqual([blobName, blobSizeInBytes], [`${device.deviceId}/folder/x y.bin`, content.length]);
      assert.ok(blobUri.endsWith('/folder/x%20y.bin'), blobUri);
    });
    const stored = service.getContainerClient(connection.blobs.uploads).getBlobClient(`${device.deviceId}/folder/x y.bin`);
    assert.ok((await stored.downloadToBuffer()).equals(content));
  });
}

test('the two calls with a Blob client between them, in blocks', async () => {
  const device = await createDevice();
  const content = randomBytes(5_000_000);
  await connected(clientOf(device), async (client) => {
    const info = await client.getBlobSharedAccessSignature('large.bin');
    const blob = new BlockBlobClient(uploadUrl(info), newPipeline(new AnonymousCredential(), { retryOptions: { maxTries: 1 } }));
    await blob.uploadStream(Readable.from([content]), 1 << 20, 3);
    const parts = await blob.getBlockList('committed');
    assert.equal(parts.committedBlocks.length, 5);
    await client.notifyBlobUploadStatus(info.correlationId, true, 200, 'done');
    await assert.rejects(blob.delete(), (error) => error.code === 'AuthorizationPermissionMismatch');
  });
});

test('a notification that is given back comes again, ten times at most', async () => {
  const device = await createDevice();
  const upload = (name) => connected(clientOf(device), (sdk) => sdk.uploadToBlob(name, Readable.from([Buffer.from('x')]), 1));
  await withService(async (client) => {
    const found = await notificationsAbout(client, device.deviceId, ({ blobName }) =>
      blobName.endsWith('again.txt') ? (found.length % 2 ? 'abandon' : 'reject') : 'complete',
    );
    await upload('again.txt');
    await until(() => found.length >= 10, 'ten deliveries');
    await upload('last.txt');
    await until(() => found.some(({ blobName }) => blobName.endsWith('last.txt')), 'the next notification');
    assert.equal(found.length, 11);
  });
});

test('the Blob SDK writes, lists, reads by range, changes under a condition, and removes', async () => {
  const container = service.getContainerClient(unique('box'));
  await container.create();
  try {
    for (const name of ['a/1', 'a/2', 'b']) {
      await container.getBlockBlobClient(name).upload(name, name.length, { metadata: { own: name.replace('/', '') } });
    }
    const names = [];
    for await (const page of container.listBlobsFlat({ includeMetadata: true }).byPage({ maxPageSize: 2 })) {
      names.push(...page.segment.blobItems.map((blob) => [blob.name, blob.metadata.own]));
    }
    assert.deepEqual(names, [['a/1', 'a1'], ['a/2', 'a2'], ['b', 'b']]);
    const tops = [];
    for await (const item of container.listBlobsByHierarchy('/')) tops.push(`${item.kind} ${item.name}`);
    assert.deepEqual(tops.sort(), ['blob b', 'prefix a/']);
    const blob = container.getBlobClient('a/1');
    assert.equal((await blob.downloadToBuffer(1, 2)).toString(), '/1');
    const { etag } = await blob.getProperties();
    await blob.setMetadata({ own: 'x' }, { conditions: { ifMatch: etag } });
    await assert.rejects(blob.setMetadata({ own: 'y' }, { conditions: { ifMatch: etag } }), (error) => error.statusCode === 412);
    await assert.rejects(
      container.getBlockBlobClient('b').upload('', 0, { conditions: { ifNoneMatch: '*' } }),
      (error) => error.code === 'BlobAlreadyExists',
    );
    await blob.delete();
    assert.equal(await blob.exists(), false);
  } finally {
    await container.delete();
  }
});

test('an event processor keeps its checkpoints there', async () => {
  const container = service.getContainerClient(unique('box'));
  await container.create();
  const device = await createDevice();
  const texts = [];
  const open = async () => {
    const consumer = new EventHubConsumerClient('$Default', connection.eventHub, new BlobCheckpointStore(container), {
      loadBalancingOptions: { updateIntervalInMs: 500, partitionOwnershipExpirationIntervalInMs: 5000 },
    });
    const reading = consumer.subscribe(
      {
        processEvents: async (events, context) => {
          for (const event of events) {
            if (event.systemProperties['iothub-connection-device-id'] === device.deviceId) texts.push(event.body);
          }
          if (events.length > 0) await context.updateCheckpoint(events[events.length - 1]);
        },
        processError: async () => {},
      },
      { startPosition: { offset: '-1' }, maxWaitTimeInSeconds: 1 },
    );
    return async () => {
      await reading.close();
      await consumer.close();
    };
  };
  const send = (n) => connected(clientOf(device), (client) => client.sendEvent(new (require('azure-iot-device').Message)(JSON.stringify(n))));
  let close = await open();
  try {
    await send(1);
    await until(() => texts.length === 1, 'the first message');
    await close();
    await send(2);
    close = await open();
    await until(() => texts.length === 2, 'the message after the checkpoint');
    assert.deepEqual(texts.map(String), ['1', '2']);
  } finally {
    await close();
    await container.delete();
  }
});
