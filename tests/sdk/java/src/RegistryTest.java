import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertNotEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.microsoft.azure.sdk.iot.service.auth.AuthenticationType;
import com.microsoft.azure.sdk.iot.service.exceptions.IotHubConflictException;
import com.microsoft.azure.sdk.iot.service.exceptions.IotHubNotFoundException;
import com.microsoft.azure.sdk.iot.service.registry.Device;
import com.microsoft.azure.sdk.iot.service.registry.DeviceStatus;
import com.microsoft.azure.sdk.iot.service.registry.Module;
import com.microsoft.azure.sdk.iot.service.twin.DeviceCapabilities;
import java.util.List;
import org.junit.jupiter.api.Test;

/** Identities through the service SDK. */
class RegistryTest {
    @Test
    void aDeviceIsCreatedReadChangedAndDeleted() throws Exception {
        Device created = HubUnderTest.create();
        Device read = HubUnderTest.REGISTRY.getDevice(created.getDeviceId());
        assertEquals(created.getPrimaryKey(), read.getPrimaryKey());
        assertEquals(DeviceStatus.Enabled, read.getStatus());
        assertEquals(created.getETag(), read.getETag());
        assertEquals(created.getGenerationId(), read.getGenerationId());

        read.setStatus(DeviceStatus.Disabled);
        Device changed = HubUnderTest.REGISTRY.updateDevice(read);
        assertEquals(DeviceStatus.Disabled, changed.getStatus());
        assertNotEquals(created.getETag(), changed.getETag());

        HubUnderTest.REGISTRY.removeDevice(created.getDeviceId());
        assertThrows(IotHubNotFoundException.class, () -> HubUnderTest.REGISTRY.getDevice(created.getDeviceId()));
    }

    @Test
    void aSecondDeviceOfOneIdIsRefused() throws Exception {
        Device device = HubUnderTest.create();
        IotHubConflictException refused =
            assertThrows(IotHubConflictException.class, () -> HubUnderTest.REGISTRY.addDevice(new Device(device.getDeviceId())));
        assertTrue(refused.getMessage().contains(device.getDeviceId()), refused.getMessage());
    }

    @Test
    void everyKindOfCredentialIsKept() throws Exception {
        Device thumbprints = new Device(HubUnderTest.unique("java"), AuthenticationType.SELF_SIGNED);
        String first = "A".repeat(40);
        String second = "B".repeat(64);
        thumbprints.setThumbprint(first, second);
        HubUnderTest.REGISTRY.addDevice(thumbprints);
        Device read = HubUnderTest.REGISTRY.getDevice(thumbprints.getDeviceId());
        assertEquals(first, read.getPrimaryThumbprint());
        assertEquals(second, read.getSecondaryThumbprint());

        Device authority = new Device(HubUnderTest.unique("java"), AuthenticationType.CERTIFICATE_AUTHORITY);
        HubUnderTest.REGISTRY.addDevice(authority);
        assertEquals(
            AuthenticationType.CERTIFICATE_AUTHORITY,
            HubUnderTest.REGISTRY.getDevice(authority.getDeviceId()).getAuthenticationType());
    }

    @Test
    void anEdgeDeviceIsTheParentOfAnother() throws Exception {
        Device parent = new Device(HubUnderTest.unique("java"));
        parent.setCapabilities(new DeviceCapabilities());
        parent.getCapabilities().setIotEdge(true);
        parent = HubUnderTest.REGISTRY.addDevice(parent);
        assertTrue(parent.getCapabilities().isIotEdge());
        assertTrue(parent.getParentScopes() == null || parent.getParentScopes().isEmpty());

        Device child = new Device(HubUnderTest.unique("java"));
        child.setScope(parent.getScope());
        child = HubUnderTest.REGISTRY.addDevice(child);
        assertEquals(parent.getScope(), child.getScope());
    }

    @Test
    void modulesOfADeviceAreListed() throws Exception {
        Device device = HubUnderTest.create();
        Module first = HubUnderTest.createModule(device);
        Module second = HubUnderTest.createModule(device);
        List<Module> modules = HubUnderTest.REGISTRY.getModulesOnDevice(device.getDeviceId());
        assertEquals(2, modules.size());
        assertEquals(first.getPrimaryKey(), HubUnderTest.REGISTRY.getModule(device.getDeviceId(), first.getId()).getPrimaryKey());

        HubUnderTest.REGISTRY.removeModule(device.getDeviceId(), second.getId());
        assertEquals(1, HubUnderTest.REGISTRY.getModulesOnDevice(device.getDeviceId()).size());
    }

    @Test
    void theStatisticsCountDevices() throws Exception {
        HubUnderTest.create();
        assertTrue(HubUnderTest.REGISTRY.getStatistics().getTotalDeviceCount() >= 1);
    }
}
