import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;

import com.microsoft.azure.sdk.iot.device.DeviceClient;
import com.microsoft.azure.sdk.iot.device.FileUploadCompletionNotification;
import com.microsoft.azure.sdk.iot.device.FileUploadSasUriRequest;
import com.microsoft.azure.sdk.iot.device.FileUploadSasUriResponse;
import com.microsoft.azure.sdk.iot.device.IotHubClientProtocol;
import com.microsoft.azure.sdk.iot.device.exceptions.IotHubClientException;
import com.microsoft.azure.sdk.iot.service.messaging.AcknowledgementType;
import com.microsoft.azure.sdk.iot.service.messaging.FileUploadNotification;
import com.microsoft.azure.sdk.iot.service.messaging.FileUploadNotificationProcessorClient;
import com.microsoft.azure.sdk.iot.service.messaging.IotHubServiceClientProtocol;
import com.microsoft.azure.sdk.iot.service.registry.Device;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.util.List;
import java.util.concurrent.CopyOnWriteArrayList;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.function.Function;
import java.util.stream.Collectors;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.EnumSource;
import org.junit.jupiter.params.provider.MethodSource;

/** File upload: the device client begins and reports, a plain PUT writes, and the service client hears of the file. */
class UploadTest {
    private static final HttpClient HTTP = HttpClient.newBuilder().sslContext(HubUnderTest.TRUST).build();

    @ParameterizedTest
    @MethodSource("Transports#connected")
    void aDeviceUploadsAFileAndABackEndHearsOfIt(IotHubClientProtocol protocol) throws Exception {
        Device device = HubUnderTest.create();
        List<FileUploadNotification> heard = new CopyOnWriteArrayList<>();
        FileUploadNotificationProcessorClient back = backEnd(IotHubServiceClientProtocol.AMQPS, device, heard, one -> AcknowledgementType.COMPLETE);
        try {
            String name = "logs/today.txt";
            FileUploadSasUriResponse where = upload(device, protocol, name, "12345");
            HubUnderTest.until("the notification", () -> !heard.isEmpty());
            FileUploadNotification file = heard.get(0);
            assertEquals(device.getDeviceId() + "/" + name, file.getBlobName());
            assertEquals(5L, file.getBlobSizeInBytes());
            assertEquals(where.getBlobUri().getHost(), URI.create(file.getBlobUri()).getHost());
        } finally {
            back.stop();
        }
    }

    @ParameterizedTest
    @EnumSource(IotHubServiceClientProtocol.class)
    void aNotificationThatWasAbandonedComesAgain(IotHubServiceClientProtocol protocol) throws Exception {
        Device device = HubUnderTest.create();
        List<FileUploadNotification> heard = new CopyOnWriteArrayList<>();
        AtomicInteger abandoned = new AtomicInteger();
        FileUploadNotificationProcessorClient back = backEnd(
            protocol, device, heard, one -> abandoned.getAndIncrement() < 2 ? AcknowledgementType.ABANDON : AcknowledgementType.COMPLETE);
        try {
            upload(device, IotHubClientProtocol.MQTT, "x.txt", "x");
            HubUnderTest.until("the third delivery", () -> heard.size() == 3);
            assertEquals(1, heard.stream().map(FileUploadNotification::getBlobName).collect(Collectors.toSet()).size());
        } finally {
            back.stop();
        }
    }

    @Test
    void aReportOfAnUploadThatWasNotBegunIsRefused() throws Exception {
        DeviceClient client = HubUnderTest.client(HubUnderTest.create(), IotHubClientProtocol.MQTT);
        FileUploadCompletionNotification report = new FileUploadCompletionNotification("never-begun", true, 200, "done");
        assertThrows(IotHubClientException.class, () -> client.completeFileUpload(report));
    }

    /** Hears of the files of one device; those of others are completed. */
    static FileUploadNotificationProcessorClient backEnd(
        IotHubServiceClientProtocol protocol,
        Device device,
        List<FileUploadNotification> heard,
        Function<FileUploadNotification, AcknowledgementType> verdict) throws Exception {
        FileUploadNotificationProcessorClient client =
            new FileUploadNotificationProcessorClient(HubUnderTest.policy("service"), protocol, notification -> {
                if (!notification.getDeviceId().equals(device.getDeviceId())) {
                    return AcknowledgementType.COMPLETE;
                }
                heard.add(notification);
                return verdict.apply(notification);
            });
        client.start();
        return client;
    }

    static FileUploadSasUriResponse upload(Device device, IotHubClientProtocol protocol, String name, String content) throws Exception {
        // Begin and report are HTTPS requests, whatever the client's protocol: it need not be open.
        DeviceClient client = HubUnderTest.client(device, protocol);
        FileUploadSasUriResponse where = client.getFileUploadSasUri(new FileUploadSasUriRequest(name));
        HttpRequest put = HttpRequest.newBuilder(where.getBlobUri())
            .header("x-ms-blob-type", "BlockBlob")
            .PUT(HttpRequest.BodyPublishers.ofString(content))
            .build();
        assertEquals(201, HTTP.send(put, HttpResponse.BodyHandlers.ofString()).statusCode());
        client.completeFileUpload(new FileUploadCompletionNotification(where.getCorrelationId(), true, 200, "done"));
        return where;
    }
}
