import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertNotEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;

import com.microsoft.azure.sdk.iot.device.DeviceClient;
import com.microsoft.azure.sdk.iot.device.IotHubClientProtocol;
import com.microsoft.azure.sdk.iot.device.exceptions.IotHubClientException;
import com.microsoft.azure.sdk.iot.device.twin.TwinCollection;
import com.microsoft.azure.sdk.iot.service.exceptions.IotHubPreconditionFailedException;
import com.microsoft.azure.sdk.iot.service.query.QueryClient;
import com.microsoft.azure.sdk.iot.service.query.TwinQueryResponse;
import com.microsoft.azure.sdk.iot.service.registry.Device;
import com.microsoft.azure.sdk.iot.service.twin.Twin;
import com.microsoft.azure.sdk.iot.service.twin.TwinClient;
import java.util.Map;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.Callable;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.MethodSource;

/** Twins from both sides, and the queries that find them. */
class TwinsTest {
    private static final TwinClient TWINS = new TwinClient(HubUnderTest.policy("owner"));

    @ParameterizedTest
    @MethodSource("Transports#connected")
    void aDeviceReportsAndIsToldWhatIsDesired(IotHubClientProtocol protocol) throws Exception {
        Device device = HubUnderTest.create();
        DeviceClient client = HubUnderTest.client(device, protocol);
        client.open(false);
        try {
            BlockingQueue<com.microsoft.azure.sdk.iot.device.twin.Twin> told = new LinkedBlockingQueue<>();
            client.subscribeToDesiredProperties((twin, context) -> told.add(twin), null);

            TwinCollection reported = new TwinCollection();
            reported.put("firmware", "1.2");
            answered(() -> client.updateReportedProperties(reported, ANSWER_MILLIS));
            assertEquals("1.2", TWINS.get(device.getDeviceId()).getReportedProperties().get("firmware"));

            Twin wanted = new Twin(device.getDeviceId());
            wanted.getDesiredProperties().put("interval", 30);
            TWINS.patch(wanted);
            com.microsoft.azure.sdk.iot.device.twin.Twin change = told.poll(60, TimeUnit.SECONDS);
            assertEquals(30.0, ((Number) change.getDesiredProperties().get("interval")).doubleValue());

            com.microsoft.azure.sdk.iot.device.twin.Twin whole = answered(() -> client.getTwin(ANSWER_MILLIS));
            assertEquals(change.getDesiredProperties().getVersion(), whole.getDesiredProperties().getVersion());
            assertEquals("1.2", whole.getReportedProperties().get("firmware"));

            TwinCollection removed = new TwinCollection();
            removed.put("firmware", null);
            answered(() -> client.updateReportedProperties(removed, ANSWER_MILLIS));
            assertFalse(TWINS.get(device.getDeviceId()).getReportedProperties().containsKey("firmware"));
        } finally {
            client.close();
        }
    }

    private static final int ANSWER_MILLIS = 10_000;

    /**
     * Asks again when the client has lost the answer: its receiving thread may remove the callback of a request
     * (acknowledgeReceivedMessage) before another of its threads looks it up (onMessageReceived).
     */
    private static <T> T answered(Callable<T> request) throws Exception {
        for (int attempt = 1; ; attempt++) {
            try {
                return request.call();
            } catch (IotHubClientException error) {
                if (attempt == 5 || !error.getMessage().startsWith("Timed out")) {
                    throw error;
                }
            }
        }
    }

    @Test
    void aReplacedTwinHasOnlyWhatItWasGiven() throws Exception {
        Device device = HubUnderTest.create();
        Twin twin = TWINS.get(device.getDeviceId());
        twin.getTags().put("site", Map.of("city", "Ulm"));
        twin.getDesiredProperties().put("a", 1);
        Twin patched = TWINS.patch(twin);
        assertNotEquals(twin.getETag(), patched.getETag());

        Twin other = new Twin(device.getDeviceId());
        other.getTags().put("line", "7");
        TWINS.replace(other);
        Twin read = TWINS.get(device.getDeviceId());
        assertEquals("7", read.getTags().get("line"));
        assertFalse(read.getTags().containsKey("site"));
        assertFalse(read.getDesiredProperties().containsKey("a"));
    }

    @Test
    void anOldETagIsRefused() throws Exception {
        Device device = HubUnderTest.create();
        Twin twin = TWINS.get(device.getDeviceId());
        twin.getTags().put("n", 1);
        String old = twin.getETag();
        TWINS.patch(twin);
        twin.getTags().put("n", 2);
        assertThrows(IotHubPreconditionFailedException.class, () -> TWINS.patch(twin, old));
    }

    @Test
    void aQueryFindsTwinsPageByPage() throws Exception {
        String line = HubUnderTest.unique("line");
        for (int number = 0; number < 3; number++) {
            Twin twin = new Twin(HubUnderTest.create().getDeviceId());
            twin.getTags().put("line", line);
            TWINS.patch(twin);
        }
        QueryClient queries = new QueryClient(HubUnderTest.policy("owner"));
        TwinQueryResponse found = queries.queryTwins(
            "SELECT * FROM devices WHERE tags.line = '" + line + "'",
            com.microsoft.azure.sdk.iot.service.query.QueryPageOptions.builder().pageSize(2).build());
        int count = 0;
        while (found.hasNext()) {
            assertEquals(line, found.next().getTags().get("line"));
            count++;
        }
        assertEquals(3, count);
    }
}
