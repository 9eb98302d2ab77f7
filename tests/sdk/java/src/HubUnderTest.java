import com.azure.messaging.eventhubs.checkpointstore.blob.BlobCheckpointStore;
import com.azure.storage.blob.BlobContainerAsyncClient;
import com.azure.storage.blob.BlobContainerClientBuilder;
import com.google.gson.JsonObject;
import com.google.gson.JsonParser;
import com.microsoft.azure.sdk.iot.device.ClientOptions;
import com.microsoft.azure.sdk.iot.device.DeviceClient;
import com.microsoft.azure.sdk.iot.device.IotHubClientProtocol;
import com.microsoft.azure.sdk.iot.device.ModuleClient;
import com.microsoft.azure.sdk.iot.service.registry.Device;
import com.microsoft.azure.sdk.iot.service.registry.Module;
import com.microsoft.azure.sdk.iot.service.registry.RegistryClient;
import java.io.FileInputStream;
import java.io.OutputStream;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.KeyStore;
import java.security.cert.CertificateFactory;
import java.util.UUID;
import java.util.concurrent.Callable;
import java.util.concurrent.atomic.AtomicInteger;
import javax.net.ssl.SSLContext;
import javax.net.ssl.TrustManagerFactory;

/** What the tests say about a hub: register, connect, wait; all through the released SDKs. */
final class HubUnderTest {
    private static final long TIMEOUT_SECONDS =
        Long.parseLong(System.getenv().getOrDefault("HOLDFAST_TEST_TIMEOUT", "60"));
    private static final AtomicInteger NUMBERS = new AtomicInteger();
    private static final JsonObject CONNECTION = connection();

    /** Trusts the hub's CA and no other. */
    static final SSLContext TRUST = trust();

    static final RegistryClient REGISTRY = new RegistryClient(policy("owner"));

    private HubUnderTest() {}

    private static JsonObject connection() {
        try {
            return JsonParser.parseString(Files.readString(Path.of(System.getenv("HOLDFAST_CONNECTION_FILE")))).getAsJsonObject();
        } catch (Exception error) {
            throw new IllegalStateException("no hub: run these tests with tests/sdk/run.sh java", error);
        }
    }

    /** The service SDK and the Event Hubs SDK take the JVM's trust store, which can only be named as a file. */
    private static SSLContext trust() {
        try (FileInputStream ca = new FileInputStream(CONNECTION.get("caFile").getAsString())) {
            KeyStore store = KeyStore.getInstance(KeyStore.getDefaultType());
            store.load(null, null);
            store.setCertificateEntry("holdfast", CertificateFactory.getInstance("X.509").generateCertificate(ca));
            Path file = Files.createTempFile("holdfast-sdk-", ".p12");
            file.toFile().deleteOnExit();
            try (OutputStream out = Files.newOutputStream(file)) {
                store.store(out, "holdfast".toCharArray());
            }
            System.setProperty("javax.net.ssl.trustStore", file.toString());
            System.setProperty("javax.net.ssl.trustStorePassword", "holdfast");
            TrustManagerFactory managers = TrustManagerFactory.getInstance(TrustManagerFactory.getDefaultAlgorithm());
            managers.init(store);
            SSLContext context = SSLContext.getInstance("TLS");
            context.init(null, managers.getTrustManagers(), null);
            return context;
        } catch (Exception error) {
            throw new IllegalStateException("the hub's CA cannot be read", error);
        }
    }

    /** A connection string of connection.json: owner, service, eventHub and so on. */
    static String policy(String name) {
        return CONNECTION.get(name).getAsString();
    }

    /** A new store of checkpoints in a container of the hub's Blob endpoint. */
    static BlobCheckpointStore checkpointStore() {
        TRUST.getProtocol();
        BlobContainerAsyncClient container = new BlobContainerClientBuilder()
            .connectionString(CONNECTION.getAsJsonObject("blobs").get("connectionString").getAsString())
            .containerName(unique("checkpoints"))
            .buildAsyncClient();
        container.create().block();
        return new BlobCheckpointStore(container);
    }

    /** Of the provisioning service: its endpoint, id scope, or a connection string. */
    static String provisioning(String name) {
        return CONNECTION.getAsJsonObject("provisioning").get(name).getAsString();
    }

    static String host() {
        return CONNECTION.get("hostName").getAsString();
    }

    static String unique(String prefix) {
        return prefix + "-" + NUMBERS.incrementAndGet() + "-" + UUID.randomUUID().toString().substring(0, 8);
    }

    /** Registers a device with keys that the SDK makes. */
    static Device create() throws Exception {
        return REGISTRY.addDevice(new Device(unique("java")));
    }

    static Module createModule(Device device) throws Exception {
        return REGISTRY.addModule(new Module(device.getDeviceId(), unique("module")));
    }

    /** Makes a consumer group. No SDK can: with Azure it is a management call. */
    static String consumerGroup() throws Exception {
        String name = unique("group");
        Process process = new ProcessBuilder(System.getenv("HOLDFAST_BIN"), "consumer-group", "create", name).inheritIO().start();
        if (process.waitFor() != 0) {
            throw new IllegalStateException("the consumer group cannot be created");
        }
        return name;
    }

    static String connectionString(Device device) {
        return "HostName=" + host() + ";DeviceId=" + device.getDeviceId() + ";SharedAccessKey=" + device.getPrimaryKey();
    }

    static ClientOptions options() {
        return ClientOptions.builder().sslContext(TRUST).build();
    }

    /** A device client, not connected. */
    static DeviceClient client(Device device, IotHubClientProtocol protocol) {
        return new DeviceClient(connectionString(device), protocol, options());
    }

    static ModuleClient client(Module module, IotHubClientProtocol protocol) {
        String text = "HostName=" + host() + ";DeviceId=" + module.getDeviceId() + ";ModuleId=" + module.getId()
            + ";SharedAccessKey=" + module.getPrimaryKey();
        return new ModuleClient(text, protocol, options());
    }

    /** Waits for a condition, and says what it waited for when it never came. */
    static void until(String what, Callable<Boolean> condition) throws Exception {
        long deadline = System.nanoTime() + TIMEOUT_SECONDS * 1_000_000_000L;
        while (!condition.call()) {
            if (System.nanoTime() > deadline) {
                throw new AssertionError("waited " + TIMEOUT_SECONDS + " s for " + what);
            }
            Thread.sleep(20);
        }
    }
}
