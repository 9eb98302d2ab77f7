import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertNotNull;
import static org.junit.jupiter.api.Assertions.assertThrows;

import com.microsoft.azure.sdk.iot.device.DeviceClient;
import com.microsoft.azure.sdk.iot.device.IotHubClientProtocol;
import com.microsoft.azure.sdk.iot.device.IotHubMessageResult;
import com.microsoft.azure.sdk.iot.service.exceptions.IotHubException;
import com.microsoft.azure.sdk.iot.service.messaging.AcknowledgementType;
import com.microsoft.azure.sdk.iot.service.messaging.DeliveryAcknowledgement;
import com.microsoft.azure.sdk.iot.service.messaging.FeedbackRecord;
import com.microsoft.azure.sdk.iot.service.messaging.FeedbackStatusCode;
import com.microsoft.azure.sdk.iot.service.messaging.IotHubServiceClientProtocol;
import com.microsoft.azure.sdk.iot.service.messaging.Message;
import com.microsoft.azure.sdk.iot.service.messaging.MessageFeedbackProcessorClient;
import com.microsoft.azure.sdk.iot.service.messaging.MessagingClient;
import com.microsoft.azure.sdk.iot.service.registry.Device;
import java.util.List;
import java.util.Map;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.CopyOnWriteArrayList;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.EnumSource;
import org.junit.jupiter.params.provider.MethodSource;

/** Messages to devices, and the feedback on them. */
class CloudToDeviceTest {
    @ParameterizedTest
    @MethodSource("Transports#connected")
    void aMessageThatWaitedArrivesWithItsProperties(IotHubClientProtocol protocol) throws Exception {
        Device device = HubUnderTest.create();
        send(IotHubServiceClientProtocol.AMQPS, device, message("while away", "w-1", DeliveryAcknowledgement.None));

        DeviceClient client = HubUnderTest.client(device, protocol);
        BlockingQueue<com.microsoft.azure.sdk.iot.device.Message> received = receive(client, IotHubMessageResult.COMPLETE);
        client.open(false);
        try {
            var message = received.poll(60, TimeUnit.SECONDS);
            assertNotNull(message, "no message arrived");
            assertEquals("while away", new String(message.getBytes()));
            assertEquals("w-1", message.getMessageId());
            assertEquals("b", message.getProperty("a"));
        } finally {
            client.close();
        }
    }

    @ParameterizedTest
    @EnumSource(IotHubServiceClientProtocol.class)
    void feedbackSaysThatTheDeviceHasCompletedIt(IotHubServiceClientProtocol protocol) throws Exception {
        Device device = HubUnderTest.create();
        List<FeedbackRecord> records = new CopyOnWriteArrayList<>();
        MessageFeedbackProcessorClient feedback = new MessageFeedbackProcessorClient(HubUnderTest.policy("service"), protocol, batch -> {
            records.addAll(batch.getRecords());
            return AcknowledgementType.COMPLETE;
        });
        feedback.start();
        DeviceClient client = HubUnderTest.client(device, IotHubClientProtocol.MQTT);
        receive(client, IotHubMessageResult.COMPLETE);
        client.open(false);
        try {
            send(protocol, device, message("with feedback", "f-1", DeliveryAcknowledgement.Full));
            HubUnderTest.until("the feedback", () -> records.stream().anyMatch(record -> record.getDeviceId().equals(device.getDeviceId())));
            FeedbackRecord record =
                records.stream().filter(one -> one.getDeviceId().equals(device.getDeviceId())).findFirst().orElseThrow();
            assertEquals("f-1", record.getOriginalMessageId());
            assertEquals(FeedbackStatusCode.success, record.getStatusCode());
        } finally {
            client.close();
            feedback.stop();
        }
    }

    @ParameterizedTest
    @EnumSource(IotHubServiceClientProtocol.class)
    void aMessageToAnUnknownDeviceIsRefused(IotHubServiceClientProtocol protocol) {
        assertThrows(
            IotHubException.class, () -> send(protocol, new Device(HubUnderTest.unique("unknown")), new Message("to nobody")));
    }

    static Message message(String body, String id, DeliveryAcknowledgement acknowledgement) {
        Message message = new Message(body);
        message.setMessageId(id);
        message.setProperties(Map.of("a", "b"));
        message.setDeliveryAcknowledgement(acknowledgement);
        return message;
    }

    static void send(IotHubServiceClientProtocol protocol, Device device, Message message) throws Exception {
        MessagingClient messages = new MessagingClient(HubUnderTest.policy("service"), protocol);
        messages.open();
        try {
            messages.send(device.getDeviceId(), message);
        } finally {
            messages.close();
        }
    }

    static BlockingQueue<com.microsoft.azure.sdk.iot.device.Message> receive(DeviceClient client, IotHubMessageResult result) {
        BlockingQueue<com.microsoft.azure.sdk.iot.device.Message> received = new LinkedBlockingQueue<>();
        client.setMessageCallback((message, context) -> {
            received.add(message);
            return result;
        }, null);
        return received;
    }
}
