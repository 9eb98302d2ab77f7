//! The result of a run.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Serialize, Serializer};

use super::{BroadcastReport, Shape};
use crate::report::{LatencyReport, ProcessReport, process_line};

/// One run of load on the way down.
#[derive(Debug, Clone, Serialize)]
pub struct DownReport {
    /// The generator's version.
    pub version: &'static str,
    /// The hub.
    pub target: String,
    /// The load.
    #[serde(serialize_with = "shape_name")]
    pub shape: Shape,
    /// Devices.
    pub devices: u32,
    /// Requests in flight at most.
    pub callers: u32,
    /// The measured time.
    pub seconds: f64,
    /// Requests with success in it.
    pub done: u64,
    /// Requests a second.
    pub rate: f64,
    /// Times from request to answer.
    pub latency_us: LatencyReport,
    /// Times from the request to the device's notification.
    pub notified_from_request_us: Option<LatencyReport>,
    /// Times from the answer to the device's notification; 0 for a device that was first.
    pub notified_from_answer_us: Option<LatencyReport>,
    /// Of a broadcast.
    pub broadcast: Option<BroadcastReport>,
    /// Requests without success in the whole run, by reason.
    pub refused: BTreeMap<String, u64>,
    /// Devices that lost their connection, by reason.
    pub failures: BTreeMap<String, u64>,
    /// This process.
    pub generator: ProcessReport,
    /// The server, when its processes were given.
    pub server: Option<ProcessReport>,
}

fn name(shape: Shape) -> &'static str {
    match shape {
        Shape::TwinLatency => "twin-latency",
        Shape::TwinWrites => "twin-writes",
        Shape::TwinReports => "twin-reports",
        Shape::Methods => "methods",
        Shape::TwinBroadcast => "twin-broadcast",
    }
}

fn shape_name<S: Serializer>(shape: &Shape, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(name(*shape))
}

impl fmt::Display for DownReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            target,
            devices,
            callers,
            ..
        } = self;
        writeln!(
            f,
            "target          {target}, {}, {devices} devices, {callers} requests at once",
            name(self.shape)
        )?;
        let Self {
            done, seconds, rate, ..
        } = self;
        writeln!(f, "done            {done} in {seconds:.2} s: {rate:.0} a second")?;
        writeln!(f, "answered by     {}", self.latency_us)?;
        if let Some(times) = &self.notified_from_request_us {
            writeln!(f, "at the device   {times}, from the request")?;
        }
        if let Some(times) = &self.notified_from_answer_us {
            writeln!(f, "at the device   {times}, from the answer")?;
        }
        if let Some(broadcast) = &self.broadcast {
            writeln!(
                f,
                "broadcast       {} rounds, {} patches at their devices, {} missing, {} devices that do not read",
                broadcast.rounds, broadcast.notified, broadcast.missing, broadcast.deaf
            )?;
            let memory = broadcast
                .connected_bytes_per_device
                .zip(broadcast.broadcast_bytes_per_device);
            if let Some((connected, patched)) = memory {
                writeln!(
                    f,
                    "server memory   {connected:.0} B a device to connect, {patched:.0} B more with its patches"
                )?;
            }
        }
        process_line(f, "generator", &self.generator)?;
        if let Some(server) = &self.server {
            process_line(f, "server", server)?;
        }
        for (reason, count) in &self.refused {
            writeln!(f, "refused         {count} × {reason}")?;
        }
        for (reason, count) in &self.failures {
            writeln!(f, "lost            {count} × {reason}")?;
        }
        Ok(())
    }
}
