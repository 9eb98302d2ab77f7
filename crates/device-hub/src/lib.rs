//! The device-session API and the owner's services.
