// The Node processors of the soak: two of them print a line for each event until the program is killed.
import { createRequire } from 'node:module';

const require = createRequire(`${process.env.HOLDFAST_NODE_MODULES}/`);
const { EventHubConsumerClient, earliestEventPosition } = require('@azure/event-hubs');
const { BlobCheckpointStore } = require('@azure/eventhubs-checkpointstore-blob');
const { BlobServiceClient } = require('@azure/storage-blob');

const [connectionString, group] = process.argv.slice(2);
const container = BlobServiceClient.fromConnectionString(process.env.HOLDFAST_SOAK_BLOBS).getContainerClient(`${group}-checkpoints`);
await container.create();
const store = new BlobCheckpointStore(container);
for (const number of [1, 2]) {
  const name = `node-${number}`;
  const client = new EventHubConsumerClient(group, connectionString, store, {
    loadBalancingOptions: { updateIntervalInMs: 5_000, partitionOwnershipExpirationIntervalInMs: 15_000 },
  });
  client.subscribe(
    {
      processEvents: async (events, context) => {
        for (const event of events) {
          const device = event.systemProperties['iothub-connection-device-id'];
          console.log(name, context.partitionId, event.sequenceNumber, device, Buffer.from(event.body).toString());
        }
        if (events.length) await context.updateCheckpoint(events.at(-1));
      },
      processError: async (error) => console.error(`${name}: ${error}`),
    },
    { startPosition: earliestEventPosition, maxWaitTimeInSeconds: 1, skipParsingBodyAsJson: true },
  );
}
