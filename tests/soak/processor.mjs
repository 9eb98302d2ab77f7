// The Node processors of the soak: two of them print a line for each event until the program is killed.
import { randomUUID } from 'node:crypto';
import { createRequire } from 'node:module';

const require = createRequire(`${process.env.HOLDFAST_NODE_MODULES}/`);
const { EventHubConsumerClient, earliestEventPosition } = require('@azure/event-hubs');

/** Ownerships and checkpoints in memory: the two processors of this program share them. */
class MemoryCheckpointStore {
  ownerships = new Map();
  checkpoints = new Map();

  async listOwnership() {
    return [...this.ownerships.values()];
  }

  async claimOwnership(wanted) {
    const claimed = [];
    for (const ownership of wanted) {
      const held = this.ownerships.get(ownership.partitionId);
      if (held && held.etag !== ownership.etag) continue;
      const now = { ...ownership, etag: randomUUID(), lastModifiedTimeInMs: Date.now() };
      this.ownerships.set(ownership.partitionId, now);
      claimed.push(now);
    }
    return claimed;
  }

  async updateCheckpoint(checkpoint) {
    this.checkpoints.set(checkpoint.partitionId, checkpoint);
  }

  async listCheckpoints() {
    return [...this.checkpoints.values()];
  }
}

const [connectionString, group] = process.argv.slice(2);
const store = new MemoryCheckpointStore();
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
