//! The rows of the error catalogue, in the order of their numbers (Spec auth-and-limits §8.2).
//!
//! A row reads `number Name: Kind, "meaning", device "…", operator "…";`. A row without the last two is a number that
//! this version of the hub never answers with: give it both when it starts to. `docs/errors.md` is generated from here.

use super::{ErrorKind, Row};

macro_rules! catalogue {
    (@help) => { None };
    (@help $device:literal $operator:literal) => { Some(($device, $operator)) };
    ($($number:literal $name:ident: $kind:ident, $meaning:literal $(, device $device:literal, operator $operator:literal)?;)*) => {
        /// A number of the error catalogue. Start at [`ErrorCode::number`], [`ErrorCode::kind`].
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u32)]
        pub enum ErrorCode {
            $(#[doc = $meaning] $name = $number,)*
        }

        impl ErrorCode {
            /// All codes, numbers ascending.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            pub(super) fn row(self) -> &'static Row {
                match self {
                    $(Self::$name => &Row {
                        name: stringify!($name),
                        kind: ErrorKind::$kind,
                        meaning: $meaning,
                        help: catalogue!(@help $($device $operator)?),
                    },)*
                }
            }
        }
    };
}

catalogue! {
    400000 GenericBadRequest: Argument, "the request cannot be understood and no closer number fits",
        device "compare the request with the documentation of the call", operator "look up the request id in the log for the exact cause";
    400001 InvalidProtocolVersion: Version, "the api-version or protocol version is missing, malformed or older than 2016-02-03",
        device "use an api-version named in the answer, or MQTT 3.1.1", operator "nothing: the hub accepts every version that a released client sends";
    400002 DeviceInvalidResultCount: Range, "a device's answer names an impossible result count";
    400003 InvalidOperation: Operation, "the operation makes no sense for its target",
        device "correct the target or the operation; the text says which part is wrong", operator "nothing, unless many clients do it: then tell their owners";
    400004 ArgumentInvalid: Argument, "a value in the request breaks a rule of the data model",
        device "correct the value that the text names", operator "nothing: the caller must change the request";
    400005 ArgumentNull: Argument, "a required value is missing or null",
        device "send the value that the text names", operator "nothing: the caller must change the request";
    400006 IotHubFormatError: Argument, "the body is no valid JSON, has duplicate keys, nests too deep or has the wrong type",
        device "send JSON of the documented shape in UTF-8", operator "nothing: the caller must change the request";
    400007 DeviceStorageEntitySerializationError: Argument, "a stored entity cannot be written";
    400008 BlobContainerValidationError: Argument, "the blob container of an import or export job cannot be used";
    400009 ImportWarningExistsError: Argument, "an import job ended with warnings";
    400010 InvalidSchemaVersion: Argument, "the schema version of a document is unknown";
    400011 DeviceDefinedMultipleTimes: Argument, "one bulk request names the same device or module twice",
        device "name each identity once per request", operator "nothing: the caller must change the request";
    400012 DeserializationError: Argument, "a document cannot be read";
    400013 BulkRegistryOperationFailure: Argument, "at least one entry of a bulk request failed; the others were done",
        device "read the list of errors in the answer and repeat only those entries", operator "nothing: the caller must change the request";
    400014 DefaultStorageEndpointNotConfigured: Operation, "the hub has no storage for file uploads";
    400015 InvalidFileUploadCorrelationId: Argument, "the correlation id of a file upload is unknown",
        device "begin the upload again, and report it with the correlationId of that answer", operator "the log has a line with the correlation id of every upload that was begun";
    400016 ExpiredFileUploadCorrelationId: Argument, "the correlation id of a file upload has expired",
        device "begin the upload again; report sooner", operator "upload.sas_ttl is how long an upload may take";
    400017 InvalidStorageEndpoint: Argument, "a storage endpoint cannot be used";
    400018 InvalidMessagingEndpoint: Argument, "a messaging endpoint cannot be used";
    400019 InvalidFileUploadCompletionStatus: Argument, "the completion report of a file upload is malformed",
        device "send isSuccess as true or false", operator "the device's program sends a malformed report";
    400020 InvalidStorageEndpointOrBlob: Argument, "a storage endpoint or blob cannot be used",
        device "upload the blob before reporting success, or report isSuccess false", operator "the device reports success and the storage has no such blob: compare the storage's log by the blob's name";
    400021 RequestCanceled: Operation, "the request was cancelled";
    400022 InvalidStorageEndpointProperty: Argument, "a property of a storage endpoint is wrong",
        device "do without file upload, or ask the operator for a storage", operator "set upload.storage, see 'File upload' in docs/runbook.md";
    400023 EtagDoesNotMatch: Precondition, "an entry's ETag differs from the stored one";
    400024 RequestTimedOut: Timeout, "the request took too long";
    400025 UnsupportedOperationOnReplica: Operation, "a replica cannot do this operation";
    400026 NullMessage: Argument, "a message is missing";
    400027 ConnectionForcefullyClosedOnNewConnection: Taken, "the same device or module connected again and the older connection was closed",
        device "make sure that only one process uses the identity; after a network change this is normal", operator "if it repeats, two devices share one identity: give each its own";
    400028 InvalidDeviceScope: Argument, "a device scope or parent scope does not exist, forms a cycle or is too deep",
        device "use the scope of an existing edge device", operator "check the parent's deviceScope and generation";
    400029 ConnectionForcefullyClosedOnFaultInjection: ConnectionLost, "the connection was closed to test the client";
    400030 ConnectionRejectedOnFaultInjection: ConnectionLost, "the connection was refused to test the client";
    400031 InvalidEndpointAuthenticationType: Argument, "the authentication type of an endpoint is unknown";
    400032 ManagedIdentityNotEnabled: Operation, "an endpoint asks for a managed identity that is not enabled";
    400035 InvalidPolicyKey: Argument, "the key of a shared access policy is no valid key";
    400036 BulkRegenerateDeviceKeyOperationFailure: Argument, "at least one key could not be regenerated";
    400040 CertificateRequestFailed: Argument, "a certificate cannot be issued for the request of a connected device",
        device "correct the request, whose fault the message names; without an enrollment that issues certificates, register again",
        operator "give the device's enrollment a certificate policy, or correct the policy: the message names what it does not allow";
    400100 InvalidRouteTestInput: Argument, "the message of a route test is malformed";
    400101 InvalidSourceOnRoute: Argument, "a route names an unknown source";
    400102 RoutingNotEnabled: Operation, "routing is not enabled";
    400103 InvalidContentEncodingOrType: Argument, "content type or encoding does not allow a query of the body";
    400207 CustomAllocationFailed: Operation, "the webhook of the enrollment has chosen no hub; seen in the registration's errorCode",
        device "register again later", operator "check the webhook: its status and the beginning of its answer are in the registration (holdfast diagnose registration)";
    400208 NoHubToAssign: Operation, "no hub can be assigned to the device; seen in the registration's errorCode",
        device "register again later", operator "check iotHubs and allocationPolicy of the enrollment: they must name a linked hub";
    400209 LinkedHubRefusedCredentials: Operation, "the linked hub refuses the credentials of its link; seen in the registration's errorCode",
        device "register again later", operator "give the link a policy of that hub with RegistryRead and RegistryWrite: holdfast provisioning hub update";
    400301 CannotRegisterModuleToModule: Argument, "a module id contains a slash: modules have no modules",
        device "create the module under its device", operator "nothing: the caller must change the request";
    400302 TenantHubRoutingNotEnabled: Operation, "routing of tenant hubs is not enabled";
    400401 InvalidConfigurationTargetCondition: Argument, "the target condition of a configuration is malformed";
    400402 InvalidConfigurationContent: Argument, "the content of a configuration is malformed";
    400403 CannotModifyImmutableConfigurationContent: Operation, "the content of a configuration cannot be changed";
    400404 InvalidConfigurationCustomMetricsQuery: Argument, "a metric query of a configuration is malformed";
    400501 InvalidPnPInterfaceDefinition: Argument, "an interface definition is malformed";
    400502 InvalidPnPDesiredProperties: Argument, "desired properties do not fit the model";
    400503 InvalidPnPReportedProperties: Argument, "reported properties do not fit the model";
    400504 InvalidPnPWritableReportedProperties: Argument, "reported properties of a writable property do not fit the model";
    400505 InvalidDigitalTwinJsonPatch: Argument, "a digital twin patch is no JSON patch";
    400506 InvalidDigitalTwinPayload: Argument, "the payload of a digital twin command is malformed";
    400507 InvalidDigitalTwinPatch: Argument, "a digital twin patch does not fit the model";
    400508 InvalidDigitalTwinPatchPath: Argument, "a path of a digital twin patch is malformed";

    401000 GenericUnauthorized: Credentials, "not allowed, and no closer number fits; every refused credential at the provisioning service",
        device "check which credential the client sends", operator "look up the reason in the audit log; of a device that registers, `holdfast device diagnose ID` shows it too";
    401001 IotHubNotFound: HubUnknown, "the host name is none of this hub's names",
        device "use the HostName of the connection string as it was handed out", operator "add the name to the hub's host names if it is right";
    401002 IotHubUnauthorizedAccess: Credentials, "the credential is missing or wrong, or lacks the right that the call needs",
        device "check key, policy, scope and host name of the token; make a new one", operator "run `holdfast device diagnose ID`, or look up the reason in the audit log";
    401003 IotHubUnauthorized: Credentials, "the token or certificate has expired, or a live connection lost its right to stay",
        device "set the device's clock and make a new token", operator "compare the expiry with the hub's clock: `holdfast device diagnose ID`";
    401004 ElasticPoolNotFound: Credentials, "the elastic pool does not exist";
    401100 SystemModuleModifyUnauthorizedAccess: Credentials, "modules whose id starts with $ belong to the edge runtime",
        device "choose another module id", operator "delete the edge device instead, or turn its edge capability off";

    403000 GenericForbidden: Operation, "forbidden, and no closer number fits",
        device "check the text of the answer", operator "look up the request id in the log for the exact cause";
    403001 IotHubSuspended: Suspended, "the hub is suspended";
    403002 IotHubQuotaExceeded: Quota, "the hub's quota of messages or devices is used up",
        device "wait for the next day (UTC), or send less", operator "raise the quota in the configuration";
    403003 JobQuotaExceeded: ServiceQuota, "another job of this kind is running";
    403004 DeviceMaximumQueueDepthExceeded: Quota, "the device's queue holds as many messages as it may",
        device "connect and receive; a message that is not acknowledged stays in the queue", operator "look at the queue with `holdfast c2d list`; find out why the device does not receive, or purge the queue";
    403005 IotHubMaxCbsTokenExceeded: Quota, "one connection has put as many tokens as it may",
        device "spread the devices over more connections", operator "find the client that opens too many identities on one connection";
    403006 DeviceMaximumActiveFileUploadLimitExceeded: Quota, "the device has as many open file uploads as it may",
        device "report the uploads that have ended; the others expire", operator "upload.sas_ttl is how long an upload stays open; holdfast_uploads_expired_total counts devices that do not report";
    403007 DeviceMaximumQueueSizeExceeded: Quota, "the device's queue holds as many bytes as it may";
    403008 RoutingEndpointResponseForbidden: Operation, "a routing endpoint refused the hub";
    403009 InvalidMessageExpiryTime: Range, "the expiry time of a message is out of range",
        device "send the message with an expiry in the future, and check the clock of the sender", operator "nothing: the caller must change the request";
    403010 OperationNotAvailableInCurrentTier: Operation, "the hub's profile does not include this operation";
    403011 KeyEncryptionKeyRevoked: Operation, "the key that protects stored secrets was revoked";
    403012 DeviceDisabled: Operation, "the device is disabled",
        device "send to a device that is enabled", operator "enable the device, if it was not disabled on purpose: the audit log says who did it";
    403100 DeviceModelMaxPropertiesExceeded: Quota, "a device model has too many properties";
    403101 DeviceModelMaxIndexablePropertiesExceeded: Quota, "a device model has too many indexed properties";
    403800 DeviceMaximumInflightMethodExceeded: Quota, "the device has as many method calls in flight as it may",
        device "answer each method, also with an error", operator "call the device again when earlier calls have ended; find out why it does not answer";

    404000 GenericNotFound: NotFound, "no such resource",
        device "check path and method of the call", operator "nothing, unless a client of this hub's version sends it: report it";
    404001 DeviceNotFound: NotFound, "no device with this id is registered",
        device "check the id (it is case-sensitive) and the hub", operator "register the device, or find out who deleted it in the audit log";
    404002 JobNotFound: NotFound, "no such job";
    404004 QuotaMetricNotFound: NotFound, "no such quota metric";
    404005 SystemPropertyNotFound: NotFound, "no such system property";
    404006 AmqpAddressNotFound: NotFound, "the link address names no endpoint, consumer group or event hub of this hub",
        device "check EntityPath and consumer group of the connection string", operator "create the consumer group if it should exist";
    404007 RoutingEndpointResponseNotFound: NotFound, "a routing endpoint answered that its target does not exist";
    404008 CertificateNotFound: NotFound, "the hub has no CA with this name",
        device "nothing: only calls about CAs get it", operator "see `holdfast ca list`";
    404009 ElasticPoolTenantHubNotFound: NotFound, "no such tenant hub";
    404010 ModuleNotFound: NotFound, "no module with this id is registered on the device",
        device "check device and module id (both are case-sensitive)", operator "register the module, or find out who deleted it in the audit log";
    404011 AzureTableStoreNotFound: NotFound, "no such table store";
    404012 IotHubFailingOver: Busy, "the hub is failing over";
    404013 FeatureNotSupported: Unsupported, "this version of the hub does not have the feature",
        device "do without the feature, or ask the operator for an upgrade", operator "see the release notes for what each version supports";
    404014 DigitalTwinInterfaceNotFound: NotFound, "no such interface of the digital twin";
    404101 QueryStoreClusterNotFound: NotFound, "the query store does not exist";
    404103 DeviceNotOnline: Offline, "the device is not connected or does not listen for methods",
        device "connect, and subscribe to methods", operator "the text says which of the two: `holdfast device diagnose ID` shows the connection; a connect time-out waits for the device";
    404104 DeviceConnectionClosedRemotely: ConnectionLost, "the connection ended without a goodbye: keep-alive ran out or the network broke",
        device "check the network and the keep-alive interval; reconnect", operator "check whether many devices of one network lose their connection at once";
    404201 EnrollmentNotFound: NotFound, "no individual enrollment or registration with this id",
        device "check the registration id; a device that has never registered has no registration", operator "see `holdfast provisioning enrollment list`";
    404202 EnrollmentGroupNotFound: NotFound, "no enrollment group with this id",
        device "nothing: only calls about enrollment groups get it", operator "see `holdfast provisioning group list`";
    404203 RegistrationOperationNotFound: NotFound, "the operation is not the device's last registration",
        device "register again", operator "nothing: a later registration has taken its place";
    404204 IdScopeNotFound: NotFound, "the id scope is not that of this provisioning service",
        device "use the id scope of the service: it begins with 0ne", operator "give the device the idScope of `holdfast provisioning show`";
    404301 ConfigurationNotFound: NotFound, "no such configuration";
    404302 GroupNotFound: NotFound, "no such group";
    404401 DigitalTwinModelNotFound: NotFound, "no such digital twin model";
    404402 InterfaceNameModelNotFound: NotFound, "no such interface name model";

    405000 GenericMethodNotAllowed: Operation, "the resource does not know this HTTP method",
        device "use a method that the Allow header names", operator "nothing: the caller must change the request";
    405102 OperationNotAllowedInCurrentState: Operation, "the state of the resource does not allow the operation";
    405103 ImportDevicesNotSupported: Operation, "devices cannot be imported here";
    405104 BulkAddDevicesNotSupported: Operation, "devices cannot be added in bulk here";

    409000 GenericConflict: Exists, "the request conflicts with what exists",
        device "read the resource and repeat the request against what is there", operator "nothing: the caller must change the request";
    409001 DeviceAlreadyExists: Exists, "a device with this id exists",
        device "send If-Match to update it, or choose another id", operator "nothing: the caller must change the request";
    409002 LinkCreationConflict: Taken, "a second link or connection for the same identity took the place of the first",
        device "make sure that only one process uses the identity", operator "if it repeats, two devices share one identity: give each its own";
    409003 CallbackSubscriptionConflict: Taken, "a second callback for the same subscription";
    409005 CertificateRequestActive: Exists, "a certificate is being issued to the device for another request",
        device "wait for its reply, or send replace with the id of that request or *",
        operator "nothing: the device has sent two requests at once";
    409101 ModelAlreadyExists: Exists, "the model exists";
    409102 DeviceLocked: Exists, "the device is locked by another operation";
    409103 DeviceJobAlreadyExists: Exists, "the device has a job";
    409104 JobAlreadyExists: Exists, "a job with this id exists";
    409201 EnrollmentAlreadyExists: Exists, "an individual enrollment with this registration id exists",
        device "nothing: only calls about enrollments get it", operator "send If-Match to replace it";
    409202 EnrollmentGroupAlreadyExists: Exists, "an enrollment group with this id exists",
        device "nothing: only calls about enrollment groups get it", operator "send If-Match to replace it";
    409203 RegistrationConflict: Exists, "the registration or its enrollment has been changed by another request meanwhile",
        device "register again after a few seconds", operator "if it repeats, two devices use one registration id: give each its own";
    409301 ModuleAlreadyExistsOnDevice: Exists, "the device has a module with this id",
        device "send If-Match to update it, or choose another id", operator "nothing: the caller must change the request";
    409401 ConfigurationAlreadyExists: Exists, "a configuration with this id exists";
    409402 ApplyConfigurationAlreadyInProgressOnDevice: Exists, "a configuration is being applied to the device";
    409501 DigitalTwinModelAlreadyExists: Exists, "the digital twin model exists";
    409502 DigitalTwinModelExistsWithOtherModelType: Exists, "the digital twin model exists with another type";
    409503 InterfaceNameModelAlreadyExists: Exists, "the interface name model exists";

    412000 GenericPreconditionFailed: Precondition, "a condition of the request does not hold";
    412001 PreconditionFailed: Precondition, "the ETag in If-Match is not that of the stored resource",
        device "read the resource again, merge, and send the new ETag", operator "nothing: two writers met, and the later one must read again";
    412002 DeviceMessageLockLost: LockLost, "the lock on a message has run out";
    412003 JobRunPreconditionFailed: Precondition, "the job is not in a state to run";
    412004 InflightMessagesInLink: Precondition, "the link has messages in flight";
    413000 GenericRequestEntityTooLarge: TooLarge, "the request is too large";
    413001 MessageTooLarge: TooLarge, "the message or request body is larger than allowed",
        device "send at most 256 KiB per message, 1 MiB per request", operator "nothing: the limits are part of the protocol";
    413002 TooManyDevices: TooMany, "the hub or the request names more devices than allowed",
        device "split the request (at most 100 identities)", operator "raise the limit if the hub is full: holdfast settings update --max-identities";
    413003 TooManyModulesOnDevice: TooMany, "the device has as many modules as it may (50)",
        device "delete modules that are no longer used", operator "nothing: the limit is part of the protocol";
    413101 ConfigurationCountLimitExceeded: TooMany, "the hub has as many configurations as it may";
    413201 DigitalTwinModelCountLimitExceeded: TooMany, "the hub has as many digital twin models as it may";
    413202 InterfaceNameCompressionModelCountLimitExceeded: TooMany, "the hub has as many interface name models as it may";
    415000 GenericUnsupportedMediaType: Unsupported, "the content type of the request is not understood",
        device "send application/json", operator "nothing: the caller must change the request";
    415101 IncompatibleDataType: Unsupported, "a value has a type that does not fit";
    429000 GenericTooManyRequests: Throttled, "too many requests";
    429001 ThrottlingException: Throttled, "more requests of one kind than the hub's rate allows",
        device "repeat after the time in Retry-After, with growing delays", operator "check the throttle metrics; raise the rate if the machine can carry it";
    429002 ThrottleBacklogLimitExceeded: Throttled, "the waiting queue of throttled requests is full",
        device "repeat after the time in Retry-After, with growing delays", operator "check the throttle metrics; raise the rate if the machine can carry it";
    429003 ThrottlingBacklogTimeout: Throttled, "a throttled request waited too long",
        device "repeat after the time in Retry-After, with growing delays", operator "check the throttle metrics; raise the rate if the machine can carry it";
    429004 ThrottlingMaxActiveJobCountExceeded: Throttled, "as many jobs run as may";
    429005 DeviceThrottlingLimitExceeded: Throttled, "one device sends more than its rate allows",
        device "send less often; requests that are answered with 429 may be repeated later", operator "find out why the device sends so much, or raise the throttles.device_ keys";
    499000 ClientClosedRequest: Timeout, "the client went away before the answer";

    500000 GenericServerError: Internal, "the hub failed";
    500001 ServerError: Internal, "the hub failed in a way that it did not expect",
        device "repeat with growing delays; report the tracking id", operator "look up the tracking id in the log and report it as a bug";
    500002 JobCancelled: Internal, "the job was cancelled";
    500008 GenericTimeout: Timeout, "no answer in time; whether the request was done is unknown",
        device "read the resource, then repeat if needed", operator "check disk latency and the health of the cluster";
    500009 InvalidThrottleParameter: Internal, "a throttle is set to an impossible value";
    500301 ModelRepoEndpointError: Internal, "the model repository failed";
    500302 ResolutionError: Internal, "a model could not be resolved";
    500401 UnableToFetchCredentials: Internal, "credentials could not be fetched";
    500402 UnableToFetchTenantInfo: Internal, "tenant information could not be fetched";
    500403 UnableToShareIdentity: Internal, "an identity could not be shared";
    500501 UnableToExpandDiscoveryInfo: Internal, "discovery information could not be expanded";
    500502 UnableToExpandComponentInfo: Internal, "component information could not be expanded";
    500503 UnableToCompressComponentInfo: Internal, "component information could not be compressed";
    500504 UnableToCompressDiscoveryInfo: Internal, "discovery information could not be compressed";
    500505 OrphanDiscoveryDocument: Internal, "a discovery document has no owner";
    502000 GenericBadGateway: Internal, "another system gave the hub a bad answer",
        device "answer methods with JSON, or with nothing", operator "the text says what is wrong with the device's answer";
    503000 GenericServiceUnavailable: Busy, "the hub cannot serve the request now";
    503001 ServiceUnavailable: Busy, "the hub cannot serve the request now: it starts, stops, or its leader is being elected",
        device "repeat with growing delays", operator "if it lasts, check /readyz and the health of the cluster";
    503003 PartitionNotFound: Busy, "the owner of the device's partition is not known at the moment",
        device "repeat with growing delays", operator "if it lasts, check partition leaders in the metrics";
    503004 IotHubActivationFailed: Busy, "the hub could not be activated";
    503005 ServerBusy: Busy, "the hub is overloaded or its disk is nearly full: it takes no more writes for now",
        device "repeat with growing delays; messages without acknowledgement were not stored", operator "check free disk space, queue metrics and CPU";
    503006 IotHubRestoring: Busy, "the hub is being restored";
    503008 ReceiveLinkOpensThrottled: Busy, "too many receivers are being opened",
        device "open receivers with growing delays", operator "look for a back end that opens receivers in a loop";
    503101 ConnectionUnavailable: Busy, "no connection to the device can be had";
    503102 DeviceUnavailable: Busy, "the device cannot be reached";
    503201 ConfigurationNotAvailable: Busy, "the configuration cannot be read now";
    503202 GroupNotAvailable: Busy, "the group cannot be read now";
    503301 HostingServiceNotAvailable: Busy, "the hosting service cannot be reached";
    504000 GenericGatewayTimeout: Timeout, "no answer in time";
    504101 GatewayTimeout: Timeout, "the device did not answer a method call in time",
        device "answer within the response time-out", operator "raise the response time-out of the call, or find out why the device is slow";
}
