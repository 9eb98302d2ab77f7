import static org.junit.jupiter.api.Assertions.assertEquals;

import com.azure.messaging.eventhubs.CheckpointStore;
import com.azure.messaging.eventhubs.EventHubClientBuilder;
import com.azure.messaging.eventhubs.EventHubConsumerClient;
import com.azure.messaging.eventhubs.EventProcessorClient;
import com.azure.messaging.eventhubs.EventProcessorClientBuilder;
import com.azure.messaging.eventhubs.models.EventContext;
import com.azure.messaging.eventhubs.models.EventPosition;
import com.azure.messaging.eventhubs.models.PartitionOwnership;
import com.microsoft.azure.sdk.iot.device.DeviceClient;
import com.microsoft.azure.sdk.iot.device.IotHubClientProtocol;
import com.microsoft.azure.sdk.iot.device.Message;
import com.microsoft.azure.sdk.iot.service.registry.Device;
import java.util.ArrayList;
import java.util.List;
import java.util.Set;
import java.util.concurrent.CopyOnWriteArrayList;
import java.util.stream.Collectors;
import org.junit.jupiter.api.Test;

/** EventProcessorClient: two of them share the partitions, and one that follows goes on behind the checkpoint. */
class ProcessorTest {
    @Test
    void aProcessorGoesOnBehindTheCheckpoint() throws Exception {
        CheckpointStore store = HubUnderTest.checkpointStore();
        String group = HubUnderTest.consumerGroup();
        Device device = HubUnderTest.create();
        List<String> first = new CopyOnWriteArrayList<>();
        send(device, 0, 5);
        run(group, store, device, first, 5);
        send(device, 5, 10);
        List<String> second = new CopyOnWriteArrayList<>();
        run(group, store, device, second, 5);
        assertEquals(numbers(0, 5), first);
        assertEquals(numbers(5, 10), second);
    }

    private static void run(String group, CheckpointStore store, Device device, List<String> read, int count) throws Exception {
        EventProcessorClient processor = processor(group, store, context -> {
            if (device.getDeviceId().equals(EventReader.sender(context.getEventData()))) {
                read.add(context.getEventData().getBodyAsString());
                context.updateCheckpoint();
            }
        });
        processor.start();
        try {
            HubUnderTest.until(count + " events in the processor", () -> read.size() >= count);
        } finally {
            processor.stop();
        }
    }

    @Test
    void twoProcessorsShareThePartitions() throws Exception {
        CheckpointStore store = HubUnderTest.checkpointStore();
        String group = HubUnderTest.consumerGroup();
        EventProcessorClient first = processor(group, store, context -> {});
        EventProcessorClient second = processor(group, store, context -> {});
        first.start();
        second.start();
        try {
            HubUnderTest.until("both processors to own partitions", () ->
                owners(store, group).containsAll(Set.of(first.getIdentifier(), second.getIdentifier())));
        } finally {
            first.stop();
            second.stop();
        }
    }

    private static Set<String> owners(CheckpointStore store, String group) {
        EventHubConsumerClient consumer = new EventHubClientBuilder()
            .connectionString(HubUnderTest.policy("eventHub"))
            .consumerGroup(group)
            .buildConsumerClient();
        return store.listOwnership(consumer.getFullyQualifiedNamespace(), consumer.getEventHubName(), group)
            .map(PartitionOwnership::getOwnerId)
            .collect(Collectors.toSet())
            .block();
    }

    private static EventProcessorClient processor(String group, CheckpointStore store, java.util.function.Consumer<EventContext> act) {
        return new EventProcessorClientBuilder()
            .connectionString(HubUnderTest.policy("eventHub"))
            .consumerGroup(group)
            .checkpointStore(store)
            .loadBalancingUpdateInterval(java.time.Duration.ofSeconds(1))
            .partitionOwnershipExpirationInterval(java.time.Duration.ofSeconds(5))
            .initialPartitionEventPosition(partition -> EventPosition.earliest())
            .processEvent(act)
            .processError(context -> {})
            .buildEventProcessorClient();
    }

    private static void send(Device device, int from, int to) throws Exception {
        DeviceClient client = HubUnderTest.client(device, IotHubClientProtocol.MQTT);
        client.open(false);
        try {
            for (String text : numbers(from, to)) {
                client.sendEvent(new Message(text));
            }
        } finally {
            client.close();
        }
    }

    private static List<String> numbers(int from, int to) {
        List<String> numbers = new ArrayList<>();
        for (int number = from; number < to; number++) {
            numbers.add(String.valueOf(number));
        }
        return numbers;
    }
}
