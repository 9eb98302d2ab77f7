import com.azure.messaging.eventhubs.CheckpointStore;
import com.azure.messaging.eventhubs.EventHubClientBuilder;
import com.azure.messaging.eventhubs.EventProcessorClient;
import com.azure.messaging.eventhubs.EventProcessorClientBuilder;
import com.azure.messaging.eventhubs.models.EventContext;
import com.azure.messaging.eventhubs.models.EventPosition;
import java.time.Duration;

/**
 * The Java processors of tests/soak: two of them print a line for each event until the program is killed.
 *
 * <p>The intervals are shorter than the SDK's defaults, with which a processor is silent for two minutes after each end of a
 * link (docs/compatibility.md).
 */
final class ProcessorSoak {
    private ProcessorSoak() {}

    public static void main(String[] arguments) throws Exception {
        CheckpointStore store = HubUnderTest.checkpointStore();
        for (int number = 1; number <= 2; number++) {
            String name = "java-" + number;
            EventProcessorClient processor = new EventProcessorClientBuilder()
                .connectionString(HubUnderTest.policy("eventHub"))
                .consumerGroup(arguments.length > 0 ? arguments[0] : EventHubClientBuilder.DEFAULT_CONSUMER_GROUP_NAME)
                .checkpointStore(store)
                .loadBalancingUpdateInterval(Duration.ofSeconds(5))
                .partitionOwnershipExpirationInterval(Duration.ofSeconds(15))
                .initialPartitionEventPosition(partition -> EventPosition.earliest())
                .processEvent(context -> print(name, context))
                .processError(context -> System.err.println(name + ": " + context.getThrowable()))
                .buildEventProcessorClient();
            processor.start();
        }
        Thread.currentThread().join();
    }

    private static void print(String name, EventContext context) {
        var event = context.getEventData();
        System.out.println(name + " " + context.getPartitionContext().getPartitionId() + " " + event.getSequenceNumber() + " "
            + EventReader.sender(event) + " " + event.getBodyAsString());
        System.out.flush();
        context.updateCheckpoint();
    }
}
