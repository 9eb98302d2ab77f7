import static java.nio.charset.StandardCharsets.UTF_8;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertNotNull;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.microsoft.azure.sdk.iot.device.ClientOptions;
import com.microsoft.azure.sdk.iot.device.DeviceClient;
import com.microsoft.azure.sdk.iot.device.IotHubClientProtocol;
import com.microsoft.azure.sdk.iot.device.Message;
import com.microsoft.azure.sdk.iot.provisioning.device.AdditionalData;
import com.microsoft.azure.sdk.iot.provisioning.device.ProvisioningDeviceClient;
import com.microsoft.azure.sdk.iot.provisioning.device.ProvisioningDeviceClientRegistrationResult;
import com.microsoft.azure.sdk.iot.provisioning.device.ProvisioningDeviceClientStatus;
import com.microsoft.azure.sdk.iot.provisioning.device.ProvisioningDeviceClientTransportProtocol;
import com.microsoft.azure.sdk.iot.provisioning.security.SecurityProvider;
import com.microsoft.azure.sdk.iot.provisioning.security.SecurityProviderSymmetricKey;
import com.microsoft.azure.sdk.iot.provisioning.security.SecurityProviderX509;
import com.microsoft.azure.sdk.iot.provisioning.service.ProvisioningServiceClient;
import com.microsoft.azure.sdk.iot.provisioning.service.Query;
import com.microsoft.azure.sdk.iot.provisioning.service.configs.BulkEnrollmentOperationResult;
import com.microsoft.azure.sdk.iot.provisioning.service.configs.BulkOperationMode;
import com.microsoft.azure.sdk.iot.provisioning.service.configs.EnrollmentGroup;
import com.microsoft.azure.sdk.iot.provisioning.service.configs.IndividualEnrollment;
import com.microsoft.azure.sdk.iot.provisioning.service.configs.ProvisioningStatus;
import com.microsoft.azure.sdk.iot.provisioning.service.configs.QuerySpecification;
import com.microsoft.azure.sdk.iot.provisioning.service.configs.QuerySpecificationBuilder;
import com.microsoft.azure.sdk.iot.provisioning.service.configs.SymmetricKeyAttestation;
import com.microsoft.azure.sdk.iot.provisioning.service.configs.X509Attestation;
import com.microsoft.azure.sdk.iot.provisioning.service.exceptions.ProvisioningServiceClientException;
import java.io.ByteArrayInputStream;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.Key;
import java.security.KeyFactory;
import java.security.SecureRandom;
import java.security.cert.CertificateFactory;
import java.security.cert.X509Certificate;
import java.security.spec.PKCS8EncodedKeySpec;
import java.util.Base64;
import java.util.Collection;
import java.util.List;
import java.util.stream.Collectors;
import java.util.stream.Stream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.EnumSource;

/** Devices that register with the provisioning service, and back ends that enroll them. */
class ProvisioningTest {
    private static final ProvisioningServiceClient SERVICE =
        ProvisioningServiceClient.createFromConnectionString(HubUnderTest.provisioning("service"));

    private static String key() {
        byte[] bytes = new byte[64];
        new SecureRandom().nextBytes(bytes);
        return Base64.getEncoder().encodeToString(bytes);
    }

    private static ProvisioningDeviceClientRegistrationResult register(
        SecurityProvider security, ProvisioningDeviceClientTransportProtocol protocol, AdditionalData more) throws Exception {
        ProvisioningDeviceClient client = ProvisioningDeviceClient.create(
            HubUnderTest.provisioning("endpoint"), HubUnderTest.provisioning("idScope"), protocol, security);
        try {
            return client.registerDeviceSync(more, 60_000);
        } finally {
            client.close();
        }
    }

    private static void assertAssigned(ProvisioningDeviceClientRegistrationResult result, String id) {
        assertEquals(ProvisioningDeviceClientStatus.PROVISIONING_DEVICE_STATUS_ASSIGNED, result.getProvisioningDeviceClientStatus());
        assertEquals(HubUnderTest.host(), result.getIothubUri());
        assertEquals(id, result.getDeviceId());
    }

    private static void send(ProvisioningDeviceClientRegistrationResult result, SecurityProvider security, ClientOptions options)
        throws Exception {
        DeviceClient client =
            new DeviceClient(result.getIothubUri(), result.getDeviceId(), security, IotHubClientProtocol.MQTT, options);
        client.open(false);
        client.sendEvent(new Message("provisioned"), 30_000);
        client.close();
    }

    @ParameterizedTest
    @EnumSource(ProvisioningDeviceClientTransportProtocol.class)
    void aDeviceOfAGroupRegistersByItsDerivedKeyAndConnects(ProvisioningDeviceClientTransportProtocol protocol) throws Exception {
        String group = HubUnderTest.unique("group");
        String primary = key();
        SERVICE.createOrUpdateEnrollmentGroup(new EnrollmentGroup(group, new SymmetricKeyAttestation(primary, key())));
        String id = HubUnderTest.unique("sn");
        // Keys go in and come out as the bytes of their base64.
        byte[] derived = SecurityProviderSymmetricKey.ComputeDerivedSymmetricKey(primary.getBytes(UTF_8), id);
        SecurityProvider security = new SecurityProviderSymmetricKey(derived, id);
        AdditionalData more = new AdditionalData();
        more.setProvisioningPayload("{\"line\":7}");
        ProvisioningDeviceClientRegistrationResult result = register(security, protocol, more);
        assertAssigned(result, id);
        send(result, security, HubUnderTest.options());
        assertEquals(id, SERVICE.getDeviceRegistrationState(id).getRegistrationId());
    }

    @ParameterizedTest
    @EnumSource(ProvisioningDeviceClientTransportProtocol.class)
    void aDeviceRegistersByItsCertificateAndConnects(ProvisioningDeviceClientTransportProtocol protocol) throws Exception {
        String id = HubUnderTest.unique("cert");
        Certified security = new Certified(id);
        SERVICE.createOrUpdateIndividualEnrollment(
            new IndividualEnrollment(id, X509Attestation.createFromClientCertificates(security.pem)));
        ProvisioningDeviceClientRegistrationResult result = register(security, protocol, new AdditionalData());
        assertAssigned(result, id);
        send(result, security, ClientOptions.builder().build());
    }

    @ParameterizedTest
    @EnumSource(ProvisioningDeviceClientTransportProtocol.class)
    void aWrongKeyIsRefused(ProvisioningDeviceClientTransportProtocol protocol) {
        SecurityProvider security = new SecurityProviderSymmetricKey(key().getBytes(UTF_8), HubUnderTest.unique("sn"));
        assertThrows(Exception.class, () -> register(security, protocol, new AdditionalData()));
    }

    @Test
    void enrollmentsAreCreatedChangedListedAndDeleted() throws Exception {
        String id = HubUnderTest.unique("reg");
        IndividualEnrollment stored =
            SERVICE.createOrUpdateIndividualEnrollment(new IndividualEnrollment(id, new SymmetricKeyAttestation(key(), key())));
        assertNotNull(stored.getEtag());
        stored.setProvisioningStatus(ProvisioningStatus.DISABLED);
        assertEquals(ProvisioningStatus.DISABLED, SERVICE.createOrUpdateIndividualEnrollment(stored).getProvisioningStatus());
        assertThrows(ProvisioningServiceClientException.class, () -> SERVICE.createOrUpdateIndividualEnrollment(stored));
        assertTrue(SERVICE.getIndividualEnrollmentAttestationMechanism(id).getAttestation() instanceof SymmetricKeyAttestation);
        QuerySpecification all =
            new QuerySpecificationBuilder("*", QuerySpecificationBuilder.FromType.ENROLLMENTS).createSqlQuery();
        Query query = SERVICE.createIndividualEnrollmentQuery(all, 2);
        boolean isListed = false;
        while (query.hasNext()) {
            for (Object item : query.next().getItems()) {
                isListed |= ((IndividualEnrollment) item).getRegistrationId().equals(id);
            }
        }
        assertTrue(isListed);
        SERVICE.deleteIndividualEnrollment(id);
        assertThrows(ProvisioningServiceClientException.class, () -> SERVICE.getIndividualEnrollment(id));
    }

    @Test
    void bulkCallsReportWhatFailed() throws Exception {
        List<IndividualEnrollment> enrollments = Stream.of(1, 2)
            .map(number -> new IndividualEnrollment(HubUnderTest.unique("bulk"), new SymmetricKeyAttestation(key(), key())))
            .collect(Collectors.toList());
        assertTrue(SERVICE.runBulkEnrollmentOperation(BulkOperationMode.CREATE, enrollments).getSuccessful());
        BulkEnrollmentOperationResult again = SERVICE.runBulkEnrollmentOperation(BulkOperationMode.CREATE, enrollments);
        assertFalse(again.getSuccessful());
        assertEquals(2, again.getErrors().size());
        assertTrue(SERVICE.runBulkEnrollmentOperation(BulkOperationMode.DELETE, enrollments).getSuccessful());
    }

    /** A key and a certificate of it for itself. */
    private static final class Certified extends SecurityProviderX509 {
        final String pem;
        private final String name;
        private final X509Certificate certificate;
        private final Key key;

        Certified(String name) throws Exception {
            this.name = name;
            Path folder = Files.createTempDirectory("cert-");
            Path keyFile = folder.resolve("key.pem");
            Path certFile = folder.resolve("cert.pem");
            Process openssl = new ProcessBuilder(
                "openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=" + name,
                "-keyout", keyFile.toString(), "-out", certFile.toString()).redirectErrorStream(true).start();
            openssl.getInputStream().readAllBytes();
            assertEquals(0, openssl.waitFor());
            pem = Files.readString(certFile);
            certificate = (X509Certificate) CertificateFactory.getInstance("X.509")
                .generateCertificate(new ByteArrayInputStream(pem.getBytes()));
            String text = Files.readString(keyFile).replaceAll("-----[A-Z ]+-----", "").replaceAll("\\s", "");
            key = KeyFactory.getInstance("RSA").generatePrivate(new PKCS8EncodedKeySpec(Base64.getDecoder().decode(text)));
            for (Path file : List.of(keyFile, certFile, folder)) {
                Files.delete(file);
            }
        }

        @Override
        public String getClientCertificateCommonName() {
            return name;
        }

        @Override
        public X509Certificate getClientCertificate() {
            return certificate;
        }

        @Override
        public Key getClientPrivateKey() {
            return key;
        }

        @Override
        public Collection<X509Certificate> getIntermediateCertificatesChain() {
            return List.of();
        }
    }
}
