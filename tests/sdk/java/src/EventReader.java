import com.azure.messaging.eventhubs.EventData;
import com.azure.messaging.eventhubs.EventHubClientBuilder;
import com.azure.messaging.eventhubs.EventHubConsumerAsyncClient;
import com.azure.messaging.eventhubs.models.EventPosition;
import com.azure.messaging.eventhubs.models.PartitionEvent;
import java.util.List;
import java.util.concurrent.CopyOnWriteArrayList;
import java.util.stream.Collectors;
import reactor.core.Disposable;

/** Reads every partition from its beginning, and gives the events of one device. */
final class EventReader implements AutoCloseable {
    private final EventHubConsumerAsyncClient consumer;
    private final Disposable subscription;
    private final List<PartitionEvent> events = new CopyOnWriteArrayList<>();
    private final List<Throwable> errors = new CopyOnWriteArrayList<>();

    EventReader() {
        HubUnderTest.TRUST.getProtocol();
        consumer = new EventHubClientBuilder()
            .connectionString(HubUnderTest.policy("eventHub"))
            .consumerGroup(EventHubClientBuilder.DEFAULT_CONSUMER_GROUP_NAME)
            .buildAsyncConsumerClient();
        subscription = consumer.getPartitionIds()
            .flatMap(partition -> consumer.receiveFromPartition(partition, EventPosition.earliest()))
            .subscribe(events::add, errors::add);
    }

    /** The first events of a device, in the order of reading, when there are as many. */
    List<EventData> waitFor(String deviceId, int count) throws Exception {
        HubUnderTest.until(count + " events of " + deviceId + "; errors: " + errors, () -> of(deviceId).size() >= count);
        return of(deviceId);
    }

    private List<EventData> of(String deviceId) {
        return events.stream()
            .map(PartitionEvent::getData)
            .filter(event -> deviceId.equals(sender(event)))
            .collect(Collectors.toList());
    }

    static String sender(EventData event) {
        Object id = event.getSystemProperties().get("iothub-connection-device-id");
        return id == null ? null : id.toString();
    }

    @Override
    public void close() {
        subscription.dispose();
        consumer.close();
    }
}
